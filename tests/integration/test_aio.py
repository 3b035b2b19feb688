"""The asyncio front on real files and sockets, on the loop of a running asyncio program."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import io_uv
import pyraft
from io_uv import pyuv
from pyraft import aio
from tests.lib.fsm import missing
from tests.lib.ports import free_addresses

DEADLINE = 120.0
ELECTION_MSECS = 300


class Journal(pyraft.RaftFsm):
    """Keeps what was applied and answers with the number of commands so far."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 1
        self.applied: list[bytes] = []
        self.apply = Journal.do_apply
        self.snapshot = lambda fsm: (0, [b"".join(fsm.applied)])
        self.restore = Journal.do_restore

    def do_apply(self, buf: bytes) -> tuple[int, int]:
        self.applied.append(buf)
        return 0, len(self.applied)

    def do_restore(self, buf: Any) -> int:
        self.applied = [bytes(buf[i : i + 8]) for i in range(0, len(buf), 8)]
        return 0


class Member:
    """One server with what it stands on."""

    def __init__(self, dir: Path, id: int, address: str) -> None:
        dir.mkdir(exist_ok=True)
        self.dir = dir
        self.id = id
        self.address = address
        self.fsm = Journal()
        self.io = pyraft.RaftIo()
        self.transport = io_uv.RaftUvTransport()
        self.loop = pyuv.Loop(asyncio.get_running_loop())
        assert io_uv.raft_uv_tcp_init(self.transport, self.loop) == 0
        assert io_uv.raft_uv_init(self.io, self.loop, str(dir), self.transport) == 0
        io_uv.raft_uv_set_connect_retry_delay(self.io, 50)
        self.server = aio.Server(self.io, self.fsm, id, address)
        pyraft.raft_set_election_timeout(self.server.raft, ELECTION_MSECS)
        pyraft.raft_set_heartbeat_timeout(self.server.raft, 50)

    def bootstrap(self, members: dict[int, str]) -> None:
        conf = pyraft.RaftConfiguration()
        for id, address in members.items():
            assert pyraft.raft_configuration_add(conf, id, address, pyraft.RAFT_VOTER) == 0
        self.server.bootstrap(conf)

    async def close(self) -> None:
        await self.server.close()
        io_uv.raft_uv_close(self.io)
        io_uv.raft_uv_tcp_close(self.transport)
        self.loop.close()


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario; an exception that reaches the loop's handler fails it."""
    uncaught: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: uncaught.append(context))
        await asyncio.wait_for(scenario(), DEADLINE)

    asyncio.run(watched())
    assert uncaught == []


async def alone(dir: Path) -> Member:
    """A cluster of one, started."""
    members = free_addresses(1)
    member = Member(dir, 1, members[1])
    member.bootstrap(members)
    await member.server.start()
    return member


async def three(dir: Path) -> list[Member]:
    """A cluster of three, started, that has a leader everybody follows.

    From then on nobody is deposed because the machine was slow for a moment, until `stand_after`.
    """
    addresses = free_addresses(3)
    members = [Member(dir / str(id), id, address) for id, address in addresses.items()]
    for member in members:
        member.bootstrap(addresses)
    await asyncio.gather(*(member.server.start() for member in members))
    await settled(members)
    return members


async def settled(members: list[Member]) -> Member:
    """Wait until one leads whom all follow, and return it; from then on it stays, until `stand_after`."""

    def agreed() -> bool:
        led = [member.id for member in members if member.server.is_leader]
        return bool(led) and all(member.server.leader[0] == led[0] for member in members)

    while not agreed():
        await asyncio.sleep(0.005)
    stand_after(members, 3_600_000)
    return leader_of(members)


def stand_after(members: list[Member], msecs: int = ELECTION_MSECS) -> None:
    """Have servers stand for election when they have heard of no leader for so long."""
    for member in members:
        pyraft.raft_set_election_timeout(member.server.raft, msecs)


def leader_of(members: list[Member]) -> Member:
    return next(member for member in members if member.server.is_leader)


