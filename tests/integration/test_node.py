"""One node: its directory, its calls and queries, on both kinds of loops; nothing is lost when it starts again."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from io_uv import directory, fs
from pyraft import RAFT_LEADERSHIPLOST, RaftFsm, aio
from pyraft.node import (
    CommandFailed,
    Machine,
    Node,
    Refused,
    Settings,
    Stopped,
    Unavailable,
    Unknown,
    command,
    connect,
    init,
)
from pyraft.node.ground import Ground
from pyraft.node.identity import FOUNDING, JOINED, JOINING, MEMBER, NODE_FILE, Directory, Identity, read, write
from pyraft.node.outcomes import EXPIRED
from pyraft.node.outside import Outside
from tests.integration.test_stopped_anywhere import Recorder, put
from tests.lib.nodes import LOOPS, QUICK, Shop, all_of, run, until
from tests.lib.uvnode import free_addresses

loops = pytest.mark.parametrize("kind", LOOPS)


def address() -> str:
    return free_addresses(1)[1]


@loops
def test_another_event_loop_is_refused(tmp_path: Path, kind: str) -> None:
    """A node, or a client, that a thread awaits in a loop of its own refuses that, and the command is not executed."""
    where = tmp_path / "1"

    async def elsewhere(shop: Shop, what: str) -> None:
        with pytest.raises(RuntimeError, match="was opened in another event loop"):
            await (shop.put("apple") if what == "command" else shop.left("apple"))

    async def scenario() -> None:
        await init(where, address())
        async with Node(where, Shop()) as node, connect([node.address], Shop()) as client:
            await client.machine.put("pear")
            for machine in (node.machine, client.machine):
                for what in ("command", "query"):
                    with node.read(lease=True):
                        await asyncio.to_thread(asyncio.run, elsewhere(machine, what))
            assert await node.machine.all() == {"pear": 1}
            told = asyncio.run_coroutine_threadsafe(node.machine.put("apple"), asyncio.get_running_loop())
            assert await asyncio.wrap_future(told) == 1
        closed = node.machine.put("apple")
        with pytest.raises(Stopped, match="the node is closed"):
            await asyncio.to_thread(asyncio.run, closed)

    run(scenario, kind)


@loops
def test_commands_and_queries_of_one_node(tmp_path: Path, kind: str) -> None:
    """A change is there after the next start; exceptions of commands reach the caller, and change nothing."""
    where = tmp_path / "data" / "1"

    async def scenario() -> None:
        identity = await init(where, address())
        assert identity == read(where)
        async with Node(where, Shop()) as node:
            shop = node.machine
            assert (node.id, node.address, node.cluster) == (identity.id, identity.address, identity.cluster)
            assert node.is_leader
            assert node.leader == (identity.id, identity.address)
            assert await shop.put("apple", n=3) == 3
            assert await shop.take("apple") == 2
            with pytest.raises(LookupError, match="pear"):
                await shop.take("pear")
            assert await shop.left("apple") == 2
            copy = await shop.all()
            copy["apple"] = 99  # the caller's own
            assert await shop.left("apple") == 2
            with pytest.raises(RuntimeError, match="only in its commands"):
                await shop.spoil()
            assert await shop.all() == {"apple": 2}
        with pytest.raises(Stopped, match="the node is closed"):
            await shop.put("apple")
        with pytest.raises(Stopped, match="the node is closed"):
            await shop.left("apple")
        with pytest.raises(Stopped, match="the node is closed"):
            await node.counter("hits").add()
        async with Node(where, Shop()) as node:
            assert await node.machine.all() == {"apple": 2}

    run(scenario, kind)


@loops
def test_a_node_that_is_started_twice_lives_on(tmp_path: Path, kind: str) -> None:
    """The second start is refused, and nothing else: it must not end the first, nor give the directory away."""
    where = tmp_path / "data" / "1"

    async def scenario() -> None:
        with pytest.raises(Refused, match="None is not an address"):
            await init(where, None)  # type: ignore[arg-type]
        await init(where, address())
        async with Node(where, Shop()) as node:
            with pytest.raises(RuntimeError, match="started once"):
                await node.__aenter__()
            with pytest.raises(Refused, match="in use"):
                await Node(where, Shop()).__aenter__()
            assert await node.machine.put("apple") == 1
            with pytest.raises(Refused, match="there is no other voter"):
                await node.transfer()
        with pytest.raises(RuntimeError, match="started once"):
            await node.__aenter__()

    run(scenario, kind)


@loops
def test_calls_at_once_share_entries_and_keep_their_order(tmp_path: Path, kind: str) -> None:
    """Calls that come together go into few entries of the log, in their order; each gets its own result."""

    async def scenario() -> None:
        await init(tmp_path, address())
        async with Node(tmp_path, Shop()) as node:
            before = node.server.raft.last_applied
            assert await all_of(*[node.machine.note(str(n)) for n in range(500)]) == list(range(1, 501))
            assert node.server.raft.last_applied - before <= 4
            assert await all_of(*[node.machine.left("x") for _ in range(500)]) == [0] * 500
            assert node.server.raft.last_applied - before <= 8

    run(scenario, kind)


def test_arguments_are_checked_before_anything_is_sent(tmp_path: Path) -> None:
    """Wrong numbers, names, types and sizes of arguments raise in the caller, and the log does not grow."""

    async def scenario() -> None:
        await init(tmp_path, address())
        async with Node(tmp_path, Shop(), settings=Settings(command_bytes=100)) as node:
            shop = node.machine
            await shop.put("apple")
            before = node.server.raft.last_applied
            with pytest.raises(TypeError, match="too many"):
                await shop.put("apple", 1, 2)  # type: ignore[call-arg]
            with pytest.raises(TypeError, match="unexpected"):
                await shop.put("apple", m=1)  # type: ignore[call-arg]
            with pytest.raises(TypeError, match="cannot be packed"):
                await shop.put(object())  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="command_bytes"):
                await shop.note("x" * 100)
            assert node.server.raft.last_applied == before

    run(scenario)


def test_result_that_cannot_travel_fails_its_command(tmp_path: Path) -> None:
    """A result above the limit is an error of the command, which is rolled back; the server goes on."""

    async def scenario() -> None:
        await init(tmp_path, address())
        async with Node(tmp_path, Shop()) as node:
            with pytest.raises(ValueError, match="the result takes"):
                await node.machine.burst()
            assert await node.machine.note("next") == 1

    run(scenario)


def test_more_calls_than_may_wait_wait_for_room(tmp_path: Path) -> None:
    """With room for two calls a hundred of them are all done, in order; a cancelled one gives its place on."""

    async def scenario() -> None:
        await init(tmp_path, address())
        async with Node(tmp_path, Shop(), settings=Settings(pending_calls=2)) as node:
            await until(lambda: node._registry.facts and not node._calls.outbox._open)
            calls = [asyncio.ensure_future(node.machine.note(str(n))) for n in range(100)]
            await asyncio.sleep(0)
            assert len(node._calls.outbox._open) <= 3  # and the one that opens the session
            calls[50].cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(results.pop(50), asyncio.CancelledError)
            assert results == list(range(1, 100))
            assert len(node._calls.outbox._open) == 0

    run(scenario)


def test_without_a_leader_a_call_ends_in_time(tmp_path: Path) -> None:
    """Where nobody leads a call ends with the word that it was not sent, a query with the word that nobody answers."""

    async def scenario() -> None:
        await init(tmp_path, address())
        async with Node(tmp_path, Shop()) as node:
            await node.machine.put("apple")
            node._find = lambda: None
            node._calls.outbox._find = lambda: None
            node._reads._round = no_leader
            with node.timeout(0.1), pytest.raises(Unknown, match="was not sent") as caught:
                await node.machine.put("apple")
            assert not caught.value.sent
            with pytest.raises(ValueError, match="never sent"):
                await node.outcome(caught.value)
            with node.timeout(0.1), pytest.raises(Unavailable, match="no answer in time to left"):
                await node.machine.left("apple")

    async def no_leader() -> None:
        raise aio.RaftError(RAFT_LEADERSHIPLOST)

    run(scenario)


def test_lost_answers_count_once_and_can_be_made_certain(tmp_path: Path) -> None:
    """A call whose answers are lost is sent again and counts once; one that is late is made certain later on."""

    async def scenario() -> None:
        await init(tmp_path, address())
        async with Node(tmp_path, Shop()) as node:
            send, lost = node._proposer.send, []

            def losing(calls: list[list[object]], done: object) -> None:
                lost.append(len(calls))
                deaf = len(lost) <= 3
                send(calls, (lambda outcomes: done(None)) if deaf else done)  # type: ignore[operator, arg-type]

            node._proposer.send = losing
            assert await node.machine.put("apple") == 1
            assert len(lost) > 3
            assert await node.machine.left("apple") == 1

            sent = asyncio.Event()

            def deaf(calls: list[list[object]], done: object) -> None:
                send(calls, lambda outcomes: None)
                sent.set()

            node._proposer.send = deaf
            late = asyncio.ensure_future(node.machine.put("apple"))
            await sent.wait()
            waiting = node._calls.outbox._open
            waiting.update(dict.fromkeys(waiting, 0.0))
            with pytest.raises(Unknown, match="may have happened") as caught:
                await late
            assert caught.value.sent
            node._proposer.send = send
            assert await node.machine.put("pear") == 1  # does not acknowledge the one before
            assert await node.outcome(caught.value) == 2
            assert await node.machine.left("apple") == 2
            with pytest.raises(Unknown, match="nobody can know"):
                await node.outcome(caught.value)

    run(scenario)


def test_forgotten_session_is_replaced(tmp_path: Path) -> None:
    """A call under a session that the cluster has forgotten goes on under a new one, if it was sent only once."""

    async def scenario() -> None:
        await init(tmp_path, address())
        async with Node(tmp_path, Shop()) as node:
            assert await node.machine.put("apple") == 1
            first = node._calls._session
            expire(node)
            assert await all_of(node.machine.put("apple"), node.machine.put("apple")) == [2, 3]
            assert node._calls._session is not first

            send = node._proposer.send
            expired = node._replica.codec.pack([EXPIRED])
            times = []

            def once_lost(calls: list[list[object]], done: object) -> None:
                times.append(1)
                answer = None if len(times) == 1 else [expired] * len(calls)
                send(calls, lambda outcomes: done(answer))  # type: ignore[operator]

            node._proposer.send = once_lost
            with pytest.raises(Unknown, match="session of put"):
                await node.machine.put("apple")

    def expire(node: Node[Shop]) -> None:
        sessions = node._replica.sessions
        checkpoint = sessions.checkpoint()
        sessions.expire(1 << 62)
        sessions.keep(checkpoint)

    run(scenario)


def test_acknowledged_outcomes_are_forgotten(tmp_path: Path) -> None:
    """A session keeps the outcomes of its calls only until later calls acknowledge them."""

    async def scenario() -> None:
        await init(tmp_path, address())
        async with Node(tmp_path, Shop()) as node:
            for _ in range(20):
                await node.machine.put("apple")
            (session,) = node._replica.sessions.sessions.values()
            assert len(session.outcomes) == 1

    run(scenario)


def test_closed_and_stopped_nodes_end_all_that_waits(tmp_path: Path) -> None:
    """Calls that wait when a node is closed get Stopped, and so does all when the server stops by itself, with why."""

    async def scenario() -> None:
        await init(tmp_path, address())
        node = Node(tmp_path, Shop())
        with pytest.raises(Stopped, match="not started"):
            _ = node.id
        async with node:
            node._calls.outbox._find = lambda: None
            waiting = asyncio.ensure_future(node.machine.put("apple"))
            await asyncio.sleep(0)
            await node.close()
            await node.close()
            with pytest.raises(Stopped, match="closed"):
                await waiting
        with pytest.raises(RuntimeError, match="once"):
            await node.__aenter__()

        async with Node(tmp_path, Shop()) as node:

            def failing(fsm: object, buf: object) -> None:
                raise MemoryError("no more")

            node._replica.apply = failing  # type: ignore[assignment]
            with pytest.raises(Stopped, match="no more") as caught:
                await node.machine.put("apple")
            assert isinstance(caught.value.__cause__, aio.RaftError)
            with pytest.raises(Stopped):
                await node.machine.put("apple")
            with pytest.raises(Stopped):
                await node.machine.left("apple")

    run(scenario)


def test_directories_that_are_no_members(tmp_path: Path) -> None:
    """A node starts on a member's directory only, and says of others what to do; a log that is gone stays gone."""

    async def scenario() -> None:
        async def refused(match: str) -> None:
            with pytest.raises(Refused, match=match):
                async with Node(where, Shop()):
                    pass

        where = tmp_path / "1"
        await refused("pyraft init")
        where.mkdir()
        await refused("pyraft join")
        for phase in (FOUNDING, JOINING):
            write(where, Identity(7, "127.0.0.1:1", "ab" * 16, phase))
            await refused("interrupted: run it again, with --address 127.0.0.1:1")
        write(where, Identity(7, "127.0.0.1:1", "ab" * 16, MEMBER))
        await refused("has lost its log")
        for text in ("", "[]", '{"format": 2}', '{"format": 1, "id": 0}', "[" * 100_000):
            (where / NODE_FILE).write_text(text)
            await refused("does not say who this server is")
        (where / NODE_FILE).rename(tmp_path / "elsewhere")
        kinds = (Path.mkdir, os.mkfifo, lambda path: path.symlink_to(tmp_path / "elsewhere"))
        for make in kinds:
            make(where / NODE_FILE)
            await refused("is not a file, but a link or something else")
            (where / NODE_FILE).rename(tmp_path / f"was-{kinds.index(make)}")
        (where / "other").touch()
        with pytest.raises(Refused, match="is not empty"):
            await init(where, address())
        (where / "other").unlink()
        with pytest.raises(Refused, match="no server can be reached"):
            await init(where, "nowhere")
        with pytest.raises(Refused, match=r"'127\.0\.0\.1:http' is not of the form HOST:PORT"):
            await init(where, "127.0.0.1:http")  # raft could use it, and this layer's links could not
        assert read(where) is None
        await init(where, address())
        with pytest.raises(Refused, match="belongs to member"):
            await init(where, address())
        async with Node(where, Shop()) as node:
            await node.machine.put("apple")
        for path in where.iterdir():
            if path.name != NODE_FILE:
                path.unlink()
        await refused("has lost its log")

    run(scenario)


