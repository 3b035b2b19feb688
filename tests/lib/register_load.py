"""Clients of register servers: load, the history of what they saw, and what the servers say of themselves.

Duty: `Run` drives a lab of servers (`netlab.Lab` or `processes.Lab`) that speak the lines of `register_server`:
CLIENTS clients submit one write, read or compare-and-set at a time, to whoever says that it leads, and the history
is kept for the linearizability checker. `fresh_keys` moves the clients on to registers not used before, so that the
operations whose outcome nobody knows stay few for each register. The words of servers about themselves go to
`promises`.

Happy path: `until`, `load` and `answers` keep the load going while a test breaks things; `recover` ends it and waits
until all servers are equal; `check` judges the history.

Failure modes: AssertionError with the servers' last words when something takes too long or is not linearizable.
"""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from pyraft import RAFT_LEADER
from tests.lib import linearizability
from tests.lib.linearizability import CAS, GET, OPEN, PUT, Operation
from tests.lib.promises import Promises, Status

CLIENTS = 6
KEYS = 4
PATIENCE = 2.0
"""Seconds after which a client gives an answer up and goes on as another client."""
WORDS = {PUT: "write", GET: "read", CAS: "cas"}


OUTAGE = 6.0
"""Seconds within which a majority that can talk to each other answers clients again. An election takes one or two."""
RECOVERY = 15.0
"""Seconds after the last fault within which all servers have caught up: a connection that got no answers for ten
seconds is given up, an attempt to connect lasts five, and the pause between attempts is one."""


class Lab(Protocol):
    """Servers that can be told lines and asked for theirs."""

    @property
    def members(self) -> Any:
        """The servers by id; each has `tell(line)`."""

    def poll(self, seconds: float) -> Sequence[tuple[int, list[str]]]:
        """Wait at most so long for lines of servers; return them as (id, words)."""

    def heal_all(self) -> None:
        """Undo every fault."""

    def close(self) -> None:
        """End the servers and remove what was made."""


L = TypeVar("L", bound=Lab)


