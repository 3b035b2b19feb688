"""Standard output, which may take nothing: a file on a full disk, a pipe that nobody reads any more, or closed.

Duty: `put` prints a line, `written` marks what goes wrong in its block as `Unwritable`, which nobody takes for an
error of a directory or a member. `let_go` has the interpreter forget what could not be written.

Happy path: `put("nothing is wrong")`. Failure modes: Unwritable, with the number of the error; without any standard
output, as by `>&-`, nothing is printed, and nothing fails.
"""

import contextlib
import os
import sys
from collections.abc import Iterator

import click


class Unwritable(Exception):
    """Standard output has refused something."""

    def __init__(self, errno: int) -> None:
        super().__init__(f"the output cannot be written: {os.strerror(errno)}")
        self.errno = errno


@contextlib.contextmanager
def written() -> Iterator[None]:
    """Run a block that writes to standard output and does nothing else that could fail."""
    try:
        yield
    except OSError as exc:
        raise Unwritable(exc.errno or 0) from None


def put(line: str = "") -> None:
    """Print a line."""
    with written():
        click.echo(line)


def let_go() -> None:
    """Drop what standard output has not taken: the interpreter would try again at its end, and fail.

    From then on there is no standard output, which is nothing new to click and to the interpreter.
    """
    stdout = sys.stdout
    if stdout is None:
        return
    try:
        stdout.flush()
    except OSError:
        sys.stdout = None
        with contextlib.suppress(OSError):
            stdout.close()
