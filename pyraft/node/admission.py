"""The commands that may get into the log: those that all members have.

Duty: `Admission` compares what members have told of their programs (`registry`) with this one's. It is the leader's way
to its proposer, for calls of its own and of others, and tells other nodes which version of a command to call.

Happy path: all have the same program, and calls go on as they are. In a rolling upgrade `version` returns the newest
version of a command that every member has, until the last one has the new program.

Failure modes: a call of a command that some member does not have is answered with a failure that names both, at the
leader, and does not get into the log, where it would stop that member. A member that has told nothing, as older ones,
is taken to have all. A member that came back with an older program, and has not told that yet, stops at the first entry
that is too new for it.
"""

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol

from pyraft import RAFT_SPARE, RaftServer, aio
from pyraft.node.errors import MissingCommand
from pyraft.node.proposer import Done, Wire
from pyraft.node.registry import REGISTRY, Registry, offer
from pyraft.node.replica import FAILED, NO_SESSION, SESSIONS, Replica
from pyraft.node.traces import TRACES

REGISTERS: Final = 1 << 13
"""In the features of an answer: this member's program has the registry."""


class Path(Protocol):
    """The proposer, as far as it is needed here."""

    def send(self, calls: list[Wire], done: Done) -> None:
        """Have calls executed."""
        ...


class Admission:
    """See the head of this module."""

    def __init__(self, server: aio.Server, replica: Replica, registry: Registry, path: Path) -> None:
        self._server = server
        self.replica = replica
        self.registry = registry
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._known_at: tuple[int, int, int] | None = None
        self._lacking: dict[tuple[str, str, int], int] = {}
        self._welcome: set[tuple[str, str, int]] = set()
        """Commands that all members have, as far as they have been asked for since that changed."""
        self.offers = sorted(offer(*key) for key in replica.offers())
        """The commands of this program."""

    @property
    def lacking(self) -> dict[tuple[str, str, int], int]:
        """The commands of this program that some member does not have: machine, command, version, and its id."""
        raft = self._server.raft
        now = (self.registry.revision, raft.configuration_committed_index, raft.configuration_uncommitted_index)
        if now != self._known_at:
            self._known_at = now
            self._welcome.clear()
            self._lacking = self._compare()
        return self._lacking

    def version(self, machine: str, command: str, newest: int) -> int:
        """Return the newest version of a command that all members have, `newest` if there is none."""
        lacking = self.lacking
        if not lacking or (machine, command, newest) not in lacking:
            return newest
        for version in sorted(self.replica.versions(machine, command), reverse=True):
            if version < newest and (machine, command, version) not in lacking:
                return version
        return newest

    def missing_from(self, id: int) -> str | None:
        """Return a command that all other members have told to have and member `id` has not, None if there is none."""
        facts = self.registry.facts
        others = [facts[s.id].offers for s in self._members() if s.id != id and s.id in facts]
        if id not in facts or not others:
            return None
        common = set(others[0]).intersection(*others[1:])
        return min(common.difference(facts[id].offers), default=None)

    # The leader's calls.

    def send(self, calls: list[Wire], done: Done) -> None:
        """Have those of `calls` executed that may be, and answer the others with failures."""
        refused = self._refuse(calls)
        if not refused:
            self._path.send(calls, done)
            return

        def answered(outcomes: list[bytes] | None) -> None:
            if outcomes is not None:
                for at, outcome in refused.items():  # in the order of their places
                    outcomes.insert(at, outcome)
            done(outcomes)

        welcome = [call for at, call in enumerate(calls) if at not in refused]
        if welcome:
            self._path.send(welcome, answered)
        else:
            self._loop.call_soon(answered, [])

    def _refuse(self, calls: list[Wire]) -> dict[int, bytes]:
        refused: dict[int, bytes] = {}
        lacking = self.lacking
        knows = self.replica.knows
        welcome = self._welcome
        for at, call in enumerate(calls):
            session, _, _, machine, command, version, _ = call
            if (machine, command, version) in welcome and session != NO_SESSION:
                continue
            name = f"{machine}.{command}" if machine else command
            if not knows(machine, command, version) or (session == NO_SESSION and machine not in (SESSIONS, TRACES)):
                text = f"the leader's program has no {name} in version {version}, or it needs a session"
            elif lacking and (machine, command, version) in lacking:
                id = lacking[machine, command, version]
                text = f"the program of member {id} has no {name} in version {version} yet"
            elif machine == REGISTRY and (id := self._without_registry()):
                text = f"the program of member {id} has no {name} yet, or it has not been heard of"
            elif machine == TRACES and (id := self._without(offer(machine, command, version))):
                text = f"the program of member {id} has not told that it has {name}"
            else:
                if machine not in (REGISTRY, TRACES):  # that depends on more
                    welcome.add((machine, command, version))
                continue
            refused[at] = self.replica.codec.pack([FAILED, MissingCommand.__name__, text])
        return refused

    def _without_registry(self) -> int:
        """Return a member that may not have this machine, 0 if all do: where it was used before, it is in the log."""
        raft = self._server.raft
        leader = raft.leader_state
        if self.registry.revision or leader is None:
            return 0
        for i, server in enumerate(raft.configuration.servers):
            if server.id != raft.id and server.role != RAFT_SPARE and not leader.progress[i].features & REGISTERS:
                return server.id
        return 0

    def _without(self, wanted: str) -> int:
        """Return a server, also a spare, that has not told to have a command; 0 if all have told so."""
        facts = self.registry.facts
        for server in self._server.raft.configuration.servers:
            if server.id not in facts or wanted not in facts[server.id].offers:
                return server.id
        return 0

    def _members(self) -> Iterable[RaftServer]:
        return [s for s in self._server.raft.configuration.servers if s.role != RAFT_SPARE]

    def _compare(self) -> dict[tuple[str, str, int], int]:
        lacking: dict[tuple[str, str, int], int] = {}
        told = {s.id: self.registry.facts.get(s.id) for s in self._members()}
        for id, facts in told.items():
            if facts is None or id == self._server.raft.id:
                continue
            has = set(facts.offers)
            for key in self.replica.offers():
                if offer(*key) not in has:
                    lacking.setdefault(key, id)
        return lacking
