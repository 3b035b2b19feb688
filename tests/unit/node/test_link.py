"""A link by hand: what it makes of a greeting and of nonsense, without a network."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, cast

import pytest

from pyraft.node import wire
from pyraft.node.errors import Refused
from pyraft.node.link import Connect, Link, Lost, require_form, split


class Wire:
    """A transport that keeps what it is told, and never calls back."""

    def __init__(self) -> None:
        self.aborted = False

    def write(self, data: bytes) -> None:
        """Take it."""

    def is_closing(self) -> bool:
        """Return whether abort was called."""
        return self.aborted

    def abort(self) -> None:
        """Take note of the end; connection_lost would come later."""
        self.aborted = True


def opened(greeting: list[Any], cluster: str) -> tuple["asyncio.Task[Link]", list[Link]]:
    """Begin to open a link whose other end says `greeting` at once."""
    made: list[Link] = []

    async def connect(
        protocol: Callable[[], asyncio.Protocol], host: str, port: int, secure: ssl.SSLContext | None
    ) -> None:
        link = cast(Link, protocol())
        made.append(link)
        link.connection_made(cast(asyncio.BaseTransport, Wire()))
        asyncio.get_running_loop().call_soon(link.data_received, wire.pack(*greeting))

    return asyncio.ensure_future(Link.open("127.0.0.1:1", cluster, connect=connect)), made


def test_a_server_of_another_cluster_is_not_spoken_to() -> None:
    """Its greeting refuses the link, which stays as it was, and nothing is raised into the loop."""

    async def scenario() -> None:
        raised: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: raised.append(context))
        opening, made = opened([wire.WELCOME, wire.VERSION, "theirs", 7], "ours")
        with pytest.raises(Refused, match="of cluster theirs, and this one is of ours"):
            await opening
        assert not made[0].is_open
        assert made[0].cluster == "ours"
        assert raised == []

    asyncio.run(scenario())


def test_nonsense_ends_what_is_under_way_at_once_and_says_why() -> None:
    """An answer that is waited for is not waited for until the connection is gone."""

    async def scenario() -> None:
        opening, made = opened([wire.WELCOME, wire.VERSION, "ours", 7], "ours")
        link = await opening
        asked = link.ask("members")
        made[0].data_received(wire.pack(99))
        assert not link.is_open
        with pytest.raises(Lost, match="has ended: message 99 of 1 parts"):
            await asked

    asyncio.run(scenario())


@pytest.mark.parametrize("secure", [None, ssl.create_default_context()])
def test_a_member_that_hangs_up_without_a_word_may_expect_tls(secure: ssl.SSLContext | None) -> None:
    """As one with certificates does where a client has none: the text has a guess."""

    async def connect(
        protocol: Callable[[], asyncio.Protocol], host: str, port: int, secure: ssl.SSLContext | None
    ) -> None:
        link = protocol()
        link.connection_made(cast(asyncio.BaseTransport, Wire()))
        asyncio.get_running_loop().call_soon(link.connection_lost, None)

    async def scenario() -> None:
        with pytest.raises(OSError, match="has hung up: no reason given") as caught:
            await Link.open("127.0.0.1:1", secure=secure, connect=connect)
        assert ("expects TLS" in str(caught.value)) == (secure is None)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "address",
    [
        *("", "host", ":1", "host:", "host:65536", "host:+1", "host: 1", "host:1 ", "ho st:1", "host:http"),
        *("host\n:1", "host\0:1", "host\x1b[31m:1", "host:\u0661", "host:\uff11", "ho\u200bst:1", "host:" + "1" * 5000),
    ],
)
def test_what_is_no_address_is_an_oserror(address: str) -> None:
    """Never another exception: a member may have been told such an address by anybody, and goes on to the next one."""
    with pytest.raises(OSError, match="is not of the form HOST:PORT"):
        split(address)


@pytest.mark.parametrize(
    ("address", "parts"), [("[::1]:1", ("::1", 1)), ("h:065", ("h", 65)), ("::1:65535", ("::1", 65535))]
)
def test_host_and_port(address: str, parts: tuple[str, int]) -> None:
    """Brackets are left out."""
    assert split(address) == parts


def test_port_0_is_for_those_who_listen() -> None:
    """A page may be served at any free port; a member that has it for its address could not be reached."""
    assert split("host:0") == ("host", 0)
    with pytest.raises(ValueError, match="'host:0' has no port that anybody could connect to"):
        require_form("host:0")


def raising(exc: Exception) -> Connect:
    """Return a way to connect that raises."""

    async def connect(*_: object) -> None:
        raise exc

    return connect


@pytest.mark.parametrize("exc", [ValueError("server_hostname starts with a dot"), UnicodeError("label too long")])
def test_a_host_that_nobody_can_be_asked_for_is_an_oserror(exc: Exception) -> None:
    """asyncio, its resolver and ssl have a ValueError for that, which would end all attempts at other members."""
    with pytest.raises(OSError, match=f"'a:1' cannot be looked up: {exc}"):
        asyncio.run(Link.open("a:1", connect=raising(exc)))


@pytest.mark.parametrize("exc", [ssl.SSLCertVerificationError(1, "expired"), Refused("no")])
def test_what_is_wrong_with_the_other_end_stays_what_it_is(exc: Exception) -> None:
    """A certificate that does not please is a ValueError as well."""
    with pytest.raises(type(exc)) as info:
        asyncio.run(Link.open("a:1", connect=raising(exc)))
    assert info.value is exc
