"""`pyraft dir …`: data directories of stopped servers, of this library, libraft, cowsql and dqlite.

Duty: `show`, `log`, `check` and `position` look, `repair`, `recover` and `readdress` say what they would do and do it
with --apply. Each takes the locks of the directory first, so none of them meets a server that runs.

Happy path: `pyraft dir check data/1` prints nothing wrong and exits with 0.

Failure modes: a directory in use, unreadable, or of no server is told on standard error, exit code 1. `check` exits
with 1 for damage and losses, `repair` if the directory does not load in the end.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import click

from io_uv import datadir
from pyraft import configuration, raft_configuration_add
from pyraft.command import decoding, text
from pyraft.command.reach import told
from pyraft.errors import printable
from pyraft.node import NodeError, identity
from pyraft.node import backup as backups
from pyraft.types import RAFT_STANDBY, RAFT_VOTER, RaftConfiguration, RaftServer

_DIRECTORY: Final = click.argument("directory", metavar="DIR")
_JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_APPLY: Final = click.option("--apply", is_flag=True, help="Do it. Without this nothing is changed.")
_OTHER: Final = click.option(
    "--other", "others", metavar="DIR", multiple=True, help="Directory of another survivor; may be repeated."
)
_POSITION: Final = click.option(
    "--position",
    "positions",
    metavar="TERM:LASTTERM:INDEX",
    multiple=True,
    help="What `pyraft dir position` said of another survivor; may be repeated.",
)
_SCRATCH: Final = click.option(
    "--scratch", metavar="PATH", help="Where copies are made for what is tried out, instead of the place for tmp files."
)


@contextmanager
def _held(*directories: str) -> Iterator[None]:
    """Have directories for this command; what goes wrong meanwhile is told in a line."""
    try:
        with ExitStack() as stack:
            for one in directories:
                stack.enter_context(datadir.hold(one))
            yield
    except datadir.Failure as exc:
        raise click.ClickException(exc.message) from None
    except (datadir.Refused, NodeError, OSError) as exc:
        raise click.ClickException(str(exc)) from None


@click.group()
def dir() -> None:
    """Look into the data directory of a stopped server, check it, mend it.

    Also one of libraft, cowsql or dqlite: they have the same format.
    """


# ---- looking ---------------------------------------------------------------------------------------------------------


@dir.command(epilog="Example: pyraft dir show data/1")
@_DIRECTORY
@_JSON
@_SCRATCH
def show(directory: str, as_json: bool, scratch: str | None) -> None:
    """Show what is in DIR, and what a start would do with it."""
    with _held(directory):
        found = datadir.read(directory)
        rehearsal = datadir.rehearse(directory, scratch)
        who = identity.read(directory)
    if as_json:
        text.dump(_facts(found, rehearsal, who))
        return
    text.say(_overview(found, who))
    if found.snapshots:
        text.say(["", "snapshots"])
        rows = [
            (one.index, one.term, text.size(one.size), text.moment(one.taken_at), one.problem and "damaged")
            for one in found.snapshots
        ]
        text.say(text.table(("index", "term", "size", "taken", ""), rows))
    if found.segments:
        text.say(["", "segments"])
        text.say(text.table(("file", "first", "last", "entries", "size", ""), map(_segment_row, found.segments)))
    text.say(["", "a start"])
    text.say(_outcome(rehearsal))


def _overview(found: datadir.Contents, who: identity.Identity | None) -> list[str]:
    rows: list[tuple[str, object]] = []
    if who is not None:
        rows += [("member", f"{who.id} at {who.address}"), ("cluster", who.cluster or "-")]
    rows += [
        ("term", found.term),
        ("voted for", found.voted_for or "-"),
        ("log", f"{found.first_index} to {found.last_index}" if found.first_index else "empty"),
        ("last term", found.last_term or "-"),
        ("size", text.size(found.size)),
    ]
    if found.configuration is None:
        rows.append(("configuration", "none"))
    else:
        rows.append(("configuration", f"of entry {found.configuration_index}"))
        rows += [(f"  server {one.id}", _member(one)) for one in found.configuration.servers]
    rows += [("mark", name) for name in found.marks]
    return text.pairs(rows)


def _member(one: RaftServer) -> str:
    return f"{decoding.ROLES.get(one.role, one.role)} {one.address}"


def _segment_row(one: datadir.SegmentFile) -> tuple[object, ...]:
    state = datadir.VERDICTS[one.verdict] if one.is_open or one.problem else ""
    return one.name, one.first, one.last, one.entries, text.size(one.size), state


def _outcome(rehearsal: datadir.Rehearsal) -> list[str]:
    """Say what a start would do."""
    lines = []
    if not rehearsal.starts:
        lines += text.wrap(f"is refused: {rehearsal.problem}", "  ")
    elif rehearsal.last_index == 0:
        lines.append("  loads nothing: there is no log yet")
    else:
        at = f"restores the snapshot at {rehearsal.snapshot[0]}, and " if rehearsal.snapshot else ""
        log = f"{rehearsal.first_index} to {rehearsal.last_index}"
        lines += text.wrap(f"{at}loads entries {log}, in term {rehearsal.term}", "  ")
    if rehearsal.recovering:
        lines += text.wrap("takes no part in elections until a leader has filled it up: entries may be missing", "  ")
    lines += text.items(rehearsal.changes)
    if rehearsal.doubt:
        lines += text.wrap(rehearsal.doubt)
    return lines


def _facts(found: datadir.Contents, rehearsal: datadir.Rehearsal, who: identity.Identity | None) -> dict[str, Any]:
    facts = dataclasses.asdict(dataclasses.replace(found, configuration=None, snapshots=[]))
    facts["snapshots"] = [
        {
            **dataclasses.asdict(dataclasses.replace(one, configuration=None)),
            "configuration": _servers(one.configuration),
        }
        for one in found.snapshots
    ]
    facts["configuration"] = _servers(found.configuration)
    facts |= {
        name: getattr(found, name) for name in ("term", "voted_for", "first_index", "last_index", "last_term", "size")
    }
    start = dataclasses.asdict(dataclasses.replace(rehearsal, configuration=None))
    start["configuration"] = _servers(rehearsal.configuration)
    facts["start"] = {**start, "starts": rehearsal.starts}
    facts["member"] = None if who is None else dataclasses.asdict(who)
    return facts


def _servers(conf: RaftConfiguration | None) -> list[dict[str, Any]] | None:
    if conf is None:
        return None
    return [{"id": one.id, "address": one.address, "role": decoding.ROLES.get(one.role)} for one in conf.servers]


@dir.command(epilog="Example: pyraft dir log data/1 --from 100 --to 120")
@_DIRECTORY
@click.option("--from", "first", type=int, default=1, help="Index of the first entry.")
@click.option("--to", "last", type=int, default=1 << 62, help="Index of the last entry.")
@click.option("--full", is_flag=True, help="Do not shorten lines to 80 characters.")
@_JSON
def log(directory: str, first: int, last: int, full: bool, as_json: bool) -> None:
    """List the entries of the log: index, term, type, bytes, and what they say.

    Commands of pyraft.node and dqlite are decoded, others shown as text or in hexadecimal digits.
    """
    expected = 0
    with _held(directory):
        for one in datadir.entries(directory, first, last):
            if expected and one.index != expected and not as_json:
                click.echo(f"  … {one.index - expected} entries are not here" if one.index > expected else "  … again")
            expected = one.index + 1
            said = decoding.describe(one.type, one.data)
            if as_json:
                text.dump(
                    {
                        "index": one.index,
                        "term": one.term,
                        "type": decoding.TYPES[one.type],
                        "bytes": len(one.data),
                        "segment": one.segment,
                        "says": said,
                    }
                )
            else:
                kind = decoding.TYPES[one.type]
                line = f"{one.index:>8} {one.term:>4} {kind:<7} {len(one.data):>7}  {printable(said)}".rstrip()
                click.echo(line if full else text.short(line))


@dir.command(epilog="Example: pyraft dir check data/1 || echo look at it")
@_DIRECTORY
@_JSON
@click.pass_context
def check(context: click.Context, directory: str, as_json: bool) -> None:
    """Compare every checksum in DIR, and say of each fault what follows from it.

    Exits with 1 for damage and losses, with 0 if there is nothing, or nothing but notes.
    """
    with _held(directory):
        findings = datadir.check(directory)
    if as_json:
        text.dump([dataclasses.asdict(one) for one in findings])
    else:
        for one in findings:
            text.say(text.wrap(": ".join(filter(None, (one.severity, one.file, one.what))), ""))
            text.say(text.wrap(one.consequence))
        if not findings:
            click.echo("nothing is wrong")
    if any(one.severity != datadir.NOTE for one in findings):
        context.exit(1)


@dir.command(epilog="Example: pyraft dir position data/2")
@_DIRECTORY
@_SCRATCH
@_JSON
def position(directory: str, scratch: str | None, as_json: bool) -> None:
    """Print how far the log of DIR goes, for `recover` and `readdress` on another machine: TERM:LASTTERM:INDEX."""
    with _held(directory):
        found = datadir.position(directory, scratch)
    if as_json:
        text.dump(dataclasses.asdict(found))
    else:
        click.echo(f"{found.term}:{found.last_term}:{found.last_index}")


# ---- mending ---------------------------------------------------------------------------------------------------------


@dir.command(epilog="Example: pyraft dir repair data/1, and if you agree, pyraft dir repair data/1 --apply")
@_DIRECTORY
@_APPLY
@_SCRATCH
@_JSON
@click.pass_context
def repair(context: click.Context, directory: str, apply: bool, scratch: str | None, as_json: bool) -> None:
    """Mend DIR if a start is refused. Files are set aside, none is deleted.

    A directory that loads is left alone. Where acknowledged entries may be missing afterwards, the server is marked: it
    takes no part in elections until a leader has filled it up.
    """
    with _held(directory):
        found = datadir.repair(directory, apply, scratch)
    if as_json:
        text.dump(
            {
                "needed": found.needed,
                "applied": found.applied,
                "steps": found.steps,
                "may_lose": found.may_lose,
                "starts": found.start.starts,
                "problem": found.start.problem,
                "advice": found.advice,
            }
        )
    else:
        text.say(_repair_lines(found))
    if not found.start.starts or (found.needed and not found.applied):
        context.exit(1)


def _repair_lines(found: datadir.Repair) -> list[str]:
    lines = []
    if found.needed and found.start.starts:
        lines.append("done:" if found.applied else "it would be mended by these steps (--apply does them):")
    elif found.needed:
        lines.append("it cannot be mended; nothing was changed, tried was:")
    lines += text.items(found.steps)
    if found.may_lose:
        what = f"acknowledged entries may be missing then: {found.may_lose}; the server is marked as incomplete"
        lines += text.wrap(what, "")
    if found.advice:
        lines += text.wrap(found.advice, "")
    if found.needed and found.start.starts:
        lines.append("a start " + ("now" if found.applied else "then"))
        lines += _outcome(found.start)
    return lines


@dir.command(
    epilog="Example: two of five servers survive. On both: pyraft dir position DIR. Where the log goes furthest: "
    "pyraft dir recover data/2 --server 2=10.0.0.2:9001 --server 4=10.0.0.4:9001 --position 7:7:1200 --apply"
)
@_DIRECTORY
@click.option(
    "--server",
    "members",
    metavar="ID=HOST:PORT",
    multiple=True,
    required=True,
    help="A voter of the new configuration.",
)
@click.option("--standby", "standbys", metavar="ID=HOST:PORT", multiple=True, help="A stand-by of it.")
@_OTHER
@_POSITION
@_APPLY
@_SCRATCH
def recover(
    directory: str,
    members: tuple[str, ...],
    standbys: tuple[str, ...],
    others: tuple[str, ...],
    positions: tuple[str, ...],
    apply: bool,
    scratch: str | None,
) -> None:
    """Go on after the loss of a majority: make the survivors the cluster.

    All survivors are stopped, and how far each of them has come is given. It works on the directory whose log goes
    furthest, and refuses on any other. The other survivors are started as they are.
    """
    servers = RaftConfiguration()
    for role, given in ((RAFT_VOTER, members), (RAFT_STANDBY, standbys)):
        for id, address in map(_server, given):
            if raft_configuration_add(servers, id, address, role) != 0:
                raise click.UsageError(f"server {id} at {address}: {servers_problem(servers, id, address)}")
    with _held(directory, *others):
        steps = datadir.recover(
            directory, servers, _positions(others, positions, scratch), apply=apply, scratch=scratch
        )
    text.say(_steps(steps, apply))
    text.say(
        text.wrap(
            "Start the servers of the new configuration now, all of them as they are. Never start one of the lost ones "
            "again: with others of them it could go on as a second cluster.",
            "",
        )
    )


@dir.command(epilog="Example: pyraft dir readdress data/1 1=10.1.0.1:9001 2=10.1.0.2:9001 --position 7:7:1200")
@_DIRECTORY
@click.argument("addresses", metavar="ID=HOST:PORT...", nargs=-1, required=True)
@_OTHER
@_POSITION
@_APPLY
@_SCRATCH
def readdress(
    directory: str,
    addresses: tuple[str, ...],
    others: tuple[str, ...],
    positions: tuple[str, ...],
    apply: bool,
    scratch: str | None,
) -> None:
    """Give the members of a stopped cluster new addresses.

    All are stopped, and how far each voter has come is given. It works on the directory whose log goes furthest. The
    own address in a directory of pyraft.node is changed too, in DIR and in each --other.
    """
    moved = dict(map(_server, addresses))
    with _held(directory, *others):
        current = datadir.rehearse(directory, scratch).configuration
        if current is None:
            raise click.ClickException(f"{directory}: there is no configuration in it, so it was never a member")
        unknown = sorted(set(moved) - {one.id for one in current.servers})
        if unknown:
            raise click.ClickException(f"there is no server {unknown[0]}: {decoding.servers(current)}")
        servers = configuration.copy(current)
        for one in servers.servers:
            one.address = moved.get(one.id, one.address)
        steps = datadir.recover(
            directory, servers, _positions(others, positions, scratch), apply=apply, scratch=scratch
        )
        for path in (directory, *others):
            steps += _move_identity(path, servers, apply)
    text.say(_steps(steps, apply))


@dir.command(epilog="Example: pyraft dir backup shop.backup")
@click.argument("file", metavar="FILE")
@_JSON
def backup(file: str, as_json: bool) -> None:
    """Say what is in a backup, FILE, and whether it is whole: its checksum is compared.

    `pyraft backup` writes one, of a cluster that runs; `pyraft dir restore` makes a new cluster of it.
    """
    with _held():
        head = backups.examine(file)
    if as_json:
        text.dump(dataclasses.asdict(head))
        return
    rows: list[tuple[str, object]] = [("cluster", head.cluster or "-"), ("machine", head.machine)]
    rows += [("state", f"as of entry {head.index}, term {head.term}"), ("taken", text.moment(head.taken // 1000))]
    rows += [("size", text.size(head.size)), ("by version", head.version)]
    rows += [("  member", f"{id} {role} {address}") for id, address, role, *_ in head.members]
    text.say(text.pairs(rows))
    click.echo("it is whole")


@dir.command(epilog="Example: pyraft dir restore shop.backup data/1 --address 10.0.0.1:9001")
@click.argument("file", metavar="FILE")
@_DIRECTORY
@click.option("--address", metavar="HOST:PORT", required=True, help="Where the others will reach its first member.")
def restore(file: str, directory: str, address: str) -> None:
    """Make DIR that of a new cluster's only member, with the state that is in FILE.

    DIR is made if it is not there, and empty else. The new cluster has an id of its own; start a node on DIR, and have
    others join it. The cluster that the backup is of is not touched.
    """
    own = told(backups.restore(file, directory, address))
    click.echo(f"member {own.id} at {own.address} began cluster {own.cluster}")


def _server(given: str) -> tuple[int, str]:
    id, equals, address = given.partition("=")
    if not equals or not id.isascii() or not id.isdigit() or not address:
        raise click.UsageError(f"{given!r} is not of the form ID=HOST:PORT")
    return int(id), address


def servers_problem(servers: RaftConfiguration, id: int, address: str) -> str:
    """Return why a server cannot be added."""
    if configuration.get(servers, id) is not None:
        return "that id is there already"
    return "that address is there already, or the id is out of range"


def _positions(others: tuple[str, ...], given: tuple[str, ...], scratch: str | None) -> list[datadir.Position]:
    found = [datadir.position(one, scratch) for one in others]
    for one in given:
        numbers = one.split(":")
        if len(numbers) != 3 or not all(number.isascii() and number.isdigit() for number in numbers):
            raise click.UsageError(f"{one!r} is not what `pyraft dir position` prints, TERM:LASTTERM:INDEX")
        found.append(datadir.Position(f"the survivor at {one}", *map(int, numbers)))
    return found


def _move_identity(path: str, servers: RaftConfiguration, apply: bool) -> list[str]:
    """Have a directory of pyraft.node say its new address, if it has one."""
    who = identity.read(path)
    if who is None:
        return []
    own = configuration.get(servers, who.id)
    if own is None or own.address == who.address:
        return []
    members = tuple(one.address for one in servers.servers)
    if apply:
        identity.write(path, dataclasses.replace(who, address=own.address, members=members))
    return [f"{Path(path, identity.NODE_FILE)} says {own.address} instead of {who.address}"]


def _steps(steps: list[str], apply: bool) -> list[str]:
    return ["done:" if apply else "this would be done (--apply does it):", *text.items(steps)]
