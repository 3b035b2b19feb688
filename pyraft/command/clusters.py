"""`pyraft status`, `members`, `check`, `ping`, and the changes of a cluster that runs, through any member's port.

Duty: look (`status`, `members`, `ping`, `check`), and have something done (`add`, `remove`, `replace`,
`promote`, `demote`, `transfer`, `snapshot take`, `backup`). `pyraft.node.operate` does it; the rest is here.

Happy path: `pyraft status --via 10.0.0.1:9001`. A member is named by its address or its id.

Failure modes: exit code 1 for what was refused or has not come about in time, and where `status` or `check` find
something that is not as it should be.
"""

import asyncio
import dataclasses
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import click

from pyraft.command import output, screen, text
from pyraft.command.group import Group
from pyraft.command.reach import Number, Way, find, id_and_address, json_option, reach
from pyraft.node import backup as backups
from pyraft.node.conditions import Condition, Limits, judge
from pyraft.node.council import Member
from pyraft.node.errors import NodeError, Unavailable
from pyraft.node.operate import Operator, Seen, Survey
from pyraft.node.status import Status

T = TypeVar("T")

_MEMBER: Final = click.argument("member", metavar="MEMBER")


# ---- looking ---------------------------------------------------------------------------------------------------------


@click.command(epilog="Example: pyraft status --via 10.0.0.1:9001")
@click.argument("member", metavar="[MEMBER]", required=False)
@reach
@json_option
@click.pass_context
def status(context: click.Context, member: str | None, way: Way, as_json: bool) -> None:
    """Show who leads, and how each member is; with MEMBER all that this one tells.

    Exits with 1 if nobody leads or a member does not answer.
    """
    survey = way.run(Operator.survey)
    if member is not None:
        if not _one(survey, member, as_json):
            context.exit(1)
        return
    if as_json:
        text.dump(facts(survey))
    else:
        text.say(overview(survey))
    if survey.leader is None or any(one.status is None for one in survey.members):
        context.exit(1)


def facts(survey: Survey) -> dict[str, Any]:
    """Return a survey as --json has it."""
    leader = survey.leader
    members = [dataclasses.asdict(one) for one in survey.members]
    return {"cluster": survey.cluster, "leader": None if leader is None else leader.id, "members": members}


def overview(survey: Survey) -> list[text.Part]:
    """Return a survey in parts: who leads, a table of the members, and remarks."""
    leader = survey.leader
    rows: list[tuple[str, object]] = [("cluster", survey.cluster or "-")]
    if leader is None or leader.status is None:
        rows.append(("leader", "nobody leads"))
    else:
        known = leader.status
        rows += [("leader", f"{leader.address}{_since(known.leader_seconds)}"), ("term", known.term)]
        rows.append(("log", f"to entry {known.last}, committed to {known.commit}"))
    head = ("address", "role", "state", "behind", "log", "snapshots", "free", "up")
    parts: list[text.Part] = [*text.pairs(rows), "", *text.table(head, map(_row, survey.members))]
    remarks = [remark for one in survey.members for remark in _remarks(one)]
    versions = sorted({one.status.version for one in survey.members if one.status is not None})
    if len(versions) > 1:
        remarks.append(f"members run different versions: {', '.join(versions)}")
    return [*parts, "", *text.items(remarks)] if remarks else parts


def _row(one: Seen) -> tuple[object, ...]:
    behind = "-" if one.behind is None else one.behind
    known = one.status
    if known is None:
        return one.address, one.role, "no answer", behind, "-", "-", "-", "-"
    log, snapshots = text.size(known.segment_bytes), text.size(known.snapshot_bytes)
    free = "-" if known.free < 0 else text.size(known.free)
    return one.address, one.role, known.state, behind, log, snapshots, free, text.span(known.up_seconds)


def _remarks(one: Seen) -> list[str]:
    known = one.status
    if known is None:
        return [one.problem] if one.problem else []
    return [
        f"{one.address}: {name}: {what}"
        for name, what in (
            ("it has stopped", known.cause),
            ("its disk", known.disk),
            ("no part in elections", known.recovering),
            ("snapshots", known.snapshot_problem),
            ("its state machine refuses entry", known.stuck),
        )
        if what
    ]


