"""`pyraft dir …`: data directories of stopped servers, of this library, libraft, cowsql and dqlite.

Duty: `show`, `log`, `check` and `position` look, `repair` and `recover` say what they would do and do it with --apply,
as `readdress` does (a module of its own). `export` and `import` move one. Each takes the locks of the directory first,
so none of them meets a server that runs.

Happy path: `pyraft dir check data/1` prints nothing wrong and exits with 0.

Failure modes: a directory in use, unreadable, or of no server is told on standard error, exit code 1. `check` exits
with 1 for damage and losses, `repair` if the directory does not load in the end.
"""

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import click

from io_uv import datadir
from pyraft import configuration, raft_configuration_add
from pyraft.command import decoding, output, screen, text
from pyraft.command.group import Group
from pyraft.command.reach import Number, id_and_address, is_number, json_option, told
from pyraft.dqlite import Refused, store
from pyraft.errors import printable
from pyraft.node import NodeError, identity
from pyraft.node import backup as backups
from pyraft.types import RAFT_STANDBY, RAFT_VOTER, RaftConfiguration, RaftServer

DIRECTORY: Final = click.argument("directory", metavar="DIR")
APPLY: Final = click.option("--apply", is_flag=True, help="Do it. Without this nothing is changed.")
OTHER: Final = click.option(
    "--other", "others", metavar="DIR", multiple=True, help="Directory of another survivor; may be repeated."
)
POSITION: Final = click.option(
    "--position",
    "positions",
    metavar="TERM:LASTTERM:INDEX",
    multiple=True,
    help="What `pyraft dir position` said of another survivor; may be repeated.",
)
SCRATCH: Final = click.option(
    "--scratch", metavar="PATH", help="Where copies are made for what is tried out, instead of the place for tmp files."
)


_CARRIED: Final = (identity.NODE_FILE, store.INFO, store.CLUSTER)
"""Files that say who a member is."""

_STATES: Final = {"never written": "unused", "intact": "intact", "torn by a crash": "torn", "damaged": "damaged"}
"""Shorter words, which fit beside the name of a closed segment on 80 columns."""


@contextmanager
def held(*directories: str) -> Iterator[None]:
    """Have directories for this command; an error meanwhile is told in a line."""
    try:
        with ExitStack() as stack:
            for one in directories:
                stack.enter_context(datadir.hold(one))
            yield
    except datadir.Failure as exc:
        raise click.ClickException(exc.message) from None
    except (datadir.Refused, Refused, NodeError, OSError) as exc:
        raise click.ClickException(str(exc)) from None


@click.group(cls=Group)
def dir() -> None:
    """Look into the data directory of a stopped server, check it, mend it.

    Also one of libraft, cowsql or dqlite: they have the same format.
    """


# ---- looking ---------------------------------------------------------------------------------------------------------


