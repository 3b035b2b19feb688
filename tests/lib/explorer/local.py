"""The steps of single servers, each step computed once: the memory of the search.

Duty: a server's state is a small number here, and so is a message. `step` says what an event does to a server,
`renamed` what a server is when the servers have other names, `facts` what invariants look at. A step of the cluster
moves one server only, and most servers of most clusters have been met before: so the core runs once for each (server,
event), not once for each step of the search, which is what makes a million states affordable.

Failure modes: none of its own; the outcome's `problem` says what is wrong with a step.
"""

from typing import Any, Final

from pyraft import RAFT_LEADER, RAFT_VOTER
from pyraft.types import RAFT_CHANGE
from tests.lib.explorer.freeze import FIRST_ID, NOW, freeze, masked, server_id, thaw
from tests.lib.explorer.server import Event, Mode, Server, Stage

Names = tuple[int, ...]
ANSWERS: Final = ("append_entries_result", "request_vote_result")


class Facts:
    """The facts about a server that invariants and the enumeration of steps need. Servers are numbers from 0 here.

    `entries` are those of the log from index `first` on, as (term, type, payload); `log` is a number for all of that.
    """

    __slots__ = (
        *("applied", "commit", "durable", "durable_first", "entries", "failing", "first", "leads", "log", "machine"),
        *("pending", "reads", "roles", "signature", "snapshot_index", "state", "term", "transferring", "units"),
        "voters",
    )

    def __init__(self, server: Server) -> None:
        r, disk, lg = server.raft, server.disk, server.raft.log
        held = slice(lg.offset - lg.base, None)
        self.state = r.state
        self.term = r.current_term
        self.leads = r.state == RAFT_LEADER
        self.commit = r.commit_index
        self.applied = r.last_applied
        self.first = lg.offset + 1
        self.entries = tuple(
            zip(lg.terms[held], lg.types[held], map(_payload, lg.types[held], lg.bufs[held]), strict=True)
        )
        self.log = 0
        self.machine = tuple(server.machine)
        self.durable_first = disk.start
        self.durable = tuple(disk.terms)
        self.snapshot_index = 0 if disk.snapshot is None else disk.snapshot.index
        self.pending = len(disk.queue)
        self.units = disk.units()
        self.failing = bool(disk.queue) and disk.queue[0].status == 0
        self.reads = len(server.reads)
        self.roles = {s.id - FIRST_ID: s.role for s in r.configuration.servers}
        self.voters = tuple(i for i, role in self.roles.items() if role == RAFT_VOTER)
        self.transferring = r.transfer is not None
        self.signature = 0

    def holds(self, index: int, term: int) -> bool:
        """Return whether the entry `index` of `term` is durable here."""
        slot = index - self.durable_first
        return index <= self.snapshot_index or (0 <= slot < len(self.durable) and self.durable[slot] == term)

    def entry(self, index: int) -> tuple[int, int, bytes] | None:
        """Return entry `index`, None if it is not held in memory."""
        slot = index - self.first
        return self.entries[slot] if 0 <= slot < len(self.entries) else None

    @property
    def last(self) -> int:
        """Index of the last entry in memory."""
        return self.first + len(self.entries) - 1


def _payload(type: int, buf: bytes) -> bytes:
    return buf if type != RAFT_CHANGE else freeze(buf, NOW, _identity)


_identity: Names = tuple(range(64))


class Outcome:
    """The effect of a step: the server afterwards, messages as (target, message), notes, and what was broken.

    `writes`: something went to its disk and is there; `stores`: the term or vote was stored; `calls`: how many calls
    of the table there were in which the power can go.
    """

    __slots__ = ("calls", "local", "notes", "number", "problem", "rv", "sends", "stores", "writes")

    def __init__(self, number: int, local: int, sends: tuple[tuple[int, int], ...], stage: Stage) -> None:
        self.number = number
        self.local = local
        self.sends = sends
        self.notes = tuple(stage.notes)
        self.problem = stage.problem
        self.rv = stage.rv
        self.writes = stage.wrote
        self.stores = stage.stores
        self.calls = stage.calls


