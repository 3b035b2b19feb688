"""Nonsense on the protocol of nodes, at both ends: it costs its sender the connection, and nobody else anything.

Duty: `Fuzz` makes good conversations by seed, spoils most of them (bits, cuts, lengths, other types, deep nesting, huge
announcements), and feeds them in pieces to a node's `Visitor`, and to a `Link`, in virtual time. After each, the
connection is as good as before or closed; all that else is raised or logged as an error is a fault. Now and then the
node has to answer a decent client as ever.

    python -m tests.fuzzy.test_node_fuzz 1000000 7        so many inputs, by that seed (make fuzz does it, too)
"""

import asyncio
import logging
import os
import random
import resource
import struct
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

import io_uv
from pyraft.node import Node, wire
from pyraft.node.link import Link
from pyraft.node.service import Visitor
from pyraft.node.testing import Cluster, simulate
from tests.lib.nodes import Shop

SEED = int(os.environ.get("FUZZ_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
INPUTS = int(os.environ.get("FUZZ_INPUTS", "0")) or 1500

_KINDS = ("nothing", "bits", "bits", "cut", "twice", "length", "types", "types", "deep", "huge", "noise")
_HUGE = (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff")
"""Heads of a list, a map and bytes of 2^32 - 1 members."""

_EVERY = 250
"""So many inputs between two looks at whether all is well."""


class Stream:
    """The stream of a guest; it counts the bytes written to it."""

    def __init__(self) -> None:
        self.closed = False
        self.written = 0
        self.read: Callable[[Any, bytes | None, int | None], Any] | None = None

    def start_read(self, callback: Any) -> None:
        self.read = callback

    def stop_read(self) -> None:
        self.read = None

    def write(self, data: Any, callback: Callable[[Any, int | None], Any]) -> None:
        self.written += len(data)
        asyncio.get_running_loop().call_soon(callback, self, None)

    def close(self, callback: Any = None) -> None:
        self.closed = True


class Pipe(asyncio.Transport):
    """The transport of a Link that hears what the fuzzer says."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def write(self, data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


class Fuzz:
    """Inputs by seed; see the head of this module."""

    def __init__(self, seed: int, node: Node[Shop]) -> None:
        self.dice = random.Random(seed)
        self.node = node
        self.counts: Counter[str] = Counter()
        self.number = 0

    # Good ones.

    def calls(self) -> bytes:
        """Return calls of a session, which they open first."""
        session, calls = self.dice.choice((b"s" * 16, b"t" * 16)), []
        pack = self.node._replica.codec.pack
        calls.append([b"", 0, 0, "pyraft.sessions", "open", 1, pack([[session, "fuzz"], {}])])
        for _ in range(self.dice.randint(0, 4)):
            self.number += 1
            name, arguments = self.dice.choice((("put", ["apple"]), ("take", ["apple", 3]), ("note", ["x" * 40])))
            calls.append([session, self.number, max(0, self.number - 3), "", name, 1, pack([arguments, {}])])
        return wire.pack(wire.CALLS, self.dice.randrange(1 << 20), calls)

    def ask(self) -> bytes:
        """Return a question."""
        query = self.node._replica.codec.pack([["apple"], {}])
        what: tuple[Any, ...] = self.dice.choice(
            (("members",), ("index",), ("query", "", "left", query), ("promote", 7))
        )
        return wire.pack(wire.ASK, self.dice.randrange(1 << 20), what[0], list(what[1:]))

    def visit(self) -> list[bytes]:
        """Return the frames of one who connects to a node."""
        frames = [wire.pack(wire.HELLO, wire.VERSION, self.dice.choice(("", self.node.cluster)), 0)]
        makers = (self.calls, self.ask, lambda: wire.pack(wire.PING))
        return frames + [self.dice.choice(makers)() for _ in range(self.dice.randint(0, 5))]

    def answers(self) -> list[bytes]:
        """Return the frames of a node to one who has sent two groups of calls and asked two questions."""
        frames = [wire.pack(wire.WELCOME, wire.VERSION, "c" * 32, 3)]
        some = [
            *wire.outcomes(1, [b"a" * 30, b"b"]),
            wire.pack(wire.ELSEWHERE, 2, 3, "127.0.0.1:1"),
            wire.pack(wire.ANSWER, 3, wire.DONE, [1, "x"]),
            wire.pack(wire.ANSWER, 4, wire.NOT_HERE, None),
            wire.pack(wire.PONG),
        ]
        return frames + self.dice.sample(some, self.dice.randint(0, len(some)))

    # Spoilt ones.

    def spoil(self, frames: list[bytes]) -> bytes:
        """Return frames with something wrong, or as they are."""
        dice = self.dice
        kind = dice.choice(_KINDS)
        self.counts[kind] += 1
        at = dice.randrange(len(frames))
        if kind == "types":
            frames[at] = _frame(msgpack.packb(self.twisted(msgpack.unpackb(frames[at][4:]))))
        elif kind == "deep":
            frames[at] = _frame(b"\x91" * dice.choice((10, 1000, 100_000)) + b"\x00")
        elif kind == "huge":
            frames[at] = _frame(dice.choice(_HUGE) + b"\x01")
        elif kind == "length":
            frames[at] = struct.pack("<I", dice.choice((0, 1, 3, 1 << 16, 1 << 31, (1 << 32) - 1))) + frames[at][4:]
        elif kind == "twice":
            frames.insert(at, dice.choice(frames))
        data = bytearray(b"".join(frames))
        if kind == "bits":
            for _ in range(dice.randint(1, 4)):
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        elif kind == "cut":
            start = dice.randrange(len(data))
            del data[start : start + dice.randint(1, 20)]
        elif kind == "noise":
            start = dice.randrange(len(data))
            data[start:start] = dice.randbytes(dice.randint(1, 40))
        return bytes(data)

    def twisted(self, value: Any) -> Any:
        """Return a message with one of its members exchanged."""
        if not isinstance(value, list) or not value or self.dice.random() < 0.2:
            return self.dice.choice((None, True, -1, 1 << 63, 1.5, "x" * 300, b"y" * 100, [], {}, [[]], {"a": 1}))
        changed = list(value)
        at = self.dice.randrange(len(changed))
        changed[at] = self.twisted(changed[at])
        return changed

    def pieces(self, data: bytes) -> list[bytes]:
        """Cut bytes as a network does."""
        cuts = sorted(self.dice.randrange(len(data) + 1) for _ in range(self.dice.randint(0, 3)))
        return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    # The two ends.

    async def at_node(self) -> None:
        """Have a visitor of the node read an input."""
        stream = Stream()
        guest = io_uv.RaftUvGuest(io_uv.RaftUvTransport(), stream, wire.WORD.to_bytes(8, "little"), "fuzz", {})
        self.node._service.accept(None, guest)
        visitor: Visitor = next(reversed(self.node._service.visitors))
        for piece in self.pieces(self.spoil(self.visit())):
            if stream.closed:
                break
            if stream.read is None:
                await asyncio.sleep(0.1)  # it is full, for a moment
            if stream.read is not None:
                stream.read(stream, piece, None)
        await asyncio.sleep(0.02)
        self.counts["visitors closed" if stream.closed else "visitors kept"] += 1
        visitor.close()
        visitor._gone()

    async def at_link(self) -> None:
        """Have a link read an input."""
        link, pipe = Link("127.0.0.1:1", "c" * 32), Pipe()
        done: list[Any] = []
        link.connection_made(pipe)
        asked: list[asyncio.Future[Any]] = []
        for number, piece in enumerate(self.pieces(self.spoil(self.answers()))):
            if pipe.aborted:
                break
            if number == 1 and link.is_open:
                for calls in (2, 1):
                    link.send([[b"", 0, 0, "", "put", 1, b""]] * calls, done.append)
                asked = [link.ask("members"), link.ask("index")]
            link.data_received(piece)
        self.counts["links cut" if pipe.aborted else "links kept"] += 1
        link.close()
        for future in (*asked, link._greeted):
            assert future.done()
            future.exception()


def _frame(payload: bytes) -> bytes:
    return struct.pack("<I", len(payload)) + payload


def fuzz(inputs: int, seed: int) -> Counter[str]:
    """Feed so many inputs; return what they were and what came of them."""
    made: list[Fuzz] = []

    async def scenario(cluster: Cluster[Shop]) -> None:
        node = await cluster.lead()
        made.append(Fuzz(seed, node))
        errors: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
        for n in range(inputs):
            await (made[0].at_node() if n % 3 else made[0].at_link())
            assert not errors, f"input {n}: {errors}"
            if n % _EVERY == 0:
                assert node._service.bytes == 0
                assert not node._service.visitors
                before = await node.machine.left("pear")
                assert await node.machine.put("pear") == before + 1

    class Errors(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise AssertionError(record.getMessage())

    handler, logger = Errors(logging.ERROR), logging.getLogger("pyraft")
    logger.addHandler(handler)
    try:
        simulate(scenario, Shop, nodes=1, seed=seed, seconds=1e9)
    finally:
        logger.removeHandler(handler)
    return made[0].counts


def test_nonsense_costs_its_sender_the_connection() -> None:
    """A short part of what the script does: inputs of each kind, at both ends, and the node is as well as ever."""
    counts = fuzz(INPUTS, SEED)
    print(f"FUZZ_SEED={SEED}: {dict(counts)}")
    assert counts["visitors closed"] > INPUTS / 10
    assert counts["visitors kept"] > INPUTS / 20
    assert counts["links cut"] > INPUTS / 20
    assert counts["links kept"] > INPUTS / 40


def test_a_check_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A protocol whose types nobody looks at fails within as many inputs."""
    monkeypatch.setattr(wire, "check_calls", lambda message: message[1:3])
    with pytest.raises((AssertionError, TypeError, ValueError, IndexError, KeyError, AttributeError)):
        fuzz(INPUTS, 1)


if __name__ == "__main__":
    total, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else SEED
    print(f"seed {first}", flush=True)
    logging.getLogger("pyraft").setLevel(logging.ERROR)
    before = resource.getrusage(resource.RUSAGE_SELF)
    print(dict(fuzz(total, first)))
    after = resource.getrusage(resource.RUSAGE_SELF)
    grown = (after.ru_maxrss - before.ru_maxrss) / 1024
    print(f"{total} inputs, {after.ru_utime - before.ru_utime:.0f} s of a processor, grown by {grown:.1f} MiB")
