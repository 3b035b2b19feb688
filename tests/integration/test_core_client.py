"""raft_apply, raft_barrier, raft_bootstrap, raft_recover, raft_init and raft_voter_contacts on simulated clusters."""

from collections.abc import Callable
from typing import Any

import pytest

from pyraft import (
    RAFT_BADID,
    RAFT_BUSY,
    RAFT_FOLLOWER,
    RAFT_INVALID,
    RAFT_LEADERSHIPLOST,
    RAFT_NOTLEADER,
    Raft,
    RaftApply,
    RaftBarrier,
    RaftFsm,
    RaftIo,
    raft_apply,
    raft_barrier,
    raft_bootstrap,
    raft_errmsg,
    raft_init,
    raft_recover,
    raft_voter_contacts,
    server,
)
from pyraft import client as core_client
from pyraft.fixture import raft_fixture_alive
from tests.lib import fsm as fsms
from tests.lib.cluster import Cluster
from tests.lib.covers import covers

NewCluster = Callable[..., Cluster]


def unexpected(*args: Any) -> None:
    """Be a callback that must never fire."""
    raise AssertionError(f"callback of a refused request fired with {args}")


# raft_apply


@covers("raft_apply/first")
def test_apply_first_command(new_cluster: NewCluster) -> None:
    """A leader's first command is applied, and its callback sees last_applied at the command's own index."""
    c = new_cluster(2).led()
    before = c.applied(0)
    p = c.apply(0, fsms.set_x(123))
    assert c.until_done(p) == 0
    assert p.applied > before
    assert p.applied == p.index == 3
    assert p.result == (123, 0)
    assert c.fsms[0].x == 123


@covers("raft_apply/two")
def test_apply_two_commands_one_after_the_other(new_cluster: NewCluster) -> None:
    """A second command is applied after the first."""
    c = new_cluster(2).led()
    assert c.until_done(c.apply(0, fsms.set_x(123))) == 0
    assert c.fsms[0].x == 123
    assert c.until_done(c.apply(0, fsms.set_x(124))) == 0
    assert c.fsms[0].x == 124
    c.until_applied(c.n, 4, 2000)
    assert [f.x for f in c.fsms] == [124, 124]


def test_apply_many_buffers_is_one_request_with_one_callback(new_cluster: NewCluster) -> None:
    """n buffers are n entries; the callback fires once, when the first of them is applied, with its result."""
    c = new_cluster(2).led()
    p = c.apply(0, fsms.set_x(1), fsms.add_x(10), fsms.add_y(5))
    assert p.index == 3
    assert c.last_index(0) == 5
    assert c.until_done(p) == 0
    assert p.result == (1, 0)
    assert p.applied == 3
    c.until_applied(0, 5, 1000)
    assert (c.fsms[0].x, c.fsms[0].y) == (11, 5)


def test_apply_sends_before_it_returns(new_cluster: NewCluster) -> None:
    """A command goes to the log, the disk and the followers inside raft_apply, and its callback only afterwards."""
    c = new_cluster(2).led()
    c.elapse(100)
    last = c.last_index(0)
    p = c.add_x(0)
    assert c.last_index(0) == last + 1
    assert not p.done


@covers("raft_apply/notLeader")
def test_apply_on_a_follower_is_refused(new_cluster: NewCluster) -> None:
    """A follower answers RAFT_NOTLEADER, says so in its message, and never fires the callback."""
    c = new_cluster(2).led()
    assert raft_apply(c.raft(1), RaftApply(), [fsms.set_x(123)], 1, unexpected) == RAFT_NOTLEADER
    assert raft_errmsg(c.raft(1)) == "server is not the leader: server 1 at 1 leads"
    assert c.last_index(1) == 2


@covers("raft_apply/leadershipLost")
def test_apply_of_a_deposed_leader_ends_with_leadership_lost(new_cluster: NewCluster) -> None:
    """When the leader steps down, the commands that wait are told RAFT_LEADERSHIPLOST."""
    c = new_cluster(2).led()
    p = c.apply(0, fsms.set_x(123))
    c.depose()
    assert c.until_done(p) == RAFT_LEADERSHIPLOST
    assert c.state(0) == RAFT_FOLLOWER


# raft_barrier


@covers("raft_barrier/cb")
def test_barrier_fires_after_all_that_was_applied_before(new_cluster: NewCluster) -> None:
    """A barrier's callback gets status 0 once every earlier command is applied."""
    c = new_cluster(2).led()
    first = c.add_x(0)
    p = c.barrier(0)
    assert c.until_done(p) == 0
    assert first.done
    assert p.index == first.index + 1
    assert p.applied == p.index
    assert len(c.fsms[0].applied) == 1


def test_barrier_on_a_follower_is_refused(new_cluster: NewCluster) -> None:
    """A follower answers RAFT_NOTLEADER to a barrier."""
    c = new_cluster(2).led()
    assert raft_barrier(c.raft(1), RaftBarrier(), unexpected) == RAFT_NOTLEADER


def test_barrier_of_a_deposed_leader_ends_with_leadership_lost(new_cluster: NewCluster) -> None:
    """A waiting barrier is told RAFT_LEADERSHIPLOST when its leader steps down, after the earlier commands."""
    c = new_cluster(2).led()
    order: list[str] = []
    first = c.add_x(0)
    second = c.barrier(0)
    first.req.cb = lambda req, status, result: order.append(f"apply {status}")
    second.req.cb = lambda req, status: order.append(f"barrier {status}")
    c.depose()
    c.elapse(100)
    assert order == [f"apply {RAFT_LEADERSHIPLOST}", f"barrier {RAFT_LEADERSHIPLOST}"]


