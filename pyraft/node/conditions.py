"""The conditions of a cluster that monitoring asks for: one line each, and whether it is as it should be.

Duty: `judge` looks at a survey and says of each condition how it stands, in a sentence that names the members that are
at fault. The limits are in `Limits`.

Happy path: `[one for one in judge(await operator.survey()) if not one.ok]` is empty.

Failure modes: none. A fact that a member could not be asked for counts against it once, under "members".
"""

from collections.abc import Callable
from dataclasses import dataclass

from pyraft.node.operate import Seen, Survey
from pyraft.node.status import Status


@dataclass(frozen=True)
class Limits:
    """The limits beyond which a condition is not as it should be."""

    behind: int = 10_000
    """Entries that a member may lack."""
    free: float = 0.1
    """The share of a disk that has to be free."""
    clock: float = 1.0
    """Seconds by which a member's clock may differ from the asker's, and from those of the others."""


@dataclass(frozen=True)
class Condition:
    """One condition."""

    name: str
    ok: bool
    text: str


def judge(survey: Survey, limits: Limits | None = None) -> list[Condition]:
    """Return how all conditions stand, in the order of their weight."""
    limits = limits or Limits()
    asked = [(one, one.status) for one in survey.members if one.status is not None]
    return [
        _leader(survey, asked),
        _members(survey),
        _quorum(survey),
        _of_each(
            "running", asked, "all servers run", lambda s: s.state == "unavailable" and (s.cause or "it has ended")
        ),
        _behind(survey, limits),
        _of_each("disk", asked, "all disks take entries", lambda s: s.disk),
        _of_each("room", asked, "there is room on all disks", lambda s: _room(s, limits)),
        _of_each("log", asked, "no log lacks anything", lambda s: s.recovering),
        _of_each("snapshots", asked, "snapshots can be taken", lambda s: s.snapshot_problem),
        _of_each("machine", asked, "all entries were applied", lambda s: s.stuck and f"entry {s.stuck} is refused"),
        _clocks(asked, limits),
    ]


def margin(survey: Survey) -> int:
    """Return how many more voters may fail: below 0 there is no majority that stores anything.

    A voter whose disk takes no entries stores none, and one whose log lacks some elects nobody.
    """
    majority = len(survey.voters) // 2 + 1
    alive = [one.status for one in survey.voters if one.status is not None and one.status.state != "unavailable"]
    able = [status for status in alive if not status.disk]
    left = len(able) - majority
    return min(left, max(0, sum(not status.recovering for status in able) - majority))


def _leader(survey: Survey, asked: list[tuple[Seen, Status]]) -> Condition:
    leader = survey.leader
    if leader is None or leader.status is None:
        known = {s.leader_address for _, s in asked if s.leader}
        told = f"; of those that answer some take {', '.join(sorted(known))} for it" if known else ""
        return Condition("leader", False, f"nobody leads{told}")
    term = leader.status.term
    others = [one.address for one, s in asked if (s.leader, s.term) != (leader.id, term) and s.state != "unavailable"]
    voters = {one.id for one in survey.voters}
    others = [one.address for one, s in asked if one.address in others and one.id in voters]
    if others:
        return Condition(
            "leader", False, f"{leader.address} leads in term {term}; {', '.join(others)} do not follow it"
        )
    return Condition("leader", True, f"{leader.address} leads in term {term}")


def _members(survey: Survey) -> Condition:
    lost = [one.problem or f"{one.address} does not answer" for one in survey.members if one.status is None]
    if lost:
        return Condition("members", False, f"{len(lost)} of {len(survey.members)}: {'; '.join(lost)}")
    return Condition("members", True, f"{len(survey.members)} of {len(survey.members)} answer")


def _quorum(survey: Survey) -> Condition:
    voters, left = len(survey.voters), margin(survey)
    if left < 0:
        sick = any(one.status is not None and one.status.disk for one in survey.voters)
        works = "runs and has a disk that takes entries" if sick else "runs"
        return Condition("quorum", False, f"no majority of the {voters} voters {works}: nothing can be stored")
    text = f"{left} of the {voters} voters may fail" if left else f"no further one of the {voters} voters may fail"
    return Condition("quorum", left > 0 or voters < 3, text)


def _behind(survey: Survey, limits: Limits) -> Condition:
    known = [(one.address, one.behind) for one in survey.members if one.behind is not None and one.role != "spare"]
    late = [f"{address} by {behind}" for address, behind in known if behind > limits.behind]
    if late:
        return Condition("behind", False, f"more than {limits.behind} entries behind: {', '.join(late)}")
    return Condition("behind", True, f"no member is more than {max((n for _, n in known), default=0)} entries behind")


def _room(s: Status, limits: Limits) -> str:
    """Say what is too little: for the next file of the log, for a snapshot like the newest one, or by the limit."""
    if s.total <= 0:
        return ""
    for need, what in ((s.segment_size, "next file of the log"), (s.newest_bytes, "next snapshot")):
        if s.free < need:
            return f"{s.free} bytes are free, and the {what} may need {need}"
    return "" if s.free >= s.total * limits.free else f"{s.free * 100 // s.total} % of the disk are free"


def _of_each(
    name: str, asked: list[tuple[Seen, Status]], fine: str, fault: Callable[[Status], str | int | bool]
) -> Condition:
    faults = [f"{one.address}: {fault(status)}" for one, status in asked if fault(status)]
    return Condition(name, not faults, "; ".join(faults) or fine)


def _clocks(asked: list[tuple[Seen, Status]], limits: Limits) -> Condition:
    wrong = [f"{one.address} by {one.clock:+.1f} s" for one, _ in asked if abs(one.clock) > limits.clock]
    if wrong:
        return Condition("clocks", False, f"away from the clock here: {', '.join(wrong)}")
    return Condition("clocks", True, f"within {limits.clock:g} s of the clock here")
