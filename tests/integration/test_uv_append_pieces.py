"""The callbacks of a write that brings many appends to an end: a part in each turn of the loop, in order."""

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from io_uv import pyuv, truncate
from io_uv.failure import Failure
from pyraft import errors
from pyraft.types import EntryBatch, RaftIoAppend
from tests.lib.faults import refuse_allocation
from tests.lib.uvtest import SEGMENT_SIZE, Outcome, UvIo, entry, numbers, run_until

SLOW_SECONDS = 0.012
"""Longer than the callbacks of one turn of the loop may take together, so that each has a turn of its own."""


@pytest.fixture
def t(tmp_path: Path) -> Iterator[UvIo]:
    t = UvIo(tmp_path).start()
    t.append(1, 64)
    t.submit(1, 64)  # Appends of a test gather behind this write.
    assert t.uv.append_writing_reqs
    yield t
    t.close()
    assert t.reported == []


def called(order: list[Any], name: Any, req: RaftIoAppend, status: int) -> None:
    """A callback that takes long, and notes its name and status."""
    time.sleep(SLOW_SECONDS)
    order.append((name, status))


def one(fill: int, size: int = 64) -> EntryBatch:
    """Return a batch of one entry."""
    return EntryBatch.of([entry(size, fill=fill)], 1)


def submit(t: UvIo, order: list[Any], *names: Any) -> None:
    """Append an entry for each name."""
    for name in names:
        assert t.io.append(t.io, RaftIoAppend(), one(10 + name), 1, partial(called, order, name)) == 0


def stored(t: UvIo) -> list[int]:
    """Close, and return the numbers of the entries that a new start finds."""
    fresh = t.reopen()
    found = numbers(fresh.loaded[5])
    fresh.close()
    return found


def test_timers_fire_between_the_callbacks_of_a_write(t: UvIo) -> None:
    """However many appends a write brings to an end, the loop turns after some; the next write waits for all."""
    order: list[Any] = []
    turns: list[int] = []
    submit(t, order, 1, 2, 3, 4, 5)
    timer = pyuv.Timer(t.loop)
    timer.start(lambda _: turns.append(len(order)), 0.001, 0.001)
    run_until(t.loop, lambda: len(order) >= 3)
    submit(t, order, 6)
    assert not t.uv.writer.busy
    run_until(t.loop, lambda: len(order) == 6)
    timer.close()
    assert order == [(name, 0) for name in range(1, 7)]
    assert {2, 3, 4} <= set(turns)
    assert stored(t) == [1, 2, 11, 12, 13, 14, 15, 16]


def test_quick_callbacks_of_a_write_need_one_turn(t: UvIo, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ever, what was submitted together is called back together, without a turn in between."""
    order: list[int] = []
    turns: list[int] = []
    clock = time.monotonic

    def called_at_once(req: RaftIoAppend, status: int) -> None:
        order.append(status)
        monkeypatch.setattr(time, "monotonic", clock if len(order) == 20 else lambda: 0.0)

    for i in range(20):
        assert t.io.append(t.io, RaftIoAppend(), one(i), 1, called_at_once) == 0
    prepare = pyuv.Prepare(t.loop)
    prepare.start(lambda _: turns.append(len(order)))
    run_until(t.loop, lambda: len(order) == 20)
    prepare.close()
    assert set(turns) <= {0, 20}


@pytest.mark.parametrize("inside", [False, True])
def test_close_calls_back_first_what_is_written(t: UvIo, inside: bool) -> None:
    """Inside io.close, with success; only then come those that were not written, in a callback as outside of one."""
    order: list[Any] = []
    closed = Outcome()
    close = partial(t.io.close, t.io, closed)
    submit(t, order, 1, 2)
    if inside:
        assert t.io.append(t.io, RaftIoAppend(), one(0), 1, lambda req, status: close()) == 0
    submit(t, order, 3, 4)
    run_until(t.loop, lambda: order)
    submit(t, order, 5)
    if inside:
        run_until(t.loop, lambda: closed.calls)
    else:
        close()
    t.closed = True
    assert order == [(1, 0), (2, 0), (3, 0), (4, 0), (5, errors.RAFT_CANCELED)]
    t.wait(closed)
    assert stored(t) == [1, 2, 11, 12, *([0] if inside else []), 13, 14]


def test_what_fails_is_called_back_behind_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No segment can be made for an append while callbacks of an earlier write are left: these come first."""
    refuse_allocation(monkeypatch, *range(2, 100))
    t = UvIo(tmp_path).start()
    order: list[Any] = []
    t.append(1, 64)
    t.submit(1, 64)
    submit(t, order, *range(20))
    run_until(t.loop, lambda: order)
    large = partial(called, order, 20)
    assert t.io.append(t.io, RaftIoAppend(), one(0, SEGMENT_SIZE), 1, large) == 0
    run_until(t.loop, lambda: len(order) == 21)
    assert order == [*((name, 0) for name in range(20)), (20, errors.RAFT_NOSPACE)]
    monkeypatch.undo()
    t.append(1, 64)
    assert stored(t) == [1, 2, *range(10, 30), 3]


def test_what_a_sick_disk_refuses_is_called_back_behind_what_was_written(t: UvIo) -> None:
    """The log could not be cut, so the next append fails, in the next turn: what is written comes before."""
    order: list[Any] = []
    submit(t, order, *range(20))
    run_until(t.loop, lambda: order)
    t.uv.truncate_work = truncate.Truncate(t.uv, 2)
    t.uv.truncate_work.failure = Failure(errors.RAFT_IOERR, "a test's")
    submit(t, order, 20)
    run_until(t.loop, lambda: len(order) == 21)
    t.uv.truncate_work = None
    assert order == [*((name, 0) for name in range(20)), (20, errors.RAFT_IOERR)]
    t.append(1, 64)
    assert stored(t) == [1, 2, *range(10, 30), 3]


def test_a_truncate_waits_for_the_callbacks_of_the_write_before_it(t: UvIo) -> None:
    """The write counts as under way until all are called back, so the segment is closed, and cut, after that."""
    order: list[Any] = []
    submit(t, order, 1, 2, 3)
    run_until(t.loop, lambda: order)
    t.truncate(4)
    assert not any(name.startswith("0") for name in os.listdir(t.dir))
    submit(t, order, 4)
    run_until(t.loop, lambda: len(order) == 4)
    assert order == [(1, 0), (2, 0), (3, 0), (4, 0)]
    assert stored(t) == [1, 2, 11, 14]