# raft_bootstrap, raft_recover


@covers("raft_bootstrap/busy")
def test_bootstrap_of_a_started_server_is_refused(new_cluster: NewCluster) -> None:
    """raft_bootstrap answers RAFT_BUSY once the server was started."""
    c = new_cluster(1)
    c.bootstrap(1)
    c.start()
    assert raft_bootstrap(c.raft(0), c.configuration()) == RAFT_BUSY


@covers("raft_recover/busy")
def test_recover_of_a_started_server_is_refused(new_cluster: NewCluster) -> None:
    """raft_recover answers RAFT_BUSY once the server was started."""
    c = new_cluster(3)
    c.bootstrap()
    c.start()
    assert raft_recover(c.raft(0), c.configuration()) == RAFT_BUSY


# raft_init


def never(*args: Any) -> Any:
    """Be a table function that raft_init must not call."""
    raise AssertionError("called")


@covers("raft_init/incompatIoFsmAsyncSnapshotNotNull", "raft_init/incompatIoFsmAsyncSnapshotNull")
@pytest.mark.parametrize(("io_version", "async_work"), [(1, never), (2, None)])
def test_init_refuses_async_snapshots_without_async_work(io_version: int, async_work: Any) -> None:
    """A version 3 FSM with snapshot_async needs a version 2 I/O table with async_work."""
    r, io, fsm = Raft(), RaftIo(), RaftFsm()
    io.version = io_version
    io.async_work = async_work
    io.init = never
    fsm.version = 3
    fsm.snapshot_async = never
    assert raft_init(r, io, fsm, 1, "1") == -1
    assert raft_errmsg(r) == "async snapshot requires io->version > 1 and async_work method."


@covers("raft_init/ioVersionNotSet", "raft_init/fsmVersionNotSet")
@pytest.mark.parametrize(
    ("io_version", "fsm_version", "text"),
    [(0, 3, "io->version must be set"), (2, 0, "fsm->version must be set")],
)
def test_init_refuses_version_zero(io_version: int, fsm_version: int, text: str) -> None:
    """A table of version 0 is refused with a text that names it."""
    r, io, fsm = Raft(), RaftIo(), RaftFsm()
    io.version = io_version
    io.init = never
    fsm.version = fsm_version
    assert raft_init(r, io, fsm, 1, "1") == -1
    assert raft_errmsg(r) == text


def test_init_passes_on_the_error_of_io_init() -> None:
    """A code that io.init returns is raft_init's, and its text is prefixed with "io: "."""

    def init(io: RaftIo, id: int, address: str) -> int:
        io.errmsg = f"no luck for {id} at {address}"
        return 18

    r, io, fsm = Raft(), RaftIo(), RaftFsm()
    io.init = init
    fsm.apply = never
    assert raft_init(r, io, fsm, 7, "x") == 18
    assert raft_errmsg(r) == "io: no luck for 7 at x"


class Methods(RaftFsm):
    """The first thing that a Python programmer may try: methods with the names of the table's functions."""

    def apply(self, buf: bytes) -> tuple[int, Any]:  # type: ignore[override]  # the mistake that this is about
        """Never get called: RaftFsm.__init__ has set the attribute of this name."""
        return 0, None


@pytest.mark.parametrize(
    ("fsm", "id", "address", "rv", "text"),
    [
        (fsms.PairFsm(), 0, "1", RAFT_BADID, "0 is not a server ID"),
        (fsms.PairFsm(), 1 << 64, "1", RAFT_BADID, "is not a server ID"),
        (fsms.PairFsm(), "1", "1", RAFT_BADID, "'1' is not a server ID"),
        (fsms.PairFsm(), 1, None, RAFT_INVALID, "None is not an address"),
        (fsms.PairFsm(), 1, "1\0", RAFT_INVALID, "is not an address"),
        (RaftFsm(), 1, "1", RAFT_INVALID, "fsm.apply must be set"),
        (Methods(), 1, "1", RAFT_INVALID, "fsm.apply must be set"),
    ],
)
def test_init_refuses_what_cannot_work(fsm: RaftFsm, id: Any, address: Any, rv: int, text: str) -> None:
    """Arguments that C's compiler, or its first call of a null pointer, would refuse are refused with a text."""
    r, io = Raft(), RaftIo()
    io.init = never
    if not (isinstance(id, int) and isinstance(address, str)) and not server.__file__.endswith(".py"):
        with pytest.raises(TypeError):  # the compiled core checks types by itself
            raft_init(r, io, fsm, id, address)
        return
    try:
        assert raft_init(r, io, fsm, id, address) == rv
    except TypeError:
        # A compiled function has its arguments' types checked before it runs.
        assert core_client.__file__.endswith(".so")
        return
    assert text in raft_errmsg(r)


# raft_voter_contacts


@covers("raft_voter_contacts/upToDate")
def test_voter_contacts_counts_who_was_heard_from(new_cluster: NewCluster) -> None:
    """The leader counts all live voters, the others answer -1; a killed server leaves and a revived one returns."""
    c = new_cluster(3).led()

    def check(expected: int) -> None:
        for i in range(c.n):
            if raft_fixture_alive(c.f, i):
                assert raft_voter_contacts(c.raft(i)) == (expected if i == c.leader else -1)

    c.step(1000)
    check(3)
    old = c.leader
    assert old == 0
    c.kill(old)
    c.until_no_leader(10000)
    c.until_leader(10000)
    assert c.leader != old
    c.step(1000)
    check(2)
    c.revive(old)
    c.step(1000)
    check(3)
