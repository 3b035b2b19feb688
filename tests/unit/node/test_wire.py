"""The protocol between nodes, byte by byte: what is taken, and what costs a connection."""

import random

import msgpack
import pytest

from pyraft.node import wire
from pyraft.node.errors import Malformed

CALL = [b"s", 1, 0, "", "put", 1, b"\x92\x90\x80"]


def test_messages_come_in_any_pieces() -> None:
    """Frames are put together from pieces of any size, and come out in order."""
    messages = [[wire.PING], [wire.CALLS, 1, [CALL]], [wire.ASK, 2, "members", []], [wire.PONG, "x" * 1000]]
    data = b"".join(wire.pack(*message) for message in messages)
    for size in (1, 2, 3, 7, 100, len(data)):
        frames = wire.Frames(2000)
        found = []
        for start in range(0, len(data), size):
            frames.feed(data[start : start + size])
            while (message := frames.next()) is not None:
                found.append(message)
        assert found == messages


@pytest.mark.parametrize(
    "frame",
    [
        (2001).to_bytes(4, "little"),
        b"\xff\xff\xff\xff",
        (0).to_bytes(4, "little"),
        (1).to_bytes(4, "little") + b"\x90",
        (1).to_bytes(4, "little") + b"\xc1",
        (2).to_bytes(4, "little") + b"\x91\xc0",
        (2).to_bytes(4, "little") + b"\x91\xc3",
        (1).to_bytes(4, "little") + b"\x80",
        (3).to_bytes(4, "little") + b"\x91\x01\x01",
        (5).to_bytes(4, "little") + b"\xdd\xff\xff\xff\xff",
        (5).to_bytes(4, "little") + b"\xdf\xff\xff\xff\xff",
        (2000).to_bytes(4, "little") + b"\x91" * 2000,
        (4).to_bytes(4, "little") + b"\x92\x01\x81\x90",
    ],
)
def test_frames_that_are_none(frame: bytes) -> None:
    """One that is too long, empty, cut short, too deep, or of other types raises Malformed, and no other exception."""
    frames = wire.Frames(2000)
    frames.feed(frame)
    with pytest.raises(Malformed):
        frames.next()


def _with(at: int, value: object) -> list[object]:
    return [value if n == at else part for n, part in enumerate(CALL)]


@pytest.mark.parametrize(
    "message",
    [
        [wire.CALLS],
        [wire.CALLS, 1],
        [wire.CALLS, 1, [], 0],
        [wire.CALLS, 1, []],
        [wire.CALLS, -1, [CALL]],
        [wire.CALLS, 1 << 63, [CALL]],
        [wire.CALLS, True, [CALL]],
        [wire.CALLS, 1, [CALL] * (wire.MAX_GROUP + 1)],
        [wire.CALLS, 1, [CALL[:-1]]],
        [wire.CALLS, 1, ["call"]],
        *[[wire.CALLS, 1, [_with(at, {})]] for at in range(7)],
        *[[wire.CALLS, 1, [_with(at, -1)]] for at in (1, 2, 5)],
        *[[wire.CALLS, 1, [_with(at, 1 << 63)]] for at in (1, 2, 5)],
        [wire.CALLS, 1, [_with(0, bytes(wire.MAX_SESSION + 1))]],
        [wire.CALLS, 1, [_with(3, "x" * (wire.MAX_NAME + 1))]],
        [wire.CALLS, 1, [_with(6, bytes(wire.MAX_ARGUMENTS + 1))]],
    ],
)
def test_calls_that_are_none(message: list[object]) -> None:
    """Calls of another shape, or beyond the limits, are Malformed."""
    with pytest.raises(Malformed):
        wire.check_calls(message)


def test_greetings_and_questions() -> None:
    """A frame that fits is taken apart, any other is Malformed."""
    assert wire.check_hello([wire.HELLO, wire.VERSION, "c", 7]) == ("c", 7)
    assert wire.check_calls([wire.CALLS, 3, [CALL]]) == (3, [CALL])
    assert wire.check_ask([wire.ASK, 3, "members", [1]]) == (3, "members", [1])
    for message in ([0], [0, wire.VERSION, "c"], [0, 2, "c", 7], [0, wire.VERSION, b"c", 7], [0, True, "c", 7]):
        with pytest.raises(Malformed):
            wire.check_hello(message)
    for message in ([6], [6, 1, "x"], [6, -1, "x", []], [6, 1, "x", {}], [6, 1, 1, []], [6, 1, "x", [0] * 9]):
        with pytest.raises(Malformed):
            wire.check_ask(message)


def test_outcomes_are_sent_in_pieces() -> None:
    """Many large outcomes go into several frames, none much longer than a piece; together they are the group's."""
    values = [bytes([n]) * (wire.PIECE // 3) for n in range(10)] + [b"x"] * 10
    found: list[bytes] = []
    frames = wire.outcomes(5, values)
    assert 3 <= len(frames) <= 5
    for frame in frames:
        kind, group, first, part = msgpack.unpackb(frame[4:])
        assert (kind, group, first) == (wire.OUTCOMES, 5, len(found))
        assert len(frame) < 2 * wire.PIECE
        found += part
    assert found == values


def test_random_bytes_are_malformed_or_messages() -> None:
    """20,000 random and damaged frames give a list, None or Malformed, and nothing else is raised."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    good = [wire.pack(wire.CALLS, 1, [CALL] * 3), wire.pack(wire.ASK, 2, "join", [1, "a"]), wire.pack(0, 1, "c", 2)]
    for _ in range(20_000):
        data = bytearray(rng.choice(good))
        if rng.random() < 0.3:
            data = bytearray((n := rng.randrange(64)).to_bytes(4, "little") + rng.randbytes(n))
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        frames = wire.Frames(4096)
        frames.feed(bytes(data))
        try:
            while (message := frames.next()) is not None:
                for check in (wire.check_hello, wire.check_calls, wire.check_ask):
                    try:
                        check(message)
                    except Malformed:
                        continue
        except Malformed:
            continue
