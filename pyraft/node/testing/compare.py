"""The state of machines as plain values, to be compared.

Duty: `state` makes it of a replica, `difference` says where two of them are not equal.

Happy path: `difference(state(one), state(other))` is empty.

Failure modes: none. The order of a dict or list counts, as commands that go through it depend on it; that of a set does
not. A machine with a snapshot of its own is compared by that, a piece after the other.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

from pyraft.node.machine import Machine
from pyraft.node.replica import Replica
from pyraft.node.tracked import Record


def state(replica: Replica) -> dict[str, Any]:
    """Return the state of all machines, and the shared time, as plain values."""
    found = {name or "machine": _machine(machine) for name, machine in replica.machines.items()}
    return {**found, "shared time": replica.microseconds}


def _machine(machine: Machine) -> Any:
    own = machine.snapshot()
    return plain(machine) if own is None else [bytes(piece) for piece in own]


def plain(value: Any) -> Any:
    """Return a copy of a value without anything that is tracked."""
    if isinstance(value, Record):
        return {name: plain(member) for name, member in value.content().items()}
    if isinstance(value, Mapping):
        return {key: plain(member) for key, member in value.items()}
    if isinstance(value, (set, frozenset)):
        return frozenset(value)
    if isinstance(value, (list, tuple, deque)):
        return [plain(member) for member in value]
    return value


def difference(one: Any, other: Any, where: str = "") -> str:
    """Return where and how two states differ first, an empty text if they are equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        if list(one) == list(other):
            found = (difference(one[key], other[key], f"{where}.{key}" if where else str(key)) for key in one)
            return next((text for text in found if text), "")
        if set(one) == set(other):
            return f"{where} has its keys in different orders: {_short(list(one))} and {_short(list(other))}"
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        found = (difference(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(one, other, strict=True)))
        return next((text for text in found if text), "")
    same = type(one) is type(other) and (one == other or (one != one and other != other))  # a NaN is like another
    return "" if same else f"{where} is {_short(one)} and {_short(other)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "…"
