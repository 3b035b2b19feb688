"""Entries in, outcomes out: calls that count once, commands that fail, and snapshots of it all."""

import asyncio
import datetime
import random
from collections.abc import Iterable
from typing import Any

import pytest

from pyraft import RAFT_MALFORMED
from pyraft.node import sessions
from pyraft.node.codec import frame
from pyraft.node.errors import CommandFailed, Malformed, MissingCommand, SessionExpired
from pyraft.node.machine import EPOCH, Machine, command, query
from pyraft.node.replica import NO_SESSION, SESSIONS, Replica

SESSION = b"session 1"

interruptions: list[BaseException] = []
"""Raised by the commands that come next, as by the handlers of signals."""


class OutOfStock(Exception):
    """Travels, since the machine names it."""


class Odd(Exception):
    """Does not travel."""


class Shop(Machine):
    """A machine with a command of each kind."""

    errors = (OutOfStock,)

    def __init__(self) -> None:
        self.stock: dict[str, int] = {}
        self.times: list[datetime.datetime] = []

    @command
    def put(self, item: str, n: int = 1) -> int:
        """Add to the stock."""
        self.stock[item] = self.stock.get(item, 0) + n
        return self.stock[item]

    @command
    def fail(self, kind: str) -> None:
        """Change something, then raise."""
        self.stock["failed"] = 1
        raise {"named": OutOfStock("none"), "builtin": LookupError("a", 1), "odd": Odd("text"), "args": KeyError(len)}[
            kind
        ]

    @command
    def stop(self) -> None:
        """Raise what says nothing about the command."""
        self.stock["failed"] = 1
        raise MemoryError

    @command
    def leave(self, kind: str) -> int:
        """Change something, then raise what is outside of Exception, or be interrupted by it."""
        self.stock["left"] = self.stock.get("left", 0) + 1
        if interruptions:
            raise interruptions.pop()
        if kind:
            raise {"exit": SystemExit(3), "cancelled": asyncio.CancelledError()}[kind]
        return self.stock["left"]

    @query
    def exit(self) -> None:
        """Raise SystemExit."""
        raise SystemExit("no")

    @command
    def draw(self) -> tuple[float, datetime.datetime]:
        """Return what all servers must have alike."""
        self.times.append(self.now)
        return self.random.random(), self.now

    @command
    def nest(self) -> Any:
        """Try to call a command."""
        return self.put("x")

    @command
    def price(self, item: str) -> str:
        """The first version."""
        return f"{item}: 1"

    @price.version(2)
    def price(self, item: str, currency: str) -> str:
        """The second version."""
        return f"{item}: 2 {currency}"

    @query
    def left(self, item: str) -> int:
        """Look at the stock."""
        return self.stock.get(item, 0)


class Pair:
    """Two replicas that get the same entries, and must answer the same."""

    def __init__(self) -> None:
        self.replicas = [Replica({"": Shop()}), Replica({"": Shop()})]
        self.time = 1_000_000
        self.do(NO_SESSION, 0, "open", SESSION, machine=SESSIONS)

    def entry(self, *calls: tuple[Any, ...]) -> list[bytes]:
        """Apply one entry on both; calls are (session, number, acknowledged, machine, command, version, args)."""
        self.time += 1
        one = self.replicas[0]
        data = one.entry(self.time, [[*call[:6], one.codec.pack([list(call[6]), {}])] for call in calls])
        answers = [replica.do_apply(data) for replica in self.replicas]
        assert answers[0] == answers[1]
        assert answers[0][0] == 0
        return answers[0][1]

    def do(self, session: bytes, number: int, name: str, *args: Any, **more: Any) -> Any:
        """Execute one call and return its result."""
        machine = more.get("machine", "")
        call = session, number, more.get("acknowledged", 0), machine, name, more.get("version", 1), args
        return self.replicas[0].result(machine, self.entry(call)[0])

    @property
    def shop(self) -> Any:
        """The machine of the first replica."""
        return self.replicas[0].machines[""]