def test_apply_returns_what_the_state_machine_answers(tmp_path: Path) -> None:
    """An awaited apply gives fsm.apply's result; several buffers are several entries and the first one's result."""

    async def scenario() -> None:
        member = await alone(tmp_path)
        assert await member.server.wait_leader() == (1, member.address)
        assert member.server.state == pyraft.RAFT_LEADER
        assert await member.server.apply(b"command1") == 1
        assert await member.server.apply(b"command2", b"command3") == 2
        await member.server.barrier()
        assert member.fsm.applied == [b"command1", b"command2", b"command3"]
        await member.close()

    run(scenario)


def test_a_restarted_server_has_what_it_had(tmp_path: Path) -> None:
    """Start loads the log in another thread than the loop's, and applies it."""
    threads: list[int] = []

    async def scenario() -> None:
        first = await alone(tmp_path)
        await first.server.apply(b"command1")
        await first.close()
        second = Member(tmp_path, 1, first.address)
        load = second.io.load

        def recorded(io: pyraft.RaftIo) -> Any:
            threads.append(threading.get_ident())
            return load(io)

        second.io.load = recorded
        async with second.server as server:
            await server.wait_until(lambda: second.fsm.applied == [b"command1"])
        assert second.io.load is recorded
        await second.close()

    run(scenario)
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


def test_errors_are_exceptions_with_code_and_text(tmp_path: Path) -> None:
    """A code that the C API returns is raised, with raft_errmsg's text; nothing was done."""

    async def scenario() -> None:
        member = await alone(tmp_path)
        with pytest.raises(aio.RaftError) as caught:
            await member.server.apply(b"seven b")
        assert caught.value.code == pyraft.RAFT_INVALID
        with pytest.raises(aio.RaftError) as caught:
            await member.server.assign(7)
        assert (caught.value.code, caught.value.message) == (pyraft.RAFT_NOTFOUND, "no server has ID 7")
        with pytest.raises(aio.RaftError) as caught:
            member.bootstrap({1: member.address})
        assert caught.value.code == pyraft.RAFT_BUSY
        assert str(aio.RaftError(pyraft.RAFT_NOTLEADER)) == "RAFT_NOTLEADER: server is not the leader"
        await member.close()
        with pytest.raises(aio.RaftError) as caught:
            await member.server.apply(b"too late")
        assert (caught.value.code, caught.value.message) == (pyraft.RAFT_CANCELED, "the server is closed")

    run(scenario)


def test_a_log_that_cannot_be_read_fails_start(tmp_path: Path) -> None:
    """The exception names the file; the server can then be closed."""

    async def scenario() -> None:
        member = await alone(tmp_path)
        await member.server.apply(b"command1")
        await member.close()
        (tmp_path / "0000000000000001-0000000000000001").write_bytes(b"")
        again = Member(tmp_path, 1, member.address)
        with pytest.raises(aio.RaftError) as caught:
            await again.server.start()
        assert caught.value.code == pyraft.RAFT_CORRUPT
        assert "0000000000000001-0000000000000001" in caught.value.message
        await again.close()

    run(scenario)


def test_server_whose_state_machine_raised_says_so_to_everybody(tmp_path: Path) -> None:
    """Tasks that wait and tasks that ask later get RAFT_SHUTDOWN and the cause; closing works as ever."""

    async def scenario() -> None:
        member = await alone(tmp_path)
        member.fsm.apply = lambda fsm, buf: missing(fsm)
        waiting = asyncio.create_task(member.server.wait_until(lambda: False))
        with pytest.raises(aio.RaftError) as caught:
            await member.server.apply(b"command1")
        assert caught.value.code == pyraft.RAFT_SHUTDOWN
        assert isinstance(caught.value.__cause__, AttributeError)
        for later in (waiting, member.server.wait_leader(), member.server.apply(b"command2"), member.server.barrier()):
            with pytest.raises(aio.RaftError, match=r"has stopped: fsm\.apply: AttributeError") as caught:
                await asyncio.wait_for(later, DEADLINE)
            assert caught.value.code == pyraft.RAFT_SHUTDOWN
        await member.close()

    run(scenario)


