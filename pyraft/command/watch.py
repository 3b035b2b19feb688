"""`pyraft watch`: the status of a cluster as it changes, with commits per second.

Duty: ask all members again and again, and show who leads, how each is, and how much is committed. On a terminal each
view takes the place of the one before; elsewhere they follow each other, with the time, for a log.

Happy path: `pyraft watch --via 10.0.0.1:9001`, until Ctrl-C.

Failure modes: a cluster that cannot be reached is a line of the view, and is asked again: that is what one watches for.
"""

import asyncio
import datetime
import sys
import time

import click

from pyraft.command import text
from pyraft.command.clusters import overview
from pyraft.command.reach import Way, reach
from pyraft.node.errors import NodeError
from pyraft.node.operate import Operator, Survey


@click.command(epilog="Example: pyraft watch --via 10.0.0.1:9001 --interval 0.5")
@reach
@click.option("--interval", type=click.FloatRange(min=0.05), default=2.0, show_default=True, help="Seconds in between.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many views.")
def watch(way: Way, interval: float, count: int | None) -> None:
    """Show how the cluster is, again and again."""
    live = sys.stdout.isatty()

    async def job(operator: Operator) -> None:
        rate = Rate()
        shown = 0
        while True:
            lines = await view(operator, rate)
            if live:
                click.clear()
            text.say(lines)
            shown += 1
            if shown == count:
                return
            if not live:
                click.echo()
            await asyncio.sleep(interval)

    try:
        way.run(job)
    except click.Abort:
        click.echo()


class Rate:
    """How many entries are committed per second, from one survey to the next."""

    def __init__(self) -> None:
        self._last: tuple[float, int] | None = None

    def of(self, survey: Survey, now: float) -> float | None:
        """Return the rate since the last survey with a leader; None if there was none, or the log is another one."""
        leader = survey.leader
        if leader is None or leader.status is None:
            return None
        before, self._last = self._last, (now, leader.status.commit)
        if before is None or now <= before[0] or leader.status.commit < before[1]:
            return None
        return (leader.status.commit - before[1]) / (now - before[0])


async def view(operator: Operator, rate: Rate) -> list[str]:
    """Return one view in lines."""
    moment = datetime.datetime.now().strftime("%H:%M:%S")
    try:
        survey = await operator.survey()
    except NodeError as exc:
        return [moment, *text.wrap(str(exc), "")]
    found = rate.of(survey, time.monotonic())
    return [moment if found is None else f"{moment}  {found:.0f} entries committed per second", *overview(survey)]
