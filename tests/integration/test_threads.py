"""The functions of the C API in another thread than the one that runs the loop: refused, and nothing happens."""

import inspect
import logging
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import io_uv
import pyraft
from io_uv import (
    RaftUvDial,
    RaftUvGuest,
    RaftUvTransport,
    raft_uv_close,
    raft_uv_dial,
    raft_uv_init,
    raft_uv_serve,
    raft_uv_set_auto_recovery,
    raft_uv_set_block_size,
    raft_uv_set_connect_retry_delay,
    raft_uv_set_dialer,
    raft_uv_set_handshake,
    raft_uv_set_opening,
    raft_uv_set_segment_size,
    raft_uv_set_snapshot_check,
    raft_uv_set_snapshot_compression,
    raft_uv_set_tracer,
    raft_uv_tcp_close,
    raft_uv_tcp_init,
    raft_uv_tcp_set_bind_address,
    raft_uv_tls_reload,
    raft_uv_tls_set_policy,
    raft_uv_upgrade,
)
from io_uv.tcp_common import StockHandshake, elsewhere
from pyraft import (
    RAFT_INVALID,
    RAFT_LEADER,
    RAFT_SPARE,
    Raft,
    RaftApply,
    RaftBarrier,
    RaftChange,
    RaftIo,
    RaftReadIndex,
    RaftTracer,
    RaftTransfer,
    raft_add,
    raft_apply,
    raft_assign,
    raft_barrier,
    raft_bootstrap,
    raft_close,
    raft_errmsg,
    raft_init,
    raft_last_index,
    raft_promote,
    raft_read_index,
    raft_recover,
    raft_register_state_cb,
    raft_remove,
    raft_set_election_timeout,
    raft_set_heartbeat_timeout,
    raft_set_install_snapshot_timeout,
    raft_set_max_append_bytes,
    raft_set_max_catch_up_round_duration,
    raft_set_max_catch_up_rounds,
    raft_set_max_inflight_bytes,
    raft_set_pre_vote,
    raft_set_snapshot_threshold,
    raft_set_snapshot_trailing,
    raft_start,
    raft_state,
    raft_transfer,
)
from tests.lib.compiled import COMPILED
from tests.lib.looping import World
from tests.lib.solo import leader

