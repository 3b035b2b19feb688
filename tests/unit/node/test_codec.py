"""Values as bytes and back, and bytes that are not values."""

import contextlib
import dataclasses
import datetime
import decimal
import enum
import random
import struct
import tracemalloc
import uuid
from typing import Any

import msgpack
import pytest

from pyraft.node.codec import MAX_ALIKE, Codec, frame, unframe
from pyraft.node.errors import Malformed


@dataclasses.dataclass
class Point:
    """A dataclass that the codec is told of."""

    x: int
    y: list[Any]


class Colour(enum.Enum):
    """An enumeration that the codec is told of."""

    RED = 1


class Level(enum.IntEnum):
    """One whose members are integers too."""

    LOW = 1


CODEC = Codec([Point, Colour, Level])

VALUES: list[Any] = [
    None,
    True,
    -1,
    (1 << 64) - 1,
    1 << 64,
    -(1 << 200),
    1.5,
    float("inf"),
    "ä",
    b"\0",
    [1, (2, 3)],
    {1: 2, (1, 2): "t"},
    {1, "a", (1,)},
    frozenset({1}),
    datetime.datetime(2026, 1, 2, 3, 4, 5, 6),
    datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
    datetime.date(2026, 1, 2),
    datetime.time(1, 2, 3),
    datetime.timedelta(-1, 2, 3),
    uuid.UUID(int=7),
    decimal.Decimal("1.50"),
    Point(1, [Point(2, [])]),
    Colour.RED,
    Level.LOW,
]


def name(value: Any) -> str:
    """Return the id of a test: the order of a set depends on the process."""
    return f"{{{', '.join(sorted(map(repr, value)))}}}" if isinstance(value, set) else repr(value)


@pytest.mark.parametrize("value", VALUES, ids=name)
def test_a_value_comes_back_with_its_type(value: Any) -> None:
    """A packed value is unpacked as an equal value of the same type."""
    back = CODEC.unpack(CODEC.pack(value))
    assert back == value
    assert type(back) is type(value)


def test_sets_are_packed_in_one_order() -> None:
    """Equal sets give equal bytes, however they were put together."""
    one, two = {f"member {n}" for n in range(100)}, set()
    for n in reversed(range(100)):
        two.add(f"member {n}")
    assert CODEC.pack(one) == CODEC.pack(two)


@pytest.mark.parametrize("value", [object(), len, [object()], {1: object()}, Codec()], ids=lambda v: type(v).__name__)
def test_another_type_is_named(value: Any) -> None:
    """A value of a type that is not the codec's is a TypeError that names the type."""
    with pytest.raises(TypeError, match=r"object|builtin_function_or_method|Codec"):
        CODEC.pack(value)


def test_a_dataclass_that_was_not_named_is_refused() -> None:
    """Only classes that the program names travel, in both directions."""
    with pytest.raises(TypeError, match="Point"):
        Codec().pack(Point(1, []))
    with pytest.raises(Malformed, match="Point"):
        Codec().unpack(CODEC.pack(Point(1, [])))


def test_two_classes_of_one_name_are_refused() -> None:
    """The name says which class is meant."""
    with pytest.raises(TypeError, match="Point"):
        Codec([Point, dataclasses.make_dataclass("Point", [])])
    with pytest.raises(TypeError, match="neither"):
        Codec([int])


def test_deep_nesting_is_refused_on_both_sides() -> None:
    """Neither a deep value nor deep bytes get anywhere near the end of the stack."""
    value: Any = ()
    packed = msgpack.packb([])
    for _ in range(1000):
        value = (value,)
        packed = msgpack.packb(msgpack.ExtType(1, packed))
    with pytest.raises(ValueError, match="nested"):
        CODEC.pack(value)
    with pytest.raises(Malformed, match="nested"):
        CODEC.unpack(packed)
    with pytest.raises(Malformed):
        CODEC.unpack(b"\x91" * 1_000_000)
    plain: Any = []
    for _ in range(100_000):
        plain = [plain]
    with pytest.raises(ValueError, match="nested"):
        CODEC.pack(plain)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x01\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\x81\x80\x01",
        msgpack.packb(msgpack.ExtType(99, b"")),
        msgpack.packb(msgpack.ExtType(2, msgpack.packb([[]]))),
        msgpack.packb(msgpack.ExtType(4, b"yesterday")),
        msgpack.packb(msgpack.ExtType(8, b"short")),
        msgpack.packb(msgpack.ExtType(9, b"much")),
        msgpack.packb(msgpack.ExtType(11, msgpack.packb(["Point", {"z": 1}]))),
        msgpack.packb(msgpack.ExtType(11, msgpack.packb(["Colour", "RED"]))),
        msgpack.packb(msgpack.ExtType(12, msgpack.packb(["Colour", "BLUE"]))),
        msgpack.packb(msgpack.ExtType(12, msgpack.packb([["Colour"], "RED"]))),
    ],
)
def test_bytes_that_are_no_value_are_malformed(data: bytes) -> None:
    """The error is Malformed for anything that is wrong with bytes."""
    with pytest.raises(Malformed):
        CODEC.unpack(data)


