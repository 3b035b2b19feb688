"""Is a history of concurrent operations on registers linearizable? (Wing and Gong, with Lowe's improvements.)

Duty: `check` takes the operations that clients saw, each with the points in time of its call and its return, and looks
for an order of them that a single copy of the registers could have executed, in which no operation comes before one
that had returned when it was called (Herlihy and Wing). Registers are independent, so each key is decided alone.

Happy path: a depth-first search over a list of calls and returns. A call that can come next is lifted out of the list
with its return; a return that is reached before its call was lifted ends the attempt, and the last lift is undone.
Configurations (what is lifted, value of the register) that were met before are not searched again.

Failure modes: an operation without an answer (`end` is OPEN) may have happened at any time after its call, with any
result, or never. Many of them make the search long: after `MAX_STEPS` it gives up with Undecided.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

PUT: Final = 0
GET: Final = 1
CAS: Final = 2
KINDS: Final = {PUT: "put", GET: "get", CAS: "cas"}

OPEN: Final = math.inf
"""The `end` of an operation whose answer never came."""

MAX_STEPS: Final = 2_000_000


class Undecided(Exception):
    """The search took too long."""


class Operation:
    """One operation of one client on register `key`.

    `put` stores `value` and answers True; `get` answers the value; `cas` stores `value` if the register holds
    `expected` and answers whether it did. `start` and `end` are points in time, all of them different.
    """

    __slots__ = ("client", "end", "expected", "key", "kind", "result", "start", "value")

    def __init__(
        self,
        kind: int = PUT,
        key: int = 0,
        start: float = 0,
        end: float = OPEN,
        value: int = 0,
        expected: int = 0,
        result: Any = None,
        client: int = 0,
    ) -> None:
        self.kind = kind
        self.key = key
        self.start = start
        self.end = end
        self.value = value
        self.expected = expected
        self.result = result
        self.client = client

    def __repr__(self) -> str:
        what = {PUT: f"put {self.value}", GET: "get", CAS: f"cas {self.expected} to {self.value}"}[self.kind]
        answer = "never answered" if self.end == OPEN else f"to {self.end}: {self.result}"
        return f"client {self.client}, key {self.key}: {what}, from {self.start} {answer}"


class Failure:
    """Why a history is not linearizable: the register, and the longest order found and what could not follow."""

    __slots__ = ("key", "longest", "stuck")

    def __init__(self, key: int, longest: list[Operation], stuck: list[Operation]) -> None:
        self.key = key
        self.longest = longest
        self.stuck = stuck

    def __repr__(self) -> str:
        lines = [f"register {self.key} is not linearizable; after the last of", *map(repr, self.longest[-5:])]
        return "\n  ".join([*lines, "none of these can come next:", *map(repr, self.stuck)])


def check(history: Iterable[Operation], initial: int = 0) -> Failure | None:
    """Return None if the history is linearizable, else what is wrong; all registers hold `initial` at first."""
    by_key: dict[int, list[Operation]] = defaultdict(list)
    for op in history:
        by_key[op.key].append(op)
    for key in sorted(by_key):
        failure = _check_key(key, by_key[key], initial)
        if failure is not None:
            return failure
    return None


class _Event:
    """A call or a return in the list; a call knows its return (None if there is none), a return its call."""

    __slots__ = ("bit", "match", "next", "op", "prev", "returns")

    def __init__(self, op: Operation | None, bit: int, returns: bool) -> None:
        self.op = op
        self.bit = bit
        self.returns = returns
        self.match: _Event | None = None
        self.prev: _Event = self
        self.next: _Event | None = None


def _check_key(key: int, ops: list[Operation], initial: int) -> Failure | None:
    relevant = _relevant(ops)
    head = _event_list(relevant)
    left = sum(op.end != OPEN for op in relevant)
    value, lifted = initial, 0
    stack: list[tuple[_Event, int]] = []
    seen: set[tuple[int, int]] = set()
    longest: list[Operation] = []
    stuck: list[Operation] = []
    event = head.next
    for _ in range(MAX_STEPS):
        if left == 0:
            return None
        assert event is not None
        assert event.op is not None
        if not event.returns:
            possible, after = _apply(event.op, value)
            configuration = (lifted | 1 << event.bit, after)
            if possible and configuration not in seen:
                seen.add(configuration)
                stack.append((event, value))
                value, lifted = after, configuration[0]
                left -= event.match is not None
                _lift(event)
                event = head.next
            else:
                event = event.next
            continue
        if len(stack) >= len(longest):
            longest = [e.op for e, _ in stack if e.op is not None]
            stuck = _callable(head)
        if not stack:
            return Failure(key, longest, stuck)
        event, value = stack.pop()
        lifted &= ~(1 << event.bit)
        left += event.match is not None
        _unlift(event)
        event = event.next
    raise Undecided(f"register {key}: {len(ops)} operations, {sum(op.end == OPEN for op in ops)} without an answer")


def _relevant(ops: list[Operation]) -> list[Operation]:
    """Leave out operations without an answer that nobody can have noticed: they may as well never have happened.

    A value is noticed by clients that read it or swap it, and any change by a swap that failed.
    """
    seen = {op.result for op in ops if op.kind == GET and op.end != OPEN}
    seen |= {op.expected for op in ops if op.kind == CAS and (op.end == OPEN or op.result)}
    refused = any(op.kind == CAS and op.end != OPEN and not op.result for op in ops)
    return [op for op in ops if op.end != OPEN or (op.kind != GET and (refused or op.value in seen))]


def _apply(op: Operation, value: int) -> tuple[bool, int]:
    """Return whether `op` can happen when the register holds `value`, and what it holds then."""
    if op.kind == PUT:
        return True, op.value
    if op.kind == GET:
        return op.result == value, value
    swaps = value == op.expected
    if op.end != OPEN and bool(op.result) != swaps:
        return False, value
    return True, op.value if swaps else value


def _event_list(ops: list[Operation]) -> _Event:
    """Return the head of a list of all calls and returns in order of time."""
    events: list[tuple[float, _Event]] = []
    for bit, op in enumerate(sorted(ops, key=lambda op: op.start)):
        call = _Event(op, bit, False)
        events.append((op.start, call))
        if op.end != OPEN:
            back = _Event(op, bit, True)
            call.match, back.match = back, call
            events.append((op.end, back))
    events.sort(key=lambda pair: pair[0])
    head = last = _Event(None, -1, False)
    for _, event in events:
        last.next, event.prev = event, last
        last = event
    return head


def _lift(call: _Event) -> None:
    for event in (call, call.match):
        if event is not None:
            event.prev.next = event.next
            if event.next is not None:
                event.next.prev = event.prev


def _unlift(call: _Event) -> None:
    for event in (call.match, call):
        if event is not None:
            event.prev.next = event
            if event.next is not None:
                event.next.prev = event


def _callable(head: _Event) -> list[Operation]:
    """Return the operations that may come next: those called before the first return."""
    found = []
    event = head.next
    while event is not None and not event.returns:
        assert event.op is not None
        found.append(event.op)
        event = event.next
    return found
