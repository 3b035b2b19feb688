"""The groups of commands: each needs one of its commands.

Duty: without any, a `Group` shows its help on standard error and ends with exit code 2, whatever click does by itself:
its versions before 8.2 exit with 0 there, as if something had been done.
"""

import click


class Group(click.Group):
    """A group that is called with a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Have click find the command. Exits with 2 where there is none."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)
