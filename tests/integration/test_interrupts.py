"""KeyboardInterrupt at any line ends the README's programs, without a hang and without a lost acknowledgment.

`python -m tests.lib.interrupt` is about all lines; here are a sample of them, those of the functions in which a step is
taken that another one must follow, and what a server answers that was left in the middle of something.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import append, finalize, prepare, uv, writer
from io_uv.pyuv import Loop
from io_uv.pyuv.handle import Handle
from io_uv.pyuv.mailbox import Mailbox
from io_uv.pyuv.threadpool import Request
from pyraft import (
    RAFT_LEADER,
    RAFT_LEADERSHIPLOST,
    RAFT_SHUTDOWN,
    RAFT_UNAVAILABLE,
    RaftApply,
    log,
    raft_apply,
    raft_close,
    raft_errmsg,
    server,
)
from tests.lib.compiled import COMPILED
from tests.lib.interrupted import Line
from tests.lib.uvnode import Node, free_addresses
from tests.lib.uvtest import run_until

SEED = os.environ.get("INTERRUPT_SEED", "1")

PLACES: tuple[tuple[Any, str], ...] = (
    (Loop, "_submit"),
    (Loop, "_enter"),
    (Handle, "_close"),
    (Request, "_deliver"),
    (Mailbox, "post"),
    (Mailbox, "deliver"),
    (writer.Writer, "submit"),
    (finalize, "submit"),
    (append, "_enqueue"),
    (append, "_write"),
    (append, "_write_cb"),
    (append, "_call_back"),
    (prepare, "_created"),
    (server, "raft_close"),
    (uv, "_close"),
)


def drive(*options: str) -> None:
    """Interrupt programs, in a process that has no loop and no thread."""
    command = [sys.executable, "-m", "tests.lib.interrupt", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(COMPILED, reason="compiled functions have no lines")
def test_a_sample_of_all_lines() -> None:
    """Programs that are interrupted once or twice, by an exception or a signal, end as they should."""
    drive("--every", "100", "--seconds", "50", "--seed", SEED)


def lines(function: Any) -> list[Line]:
    """Return the lines of a function at which something is executed."""
    code = function.__code__
    numbers = {number for _, _, number in code.co_lines() if number is not None and number > code.co_firstlineno}
    return [Line(code.co_filename, number, 1) for number in sorted(numbers)]


@pytest.mark.skipif(COMPILED, reason="compiled functions have no lines")
def test_every_line_of_what_takes_two_steps() -> None:
    """A server that is closed behind the interrupt calls back, and its directory has what was acknowledged."""
    found = [line for place in PLACES for line in lines(getattr(*place))]
    drive("--program", "closing", "--kind", "raise", *(word for line in found for word in ("--line", str(line))))


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A loop for the servers of a test."""
    made = Loop()
    yield made
    made.close()


@pytest.mark.skipif(COMPILED, reason="functions of compiled modules cannot be replaced")
def test_a_server_whose_call_was_interrupted_stops(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call is refused, who waits is called back, raft_close ends; a new server has what was acknowledged."""
    node = Node(tmp_path, 1, free_addresses(1), loop).start()
    run_until(loop, lambda: node.state == RAFT_LEADER)
    assert node.try_apply(1) == 0
    statuses: list[int] = []
    assert raft_apply(node.raft, RaftApply(), [bytes(8)], 1, lambda req, status, result: statuses.append(status)) == 0

    def interrupting(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(log, "append_commands", interrupting)
    with pytest.raises(KeyboardInterrupt):
        raft_apply(node.raft, RaftApply(), [bytes(8)], 1, None)
    monkeypatch.undo()
    assert raft_apply(node.raft, RaftApply(), [bytes(8)], 1, None) != 0
    assert node.state == RAFT_UNAVAILABLE
    assert statuses == [RAFT_LEADERSHIPLOST]
    assert "interrupted in the middle" in node.raft.cause
    assert node.io.set_term(node.io, 9) == RAFT_SHUTDOWN
    closed: list[bool] = []
    assert raft_close(node.raft, lambda raft: closed.append(True)) == 0, raft_errmsg(node.raft)
    run_until(loop, lambda: closed == [True])
    node.closed = True
    again = Node(tmp_path, 1, node.members, loop).start()
    run_until(loop, lambda: again.fsm.numbers[:1] == [1])
    again.close()
