"""The calls that the callbacks of the second table of pyraft/CALLBACKS.md may make: each word of its column is tried.

"As above" leads to the first table, which test_callbacks tries. "All" is tried on a server over io_uv, "questions" in
threads and inside public functions, and `raft_close` inside each function of a RaftIo table.
"""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import (
    RaftUvDial,
    RaftUvTransport,
    raft_uv_close,
    raft_uv_dial,
    raft_uv_init,
    raft_uv_serve,
    raft_uv_set_snapshot_check,
)
from io_uv.pyuv import Loop
from pyraft import (
    RAFT_BUSY,
    RAFT_INVALID,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_NOTLEADER,
    RAFT_SHUTDOWN,
    RAFT_UNAVAILABLE,
    Raft,
    RaftApply,
    RaftChange,
    RaftFsm,
    RaftIo,
    RaftIoAsyncWork,
    RaftIoSnapshotPut,
    RaftTracer,
    fixture,
    raft_add,
    raft_apply,
    raft_close,
    raft_init,
    raft_last_index,
    raft_set_snapshot_threshold,
    raft_start,
    raft_state,
)
from tests.integration.test_callbacks import TABLE, table
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.aio_world import World as AioWorld
from tests.lib.aio_world import run as run_aio
from tests.lib.cluster import Cluster
from tests.lib.looping import World
from tests.lib.peer import Connection, connect, port_of, words
from tests.lib.solo import Solo, command, leader
from tests.lib.uvnode import Node, free_addresses
from tests.lib.uvtest import run_until, snapshot

WORD = 77


def rows() -> dict[str, str]:
    """Return what the second table says of the calls inside, by callback."""
    section = TABLE.read_text().split("## Threads")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line[:1] == "|"]
    assert cells[0][3] == "inside it"
    return {row[0]: row[3] for row in cells[2:]}


def word(name: str) -> str:
    """Return the word of the row that begins so."""
    [found] = [inside for callback, inside in rows().items() if callback.startswith(name)]
    return found


def test_every_word_is_one_that_is_explained() -> None:
    """Two rows have two callbacks with a word each."""
    several = {"all; the function of words questions", "as what has raised; `Loop.excepthook` all"}
    assert {*rows().values()} - several == {"as above", "all", "`raft_close`", "questions", "not yours"}


def test_as_above_leads_to_the_first_table() -> None:
    """Each callback of such a row has rows there; the state callback of aio is that of the core."""
    above = [name for name, inside in rows().items() if inside == "as above"]
    for row in above:
        for callback in re.findall(r"`[\w.]+`", row.split(", of ")[0]):
            assert callback == "`aio.Server.on_state`" or any(key.startswith(callback) for key in table()), callback
    assert len(above) > 8


# All.


class Everything:
    """Calls everything inside a callback, at its first call; `codes` has what came back."""

    def __init__(self, r: Any, io: Any, fsm: Any, ends: bool) -> None:
        self.r, self.io, self.fsm = r, io, fsm
        self.ends = ends
        self.codes: list[int] = []
        self.statuses: list[int] = []
        self.closed = False

    def __call__(self, *args: object) -> None:
        if self.codes:
            return
        self.codes.append(raft_start(self.r))
        self.codes.append(raft_init(self.r, self.io, self.fsm, 1, "127.0.0.1:1"))
        self.codes.append(raft_apply(self.r, RaftApply(), [fsms.set_x(1)], 1, lambda q, s, x: self.statuses.append(s)))
        if self.ends:
            self.codes.append(raft_close(self.r, lambda r: self._end()))

    def _end(self) -> None:
        self.closed = True

    def check(self) -> None:
        """The codes are those of the word, and the request was called back, with the server closed if it was."""
        assert self.codes == [RAFT_BUSY, RAFT_BUSY, 0] + [0] * self.ends
        assert len(self.statuses) == 1
        assert self.ends or self.statuses == [0]
        assert self.closed == self.ends


def visit(node: Node) -> Connection:
    """Connect as a guest."""
    peer = connect(node.loop, port_of(node.transport))
    peer.send(words(WORD))
    return peer


def served(node: Node, everything: Everything) -> Connection:
    """raft_uv_serve_cb."""
    assert raft_uv_serve(node.transport, WORD, lambda transport, guest: everything()) == 0
    return visit(node)


def guest_closed(node: Node, everything: Everything) -> Connection:
    """closed_cb of a guest."""

    def begin(transport: Any, guest: Any) -> None:
        guest.closed_cb = everything
        guest.stream.close()

    assert raft_uv_serve(node.transport, WORD, begin) == 0
    return visit(node)


def dialled(node: Node, everything: Everything) -> None:
    """raft_uv_dial_cb."""

    def cb(req: Any, stream: Any, status: int) -> None:
        everything()
        stream.close()

    assert raft_uv_dial(node.transport, RaftUvDial(), 0, node.members[1], cb) == 0


