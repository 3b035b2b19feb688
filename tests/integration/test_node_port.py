"""Strangers at a node's port: nonsense costs them their connection, and the node nothing."""

import asyncio
import logging
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from pyraft.node import Node, init, service, wire
from pyraft.node.errors import Malformed, Refused
from pyraft.node.link import Link, Lost
from tests.lib.nodes import PATIENT, Shop, all_of, run, until
from tests.lib.uvnode import free_addresses

WORD = wire.WORD.to_bytes(8, "little")
ARGUMENTS = b"\x92\x91\xa1x\x80"  # [["x"], {}]


class Stranger:
    """A connection to a node, by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.frames = wire.Frames(wire.MAX_FRAME)

    @classmethod
    async def connect(cls, node: Node[Shop], greet: bool = True) -> "Stranger":
        """Connect, and greet as a part of the cluster does."""
        host, _, port = node.address.rpartition(":")
        stranger = cls(*await asyncio.open_connection(host, int(port)))
        if greet:
            stranger.send(WORD + wire.pack(wire.HELLO, wire.VERSION, node.cluster, 0))
            assert await stranger.read() == [wire.WELCOME, wire.VERSION, node.cluster, node.id]
        return stranger

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)

    async def read(self) -> list[Any]:
        """Return the next message, an empty one at the end of the connection."""
        while (message := self.frames.next()) is None:
            try:
                data = await self.reader.read(65536)
            except ConnectionError:
                return []
            if not data:
                return []
            self.frames.feed(data)
        return message

    async def close(self) -> None:
        """Hang up."""
        self.writer.transport.abort()


def with_node(tmp_path: Path, scenario: Callable[[Node[Shop]], Any]) -> None:
    """Run a scenario with a node that works before and after it."""

    async def main() -> None:
        await init(tmp_path / "1", free_addresses(1)[1])
        async with Node(tmp_path / "1", Shop(), settings=PATIENT) as node:
            await node.machine.put("apple")
            await scenario(node)
            assert await node.machine.left("apple") == 1
            # Calls of a visitor that has gone are answered to nobody, once they have been executed.
            await until(lambda: not node._service.visitors and node._service.bytes == 0)

    run(main)


def call(session: bytes, number: int, command: str = "note", arguments: bytes = ARGUMENTS) -> list[Any]:
    return [session, number, 0, "", command, 1, arguments]


def test_nonsense_ends_its_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each of these ends the connection that it comes on; the log says so, and the node goes on."""
    hello = wire.pack(wire.HELLO, wire.VERSION, "", 0)
    before_greeting = [
        wire.pack(wire.PING),
        wire.pack(wire.HELLO, 99, "", 0),
        wire.pack(wire.HELLO, wire.VERSION, b"", 0),
        (wire.MAX_HELLO + 1).to_bytes(4, "little"),
        b"\x01\x00\x00\x00\xc1",
    ]
    behind_it = [
        wire.pack(wire.CALLS, 1, [["x"]]),
        wire.pack(wire.OUTCOMES, 1, 0, []),
        wire.pack(wire.HELLO, wire.VERSION, "", 0),
        wire.pack(99),
        (wire.MAX_FRAME + 1).to_bytes(4, "little"),
        (8).to_bytes(4, "little") + b"\x91" * 8,
    ]

    async def scenario(node: Node[Shop]) -> None:
        for first in before_greeting:
            stranger = await Stranger.connect(node, greet=False)
            stranger.send(WORD + first)
            assert await stranger.read() == []
            await stranger.close()
        for then in behind_it:
            stranger = await Stranger.connect(node, greet=False)
            stranger.send(WORD + hello + then)
            assert (await stranger.read())[0] == wire.WELCOME
            assert await stranger.read() == []
            await stranger.close()

    with caplog.at_level(logging.WARNING, "pyraft"):
        with_node(tmp_path, scenario)
    assert "a connection from 127.0.0.1 is ended" in caplog.text


def test_another_cluster_is_told_why_it_is_refused(tmp_path: Path) -> None:
    """A greeting with another cluster's id is answered with both ids, in the log and to the peer."""

    async def scenario(node: Node[Shop]) -> None:
        with pytest.raises(Refused, match=f"this is cluster {node.cluster}, and you are of abc"):
            await Link.open(node.address, "abc")
        stranger = await Stranger.connect(node, greet=False)
        frame = wire.pack(wire.HELLO, wire.VERSION, "abc", 0)
        stranger.send(WORD + frame + frame)
        assert (await stranger.read())[0] == wire.REFUSED
        await stranger.close()

    with_node(tmp_path, scenario)


