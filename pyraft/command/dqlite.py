"""`pyraft dqlite …`: members of clusters of dqlite from the shell.

Duty: `witness`, `standby` and `replica` run a node until they are told to end by SIGINT or SIGTERM. A line on standard
output tells when the cluster has given it its role, with --json a line of JSON. `backup` writes a database of a running
cluster into a file.

Happy path: `pyraft dqlite witness data/3 --address 10.0.0.3:9001 --join 10.0.0.1:9001`; the next time without --join.

Failure modes: what is refused, or stops the node, is told on standard error, exit code 1.
"""

import asyncio
import dataclasses
import os
import signal
from collections.abc import Callable
from typing import Any

import click

from io_uv.dqlite import responses
from io_uv.dqlite import upgrade as upgrades
from pyraft.command import text
from pyraft.command.group import Group
from pyraft.command.reach import json_option, renew, tls_options, told
from pyraft.dqlite import DqliteError, LxdTls, Member, Overrun, Refused, Replica, Settings, dialer
from pyraft.dqlite import backup as backups
from pyraft.dqlite.publish import Changes
from pyraft.dqlite.replica import FOLDER
from pyraft.node.tls import Tls

STANDBY_WEIGHT = 100
"""Others, whose weight is 0 by default, become voters rather than a stand-by without SQL."""


_NUMBER = click.IntRange(0, (1 << 64) - 1)


@click.group(cls=Group)
def dqlite() -> None:
    """Nodes of dqlite: a vote, or a copy, for a cluster of Go or C programs."""


def _path(context: click.Context, option: click.Parameter, value: str) -> str:
    try:
        return upgrades.check_path(value) if value else ""
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from None


_UPGRADE = click.option(
    "--upgrade",
    metavar="PATH",
    default="",
    callback=_path,
    help="Have connections begin with an HTTP upgrade there, as with LXD at /internal/database.",
)

_LXD = click.option(
    "--lxd",
    metavar="DIR",
    envvar="PYRAFT_LXD",
    help="Be as LXD: its --upgrade, and TLS with server.crt, cluster.crt and their keys in DIR, a directory of LXD.",
)


def _ways(tls: Tls | None, upgrade: str, lxd: str | None) -> tuple[Tls | None, str]:
    """Return the certificates and the path of the upgrade that the options stand for."""
    if lxd is None:
        return tls, upgrade
    if tls is not None:
        raise click.UsageError("--lxd has certificates of its own: leave --cert, --key, --ca and --crl out")
    return LxdTls.of(lxd), upgrade or upgrades.LXD


def _options(command: Callable[..., None]) -> Callable[..., None]:
    options = [
        click.argument("directory", metavar="DIR"),
        click.option("--address", metavar="HOST:PORT", required=True, help="Where the other nodes reach it."),
        click.option("--join", metavar="HOST:PORT", multiple=True, help="Where a node is; may be repeated."),
        click.option("--id", type=click.IntRange(1, (1 << 64) - 1), help="Its id, instead of a new one."),
        click.option("--bind", metavar="HOST:PORT", default="", help="Where it listens, if not at its address."),
        click.option("--failure-domain", type=_NUMBER, default=0, help="For go-dqlite's role management."),
        click.option("--weight", type=_NUMBER, help="Likewise: lower ones are preferred as voters."),
        _UPGRADE,
        _LXD,
        click.option("--keep-role/--any-role", default=True, help="Ask for the role again if it was taken away."),
        click.option("--network-latency", metavar="MSECS", type=click.IntRange(1), help="As on the other nodes."),
        click.option("--snapshot-threshold", type=click.IntRange(1), default=1024, show_default=True),
        click.option("--snapshot-trailing", type=click.IntRange(4), default=8192, show_default=True),
        json_option,
    ]
    for option in reversed(options):
        command = option(command)
    return tls_options(command)


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


