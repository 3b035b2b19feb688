"""The view of a cluster that all who look at it share: its members are asked once, however many pages are open.

Duty: `Lookout.view` returns all members as they were found within the last second. Nobody is asked while nobody looks.

Happy path: `await lookout.view()`. Members are asked side by side, over connections that stay.

Failure modes: a member that takes connections and does not answer holds nobody up: after PATIENCE_SECONDS the view goes
on without its answer, it counts as silent after SILENT_SECONDS, and is asked again when it has answered, or its time is
over. Where none answers, all are shown so; NodeError, with the reason, before any ever has. Members decide what is in
their answers: MOST members are asked and shown, whatever one of them tells, and their texts are escaped.
"""

import asyncio
import dataclasses
import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from io_uv.histogram import BOUNDS
from pyraft.errors import printable
from pyraft.node.conditions import judge
from pyraft.node.errors import NodeError, Unavailable
from pyraft.node.operate import Operator, Seen, Survey, assemble

FRESH_SECONDS: Final = 0.9
"""A view is given out for so long."""

PATIENCE_SECONDS: Final = 0.5
SILENT_SECONDS: Final = 1.5

MOST: Final = 99
"""Members that are asked: as many as may vote."""

MOST_TEXT: Final = 500
"""Characters of a text that are shown."""


class _Answer(NamedTuple):
    seen: Seen | None
    problem: NodeError | None


class Lookout:
    """The shared view; see the head of this module."""

    def __init__(self, operator: Operator, more: Callable[[Survey], dict[str, Any]]) -> None:
        """`more(survey)` is added to what a view tells."""
        self._operator = operator
        self._more = more
        self._loop = asyncio.get_running_loop()
        self._answers: dict[str, _Answer] = {}
        self._asking: dict[str, tuple[float, asyncio.Task[None]]] = {}
        self._looking: asyncio.Task[bytes] | None = None
        self._last = Survey()
        self._view = b""
        self._made = -1e9

    async def view(self) -> bytes:
        """Return the view, as JSON. Raises NodeError if no member answers."""
        if self._loop.time() - self._made < FRESH_SECONDS:
            return self._view
        if self._looking is None:
            self._looking = self._loop.create_task(self._look())
            self._looking.add_done_callback(self._looked)
        return await asyncio.shield(self._looking)

    async def close(self) -> None:
        """Ask nobody any more."""
        tasks: list[asyncio.Task[Any]] = [task for _, task in self._asking.values()]
        if self._looking is not None:
            tasks.append(self._looking)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _looked(self, task: "asyncio.Task[bytes]") -> None:
        self._looking = None
        if not task.cancelled():
            task.exception()  # whoever waits gets it; nobody may

    async def _look(self) -> bytes:
        asked: set[str] = set()
        survey = self._last
        for _ in range(2):  # the answers say whom to ask as well
            new = self._wanted(survey) - asked
            if not new:
                break
            asked |= new
            await self._ask_all(new)
            survey = self._survey()
        self._last = survey
        for gone in self._answers.keys() - asked:
            del self._answers[gone]
        self._view = json.dumps(self._told(survey)).encode()
        self._made = self._loop.time()
        return self._view

    def _wanted(self, survey: Survey) -> set[str]:
        known = [one.address for one in survey.members][:MOST]
        return {*self._operator.via, *known}

    async def _ask_all(self, addresses: set[str]) -> None:
        limit = PATIENCE_SECONDS
        for address in addresses:
            if address not in self._asking:
                task = self._loop.create_task(self._ask(address))
                self._asking[address] = self._loop.time(), task
                if address not in self._answers:
                    limit = SILENT_SECONDS  # there is nothing to show in its place
        await asyncio.wait([self._asking[address][1] for address in addresses], timeout=limit)

    async def _ask(self, address: str) -> None:
        try:
            self._answers[address] = _Answer(await self._operator.look(address), None)
        except NodeError as exc:
            self._answers[address] = _Answer(None, exc)
        except Exception as exc:  # an address comes from a member, and may be anything
            self._answers[address] = _Answer(None, Unavailable(f"{address} cannot be asked: {exc}"))
        finally:
            del self._asking[address]

    def _survey(self) -> Survey:
        """Put together what is known by now."""
        found: dict[int, Seen] = {}
        problems: dict[str, NodeError] = {}
        for address, (began, _) in self._asking.items():
            if self._loop.time() - began > SILENT_SECONDS or address not in self._answers:
                problems[address] = Unavailable(f"{address} takes a connection and does not answer")
        for address, (seen, problem) in self._answers.items():
            if address in problems:
                continue
            if seen is None:
                assert problem is not None
                problems[address] = problem
            else:
                found[seen.id] = seen
        if not found and self._last.members:
            return _nobody(self._last, problems)
        return assemble(found, problems)

    def _told(self, survey: Survey) -> dict[str, Any]:
        """Return what a view tells; texts that others have chosen are escaped."""
        leader = None if survey.leader is None else str(survey.leader.id)
        members = [_with_texts(_plain(dataclasses.asdict(one))) for one in survey.members[:MOST]]
        # If no member could be asked, nothing is known but these three.
        known = any(one.status is not None for one in survey.members)
        judged = [one for one in judge(survey) if known or one.name in ("leader", "members", "quorum")]
        conditions = [_plain(dataclasses.asdict(one)) for one in judged]
        return {
            "cluster": printable(survey.cluster),
            "leader": leader,
            "members": members,
            "conditions": conditions,
            "bounds": BOUNDS,
            **self._more(survey),
        }


def _nobody(last: Survey, problems: dict[str, NodeError]) -> Survey:
    """Return a survey in which none of the members of an earlier one answers."""
    members = [
        dataclasses.replace(one, status=None, problem=str(problems.get(one.address, "")), behind=None)
        for one in last.members
    ]
    return Survey(members, None, last.cluster)


def _with_texts(one: dict[str, Any]) -> dict[str, Any]:
    """Return a member with its ids as texts: JavaScript's numbers end before ids do."""
    one["id"] = str(one["id"])
    if one["status"] is not None:
        with_texts(one["status"])
    return one


def with_texts(status: dict[str, Any]) -> dict[str, Any]:
    """Return a status with its ids as texts, likewise."""
    status.update(id=str(status["id"]), leader=str(status["leader"]))
    for name, column in (("members", 0), ("matches", 0), ("links", 0), ("visitors", 1)):
        for row in status[name]:
            row[column] = str(row[column])
    return status


def _plain(value: Any) -> Any:
    """Return a value with its texts escaped: line ends, marks that turn the direction of writing, and the like."""
    if isinstance(value, str):
        return printable(value[:MOST_TEXT])
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return {name: _plain(one) for name, one in value.items()} if isinstance(value, dict) else value
