"""The invariants over a whole cluster and its past (figure 3.2), checked after every step.

Duty: `Past` is what has happened and binds: who led each term, and the entries that were committed, each with the term
of the leader that committed it. `judge` looks at one step of one server and returns the past that follows from it, or
what was broken:

* Election Safety: a term has one leader, ever;
* Leader Completeness: a leader has every entry that was committed in a lower term. (In a higher one there may be some
  that it lacks: votes that were cast long ago can still make a leader of the past);
* Log Matching: entries with one index and term are the same, and so is all before them;
* State Machine Safety: one committed entry per index, and the machines hold the commands among them, in order;
* commitment: a leader commits an entry of its own term that most voters have on disk, nobody else is first (3.6.2);
* a command that is acknowledged is committed, at the index of its request.

Failure modes: the first that is broken, in words. The rules for a single server are checked in `server`.
"""

from typing import Final

from pyraft import RAFT_COMMAND
from tests.lib.explorer.local import Facts, Names, Outcome, Table, renamed_payload

Committed = tuple[int, int, bytes, int]
"""Term, type and payload of a committed entry, and the term of the leader that committed it."""
Past = tuple[tuple[tuple[int, int], ...], tuple[Committed, ...]]
"""Pairs of term and leader, in order; the committed entries, that of index 1 first."""
NOTHING: Final[Past] = ((), ())


class Invariants:
    """Pasts by number, and what was found out about them. `without` names checks of `judge` that are left out."""

    def __init__(self, table: Table, without: frozenset[str] = frozenset()) -> None:
        self.table = table
        self.without = without
        self._pasts: dict[Past, int] = {}
        self.pasts: list[Past] = []
        self._next: dict[tuple[int, int, int, int], tuple[int, int, str]] = {}
        self._matching: dict[tuple[int, int], int] = {}
        self._renamed: dict[tuple[int, Names], int] = {}

    def number(self, past: Past) -> int:
        """Return the number of a past."""
        found = self._pasts.get(past)
        if found is None:
            found = self._pasts[past] = len(self.pasts)
            self.pasts.append(past)
        return found

    def renamed(self, number: int, names: Names) -> int:
        """Return the same past when server i is called names[i]."""
        found = self._renamed.get((number, names))
        if found is None:
            leaders, committed = self.pasts[number]
            found = self._renamed[(number, names)] = self.number(
                (
                    tuple((term, names[i]) for term, i in leaders),
                    tuple((t, type, renamed_payload(type, buf, names), by) for t, type, buf, by in committed),
                )
            )
        return found

    def judge(self, past: int, locals: tuple[int, ...], i: int, before: int, outcome: Outcome) -> tuple[int, str]:
        """Return (past afterwards, "" or what is broken) for a step of server i; `locals` are the servers after it."""
        if outcome.problem:
            return past, f"server {i + 1} {outcome.problem}"
        if outcome.local == before and not outcome.notes:
            return past, ""
        key = (past, i, before, outcome.number)
        found = self._next.get(key)
        if found is None:
            found = self._next[key] = self._follow(past, i, before, outcome)
        past, new, problem = found
        facts = self.table.facts
        if problem:
            return past, problem
        if new and "commitment" not in self.without:
            voters = facts(before).voters, facts(outcome.local).voters
            problem = self._majority(facts(outcome.local), i, new, self.pasts[past][1][new - 1], locals, voters)
            if problem:
                return past, problem
        mine = facts(outcome.local).log
        if mine != facts(before).log:
            for j, local in enumerate(locals):
                if j != i:
                    theirs = facts(local).log
                    if theirs != mine and self._mismatch(outcome.local, local, mine, theirs):
                        index = self._mismatch(outcome.local, local, mine, theirs)
                        return past, f"Log Matching: servers {i + 1} and {j + 1} differ at or before entry {index}"
        return past, ""

    def _follow(self, past: int, i: int, before: int, outcome: Outcome) -> tuple[int, int, str]:
        """Return (past afterwards, index of the last entry that is newly committed or 0, "" or what is broken)."""
        leaders, committed = self.pasts[past]
        old, new = self.table.facts(before), self.table.facts(outcome.local)
        terms = [note[1] for note in outcome.notes if note[0] == "leads"]
        for term in terms:
            other = dict(leaders).get(term, i)
            if other != i:
                return past, 0, f"Election Safety: servers {other + 1} and {i + 1} lead term {term}"
            leaders = tuple(sorted({*leaders, (term, i)}))
            index = _lacks(new, committed, term) if new.leads and new.term == term else 0
            if index:
                return (
                    past,
                    0,
                    f"Leader Completeness: server {i + 1} leads term {term} without the committed entry {index}",
                )
        noted = {note[1]: note[2] for note in outcome.notes if note[0] == "commits"}
        problem, extended = self._commit(i, old, new, committed, noted, bool(terms))
        if problem:
            return past, 0, problem
        problem = _machine(i, new, extended) or _acknowledged(i, outcome, extended)
        grown = len(extended) if len(extended) > len(committed) else 0
        return self.number((leaders, extended)), grown, problem

    def _commit(
        self,
        i: int,
        old: Facts,
        new: Facts,
        committed: tuple[Committed, ...],
        noted: dict[int, tuple[int, int, bytes]],
        led: bool,
    ) -> tuple[str, tuple[Committed, ...]]:
        """`noted` are entries that a snapshot has replaced by the end of the step in which they were committed."""
        for index in range(1, min(new.commit, len(committed)) + 1):
            entry = new.entry(index) or noted.get(index)
            if entry is not None and entry != committed[index - 1][:3]:
                return f"State Machine Safety: server {i + 1} commits another entry {index}", committed
        for index in range(len(committed) + 1, new.commit + 1):
            entry = new.entry(index) or noted.get(index)
            if entry is None:
                return f"server {i + 1} commits entry {index}, which nobody has committed and it lacks", committed
            if not (old.leads or new.leads or led) and "commitment" not in self.without:
                return f"server {i + 1} is the first to commit entry {index} and is not a leader", committed
            committed = (*committed, (*entry, new.term))
        return "", committed

    def _majority(
        self,
        new: Facts,
        i: int,
        index: int,
        entry: Committed,
        locals: tuple[int, ...],
        voters: tuple[tuple[int, ...], ...],
    ) -> str:
        """`voters` are those before and after the step, which may begin with a change as soon as it has committed."""
        if min(map(len, voters)) < 2:
            return ""
        if entry[0] != new.term:
            return f"server {i + 1} commits entry {index} of term {entry[0]} in term {new.term}"
        holders = {j for j, local in enumerate(locals) if self.table.facts(local).holds(index, entry[0])}
        if any(2 * len(holders.intersection(group)) > len(group) for group in voters):
            return ""
        return f"server {i + 1} commits entry {index}, which is on the disks of {sorted(j + 1 for j in holders)} only"

    def _mismatch(self, a: int, b: int, log_a: int, log_b: int) -> int:
        """Return 0 if two logs match, else the index of the last entry that has one term in both."""
        key = (log_a, log_b) if log_a < log_b else (log_b, log_a)
        found = self._matching.get(key)
        if found is None:
            found = self._matching[key] = _compare(self.table.facts(a), self.table.facts(b))
        return found


