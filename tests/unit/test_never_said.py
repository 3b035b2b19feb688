"""The checker of what servers of a torture have said: it knows the lines that must not come, and no other ones."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.fuzzy import torture, torture_dqlite, torture_nodes
from tests.lib import never_said

ROOT = Path(__file__).resolve().parents[2]

WRONG: dict[str, tuple[str, str]] = {
    "connection of server 2 at 127.0.0.1:9 dropped: AppendEntries at byte 90 of the stream: index out of range": (
        "io_uv/recv.py",
        "connection of server %d at %s dropped: %s",
    ),
    "AppendEntries at byte 90 of the stream: short": (
        "io_uv/recv.py",
        " at byte {self._start} of the stream",
    ),
    "server 1: AppendEntries from server 2 at 2 dropped: an entry of term 3 in a message of term 2": (
        "pyraft/recv.py",
        " dropped: {problem}",
    ),
    "/tmp/1: open-1 is set aside as broken-17-open-1: load": ("io_uv/disk.py", "%s: %s is set aside as %s: %s"),
    "/tmp/1: open-1 is cut, x is a copy: load": ("io_uv/disk.py", "%s: %s is cut, %s is a copy: %s"),
    "io: load open segment open-1: Data corruption": ("io_uv/disk.py", "load open segment "),
    "/tmp/1: acknowledged entries may be missing (x): the server withholds its votes": (
        "io_uv/disk.py",
        "%s: acknowledged entries may be missing (%s)",
    ),
    "server 3 has lost entries that it had acknowledged: its log ends with 4": (
        "pyraft/recv_append_entries_result.py",
        "server %d has lost entries that it had acknowledged: %s",
    ),
    "server 3 stops, until it is closed and started again: closed": (
        "pyraft/convert.py",
        "server %d stops, until it is closed and started again: %s",
    ),
    "unavailable: io: append": ("tests/lib/register_server.py", '"unavailable:"'),
    "fsm.apply of server 1 raised, the server stops": ("pyraft/calls.py", "%s of server %d raised%s"),
    "a callback of server 1 raised": ("pyraft/calls.py", "a callback of server %d raised"),
    "io.report raised": ("pyraft/calls.py", "io.report raised"),
    "a tracer raised": ("pyraft/tracing.py", "a tracer raised"),
    "raft_uv_close does nothing: server 1 is not closed": ("io_uv/uv.py", "raft_uv_close does nothing: "),
    "Unhandled exception in callback": ("io_uv/pyuv/loop.py", "Unhandled exception in callback"),
    "Exception while getting excepthook": ("io_uv/pyuv/uncaught.py", "Exception while getting excepthook"),
}
"""Line → where it is written, and by which text: one that is changed there has to be changed in the checker."""

INTERPRETER = (
    "Traceback (most recent call last):",
    "Exception ignored in: <function Loop.__del__ at 0x7f>",
    "Exception in callback Loop._turn()",
    "Fatal Python error: Segmentation fault",
    "Task exception was never retrieved",
    "<stdin>:1: RuntimeWarning: coroutine 'x' was never awaited",
    "x.py:1: ResourceWarning: unclosed file",
)

RIGHT = (
    "/tmp/1: io_submit is refused here (EOPNOTSUPP): a thread makes the writes of entries",
    "server 2 at 127.0.0.1:9 cannot be reached, trying on: uv_tcp_connect(): connection refused",
    "server 2 at 127.0.0.1:9 cannot be reached, trying on: it ended the connection after 12 ms: end of file",
    "server 2 at 127.0.0.1:9 is reached",
    "server 4: has heard of no leader for 5000 ms: either none can be elected, or it was removed meanwhile",
    "server 4 is recovering: it may lack entries that it acknowledged (it stopped before a leader had filled up its "
    "empty log (a new server lacks none), see filling)",
    "ready",
)


@pytest.mark.parametrize("line", [*WRONG, *INTERPRETER])
def test_a_line_that_never_comes(line: str) -> None:
    """It is found among others, and where it comes from the sources they still have it."""
    assert never_said.found([RIGHT[0], line, RIGHT[1]]) == [line]
    if line in WRONG:
        file, text = WRONG[line]
        assert text in (ROOT / file).read_text()


def test_each_pattern_is_for_some_line() -> None:
    """A pattern that no line of these needs could as well have a mistake in it."""
    for left_out in never_said.NEVER:
        others = [pattern for pattern in never_said._FORBIDDEN if pattern.pattern != left_out]
        needed = [line for line in (*WRONG, *INTERPRETER) if not any(pattern.search(line) for pattern in others)]
        assert needed or left_out == r" at byte \d+", left_out


def test_lines_that_a_kill_explains() -> None:
    """Real lines of killed clusters."""
    assert never_said.found(RIGHT) == []


def test_the_tortures_look_at_what_their_servers_say(tmp_path: Path) -> None:
    """Each of the three reads the files of its servers; torture_dqlite those of this project's only."""
    (tmp_path / "stderr.txt").write_text(f"{RIGHT[0]}\n")
    (tmp_path / "said-1-1").write_text(f"{RIGHT[0]}\n")
    (tmp_path / "node1.log").write_text(f"{INTERPRETER[0]}\n")
    (tmp_path / "node2.log").write_text(f"{RIGHT[0]}\n")
    lab = SimpleNamespace(lab=SimpleNamespace(dir=tmp_path))
    members = SimpleNamespace(dir=tmp_path)
    nodes = [SimpleNamespace(dir=tmp_path / f"node{i}", ours=i == 2) for i in (1, 2, 3)]
    looks: list[Any] = [
        lambda: torture.Torture.hear(cast(torture.Torture, lab)),
        lambda: torture_nodes.Members.hear(cast(torture_nodes.Members, members)),
        lambda: torture_dqlite.hear(cast(Any, SimpleNamespace(nodes=nodes))),
    ]
    for look, name in zip(looks, ("stderr.txt", "said-1-1", "node2.log"), strict=True):
        look()
        with (tmp_path / name).open("a") as said:
            said.write(f"{INTERPRETER[0]}\n")
        with pytest.raises(AssertionError, match=f"{name}: Traceback"):
            look()
