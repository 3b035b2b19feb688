"""Calling back: how the callbacks of requests, which are user code or the core's, are run.

Duty: `fire` runs a callback so that an exception in it leaves the pipeline alone; `report` hands one to `io.report`.
Every completion of io_uv goes through here, the one of io.close (see `closing`) as well.

Failure modes: an exception of io.report itself comes out of `fire`.
"""

import sys
from collections.abc import Callable

from io_uv import state


def fire(uv: state.Uv, cb: Callable[..., None] | None, *args: object) -> None:
    """Call `cb(*args)`, if there is one; an exception that it raises goes to `io.report(io, exc)`."""
    if cb is None:
        return
    try:
        cb(*args)
    except Exception as exc:
        report(uv, exc)


def report(uv: state.Uv, exc: BaseException) -> None:
    """Hand an exception of user code to `io.report`, or to sys.excepthook where the table has none."""
    if uv.io.report is not None:
        uv.io.report(uv.io, exc)
    else:
        sys.excepthook(type(exc), exc, exc.__traceback__)