def _since(seconds: float) -> str:
    return "" if seconds < 0 else f", for {text.span(seconds)}"


def _one(survey: Survey, member: str, as_json: bool) -> bool:
    """Show all that one member tells; return whether it has answered."""
    found = [one for one in survey.members if member in (str(one.id), one.address)]
    if not found:
        raise click.ClickException(f"{member} is not a member; members are {', '.join(_names(survey))}")
    (one, *_) = found
    if as_json:
        text.dump(dataclasses.asdict(one))
    elif one.status is None:
        raise click.ClickException(one.problem or f"{one.address} does not answer")
    else:
        text.say(text.pairs(_details(one, one.status)))
        links = [f"{id} at {at}{'' if there else ': there is none'}" for id, at, there, *_ in one.status.links]
        visits = [f"{f'member {id}' if id else 'a client'} from {host}" for host, id, *_ in one.status.visitors]
        for title, lines in (("connections to members", links), ("connections of nodes and clients", visits)):
            text.say(["", title, *(f"  {line}" for line in lines)] if lines else [])
    return one.status is not None


def _names(survey: Survey) -> list[str]:
    return [f"{one.id} at {one.address}" for one in survey.members]


def _details(one: Seen, known: Status) -> list[tuple[str, object]]:
    leader = f"{known.leader_address}{_since(known.leader_seconds)}" if known.leader else "none is known"
    newest = f", {text.moment(known.snapshot_taken)}" if known.snapshot_taken else ""
    return [
        ("member", f"{known.id} at {known.address}"),
        ("cluster", known.cluster or "-"),
        ("role", one.role),
        ("state", f"{known.state}{f': {known.cause}' if known.cause else ''}"),
        ("leader", leader),
        ("term", known.term),
        ("log", f"{known.first or '-'} to {known.last}, on disk to {known.stored}"),
        ("committed", f"to {known.commit}, applied to {known.applied}"),
        ("behind", "-" if one.behind is None else f"{one.behind} entries"),
        ("snapshot", f"to {known.snapshot}{newest}" if known.snapshot else "none"),
        ("log size", f"{text.size(known.segment_bytes)} in {known.segments} files"),
        ("snapshots", text.size(known.snapshot_bytes)),
        ("disk", known.disk or "takes entries"),
        ("free", "-" if known.free < 0 else f"{text.size(known.free)} of {text.size(known.total)}"),
        ("clock", f"{one.clock:+.3f} s"),
        ("machine", known.machine or "-"),
        ("version", f"{known.version} on Python {known.python}"),
        ("up", text.span(known.up_seconds)),
    ]


@click.command(epilog="Example: pyraft members --via 10.0.0.1:9001")
@reach
@json_option
def members(way: Way, as_json: bool) -> None:
    """List the members, as the leader knows them."""
    found = way.run(Operator.members)
    if as_json:
        text.dump([dataclasses.asdict(one) for one in found])
        return
    rows = [
        (
            one.id,
            one.address,
            "leads" if one.leads else one.role,
            "-" if one.behind is None else one.behind,
            "now" if one.leads else "-" if one.last_contact is None else f"{one.last_contact:.1f} s ago",
            one.name,
        )
        for one in found
    ]
    text.say(text.table(("id", "address", "role", "behind", "heard from", "name"), rows))


@click.command(epilog="Example: pyraft ping --via 10.0.0.1:9001")
@reach
@json_option
@click.pass_context
def ping(context: click.Context, way: Way, as_json: bool) -> None:
    """Ask each member, and say how long the answer takes. Exits with 1 if one does not answer."""

    async def job(operator: Operator) -> list[tuple[Seen, float, str]]:
        survey = await operator.survey()

        async def one(seen: Seen) -> tuple[Seen, float, str]:
            try:
                return seen, await operator.ping(seen.address), ""
            except NodeError as exc:
                return seen, 0.0, str(exc)

        return list(await asyncio.gather(*map(one, survey.members)))

    found = way.run(job)
    if as_json:
        rows = [{"id": s.id, "address": s.address, "seconds": t, "problem": p} for s, t, p in found]
        text.dump(rows)
    else:
        text.say(
            text.table(("address", "ms", ""), [(s.address, "-" if p else f"{t * 1000:.2f}", p) for s, t, p in found])
        )
    if any(problem for _, _, problem in found):
        context.exit(1)