def test_silent_strangers_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that does not greet in time is cut off; so is one that is refused and does not go."""
    monkeypatch.setattr(service, "GREETING_SECONDS", 0.1)

    async def scenario(node: Node[Shop]) -> None:
        for data in (WORD, WORD + b"\x10", WORD + wire.pack(wire.HELLO, wire.VERSION, "abc", 0)):
            stranger = await Stranger.connect(node, greet=False)
            stranger.send(data)
            while await stranger.read():
                pass
            await stranger.close()

    with_node(tmp_path, scenario)


def test_unknown_commands_do_not_get_into_the_log(tmp_path: Path) -> None:
    """Commands, versions and machines that the program lacks are answered, and would stop every server in the log."""

    async def scenario(node: Node[Shop]) -> None:
        stranger = await Stranger.connect(node)
        codec = node._replica.codec
        opened = [b"", 0, 0, "pyraft.sessions", "open", 1, codec.pack([[b"s", ""], {}])]
        stranger.send(wire.pack(wire.CALLS, 1, [opened]))
        assert (await stranger.read())[3] == [codec.pack([0, True])]
        before = node.server.raft.last_applied
        bad = [
            call(b"s", 1, "steal"),
            [b"s", 1, 0, "elsewhere", "note", 1, ARGUMENTS],
            [b"s", 1, 0, "", "note", 2, ARGUMENTS],
            call(b"", 1),  # without a session it could count twice
        ]
        stranger.send(wire.pack(wire.CALLS, 2, bad))
        answer = await stranger.read()
        assert answer[:3] == [wire.OUTCOMES, 2, 0]
        assert [codec.unpack(outcome)[:2] for outcome in answer[3]] == [[2, "MissingCommand"]] * 4
        assert node.server.raft.last_applied == before
        stranger.send(wire.pack(wire.CALLS, 3, [call(b"s", 1), bad[0], call(b"s", 2)]))
        answer = await stranger.read()
        assert [codec.unpack(outcome)[0] for outcome in answer[3]] == [0, 2, 0]
        await stranger.close()

    with_node(tmp_path, scenario)


def test_arguments_that_are_none_fail_their_command(tmp_path: Path) -> None:
    """Arguments that nobody can unpack, or that do not fit, are an error of that call; all servers agree on it."""
    deep = b"\x92\x91" + b"\x91" * 2000 + b"\x80"
    bad = [b"", b"\xc1", b"\x90", b"\x92\x90\x80", deep, b"\xdd\xff\xff\xff\xff", b"\x92\x91\xc7\x01\x0bx\x80", b"\x80"]

    async def scenario(node: Node[Shop]) -> None:
        stranger = await Stranger.connect(node)
        codec = node._replica.codec
        opened = [b"", 0, 0, "pyraft.sessions", "open", 1, codec.pack([[b"s", ""], {}])]
        stranger.send(wire.pack(wire.CALLS, 1, [opened, *[call(b"s", n, "note", a) for n, a in enumerate(bad, 1)]]))
        answer = await stranger.read()
        kinds = [codec.unpack(outcome)[0] for outcome in answer[3]]
        assert kinds[0] == 0
        assert set(kinds[1:]) <= {1, 2}
        wrong_ids: list[Any] = [[], {}, bytes(1000), "x", None]
        for id in wrong_ids:
            wrong = [b"", 0, 0, "pyraft.sessions", "open", 1, msgpack.packb([[id, ""], {}])]
            stranger.send(wire.pack(wire.CALLS, 2, [wrong]))
            assert codec.unpack((await stranger.read())[3][0])[0] == 1
        await stranger.close()

    with_node(tmp_path, scenario)


def test_questions_that_are_none_are_answered(tmp_path: Path) -> None:
    """Unknown questions, and wrong arguments, get a text."""

    async def scenario(node: Node[Shop]) -> None:
        link = await Link.open(node.address, node.cluster)
        for what, *arguments in (("steal",), ("members", 1), ("remove", "x", 2), ("join", "x", 3), ("join", 0, "x")):
            with pytest.raises(Refused):
                await link.ask(what, *arguments)
        assert len(await link.ask("members")) == 1
        await all_of(*[link.ask("index") for _ in range(1000)])
        link.close()
        with pytest.raises(Lost):
            await link.ask("members")

    with_node(tmp_path, scenario)


def test_who_does_not_read_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Answers that nobody reads are kept up to a limit only."""
    monkeypatch.setattr(service, "MOST_UNSENT", 1 << 16)

    async def scenario(node: Node[Shop]) -> None:
        # The system ends the connection, too, but later, and its buffers take a busy machine long to fill.
        node._ground.io.impl.limits.unanswered_msecs = 3_600_000
        host, _, port = node.address.rpartition(":")
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (host, int(port)))

        async def send() -> None:
            await loop.sock_sendall(sock, WORD + wire.pack(wire.HELLO, wire.VERSION, "", 0))
            await until(lambda: node._service.visitors)
            (visitor,) = node._service.visitors
            stream: Any = visitor._stream
            with socket.socket(fileno=os.dup(stream.fileno())) as theirs:
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            while True:
                await loop.sock_sendall(sock, wire.pack(wire.ASK, 1, "steal " * 9, []) * 1000)

        with pytest.raises(ConnectionError):
            await send()
        sock.close()

    with caplog.at_level(logging.WARNING, "pyraft"):
        with_node(tmp_path, scenario)
    assert "it does not read" in caplog.text  # not only the system's own time for that


