"""The command on a terminal: tables in its width, progress, live views; and plain lines where nothing can be drawn."""

import asyncio
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from io_uv import datadir
from pyraft.command import program, screen, text
from pyraft.node import backup as backups
from pyraft.node.operate import Operator
from tests.integration.test_command import dir as member_dir
from tests.integration.test_command_clusters import on
from tests.lib import terminal
from tests.lib.disk import Dir, commands
from tests.lib.nodes import Nodes

dir = member_dir
"""The directory of a member of three."""


def in_a_pipe(*words: object) -> tuple[int, str]:
    """Run the command where nobody looks."""
    result = CliRunner().invoke(program, [str(one) for one in words])
    return result.exit_code, result.output


@pytest.mark.parametrize("size", [(80, 24), (60, 20)], ids="{0[0]}".format)
def test_tables_are_drawn_in_the_width_of_the_terminal(dir: Dir, size: tuple[int, int]) -> None:
    """All cells are there, and no line is wider than the terminal has columns, but for sentences of at most 80."""
    code, output = terminal.run("dir", "show", dir, size=size)
    assert code == 0
    shown = terminal.without_orders(output)
    assert "───" in shown
    if size[0] >= 80:
        assert "0000000000000001-0000000000000005" in shown
    else:  # folded, with nothing left out
        assert "0000000000000001" in shown
        assert "5" in shown
    tables = [line for line in shown.splitlines() if line.startswith(("  file", "  ─"))]
    assert len(tables) == 3
    assert max(map(len, tables)) <= size[0]
    assert terminal.columns(output) <= max(size[0], 80)


def test_the_segments_of_a_server_that_was_killed_fit_on_80_columns(tmp_path: Path) -> None:
    """Names are in one piece, with indexes of six digits, beside segments that were prepared, or torn."""
    dir = Dir(tmp_path)
    dir.metadata(1, 1, 1)
    dir.snapshot(1, 100_000)
    name = dir.closed(100_001, commands(100_001, 2))
    dir.open(1, commands(100_003, 2), ours=True)
    dir.write("open-2", b"\0" * 8 * 1024 * 1024)
    _, output = terminal.run("dir", "show", dir)
    (row,) = [line for line in terminal.without_orders(output).splitlines() if name in line]
    assert row.split() == [name, "100001", "100002", "2", f"{(tmp_path / name).stat().st_size}", "B"]
    assert "unused" in output
    _, plain = in_a_pipe("dir", "show", dir)
    assert max(map(len, plain.splitlines())) <= 80


def test_a_terminal_that_nothing_can_be_drawn_on_gets_what_a_pipe_gets(dir: Dir) -> None:
    """It does to the byte, but for the line ends that the terminal makes."""
    code, output = terminal.run("dir", "show", dir, term="dumb")
    assert "\x1b" not in output
    assert (code, output.replace("\r\n", "\n")) == in_a_pipe("dir", "show", dir)


def test_json_is_the_same_on_a_terminal(dir: Dir) -> None:
    """Somebody may copy it from there."""
    code, output = terminal.run("dir", "show", dir, "--json")
    assert (code, output.replace("\r\n", "\n")) == in_a_pipe("dir", "show", dir, "--json")


def test_colours_are_left_out_where_nobody_wants_them(dir: Dir) -> None:
    """NO_COLOR says so; the words are the same."""
    dir.path.joinpath("snapshot-1-4-123.meta").write_bytes(b"no snapshot")
    dir.path.joinpath("snapshot-1-4-123").write_bytes(b"none")
    coloured, bare = (terminal.run("dir", "show", dir, variables=more)[1] for more in ({}, {"NO_COLOR": "1"}))
    assert terminal.COLOUR.search(coloured)
    assert not terminal.COLOUR.search(bare)
    assert terminal.without_orders(coloured) == terminal.without_orders(bare)


def test_what_a_terminal_would_obey_is_escaped_in_tables() -> None:
    """Words of a directory are written as they are, and none of them is taken for a style."""
    (part,) = text.table(["[b]a", "b"], [["[red]x[/red]", ":smile:"], ["\x1b[31m", "a\nb"]])
    assert isinstance(part, text.Table)
    console = Console(width=60, force_terminal=True)
    with console.capture() as found:
        console.print(text.drawn([part, "[red]y[/red]"]))
    words = terminal.without_orders(found.get()).split()
    assert words[:2] == ["[b]a", "b"]
    assert words[3:] == ["[red]x[/red]", ":smile:", "\\x1b[31m", "a\\nb", "[red]y[/red]"]
    assert not terminal.COLOUR.search(found.get())


