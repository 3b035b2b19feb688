"""All data of a server as something that can be compared, with the lane and without.

Failure modes: none.
"""

from collections import deque
from typing import Any

from tests.lib import messages as msg

APART = ("alike", "cb", "data", "encoded", "exception", "flush", "fsm", "io", "lane", "raft", "resume", "tracer")
"""Fields that are not compared: they lead elsewhere, or are what makes the difference."""


def dump(thing: Any) -> Any:
    """Return all data of a struct and of what it refers to, as something that can be compared."""
    if thing is None or isinstance(thing, (int, str, bytes, float)):
        return thing
    if isinstance(thing, (list, tuple, deque)):
        return [dump(item) for item in thing]
    if isinstance(thing, dict):
        return [(key, dump(value)) for key, value in thing.items()]
    if isinstance(thing, (set, frozenset)):
        return sorted(thing)
    if callable(thing):
        return "function"
    fields = ((name, getattr(thing, name)) for name in msg.fields_of(thing) if name not in APART)
    return [type(thing).__name__, *((name, dump(value)) for name, value in fields if not callable(value))]