def excepted(node: Node, everything: Everything) -> None:
    """Loop.excepthook, for an exception of a callback of raft_apply."""

    def fail(req: Any, status: int, result: Any) -> None:
        raise ArithmeticError

    node.loop.excepthook = lambda typ, value, tb: everything()
    assert raft_apply(node.raft, RaftApply(), [bytes(8)], 1, fail) == 0


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """Yield the only voter of a cluster, which leads."""
    loop = Loop()
    made = Node(tmp_path, 1, free_addresses(1), loop).start()
    assert made.state == RAFT_LEADER
    yield made
    made.close()
    loop.close()


ALL: dict[str, Callable[[Node, Everything], Connection | None]] = {
    "`raft_uv_serve_cb`": served,
    "`closed_cb` of a guest": guest_closed,
    "`raft_uv_dial_cb`": dialled,
    "`Loop.excepthook`": excepted,
}


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_everything_may_be_called(node: Node, name: str, ends: bool) -> None:
    """It gets the codes of any turn of the loop, and the server goes on, or closes."""
    assert [inside for row, inside in rows().items() if name in row and "all" in inside]
    everything = Everything(node.raft, node.io, node.fsm, ends)
    peer = ALL[name](node, everything)
    run_until(node.loop, lambda: everything.statuses and (everything.closed or not ends))
    if peer is not None:
        peer.close()
    everything.check()
    node.closed = ends


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("until", [False, True])
def test_everything_may_be_called_by_the_functions_that_the_fixture_asks(until: bool, ends: bool) -> None:
    """The hook after an event, the test before a step."""
    assert word("`raft_fixture_event_cb`") == "all"
    c = Cluster(3).ready()
    c.elect(0)
    r = fixture.raft_fixture_get(c.f, 0)
    everything = Everything(r, r.io, r.fsm, ends)

    def test(f: Any, arg: object) -> bool:
        everything()
        return bool(everything.statuses)

    if until:
        assert fixture.raft_fixture_step_until(c.f, test, None, 5000)
    else:
        fixture.raft_fixture_hook(c.f, everything)
        assert fixture.raft_fixture_step_until(c.f, lambda f, arg: bool(everything.statuses), None, 5000)
    if ends:
        assert fixture.raft_fixture_step_until(c.f, lambda f, arg: everything.closed, None, 5000)
    everything.check()


@pytest.mark.parametrize("ends", [False, True])
def test_everything_may_be_called_by_the_test_of_wait_until(ends: bool) -> None:
    """It is asked outside of everything."""
    assert word("the test of `aio.Server.wait_until`") == "all"

    async def scenario() -> None:
        w = AioWorld()
        await w.lead()
        everything = Everything(w.server.raft, w.io, w.fsm, ends)
        asked = [False]

        def test() -> bool:
            if asked[0]:
                everything()
            return asked[0]

        waiting = asyncio.ensure_future(w.server.wait_until(test))
        await asyncio.sleep(0)
        asked[0] = True
        w.tick()
        if ends:
            w.io.on_close(w.io)
        else:
            w.commit(3)
        await waiting
        everything.check()
        if not ends:
            await w.close()

    run_aio(scenario)


# Questions, in threads.


class Ask:
    """Asks a question and calls what is refused, in a thread."""

    def __init__(self, w: World) -> None:
        self.w = w
        self.found: list[int] = []
        self.done = threading.Event()

    def __call__(self, *args: Any) -> None:
        r = self.w.raft
        self.found = [raft_state(r), raft_apply(r, RaftApply(), [bytes(8)], 1, None), raft_close(r, None)]
        self.done.set()


def takes_a_snapshot(w: World, ask: Ask) -> None:
    """fsm.snapshot_async."""

    def content(fsm: Any, bufs: Any) -> Any:
        ask()
        return 0, [bytes(8)]

    w.fsm.version = 3
    w.fsm.snapshot, w.fsm.snapshot_async = lambda fsm: (0, []), content
    raft_set_snapshot_threshold(w.raft, 1)
    w.begin()
    assert w.on_loop(lambda: raft_apply(w.raft, RaftApply(), [bytes(8)], 1, None)) == 0


def checks_a_snapshot(w: World, ask: Ask) -> None:
    """The check of raft_uv_set_snapshot_check."""

    def check(data: Any) -> int:
        ask()
        return RAFT_INVALID

    raft_uv_set_snapshot_check(w.io, check)
    w.begin()
    put = RaftIoSnapshotPut()
    assert w.on_loop(lambda: w.io.snapshot_put(w.io, 0, put, snapshot(9), lambda req, status: None)) == 0