def test_who_sends_too_much_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With little room, by connection and altogether, thousands of calls of several peers are all executed, in turn."""
    monkeypatch.setattr(service, "MOST_CALLS", 3)
    monkeypatch.setattr(service, "MOST_BYTES", 100)
    monkeypatch.setattr(service, "MOST_ALTOGETHER", 150)

    async def peer(node: Node[Shop], name: bytes) -> None:
        stranger = await Stranger.connect(node)
        codec = node._replica.codec
        opened = [b"", 0, 0, "pyraft.sessions", "open", 1, codec.pack([[name, ""], {}])]
        stranger.send(wire.pack(wire.CALLS, 0, [opened]))
        assert (await stranger.read())[1] == 0
        for n in range(1, 300):
            stranger.send(wire.pack(wire.CALLS, n, [call(name, 2 * n), call(name, 2 * n + 1)]))
        most = calls = 0
        for n in range(1, 300):
            assert (await stranger.read())[:2] == [wire.OUTCOMES, n]
            most = max(most, node._service.bytes)
            calls = max(calls, *[visitor._calls for visitor in node._service.visitors])
            streams: list[Any] = [visitor._stream for visitor in node._service.waiting]
            assert all(stream._read_cb is None for stream in streams)
        assert most <= 150 + 3 * 100
        assert calls <= 2 + 2
        await stranger.close()

    async def scenario(node: Node[Shop]) -> None:
        await all_of(*[peer(node, b"peer %d" % n) for n in range(3)])
        assert len(node._replica.machines[""].notes) == 3 * 2 * 299  # type: ignore[attr-defined]

    with_node(tmp_path, scenario)


def test_members_that_answer_nonsense(tmp_path: Path) -> None:
    """A link ends when the other side sends anything but messages; all that was under way is given back."""
    answers = [
        wire.pack(wire.OUTCOMES, 1, 1, [b""]),
        wire.pack(wire.OUTCOMES, 1, 0, [b"", b""]),
        wire.pack(wire.OUTCOMES, 1, 0, ["x"]),
        wire.pack(wire.OUTCOMES, 7, 0, [b""]),
        wire.pack(wire.ELSEWHERE, 7, 0, 5),
        wire.pack(wire.ANSWER, 7, 0, 5),
        wire.pack(wire.ANSWER, 2, 9, 5),
        wire.pack(wire.CALLS, 2, []),
        b"\xff\xff\xff\xff",
        b"",
    ]

    async def scenario() -> None:
        for data in answers:

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes = data) -> None:
                await reader.readexactly(8)
                writer.write(wire.pack(wire.WELCOME, wire.VERSION, "c", 1))
                await reader.readexactly(20)
                await reader.read(10)
                writer.write(data)
                writer.close()

            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            link = await Link.open(f"127.0.0.1:{port}", "c")
            done: list[Any] = []
            link.send([call(b"s", 1)], done.append)
            question = link.ask("members")
            with pytest.raises(Lost):
                await question
            await until(lambda: done)  # noqa: B023
            assert done == [None]
            assert not link.is_open
            link.close()
            server.close()
            await server.wait_closed()

    run(scenario)


def test_bytes_at_random(tmp_path: Path) -> None:
    """2,000 damaged streams of good messages, on 20 connections at a time: the node goes on, and nothing is left."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)

    async def damaged(node: Node[Shop]) -> None:
        good = [
            wire.pack(wire.CALLS, 1, [call(b"s", 1), call(b"s", 2, "put")]),
            wire.pack(wire.ASK, 2, "members", []),
            wire.pack(wire.ASK, 3, "index", []),
            wire.pack(wire.PING),
        ]
        data = bytearray(WORD + wire.pack(wire.HELLO, wire.VERSION, "", 0) + b"".join(rng.choices(good, k=5)))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(8, len(data))] = rng.randrange(256)
        stranger = await Stranger.connect(node, greet=False)
        stranger.send(bytes(data))
        stranger.writer.write_eof()
        try:
            while await stranger.read():
                pass
        except Malformed:
            pytest.fail("the node answers nonsense")
        await stranger.close()

    async def scenario(node: Node[Shop]) -> None:
        for _ in range(100):
            await all_of(*[damaged(node) for _ in range(20)])

    with_node(tmp_path, scenario)