TEXT = "a call from another thread than the one that runs the server's loop does nothing"
LOOP_TEXT = "another thread runs the loop: pyuv.Async.send gets there"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Yield a server on a loop that nobody runs yet."""
    made = World(tmp_path)
    yield made
    made.end()


def unexpected(*args: Any) -> Any:
    """Be a callback that must never fire."""
    raise AssertionError(f"a refused call was called back with {args}")


def a_guest(world: World) -> RaftUvGuest:
    """Return a guest of the transport; its stream is not looked at."""
    stream: Any = None
    return RaftUvGuest(world.transport, stream, b"", "", {})


CALLS: dict[str, Callable[[World], int]] = {
    "raft_init": lambda w: raft_init(Raft(), w.io, w.fsm, 1, w.address),
    "raft_start": lambda w: raft_start(w.raft),
    "raft_bootstrap": lambda w: raft_bootstrap(w.raft, w.conf()),
    "raft_recover": lambda w: raft_recover(w.raft, w.conf()),
    "raft_apply": lambda w: raft_apply(w.raft, RaftApply(), [bytes(8)], 1, unexpected),
    "raft_barrier": lambda w: raft_barrier(w.raft, RaftBarrier(), unexpected),
    "raft_read_index": lambda w: raft_read_index(w.raft, RaftReadIndex(), unexpected),
    "raft_add": lambda w: raft_add(w.raft, RaftChange(), 2, "127.0.0.1:9", unexpected),
    "raft_assign": lambda w: raft_assign(w.raft, RaftChange(), 1, RAFT_SPARE, unexpected),
    "raft_promote": lambda w: raft_promote(w.raft, RaftChange(), 1, unexpected),
    "raft_remove": lambda w: raft_remove(w.raft, RaftChange(), 1, unexpected),
    "raft_transfer": lambda w: raft_transfer(w.raft, RaftTransfer(), 0, unexpected),
    "raft_close": lambda w: raft_close(w.raft, unexpected),
    "raft_uv_init": lambda w: raft_uv_init(RaftIo(), w.loop, "nowhere", w.transport),
    "raft_uv_dial": lambda w: raft_uv_dial(w.transport, RaftUvDial(), 2, "127.0.0.1:9", unexpected),
    "raft_uv_tls_reload": lambda w: raft_uv_tls_reload(w.transport),
    "raft_uv_tcp_init": lambda w: raft_uv_tcp_init(RaftUvTransport(), w.loop),
    "raft_uv_tcp_set_bind_address": lambda w: raft_uv_tcp_set_bind_address(w.transport, "127.0.0.1:9"),
    "raft_uv_tls_set_policy": lambda w: raft_uv_tls_set_policy(w.transport, unexpected),
    "raft_uv_set_dialer": lambda w: raft_uv_set_dialer(w.transport, unexpected),
    "raft_uv_set_handshake": lambda w: raft_uv_set_handshake(w.transport, StockHandshake()),
    "raft_uv_set_opening": lambda w: raft_uv_set_opening(w.transport, unexpected),
    "raft_uv_set_snapshot_compression": lambda w: raft_uv_set_snapshot_compression(w.io, False),
    "raft_uv_serve": lambda w: raft_uv_serve(w.transport, 7, unexpected),
    "raft_uv_upgrade": lambda w: raft_uv_upgrade(a_guest(w), 2, "127.0.0.1:9"),
}

VOID: dict[str, Callable[[World], object]] = {
    "raft_register_state_cb": lambda w: raft_register_state_cb(w.raft, unexpected),
    "raft_set_election_timeout": lambda w: raft_set_election_timeout(w.raft, 77),
    "raft_set_heartbeat_timeout": lambda w: raft_set_heartbeat_timeout(w.raft, 77),
    "raft_set_install_snapshot_timeout": lambda w: raft_set_install_snapshot_timeout(w.raft, 77),
    "raft_set_max_append_bytes": lambda w: raft_set_max_append_bytes(w.raft, 77),
    "raft_set_max_catch_up_round_duration": lambda w: raft_set_max_catch_up_round_duration(w.raft, 77),
    "raft_set_max_catch_up_rounds": lambda w: raft_set_max_catch_up_rounds(w.raft, 77),
    "raft_set_max_inflight_bytes": lambda w: raft_set_max_inflight_bytes(w.raft, 77),
    "raft_set_pre_vote": lambda w: raft_set_pre_vote(w.raft, True),
    "raft_set_snapshot_threshold": lambda w: raft_set_snapshot_threshold(w.raft, 77),
    "raft_set_snapshot_trailing": lambda w: raft_set_snapshot_trailing(w.raft, 77),
    "raft_uv_set_auto_recovery": lambda w: raft_uv_set_auto_recovery(w.io, False),
    "raft_uv_set_block_size": lambda w: raft_uv_set_block_size(w.io, 77),
    "raft_uv_set_connect_retry_delay": lambda w: raft_uv_set_connect_retry_delay(w.io, 77),
    "raft_uv_set_segment_size": lambda w: raft_uv_set_segment_size(w.io, 77),
    "raft_uv_set_snapshot_check": lambda w: raft_uv_set_snapshot_check(w.io, unexpected),
    "raft_uv_set_tracer": lambda w: raft_uv_set_tracer(w.io, RaftTracer()),
    "raft_uv_close": lambda w: raft_uv_close(w.io),
    "raft_uv_tcp_close": lambda w: raft_uv_tcp_close(w.transport),
}
"""Those that return nothing, of which only the log tells."""

NOT_HELD = {
    "raft_uv_tls_init": "it ends as raft_uv_tcp_init does",
    "raft_uv_limits": "a question",
    **dict.fromkeys(("raft_errmsg", "raft_state", "raft_role", "raft_leader", "raft_strerror"), "a question"),
    **dict.fromkeys(("raft_last_index", "raft_last_applied", "raft_voter_contacts", "raft_digest"), "a question"),
}


def values(world: World) -> list[object]:
    """Return all that the setters set."""
    names = ("auto_recovery", "block_size", "connect_retry_delay", "segment_size", "snapshot_check", "tracer")
    r, uv, t = world.raft, world.io.impl, world.transport.impl
    core = ["election_timeout", "heartbeat_timeout", "install_snapshot_timeout", "max_append_bytes", "pre_vote"]
    core += ["max_catch_up_rounds", "max_catch_up_round_duration", "max_inflight_bytes"]
    return [
        *(getattr(uv, name) for name in (*names, "snapshot_compression")),
        *(getattr(r, name) for name in core),
        *(r.snapshot.threshold, r.snapshot.trailing, r.callbacks.state_cb),
        *(t.bind_address, t.dialer, t.dialer_limited, t.handshake, t.opening, dict(t.services)),
    ]


@pytest.mark.skipif(COMPILED, reason="compiled functions do not say of what types their parameters are")
def test_every_function_of_a_server_is_tried_here() -> None:
    """Each public function that takes a server, a table, a loop or a transport has a row, or a reason for none."""
    found = set()
    for module in (pyraft, io_uv):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value) and not name.startswith("raft_fixture"):
                kinds = " ".join(str(parameter) for parameter in inspect.signature(value).parameters.values())
                if re.search(r"\b(_?Raft|RaftIo|Loop|RaftUvTransport|RaftUvGuest)\b", kinds):
                    found.add(name)
    assert found == {*CALLS, *VOID} | {name for name in NOT_HELD if name in found}


def test_setters_do_nothing_and_say_so(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The log has a line for each function that has no code to return, and no value has changed."""
    world.begin()
    before = values(world)
    for name, call in VOID.items():
        caplog.clear()
        call(world)
        where = TEXT if not name.startswith("raft_uv") else f"{name} does nothing: {LOOP_TEXT}"
        assert [record.getMessage().split("server 1: ")[-1] for record in caplog.records] == [where], name
    assert values(world) == before