@dir.command(epilog="Example: pyraft dir show data/1")
@DIRECTORY
@json_option
@SCRATCH
def show(directory: str, as_json: bool, scratch: str | None) -> None:
    """Show what is in DIR, and what a start would do with it."""
    with held(directory), screen.progress(sys.stderr) as progress:
        found = datadir.read(directory, progress)
        rehearsal = datadir.rehearse(directory, scratch, progress=progress)
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
    state = _STATES[datadir.VERDICTS[one.verdict]] if one.is_open or one.problem else ""
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
    if rehearsal.alone:
        said = "is refused while the mark stands, if this server is the one voter that there is: entries may be missing"
        lines += text.wrap(said, "  ")
    elif rehearsal.recovering:
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
@DIRECTORY
@click.option("--from", "first", type=int, default=1, help="Index of the first entry.")
@click.option("--to", "last", type=int, default=1 << 62, help="Index of the last entry.")
@click.option("--full", is_flag=True, help="Do not shorten lines to 80 characters.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each entry.")
def log(directory: str, first: int, last: int, full: bool, as_json: bool) -> None:
    """List the entries of the log: index, term, type, bytes, and what they say.

    Commands of pyraft.node and dqlite are decoded, others shown as text or in hexadecimal digits.
    """
    expected = 0
    with held(directory):
        for one in datadir.entries(directory, first, last):
            if expected and one.index != expected and not as_json:
                output.put(f"  … {one.index - expected} entries are not here" if one.index > expected else "  … again")
            expected = one.index + 1
            said = decoding.describe(one.type, one.data)
            if as_json:
                text.dump_line(
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
                output.put(line if full else text.short(line))


@dir.command(epilog="Example: pyraft dir check data/1 || echo look at it")
@DIRECTORY
@json_option
@click.pass_context
def check(context: click.Context, directory: str, as_json: bool) -> None:
    """Compare every checksum in DIR, and say of each fault what follows from it.

    Exits with 1 for damage and losses, with 0 if there is nothing, or nothing but notes.
    """
    with held(directory), screen.progress(sys.stderr) as progress:
        findings = datadir.check(directory, progress=progress)
    if as_json:
        text.dump([dataclasses.asdict(one) for one in findings])
    else:
        for one in findings:
            text.say(text.wrap(": ".join(filter(None, (one.severity, one.file, one.what))), ""))
            text.say(text.wrap(one.consequence))
        if not findings:
            output.put("nothing is wrong")
    if any(one.severity != datadir.NOTE for one in findings):
        context.exit(1)


@dir.command(epilog="Example: pyraft dir position data/2")
@DIRECTORY
@SCRATCH
@json_option
def position(directory: str, scratch: str | None, as_json: bool) -> None:
    """Print how far the log of DIR goes, for `recover` and `readdress` on another machine: TERM:LASTTERM:INDEX."""
    with held(directory):
        found = datadir.position(directory, scratch)
    if as_json:
        text.dump(dataclasses.asdict(found))
    else:
        output.put(f"{found.term}:{found.last_term}:{found.last_index}")


@dir.command(epilog="Example: pyraft dir measure data/1")
@click.argument("directories", metavar="DIR...", nargs=-1, required=True)
@click.option("--seconds", type=Number(0.01, 3600), default=2.0, show_default=True, help="For each size.")
@json_option
def measure(directories: tuple[str, ...], seconds: float, as_json: bool) -> None:
    """Measure how long durable writes take on the disk of each DIR, and say which timeouts fit.

    It writes to a file of its own, also beside a server that runs: do it when the disk has most to do.
    """
    with held():
        found = {one: [datadir.measure(one, size, seconds) for size in (4096, 65536)] for one in directories}
    election, heartbeat = datadir.advise([one for speeds in found.values() for one in speeds])
    if as_json:
        disks = {one: [dataclasses.asdict(speed) for speed in speeds] for one, speeds in found.items()}
        text.dump({"disks": disks, "election_timeout_msecs": election, "heartbeat_msecs": heartbeat})
        return
    text.say(["milliseconds for a durable write"])
    for path, speeds in found.items():
        text.say([path])
        rows = [
            [text.size(one.size), one.writes]
            + [f"{part * 1000:.2f}" for part in (one.p50, one.p99, one.p999, one.longest)]
            + ["" if one.direct else "through the page cache"]
            for one in speeds
        ]
        text.say(text.table(("size", "writes", "median", "99 %", "99.9 %", "longest", ""), rows))
    text.say(text.wrap(f"election timeout {election} ms at least, heartbeat {heartbeat} ms", ""))


# ---- mending ---------------------------------------------------------------------------------------------------------


@dir.command(epilog="Example: pyraft dir repair data/1, and if you agree, pyraft dir repair data/1 --apply")
@DIRECTORY
@APPLY
@click.option("--merge", is_flag=True, help="Put small segments of the log together, too, if DIR loads.")
@SCRATCH
@json_option
@click.pass_context
def repair(
    context: click.Context, directory: str, apply: bool, merge: bool, scratch: str | None, as_json: bool
) -> None:
    """Mend DIR if a start is refused. Files are set aside, none is deleted.

    A directory that loads is left alone. Where acknowledged entries may be missing afterwards, the server is marked: it
    takes no part in elections until a leader has filled it up.
    """
    with held(directory):
        found = datadir.repair(directory, apply, scratch)
        loads = found.start.starts and found.applied == found.needed
        merged = datadir.merge(directory, apply, scratch) if merge and loads else None
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
                "merged": None if merged is None else dataclasses.asdict(merged),
            }
        )
    else:
        text.say(_repair_lines(found))
        text.say([] if merged is None else _merge_lines(merged))
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


def _merge_lines(found: datadir.Merge) -> list[str]:
    if not found.steps:
        return ["there are no small segments to put together"]
    what = "became" if found.applied else "would become"
    how = "" if found.applied else " (--apply does it)"
    return [f"{found.before} closed segments {what} {found.after}{how}:", *text.items(found.steps)]