def works(w: World, ask: Ask) -> None:
    """raft_io_async_work_fn."""
    req = RaftIoAsyncWork()
    req.work = lambda req: ask() or 0
    w.begin()
    assert w.on_loop(lambda: w.io.async_work(w.io, req, lambda req, status: None)) == 0


THREADS: dict[str, Callable[[World, Ask], None]] = {
    "`fsm.snapshot_async`": takes_a_snapshot,
    "the check of `raft_uv_set_snapshot_check`": checks_a_snapshot,
    "`raft_io_async_work_fn`": works,
}


@pytest.mark.parametrize("name", THREADS)
def test_questions_alone_may_be_asked_in_a_thread(tmp_path: Path, name: str) -> None:
    """All else returns RAFT_INVALID, and the server goes on."""
    assert word(name) == "questions"
    w = World(tmp_path)
    ask = Ask(w)
    THREADS[name](w, ask)
    assert ask.done.wait(120)
    assert ask.found == [RAFT_LEADER, RAFT_INVALID, RAFT_INVALID]
    assert w.on_loop(lambda: raft_state(w.raft)) == RAFT_LEADER
    w.end()


# Inside the core.


def scripted(make: Callable[[], Solo] = leader) -> Solo:
    """Return a server whose I/O stops it where a call was left in its middle, as io_uv's does."""
    s = make()

    def check(io: Any, torn: bool) -> None:
        if torn:
            io.interrupted(io, "interrupted")

    s.io.check = check
    return s


def submit(s: Solo) -> int:
    """Submit a command."""
    return raft_apply(s.r, RaftApply(), [bytes(16)], 1, None)


def add(s: Solo) -> int:
    """Add a server."""
    return raft_add(s.r, RaftChange(), 9, "9", None)