def test_member_that_has_joined_starts_without_a_log(tmp_path: Path) -> None:
    """A server that nobody has sent an entry yet has none to lose."""

    async def scenario() -> None:
        write(tmp_path, Identity(7, address(), "ab" * 16, JOINED))
        async with Node(tmp_path, Shop(), settings=QUICK) as node:
            assert node.leader == (0, None)
            with node.timeout(0.1), pytest.raises(Unknown, match="was not sent"):
                await node.machine.put("apple")
        found = read(tmp_path)
        assert found is not None
        assert found.phase == JOINED

    run(scenario)


def test_second_node_on_a_directory_is_told_who_has_it(tmp_path: Path) -> None:
    """The lock of a directory keeps others out, and its owner is named."""

    async def scenario() -> None:
        await init(tmp_path, address())
        async with Node(tmp_path, Shop()):
            with pytest.raises(Refused, match=r"in use by (this process|another server)"):
                async with Node(tmp_path, Shop()):
                    pass

    run(scenario)


def test_init_that_is_killed_anywhere_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind every change of the directory: a start is refused, or works; the next init completes it, or is refused."""
    where, own = tmp_path / "1", address()
    where.mkdir()
    with monkeypatch.context() as patch:
        recorder = Recorder(patch, where)
        run(lambda: initialise(where, own))
    images = [image for _, image, _ in recorder.images]
    assert len(images) > 10
    outcomes = []

    async def go_on(dir: Path) -> None:
        before = read(dir)
        started = "starts"
        try:
            async with Node(dir, Shop()) as node:
                await node.machine.put("apple")
        except Refused:
            started = "refused"
        completed = "completed"
        try:
            after = await init(dir, own)
        except Refused:
            completed = "done before"
            after = read(dir)  # type: ignore[assignment]
        assert before is None or (before.id, before.cluster) == (after.id, after.cluster)
        async with Node(dir, Shop()) as node:
            assert await node.machine.put("pear") == 1
        outcomes.append((started, completed))

    for number, image in enumerate(images):
        dir = put(image, tmp_path / f"image{number}")
        run(lambda dir=dir: go_on(dir))
    assert set(outcomes) == {("refused", "completed"), ("starts", "done before")}


async def initialise(where: Path, own: str) -> None:
    await init(where, own)


def test_two_inits_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another init has written, before this one had the lock, is not written over."""
    other = Identity(7, "127.0.0.1:1", "ab" * 16, MEMBER)
    server = Ground.server

    def late(ground: Ground, fsm: RaftFsm, identity: Identity) -> aio.Server:
        write(tmp_path, other)
        return server(ground, fsm, identity)

    monkeypatch.setattr(Ground, "server", late)

    async def scenario() -> None:
        with pytest.raises(Refused, match="another process has changed"):
            await init(tmp_path, address())
        assert read(tmp_path) == other

    run(scenario)


