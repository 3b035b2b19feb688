"""No function is called for each of many entries, from submission to disks, state machines and callbacks.

Times on a busy machine show nothing, and a loop over the entries of a message or a write is quickly added.
"""

import os
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import io_uv
import pyraft
from io_uv import pyuv
from io_uv.pyuv import Loop, Timer
from pyraft import RaftApply, raft_apply, raft_last_index
from tests.lib.compiled import COMPILED
from tests.lib.uvnode import make_nodes, settled
from tests.lib.uvtest import run_until

CALLS, ENTRIES = 16, 64
TOPS = tuple(package.__path__[0] + os.sep for package in (pyraft, io_uv))
LOOP = pyuv.__path__[0] + os.sep  # the test runs it turn by turn, which costs more than it does by itself


@pytest.mark.skipif(COMPILED, reason="compiled functions are not seen by a profile")
@pytest.mark.parametrize("even", [True, False])
def test_an_entry_among_many(tmp_path: Path, even: bool) -> None:
    """Sixteen calls with 64 commands each in one turn of the loop, on three servers: submitted, stored and applied.

    Commands have one length, or two. Calls of ticks come on top, more of them on a busy machine.
    """
    loop = Loop()
    nodes = make_nodes(tmp_path, 3, loop)
    for node in nodes:
        node.uv.segment_size = 1 << 20
        node.fsm.apply_batch = lambda fsm, bufs: (0, [None] * len(bufs))
    leader = settled(nodes)
    bufs = [bytes(64 if even or i % 2 else 8) for i in range(ENTRIES)]
    found: Counter[tuple[str, str]] = Counter()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        name = frame.f_code.co_filename
        if not name.startswith(TOPS) or name.startswith(LOOP):
            return
        if event == "call" and frame.f_back is not None:
            found[frame.f_back.f_code.co_name, frame.f_code.co_name] += 1
        elif event == "c_call":
            found[frame.f_code.co_name, argument.__name__] += 1

    def submit(timer: Timer) -> None:
        found.clear()
        sys.setprofile(note)
        for _ in range(CALLS):
            assert raft_apply(leader.raft, RaftApply(), bufs, ENTRIES, None) == 0

    most: list[tuple[int, tuple[str, str]]] = []
    timer = Timer(loop)
    try:
        for _ in range(5):
            goal = raft_last_index(leader.raft) + CALLS * ENTRIES
            timer.start(submit, 0.0, 0.0)
            run_until(loop, lambda goal=goal: all(node.raft.last_applied >= goal for node in nodes))
            sys.setprofile(None)
            most.append(max((n, pair) for pair, n in found.items()))
    finally:
        sys.setprofile(None)
        timer.close()
        for node in nodes:
            node.close()
        loop.close()
    assert min(most)[0] < CALLS * ENTRIES / 2, f"one calls the other so often: {min(most)}"