def test_calls_from_another_thread_are_refused_without_harm(tmp_path: Path) -> None:
    """They raise RuntimeError and name the way; the server serves its own loop as before."""

    async def scenario() -> None:
        member = await alone(tmp_path)
        server = member.server
        methods = (lambda: server.apply(b"command1"), server.barrier, server.wait_leader, server.start, server.close)
        for method in methods:
            with pytest.raises(RuntimeError, match="run_coroutine_threadsafe"):
                await asyncio.to_thread(lambda m=method: asyncio.run(asyncio.wait_for(m(), DEADLINE)))
        own = asyncio.get_running_loop()
        way = asyncio.to_thread(asyncio.run_coroutine_threadsafe, server.apply(b"command2"), own)
        assert await asyncio.wrap_future(await way) == 1
        assert member.fsm.applied == [b"command2"]
        await member.close()

    run(scenario)


def test_transfer_to_a_dead_server_raises(tmp_path: Path) -> None:
    """Nobody takes over, the leader leads on, and the caller is told."""

    async def scenario() -> None:
        members = await three(tmp_path)
        leader = leader_of(members)
        dead, alive = (m for m in members if m is not leader)
        await dead.close()
        stand_after([leader], 4000)  # it waits so long for the other one, and stays leader if all stand still meanwhile
        with pytest.raises(aio.RaftError, match=f"server {dead.id} has not taken over, this one leads on") as caught:
            await leader.server.transfer(dead.id)
        assert caught.value.code == pyraft.RAFT_NOCONNECTION
        stand_after([leader], 3_600_000)
        assert await leader.server.apply(b"command1") == 1
        assert await leader.server.transfer(alive.id) == (alive.id, alive.address)
        await asyncio.gather(leader.close(), alive.close())

    run(scenario)


def test_followers_know_who_leads(tmp_path: Path) -> None:
    """A follower refuses requests, knows the leader, and is told when another one leads."""

    async def scenario() -> None:
        members = await three(tmp_path)
        leader = leader_of(members)
        followers = [m for m in members if m is not leader]
        assert await leader.server.apply(b"command1") == 1
        with pytest.raises(aio.RaftError) as caught:
            await followers[0].server.apply(b"command2")
        assert caught.value.code == pyraft.RAFT_NOTLEADER
        assert followers[0].server.leader == (leader.id, leader.address)
        changes = [asyncio.create_task(m.server.leader_change()) for m in followers]
        await asyncio.sleep(0)
        await leader.close()
        stand_after(followers)
        assert all(change[0] != leader.id for change in await asyncio.gather(*changes))
        await (await settled(followers)).server.apply(b"command2")
        for member in followers:
            await member.server.wait_until(lambda m=member: m.fsm.applied == [b"command1", b"command2"])
        await asyncio.gather(*(member.close() for member in followers))

    run(scenario)


def test_reads_append_nothing(tmp_path: Path) -> None:
    """A hundred at once share rounds of messages over real sockets, and see what was acknowledged before; followers
    refuse; a leader whose followers are gone answers none, and they end with its close.
    """

    async def scenario() -> None:
        members = await three(tmp_path)
        leader = leader_of(members)
        followers = [m for m in members if m is not leader]
        await leader.server.apply(b"command1")
        await leader.server.read_index()
        last = pyraft.raft_last_index(leader.server.raft)
        found = await asyncio.gather(*(leader.server.read_index() for _ in range(100)))
        assert set(found) == {last}
        assert leader.fsm.applied == [b"command1"]
        state = leader.server.raft.leader_state
        assert state is not None
        assert 2 <= state.reads.number < 10
        assert pyraft.raft_last_index(leader.server.raft) == last
        with pytest.raises(aio.RaftError) as caught:
            await followers[0].server.read_index()
        assert caught.value.code == pyraft.RAFT_NOTLEADER
        await asyncio.gather(*(member.close() for member in followers))
        late = asyncio.ensure_future(leader.server.read_index())
        await asyncio.sleep(0)
        await leader.close()
        with pytest.raises(aio.RaftError) as caught:
            await late
        assert caught.value.code in (pyraft.RAFT_SHUTDOWN, pyraft.RAFT_LEADERSHIPLOST)

    run(scenario)


