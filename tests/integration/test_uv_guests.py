"""Other protocols on the transport's port: who takes a connection, how long it lives; raft does not notice."""

import contextlib
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import RaftUvGuest, RaftUvTransport, raft_uv_serve, raft_uv_upgrade
from io_uv.pyuv import UV_RUN_NOWAIT, Loop
from io_uv.pyuv.errno import UV_EOF
from pyraft.errors import RAFT_CANCELED, RAFT_INVALID, RAFT_MALFORMED
from tests.lib.peer import Connection, Transport, connect, handshake, port_of, words
from tests.lib.uvtest import UvIo, run_until

WORD = 0x1122334455667788
HELLO = handshake(2, "127.0.0.1:666")
SEED = int(os.environ.get("GUESTS_SEED", "0")) or random.SystemRandom().randrange(1 << 32)


class Service:
    """A protocol that keeps its guests, and what has come from them."""

    def __init__(self) -> None:
        self.guests: list[RaftUvGuest] = []
        self.closed: list[RaftUvGuest] = []

    def __call__(self, transport: RaftUvTransport, guest: RaftUvGuest) -> None:
        assert guest.transport is transport
        self.guests.append(guest)
        guest.closed_cb = self.closed.append

    def read(self, at: int = -1) -> list[bytes | int]:
        """Start reading from a guest; return the list that gets its bytes, and the error at the end."""
        heard: list[bytes | int] = []

        def read_cb(stream: Any, data: bytes | None, error: int | None) -> None:
            assert (data is None) != (error is None)
            heard.append(data if data is not None else error or 0)

        self.guests[at].stream.start_read(read_cb)
        return heard


@pytest.fixture
def f() -> Iterator[Transport]:
    """A transport that listens on a free port."""
    transport = Transport()
    assert transport.listen() == 0
    yield transport
    transport.close()


@pytest.fixture
def service(f: Transport) -> Service:
    """A protocol that is served there."""
    served = Service()
    assert raft_uv_serve(f.t, WORD, served) == 0
    return served


def connect_from(f: Transport, host: str) -> Connection:
    """Connect to the transport from an address of the loopback."""
    sock = socket.socket()
    sock.bind((host, 0))
    sock.connect(("127.0.0.1", f.port))
    return Connection(f.loop, sock)


def visit(f: Transport, service: Service, host: str = "127.0.0.1") -> Connection:
    """Connect as a guest and wait until the protocol has it."""
    before = len(service.guests)
    peer = connect_from(f, host)
    peer.send(words(WORD))
    f.run_until(lambda: len(service.guests) > before)
    return peer


def turn(f: Transport, n: int = 5) -> None:
    """Have the loop do what can be done at once."""
    for _ in range(n):
        f.loop.run(UV_RUN_NOWAIT)


# Programs that take a connection.


def test_a_registered_word_makes_a_connection_a_guest(f: Transport, service: Service) -> None:
    """The protocol gets the bytes from the word on, the host, and a stream that works both ways; raft nothing."""
    peer = connect(f.loop, f.port)
    peer.send(words(WORD) + b"and more")
    f.run_until(lambda: service.guests)
    [guest] = service.guests
    assert (guest.received, guest.host, guest.certificate) == (words(WORD) + b"and more", "127.0.0.1", {})
    heard = service.read()
    peer.send(b"question")
    f.run_until(lambda: heard)
    written: list[int | None] = []
    guest.stream.write(b"answer", lambda stream, error: written.append(error))
    assert peer.read(6) == b"answer"
    f.run_until(lambda: written)
    assert (heard, written) == ([b"question"], [None])
    peer.close()
    f.run_until(lambda: heard[1:])
    assert heard[1] == UV_EOF
    assert service.closed == [], "it is the protocol's to close"
    guest.stream.close()
    f.run_until(lambda: service.closed)
    assert (f.t.impl.guests, f.accepted) == ({}, [])


