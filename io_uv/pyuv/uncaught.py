"""The fate of an exception that a callback raised.

Duty: `deal_with(loop)`, called while it is handled. It goes to `Loop.excepthook`; KeyboardInterrupt and SystemExit are
raised again and so end `run`. If it came out of the program's own callback nothing else is the matter; if it came
through functions of the library, `Loop._enter` keeps the mark that something was left in its middle.

Failure modes: a hook that cannot be had, or raises itself, is shown on standard error together with what it was for.
"""

import sys
import traceback
from types import TracebackType
from typing import TYPE_CHECKING, Any

from io_uv.pyuv import error, interrupt

if TYPE_CHECKING:
    from io_uv.pyuv.loop import Loop


def deal_with(loop: "Loop") -> None:
    """Deal with the exception being handled."""
    typ, value, tb = sys.exc_info()
    assert typ is not None
    assert value is not None
    if isinstance(value, KeyboardInterrupt | SystemExit):
        if value is loop._deliberate or not interrupt.passed_through(value):
            loop._deliberate = None
            loop._inside = loop._torn
        raise value
    if loop._inherited and isinstance(value, error.HandleClosedError):
        return  # the rest of a function that called back one that forked
    broken = False
    hook: Any
    try:
        hook = loop.excepthook
    except AttributeError:
        hook = None
    except BaseException as exc:
        show("Exception while getting excepthook", exc, exc.__traceback__)
        hook, broken = None, True
    if hook is not None:
        try:
            hook(typ, value, tb)
        except BaseException as exc:
            if isinstance(exc, KeyboardInterrupt | SystemExit):
                raise
            exc.__context__ = None
            show("Unhandled exception in excepthook", exc, exc.__traceback__)
            broken = True
        else:
            return
    show("\n" * broken + "Unhandled exception in callback", value, tb)


def show(what: str, value: BaseException, tb: TracebackType | None) -> None:
    """Print an exception to standard error, under a line that says what it is."""
    sys.stderr.write(f"{what}\n")
    traceback.print_exception(type(value), value, tb, file=sys.stderr)
