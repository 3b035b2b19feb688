"""The groups of commands: each needs one of its commands.

Duty: without any, a `Group` shows its help on standard error and ends with exit code 2, whatever click does by itself:
its versions before 8.2 exit with 0 there, as if something had been done. With --json an error is
also a line of JSON on standard output, an object whose `error` is the text.
"""

import json
from typing import Any

import click

_WORDS = "pyraft.words"


class Group(click.Group):
    """A group that is called with a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Have click find the command. Exits with 2 where there is none."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        ctx.meta.setdefault(_WORDS, tuple(args))  # those of the whole command: its outermost group is the first here
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was found."""
        try:
            return super().invoke(ctx)
        except click.ClickException as exc:
            if ctx.parent is None and "--json" in ctx.meta[_WORDS]:
                click.echo(json.dumps({"error": exc.format_message()}))
            raise
