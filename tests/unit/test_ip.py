"""Addresses of servers, taken apart and resolved."""

import re
import socket
import subprocess
import sys

import pytest

from io_uv import ip
from io_uv.failure import Failure
from io_uv.pyuv import Loop
from pyraft.errors import RAFT_INVALID, RAFT_IOERR, RAFT_NAMETOOLONG
from tests.lib.peer import resolver
from tests.lib.uvtest import run_until

LO = "127.0.0.1"


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:9001", "127.0.0.1", "9001"),
        ("127.0.0.1", "127.0.0.1", "8080"),
        ("127.0.0.1:", "127.0.0.1", "8080"),
        ("", "", "8080"),
        (":9001", "", "9001"),
        ("host.example:http", "host.example", "http"),
        # C cuts at the first colon, whatever follows.
        ("a:b:c", "a", "b:c"),
        ("::1", "", ":1"),
        ("fe80::1:9001", "fe80", ":1:9001"),
        # Ours: brackets around an IPv6 literal.
        ("[::1]:9001", "::1", "9001"),
        ("[::1]", "::1", "8080"),
        ("[::1]:", "::1", "8080"),
        ("[fe80::1%eth0]:9001", "fe80::1%eth0", "9001"),
        ("[]:9001", "", "9001"),
        # An address that is not in brackets after all is cut as in C.
        ("[::1", "[", ":1"),
        ("[::1]9001", "[", ":1]9001"),
        ("x" * 1024 + ":" + "9" * 31, "x" * 1024, "9" * 31),
    ],
)
def test_an_address_is_host_and_port(address: str, host: str, port: str) -> None:
    """The first colon separates them; the default port is 8080."""
    assert ip.split(address) == (host, port)


@pytest.mark.parametrize("address", ["x" * 1025, "x" * 1025 + ":9001", "x:" + "9" * 32, "é" * 513 + ":9001"])
def test_names_have_limits(address: str) -> None:
    """A host of more than 1024 and a port of more than 31 bytes are too long."""
    with pytest.raises(Failure) as caught:
        ip.split(address)
    assert caught.value.code == RAFT_NAMETOOLONG


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:9001", [(LO, 9001)]),
        ("127.0.0.1", [(LO, 8080)]),
        (":9001", [("0.0.0.0", 9001)]),
        ("[::1]:9001", [("::1", 9001, 0, 0)]),
        ("one.example:9001", [("127.0.0.3", 9001)]),
        # The resolver's repetition of a single address is one address, as in C.
        ("twice.example:9001", [(LO, 9001)]),
        ("three.example:9001", [(LO, 1), (LO, 1), (LO, 2)]),
    ],
)
def test_bind_addresses(address: str, expected: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The addresses to listen on: all addresses of the host, all interfaces without one."""
    answers = {
        "one.example": [("127.0.0.3", 9001)],
        "twice.example": [(LO, 9001)] * 2,
        "three.example": [(LO, 1), (LO, 1), (LO, 2)],
    }
    monkeypatch.setattr(socket, "getaddrinfo", resolver(answers))  # type: ignore[arg-type]
    assert ip.bind_addresses(address) == expected


@pytest.mark.parametrize("address", ["500.1.2.3:9001", "unknown.example:9001", "127.0.0.1:http", "[x]:1"])
def test_what_cannot_be_resolved_is_an_io_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text names the resolver's reason."""
    monkeypatch.setattr(socket, "getaddrinfo", resolver({}))
    with pytest.raises(Failure, match=f"getaddrinfo '{re.escape(address)}': ") as caught:
        ip.bind_addresses(address)
    assert caught.value.code == RAFT_IOERR


def test_a_host_with_ipv6_only_is_listened_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a name has no IPv4 address its IPv6 ones serve."""

    def resolve(host: str, port: str, family: int, type: int, proto: int, flags: int) -> object:
        if family != socket.AF_INET6 or flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(family, type, 6, "", ("::1", 9001, 0, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert ip.bind_addresses("six.example:9001") == [("::1", 9001, 0, 0)]


def test_numeric_addresses_need_no_look_up() -> None:
    """Only a numeric host with a numeric port is taken at once."""
    assert ip.literal_addresses(LO, "9001") == [(LO, 9001)]
    assert ip.literal_addresses("::1", "9001") == [("::1", 9001, 0, 0)]
    for host, port in (("localhost", "9001"), (LO, "http"), ("500.0.0.1", "9001"), ("x" * 300, "1"), ("a..b", "1")):
        assert ip.literal_addresses(host, port) is None


def test_a_look_up_calls_back_from_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """IPv4 addresses come before IPv6 ones, errors as the resolver's names."""

    def resolve(host: str, port: str, family: int, type: int, proto: int, flags: int) -> object:
        if host == "unknown":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if host == "a..b":
            raise UnicodeError("label empty or too long")
        six = (socket.AF_INET6, type, 6, "", ("::1", 9001, 0, 0))
        return [six, (socket.AF_INET, type, 6, "", (LO, 9001))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    loop = Loop()
    results: dict[str, tuple[object, str]] = {}
    for name in ("known", "unknown", "a..b"):
        ip.resolve(loop, name, "9001", lambda found, error, name=name: results.update({name: (found, error)}))
    assert results == {}
    run_until(loop, lambda: len(results) == 3)
    assert results["known"] == ([(LO, 9001), ("::1", 9001, 0, 0)], "")
    assert results["unknown"] == ([], "EAI_NONAME")
    assert results["a..b"][0] == []
    assert results["a..b"][1]
    loop.close()


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("", "the address is empty"),
        ("127.0.0.1:65536", "port 65536 in '127.0.0.1:65536' is not a number up to 65535"),
        ("[::1", "port :1 in '[::1' is not a number up to 65535"),
        ("127.0.0.1:+65616", "port +65616 in '127.0.0.1:+65616' is not a number up to 65535"),
        ("127.0.0.1: 65616", "port  65616 in '127.0.0.1: 65616' is not a number up to 65535"),
        ("127.0.0.1:\u0663", "is not a number up to 65535"),
        ("127.0.0.1\0:80", "control characters in the address"),
        ("\ud800:80", "a lone surrogate in the address"),
        (":99999", "port 99999 in ':99999' is not a number up to 65535"),
    ],
)
def test_where_nobody_can_have_meant_to_listen(address: str, text: str) -> None:
    """C listens on all interfaces for an empty address, and on another port for one that is too high."""
    with pytest.raises(Failure, match=re.escape(text)) as caught:
        ip.bind_addresses(address)
    assert caught.value.code == RAFT_INVALID
    assert ip.bind_addresses("127.0.0.1:65535") == [("127.0.0.1", 65535)]


