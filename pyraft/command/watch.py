"""`pyraft watch`, or `pyraft top`: the status of a cluster as it changes, with commits per second, their times, links.

Duty: ask all members again and again, and show who leads, how each is, and how much is committed. On a terminal each
view takes the place of the one before (`screen.views`), and the last one stays; elsewhere they follow each other, with
the time, for a log.

Happy path: `pyraft watch --via 10.0.0.1:9001`, until Ctrl-C. With --http it is a page in a browser instead.

Failure modes: a cluster that cannot be reached is a line of the view, and is asked again: that is what one watches for.
"""

import asyncio
import contextlib
import datetime
import itertools
import math
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import click

from io_uv.histogram import BOUNDS
from pyraft.command import output, screen, text
from pyraft.command.clusters import facts, overview
from pyraft.command.reach import Number, Way, json_option, reach, told
from pyraft.node.errors import NodeError
from pyraft.node.operate import Operator, Survey


@click.command(epilog="Example: pyraft watch --via 10.0.0.1:9001 --interval 0.5; pyraft top is the same")
@reach
@click.option("--interval", type=Number(min=0.05), default=2.0, show_default=True, help="Seconds in between.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many views.")
@click.option("--http", metavar="HOST:PORT", help="Serve a page there that shows it, on this machine only.")
@json_option
def watch(way: Way, interval: float, count: int | None, http: str | None, as_json: bool) -> None:
    """Show how the cluster is, again and again; with --json each view is a line."""
    if http is not None:
        _serve(way, http, as_json)
        return
    last: list[text.Part] = []

    async def job(operator: Operator, show: Callable[[list[text.Part]], None]) -> None:
        pace = Pace()
        for shown in itertools.count(1):
            if as_json:
                text.dump_line(await facts_now(operator, pace))
            else:
                last[:] = await view(operator, pace)
                show(last)
            if shown == count:
                return
            await asyncio.sleep(interval)

    if as_json or not screen.lively(sys.stdout):
        _run(way, lambda operator: job(operator, _follow()), as_json)
        return
    with _terminated(), output.written(), screen.views(sys.stdout) as draw:

        def show(parts: list[text.Part]) -> None:
            with output.written():
                draw(text.drawn(parts))

        _run(way, lambda operator: job(operator, show), as_json)
    text.say(last)


def _run(way: Way, job: Callable[[Operator], Awaitable[None]], as_json: bool) -> None:
    """Run until the end, or Ctrl-C."""
    with _until_interrupted(as_json):
        way.run(job)


@contextlib.contextmanager
def _until_interrupted(as_json: bool) -> Iterator[None]:
    """Take Ctrl-C for the end of the block; people get a new line behind the terminal's ^C."""
    try:
        yield
    except click.Abort:
        if not as_json:
            output.put()


@contextlib.contextmanager
def _terminated() -> Iterator[None]:
    """Have SIGTERM end the block as Ctrl-C does, so that the terminal is given back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _follow() -> Callable[[list[text.Part]], None]:
    """Return what prints views below each other."""
    between = itertools.chain([False], itertools.repeat(True))

    def show(parts: list[text.Part]) -> None:
        if next(between):
            output.put()
        text.say(parts)

    return show


def _serve(way: Way, address: str, as_json: bool) -> None:
    """Serve a page that shows the cluster until Ctrl-C; nobody changes anything by it."""
    try:
        from pyraft import page
    except ImportError:
        raise click.ClickException("--http needs aiohttp: pip install 'pyraft-uv[http]'") from None

    async def serve() -> None:
        async with page.watched(way.via, address, tls=way.tls) as where:
            if as_json:
                text.dump_line({"page": f"http://{where}/"})
            else:
                output.put(f"page at http://{where}/")
            await asyncio.Event().wait()

    try:
        near = page.is_loopback(address)
    except OSError as exc:
        raise click.UsageError(str(exc)) from None
    if not near:
        raise click.UsageError(f"{address} can be reached from other machines, and this page is for this one only")
    with _until_interrupted(as_json):
        told(serve())


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


class Pace:
    """How much is committed, and how quickly, from one survey to the next."""

    def __init__(self) -> None:
        self.rate = Rate()
        self._last: tuple[int, list[int]] | None = None

    def latency(self, survey: Survey) -> tuple[float, float] | None:
        """Return within how many seconds half and 99 % of the leader's calls since the last survey were committed.

        They are upper bounds of ranges, so math.inf is possible; None where it has committed none, or does not measure.
        """
        leader = survey.leader
        if leader is None or leader.status is None:
            return None
        counts = leader.status.commit_counts
        before, self._last = self._last, (leader.id, counts)
        if before is None or before[0] != leader.id or len(before[1]) != len(counts) or len(counts) != len(BOUNDS) + 1:
            return None
        new = [max(0, now - then) for now, then in zip(counts, before[1], strict=True)]
        return (_bound(new, 0.5), _bound(new, 0.99)) if any(new) else None


def _bound(counts: list[int], share: float) -> float:
    """Return the upper bound of the range that this share of the times ends in."""
    wanted, so_far = share * sum(counts), 0
    for bound, count in zip((*BOUNDS, math.inf), counts, strict=True):
        so_far += count
        if so_far >= wanted:
            return bound
    return math.inf


def links(survey: Survey) -> tuple[int, list[str]]:
    """Return how many connections members have to each other, and which are missing between members that answer."""
    answering = {one.id: one.address for one in survey.members if one.status is not None}
    known = [
        (one.address, id, address, is_there)
        for one in survey.members
        if one.status is not None
        for id, address, is_there, *_ in one.status.links
    ]
    lacking = [
        f"{one} has no connection to {answering[id]}"
        for one, id, _, is_there in known
        if not is_there and id in answering
    ]
    return sum(is_there for _, _, _, is_there in known), lacking


async def facts_now(operator: Operator, pace: Pace) -> dict[str, Any]:
    """Return one view as --json has it; where nobody can be asked it has the reason as `problem`."""
    try:
        survey = await operator.survey()
    except NodeError as exc:
        return {"time": time.time(), "problem": str(exc)}
    rate, times = pace.rate.of(survey, time.monotonic()), pace.latency(survey)
    known = None if times is None else [None if one == math.inf else one for one in times]
    return {"time": time.time(), "rate": rate, "commit_seconds": known, **facts(survey)}


async def view(operator: Operator, pace: Pace) -> list[text.Part]:
    """Return one view in parts."""
    moment = datetime.datetime.now().strftime("%H:%M:%S")
    try:
        survey = await operator.survey()
    except NodeError as exc:
        return [moment, *text.wrap(str(exc), "")]
    found = pace.rate.of(survey, time.monotonic())
    times = pace.latency(survey)
    connections, lacking = links(survey)
    rows = [("links", f"{connections} connections between members")]
    if times is not None:
        rows.insert(0, ("commits", f"half in {_ms(times[0])}, 99 % in {_ms(times[1])}"))
    first = moment if found is None else f"{moment}  {found:.0f} entries committed per second"
    return [first, *text.pairs(rows), *overview(survey), *text.items(lacking)]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:g} ms" if seconds < math.inf else f"more than {BOUNDS[-1]:g} s"