@dir.command(
    epilog="Example: two of five servers survive. On both: pyraft dir position DIR. Where the log goes furthest: "
    "pyraft dir recover data/2 --server 2=10.0.0.2:9001 --server 4=10.0.0.4:9001 --position 7:7:1200 --apply"
)
@DIRECTORY
@click.option(
    "--server",
    "members",
    metavar="ID=HOST:PORT",
    multiple=True,
    required=True,
    help="A voter of the new configuration.",
)
@click.option("--standby", "standbys", metavar="ID=HOST:PORT", multiple=True, help="A stand-by of it.")
@OTHER
@POSITION
@APPLY
@SCRATCH
@json_option
def recover(
    directory: str,
    members: tuple[str, ...],
    standbys: tuple[str, ...],
    others: tuple[str, ...],
    positions: tuple[str, ...],
    apply: bool,
    scratch: str | None,
    as_json: bool,
) -> None:
    """Go on after the loss of a majority: make the survivors the cluster.

    All survivors are stopped, and how far each of them has come is given. It works on the directory whose log goes
    furthest, and refuses on any other. The other survivors are started as they are.
    """
    servers = RaftConfiguration()
    for role, given in ((RAFT_VOTER, members), (RAFT_STANDBY, standbys)):
        for id, address in map(id_and_address, given):
            if raft_configuration_add(servers, id, address, role) != 0:
                raise click.UsageError(f"server {id} at {address}: {servers_problem(servers, id, address)}")
    with held(directory, *others):
        _require_own(directory, servers)
        steps = datadir.recover(
            directory,
            servers,
            positions_of(others, positions, scratch),
            survivors=[id for path in (directory, *others) for id, _ in owners(path)],
            apply=apply,
            scratch=scratch,
        )
    if say_steps(steps, apply, as_json):
        return
    text.say(
        text.wrap(
            "Start the servers of the new configuration now, all of them as they are. Never start one of the lost ones "
            "again: with others of them it could go on as a second cluster.",
            "",
        )
    )


def owners(directory: str) -> list[tuple[int, str]]:
    """Return whose directory it is, id and address, by each of its files that says so; libraft's have none."""
    found = (identity.read(directory), store.read_info(directory))
    return [(one.id, one.address) for one in found if one is not None]


def _require_own(directory: str, servers: RaftConfiguration) -> None:
    """End the command where a configuration leaves out the member of a directory, or has it somewhere else."""
    for id, address in owners(directory):
        given = configuration.get(servers, id)
        if given is None:
            raise click.ClickException(f"{directory} is of member {id} at {address}: it has to be one of the servers")
        if given.role != RAFT_VOTER:
            raise click.ClickException(
                f"{directory} is of member {id}, and it alone gets the new configuration: it has to be a --server, as "
                "nobody else could lead"
            )
        if given.address != address:
            raise click.ClickException(
                f"member {id} is at {address}, as {directory} has it, and not at {given.address}: recover it there, "
                "and `pyraft dir readdress` moves it then"
            )