def test_addresses_take_no_module_that_is_not_loaded_yet() -> None:
    """A daemon may have given up its user, its root or its descriptors between the import and the start."""
    program = """
import sys
import io_uv
before = set(sys.modules)
io_uv.ip.bind_addresses("127.0.0.1:9001")
io_uv.ip.check_peer("127.0.0.1:9001")
print(sorted(set(sys.modules) - before))
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"[]\n"


SPELLINGS = [
    ["127.0.0.1:9001", "localhost:9001", "LOCALHOST.:09001", "[::1]:9001", "[0:0::1]:9001", "[::ffff:127.0.0.1]:9001"],
    ["10.0.0.1:80", "10.0.0.1:080", "10.0.0.1:http", "0x0a.1:80"],
    ["a.example:8080", "A.Example:8080", "a.example.:8080", "a.example"],
    ["b\u00fccher.example:9001", "xn--bcher-kva.example:9001", "B\u00dcCHER.example:9001"],
    ["[2001:db8::1]:9001", "[2001:DB8:0:0::1]:9001"],
    ["127.0.0.1:9002", "app.localhost:9002"],
    ["127.0.0.2:9001"],
    ["a.example:9001"],
    ["", ":8080"],
    ["x" * 1025 + ":9001"],
    ["a\n:9001"],
]


@pytest.mark.parametrize("one", range(len(SPELLINGS)))
@pytest.mark.parametrize("other", range(len(SPELLINGS)))
def test_spellings_of_one_address_are_known(one: int, other: int) -> None:
    """Upper case, zeros, names of ports and of the loopback, old forms of numbers; nothing else is taken for one."""
    for a in SPELLINGS[one]:
        for b in SPELLINGS[other]:
            assert ip.is_same_peer(a, b) is (one == other), (a, b)