def test_members_come_change_and_go(tmp_path: Path) -> None:
    """add, assign, transfer and remove are awaited like an apply."""

    async def scenario() -> None:
        first = await alone(tmp_path / "first")
        await first.server.apply(b"command1")
        second = Member(tmp_path / "second", 2, free_addresses(1)[1])
        await second.server.start()
        stand_after([first, second], 3_600_000)  # each leads as long as the other one does not take over
        await first.server.add(2, second.address)
        await first.server.assign(2)
        assert pyraft.raft_role(second.server.raft) == pyraft.RAFT_VOTER
        assert await first.server.transfer() == (2, second.address)
        await second.server.wait_until(lambda: second.server.is_leader)
        await second.server.apply(b"command2")
        await second.server.remove(1)
        assert second.fsm.applied == [b"command1", b"command2"]
        await first.close()
        await second.close()

    (tmp_path / "first").mkdir()
    run(scenario)


def test_cancelling_takes_nothing_back(tmp_path: Path) -> None:
    """A cancelled apply is committed all the same, and nobody is told of its result."""

    async def scenario() -> None:
        member = await alone(tmp_path)
        task = asyncio.create_task(member.server.apply(b"command1"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await member.server.barrier()
        assert member.fsm.applied == [b"command1"]
        await member.close()

    run(scenario)


def test_close_answers_everybody(tmp_path: Path) -> None:
    """Requests under way fail with RAFT_LEADERSHIPLOST, waiters with RAFT_CANCELED; a second close does nothing."""

    async def scenario() -> None:
        member = await alone(tmp_path)
        applying = asyncio.create_task(member.server.apply(b"command1"))
        waiting = asyncio.create_task(member.server.leader_change())
        await asyncio.sleep(0)
        await asyncio.gather(member.server.close(), member.server.close())
        results = await asyncio.gather(applying, waiting, return_exceptions=True)
        assert [getattr(r, "code", None) for r in results] == [pyraft.RAFT_LEADERSHIPLOST, pyraft.RAFT_CANCELED]
        with pytest.raises(aio.RaftError):
            await member.server.wait_leader()
        await member.close()

    run(scenario)


def test_failed_write_says_what_the_disk_has_said(tmp_path: Path) -> None:
    """The code says that it was the disk; the text says which file, and why."""

    async def scenario() -> None:
        member = await alone(tmp_path)
        append = member.io.append

        def failing(io: Any, req: Any, entries: Any, n: int, cb: Any) -> int:
            def failed(req: Any, status: int) -> None:
                io.errmsg = "write segment: disk on fire"
                cb(req, pyraft.RAFT_IOERR)

            return append(io, req, entries, n, failed)

        member.io.append = failing
        with pytest.raises(aio.RaftError, match="RAFT_IOERR: io: write segment: disk on fire"):
            await member.server.apply(b"command1")
        await member.close()

    run(scenario)


def test_start_that_is_cancelled_leaves_a_server_to_close(tmp_path: Path) -> None:
    """A start that is cancelled while the log is read ends only when the thread has, so that close finds it at rest."""
    reading = threading.Event()
    go_on = threading.Event()

    async def scenario() -> None:
        members = free_addresses(1)
        member = Member(tmp_path, 1, members[1])
        member.bootstrap(members)
        load = member.io.load

        def slow(io: pyraft.RaftIo) -> Any:
            reading.set()
            go_on.wait(DEADLINE)
            return load(io)

        member.io.load = slow
        starting = asyncio.create_task(member.server.start())
        await asyncio.get_running_loop().run_in_executor(None, reading.wait, DEADLINE)
        starting.cancel()
        closing = asyncio.create_task(member.close())
        await asyncio.sleep(0)
        assert not closing.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await closing
        assert member.server.state == pyraft.RAFT_UNAVAILABLE

    run(scenario)


def test_the_state_callback_is_passed_on(tmp_path: Path) -> None:
    """`on_state` is told each change; a waiter's test that raises fails that waiter only."""

    async def scenario() -> None:
        members = free_addresses(1)
        member = Member(tmp_path, 1, members[1])
        member.bootstrap(members)
        changes: list[tuple[int, int]] = []
        member.server.on_state = lambda old, new: changes.append((old, new))
        asked: list[int] = []

        def bad() -> bool:
            asked.append(1)
            if len(asked) > 1:
                raise ValueError("no")
            return False

        waiting = asyncio.create_task(member.server.wait_until(bad))
        await asyncio.sleep(0)
        await member.server.start()
        with pytest.raises(ValueError, match="no"):
            await waiting
        assert changes[-1] == (pyraft.RAFT_CANDIDATE, pyraft.RAFT_LEADER)
        await member.close()

    run(scenario)
