"""The leader's side of calls: many of them, from here and from other nodes, become few entries of the log.

Duty: `Proposer` takes groups of calls, puts what comes while entries are under way into one entry, and tells each group
its outcomes.

Happy path: `send(calls, done)`, and `raft_apply` at once if nothing is under way; when the entry is applied,
`done(outcomes)`, one for each call, in order.

Failure modes: `done(None)` says that the outcomes are not known: this server does not lead, or not any more, or its
disk failed. A call that has been sent may still be executed; sessions see to it that sending it again is harmless.
`done` is never called inside `send`.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from io_uv.histogram import Histogram
from pyraft import Raft, RaftApply, aio, raft_apply
from pyraft.node.replica import Replica

if TYPE_CHECKING:
    from pyraft.node.traces import Tracing

Wire: TypeAlias = "list[Any]"
"""A call as it travels: [session, number, acknowledged, machine, command, version, packed arguments]."""

Done: TypeAlias = Callable[["list[bytes] | None"], None]

MAX_CALLS: Final = 2048
"""An entry takes one more group while it has fewer calls than this."""

MAX_BYTES: Final = 512 * 1024
"""The same limit in bytes of arguments."""

UNDER_WAY: Final = 2
"""Entries that are not applied yet, before further calls wait to share the next one."""

Group: TypeAlias = "tuple[list[Wire], Done]"


class Proposer:
    """The executor of a node's own calls while it leads."""

    def __init__(
        self, server: aio.Server, replica: Replica, clock: Callable[[], int], tracing: "Tracing | None" = None
    ) -> None:
        """`clock()` is the shared time, in microseconds since 1970."""
        self._tracing = tracing
        self._clock = clock
        self._raft: Raft = server.raft
        self._replica = replica
        self._loop = asyncio.get_running_loop()
        self._groups: deque[Group] = deque()
        self._under_way = 0
        self.calls = 0
        """Calls that have been put into entries."""
        self.lost = 0
        """Those of them whose outcomes are not known here."""
        self.commits = Histogram()
        """Times from an entry to its outcomes."""
        self._due = False
        self._closed = False

    def send(self, calls: list[Wire], done: Done) -> None:
        """Have `calls` executed; `done(outcomes or None)` follows."""
        if self._under_way == 0 and not (self._due or self._closed or self._groups):
            self._propose([(calls, done)])  # nothing that it could wait for, and be joined by
            return
        self._groups.append((calls, done))
        if not self._due and (self._closed or self._under_way < UNDER_WAY):
            self._due = True
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Take nothing more; all that waits is answered with None."""
        self._closed = True
        self._give_up()

    def _give_up(self) -> None:
        groups, self._groups = self._groups, deque()
        for _, done in groups:
            done(None)

    def _flush(self) -> None:
        self._due = False
        if self._closed:
            self._give_up()
            return
        while self._groups and self._under_way < UNDER_WAY:
            self._propose(self._take())

    def _take(self) -> list[Group]:
        """Take the groups for one entry."""
        taken: list[Group] = []
        calls = size = 0
        while self._groups and calls < MAX_CALLS and size < MAX_BYTES:
            group = self._groups.popleft()
            taken.append(group)
            calls += len(group[0])
            size += sum([len(call[6]) for call in group[0]])
        return taken

    def _propose(self, groups: list[Group]) -> None:
        calls = groups[0][0] if len(groups) == 1 else [call for group in groups for call in group[0]]
        entry = self._replica.entry(self._clock(), calls)
        self._under_way += 1
        self.calls += len(calls)
        began = self._loop.time()
        end = None if self._tracing is None else self._tracing.commit(calls)

        def applied(req: RaftApply, status: int, result: list[bytes] | None) -> None:
            self.commits.observe(self._loop.time() - began)
            if end is not None:
                end(result is not None)
            self._applied(groups, result)

        if raft_apply(self._raft, RaftApply(), [entry], 1, applied) != 0:
            if end is not None:
                end(False)
            self._loop.call_soon(self._applied, groups, None)

    def _applied(self, groups: list[Group], outcomes: list[bytes] | None) -> None:
        self._under_way -= 1
        if outcomes is None:
            self.lost += sum([len(calls) for calls, _ in groups])
        at = 0
        for calls, done in groups:
            done(None if outcomes is None else outcomes[at : at + len(calls)])
            at += len(calls)
        if self._groups and not self._due:
            self._due = True
            self._loop.call_soon(self._flush)
