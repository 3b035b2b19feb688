"""Sessions under a name: a number stands for one call, and one that comes again with something else is told."""

import asyncio
from typing import Any

import pytest

from pyraft.node import Machine, Refused, command, query
from pyraft.node.replica import NO_SESSION, SESSIONS, Replica
from pyraft.node.sessions import mark
from pyraft.node.testing import Cluster, simulate
from pyraft.node.testing.compare import state


class Shop(Machine):
    """A stock."""

    def __init__(self) -> None:
        self.stock: dict[str, int] = {}

    @command
    def put(self, item: str, n: int = 1) -> int:
        """Add."""
        self.stock[item] = self.stock.get(item, 0) + n
        return self.stock[item]

    @put.version(2)
    def put(self, item: str, n: int = 1, *, note: str = "") -> int:
        """Add, with a note."""
        self.stock[item] = self.stock.get(item, 0) + n
        return self.stock[item]

    @command
    def take(self, item: str, n: int = 1) -> int:
        """Take."""
        if self.stock.get(item, 0) < n:
            raise LookupError(item)
        self.stock[item] -= n
        return self.stock[item]

    @query
    def left(self, item: str) -> int:
        """Look."""
        return self.stock.get(item, 0)


class Member:
    """A replica on which a session is open."""

    def __init__(self, id: bytes = b"=orders") -> None:
        self.replica = Replica({"": Shop()})
        self.id = id
        self.do(0, "open", id, "orders", session=NO_SESSION, machine=SESSIONS)

    @property
    def marks(self) -> dict[int, bytes]:
        """The marks of the session's calls, kept beside their outcomes."""
        return dict(self.replica.sessions.sessions[self.id].__dict__.get("marks", {}))

    def do(self, number: int, name: str, *args: Any, **more: Any) -> Any:
        """Execute a call, and return its result."""
        session, machine = more.get("session", self.id), more.get("machine", "")
        arguments = self.replica.codec.pack([list(args), {}])
        call = [session, number, more.get("acknowledged", 0), machine, name, more.get("version", 1), arguments]
        (outcome,) = self.replica.do_apply(self.replica.entry(1, [call]))[1]
        return self.replica.result(machine, outcome)

    def state(self) -> Any:
        """Return the state of the machine and of its sessions."""
        return state(self.replica)

    def snapshot(self) -> bytes:
        """Return a snapshot."""
        _, head = self.replica.do_snapshot()
        _, pieces = self.replica.do_snapshot_async(head)
        data = b"".join(pieces)
        self.replica.do_snapshot_finalize(pieces)
        return data


def check_told(member: Member) -> None:
    """Call 1 of the member was put("apple", 3); all that comes under that number from now on changes nothing."""
    before = member.state()
    assert member.do(1, "put", "apple", 3) == 3
    assert member.do(1, "put", "apple", 3, version=2) == 3  # by a program that was upgraded
    for args in (("apple", 4), ("pear", 3), ("apple",), ("apple", 3.0)):
        with pytest.raises(
            Refused, match=r"call 1 of session 'orders' was made before with other arguments, and put\(\)"
        ):
            member.do(1, "put", *args)
    with pytest.raises(Refused, match=r"with another command, and take\(\) was not executed now"):
        member.do(1, "take", "apple", 3)
    assert member.state() == before


def test_a_number_that_comes_again_with_something_else_is_refused() -> None:
    """It got the outcome of the first call, as if it had been made."""
    member = Member()
    assert member.do(1, "put", "apple", 3) == 3
    check_told(member)


def test_failures_have_their_numbers_too() -> None:
    """A command that raised was made: the same one raises again, another one is refused."""
    member = Member()
    for _ in range(2):
        with pytest.raises(LookupError):
            member.do(1, "take", "apple")
    with pytest.raises(Refused):
        member.do(1, "take", "pear")