def test_every_call_is_refused(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """RAFT_INVALID, with the reason, also in the middle of a call of the loop's thread; and the server goes on."""
    world.begin()
    last = raft_last_index(world.raft)
    world.transport.impl.security = "of no use"
    world.raft.inside = True  # the loop's thread could be in the middle of a call
    for name, call in CALLS.items():
        assert call(world) == RAFT_INVALID, name
        if name in ("raft_uv_dial", "raft_uv_tls_reload"):
            assert world.transport.errmsg == LOOP_TEXT
        if name.startswith("raft_uv"):
            continue
        assert name == "raft_init" or raft_errmsg(world.raft) == TEXT, name
    world.raft.inside = False
    world.transport.impl.security = None
    raft_uv_close(world.io)
    raft_uv_tcp_close(world.transport)
    assert (raft_last_index(world.raft), raft_state(world.raft)) == (last, RAFT_LEADER)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert told == [
        *(f"server {id}: {TEXT}" for id in (0, 1, 1)),  # raft_init, the first of the others, and raft_close
        *(f"{name} does nothing: {LOOP_TEXT}" for name in ("raft_uv_close", "raft_uv_tcp_close")),
    ]
    done = threading.Event()
    rv = world.on_loop(lambda: raft_apply(world.raft, RaftApply(), [bytes(8)], 1, lambda q, status, x: done.set()))
    assert rv == 0
    assert done.wait(120)


def test_before_and_after_a_run_any_thread_may_call(world: World) -> None:
    """Servers are made and started before the loop is run, and given back when it has ended, in the main thread."""
    world.begin()
    assert elsewhere(world.loop)
    assert raft_apply(world.raft, RaftApply(), [bytes(8)], 1, unexpected) == RAFT_INVALID
    world.on_loop(world.loop.stop)
    world.thread.join(120)
    assert not elsewhere(world.loop)
    assert raft_apply(world.raft, RaftApply(), [bytes(8)], 1, None) == 0
    world.thread = threading.Thread(target=world.loop.run)
    world.thread.start()


@pytest.mark.skipif(COMPILED, reason="compiled functions are not seen by a profile")
def test_it_costs_a_command_one_call(world: World) -> None:
    """In the loop's thread the number of the thread is asked for, once, and nothing else."""
    world.begin()
    found: Counter[str] = Counter()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            found[frame.f_code.co_name] += 1
        elif event == "c_call":
            found[argument.__name__] += 1

    def measured() -> int:
        req, bufs = RaftApply(), [bytes(8)]
        sys.setprofile(note)
        try:
            return raft_apply(world.raft, req, bufs, 1, None)
        finally:
            sys.setprofile(None)

    assert world.on_loop(measured) == 0
    assert (found["get_ident"], found["elsewhere"], found["_elsewhere"]) == (1, 0, 0)


def test_an_io_that_cannot_tell_is_not_asked() -> None:
    """The fixture and tables of one's own may leave both out, or one of them: a call from any thread is taken."""
    s = leader()
    for thread in (None, threading.get_ident):
        s.io.thread = thread
        rvs: list[int] = []
        caller = threading.Thread(target=lambda rvs=rvs: rvs.append(raft_apply(s.r, RaftApply(), [bytes(8)], 1, None)))
        caller.start()
        caller.join()
        assert rvs == [0]
