"""TCP: a TCP socket as a stream, client or server, IPv4 or IPv6.

Duty: `TCP(loop, family)` with bind, listen, accept, connect, open, the names of both ends and the socket's options.
Addresses are tuples (ip, port) or (ip, port, flowinfo, scope_id); the ip is a literal, "" stands for 0.0.0.0. Names are
resolved by `io_uv.pyuv.dns` first.

Failure modes: TCPError with the system's code. As in libuv an address in use is reported by listen or connect, not by
bind. A bound or listening server leaves a port that can be bound again at once (SO_REUSEADDR), unless a sandbox refuses
to set options: `TCP.refusal` says so then.
"""

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from io_uv.pyuv import errno, error
from io_uv.pyuv.endpoint import Socket
from io_uv.pyuv.handle import check_callback, closed_error
from io_uv.pyuv.loop import Loop
from io_uv.pyuv.stream import Stream

if TYPE_CHECKING:
    from typing_extensions import Self  # type checkers bring it along

UV_TCP_IPV6ONLY: Final = 1


class TCP(Stream):
    """`TCP(loop, family=AF_UNSPEC)`: a TCP handle; with a family its socket is made at once."""

    __slots__ = ("_options", "refusal")

    _error: ClassVar[type[error.UVError]] = error.TCPError

    def __init__(self, loop: Loop, family: int = socket.AF_UNSPEC) -> None:
        self.refusal: OSError | None = None
        """Why bind could not set SO_REUSEADDR, without which a port is free a minute later."""
        self._options: list[tuple[int, int, int]] = []  # set before there was a socket
        super().__init__(loop)
        if family != socket.AF_UNSPEC:
            if family not in (socket.AF_INET, socket.AF_INET6):
                raise self._fail(errno.UV_EINVAL)
            self._make_socket(family)

    def bind(self, address: tuple[Any, ...], flags: int = 0) -> None:
        """Bind to an address. `flags`: UV_TCP_IPV6ONLY leaves IPv4 out of an IPv6 address."""
        if self._closed:
            raise closed_error()
        family, address = parse_address(address)
        if flags & UV_TCP_IPV6ONLY and family != socket.AF_INET6:
            raise self._fail(errno.UV_EINVAL)
        sock = self._make_socket(family)
        if sock.family != family:
            raise self._fail(errno.UV_EINVAL)
        try:
            self._set_bind_options(sock, family, flags & UV_TCP_IPV6ONLY)
            sock.bind(address)
        except OSError as exc:
            code = errno.from_os_error(exc)
            if code != errno.UV_EADDRINUSE:
                raise self._fail(code) from None
            self._delayed_error = code

    def _set_bind_options(self, sock: socket.socket, family: int, only6: int) -> None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only6)
        except OSError as exc:
            if only6:
                raise
            self.refusal = exc

    def connect(self, address: tuple[Any, ...], callback: "Callable[[Self, int | None], object]") -> None:
        """Connect to an address; `callback(tcp, error)` says how it ended. Writes may be queued before."""
        if self._closed:
            raise closed_error()
        check_callback(callback)
        family, address = parse_address(address)
        self._start_connect(self._make_socket(family), address, callback)

    def open(self, fd: int) -> None:
        """Take over a TCP socket's descriptor, which this handle then closes. It is made non-blocking."""
        self._open(fd, (socket.AF_INET, socket.AF_INET6))

    def getsockname(self) -> tuple[Any, ...]:
        """The local address: (ip, port), or (ip, port, flowinfo, scope_id) for IPv6."""
        return self._name(self._socket().getsockname)

    def getpeername(self) -> tuple[Any, ...]:
        """The other end's address, in the form of getsockname. Raises UV_ENOTCONN without one."""
        return self._name(self._socket().getpeername)

    @property
    def family(self) -> int:
        """The socket's address family. Raises UV_EBADF while there is no socket."""
        if self._sock is None:
            raise self._fail(errno.UV_EBADF)
        return int(self._sock.family)

    def nodelay(self, enable: bool) -> None:
        """Send small pieces at once (TCP_NODELAY) or let the system gather them."""
        self._set_option(socket.IPPROTO_TCP, socket.TCP_NODELAY, int(_checked_bool(enable)))

    def keepalive(self, enable: bool, delay: int) -> None:
        """Probe an idle connection after `delay` seconds, or not."""
        self._set_option(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(_checked_bool(enable)))
        if enable:
            self._set_option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, delay)

    def simultaneous_accepts(self, enable: bool) -> None:
        """Windows only; does nothing, as in libuv elsewhere."""
        _checked_bool(enable)
        if self._closed:
            raise closed_error()

    def _listen_socket(self) -> socket.socket:
        return self._make_socket(socket.AF_INET)

    def _make_socket(self, family: int) -> socket.socket:
        if self._sock is None:
            try:
                self._sock = Socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            except OSError as exc:
                raise self._fail(errno.from_os_error(exc)) from None
            self._apply_options()
        return self._sock

    def _take(self, sock: socket.socket) -> None:
        super()._take(sock)
        self._apply_options()

    def _name(self, get: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
        try:
            return get()
        except OSError as exc:
            raise self._fail(errno.from_os_error(exc)) from None

    def _set_option(self, level: int, option: int, value: int) -> None:
        if self._closed:
            raise closed_error()
        if self._sock is None:
            self._options.append((level, option, value))
            return
        try:
            self._sock.setsockopt(level, option, value)
        except OSError as exc:
            raise self._fail(errno.from_os_error(exc)) from None

    def _apply_options(self) -> None:
        options, self._options = self._options, []
        for level, option, value in options:
            self._set_option(level, option, value)


def parse_address(address: object) -> tuple[int, tuple[Any, ...]]:
    """Check an address tuple, and return its family and the tuple for the socket.

    Raises TypeError for its shape, ValueError for anything but an IP address, OverflowError for a number out of range.
    """
    if not isinstance(address, tuple):
        raise TypeError(f"address must be tuple, not {type(address).__name__}")
    if not 2 <= len(address) <= 4 or not isinstance(address[0], str):
        raise TypeError("address must be (ip, port) or (ip, port, flowinfo, scope_id)")
    host = address[0]
    port, flowinfo, scope_id = (*(int(number) for number in address[1:]), 0, 0)[:3]
    if not 0 <= port <= 0xFFFF:
        raise OverflowError("port must be 0-65535")
    if not 0 <= flowinfo <= 0xFFFFF:
        raise OverflowError("flowinfo must be 0-1048575")
    if host == "":
        return socket.AF_INET, ("0.0.0.0", port)
    if host == "<broadcast>":
        return socket.AF_INET, ("255.255.255.255", port)
    bare, _, scope = host.partition("%")
    if is_ip(socket.AF_INET, host):
        return socket.AF_INET, (host, port)
    if is_ip(socket.AF_INET6, bare):
        return socket.AF_INET6, (bare, port, flowinfo, scope_id or _scope(scope))
    raise ValueError("invalid IP address")


def is_ip(family: int, host: str) -> bool:
    """Whether host is a literal address of the family."""
    try:
        socket.inet_pton(family, host)
    except (OSError, ValueError):
        return False
    return True


def _scope(scope: str) -> int:
    """Interface of a scoped address: its number or its name, 0 for none."""
    if not scope:
        return 0
    if scope.isdecimal():
        return int(scope)
    try:
        return socket.if_nametoindex(scope)
    except OSError:
        raise ValueError("invalid IP address") from None


def _checked_bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"a bool is required, not {type(value).__name__}")
    return value