class Table:
    """All servers and messages met so far, by number, and the steps between them."""

    def __init__(self, stage: Stage, servers: int) -> None:
        self.stage = stage
        self.n = servers
        self.identity: Names = tuple(range(servers))
        self._locals: dict[Any, int] = {}
        self._frozen: list[Any] = []
        self._facts: list[Facts | None] = []
        self._messages: dict[Any, int] = {}
        self.messages: list[tuple[str, Any]] = []
        self.answer_terms: list[int] = []
        """Of each message that is an answer its term, else -1."""
        self._steps: dict[tuple[int, Event, Mode], Outcome] = {}
        self._renamed: dict[tuple[int, Names], int] = {}
        self._renamed_messages: dict[tuple[int, Names], int] = {}
        self._logs: dict[Any, int] = {}
        self._signatures: dict[Any, int] = {}

    def add(self, server: Server, now: int) -> int:
        """Return the number of a server."""
        return self._number(freeze(server, now, self.identity))

    def _number(self, frozen: Any) -> int:
        local = self._locals.get(frozen)
        if local is None:
            local = self._locals[frozen] = len(self._frozen)
            self._frozen.append(frozen)
            self._facts.append(None)
        return local

    def thawed(self, local: int) -> Server:
        """Return a server to work with, at the time `NOW`."""
        server: Server = thaw(self._frozen[local], self.stage.io, self.stage.fsm)
        return server

    def message(self, member: str, frozen: Any) -> int:
        """Return the number of a message."""
        number = self._messages.get((member, frozen))
        if number is None:
            number = self._messages[(member, frozen)] = len(self.messages)
            self.messages.append((member, frozen))
            self.answer_terms.append(thaw(frozen).term if member in ANSWERS else -1)
        return number

    def facts(self, local: int) -> Facts:
        """Return what is known about a server."""
        found = self._facts[local]
        if found is None:
            server = self.thawed(local)
            found = self._facts[local] = Facts(server)
            found.log = self._logs.setdefault((found.first, found.entries), len(self._logs))
            found.signature = self._signatures.setdefault(masked(server, NOW), len(self._signatures))
        return found

    def step(self, local: int, event: Event, mode: Mode = None) -> Outcome:
        """Return what an event does to a server."""
        key = (local, event, mode)
        outcome = self._steps.get(key)
        if outcome is None:
            server = self.thawed(local)
            self.perform(server, event, mode, NOW)
            outcome = self._steps[key] = self.outcome(server, len(self._steps))
        return outcome

    def perform(self, server: Server, event: Event, mode: Mode, now: int) -> None:
        """Let an event happen to a server that is there in person, whose clock shows `now`."""
        kind, *args = event
        if kind == "deliver":
            member, frozen = self.messages[args[1]]
            event = (kind, server_id(args[0]), member, thaw(frozen))
        elif kind in ("add", "assign", "remove", "transfer"):
            event = (kind, server_id(args[0]), *args[1:])
        if mode is not None and mode[0] == "cut":
            mode = (mode[0], server_id(mode[1]))
        self.stage.run(server, event, mode, now)

    def outcome(self, server: Server, number: int) -> Outcome:
        """Return what has just happened on the stage."""
        stage = self.stage
        local = -1 if stage.crashed else self.add(server, stage.now)
        return Outcome(number, local, tuple((i, self.message(*message)) for i, *message in stage.sends), stage)

    def renamed(self, local: int, names: Names) -> int:
        """Return the number of the same server when server i is called names[i]."""
        found = self._renamed.get((local, names))
        if found is None:
            found = self._renamed[(local, names)] = self._number(freeze(self.thawed(local), NOW, names))
        return found

    def renamed_message(self, number: int, names: Names) -> int:
        """Return the number of the same message when server i is called names[i]."""
        found = self._renamed_messages.get((number, names))
        if found is None:
            member, frozen = self.messages[number]
            found = self.message(member, freeze(thaw(frozen), NOW, names))
            self._renamed_messages[(number, names)] = found
        return found

    def sizes(self) -> tuple[int, int, int]:
        """Return how many servers, messages and steps of servers have been met."""
        return len(self._frozen), len(self.messages), len(self._steps)


def renamed_payload(type: int, buf: bytes, names: Names) -> bytes:
    """Return an entry's payload when server i is called names[i]."""
    return buf if type != RAFT_CHANGE else freeze(buf, NOW, names)