class Client:
    """Submits one operation at a time."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.operation: Operation | None = None
        self.request = 0
        self.since = 0.0
        self.pause = 0.0


class Run(Generic[L]):
    """A lab under load; `keys` are the registers in use."""

    def __init__(self, lab: L, dice: random.Random) -> None:
        self.random = dice
        self.lab = lab
        self.members = list(lab.members)
        self.keys = list(range(KEYS))
        self.history: list[Operation] = []
        self.clients = [Client(i) for i in range(CLIENTS)]
        self.requests: dict[int, tuple[Client, Operation]] = {}
        self.statuses: dict[int, Status] = {}
        self.promises = Promises()
        self.ready: set[int] = set()
        self.numbers = 0
        self.answered = 0
        self.last_answer = time.monotonic()
        self.longest_outage = 0.0
        self.asked = 0.0
        self.loaded = True
        self.changed: dict[int, int] = {}
        self.submitted = 0
        self.questioned = 0
        self.settled: set[int] = set()

    def tick(self) -> int:
        """Return the next number of everything that is counted: moments, requests and values."""
        self.numbers += 1
        return self.numbers

    def step(self) -> None:
        """Submit what is due and take what has been said."""
        now = time.monotonic()
        if now - self.asked > 0.1:
            self.asked = now
            for id in sorted(self.ready):
                self.lab.members[id].tell("status")
        for client in self.clients:
            if client.operation is not None and now - client.since > PATIENCE:
                self._give_up(client)
            if client.operation is None and self.loaded and now >= client.pause and self.ready:
                self._submit(client, now)
        for id, words in self.lab.poll(0.01):
            self._heard(id, words)

    def _give_up(self, client: Client) -> None:
        """Let a client go on; its operation stays open in the history: it may still take effect."""
        self.requests.pop(client.request)
        client.operation = None
        client.id = self.tick()

    def _submit(self, client: Client, now: float) -> None:
        op = Operation()
        op.client = client.id
        op.key = self.random.choice(self.keys)
        reader = self.questioned != 0 and client in self.clients[: CLIENTS // 2]
        op.kind = GET if reader else self.random.choice((PUT, GET, CAS))
        op.value = self.tick() if op.kind != GET else 0
        op.expected = self._recent_value(op.key) if op.kind == CAS else 0
        client.operation, client.request, client.since = op, self.tick(), now
        self.requests[client.request] = (client, op)
        self._tell(self.questioned if reader else self._target(), client, op)

    def _tell(self, id: int, client: Client, op: Operation) -> None:
        values = {PUT: f" {op.value}", GET: "", CAS: f" {op.expected} {op.value}"}[op.kind]
        op.start = self.tick()
        self.history.append(op)
        self.submitted += 1
        self.lab.members[id].tell(f"{WORDS[op.kind]} {client.request} {op.key}{values}")

    def _recent_value(self, key: int) -> int:
        for op in reversed(self.history[-20:]):
            if op.key == key and op.end != OPEN and op.kind != CAS:
                return int(op.result) if op.kind == GET else op.value
        return 0

    def _target(self) -> int:
        """Return whom to ask: mostly somebody who says that it leads, of whom there may be several for a moment.

        A server that has said nothing for a while is asked by chance only.
        """
        recent = time.monotonic() - 0.5
        leaders = [id for id, status in self.statuses.items() if status.state == RAFT_LEADER and status.at > recent]
        others = sorted(self.ready - {self.questioned})
        leaders = [id for id in leaders if id != self.questioned]
        if leaders and self.random.random() < 0.9:
            return self.random.choice(leaders)
        return self.random.choice(others or sorted(self.ready))

    def _heard(self, id: int, words: list[str]) -> None:
        what, *numbers = words
        if what == "gone":
            self.ready.discard(id)
            self.statuses.pop(id, None)
        elif what == "changed":
            self.changed[int(numbers[0])] = int(numbers[1])
        elif what == "ready":
            self.ready.add(id)
            self.promises.started(id, *map(int, numbers))
        elif what == "status":
            self.statuses[id] = Status([int(number) for number in numbers], time.monotonic())
            self.promises.heard(id, self.statuses[id])
        elif int(numbers[0]) in self.requests:
            client, op = self.requests.pop(int(numbers[0]))
            client.operation = None
            if what == "ok":
                self._answer(op, int(numbers[1]))
            elif what == "no":
                # It will never take effect, so it never was. It is one of the last.
                del self.history[next(i for i in range(-1, -len(self.history) - 1, -1) if self.history[i] is op)]
                self.submitted -= 1
                client.pause = time.monotonic() + 0.05
            else:
                client.id = self.tick()

    def _answer(self, op: Operation, result: int) -> None:
        now = time.monotonic()
        self.longest_outage = max(self.longest_outage, now - self.last_answer)
        self.last_answer = now
        self.answered += 1
        op.end = self.tick()
        op.result = result if op.kind == GET else bool(result)

    # Tests ask for these.

    def fresh_keys(self) -> None:
        """Let clients use other registers from now on."""
        self.keys = [self.keys[-1] + 1 + i for i in range(KEYS)]

    def ask(self) -> None:
        """Let all servers say how they are now."""
        asked = time.monotonic()
        self.asked = 0.0
        self.until("a status of all", lambda: all(s.at > asked for s in self.statuses.values()), 20)

    def give_up(self) -> None:
        """Let no client wait any longer for its answer."""
        for client in self.clients:
            if client.operation is not None:
                self._give_up(client)

    def drain(self) -> None:
        """Submit nothing until nothing is under way."""
        self.loaded = False
        self.until("the last answers", lambda: not self.requests, PATIENCE + 5)
        self.loaded = True

    def question(self, id: int) -> None:
        """Let half of the clients do nothing but read from one server, and the others avoid it; 0 ends that.

        Nobody waits any longer for what is under way, so that a leader whom nobody follows any more is asked while
        others write elsewhere.
        """
        self.questioned = id
        self.give_up()

    def change(self, line: str) -> int:
        """Tell the leader to change the configuration, wait, and return the code, -1 if none came."""
        request = self.tick()
        word, *rest = line.split()
        self.lab.members[self.leader()].tell(" ".join([word, str(request), *rest]))
        end = time.monotonic() + PATIENCE
        while request not in self.changed and time.monotonic() < end:
            self.step()
        return self.changed.pop(request, -1)

    def read_all(self) -> None:
        """Read every register that was ever used once more, so that what was lost shows."""
        self.drain()
        self.loaded = False
        for key in sorted({op.key for op in self.history}):
            self._read_until_answered(key)
        self.loaded = True

    def settle(self) -> None:
        """Read and judge the registers that are out of use, and keep only what their future depends on.

        That is the value, and writes without an answer. So a long run tells of a loss soon, and does not grow.
        """
        retired = {op.key for op in self.history} - {*self.keys, *self.settled}
        pending = self.requests
        self.until("old answers", lambda: not any(op.key in retired for _, op in pending.values()), PATIENCE + 5)
        for key in sorted(retired):
            last = self._read_until_answered(key)
            ops = [op for op in self.history if op.key == key]
            failure = linearizability.check(ops)
            assert failure is None, repr(failure)
            kept = [op for op in ops if op.end == OPEN and op.kind != GET]
            kept.append(Operation(PUT, key, last.start, last.end, last.result, result=True, client=last.client))
            self.history = [*kept, *(op for op in self.history if op.key != key)]
        self.settled |= retired

    def _read_until_answered(self, key: int) -> Operation:
        client = Client(self.tick())
        op = Operation(GET, key)
        while op.end == OPEN:
            op = Operation(GET, key, client=client.id)
            client.operation, client.request, client.since = op, self.tick(), time.monotonic()
            self.requests[client.request] = (client, op)
            self._tell(self.leader(), client, op)
            end = time.monotonic() + PATIENCE
            while client.request in self.requests and time.monotonic() < end:
                self.step()
            self.requests.pop(client.request, None)
        return op

    def until(self, what: str, done: Callable[[], bool], seconds: float) -> float:
        """Go on under load until a condition holds, and return how long that took."""
        begin = time.monotonic()
        while not done():
            assert time.monotonic() - begin < seconds, f"{what}: not within {seconds} s; {self.describe()}"
            self.step()
        return time.monotonic() - begin

    def load(self, seconds: float) -> None:
        """Go on for some time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.step()

    def describe(self) -> str:
        """Return the servers' last words."""
        return ", ".join(f"{id}: {vars(status)}" for id, status in sorted(self.statuses.items()))

    def leader(self) -> int:
        """Wait for a leader whom the last words of a majority agree on, and return it."""
        found = 0

        def agreed() -> bool:
            nonlocal found
            votes = [status.leader for status in self.statuses.values()]
            found = max(set(votes), key=votes.count) if votes else 0
            status = self.statuses.get(found)
            majority = 2 * votes.count(found) > len(self.members)
            return found != 0 and majority and status is not None and status.state == RAFT_LEADER

        self.until("a leader", agreed, 20)
        return found

    def answers(self, n: int = 50) -> float:
        """Wait until clients have had so many answers more; return how long that took."""
        goal = self.answered + n
        return self.until(f"{n} answers", lambda: self.answered >= goal, OUTAGE + 10)

    def terms(self) -> dict[int, int]:
        """Return the servers' terms by their last words."""
        return {id: status.term for id, status in self.statuses.items()}

    def recover(self) -> float:
        """Heal everything; return how long it took until all servers had applied the same."""
        self.lab.heal_all()
        self.loaded = False
        healed = time.monotonic()

        def equal() -> bool:
            fresh = [s for s in self.statuses.values() if s.at > healed]
            indexes = {(s.last, s.applied, s.digest) for s in fresh}
            return len(fresh) == len(self.members) and len(indexes) == 1 and fresh[0].last == fresh[0].applied

        self.until("the last answers", lambda: not self.requests, PATIENCE + 5)
        return self.until("equal servers", equal, RECOVERY)

    def check(self, recovery: float) -> None:
        """The history is linearizable, and figures are printed."""
        print(
            f"{self.submitted} operations, {self.answered} answered; longest without an answer "
            f"{self.longest_outage:.2f} s, equal {recovery:.2f} s after healing; terms {self.terms()}"
        )
        assert self.answered > 100
        failure = linearizability.check(self.history)
        assert failure is None, repr(failure)
