"""The outcomes of commands and queries as bytes: what they have returned, raised, or were refused for.

Duty: `Outcomes` packs exceptions, and makes results and exceptions of outcomes again. The limits of a result, in size
and depth, are here.

Happy path: `outcomes.result("", outcome)` returns what the command of the program's machine has returned.

Failure modes: an exception of a class that does not travel becomes CommandFailed, with the first part of its text. The
table of outcomes is in FORMATS.md.
"""

import builtins
from typing import Any, Final

from pyraft.node.codec import Codec, nests_deeper
from pyraft.node.errors import CommandFailed, Refused, SessionExpired
from pyraft.node.sessions import MAX_OPEN

RESULT, RAISED, FAILED, EXPIRED, FULL = range(5)

MAX_OUTCOME: Final = 4 << 20
"""How large a packed result may be: it is kept until it is acknowledged, and travels. Larger ones fail the command."""

MAX_NESTED: Final = 500
"""How deep a result, or what an exception says, may be nested: msgpack's own limit is from 511 on, by its version, and
the depth of the stack counts in some. All members must come to the same."""

NOTHING: Final = bytes((0x92, RESULT, 0xC0))
"""The outcome None, packed."""

REFUSED: Final = f"pyraft.{Refused.__name__}"
"""The name of a class that no command raises: this layer has refused the call. Older callers see CommandFailed."""


class Outcomes:
    """See the head of this module."""

    def __init__(self, codec: Codec) -> None:
        self.errors: dict[str, dict[str, type[Exception]]] = {}
        """The exceptions that travel, of each machine, by their names."""
        self._codec = codec
        self._results = codec.lenient()

    def raised(self, name: str, exc: BaseException) -> bytes:
        """Return the outcome of a command, or query, of machine `name` that has raised `exc`."""
        cls = type(exc)
        if self.errors[name].get(cls.__name__) is cls or getattr(builtins, cls.__name__, None) is cls:
            try:
                if not nests_deeper(exc.args, MAX_NESTED):
                    return self._codec.pack([RAISED, cls.__name__, list(exc.args)])
            except (TypeError, ValueError):
                pass
        return self._codec.pack([FAILED, cls.__name__, _text(exc)])

    def result(self, machine: str, outcome: bytes) -> Any:
        """Return the value that an outcome of `machine` stands for, or raise its exception."""
        kind, *what = self._results.unpack(outcome)
        if kind == RESULT:
            return what[0]
        if kind == RAISED:
            name, args = what
            cls = self.errors[machine].get(name) or getattr(builtins, name, None)
            if isinstance(cls, type) and issubclass(cls, Exception):
                raise cls(*args)
            raise CommandFailed(name, ", ".join(map(str, args)))
        if kind == FAILED:
            name, text = what
            raise Refused(text) if name == REFUSED else CommandFailed(name, text)
        if kind == FULL:
            raise SessionExpired(f"the session has left {MAX_OPEN} outcomes unacknowledged")
        raise SessionExpired("the cluster does not know the session, or not any more: the call was not executed")


def check_depth(value: Any) -> None:
    """Raise ValueError for a result of a command that is nested too deep for some member."""
    if nests_deeper([value], MAX_NESTED):
        raise ValueError(f"the result is nested deeper than {MAX_NESTED}")


def too_large(size: int) -> str:
    """Return why a result fails its command."""
    return f"the result takes {size} bytes, more than {MAX_OUTCOME}"


def _text(exc: BaseException) -> str:
    try:
        return str(exc)[:1000]
    except Exception:
        return ""