def test_a_call_counts_once() -> None:
    """The same call again gets its first outcome, an acknowledged or foreign one is refused and not executed."""
    pair = Pair()
    assert pair.do(SESSION, 1, "put", "apple") == 1
    assert pair.do(SESSION, 1, "put", "apple") == 1
    assert pair.do(SESSION, 2, "put", "apple", acknowledged=1) == 2
    for session, number in ((SESSION, 1), (b"unknown", 3)):
        with pytest.raises(SessionExpired):
            pair.do(session, number, "put", "apple")
    assert pair.shop.stock == {"apple": 2}  # the second time both got the outcomes of the first
    assert list(pair.replicas[0].sessions.sessions[SESSION].outcomes) == [2]


def test_a_failure_counts_once_too() -> None:
    """A command that failed is not tried again when it is sent again."""
    pair = Pair()
    for _ in range(2):
        with pytest.raises(OutOfStock):
            pair.do(SESSION, 1, "fail", "named")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("named", OutOfStock("none")),
        ("builtin", LookupError("a", 1)),
        ("odd", CommandFailed("Odd", "text")),
        ("args", CommandFailed("KeyError", "<built-in function len>")),
    ],
)
def test_an_exception_reaches_the_caller_and_changes_nothing(kind: str, expected: Exception) -> None:
    """Built-in and named classes travel with their arguments, others by name and text; the state is as before."""
    pair = Pair()
    with pytest.raises(type(expected)) as info:
        pair.do(SESSION, 1, "fail", kind)
    assert info.value.args == expected.args
    assert pair.shop.stock == {}


def test_wrong_arguments_fail_the_call_only() -> None:
    """Arguments that a command does not take are a TypeError for the caller."""
    pair = Pair()
    with pytest.raises(TypeError, match="missing"):
        pair.do(SESSION, 1, "put")
    with pytest.raises(TypeError):
        pair.do(SESSION, 2, "put", "apple", "many")
    assert pair.shop.stock == {}


def test_what_says_nothing_about_the_command_stops_the_server() -> None:
    """MemoryError is of this server alone, so it must not become an outcome."""
    pair = Pair()
    with pytest.raises(MemoryError):
        pair.do(SESSION, 1, "stop")


@pytest.mark.parametrize("kind", ["exit", "cancelled"])
def test_a_command_that_wants_to_end_the_program_fails(kind: str) -> None:
    """It would end that of each member, one after the other, and again whenever that is started."""
    pair = Pair()
    with pytest.raises(CommandFailed, match="SystemExit: 3" if kind == "exit" else "CancelledError"):
        pair.do(SESSION, 1, "leave", kind)
    assert pair.shop.stock == {}
    assert pair.do(SESSION, 2, "leave", "") == 1