def _compare(a: Facts, b: Facts) -> int:
    first = max(a.first, b.first)
    last = min(a.last, b.last)
    for index in range(last, first - 1, -1):
        if a.entries[index - a.first][0] == b.entries[index - b.first][0]:
            same = a.entries[first - a.first : index + 1 - a.first] == b.entries[first - b.first : index + 1 - b.first]
            return 0 if same else index
    return 0


def _lacks(new: Facts, committed: tuple[Committed, ...], term: int) -> int:
    """Return the first entry committed in a lower term than `term` that a log lacks, 0 if there is none."""
    for index, entry in enumerate(committed, 1):
        if entry[3] < term and index >= new.first and new.entry(index) != entry[:3]:
            return index
    return 0


def _machine(i: int, new: Facts, committed: tuple[Committed, ...]) -> str:
    commands = tuple(buf for _, type, buf, _ in committed[: new.applied] if type == RAFT_COMMAND)
    return "" if new.machine == commands else f"State Machine Safety: server {i + 1} has applied other commands"


def _acknowledged(i: int, outcome: Outcome, committed: tuple[Committed, ...]) -> str:
    for note in outcome.notes:
        if note[0] == "acknowledges" and (note[1] > len(committed) or committed[note[1] - 1][2] != note[2]):
            return f"server {i + 1} acknowledges entry {note[1]}, which is not committed"
    return ""