@click.command(epilog="Example: pyraft check --via 10.0.0.1:9001 --behind 1000 || mail -s cluster admin")
@reach
@click.option(
    "--behind", type=click.IntRange(0), default=Limits.behind, show_default=True, help="Entries that a member may lack."
)
@click.option(
    "--free", type=Number(0, 1), default=Limits.free, show_default=True, help="Share of a disk that must be free."
)
@click.option(
    "--clock", type=Number(0), default=Limits.clock, show_default=True, help="By how many s a clock may be off."
)
@json_option
@click.pass_context
def check(context: click.Context, way: Way, behind: int, free: float, clock: float, as_json: bool) -> None:
    """Say of each condition of a healthy cluster whether it holds, for monitoring.

    Exits with 1 if one does not. A cluster that cannot be reached is one line too.
    """
    try:
        conditions = judge(way.run(Operator.survey), Limits(behind, free, clock))
    except click.ClickException as exc:
        conditions = [Condition("members", False, exc.message)]
    if as_json:
        text.dump([dataclasses.asdict(one) for one in conditions])
    else:
        text.say(f"{'ok    ' if one.ok else 'FAULT '}{one.name}: {one.text}" for one in conditions)
    if not all(one.ok for one in conditions):
        context.exit(1)


# ---- changes ---------------------------------------------------------------------------------------------------------


def _change(way: Way, member: str, change: Callable[[Operator, int], Awaitable[T]]) -> tuple[Member, T]:
    """Find a member by its id or address, and have it changed; return (the member, the result of the change)."""

    async def job(operator: Operator) -> tuple[Member, T]:
        found = await find(operator, member)
        return found, await change(operator, found.id)

    return way.run(job)


def _told(found: Member, role: str, as_json: bool) -> None:
    sentence = f"member {found.id} at {found.address} is a {role}"
    text.done(sentence, as_json, id=found.id, address=found.address, role=role)


@click.command(epilog="Example: pyraft add 4=10.0.0.4:9001 --via 10.0.0.1:9001, and when it runs, pyraft promote 4")
@click.argument("server", metavar="ID=HOST:PORT")
@reach
@json_option
def add(server: str, way: Way, as_json: bool) -> None:
    """Add a server of the C-style API as a spare. Nodes do that themselves: pyraft join."""
    id, address = id_and_address(server)
    way.run(lambda operator: operator.add(id, address))
    text.done(f"member {id} at {address} is a spare", as_json, id=id, address=address, role="spare")


@click.command(epilog="Example: pyraft remove 10.0.0.3:9001 --via 10.0.0.1:9001")
@_MEMBER
@reach
@json_option
def remove(member: str, way: Way, as_json: bool) -> None:
    """Remove MEMBER, whether it runs or not. If it leads, it hands over first."""

    found, _ = _change(way, member, lambda operator, id: operator.remove(id))
    text.done(f"member {found.id} at {found.address} is removed", as_json, id=found.id, address=found.address)


@click.command(epilog="Example: pyraft promote 10.0.0.4:9001 --via 10.0.0.1:9001")
@_MEMBER
@reach
@json_option
def promote(member: str, way: Way, as_json: bool) -> None:
    """Have MEMBER vote, if there are not enough voters yet, else stand by."""

    found, role = _change(way, member, lambda operator, id: operator.promote(id))
    _told(found, role, as_json)


@click.command(epilog="Example: pyraft demote 10.0.0.3:9001 --via 10.0.0.1:9001")
@_MEMBER
@reach
@json_option
def demote(member: str, way: Way, as_json: bool) -> None:
    """Have MEMBER stand by: it has the log, and no vote. If it leads, it hands over first."""

    found, _ = _change(way, member, lambda operator, id: operator.demote(id))
    _told(found, "standby", as_json)