def test_random_bytes_never_do_anything_else() -> None:
    """Damaged values are values or Malformed; the seed is printed."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    packed = [CODEC.pack(value) for value in VALUES]
    for _ in range(20_000):
        data = bytearray(rng.choice(packed))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with contextlib.suppress(Malformed):
            CODEC.unpack(bytes(data[: rng.randrange(len(data) + 1)]))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 4096])
def test_a_frame_is_padded_and_says_its_length(size: int) -> None:
    """A frame is a multiple of 8 bytes long and gives its payload back."""
    payload = bytes(range(1, 256)) * (size // 255 + 1)
    data = frame(payload[:size])
    assert len(data) % 8 == 0
    assert unframe(data) == payload[:size]
    for bad in (data[:-8], data + bytes(8), b"\2" + data[1:], data[:1] + b"\1" + data[2:]):
        with pytest.raises(Malformed):
            unframe(bad)


ALIKE = 2**61 - 1
"""Multiples of this have the same hash, on every machine of 64 bits."""


@pytest.mark.parametrize("number", [int, decimal.Decimal, lambda n: (n,)])
def test_arguments_with_keys_of_one_hash_are_refused(number: Any) -> None:
    """Dicts and sets have them, however deep. Sixteen thousand such numbers stopped every member for seconds."""
    keys = [number(ALIKE * n) for n in range(MAX_ALIKE + 1)]
    assert len({hash(key) for key in keys}) == 1
    arguments = CODEC.arguments()
    for value in (dict.fromkeys(keys), set(keys), frozenset(keys), [{"a": (set(keys), 1)}], Point(1, [set(keys)])):
        with pytest.raises(Malformed, match="same hash"):
            arguments.unpack(CODEC.pack(value))
        assert CODEC.unpack(CODEC.pack(value)) == value  # what members keep themselves can be read back
    for value in (dict.fromkeys(keys[1:]), set(keys[1:]), dict.fromkeys(range(1000)), {str(n) for n in range(1000)}):
        assert arguments.unpack(CODEC.pack(value)) == value


@pytest.mark.parametrize(("others", "absent"), [(0, b"\xdf"), (66_000, b"\xde")])
def test_keys_are_counted_in_maps_of_either_size(others: int, absent: bytes) -> None:
    """They are where nothing in them looks like the beginning of a map of the other size, too."""
    keys = [key for key in range(0, 2000 * ALIKE, ALIKE) if absent not in CODEC.pack(key)][: MAX_ALIKE + 1]
    keys += [key for key in range(2, 2 * others) if absent not in CODEC.pack(key)][:others]
    data = CODEC.pack([{"a": dict.fromkeys(keys)}])
    assert absent not in data
    with pytest.raises(Malformed, match="same hash"):
        CODEC.arguments().unpack(data)
    assert CODEC.arguments().unpack(CODEC.pack(dict.fromkeys(keys[1:]))) == dict.fromkeys(keys[1:])


def test_many_keys_of_one_hash_cost_no_time() -> None:
    """They are counted before they are compared: what would take an hour is refused within seconds."""
    packed = [CODEC.pack(ALIKE * (2**64 + n)) for n in range(150_000)]
    data = struct.pack(">BI", 0xDF, len(packed)) + b"".join(key + b"\xc0" for key in packed)
    with pytest.raises(Malformed, match="same hash"):
        CODEC.arguments().unpack(data)


def test_many_values_are_read_in_pieces() -> None:
    """No copy of the whole is made, and values that are larger than a piece come out whole; a cut one is Malformed."""
    values = [["x" * 100, n] for n in range(200_000)]
    values[1000:1000] = [[bytes(1 << 20)], [bytes(range(256)) * 4000]]
    data = b"".join(CODEC.pack(value) for value in values)
    expected = iter(values)
    tracemalloc.start()
    try:
        for value in CODEC.objects(data):
            assert value == next(expected)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert next(expected, None) is None
    assert peak < len(data) / 2
    for cut in (1, 50, 300_000):
        with pytest.raises(Malformed, match="cut short"):
            list(CODEC.objects(memoryview(data)[:-cut]))
