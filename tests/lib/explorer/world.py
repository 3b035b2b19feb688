"""The cluster: its states, the steps that lead out of one, and the names under which it is remembered.

Duty: a state is (servers, links, past), all of them numbers of `local` and `invariants`. `steps` lists what may happen
next, `move` does it, `canonical` renames the servers so that states that differ by names only become one.

Links: between each pair of servers and in each direction there are up to `capacity` messages, in order. One that is
sent to a full link pushes the oldest out; one that equals the last is the last. So losing messages is free, as is
delaying them, and the number of messages stays bounded; overtaking, repeating and telling the sender are bounded kinds.
A crash and the start that follows are one step, since a server that is down differs from one to which nothing happens
only by what it does not do. An answer of an older term than its receiver's is taken off its link if it does nothing.

Failure modes: `move` does not judge; see `invariants`.
"""

from collections.abc import Iterator
from itertools import permutations, product
from typing import Final

from pyraft import RAFT_CANDIDATE, RAFT_FOLLOWER, RAFT_LEADER, RaftConfiguration
from pyraft.configuration import encode, raft_configuration_add
from pyraft.types import RAFT_CHANGE
from tests.lib.explorer.freeze import NOW, address, server_id
from tests.lib.explorer.invariants import Invariants
from tests.lib.explorer.local import Names, Outcome, Table
from tests.lib.explorer.scenario import NAMES, ROLES, Scenario
from tests.lib.explorer.server import Event, Mode, Server, Stage

Links = tuple[tuple[int, ...], ...]
State = tuple[tuple[int, ...], Links, int]
Step = tuple[int, Event, Mode]
"""Server, event and how it goes wrong. Events of `server`; and ("take", source, position, stays), ("lose", source)."""
Budget = tuple[int, ...]
FREE: Final = -1

_COST: Final = {name: i for i, name in enumerate(NAMES)}
_EVENT_COSTS: Final = {
    "timeout": _COST["timeouts"],
    "heartbeat": _COST["heartbeats"],
    "contact": _COST["contacts"],
    "expire": _COST["expiries"],
    "crash": _COST["crashes"],
    "fail": _COST["failures"],
    "lose": _COST["drops"],
    "apply": _COST["commands"],
    "add": _COST["changes"],
    "assign": _COST["changes"],
    "remove": _COST["changes"],
    "transfer": _COST["transfers"],
    "ask": _COST["reads"],
}
_MODE_COSTS: Final = {"cut": _COST["cuts"], "slow": _COST["slow"], "meta": _COST["meta"], "power": _COST["power"]}


def costs(step: Step) -> list[int]:
    """Return which bounds a step uses up."""
    _, event, mode = step
    used = []
    if event[0] in _EVENT_COSTS:
        used.append(_EVENT_COSTS[event[0]])
    if event[0] == "take":
        if event[2] > 0:
            used.append(_COST["overtakes"])
        if event[3]:
            used.append(_COST["repeats"])
    if mode is not None:
        used.append(_MODE_COSTS[mode[0]])
    return used