class Tracer(RaftTracer):
    """A tracer that calls something."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__()
        self.version = 2
        self.enabled = True
        self.emit = lambda *args: call()


def inside_once(s: Solo, name: str, call: Callable[[], int]) -> list[int]:
    """Have a function of the table, or "emit" of a tracer, call something the next time that it is called."""
    codes: list[int] = []

    def once() -> None:
        if not codes:
            codes.append(-1)
            codes[0] = call()

    if name == "emit":
        s.r.tracer = Tracer(once)
        return codes
    old = getattr(s.io, name)

    def hooked(*args: Any) -> Any:
        once()
        return 0 if old is None else old(*args)

    setattr(s.io, name, hooked)
    return codes


@pytest.mark.parametrize(
    ("row", "name", "public"),
    [
        ("functions of `RaftIo`", "append", submit),
        ("functions of `RaftIo`", "send", submit),
        ("`same_address`", "same_address", add),
        ("`check_address`", "check_address", add),
        ("functions of `RaftIo`", "check_configuration", add),
        ("`RaftTracer.emit`", "emit", add),
    ],
)
def test_a_request_from_the_middle_of_a_public_function_stops_the_server(row: str, name: str, public: Any) -> None:
    """It gets RAFT_NOTLEADER, while a question is answered and changes nothing."""
    assert word(row) in ("questions", "`raft_close`")
    s = scripted()
    asked = inside_once(s, name, lambda: raft_state(s.r))
    assert public(s) == 0
    assert (asked, s.state) == ([RAFT_LEADER], RAFT_LEADER)
    s = scripted()
    codes = inside_once(s, name, lambda: submit(s))
    public(s)
    assert codes == [RAFT_NOTLEADER]
    assert s.state == RAFT_UNAVAILABLE


def conflicting(s: Solo) -> None:
    """Have a leader of a later term contradict what is on its way to the disk."""
    command(s)
    s.recv(msg.append_entries(2, 9, 2, 2, 0, msg.commands([9])))


def snapshotting(s: Solo) -> None:
    """Have a snapshot taken."""
    raft_set_snapshot_threshold(s.r, 1)
    command(s)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))


def started(name: str) -> tuple[Callable[[], Solo], Callable[[Solo], object]]:
    """Return the moment of raft_start."""
    return lambda: Solo(start=False), lambda s: raft_start(s.r)


def led(drive: Callable[[Solo], object]) -> tuple[Callable[[], Solo], Callable[[Solo], object]]:
    """Return a moment of a leader."""
    return leader, drive


MOMENTS: dict[str, tuple[Callable[[], Solo], Callable[[Solo], object]]] = {
    **{name: started(name) for name in ("load", "start", "recovering", "configured")},
    "append": led(submit),
    "send": led(lambda s: s.tick()),
    "time": led(lambda s: s.tick()),
    "random": led(lambda s: s.recv(msg.append_entries(2, 9, 1, 1))),
    "set_term": led(lambda s: s.recv(msg.append_entries(2, 9, 1, 1))),
    "set_vote": (Solo, lambda s: s.recv(msg.request_vote(2, 9, 9, 9))),
    "truncate": led(conflicting),
    "snapshot_put": led(snapshotting),
    "check_address": led(add),
    "same_address": led(add),
    "check_configuration": led(add),
    "defer": led(submit),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_a_function_of_the_table_may_close_the_server(name: str) -> None:
    """All that was going on ends there, without an exception, and the callback comes once."""
    assert word("functions of `RaftIo`") == "`raft_close`"
    make, drive = MOMENTS[name]
    s = scripted(make)
    closed: list[Raft] = []
    codes = inside_once(s, name, lambda: raft_close(s.r, closed.append))
    drive(s)
    assert codes == [0]
    assert s.state == RAFT_UNAVAILABLE
    s.io.on_close(s.io)
    assert closed == [s.r]
    assert s.io.reported == []


def follow_and_lead(s: Solo) -> None:
    """Lead a server through the states, with a word to each function of the table on the way."""
    s.io.features = 0xFFFF
    s.recv(msg.append_entries(2, 2, 1, 1, 1, msg.commands([2, 2])))
    s.recv(msg.append_entries(2, 2, 3, 2, 1))
    s.recv(msg.install_snapshot(2, 2, 3, 2, s.conf, 1, fsms.content(1, 2)))  # answered when its entries are stored
    s.io.finish_appends()
    s.tick()
    s.recv(msg.append_entries(2, 2, 3, 2, 3))
    s.recv(msg.append_entries(2, 2, 3, 2, 3, msg.commands([2])))
    s.recv(msg.append_entries(3, 3, 3, 2, 3, msg.commands([3])))
    s.io.finish_appends()
    s.recv(msg.append_entries(3, 3, 4, 3, 3, msg.commands([3])))
    if s.io.appends:
        s.io.finish_append(RAFT_IOERR)
    s.recv(msg.request_vote(2, 4, 9, 4))
    for _ in range(3):
        s.tick(2000)
    s.recv(msg.request_vote_result(2, s.r.current_term))
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, s.r.current_term, raft_last_index(s.r)))
    if s.state == RAFT_LEADER:
        submit(s)
    s.io.finish_appends()
    s.tick()


@pytest.mark.parametrize("lane", [True, False])
@pytest.mark.parametrize("name", ["time", "send", "append", "random", "set_term", "set_vote", "truncate"])
def test_a_function_of_the_table_may_close_the_server_at_any_call(name: str, lane: bool) -> None:
    """Whichever call of a life it is, there is no exception, and the server is closed."""

    def live(at: int) -> tuple[int, int]:
        s = scripted(Solo)
        s.r.lane = lane
        calls = [0]
        old = getattr(s.io, name)

        def counted(*args: Any) -> Any:
            calls[0] += 1
            if calls[0] == at:
                assert raft_close(s.r, None) == 0
            return old(*args)

        setattr(s.io, name, counted)
        follow_and_lead(s)
        return calls[0], s.state

    n, state = live(0)
    assert n > 0
    assert state == RAFT_LEADER
    assert {live(at)[1] for at in range(1, n + 1)} == {RAFT_UNAVAILABLE}


def test_io_close_cannot_close_the_server_again() -> None:
    """RAFT_SHUTDOWN is the answer there."""
    s = scripted()
    codes = inside_once(s, "close", lambda: raft_close(s.r, None))
    assert raft_close(s.r, None) == 0
    assert codes == [RAFT_SHUTDOWN]


# Exceptions of own transports.


@pytest.mark.parametrize(("name", "codes"), [("init", [RAFT_IOERR]), ("listen", [0, RAFT_IOERR]), ("close", [0, 0])])
def test_an_own_transport_that_raises(
    tmp_path: Path, name: str, codes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """The exception is that of the function of RaftIo which it comes from, and all can be closed afterwards."""
    loop, transport, io, raft, fsm = Loop(), RaftUvTransport(), RaftIo(), Raft(), RaftFsm()
    transport.init = lambda t, id, address: 0
    transport.listen = lambda t, cb: 0
    transport.close = lambda t, cb: cb(t)

    def fail(*args: Any) -> Any:
        raise ZeroDivisionError("bug")

    setattr(transport, name, fail)
    fsm.version, fsm.apply = 1, lambda fsm, buf: (0, None)
    assert raft_uv_init(io, loop, tmp_path, transport) == 0
    assert [raft_init(raft, io, fsm, 1, "127.0.0.1:1"), raft_start(raft)][: len(codes)] == codes
    closed: list[Raft] = []
    raft_close(raft, closed.append)
    assert name == "init" or run_until(loop, lambda: closed) is None
    assert [record.getMessage() for record in caplog.records if record.exc_info] == [
        f"io.{'start' if name == 'listen' else name} of server 1 raised"
    ]
    raft_uv_close(io)
    loop.close()
