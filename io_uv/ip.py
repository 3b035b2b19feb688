"""Addresses of servers: their parts, and the socket addresses that they stand for.

Duty: an address is `host[:port]`, cut at the first colon as in C, or `[host]:port` with an IPv6 literal. Without a
port, or with an empty one, the port is 8080. `split` takes it apart, `check_peer` says whether others could be sent
there, `is_same_peer` whether two lead to one place. `bind_addresses` returns addresses to listen on,
`literal_addresses` and `resolve` those to connect to.

Happy path: numeric hosts need no resolver and cost a few microseconds. Names are taken as IPv4 first; IPv6 results come
behind them when connecting, and serve alone for listening where there is nothing else. A look-up on the loop is made
only by `bind_addresses`, once at start, because listen has to return whether it worked; `resolve` uses a thread.

Failure modes: Failure(RAFT_NAMETOOLONG) for a host above 1024 or a port above 31 bytes. From `bind_addresses`
Failure(RAFT_INVALID) for an empty address and an impossible port, Failure(RAFT_IOERR) with the resolver's reason. The
name of the resolver's error to the callback of `resolve`.
"""

import encodings.idna  # noqa: F401
import ipaddress
import re
import socket
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from io_uv import pyuv
from io_uv.failure import Failure
from pyraft.errors import RAFT_INVALID, RAFT_IOERR, RAFT_NAMETOOLONG

# Python's getaddrinfo loads the codec for its first host, and could not any more in a process that has changed its user
# or its root meanwhile, or has no descriptor left ("unknown encoding").
DEFAULT_PORT: Final = "8080"
HOST_MAX: Final = 1024
PORT_MAX: Final = 31
_NAME_MAX: Final = 253
_BROADCAST: Final = ipaddress.IPv4Address("255.255.255.255")

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DIGITS: Final = re.compile("[0-9]+")
_SERVICE: Final = re.compile("[A-Za-z0-9-]*[A-Za-z][A-Za-z0-9-]*")
_HOST: Final = re.compile(r"[\w.-]+")

SockAddr: TypeAlias = tuple[Any, ...]
"""(ip, port), or (ip, port, flow info, scope id) for IPv6, as pyuv.TCP takes it."""


def split(address: str) -> tuple[str, str]:
    """Return host and port of an address; the host of `[host]:port` comes without the brackets."""
    end = address.find("]:") if address.startswith("[") else -1
    if end < 0 and address.startswith("[") and address.endswith("]"):
        end = len(address) - 1
    if end > 0:
        # C: uv_ip.c:uvIpAddrSplit knows no brackets, and cuts every IPv6 literal at its first colon.
        host, port = address[1:end], address[end + 2 :]
    else:
        host, _, port = address.partition(":")
    if has_control(address):
        raise Failure(RAFT_INVALID, "control characters in the address")
    try:
        address.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise Failure(RAFT_INVALID, "a lone surrogate in the address") from None
    if len(host.encode("utf-8", "surrogateescape")) > HOST_MAX:
        raise Failure(RAFT_NAMETOOLONG, f"host name of more than {HOST_MAX} bytes")
    if len(port.encode("utf-8", "surrogateescape")) > PORT_MAX:
        raise Failure(RAFT_NAMETOOLONG, f"port of more than {PORT_MAX} bytes")
    return host, port or DEFAULT_PORT


def has_control(address: str) -> bool:
    """Return whether there are line ends or other control characters in an address."""
    return _CONTROL.search(address) is not None


def is_port(port: str) -> bool:
    """Return whether a port is a number up to 65535 or could be the name of a service.

    C lets the resolver judge, which takes "+65616" and " 65616" for numbers and drops their upper bits.
    """
    if _DIGITS.fullmatch(port):
        return int(port) <= 65535
    return _SERVICE.fullmatch(port) is not None


def check_peer(address: str) -> None:
    """Raise Failure(RAFT_INVALID) for an address at which no other server could ever be reached.

    Stricter than what connecting takes, for the eyes of those who add servers: a port has to be there, as a number
    above 0 or the name of a service that this machine knows, and a host that stands for one machine.
    """
    try:
        host, port = split(address)
        _check_host(host, bracketed=address.startswith("["))
        _check_port(address, port)
    except Failure as failure:
        raise Failure(RAFT_INVALID, f"no server can be reached at '{address}': {failure.message}") from None


def _check_host(host: str, bracketed: bool) -> None:
    if not host:
        raise _unusable("there is no host in it (IPv6 addresses need brackets)")
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        # Host names have no underscores by the rules, but names of containers have.
        if bracketed or not _HOST.fullmatch(host) or host.strip("0123456789.") == "" or not _can_be_looked_up(host):
            raise _unusable(f"'{host}' is not a host") from None
        return
    if number.is_unspecified or number.is_multicast or number == _BROADCAST:
        raise _unusable(f"{host} stands for more than one host")
    if isinstance(number, ipaddress.IPv6Address) and number.is_link_local and number.scope_id is None:
        raise _unusable(f"{host} leads nowhere without an interface ('{host}%eth0')")


def _can_be_looked_up(name: str) -> bool:
    """Return whether a resolver could be asked for a name: no label is empty, no label and not the whole too long."""
    try:
        return len(name.encode("idna").removesuffix(b".")) <= _NAME_MAX
    except UnicodeError:
        return False


