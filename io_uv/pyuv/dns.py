"""Name resolution off the loop: getaddrinfo and getnameinfo.

Duty: the system's resolver called in a thread of the pool (as slow work: it never takes all threads), the answer given
to `callback(result, error)` in the loop. Without a callback both are synchronous, and block.

Failure modes: UVError with a UV_EAI_* code, or UV_ECANCELED after `cancel()` of the returned request, or UV_EAGAIN if
no thread can be started.
"""

import socket
from collections.abc import Callable
from typing import Any, NamedTuple, overload

from io_uv.pyuv import errno, error, threadpool
from io_uv.pyuv.loop import Loop
from io_uv.pyuv.tcp import parse_address

Callback = Callable[[Any, "int | None"], object]


class AddrinfoResult(NamedTuple):
    """One address that getaddrinfo found."""

    family: int
    socktype: int
    proto: int
    canonname: str
    sockaddr: Any


FoundCallback = Callable[[list[AddrinfoResult] | None, int | None], object]
NamedCallback = Callable[[tuple[str, str] | None, int | None], object]


class _Request(threadpool.Request):
    __slots__ = ("_callback", "_error", "_lookup", "_result")

    def __init__(self, loop: Loop, lookup: Callable[[], Any], callback: Callback | None) -> None:
        super().__init__(loop)
        self._lookup = lookup
        self._callback = callback
        self._result: Any = None
        self._error: int | None = None

    def _execute(self) -> None:
        try:
            self._result = self._lookup()
        except OSError as exc:
            self._error = errno.from_gai_error(exc)
        except UnicodeError:  # a name that the system's encoding of names refuses
            self._error = errno.UV_EINVAL

    def _finish(self) -> None:
        callback = self._callback
        self._callback = None
        if callback is not None:
            callback(self._result, self._error if self._code is None else self._code)

    def _answer(self) -> Any:
        """Look up now, in this thread."""
        self._execute()
        if self._error is not None:
            raise error.make(error.UVError, self._error)
        return self._result


class GAIRequest(_Request):
    """A getaddrinfo in progress."""

    __slots__ = ()


class GNIRequest(_Request):
    """A getnameinfo in progress."""

    __slots__ = ()


@overload
def getaddrinfo(
    loop: Loop,
    host: str | bytes | None,
    port: str | bytes | int | None = None,
    family: int = 0,
    socktype: int = 0,
    protocol: int = 0,
    flags: int = 0,
    callback: None = None,
) -> list[AddrinfoResult]: ...


@overload
def getaddrinfo(
    loop: Loop,
    host: str | bytes | None,
    port: str | bytes | int | None = None,
    family: int = 0,
    socktype: int = 0,
    protocol: int = 0,
    flags: int = 0,
    *,
    callback: FoundCallback,
) -> GAIRequest: ...


@overload
def getaddrinfo(
    loop: Loop,
    host: str | bytes | None,
    port: str | bytes | int | None,
    family: int,
    socktype: int,
    protocol: int,
    flags: int,
    callback: FoundCallback,
) -> GAIRequest: ...


def getaddrinfo(
    loop: Loop,
    host: str | bytes | None,
    port: str | bytes | int | None = None,
    family: int = 0,
    socktype: int = 0,
    protocol: int = 0,
    flags: int = 0,
    callback: Callback | None = None,
) -> Any:
    """Resolve a host and a port or service name; the other arguments are hints as for `socket.getaddrinfo`.

    With a callback, returns a GAIRequest and calls `callback(result, error)` later: a list of AddrinfoResult and
    None, or None and a code. Without one, returns the list or raises UVError.
    """
    if host is not None and not isinstance(host, str | bytes):
        raise TypeError("getaddrinfo() argument 2 must be string or None")
    if port is not None and not isinstance(port, str | bytes | int):
        raise TypeError("getaddrinfo() argument 3 must be string or int")
    if isinstance(port, int) and not 0 <= port <= 0xFFFF:
        raise ValueError("port must be between 0 and 65535")

    def lookup() -> list[AddrinfoResult]:
        found = socket.getaddrinfo(host, port, family, socktype, protocol, flags)
        return [AddrinfoResult(int(f), int(t), proto, name, address) for f, t, proto, name, address in found]

    return _start(loop, GAIRequest, lookup, callback)


@overload
def getnameinfo(loop: Loop, address: tuple[Any, ...], flags: int = 0, callback: None = None) -> tuple[str, str]: ...


@overload
def getnameinfo(
    loop: Loop,
    address: tuple[Any, ...],
    flags: int = 0,
    *,
    callback: NamedCallback,
) -> GNIRequest: ...


@overload
def getnameinfo(
    loop: Loop,
    address: tuple[Any, ...],
    flags: int,
    callback: NamedCallback,
) -> GNIRequest: ...


def getnameinfo(loop: Loop, address: tuple[Any, ...], flags: int = 0, callback: Callback | None = None) -> Any:
    """Find host and service name of an address (ip, port, ...); flags as for `socket.getnameinfo`.

    With a callback, returns a GNIRequest and calls `callback((host, service), error)` later. Without one, returns the
    pair or raises UVError.
    """
    _, parsed = parse_address(address)
    return _start(loop, GNIRequest, lambda: socket.getnameinfo(parsed, flags), callback)


def _start(loop: Loop, kind: type[_Request], lookup: Callable[[], Any], callback: Callback | None) -> Any:
    if callback is not None and not callable(callback):
        raise TypeError("'callback' must be a callable or None")
    request = kind(loop, lookup, callback)
    if callback is None:
        return request._answer()
    loop._check_usable()
    loop._submit(request, slow=True)
    return request
