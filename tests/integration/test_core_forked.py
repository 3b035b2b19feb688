"""The core in a forked child, as far as it hears of it: `io.forked` closes a server without a word."""

from collections.abc import Callable

import pytest

from pyraft import (
    RAFT_LEADER,
    RAFT_SHUTDOWN,
    RAFT_SPARE,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    Raft,
    RaftApply,
    RaftBarrier,
    RaftChange,
    RaftFsm,
    RaftIo,
    RaftTransfer,
    raft_add,
    raft_apply,
    raft_assign,
    raft_barrier,
    raft_bootstrap,
    raft_close,
    raft_errmsg,
    raft_init,
    raft_leader,
    raft_promote,
    raft_recover,
    raft_register_state_cb,
    raft_remove,
    raft_start,
    raft_state,
    raft_transfer,
)
from pyraft import fixture as fx
from tests.lib import messages as msg
from tests.lib.solo import ScriptIo, Solo, Statuses, command, configuration, leader

VOTERS = (RAFT_VOTER, RAFT_VOTER)


def fork(s: Solo) -> None:
    """Tell a server that it is a copy."""
    assert s.io.forked is not None
    s.io.forked(s.io, "this is a copy")


CALLS: dict[str, Callable[[Raft, Statuses], int]] = {
    "raft_apply": lambda r, cb: raft_apply(r, RaftApply(), [bytes(8)], 1, cb),
    "raft_barrier": lambda r, cb: raft_barrier(r, RaftBarrier(), cb),
    "raft_add": lambda r, cb: raft_add(r, RaftChange(), 9, "9", cb),
    "raft_assign": lambda r, cb: raft_assign(r, RaftChange(), 2, RAFT_SPARE, cb),
    "raft_promote": lambda r, cb: raft_promote(r, RaftChange(), 2, cb),
    "raft_remove": lambda r, cb: raft_remove(r, RaftChange(), 2, cb),
    "raft_transfer": lambda r, cb: raft_transfer(r, RaftTransfer(), 0, cb),
    "raft_start": lambda r, cb: raft_start(r),
    "raft_bootstrap": lambda r, cb: raft_bootstrap(r, configuration(*VOTERS)),
    "raft_recover": lambda r, cb: raft_recover(r, configuration(*VOTERS)),
    "raft_close": lambda r, cb: raft_close(r, cb),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_call_is_refused(name: str) -> None:
    """RAFT_SHUTDOWN, with the reason, no callback, and no function of the I/O is called."""
    s = leader(*VOTERS)
    seen = Statuses()
    fork(s)
    before = s.io.names()
    assert CALLS[name](s.r, seen) == RAFT_SHUTDOWN
    assert raft_errmsg(s.r) == "this is a copy"
    assert seen.seen == []
    assert s.io.names() == before


def test_nobody_is_called_back_and_the_state_says_so() -> None:
    """Pending requests are pending in the parent; the copy is UNAVAILABLE, and knows no leader."""
    s = leader(*VOTERS)
    seen, states = Statuses(), []
    raft_register_state_cb(s.r, lambda r, old, new: states.append(new))
    command(s, 1, seen)
    fork(s)
    assert raft_state(s.r) == RAFT_UNAVAILABLE
    assert raft_leader(s.r) == (0, None)
    s.io.finish_appends()
    s.tick(5000)
    s.recv(msg.append_entries(2, 9, 0, 0))
    assert (seen.seen, states) == ([], [])


def test_a_fork_inside_the_state_machine() -> None:
    """The rest of the call that applied an entry does nothing more."""
    s = leader(*VOTERS)
    apply, applied, seen = s.r.fsm.apply, [], Statuses()

    def apply_and_fork(fsm: RaftFsm, buf: bytes) -> tuple[int, object]:
        applied.append(buf)
        fork(s)
        return apply(fsm, buf)

    s.r.fsm.apply = apply_and_fork
    for value in (1, 2, 3):
        command(s, value, seen)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, s.r.current_term, s.r.last_stored))
    assert len(applied) == 1
    assert raft_state(s.r) == RAFT_UNAVAILABLE


def test_init_makes_it_new_on_another_table() -> None:
    """A copy is like a closed server: raft_init takes it, and the old table is out of it."""
    s = leader(*VOTERS)
    fork(s)
    fresh = ScriptIo()
    assert raft_init(s.r, fresh, s.r.fsm, 1, "1") == 0
    assert raft_start(s.r) == 0
    assert not s.r.forked


def test_the_fixture_needs_no_such_thing() -> None:
    """A table that never calls it is as good."""
    f = fx.RaftFixture()
    assert fx.raft_fixture_init(f) == 0
    assert RaftIo().forked is None
    fx.raft_fixture_close(f)
    assert leader(*VOTERS).state == RAFT_LEADER