def _check_port(address: str, port: str) -> None:
    if not address.endswith(f":{port}"):
        raise _unusable("there is no port in it")
    if not is_port(port) or (port.isdigit() and int(port) == 0):
        raise _unusable(f"'{port}' is not a port")
    if not port.isdigit():
        try:
            socket.getservbyname(port, "tcp")
        except (OSError, UnicodeError):
            raise _unusable(f"'{port}' is neither a port nor a service known here") from None


def is_same_peer(one: str, other: str) -> bool:
    """Return whether two addresses are spellings of one: by their letters, as no resolver is asked.

    The two loopback addresses count as one, and as "localhost": one port of each is hardly two servers.
    """
    if one == other:
        return True
    try:
        return _spelled_out(one) == _spelled_out(other)
    except Failure:
        return False


def _spelled_out(address: str) -> tuple[str, str]:
    """Return host and port in one form, the same for every spelling of an address."""
    host, port = split(address)
    if port.isdecimal():
        port = str(int(port))
    else:
        try:
            port = str(socket.getservbyname(port, "tcp"))
        except (OSError, UnicodeError, ValueError):
            port = port.lower()
    found = literal_addresses(host, "0")
    if found is None:
        host = in_ascii(host.lower().removesuffix("."))
        return ("127.0.0.1" if host == "localhost" or host.endswith(".localhost") else host), port
    name, *rest = found[0]
    number = ipaddress.ip_address(name)
    if isinstance(number, ipaddress.IPv6Address) and number.ipv4_mapped is not None:
        number = number.ipv4_mapped
    if number == ipaddress.IPv6Address(1):
        return "127.0.0.1", port
    return str(number) + (f"%{rest[2]}" if len(rest) > 2 and rest[2] and "%" not in name else ""), port


def in_ascii(host: str) -> str:
    """Return a host in the form in which certificates and name servers have letters that are not of ASCII."""
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def _unusable(reason: str) -> Failure:
    return Failure(RAFT_INVALID, reason)


def bind_addresses(address: str) -> list[SockAddr]:
    """Return the socket addresses to listen on; an empty host stands for all IPv4 interfaces. Ports are numeric."""
    host, port = split(address)
    if not address:
        # C: uv_ip.c:uvIpResolveBindAddresses takes it for all interfaces and port 8080.
        raise Failure(RAFT_INVALID, "the address is empty")
    if not is_port(port):
        raise Failure(RAFT_INVALID, f"port {port} in '{address}' is not a number up to 65535")
    flags = socket.AI_PASSIVE | socket.AI_NUMERICSERV
    try:
        addresses = _numeric(host, port, flags) if host else _lookup(None, port, socket.AF_INET, flags)
        if addresses is None:
            addresses = _by_name(host, port, flags)
    except (OSError, UnicodeError) as exc:
        raise Failure(RAFT_IOERR, f"getaddrinfo '{address}': {_reason(exc)}") from None
    if len(addresses) == 2 and addresses[0] == addresses[1]:
        # glibc repeats the address of localhost where /etc/hosts names it twice.
        del addresses[1]
    return addresses


def literal_addresses(host: str, port: str) -> list[SockAddr] | None:
    """Return the socket address of a numeric host and port, or None if either is a name."""
    try:
        return _numeric(host, port, socket.AI_NUMERICSERV)
    except (OSError, UnicodeError):
        return None


def resolve(loop: pyuv.Loop, host: str, port: str, cb: Callable[[list[SockAddr], str], None]) -> pyuv.dns.GAIRequest:
    """Look up, in a thread, all socket addresses to try for a host; the port may be the name of a service.

    Calls `cb(addresses, "")`, or `cb([], name)` with the name of the resolver's error, such as EAI_NONAME. Returns a
    request with a cancel method; a look-up that cannot be cancelled any more still calls back.
    """

    def done(found: list[pyuv.dns.AddrinfoResult] | None, error: int | None) -> None:
        if found is None or error is not None:
            cb([], pyuv.errno.errorcode.get(error or 0, "EAI_FAIL").removeprefix("UV_"))
            return
        found.sort(key=lambda result: result.family != socket.AF_INET)
        cb([result.sockaddr for result in found], "")

    # C: uv_tcp_connect.c:uvTcpConnectStart wants IPv4 only, and an own address other than loopback (AI_ADDRCONFIG).
    return pyuv.dns.getaddrinfo(loop, host, port, socket.AF_UNSPEC, socket.SOCK_STREAM, callback=done)


def _numeric(host: str, port: str, flags: int) -> list[SockAddr] | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return _lookup(host, port, family, flags | socket.AI_NUMERICHOST)
    except socket.gaierror as exc:
        if exc.errno != socket.EAI_NONAME:
            raise
        return None


def _by_name(host: str, port: str, flags: int) -> list[SockAddr]:
    """Look a name up as IPv4, and as IPv6 if that finds nothing."""
    # C: uv_ip.c:uvIpResolveBindAddresses asks for IPv4 only, and with AI_ADDRCONFIG.
    try:
        return _lookup(host, port, socket.AF_INET, flags)
    except socket.gaierror as exc:
        try:
            return _lookup(host, port, socket.AF_INET6, flags)
        except socket.gaierror:
            raise exc from None


def _lookup(host: str | None, port: str, family: int, flags: int) -> list[SockAddr]:
    return [info[4] for info in socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, flags)]


def _reason(exc: Exception) -> str:
    return exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