@dir.command(epilog="Example: pyraft dir backup shop.backup")
@click.argument("file", metavar="FILE")
@json_option
def backup(file: str, as_json: bool) -> None:
    """Say what is in a backup, FILE, and whether it is whole: its checksum is compared.

    `pyraft backup` writes one, of a cluster that runs; `pyraft dir restore` makes a new cluster of it.
    """
    with held(), screen.progress(sys.stderr) as progress:
        head = backups.examine(file, progress)
    if as_json:
        text.dump(dataclasses.asdict(head))
        return
    rows: list[tuple[str, object]] = [("cluster", head.cluster or "-"), ("machine", head.machine or "-")]
    rows += [("state", f"as of entry {head.index}, term {head.term}"), ("taken", text.moment(head.taken // 1000))]
    rows += [("size", text.size(head.size)), ("by version", head.version)]
    rows += [("  member", f"{id} {role} {address}") for id, address, role, *_ in head.members]
    text.say(text.pairs(rows))
    output.put("it is whole")


@dir.command(epilog="Example: pyraft dir restore shop.backup data/1 --address 10.0.0.1:9001")
@click.argument("file", metavar="FILE")
@DIRECTORY
@click.option("--address", metavar="HOST:PORT", required=True, help="Where the others will reach its first member.")
@click.option("--id", type=int, default=0, help="Its id, where FILE is of servers of the C-style API.")
@json_option
def restore(file: str, directory: str, address: str, id: int, as_json: bool) -> None:
    """Make DIR that of a new cluster's only member, with the state that is in FILE.

    DIR is made if it is not there, and empty else. The new cluster has an id of its own; start a node on DIR, and have
    others join it. The cluster that the backup is of is not touched.
    """
    with screen.progress(sys.stderr) as progress:
        own = told(backups.restore(file, directory, address, progress, id=id))
    sentence = f"member {own.id} at {own.address} began {f'cluster {own.cluster}' if own.cluster else 'a cluster'}"
    text.done(sentence, as_json, id=own.id, address=own.address, cluster=own.cluster)


# ---- moving ----------------------------------------------------------------------------------------------------------


@dir.command(name="export", epilog="Example: pyraft dir export data/1 1.export")
@DIRECTORY
@click.argument("file", metavar="FILE")
@SCRATCH
@json_option
def export_(directory: str, file: str, scratch: str | None, as_json: bool) -> None:
    """Write what a start would load from DIR to FILE: term, vote, snapshot, entries.

    FILE is new, lines of JSON with a checksum, and says who the member is, too. Keys and certificates stay behind.
    """
    with held(directory), screen.progress(sys.stderr) as progress:
        head = datadir.export(directory, file, files=_CARRIED, scratch=scratch, progress=progress)
    _say_archive(head, as_json)


@dir.command(epilog="Example: pyraft dir examine 1.export")
@click.argument("file", metavar="FILE")
@json_option
def examine(file: str, as_json: bool) -> None:
    """Say what is in an exported directory, FILE, and whether it is whole: its checksum is compared."""
    with held(), screen.progress(sys.stderr) as progress:
        head = datadir.examine(file, progress)
    _say_archive(head, as_json)
    if not as_json:
        output.put("it is whole")


@dir.command(name="import", epilog="Example: pyraft dir import 1.export data/1")
@click.argument("file", metavar="FILE")
@DIRECTORY
@json_option
def import_(file: str, directory: str, as_json: bool) -> None:
    """Make DIR, which is empty or not there, of what `pyraft dir export` has written to FILE.

    It is the same member: only one of the two directories may ever be started.
    """
    with held(), screen.progress(sys.stderr) as progress:
        head = datadir.import_(file, directory, progress)
    _say_archive(head, as_json)
    if not as_json:
        advice = "Start a server on this directory or on the one that was exported, never both: each would vote."
        text.say(text.wrap(advice, ""))


def _say_archive(head: datadir.Archive, as_json: bool) -> None:
    if as_json:
        text.dump({**dataclasses.asdict(head), "files": sorted(head.files)})
        return
    rows: list[tuple[str, object]] = [("term", head.term), ("voted for", head.voted_for or "-")]
    snapshot = head.snapshot
    if snapshot is not None:
        taken = f"{text.size(snapshot.size)}, taken {text.moment(snapshot.taken_at)}"
        rows.append(("snapshot", f"of entry {snapshot.index}, term {snapshot.term}, {taken}"))
    log = f"entries {head.first_index} to {head.last_index}, the last of term {head.last_term}"
    rows.append(("log", log if head.entries else "no entries"))
    rows += [("mark", name) for name in head.marks]
    rows += [("file", name) for name in sorted(head.files)]
    text.say(text.pairs(rows))


def servers_problem(servers: RaftConfiguration, id: int, address: str) -> str:
    """Return why a server cannot be added."""
    if configuration.get(servers, id) is not None:
        return "that id is there already"
    return "that address is there already, or the id is out of range"


def positions_of(others: tuple[str, ...], given: tuple[str, ...], scratch: str | None) -> list[datadir.Position]:
    """Return how far other survivors have come: those with a directory here, and those that `position` was asked of."""
    found = [datadir.position(one, scratch) for one in others]
    for one in given:
        numbers = one.split(":")
        if len(numbers) != 3 or not all(map(is_number, numbers)):
            raise click.UsageError(f"{one!r} is not what `pyraft dir position` prints, TERM:LASTTERM:INDEX")
        found.append(datadir.Position(f"the survivor at {one}", *map(int, numbers)))
    return found


def say_steps(steps: list[str], apply: bool, as_json: bool) -> bool:
    """Say what was done, or would be; return whether that was JSON, behind which nothing may come."""
    if as_json:
        text.dump({"applied": apply, "steps": steps})
    else:
        text.say(["done:" if apply else "this would be done (--apply does it):", *text.items(steps)])
    return as_json
