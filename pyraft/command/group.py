"""The groups of commands: each needs one of its commands.

Duty: without any, a `Group` shows its help on standard error and ends with exit code 2, whatever click does by itself:
its versions before 8.2 exit with 0 there, as if something had been done. With --json an error, or Ctrl-C, is
also a line of JSON on standard output, an object whose `error` is the text.

Failure modes: standard output may take nothing, as a file on a full disk or a pipe that nobody reads any more. The
command ends with exit code 1 then and says why, but for a pipe: `pyraft status | head -1` has had its line.
"""

import contextlib
import errno
import json
from collections.abc import Iterator
from typing import Any

import click

from pyraft.command import output
from pyraft.errors import printable

_WORDS = "pyraft.words"


class Group(click.Group):
    """A group that is called with a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Have click find the command. Exits with 2 where there is none."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        ctx.meta.setdefault(_WORDS, tuple(args))  # those of the whole command: its outermost group is the first here
        with _told(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was found."""
        with _told(ctx):
            return super().invoke(ctx)


@contextlib.contextmanager
def _told(ctx: click.Context) -> Iterator[None]:
    """Have an error of the block told as all are; the outermost group does that."""
    if ctx.parent is not None:
        yield
        return
    try:
        yield
    except output.Unwritable as exc:
        if exc.errno == errno.EPIPE:
            raise BrokenPipeError(exc.errno, str(exc)) from None  # click ends quietly then
        output.let_go()
        raise click.ClickException(str(exc)) from None
    except OSError as exc:  # of click, as it shows help
        if exc.errno == errno.EPIPE:
            raise
        output.let_go()
        raise click.ClickException(printable(str(exc))) from None
    except click.ClickException as exc:
        _as_json(ctx, exc.format_message())
        raise
    except (click.Abort, KeyboardInterrupt):
        _as_json(ctx, "interrupted")
        raise


def _as_json(ctx: click.Context, what: str) -> None:
    """Print an error as JSON, where that is asked for and standard output takes it."""
    if "--json" in ctx.meta[_WORDS]:
        try:
            output.put(json.dumps({"error": what}))
        except output.Unwritable:
            output.let_go()
