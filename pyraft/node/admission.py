"""The commands that may get into the log: those that all members have.

Duty: `Admission` compares what members have told of their programs (`registry`) with this one's. It is the leader's way
to its proposer, for calls of its own and of others, and tells other nodes which version of a command to call.

Happy path: all have the same program, and calls go on as they are. In a rolling upgrade `version` returns the newest
version of a command that every member has, until the last one has the new program.

Failure modes: a call of a command that some member does not have is answered with a failure that names both, at the
leader, and does not get into the log, where it would stop that member. A member that has told nothing, as older ones,
is taken to have all. A member that came back with an older program, and has not told that yet, stops at the first entry
that is too new for it.

The same holds for the classes of arguments and their fields. Without that a member with a former version of a dataclass
would fail a call, where others execute it. A command that members have with different parameters, or defaults, in the
same version is refused until all have the same (`signatures`); a leader tells its own ahead of its first call.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from pyraft import RAFT_SPARE, RaftServer, aio
from pyraft.node import signatures
from pyraft.node.codec import CLASS, may_hold_objects
from pyraft.node.errors import Foreign, MissingCommand
from pyraft.node.outcomes import FAILED
from pyraft.node.proposer import Done, Wire
from pyraft.node.registry import REGISTRY, About, Registry, offer
from pyraft.node.replica import NO_SESSION, SESSIONS, Replica
from pyraft.node.signatures import SIGNATURE, Key
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
        self._known_at: tuple[int, int, int, bool] | None = None
        self._lacking: dict[tuple[str, str, int], int] = {}
        self._welcome: set[tuple[str, str, int]] = set()
        """Commands that were found to be on all members since what these have told changed last."""
        self._classes_lacking: dict[str, int] = {}
        self._differing: dict[Key, tuple[int, str]] = {}
        self._owes = False
        """Whether this member leads, and has not told all yet, by what is applied."""
        self.about: Callable[[], About] | None = None
        """Returns what this member says of itself."""
        parameters = replica.parameters.texts.values()
        self.offers = sorted([*(offer(*key) for key in replica.offers()), *replica.classes(), *parameters])
        """The commands of this program with their parameters, and the classes of its values."""

    @property
    def lacking(self) -> dict[tuple[str, str, int], int]:
        """The commands of this program that some member does not have: machine, command, version, and its id."""
        raft = self._server.raft
        configuration = raft.configuration_committed_index, raft.configuration_uncommitted_index
        now = (self.registry.revision, *configuration, raft.leader_state is None)
        if now != self._known_at:
            self._known_at = now
            self._welcome.clear()
            self._lacking = self._compare()
            self._classes_lacking = self._compare_classes()
            self.replica.leave_out(self._classes_lacking)
            self._differing = self._compare_parameters()
            own = self.registry.facts.get(raft.id)
            self._owes = self._leads(raft.id) and (own is None or list(own.offers) != self.offers)
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
        """Return a command that member `id` lacks and all others have told that they have; None if there is none."""
        facts = self.registry.facts
        others = [facts[s.id].offers for s in self._members() if s.id != id and s.id in facts]
        if id not in facts or not others:
            return None
        common = set(others[0]).intersection(*others[1:])
        missing = common.difference(facts[id].offers)
        if CLASS not in facts[id].offers:
            missing = {text for text in missing if text.split(" ")[0] != CLASS}
        if not signatures.of(facts[id].offers):
            missing = {text for text in missing if text.split(" ")[0] != SIGNATURE}
        return min(missing, default=None)

    def introduction(self, about: About) -> tuple[int, str, str, bytes, list[str]]:
        """Return the arguments of `Registry.tell` for this member."""
        return self._server.raft.id, about.name, about.version, about.data, self.offers

    # The leader's calls.

    def send(self, calls: list[Wire], done: Done) -> None:
        """Have those of `calls` executed that may be, and answer the others with failures."""
        refused = self._refuse(calls)
        if self._owes:
            self._tell_ahead(calls)
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

    def _tell_ahead(self, calls: list[Wire]) -> None:
        """Have the members know the parameters of this program before its calls: they are executed with these."""
        if self.about is None or not any(call[3] == "" for call in calls):
            return
        self._owes = False
        if self.replica.knows(REGISTRY, "tell", 1) and not self._without_registry():
            arguments = self.replica.outgoing.pack([list(self.introduction(self.about())), {}])
            self._path.send([[NO_SESSION, 0, 0, REGISTRY, "tell", 1, arguments]], lambda outcomes: None)

    def _refuse(self, calls: list[Wire]) -> dict[int, bytes]:
        refused: dict[int, bytes] = {}
        lacking = self.lacking
        knows = self.replica.knows
        welcome = self._welcome
        for at, call in enumerate(calls):
            session, _, _, machine, command, version, arguments = call
            strange = self._strange(arguments) if may_hold_objects(arguments) else None
            if strange is None and (machine, command, version) in welcome and session != NO_SESSION:
                continue
            name = f"{machine}.{command}" if machine else command
            if not knows(machine, command, version) or (session == NO_SESSION and machine not in (SESSIONS, TRACES)):
                text = f"the leader's program has no {name} in version {version}, or it needs a session"
            elif lacking and (machine, command, version) in lacking:
                id = lacking[machine, command, version]
                text = f"the program of member {id} has no {name} in version {version} yet"
            elif (machine, command, version) in self._differing:
                id, theirs = self._differing[machine, command, version]
                ours = self.replica.parameters.texts[signatures.head(machine, command, version)]
                text = (
                    f"{name} in version {version} has other parameters at member {id}, {self._shown(theirs)}, than at "
                    f"the leader, {self._shown(ours)}: what is new needs another version, @{command}.version"
                    f"({version + 1}), and this one stays as it was"
                )
            elif machine == REGISTRY and (id := self._without_registry()):
                text = f"the program of member {id} has no {name} yet, or it has not been heard of"
            elif machine == TRACES and (id := self._without(offer(machine, command, version))):
                text = f"the program of member {id} has not told that it has {name}"
            elif strange is not None:
                text = f"{name} with {strange}"
            else:
                if machine not in (REGISTRY, TRACES):  # that depends on more
                    welcome.add((machine, command, version))
                continue
            refused[at] = self.replica.codec.pack([FAILED, MissingCommand.__name__, text])
        return refused

    def _strange(self, arguments: bytes) -> str | None:
        """Return which class in packed arguments not all members have, as a text, None if they have all.

        Members execute the entry each with its own program: one that lacks a field could not, where others do.
        """
        try:
            met = self.replica.classes_in(arguments)
        except Foreign as exc:
            return f"{exc}: the leader's program is another"
        for text in sorted(met.intersection(self._classes_lacking)):
            return f"'{text}', which the program of member {self._classes_lacking[text]} does not have yet"
        return None

    def _without_registry(self) -> int:
        """Return a member that may lack this machine, 0 for none: no member lacks one that the log has used before."""
        raft = self._server.raft
        leader = raft.leader_state
        if self.registry.revision or leader is None:
            return 0
        for i, server in enumerate(raft.configuration.servers):
            if server.id != raft.id and server.role != RAFT_SPARE and not leader.progress[i].features & REGISTERS:
                return server.id
        return 0

    def _without(self, wanted: str) -> int:
        """Return a server, spares included, that has not told that it has a command; 0 if all have told so."""
        facts = self.registry.facts
        for server in self._server.raft.configuration.servers:
            if server.id not in facts or wanted not in facts[server.id].offers:
                return server.id
        return 0

    def _members(self) -> Iterable[RaftServer]:
        return [s for s in self._server.raft.configuration.servers if s.role != RAFT_SPARE]

    def _leads(self, id: int) -> bool:
        """Return whether a member is this one, and leads.

        While it does not, the leader goes by what this member has told before, and would refuse what is new in it.
        """
        raft = self._server.raft
        return id == raft.id and raft.leader_state is not None

    def _compare_classes(self) -> dict[str, int]:
        """Return the classes of this program, and parts of classes, that some member lacks, with its id."""
        lacking: dict[str, int] = {}
        ours = self.replica.classes()
        for server in self._members():
            facts = self.registry.facts.get(server.id)
            if facts is None or self._leads(server.id) or CLASS not in facts.offers:
                continue  # one that tells of no classes is taken to have all
            for text in set(ours).difference(facts.offers):
                lacking.setdefault(text, server.id)
        return lacking

    def _shown(self, text: str) -> str:
        return signatures.describe(text, self.replica.codec)

    def _compare_parameters(self) -> dict[Key, tuple[int, str]]:
        """Return the commands of this program that some member has with other parameters, and its id and these.

        So are those that another member, spares included, has told first: these are in force, for everybody.
        """
        ours = self.replica.parameters.texts
        members = {server.id for server in self._members()}
        differing: dict[Key, tuple[int, str]] = {}
        first: set[str] = set()
        for id, facts in self.registry.facts.items():
            theirs = ours if self._leads(id) else signatures.of(facts.offers)
            for place, text in theirs.items():
                if ours.get(place, text) != text and (id in members or place not in first):
                    differing.setdefault(self.replica.parameters.key(place), (id, text))
                first.add(place)
        return differing

    def _compare(self) -> dict[tuple[str, str, int], int]:
        lacking: dict[tuple[str, str, int], int] = {}
        told = {s.id: self.registry.facts.get(s.id) for s in self._members()}
        for id, facts in told.items():
            if facts is None or self._leads(id):
                continue
            has = set(facts.offers)
            for key in self.replica.offers():
                if offer(*key) not in has:
                    lacking.setdefault(key, id)
        return lacking
