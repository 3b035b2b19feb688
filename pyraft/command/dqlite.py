"""`pyraft dqlite …`: members of clusters of dqlite from the shell.

Duty: `witness` and `standby` run a node until they are told to end by SIGINT or SIGTERM. A line on standard output
tells when the cluster has given it its role.

Happy path: `pyraft dqlite witness data/3 --address 10.0.0.3:9001 --join 10.0.0.1:9001`; the next time without --join.

Failure modes: what is refused, or stops the node, is told on standard error, exit code 1.
"""

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import click

from io_uv.dqlite import responses
from pyraft.command.reach import told
from pyraft.dqlite import Member, Refused, Settings


@click.group()
def dqlite() -> None:
    """Nodes of dqlite: a vote, or a copy, for a cluster of Go or C programs."""


def _options(command: Callable[..., None]) -> Callable[..., None]:
    options = [
        click.argument("directory", metavar="DIR"),
        click.option("--address", metavar="HOST:PORT", required=True, help="Where the other nodes reach it."),
        click.option("--join", metavar="HOST:PORT", multiple=True, help="Where a node is; may be repeated."),
        click.option("--id", type=click.IntRange(1, (1 << 64) - 1), help="Its id, instead of a new one."),
        click.option("--bind", metavar="HOST:PORT", default="", help="Where it listens, if not at its address."),
        click.option("--failure-domain", type=click.IntRange(0), default=0, help="For go-dqlite's role management."),
        click.option("--weight", type=click.IntRange(0), default=0, help="For go-dqlite's role management."),
        click.option("--network-latency", metavar="MSECS", type=click.IntRange(1), help="As on the other nodes."),
        click.option("--snapshot-threshold", type=click.IntRange(1), default=1024, show_default=True),
        click.option("--snapshot-trailing", type=click.IntRange(4), default=8192, show_default=True),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@dqlite.command(epilog="Example: pyraft dqlite witness data/3 --address 10.0.0.3:9001 --join 10.0.0.1:9001")
@_options
def witness(**given: Any) -> None:
    """Run a voter without SQL on DIR.

    It stores what the cluster commits and votes, so that two other nodes go on when one of them is lost. It never
    keeps the leadership.
    """
    _run(responses.VOTER, given)


@dqlite.command(epilog="Example: pyraft dqlite standby data/4 --address 10.0.0.4:9001 --join 10.0.0.1:9001")
@_options
def standby(**given: Any) -> None:
    """Run a node on DIR that stores what the cluster commits, and has no vote."""
    _run(responses.STANDBY, given)


def _run(role: int, given: dict[str, Any]) -> None:
    told(_live(_member(role, given)), Refused)


def _member(role: int, given: dict[str, Any]) -> Member:
    settings = Settings(
        snapshot_threshold=given["snapshot_threshold"],
        snapshot_trailing=given["snapshot_trailing"],
        failure_domain=given["failure_domain"],
        weight=given["weight"],
    )
    if given["network_latency"]:
        settings = settings.at_latency(given["network_latency"])
    return Member(
        given["directory"],
        given["address"],
        given["join"],
        role=role,
        id=given["id"] or 0,
        bind=given["bind"],
        settings=settings,
    )


async def _live(member: Member) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with member:
        ends = [asyncio.ensure_future(one) for one in (stop.wait(), member.wait_closed())]
        joined = asyncio.ensure_future(member.joined())
        try:
            await asyncio.wait([*ends, joined], return_when=asyncio.FIRST_COMPLETED)
            if joined.done() and joined.exception() is None:
                click.echo(f"node {member.id} at {member.address} is in the cluster")
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if ends[1].done():
                ends[1].result()
        finally:
            for one in (*ends, joined):
                one.cancel()
            await asyncio.gather(*ends, joined, return_exceptions=True)