def test_a_member_with_the_snapshot_of_another_one_tells_as_well() -> None:
    """Marks are in snapshots, and as they were when it began."""
    member, other = Member(), Member()
    member.do(1, "put", "apple", 3)
    _, head = member.replica.do_snapshot()
    member.do(2, "put", "pear")
    assert sorted(member.marks) == [1, 2]
    _, pieces = member.replica.do_snapshot_async(head)
    data = b"".join(pieces)
    member.replica.do_snapshot_finalize(pieces)
    assert other.replica.do_restore(data) == 0
    assert sorted(other.marks) == [1]
    check_told(other)
    assert other.do(2, "put", "pear") == 1
    assert other.state() == member.state()


def test_marks_go_with_their_outcomes() -> None:
    """Those of acknowledged calls are forgotten, one by one and many at a time, and when a snapshot is being taken."""
    member = Member()
    for number in range(1, 11):
        member.do(number, "put", "apple")
    member.do(11, "put", "apple", acknowledged=1)
    assert sorted(member.marks) == list(range(2, 12))
    member.do(12, "put", "apple", acknowledged=9)
    assert sorted(member.marks) == [10, 11, 12]
    _, head = member.replica.do_snapshot()
    member.do(13, "put", "apple", acknowledged=12)
    assert sorted(member.marks) == [13]
    _, pieces = member.replica.do_snapshot_async(head)
    other = Member()
    assert other.replica.do_restore(b"".join(pieces)) == 0
    assert sorted(other.marks) == [10, 11, 12]


def test_sessions_whose_numbers_nobody_chooses_have_no_marks() -> None:
    """They would be of no use there, and each call would cost their memory."""
    member = Member(b"0123456789abcdef")
    member.do(1, "put", "apple")
    assert "marks" not in member.replica.sessions.sessions[member.id].__dict__


def test_calls_of_older_members_have_no_marks() -> None:
    """They get their first outcome whatever comes again, as it was; the next ones have marks."""
    member = Member()
    member.do(1, "put", "apple", 3)
    del member.replica.sessions.sessions[member.id].__dict__["marks"]  # as in the snapshot of an older one
    assert member.do(1, "put", "pear") == 3
    assert member.do(2, "put", "pear") == 1
    with pytest.raises(Refused):
        member.do(2, "put", "plum")


def test_marks_are_the_same_in_all_processes() -> None:
    """They are part of snapshots: they come from nothing but the bytes of the call."""
    assert mark("", "put", b"\x92\x91\xa5apple\x80").hex() == "7ce59f9832819cd4da901b5c"


def test_callers_are_told() -> None:
    """Members and clients are, by the word Refused; the same arguments may be spelled in another way."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        async with cluster.client() as client:
            for one in (cluster.nodes[1], cluster.nodes[2], client):
                call, put = one.session("orders").call, one.machine.put
                assert await call(1, put, "apple", 3) == 3
                assert await call(1, put, item="apple", n=3) == 3
                assert await call(1, put, n=3, item="apple") == 3
                assert await call(2, put, "apple", note="a", n=1) == 4
                with pytest.raises(Refused, match="call 1 of session 'orders' was made before with other arguments"):
                    await call(1, put, "apple", 4)
                with pytest.raises(Refused, match="with another command"):
                    await call(1, one.machine.take, "apple", 3)
            assert await client.machine.left("apple") == 4

    simulate(scenario, Shop)


def test_a_method_with_two_commands_cannot_have_one_number() -> None:
    """The second one would get the first one's outcome: a worker that took from an empty queue waited for ever."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        node = await cluster.lead()
        session, jobs = node.session("orders"), node.queue("jobs")

        async def twice() -> None:
            await node.machine.put("apple")
            await node.machine.put("apple")

        with pytest.raises(
            RuntimeError, match=r"call 1 of session 'orders' is one command, put\(\), and put\(\) would be"
        ):
            await session.call(1, twice)
        assert await node.machine.left("apple") == 1
        taking = asyncio.ensure_future(session.call(2, jobs.take))
        await asyncio.sleep(1)  # of virtual time: it has found the queue empty
        await jobs.put("job")
        with pytest.raises(RuntimeError, match=r"is one command, queue_take\(\)"):
            await taking

    simulate(scenario, Shop)