@click.command(epilog="Example: pyraft replace 10.0.0.3:9001 10.0.0.4:9001 --via 10.0.0.1:9001")
@_MEMBER
@click.argument("by", metavar="[BY]", required=False)
@reach
@json_option
def replace(member: str, by: str | None, way: Way, as_json: bool) -> None:
    """Remove MEMBER, and have BY vote in its place, or the best of those that stand by."""

    async def change(operator: Operator, id: int) -> int:
        return await operator.replace(id, 0 if by is None else (await find(operator, by)).id)

    found, id = _change(way, member, change)
    sentence = f"member {found.id} at {found.address} is removed, and {id or 'nobody'} votes in its place"
    text.done(sentence, as_json, id=found.id, address=found.address, by=id)


@click.command(epilog="Example: pyraft transfer 10.0.0.2:9001 --via 10.0.0.1:9001")
@click.argument("member", metavar="[MEMBER]", required=False)
@reach
@json_option
def transfer(member: str | None, way: Way, as_json: bool) -> None:
    """Have MEMBER lead, or any other voter."""

    async def job(operator: Operator) -> tuple[int, str]:
        target = None if member is None else await find(operator, member)
        try:
            id = await operator.transfer(0 if target is None else target.id)
        except Unavailable as exc:
            raise exc if target is None else await _reason(operator, target, exc) from None
        return id, next((one.address for one in await operator.members() if one.id == id), "?")

    id, address = way.run(job)
    text.done(f"member {id} at {address} leads", as_json, id=id, address=address)


async def _reason(operator: Operator, target: Member, exc: Unavailable) -> Unavailable:
    """Return why a member has not taken over: it may be that nobody can reach it."""
    try:
        await operator.look(target.address)
    except NodeError as why:
        return Unavailable(f"{exc}: {why}")
    return exc


@click.command(epilog="Example: pyraft backup shop.backup --via 10.0.0.1:9001")
@click.argument("file", metavar="FILE")
@click.option("--member", metavar="MEMBER", help="Take it from this one; else from one that does not lead.")
@reach
@json_option
def backup(file: str, member: str | None, way: Way, as_json: bool) -> None:
    """Write the state of the cluster, with all that is acknowledged by now, to FILE.

    The cluster goes on meanwhile. `pyraft dir backup` looks into FILE, `pyraft dir restore` makes a new cluster of it.
    """

    async def job(operator: Operator) -> backups.Head:
        where = "" if member is None else (await find(operator, member)).address
        with screen.progress(sys.stderr) as progress:
            return await backups.take(operator, file, where, progress)

    head = way.run(job)
    if as_json:
        text.dump(dataclasses.asdict(head))
    else:
        output.put(f"backed up: the state as of entry {head.index}, {text.size(head.size)}")


@click.group(cls=Group)
def snapshot() -> None:
    """Snapshots of the state that members have."""


@snapshot.command(epilog="Example: pyraft snapshot take --via 10.0.0.1:9001")
@click.argument("member", metavar="[MEMBER]", required=False)
@reach
@json_option
@click.pass_context
def take(context: click.Context, member: str | None, way: Way, as_json: bool) -> None:
    """Have MEMBER, or each member, take a snapshot of all that it has applied, and let go of the log before."""

    async def job(operator: Operator) -> list[tuple[str, str, bool]]:
        survey = await operator.survey()

        async def one(seen: Seen) -> tuple[str, str, bool]:
            try:
                return seen.address, f"has a snapshot up to entry {await operator.snapshot(seen.address)}", True
            except NodeError as exc:
                return seen.address, str(exc), False

        wanted = [s for s in survey.members if member in (None, str(s.id), s.address)]
        if not wanted:
            raise click.ClickException(f"{member} is not a member; members are {', '.join(_names(survey))}")
        return list(await asyncio.gather(*map(one, wanted)))

    found = way.run(job)
    if as_json:
        text.dump([{"address": address, "done": done, "text": what} for address, what, done in found])
    else:
        for address, what, _ in found:
            text.say(text.wrap(f"{address}: {what}", ""))
    if not all(done for _, _, done in found):
        context.exit(1)