@dqlite.command(epilog="Example: pyraft dqlite replica data/4 --address 10.0.0.4:9001 --join 10.0.0.1:9001")
@_options
@click.option("--files", metavar="DIR", default="", help="Where the databases are to be, instead of DIR/replica.")
@click.option("--changes", is_flag=True, help="Print a line of JSON for each transaction.")
def replica(files: str, changes: bool, **given: Any) -> None:
    """Run a node on DIR whose databases any program reads with SQLite while they change. It has no vote.

    Open the files as they are, or with mode=ro. They show whole transactions only, and nobody else can write into them.
    """
    where = files or os.path.join(given["directory"], FOLDER)
    made = _live(lambda: _member(responses.STANDBY, given, Replica, files=files), given["as_json"], where, changes)
    told(made, Refused, Overrun)


@dqlite.command(epilog="Example: pyraft dqlite backup app.db kept.db --via 10.0.0.1:9001")
@click.argument("database")
@click.argument("file", metavar="FILE")
@click.option("--via", "--join", metavar="HOST:PORT", multiple=True, help="Where a node is; may be repeated.")
@click.option("--from", "member", metavar="HOST:PORT", default="", help="The node to take it from, not the leader.")
@_UPGRADE
@_LXD
@tls_options
@json_option
def backup(
    database: str,
    file: str,
    via: tuple[str, ...],
    member: str,
    upgrade: str,
    lxd: str | None,
    tls: Tls | None,
    as_json: bool,
) -> None:
    """Write DATABASE of a running cluster to a new FILE, checked by SQLite.

    All that was acknowledged before is in it, as the leader has it; another node may be behind.
    """
    if not via and not member:
        raise click.UsageError("name a node with --via, or with --from")

    ways = _ways(tls, upgrade, lxd)

    async def take() -> backups.Backup:
        return await backups.take(via, database, file, member=member, dial=dialer(*ways))

    made = told(take(), Refused, DqliteError)
    n = made.n_pages * made.page_size
    sentence = f"{text.size(n)} of '{database}' from {made.address} are in {file}, and sound"
    text.done(sentence, as_json, database=database, file=file, size=n, **dataclasses.asdict(made))


def _run(role: int, given: dict[str, Any]) -> None:
    told(_live(lambda: _member(role, given), given["as_json"]), Refused)


def _member(role: int, given: dict[str, Any], kind: type[Member] = Member, **options: Any) -> Member:
    settings = Settings(
        snapshot_threshold=given["snapshot_threshold"],
        snapshot_trailing=given["snapshot_trailing"],
        failure_domain=given["failure_domain"],
        weight=(0 if role == responses.VOTER else STANDBY_WEIGHT) if given["weight"] is None else given["weight"],
    )
    if given["network_latency"]:
        settings = settings.at_latency(given["network_latency"])
    tls, upgrade = _ways(given["tls"], given["upgrade"], given["lxd"])
    return kind(
        given["directory"],
        given["address"],
        given["join"],
        role=role,
        id=given["id"] or 0,
        bind=given["bind"],
        settings=settings,
        keep_role=given["keep_role"],
        tls=tls,
        upgrade=upgrade,
        **options,
    )


async def _live(make: Callable[[], Member], as_json: bool, files: str = "", changes: bool = False) -> None:
    """Run a member until a signal. `files` is where the databases of a replica are."""
    member = make()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if member.tls is not None:
        loop.add_signal_handler(signal.SIGHUP, renew, member.reload_certificates, Refused)
    async with member:
        ends = [asyncio.ensure_future(one) for one in (stop.wait(), member.wait_closed())]
        joined = asyncio.ensure_future(member.joined())
        try:
            await asyncio.wait([*ends, joined], return_when=asyncio.FIRST_COMPLETED)
            if joined.done() and joined.exception() is None:
                _say_joined(member, files, as_json)
                if changes and isinstance(member, Replica):
                    ends.append(asyncio.ensure_future(_tell(member.changes())))
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for one in ends:
                if one.done():
                    one.result()
        finally:
            for one in (*ends, joined):
                one.cancel()
            await asyncio.gather(*ends, joined, return_exceptions=True)


def _say_joined(member: Member, files: str, as_json: bool) -> None:
    if as_json:
        text.dump_line({"id": member.id, "address": member.address, "files": files or None})
    else:
        more = f"; databases are in {files}" if files else ""
        text.say([f"node {member.id} at {member.address} is in the cluster{more}"])


async def _tell(changes: Changes) -> None:
    async for change in changes:
        text.dump_line(dataclasses.asdict(change))
