"""The arguments that programs give to nodes, clients and handles: looked at where they come in.

Duty: each function refuses what is of another type or out of range, with a sentence that says what was given and where.
Without it the mistake would show inside of a command, on all members, or never.

Happy path: nothing is returned.

Failure modes: TypeError for a wrong type, ValueError for a wrong value.
"""

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

from pyraft.node.codec import MAX_DEPTH, nests_deeper
from pyraft.node.settings import Settings
from pyraft.node.tls import Tls


def check_name(what: str, name: object) -> None:
    """Refuse what is not the name of a thing: a text that is not empty."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a {what} must be a text, not {name!r:.60}")
    if not name:
        raise ValueError(f"a {what} needs a name")


def check_number(what: str, number: object) -> None:
    """Refuse what is not a whole number."""
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{what} must be a whole number, not {number!r:.60}")


def check_seconds(what: str, seconds: object, low: float, high: float) -> None:
    """Refuse what is not a number of seconds in a range; a NaN is in none."""
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        raise TypeError(f"{what} must be a number of seconds, not {seconds!r:.60}")
    if not low <= seconds <= high:
        raise ValueError(f"{what} must be from {low:g} to {high:g} seconds, not {seconds!r}")


def check_directory(directory: object) -> None:
    """Refuse what cannot name a data directory."""
    if not isinstance(directory, (str, os.PathLike)):
        raise TypeError(f"the directory of a member must be a text or a path, not {directory!r:.60}")


def check_options(settings: object, tls: object) -> None:
    """Refuse settings and certificates that are something else."""
    if settings is not None and not isinstance(settings, Settings):
        raise TypeError(f"settings are an object of Settings, Settings(timeout_seconds=3), and not {settings!r:.60}")
    if tls is not None and not isinstance(tls, Tls):
        raise TypeError(f"tls is an object of Tls, Tls(cert, key, ca), and not {tls!r:.60}")


def check_job(job: object) -> None:
    """Refuse what is certainly not a coroutine function without arguments: an ordinary one would run only once elected.

    A lambda may return a coroutine, and so may an ordinary function that is annotated as doing so.
    """
    what = "elect() takes a coroutine function without arguments, async def job(): …, which it calls,"
    if inspect.iscoroutine(job):
        job.close()  # nobody awaits it
        raise TypeError(f"{what} and not a coroutine: give it job instead of job()")
    if not callable(job):
        raise TypeError(f"{what} and not {job!r:.60}")
    if not _may_return_coroutine(job):
        raise TypeError(f"{what} and {getattr(job, '__qualname__', job)} is an ordinary function")
    try:
        inspect.signature(job).bind()
    except TypeError as exc:
        raise TypeError(f"{what} and this one has to be given more: {exc}; take lambda: job(…)") from None
    except ValueError:
        pass  # its parameters are not known


def check_made(made: object) -> None:
    """Refuse what a job of `elect` has returned in the place of a coroutine."""
    if not inspect.isawaitable(made):
        raise TypeError(f"elect() takes a function that returns a coroutine, and this one has returned {made!r:.60}")


def _may_return_coroutine(job: Callable[..., Any]) -> bool:
    function: Any = inspect.unwrap(job)
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return False
    if inspect.iscoroutinefunction(function) or not inspect.isfunction(function) or function.__name__ == "<lambda>":
        return True
    returns = str(function.__annotations__.get("return", ""))
    return any(word in returns for word in ("Coroutine", "Awaitable", "Future", "Task"))


def check_depth(where: str, args: Any, kwargs: Any) -> None:
    """Refuse arguments that are nested deeper than values may be."""
    if nests_deeper([*args, *kwargs.values()], MAX_DEPTH):
        raise ValueError(f"an argument of {where}() is nested deeper than {MAX_DEPTH}")
