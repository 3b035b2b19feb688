"""A pseudo terminal that commands are run on, as a person sees them.

Duty: `run` runs a command on a terminal of some size and kind and returns its exit code and all that it wrote;
`without_orders` takes out what a terminal obeys, `columns` tells how wide what is left gets.
"""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping

_ORDER = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")
COLOUR = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-7]|9[0-7])m")
"""An order to write in a colour."""

ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"
"""The orders for a screen of its own, and back."""


def run(
    *words: object,
    size: tuple[int, int] = (80, 24),
    term: str = "xterm-256color",
    look: Callable[[subprocess.Popen[bytes], str], None] | None = None,
    variables: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run `pyraft` with these words on a terminal of (columns, lines); `look(process, output)` sees what has come."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    env |= {"TERM": term, **(variables or {})}
    command = [sys.executable, "-m", "pyraft", *map(str, words)]
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env) as process:
        os.close(slave)
        output = ""
        try:
            while piece := _read(master):
                output += piece
                if look is not None:
                    look(process, output)
        finally:
            os.close(master)
    return process.returncode, output


def _read(master: int) -> str:
    """Return what came next, "" once the other end is closed."""
    try:
        return os.read(master, 65536).decode("utf-8", "replace")
    except OSError:
        return ""


def without_orders(output: str) -> str:
    """Return the text alone; the top of a screen, and another one, begin a line."""
    return _ORDER.sub("", re.sub(r"\x1b\[(H|\?1049[hl])", "\n", output))


def columns(output: str) -> int:
    """Return how many columns the longest line takes."""
    return max(map(len, without_orders(output).splitlines()))