def test_directories_are_made_durably(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every directory that init makes is synced into the one above it."""
    synced = []
    sync_dir = fs.sync_dir

    def recording(dir: str) -> None:
        synced.append(Path(dir))
        sync_dir(dir)

    monkeypatch.setattr(fs, "sync_dir", recording)
    run(lambda: initialise(tmp_path / "a" / "b", address()))
    assert {tmp_path, tmp_path / "a", tmp_path / "a" / "b"} <= set(synced)


def test_settings_have_ranges() -> None:
    """A setting out of its range, or of another type, is refused by name."""
    for name, value in (
        ("heartbeat_msecs", 1),
        ("election_timeout_msecs", 1e9),
        ("timeout_seconds", float("nan")),
        ("timeout_seconds", "1"),
        ("voters", True),
        ("pending_calls", 0),
    ):
        with pytest.raises(ValueError, match=name):
            Settings(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at most half"):
        Settings(heartbeat_msecs=600)
    with pytest.raises(TypeError):
        Settings(5)


def test_exceptions_that_do_not_travel(tmp_path: Path) -> None:
    """An exception of a class that nobody has named arrives as CommandFailed, with its name and text."""

    class Odd(Exception):
        pass

    class Odder(Machine):
        @command
        def fail(self) -> None:
            raise Odd("text")

    async def scenario() -> None:
        await init(tmp_path, address())
        async with Node(tmp_path, Odder()) as node:
            with pytest.raises(CommandFailed, match="Odd: text"):
                await node.machine.fail()

    run(scenario)


def test_holder_of_a_lock_is_found(tmp_path: Path) -> None:
    """The process that has a directory's lock is known, where the system tells."""
    from pyraft.node.identity import holder

    lock = directory.lock_dir(os.fspath(tmp_path))
    try:
        assert holder(tmp_path) in (os.getpid(), None)
    finally:
        lock.release()
    assert holder(tmp_path) is None


def test_older_versions_do_not_start_where_a_member_was_killed(tmp_path: Path) -> None:
    """They would not keep its promises: while it runs, and when it was killed, they do not know the format."""
    where = tmp_path / "1"

    def format_of() -> object:
        return json.loads((where / NODE_FILE).read_bytes())["format"]

    async def scenario() -> None:
        await init(where, address())
        assert format_of() == 1
        async with Node(where, Shop()) as node:
            assert format_of() == 2
            assert node._leases._restraint.announces
            killed = (where / NODE_FILE).read_bytes()
        assert format_of() == 1
        (where / NODE_FILE).write_bytes(killed)
        async with Node(where, Shop()) as node:
            assert await node.machine.put("apple") == 1
        assert format_of() == 1

    run(scenario, "asyncio")


def test_a_member_that_cannot_note_its_promises_makes_none(tmp_path: Path) -> None:
    """It runs on, on a full disk for one, and others do not count on it."""
    where = tmp_path / "1"

    class Full(Outside):
        def write(self, directory: Directory, own: Identity) -> None:
            raise OSError(28, "No space left on device")

    async def scenario() -> None:
        await init(where, address())
        node = Node(where, Shop())
        node.outside = Full()
        async with node:
            assert not node._leases._restraint.announces
            assert await node.machine.put("apple") == 1

    run(scenario, "asyncio")