def test_what_interrupts_a_command_is_not_taken_for_its_outcome() -> None:
    """The handler of a signal has called sys.exit; it is not raised again, and this server ends by it."""
    pair = Pair()
    interruptions[:] = [SystemExit(0)]
    with pytest.raises(SystemExit):
        pair.do(SESSION, 1, "leave", "")
    pair = Pair()
    interruptions[:] = [KeyboardInterrupt(), KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        pair.do(SESSION, 2, "leave", "")
    interruptions.clear()


def test_a_query_that_wants_to_end_the_program_fails() -> None:
    """Clients would end one member after the other by it."""
    pair = Pair()
    replica = pair.replicas[0]
    outcome = replica.answer("", "exit", replica.codec.pack([[], {}]))
    with pytest.raises(CommandFailed, match="SystemExit: no"):
        replica.result("", outcome)


def test_commands_cannot_call_commands() -> None:
    """The common part of two commands is a plain method."""
    pair = Pair()
    with pytest.raises(RuntimeError, match=r"cannot call|belongs to no node"):
        pair.do(SESSION, 1, "nest")


def test_time_and_chance_are_shared_and_time_never_goes_back() -> None:
    """Both replicas draw the same; an entry from a leader whose clock is behind changes no time."""
    pair = Pair()
    first, at = pair.do(SESSION, 1, "draw")
    second, _ = pair.do(SESSION, 2, "draw")
    assert first != second
    assert at == EPOCH + datetime.timedelta(microseconds=pair.time - 1)
    pair.time = 0
    assert pair.do(SESSION, 3, "draw")[1] >= at
    with pytest.raises(RuntimeError, match="only a command"):
        _ = pair.shop.now


def test_each_command_of_an_entry_draws_from_its_own_number() -> None:
    """Commands side by side have chance of their own, with others between them or not."""
    pair = Pair()
    pair.entry(
        *[(SESSION, number, 0, "", name, 1, []) for number, name in enumerate(("draw", "nest", "draw", "draw"), 1)]
    )
    outcomes = pair.entry(*[(SESSION, number, 0, "", "draw", 1, []) for number in (5, 6, 7)])
    drawn = [pair.replicas[0].result("", outcome)[0] for outcome in outcomes]
    assert drawn == [random.Random(f"{pair.time} {number}").random() for number in (6, 7, 8)]


class Tree(Machine):
    """A machine whose state is nested."""

    def __init__(self) -> None:
        self.branches: dict[str, Any] = {}

    @command
    def grow(self, name: str) -> None:
        """Put in plain containers."""
        self.branches[name] = {"leaves": []}

    @command
    def sprout(self, name: str, *, fail: bool) -> int:
        """Change one of them, and fail if that is wanted."""
        self.branches[name]["leaves"].append(1)
        if fail:
            raise LookupError(name)
        return len(self.branches[name]["leaves"])

    @command
    def spoil(self) -> None:
        """Put in what nobody could take back."""
        self.branches["bad"] = object()


def test_what_a_command_puts_in_can_be_taken_back_in_the_next_one() -> None:
    """Containers become tracked when their command ends; one that cannot be fails the command by itself."""
    replica = Replica({"": Tree()})
    pack = replica.codec.pack

    def entry(time: int, name: str, *args: Any, **kwargs: Any) -> bytes:
        return replica.entry(time, [[SESSION, time, 0, "", name, 1, pack([list(args), kwargs])]])

    replica.do_apply(replica.entry(1, [[NO_SESSION, 0, 0, SESSIONS, "open", 1, pack([[SESSION], {}])]]))
    _, answers = replica.do_apply_batch(
        [
            entry(2, "grow", "a"),
            entry(3, "sprout", "a", fail=True),
            entry(4, "spoil"),
            entry(5, "sprout", "a", fail=False),
        ]
    )
    (first,), (second,), (third,), (fourth,) = answers
    assert replica.result("", first) is None
    with pytest.raises(LookupError):
        replica.result("", second)
    with pytest.raises(TypeError, match="cannot keep objects of class object"):
        replica.result("", third)
    assert replica.result("", fourth) == 1


def test_versions_keep_their_meaning() -> None:
    """Entries of an older version are executed by its code."""
    pair = Pair()
    assert pair.do(SESSION, 1, "price", "apple") == "apple: 1"
    assert pair.do(SESSION, 2, "price", "apple", "EUR", version=2) == "apple: 2 EUR"


def test_a_missing_command_stops_before_anything_of_its_entry_is_done() -> None:
    """The error names command and version; the same entry is executed as a whole by code that has it."""
    pair = Pair()
    calls = [(SESSION, 1, 0, "", "put", 1, ["apple"]), (SESSION, 2, 0, "", "put", 7, ["apple"])]
    with pytest.raises(MissingCommand, match=r"'put' version 7"):
        pair.entry(*calls)
    assert pair.shop.stock == {}
    with pytest.raises(MissingCommand, match="machine 'other'"):
        pair.entry((SESSION, 1, 0, "other", "put", 1, []))


def random_entries(replica: Replica, draw: random.Random, n: int) -> list[bytes]:
    """Return entries with calls of several sessions, as they come: again, too late, failing, and to open sessions."""
    pack = replica.codec.pack
    sessions = [bytes([number]) * 8 for number in range(4)]
    entries = []
    for time in range(n):
        calls: list[list[Any]] = []
        for _ in range(draw.randint(0, 6)):
            id, number = draw.choice(sessions), draw.randint(1, 9)
            name, arguments = draw.choice(
                [
                    ("put", ["apple"]),
                    ("put", ["pear", draw.randint(1, 3)]),
                    ("fail", ["named"]),
                    ("draw", []),
                    ("put", []),
                ]
            )
            if draw.random() < 0.2:
                calls.append([NO_SESSION, 0, 0, SESSIONS, draw.choice(["open", "close"]), 1, pack([[id], {}])])
            else:
                calls.append([id, number, draw.randint(0, number), "", name, 1, pack([arguments, {}])])
        entries.append(replica.entry(draw.randint(time, 2 * time + 1), calls))
    return entries


@pytest.mark.parametrize("seed", range(30))
def test_entries_in_one_call_come_to_what_they_come_to_one_by_one(seed: int) -> None:
    """Outcomes, time, and all of the state, whichever entries come together."""
    draw = random.Random(seed)
    one, other = Replica({"": Shop()}), Replica({"": Shop()})
    entries = random_entries(one, draw, 40)
    outcomes = [one.do_apply(entry) for entry in entries]
    assert any(len(found) > 3 for _, found in outcomes)
    at = 0
    while at < len(entries):
        n = draw.randint(2, 9)
        rv, found = other.do_apply_batch(entries[at : at + n])
        assert (rv, found) == (0, [outcome for _, outcome in outcomes[at : at + n]])
        at += n
    assert snapshot_of(one) == snapshot_of(other)


def test_an_entry_that_stops_the_server_ends_a_call_ahead_of_it() -> None:
    """Those before it are executed and answered; by itself it raises what says why."""
    pair = Pair()
    replica = pair.replicas[0]
    arguments = replica.codec.pack([["apple"], {}])
    good = [replica.entry(pair.time, [[SESSION, n, 0, "", "put", 1, arguments]]) for n in (1, 2, 3)]
    for bad, expected in (
        (replica.entry(1, [[SESSION, 9, 0, "", "put", 7, arguments]]), MissingCommand),
        (b"", Malformed),
    ):
        rv, found = replica.do_apply_batch([good[0], good[1], bad, good[2]])
        assert (rv, len(found)) == (RAFT_MALFORMED, 2)
        assert replica.do_apply_batch([bad, good[2]]) == (RAFT_MALFORMED, [])
        with pytest.raises(expected):
            replica.do_apply(bad)
    assert pair.shop.stock == {"apple": 2}  # the second time both got the outcomes of the first


@pytest.mark.parametrize("data", [b"", bytes(8), frame(b"\xc1"), frame(b"\x01")])
def test_an_entry_that_is_none_is_malformed(data: bytes) -> None:
    """An entry of something else than this layer stops the server with a reason."""
    with pytest.raises((Malformed, TypeError)):
        Pair().replicas[0].do_apply(data)


def test_sessions_expire_by_shared_time() -> None:
    """A session without a call for longer than its time is forgotten, by the same entry everywhere; others stay."""
    pair = Pair()
    pair.do(NO_SESSION, 0, "open", b"other", "shop", machine=SESSIONS)
    pair.do(SESSION, 1, "put", "apple")
    pair.time += sessions.TTL - 10
    pair.do(b"other", 1, "put", "apple")
    pair.time += 100
    with pytest.raises(SessionExpired):
        pair.do(SESSION, 2, "put", "apple")
    assert list(pair.replicas[0].sessions.sessions) == [b"other"]
    assert pair.do(NO_SESSION, 0, "close", b"other", machine=SESSIONS) is True
    assert pair.do(NO_SESSION, 0, "close", b"other", machine=SESSIONS) is False


def test_a_session_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number of unacknowledged outcomes calls are refused, and not executed."""
    monkeypatch.setattr("pyraft.node.replica.MAX_OPEN", 3)
    pair = Pair()
    for number in (1, 2, 3):
        pair.do(SESSION, number, "put", "apple")
    with pytest.raises(SessionExpired, match="unacknowledged"):
        pair.do(SESSION, 4, "put", "apple")
    assert pair.shop.stock == {"apple": 3}
    assert pair.do(SESSION, 5, "put", "apple", acknowledged=3) == 4


def snapshot_of(replica: Replica) -> bytes:
    """Take a snapshot as the core does."""
    rv, head = replica.do_snapshot()
    assert rv == 0
    rv, pieces = replica.do_snapshot_async(head)
    assert rv == 0
    assert replica.do_snapshot_finalize(head) == 0
    return b"".join(pieces)


@pytest.mark.parametrize("seed", range(20))
def test_a_restored_replica_goes_on_as_the_others(seed: int) -> None:
    """After a snapshot in the middle of random calls, a new replica answers the rest of them as the old ones do."""
    rng = random.Random(seed)
    pair = Pair()
    number = 0
    for _ in range(6):
        for _ in range(rng.randrange(20)):
            number += rng.randrange(2)
            name, args = rng.choice(
                [("put", ["a", 1]), ("put", ["b", 2]), ("draw", []), ("fail", ["odd"]), ("put", [])]
            )
            pair.entry((SESSION, number, max(0, number - rng.randrange(4)), "", name, 1, args))
        fresh = Replica({"": Shop()})
        assert fresh.do_restore(snapshot_of(pair.replicas[0])) == 0
        pair.replicas[1] = fresh
    assert snapshot_of(pair.replicas[0]) == snapshot_of(pair.replicas[1])


def test_bytes_that_are_no_snapshot_change_nothing() -> None:
    """A damaged snapshot is refused with a code, and the replica is as it was."""
    pair = Pair()
    for n in range(50):
        pair.do(SESSION, n + 1, "put", f"item {n}")
    good = snapshot_of(pair.replicas[0])
    rng = random.Random(1)
    fresh = Replica({"": Shop()})
    before = snapshot_of(fresh)
    refused = 0
    for _ in range(300):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        replica = Replica({"": Shop()})
        if replica.do_restore(bytes(bad[: rng.choice([len(bad), rng.randrange(len(bad))])])) != 0:
            refused += 1
            assert snapshot_of(replica) == before
    assert refused > 100
    assert fresh.do_restore(b"") == RAFT_MALFORMED


def test_the_log_says_why_a_snapshot_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Its code says that it is malformed, which a whole snapshot of another class, or of a later program, is not."""
    store = type("Store", (Shop,), {})()
    assert Replica({"": store}).do_restore(snapshot_of(Replica({"": Shop()}))) == RAFT_MALFORMED
    assert "cannot be taken over by this program: a snapshot of a Shop, not of a Store" in caplog.text


class Own(Machine):
    """A machine whose state is not tracked."""

    def __init__(self) -> None:
        self.state: list[int] = []

    @command
    def add(self, n: int) -> int:
        """Add a number; a negative one is refused."""
        self.state.append(n)
        if n < 0:
            raise ValueError(n)
        return len(self.state)

    def checkpoint(self) -> Any:
        """Remember how long the state is."""
        return len(self.state)

    def rollback(self, checkpoint: Any) -> None:
        """Cut what came after the checkpoint."""
        del self.state[checkpoint:]

    def snapshot(self) -> Iterable[bytes]:
        """Return the numbers, one a piece."""
        return [str(n).encode() for n in self.state]

    def restore(self, pieces: Iterable[bytes]) -> None:
        """Take the numbers over."""
        self.state = [int(piece) for piece in pieces]


def test_a_machine_may_keep_its_state_in_its_own_way() -> None:
    """checkpoint and rollback, snapshot and restore of the machine's own take the place of the tracked ones."""
    one, two = Replica({"own": Own()}), Replica({"own": Own()})
    for n in (1, -1, 2):
        one.do_apply(one.entry(n, [[NO_SESSION, 0, 0, "own", "add", 1, one.codec.pack([[n], {}])]]))
    machine: Any = one.machines["own"]
    assert machine.state == [1, 2]
    assert two.do_restore(snapshot_of(one)) == 0
    restored: Any = two.machines["own"]
    assert restored.state == [1, 2]


def test_a_machine_belongs_to_one_replica() -> None:
    """The same instance cannot be in two, and one without a node offers no commands."""
    shop = Shop()
    Replica({"": shop})
    with pytest.raises(RuntimeError, match="already"):
        Replica({"": shop})
    put: Any = shop.put
    with pytest.raises(RuntimeError, match="belongs to no node"):
        put("apple")


@pytest.mark.parametrize("machine", [Shop, None, object()])
def test_what_is_no_machine_is_refused(machine: Any) -> None:
    """Its class is a frequent mistake: it is named, and machines of that class can be made as before."""
    with pytest.raises(TypeError, match="is not an instance of a subclass of Machine"):
        Replica({"": machine})
    Replica({"": Shop()})


def test_commands_that_wait_are_refused() -> None:
    """They are when the class is made: a coroutine would be packed as a result, and fail at the first call."""

    async def waits(self: Machine) -> int:
        return 1

    def yields(self: Machine) -> Iterable[int]:
        yield 1

    for function in (waits, yields):
        for make in (command, command(version=2), query):
            with pytest.raises(TypeError, match=rf"(command|query) .*{function.__name__} must return its result"):
                make(function)
    with pytest.raises(TypeError, match="a query must be a function, not 7"):
        query(7)  # type: ignore[arg-type]


def test_a_call_whose_keys_are_all_alike_fails_alone() -> None:
    """It is in the log by then, as the leader takes arguments as bytes: it must neither stop a member nor slow it."""
    replica, twin = Replica({"": Shop()}), Replica({"": Shop()})
    arguments = replica.codec.pack([[dict.fromkeys((2**61 - 1) * n for n in range(100))], {}])
    calls = [
        [NO_SESSION, 0, 0, "", "put", 1, arguments],
        [NO_SESSION, 0, 0, "", "put", 1, replica.codec.pack([["a"], {}])],
    ]
    rv, outcomes = replica.do_apply(replica.entry(1, calls))
    assert rv == 0
    assert twin.do_apply(replica.entry(1, calls)) == (0, outcomes)
    with pytest.raises(CommandFailed, match="same hash"):
        replica.result("", outcomes[0])
    assert replica.result("", outcomes[1]) == 1


OLD_ENTRY = bytes.fromhex(
    "010000006b00000092ce000f42409497c4000000af7079726166742e73657373696f6e73a46f70656e01c40a9292c40173a3"
    "6f6c648097c401730100a0a370757401c40c9291a56170706c6581a16e0397c401730200a0a46472617701c40392908097c4"
    "01730301a0a370757401c4039290800000000000"
)
OLD_SNAPSHOT = bytes.fromhex(
    "95ab7079726166742e6e6f646501ce000f42400492af7079726166742e73657373696f6e73a0930402a853657373696f6e73"
    "94a374746cced693a400a873657373696f6e73c7006492000192c40173c70064930404a753657373696f6e98a46e616d65a3"
    "6f6c64a47365656ece000f4240ac61636b6e6f776c656467656401a86f7574636f6d6573c700649200029402c42b9200c726"
    "0192cb3fd9047fefcae712c71904313937302d30312d30315430303a30303a30312b30303a303003c4489301a95479706545"
    "72726f7291d93953686f702e7075742829206d697373696e67203120726571756972656420706f736974696f6e616c206172"
    "67756d656e743a20276974656d27930402a453686f7094a573746f636bc70064a574696d6573c7006492000192a56170706c"
    "650392020191c71904313937302d30312d30315430303a30303a30312b30303a3030"
)
"""Made by a version of November 2026: a session opened, three apples put, a number drawn, a put without arguments."""


def test_entries_and_snapshots_of_before_keep_their_meaning() -> None:
    """Outcomes and state are those that the older version came to, to the last byte; a call that comes again too."""
    replica = Replica({"": Shop()})
    outcomes = replica.do_apply(OLD_ENTRY)[1]
    assert [outcome.hex() for outcome in outcomes[:3]] == [
        "9200c3",
        "920003",
        "9200c7260192cb3fd9047fefcae712c71904313937302d30312d30315430303a30303a30312b30303a3030",
    ]
    assert snapshot_of(replica) == OLD_SNAPSHOT
    restored = Replica({"": Shop()})
    assert restored.do_restore(OLD_SNAPSHOT) == 0
    assert snapshot_of(restored) == OLD_SNAPSHOT
    again = restored.entry(2_000_000, [[b"s", 2, 0, "", "draw", 1, restored.codec.pack([[], {}])]])
    assert restored.do_apply(again)[1] == [outcomes[2]]