@pytest.mark.parametrize("size", [1, 3, 7, 8, 9])
def test_a_word_may_come_in_any_pieces(f: Transport, service: Service, size: int) -> None:
    """Bytes that have come are handed over with the piece that completes the word; the stream has the rest."""
    peer = connect(f.loop, f.port)
    data = words(WORD) + b"0123456789"
    first = -(-8 // size) * size
    for end in range(size, first + 1, size):
        peer.send(data[end - size : end])
        f.run_until(lambda end=end: service.guests or [len(one.received) for one in f.t.impl.accepting] == [end])
    f.run_until(lambda: service.guests)
    assert service.guests[0].received == data[:first]
    for at in range(first, len(data), size):
        peer.send(data[at : at + size])
        turn(f, 3)
    heard = service.read()
    f.run_until(lambda: service.guests[0].received + b"".join(map(bytes, heard)) == data)
    peer.close()


def test_exact_words_come_before_predicates_and_both_before_the_handshake(f: Transport) -> None:
    """Of several predicates the first that says yes counts; a service of word 1 takes the handshake's place."""
    exact, low, even, one = Service(), Service(), Service(), Service()
    assert raft_uv_serve(f.t, lambda word: 1 < word < 100, low) == 0
    assert raft_uv_serve(f.t, lambda word: word % 2 == 0, even) == 0
    assert raft_uv_serve(f.t, 50, exact) == 0
    peers = [connect(f.loop, f.port) for _ in range(5)]
    for peer, word in zip(peers, [50, 51, 200, 52, 1], strict=True):
        peer.send(words(word) if word != 1 else HELLO)
        turn(f)
    f.run_until(lambda: f.accepted and sum(len(each.guests) for each in (exact, low, even)) == 4)
    assert [len(each.guests) for each in (exact, low, even)] == [1, 2, 1]
    assert raft_uv_serve(f.t, 1, one) == 0
    peers.append(connect(f.loop, f.port))
    peers[-1].send(HELLO)
    f.run_until(lambda: one.guests)
    assert (one.guests[0].received, len(f.accepted)) == (HELLO, 1)
    for peer in peers:
        peer.close()


def test_a_service_may_end(f: Transport, service: Service) -> None:
    """Guests that are there stay, and the word is unknown again."""
    first = visit(f, service)
    assert raft_uv_serve(f.t, WORD, None) == 0
    second = connect(f.loop, f.port)
    second.send(words(WORD))
    second.wait_end()
    assert (len(service.guests), service.closed) == (1, [])
    assert not service.guests[0].stream.closed
    first.close()
    second.close()


def test_what_cannot_be_served_is_refused(f: Transport, service: Service) -> None:
    """RAFT_INVALID with a text, and what is served stays."""
    for word in (-1, 1 << 64, True, 1.0, "word", None):
        assert raft_uv_serve(f.t, word, service) == RAFT_INVALID  # type: ignore[arg-type]
        assert f.t.errmsg.endswith("is not a word of 64 bits")
    assert raft_uv_serve(f.t, WORD, Service()) == RAFT_INVALID
    assert f.t.errmsg == f"{WORD} is served already"
    assert raft_uv_serve(f.t, 3, None) == RAFT_INVALID
    assert f.t.errmsg == "3 is not served"
    assert raft_uv_serve(RaftUvTransport(), WORD, service) == RAFT_INVALID
    visit(f, service).close()


def test_an_unknown_word_is_refused_and_told_once(
    f: Transport, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection ends, as without any service; the log hears of it once, however often it happens."""
    for _ in range(3):
        peer = connect(f.loop, f.port)
        peer.send(words(WORD + 1))
        peer.wait_end()
        peer.close()
    assert [record.getMessage() for record in caplog.records] == [
        "a peer at 127.0.0.1 is not let in: unknown protocol version at offset 0"
    ]
    assert (service.guests, f.accepted) == ([], [])


# How long it lives.


def test_time_is_limited_until_the_word_is_there(f: Transport, service: Service) -> None:
    """Half a word is a handshake that takes too long; a guest may be silent for as long as it likes."""
    f.t.impl.limits.handshake_msecs = 50
    while not service.guests:  # on a busy machine the time may be over before its word is read
        guest = connect(f.loop, f.port)
        guest.send(words(WORD))
        f.run_until(lambda: service.guests or not guest.pump())  # noqa: B023
    half = connect(f.loop, f.port)
    half.send(words(WORD)[:7])
    half.wait_end()
    assert f.loop.now() > 0
    assert guest.pump(), "the guest lives on"
    assert service.closed == []
    guest.close()
    half.close()


def test_guests_are_limited_by_the_host_that_has_most(
    f: Transport, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """A flood from one host costs its newest connections; raft's peers are not among those that are counted."""
    f.t.impl.limits.guests = 3
    peers = [connect(f.loop, f.port) for _ in range(4)]
    for peer in peers:
        peer.send(HELLO)
    f.run_until(lambda: len(f.accepted) == 4)
    flood = [visit(f, service) for _ in range(3)]
    refused = connect(f.loop, f.port)
    refused.send(words(WORD))
    refused.wait_end()
    assert (len(service.guests), service.closed) == (3, [])
    other = visit(f, service, "127.0.0.2")
    flood[2].wait_end()
    assert service.closed == [service.guests[2]]
    assert all(connection.pump() for connection in [*flood[:2], other, *peers])
    second = connect_from(f, "127.0.0.2")
    second.send(words(WORD))
    second.wait_end()
    assert [guest.host for guest in f.t.impl.guests] == ["127.0.0.1", "127.0.0.1", "127.0.0.2"]
    assert len(caplog.records) == 1
    assert "more than 3 guests are connected" in caplog.text
    for connection in [*flood, refused, other, second, *peers]:
        connection.close()


def test_the_protocol_may_close_a_guest_and_make_room(f: Transport, service: Service) -> None:
    """Its own callback comes first, then closed_cb; a closed guest takes no place."""
    f.t.impl.limits.guests = 1
    for n in range(1, 4):
        peer = visit(f, service)
        order: list[str] = []
        guest = service.guests[-1]
        guest.closed_cb = lambda guest, order=order: order.append("closed_cb")
        guest.stream.close(lambda stream, order=order: order.append("callback"))
        if n == 2:
            # Before the loop has turned.
            peer.close()
            continue
        f.run_until(lambda order=order: len(order) == 2)
        assert order == ["callback", "closed_cb"]
        peer.wait_end()
        peer.close()


def test_closing_the_transport_closes_guests_before_it_calls_back(f: Transport, service: Service) -> None:
    """closed_cb comes once for each, in the order in which they came, never inside close."""
    peers = [visit(f, service) for _ in range(3)]
    order: list[object] = []
    for guest in service.guests:
        guest.closed_cb = lambda guest: order.append((guest, len(f.ended)))
    service.guests[1].stream.close(lambda stream: order.append("own"))
    f.begin_close()
    assert order == []
    f.run_until(lambda: len(order) == 4 or f.ended)
    first, second, third = service.guests
    assert order == ["own", (second, 0), (first, 0), (third, 0)]
    for peer in peers:
        peer.wait_end()
        peer.close()


def test_what_a_protocol_raises_costs_its_guest_only(f: Transport, service: Service) -> None:
    """The loop's excepthook hears of it, from the callback, a predicate and closed_cb; all else goes on."""

    def fail(*args: Any) -> bool:
        raise LookupError("mistake")

    assert raft_uv_serve(f.t, 7, fail) == 0
    assert raft_uv_serve(f.t, fail, service) == 0
    for word in (7, 8):
        peer = connect(f.loop, f.port)
        peer.send(words(word))
        peer.wait_end()
        peer.close()
    guest = visit(f, service)
    service.guests[0].closed_cb = fail
    service.guests[0].stream.close(fail)
    guest.wait_end()
    guest.close()
    f.run_until(lambda: not f.t.impl.guests)
    assert [type(error) for error in f.errors] == [LookupError] * len(f.errors)
    assert len(f.errors) == 3, "of a close only the last is told"
    f.errors.clear()
    assert raft_uv_serve(f.t, fail, None) == 0
    visit(f, service).close()


def test_guests_end_with_the_server(tmp_path: Path) -> None:
    """io.close closes them before its callback, and a served port takes raft's messages as before."""
    io = UvIo(tmp_path, "127.0.0.1:0").start()
    service = Service()
    assert raft_uv_serve(io.transport, WORD, service) == 0
    assert io.io.start(io.io, 60_000, lambda io: None, lambda io, message: None) == 0
    guest, peer = connect(io.loop, port_of(io.transport)), connect(io.loop, port_of(io.transport))
    guest.send(words(WORD))
    peer.send(HELLO)
    run_until(io.loop, lambda: service.guests and io.uv.servers)
    done = io.begin_close()
    calls: list[int] = []
    service.guests[0].closed_cb = lambda guest: calls.append(len(done.calls))
    io.wait(done)
    assert calls == [0]
    guest.wait_end()
    peer.wait_end()
    io.close()
    guest.close()
    peer.close()
    assert io.reported == []


# Handing on.


@pytest.mark.parametrize("cut", [8, 12, 16, 31, 48, 60])
def test_a_guest_may_turn_out_to_be_a_server(f: Transport, cut: int) -> None:
    """A protocol that begins with libraft's word tells by what follows; raft reads what was read too early."""
    taken: list[RaftUvGuest] = []
    greeting = words(1, 11) + words(7) + b"127.0.0.1:22004\0"
    message = b"first message of raft"

    def serve(transport: RaftUvTransport, guest: RaftUvGuest) -> None:
        guest.data = guest.received
        taken.append(guest)
        if not try_upgrade(guest):
            guest.stream.start_read(lambda stream, data, error: read_cb(guest, data, error))

    def read_cb(guest: RaftUvGuest, data: bytes | None, error: int | None) -> None:
        assert error is None
        guest.data += data
        try_upgrade(guest)

    def try_upgrade(guest: RaftUvGuest) -> bool:
        if len(guest.data) < len(greeting):
            return False
        assert raft_uv_upgrade(guest, 7, "127.0.0.1:22004", guest.data[len(greeting) :]) == 0
        return True

    assert raft_uv_serve(f.t, 1, serve) == 0
    peer = connect(f.loop, f.port)
    sent = greeting + message
    peer.send(sent[:cut])
    f.run_until(lambda: taken)
    turn(f)
    peer.send(sent[cut:])
    f.run_until(lambda: f.accepted)
    [(id, address, stream)] = f.accepted
    assert (id, address, f.t.impl.guests) == (7, "127.0.0.1:22004", {})
    heard: list[bytes] = []
    stream.start_read(lambda stream, data, error: heard.append(data))
    f.run_until(lambda: b"".join(heard) == message)
    taken[0].closed_cb = lambda guest: pytest.fail("it is raft's")
    stream.close()
    turn(f)
    peer.close()


def test_what_cannot_be_handed_on_stays(f: Transport, service: Service) -> None:
    """Bad ids and addresses, closed streams and guests that were handed on are refused, with a text."""
    peer = visit(f, service)
    [guest] = service.guests
    assert raft_uv_upgrade(guest, 0, "127.0.0.1:1") == RAFT_INVALID
    assert f.t.errmsg == "0 is not the id of a server"
    for address in ("", "a\nb", "x" * 4096):
        assert raft_uv_upgrade(guest, 7, address) == RAFT_MALFORMED
    assert list(f.t.impl.guests) == [guest]
    assert raft_uv_upgrade(guest, 7, "x" * 4095) == 0
    assert raft_uv_upgrade(guest, 7, "127.0.0.1:1") == RAFT_CANCELED
    second = visit(f, service)
    service.guests[1].stream.close()
    assert raft_uv_upgrade(service.guests[1], 7, "127.0.0.1:1") == RAFT_CANCELED
    third = visit(f, service)
    f.begin_close()
    assert raft_uv_upgrade(service.guests[2], 7, "127.0.0.1:1") == RAFT_CANCELED
    assert f.t.errmsg == "the connection is closed or was handed on"
    for connection in (peer, second, third):
        connection.close()


# Nonsense.


def test_nonsense_in_pieces_gets_nowhere_and_disturbs_nobody(f: Transport, service: Service) -> None:
    """Random words, near misses of real beginnings and any cuts each end as a guest, as a peer, or closed."""
    print(f"seed {SEED}: GUESTS_SEED={SEED} repeats this")
    rng = random.Random(SEED)
    steady = visit(f, service)
    guests = peers = refused = 0
    for _ in range(400):
        kind = rng.randrange(5)
        start = {0: words(WORD), 1: HELLO, 2: words(rng.randrange(1 << 64)), 3: rng.randbytes(rng.randrange(40))}
        data = bytearray(start.get(kind, words(rng.choice([0, 1, 2, WORD ^ (1 << rng.randrange(64))]))))
        if kind == 4:
            data += rng.randbytes(rng.randrange(64))
        known = bytes(data[:8]) == words(WORD)
        peer = connect(f.loop, f.port)
        before = len(service.guests), len(f.accepted)
        while data:
            n = rng.randint(1, 9)
            try:
                peer.sock.send(data[:n])
            except OSError:
                break
            del data[:n]
            turn(f, 2)
        with contextlib.suppress(OSError):
            peer.sock.shutdown(socket.SHUT_WR)
        if known:
            f.run_until(lambda: len(service.guests) > before[0])  # noqa: B023
            guests += 1
            service.guests[-1].stream.close()
        elif kind == 1:
            f.run_until(lambda: len(f.accepted) > before[1])  # noqa: B023
            peers += 1
            f.accepted.pop()[2].close()
        else:
            peer.wait_end()
            refused += 1
            assert (len(service.guests), len(f.accepted)) == before
        peer.close()
    f.run_until(lambda: not f.t.impl.accepting and len(f.t.impl.guests) == 1)
    assert steady.pump()
    assert min(guests, peers, refused) > 20
    steady.close()


def test_a_loop_is_left_clean(f: Transport, service: Service) -> None:
    """Guests in every stage, one of them reading, leave nothing behind when the transport closes."""
    peers = [visit(f, service) for _ in range(2)]
    service.read(0)
    half = connect(f.loop, f.port)
    half.send(b"half")
    f.run_until(lambda: f.t.impl.accepting)
    f.begin_close()
    f.run_until(lambda: f.ended)
    assert service.closed == service.guests
    for peer in [*peers, half]:
        peer.close()
    assert isinstance(f.loop, Loop)
