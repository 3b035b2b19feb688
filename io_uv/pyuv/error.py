"""The exceptions that pyuv's methods raise.

Duty: one class per kind of handle under `UVError`, each with the arguments (code, text): a negative `UV_*` code of
`io_uv.pyuv.errno` and its description. They report what a call could not start; all that fails later reaches the
callback as a code. `HandleClosedError` is the answer of every method of a handle that is closing or closed.
"""

from io_uv.pyuv import errno


class UVError(Exception):
    """Any error of this package. `args` is (code, text)."""


class ThreadError(UVError):
    """A thread could not be had."""


class HandleError(UVError):
    """A handle refused."""


class HandleClosedError(HandleError):
    """The handle is closing or closed."""


class AsyncError(HandleError):
    """Async refused."""


class TimerError(HandleError):
    """Timer refused."""


class PrepareError(HandleError):
    """Prepare refused."""


class IdleError(HandleError):
    """Idle refused."""


class CheckError(HandleError):
    """Check refused."""


class SignalError(HandleError):
    """Signal refused."""


class StreamError(HandleError):
    """A stream refused."""


class TCPError(StreamError):
    """TCP refused."""


class PipeError(StreamError):
    """Pipe refused."""


class PollError(HandleError):
    """Poll refused."""


def make(kind: type[UVError], code: int) -> UVError:
    """An exception of the given kind for a code, with its text."""
    return kind(code, errno.strerror(code))