class World:
    """All that can happen to the cluster of a scenario."""

    def __init__(self, scenario: Scenario, without: frozenset[str] = frozenset()) -> None:
        self.scenario = scenario
        self.n = scenario.n
        self.stage = Stage(scenario.apply_to, scenario.lazy, scenario.n, "promises" not in without)
        self.table = Table(self.stage, scenario.n)
        self.invariants = Invariants(self.table, without)
        self.identity: Names = tuple(range(self.n))
        self._own: dict[int, list[tuple[Event, int]]] = {}

    # The beginning.

    def boot(self) -> list[Server]:
        """Return servers that have just started, each on the disk that it begins with."""
        conf = RaftConfiguration()
        for i, letter in enumerate(self.scenario.servers):
            if letter in ROLES:
                assert raft_configuration_add(conf, server_id(i), address(server_id(i)), ROLES[letter]) == 0
        servers = []
        for i, letter in enumerate(self.scenario.servers):
            server = Server(server_id(i), letter == "c")
            disk = server.disk
            if letter in ROLES:
                disk.term = 1
                disk.terms, disk.types, disk.bufs = [1], [RAFT_CHANGE], [encode(conf)]
            self.stage.run(server, ("boot",), None, NOW)
            servers.append(server)
        return servers

    def first(self, servers: list[Server]) -> State:
        """Return the state in which servers that have just started are."""
        locals = tuple(self.table.add(server, NOW) for server in servers)
        facts = self.table.facts(locals[0])
        committed = ((*facts.entries[0], facts.term),)
        return locals, ((),) * (self.n * self.n), self.invariants.number(((), committed))

    # Steps that are possible.

    def steps(self, state: State, budget: Budget) -> Iterator[Step]:
        """Return all steps that the budget allows, those that cannot change anything left out."""
        locals, links, _ = state
        n = self.n
        for i, local in enumerate(locals):
            for event, cost in self._own_events(local, i):
                if cost != FREE and budget[cost] == 0:
                    continue
                if event[0] == "apply":
                    event = ("apply", self.scenario.bounds[cost] - budget[cost])
                elif event[0] == "ask":
                    # An entry that has been committed may have been acknowledged, and must be in the answer.
                    event = ("ask", len(self.invariants.pasts[state[2]][1]))
                yield from self._with_modes(i, local, event, event, budget)
            for source in range(n):
                link = links[source * n + i]
                for position, message in enumerate(link):
                    if position > 0 and (budget[_COST["overtakes"]] == 0 or message == link[0]):
                        continue
                    take = ("take", source, position, False)
                    yield from self._with_modes(i, local, take, ("deliver", source, message), budget)
                    if budget[_COST["repeats"]]:
                        yield i, ("take", source, position, True), None
                if len(link) > 0 and budget[_COST["drops"]]:
                    yield i, ("lose", source), None

    def _with_modes(self, i: int, local: int, event: Event, real: Event, budget: Budget) -> Iterator[Step]:
        """Return an event as it should go, and in all the ways in which it may go wrong."""
        outcome = self.table.step(local, real)
        if outcome.local == local and not outcome.sends and not outcome.problem and event[0] != "take":
            return
        yield i, event, None
        if outcome.problem:
            return
        if outcome.writes and budget[_COST["slow"]] and not self.scenario.lazy:
            yield i, event, ("slow", 0)
        if outcome.sends and budget[_COST["cuts"]]:
            for target in sorted({target for target, _ in outcome.sends}):
                yield i, event, ("cut", target)
        if outcome.stores and budget[_COST["meta"]]:
            yield i, event, ("meta", 0)
        if budget[_COST["power"]] and event[0] != "crash":
            for k in range(outcome.calls):
                yield i, event, ("power", k)

    def _own_events(self, local: int, i: int) -> list[tuple[Event, int]]:
        """Return what may happen to a server without a message, each with the bound that it uses up."""
        found = self._own.get(local)
        if found is None:
            bounds = self.scenario.bounds
            events = [(event, _EVENT_COSTS.get(event[0], FREE)) for event in self._events(local, i)]
            found = self._own[local] = [(event, cost) for event, cost in events if cost == FREE or bounds[cost] > 0]
        return found

    def _events(self, local: int, i: int) -> Iterator[Event]:
        facts = self.table.facts(local)
        if facts.pending:
            yield ("write",)
        if facts.failing:
            yield ("fail",)
        if facts.reads:
            yield ("read",)
        for keep in range(facts.units + 1):
            yield ("crash", keep)
        if facts.state in (RAFT_FOLLOWER, RAFT_CANDIDATE):
            yield ("timeout",)
        if facts.transferring:
            yield ("expire",)
        if facts.state == RAFT_LEADER:
            yield ("heartbeat",)
            yield ("contact",)
            yield ("apply", 0)
            yield ("ask", 0)
            yield from self._changes(facts.roles)
            for other in facts.voters:
                if other != i:
                    yield ("transfer", other)

    def _changes(self, roles: dict[int, int]) -> Iterator[Event]:
        letters = self.scenario.changes_to
        wanted = [ROLES[letter] for letter in "vsx" if letter in letters]
        for other in range(self.n):
            if other not in roles:
                if "+" in letters:
                    yield ("add", other)
                continue
            for role in wanted:
                if role != roles[other]:
                    yield ("assign", other, role)
            if "-" in letters:
                yield ("remove", other)

    # Steps as they are taken.

    def move(self, locals: tuple[int, ...], links: Links, step: Step) -> tuple[tuple[int, ...], Links, Outcome | None]:
        """Return (servers, links) after a step, and what it did to its server."""
        i, event, mode = step
        n = self.n
        if event[0] in ("take", "lose"):
            at = event[1] * n + i
            link = links[at]
            if event[0] == "lose":
                return locals, (*links[:at], link[1:], *links[at + 1 :]), None
            position = event[2]
            if not event[3]:
                links = (*links[:at], link[:position] + link[position + 1 :], *links[at + 1 :])
            event = ("deliver", event[1], link[position])
        before = locals[i]
        outcome = self.table.step(before, event, mode)
        if outcome.problem:
            return locals, links, outcome
        locals = (*locals[:i], outcome.local, *locals[i + 1 :])
        if outcome.sends or outcome.local != before:
            links = self._carry(locals, links, i, before, outcome)
        return locals, links, outcome

    def _carry(self, locals: tuple[int, ...], links: Links, i: int, before: int, outcome: Outcome) -> Links:
        """Put what was sent on the links, and take answers off that are too old for their receiver."""
        n, table, capacity = self.n, self.table, self.scenario.capacity
        changed = list(links)
        for target, message in outcome.sends:
            at = i * n + target
            link = changed[at]
            if link and link[-1] == message:
                continue
            if table.answer_terms[message] >= 0 and self._is_void(locals[target], i, message):
                continue
            link = (*link, message)
            changed[at] = link[1:] if len(link) > capacity else link
        if table.facts(outcome.local).term != table.facts(before).term:
            for source in range(n):
                at = source * n + i
                if changed[at]:
                    changed[at] = tuple(
                        message for message in changed[at] if not self._is_void(outcome.local, source, message)
                    )
        return tuple(changed)

    def _is_void(self, local: int, source: int, message: int) -> bool:
        if not 0 <= self.table.answer_terms[message] < self.table.facts(local).term:
            return False
        outcome = self.table.step(local, ("deliver", source, message))
        return outcome.local == local and not outcome.sends and not outcome.problem

    # Names.

    def canonical(self, state: State) -> tuple[State, Names]:
        """Return the state under the names that all states have that differ from it by names only, and these names.

        Servers are ordered by their masked signatures; among equal ones all orders are tried, and the least state wins.
        """
        locals = state[0]
        signatures = [self.table.facts(local).signature for local in locals]
        order = sorted(self.identity, key=signatures.__getitem__)
        if len(set(signatures)) == self.n:
            numbers = [0] * self.n
            for new, old in enumerate(order):
                numbers[old] = new
            chosen = tuple(numbers)
            return self.renamed(state, chosen), chosen
        best: tuple[State, Names] | None = None
        for names in self._orders(signatures, order):
            candidate = self.renamed(state, names)
            if best is None or candidate < best[0]:
                best = candidate, names
        assert best is not None
        return best

    def _orders(self, signatures: list[int], order: list[int]) -> Iterator[Names]:
        groups: dict[int, list[int]] = {}
        for i in order:
            groups.setdefault(signatures[i], []).append(i)
        for choice in product(*(permutations(group) for group in groups.values())):
            names = [0] * self.n
            for new, old in enumerate(i for group in choice for i in group):
                names[old] = new
            yield tuple(names)

    def renamed(self, state: State, names: Names) -> State:
        """Return the same state when server i is called names[i]."""
        if names == self.identity:
            return state
        locals, links, past = state
        n, table = self.n, self.table
        new_locals = [0] * n
        new_links: list[tuple[int, ...]] = [()] * (n * n)
        for i in range(n):
            new_locals[names[i]] = table.renamed(locals[i], names)
            for j in range(n):
                link = links[i * n + j]
                if link:
                    new_links[names[i] * n + names[j]] = tuple(table.renamed_message(m, names) for m in link)
        return tuple(new_locals), tuple(new_links), self.invariants.renamed(past, names)

    def renamed_step(self, step: Step, names: Names) -> Step:
        """Return the same step when server i is called names[i]; messages are named by their place."""
        i, event, mode = step
        if event[0] in ("take", "lose", "add", "assign", "remove", "transfer"):
            event = (event[0], names[event[1]], *event[2:])
        if mode is not None and mode[0] == "cut":
            mode = (mode[0], names[mode[1]])
        return names[i], event, mode