def test_a_cluster_is_watched_on_a_terminal(tmp_path: Path) -> None:
    """Views replace each other on a screen of their own; after Ctrl-C or SIGTERM the terminal is as it was."""

    async def scenario(cluster: Nodes, pyraft: object) -> None:
        leader = cluster.leader()
        await leader.machine.put("apple")
        via = cluster.addresses[1]
        code, output = await asyncio.to_thread(
            terminal.run, "watch", "--via", via, "--interval", 0.05, "--count", 3, size=(80, 24)
        )
        assert code == 0, output
        assert (output.count(terminal.ENTER), output.count(terminal.LEAVE)) == (1, 1)
        drawn, last = output.split(terminal.LEAVE)
        assert drawn.count(f"leader   {leader.address}") == 3
        assert f"leader   {leader.address}" in last
        assert "connections between members" in last
        assert terminal.columns(output) <= 80

        def end(process: "subprocess.Popen[bytes]", output: str) -> None:
            if leader.address in output and asked:
                process.send_signal(asked.pop())

        for number in (signal.SIGINT, signal.SIGTERM):
            asked = [number]
            code, output = await asyncio.to_thread(terminal.run, "watch", "--via", via, look=end)
            assert (code, output.count(terminal.LEAVE), "Traceback" in output) == (0, 1, False), output
            assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")  # the cursor is back
        code, output = await asyncio.to_thread(terminal.run, "watch", "--via", via, "--count", 1, term="dumb")
        assert (code, "\x1b" in output) == (0, False)
        assert f"leader   {leader.address}" in output

    on(3, tmp_path, scenario)


# ---- progress --------------------------------------------------------------------------------------------------------


class Told:
    """Keeps what is told, and checks that it makes sense."""

    def __init__(self) -> None:
        self.steps: dict[str, tuple[int, int]] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        before, _ = self.steps.get(step, (0, 0))
        assert before <= done <= total
        self.steps[step] = done, total

    def finished(self) -> dict[str, bool]:
        """Return the steps, in order, and whether nine tenths of each were done in the end."""
        return {step: done >= total * 0.9 for step, (done, total) in self.steps.items()}


@pytest.fixture
def big(tmp_path: Path) -> Dir:
    """A directory with some megabytes in it."""
    made = Dir(tmp_path / "big")
    made.path.mkdir()
    made.metadata(1, 1, 1)
    made.snapshot(1, 4)
    for first in range(5, 105, 10):
        made.closed(first, commands(first, 10, size=50_000))
    return made


def test_tools_tell_how_far_they_are(big: Dir, tmp_path: Path) -> None:
    """Reading, copying, writing, each to its end."""
    told = Told()
    datadir.check(big.path, progress=told)
    assert told.finished() == {"reading": True}
    told = Told()
    datadir.export(big.path, tmp_path / "file", progress=told)
    assert told.finished() == {"copying": True, "writing": True}
    told = Told()
    datadir.examine(tmp_path / "file", told)
    assert told.finished() == {"comparing": True, "reading": True}
    told = Told()
    datadir.import_(tmp_path / "file", tmp_path / "made", told)
    assert told.finished() == {"comparing": True, "reading": True, "writing": True}


def test_backups_tell_how_far_they_are(tmp_path: Path) -> None:
    """One is fetched, looked at, and made a directory of."""

    async def scenario(cluster: Nodes, pyraft: object) -> None:
        for n in range(20):
            await cluster.leader().machine.note(str(n) * 20_000)
        file = tmp_path / "backup"
        async with Operator([cluster.addresses[1]]) as operator:
            told = Told()
            await backups.take(operator, file, progress=told)
        assert told.finished() == {"fetching": True}
        told = Told()
        backups.examine(file, told)
        assert told.finished() == {"comparing": True}
        told = Told()
        await backups.restore(file, tmp_path / "restored", "127.0.0.1:1", told)
        assert told.finished() == {"comparing": True, "writing": True}

    on(1, tmp_path, scenario)


def test_a_bar_is_drawn_once_something_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is gone afterwards; all that is over quickly has none."""
    monkeypatch.setenv("TERM", "xterm")

    def drawn() -> str:
        master, slave = pty.openpty()
        with open(slave, "w") as stream:
            with screen.progress(stream) as progress:
                assert progress is not None
                for done in range(0, 101, 10):
                    progress("reading", done << 20, 100 << 20)
            stream.flush()
            os.set_blocking(master, False)
            found = b""
            while True:
                try:
                    found += os.read(master, 65536)
                except BlockingIOError:
                    break
        os.close(master)
        return found.decode()

    monkeypatch.setattr(screen, "DELAY_SECONDS", 3600.0)  # on a busy machine nothing is over quickly
    assert drawn() == ""
    monkeypatch.setattr(screen, "DELAY_SECONDS", 0.0)
    monkeypatch.setattr(screen, "_REFRESH_SECONDS", 0.0)
    output = drawn()
    assert re.search(r"reading .*━", output)
    assert "50.0/100.0 MiB" in terminal.without_orders(output)
    assert output.endswith("\x1b[2K") or "\x1b[1A\x1b[2K" in output  # the line is erased


def test_nothing_is_drawn_into_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that is too simple gets nothing drawn either."""
    monkeypatch.setenv("TERM", "xterm")
    with (tmp_path / "file").open("w") as stream, screen.progress(stream) as progress:
        assert progress is None
    master, slave = pty.openpty()
    with open(slave, "w") as stream:
        assert screen.lively(stream)
        monkeypatch.setenv("TERM", "dumb")
        assert not screen.lively(stream)
        with screen.progress(stream) as progress:
            assert progress is None
    os.close(master)


def test_commands_do_not_load_what_they_do_not_draw_with() -> None:
    """A command in a pipe need not wait for rich."""
    code = "import sys, pyraft.command; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
