"""The tables of pyraft/node/FORMATS.md say what is written and sent: each is compared with what the code encodes."""

import dataclasses
import datetime
import decimal
import enum
import json
import re
import struct
import uuid
from collections import deque
from pathlib import Path
from typing import Any

import msgpack
import pytest

from io_uv import tcp_common
from pyraft import node as front
from pyraft.node import Machine, backup, codec, desk, giving, greeting, identity, outcomes, snapshot, wire
from pyraft.node.codec import Codec
from pyraft.node.errors import Malformed
from pyraft.node.replica import Replica

FORMATS = Path(front.__file__).with_name("FORMATS.md")

KINDS: dict[str, Any] = {"int": 7, "str": "seven", "bytes": b"seven", "list": [], "any": None}


def tables() -> dict[str, list[list[str]]]:
    """Return the tables, each under what its head begins with and the heading above it."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    rows: list[list[str]] | None = None
    for line in FORMATS.read_text().splitlines():
        if line.startswith("#"):
            heading = line.strip("# ")
        if line[:1] != "|":
            rows = None
            continue
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if rows is None:
            name = f"{heading}: {cells[0]}"
            while name in found:
                name += "'"
            rows = found[name] = []
        elif not cells[0].startswith("---"):
            rows.append(cells)
    return found


def test_all_tables_are_looked_at_here() -> None:
    """A new table needs a test."""
    assert list(tables()) == [
        "Connections: offset",
        "Connections: number",
        "Connections: position",
        "Connections: question",
        "Connections: offset'",
        "Entries: offset",
        "Entries: number",
        "Values: extension",
        "Snapshots: position",
        "Snapshots: kind",
        "Files: file",
        "Files: field of `node.json`",
        "Files: field of a backup's first line",
    ]


def test_a_connection() -> None:
    """Word, length, list of msgpack, without padding."""
    assert [row[0] for row in tables()["Connections: offset"]] == ["0", "8", "12"]
    sent = wire.WORD.to_bytes(8, "little") + wire.pack(wire.PING) + wire.pack(wire.PONG)
    assert sent[:8] == b"raftnode"
    (length,) = struct.unpack_from("<I", sent, 8)
    assert msgpack.unpackb(sent[12 : 12 + length]) == [wire.PING]
    assert sent[12 + length :] == wire.pack(wire.PONG)


def members(text: str) -> list[str]:
    """Return the types of the members in a row of the messages."""
    return re.findall(r"`\w+` (\w+)", text.split(":")[0])


def messages() -> dict[str, list[Any]]:
    """Return a message of each kind, with members of the types that its row has."""
    rows = tables()["Connections: number"]
    return {name.strip("`"): [int(n), *(KINDS[kind] for kind in members(text))] for n, name, text in rows}


CALL = [b"session", 1, 0, "", "take", 1, b""]


@pytest.mark.parametrize("name", [row[1].strip("`") for row in tables()["Connections: number"]])
def test_a_message(name: str) -> None:
    """Its number is the code's, and who takes it takes members of these types, and no others."""
    message = messages()[name]
    assert message[0] == getattr(wire, name)
    check: Any = {"HELLO": wire.check_hello, "WELCOME": wire.check_hello, "CALLS": wire.check_calls}.get(name)
    if name == "ASK":
        check = wire.check_ask
    if name in ("HELLO", "WELCOME"):
        message[1] = wire.VERSION
    if name == "CALLS":
        message[2] = [CALL]
    frames = wire.Frames()
    frames.feed(wire.pack(*message))
    assert frames.next() == message
    if check is None:
        return
    check(message)
    for at in range(1, len(message)):
        with pytest.raises(Malformed):
            check([*message[:at], 1.5, *message[at + 1 :]])
    with pytest.raises(Malformed):
        check([*message, 1])


def test_the_messages_that_links_take() -> None:
    """Those that have no function to check them are compared with the types that a link wants."""
    source = Path(wire.__file__).with_name("link.py").read_text()
    for name in ("OUTCOMES", "ELSEWHERE", "REFUSED"):
        (types,) = re.findall(rf"wire\.{name} and wire\.fits\(message, ([\w, ]+)\)", source)
        row = next(row for row in tables()["Connections: number"] if row[1] == f"`{name}`")
        assert types.split(", ") == members(row[2])
    assert "wire.ANSWER and len(message) == 4" in source
    assert len(messages()["ANSWER"]) == 4
    frames = wire.Frames()
    frames.feed(b"".join(wire.outcomes(5, [b"one", b"two"])))
    assert frames.next() == [wire.OUTCOMES, 5, 0, [b"one", b"two"]]
    assert len(messages()) == wire.PONG + 1


def test_a_call() -> None:
    """Each position has the type of its row, and a call without it is refused."""
    rows = tables()["Connections: position"]
    types = [re.match(r"`\w+` (\w+)", row[1]) for row in rows]
    assert [found.group(1) for found in types if found] == [kind.__name__ for kind in wire._CALL]
    assert [int(row[0]) for row in rows] == list(range(len(CALL)))
    wire.check_calls([wire.CALLS, 0, [CALL]])


def test_questions() -> None:
    """Those for the leader are in `wire`, those for any member in `desk` and `giving`."""
    named = {row[1]: re.findall(r"`(\w+)`", row[0]) for row in tables()["Connections: question"]}
    assert set(named["the leader"]) == set(wire.QUESTIONS)
    every = [name for row in tables()["Connections: question"][1:] for name in re.findall(r"`(\w+)`", row[0])]
    source = Path(desk.__file__).read_text() + Path(giving.__file__).read_text()
    answered = set(re.findall(r'"(\w+)": self\.(?:ping|status|snapshot|backup|piece|close_backup)\b', source))
    assert set(every) == answered


def test_a_greeting() -> None:
    """It follows the end of the address, at the offsets that are given."""
    made = greeting.Greeting("ab" * 16, 7).introduce(7, "127.0.0.1:9", 5)
    plain = tcp_common.encode_handshake(7, "127.0.0.1:9")
    more = made[len(plain) :]
    offsets = [int(row[0]) for row in tables()["Connections: offset'"]]
    assert offsets == [0, 8, 24]
    assert more[:8] == greeting.MAGIC == b"pyraft\0\1"
    assert more[8:24] == bytes.fromhex("ab" * 16)
    assert struct.unpack_from("<Q", more, 24) == (5,)


def test_an_entry() -> None:
    """The frame of a command, and what is in it."""
    assert [int(row[0]) for row in tables()["Entries: offset"]] == [0, 1, 2, 4, 8]
    r = Replica({"": Machine()})
    data = r.entry(99, [CALL])
    version, flags, reserved, length = struct.unpack_from("<BBHI", data)
    assert (version, flags, reserved) == (codec.FRAME_VERSION, 0, 0) == (1, 0, 0)
    assert msgpack.unpackb(data[8 : 8 + length]) == [99, [CALL]]
    assert len(data) % 8 == 0


def test_outcomes() -> None:
    """Their numbers are the code's."""
    for number, name, _ in tables()["Entries: number"]:
        assert getattr(outcomes, name.strip("`")) == int(number)
    assert len(tables()["Entries: number"]) == outcomes.FULL + 1


@dataclasses.dataclass
class Point:
    """A class of a program."""

    x: int


class Colour(enum.Enum):
    """An enumeration of a program."""

    RED = 1


VALUES: dict[str, Any] = {
    "`tuple`": (1,),
    "`set`": {1},
    "`frozenset`": frozenset({1}),
    "`datetime`": datetime.datetime(2026, 1, 1),
    "`date`": datetime.date(2026, 1, 1),
    "`time`": datetime.time(1),
    "`timedelta`": datetime.timedelta(1),
    "`UUID`": uuid.UUID(int=1),
    "`Decimal`": decimal.Decimal(1),
    "`int`": 1 << 70,
    "a dataclass": Point(1),
    "an enumeration": Colour.RED,
}


def test_values() -> None:
    """Each extension has the number of its row, and what is said to be inside."""
    packer = Codec([Point, Colour])
    rows = tables()["Values: extension"]
    assert {row[1] for row in rows[:-2]} == set(VALUES)
    assert [int(row[0]) for row in rows[-2:]] == [codec.BELOW, codec.GONE]
    for number, name, content in rows[:-2]:
        found = msgpack.unpackb(packer.pack(VALUES[name]))
        assert (type(found), found.code) == (msgpack.ExtType, int(number)), name
        if "text" in content:
            assert found.data.decode() in (str(VALUES[name]), getattr(VALUES[name], "isoformat", str)()), name
        elif "not packed" not in content:
            assert type(msgpack.unpackb(found.data)) is list, name
    assert msgpack.unpackb(msgpack.unpackb(packer.pack(VALUES["`timedelta`"])).data) == [1, 0, 0]
    assert msgpack.unpackb(msgpack.unpackb(packer.pack(Point(5))).data) == ["Point", {"x": 5}]


class Shop(Machine):
    """A machine with a container of each kind."""

    def __init__(self) -> None:
        self.of_dict: dict[str, int] = {"a": 1}
        self.of_list = [1, 2]
        self.of_set = {1}
        self.of_deque = deque([1], 9)


def test_a_snapshot() -> None:
    """Its head, the record of the machine, and a container of each kind behind the list that has its place."""
    r = Replica({"": Shop()})
    rv, bufs = r.do_snapshot()
    assert rv == 0
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(b"".join([*bufs, *r.pieces()]))
    head, *rest = list(unpacker)
    assert len(head) == len(tables()["Snapshots: position"])
    assert head[:2] == ["pyraft.node", 1]
    first = rest[0] if head[4][0] == "" else rest[rest.index([4, 4, "Shop"])]
    assert first == [4, 4, "Shop"]
    at = rest.index(first)
    assert rest[at + 1].count(msgpack.ExtType(codec.BELOW, b"")) == 4
    assert rest[at + 2 : at + 10] == [[0, 1], ["a", 1], [2, 2], [1, 2], [1, 1], [1], [3, 1, 9], [1]]
    kinds = ("_DICT", "_SET", "_LIST", "_DEQUE", "_RECORD", "_TUPLE", "_FROZENSET", "_FROZEN")
    assert [int(row[0]) for row in tables()["Snapshots: kind"]] == [getattr(snapshot, name) for name in kinds]
    assert [row[1].split(" ")[0] for row in tables()["Snapshots: kind"]] == [name[1:].lower() for name in kinds]
    assert {*snapshot._MAKE, snapshot._RECORD, snapshot._FROZEN} == set(range(len(kinds)))


def test_node_json() -> None:
    """It has these fields, phases and formats, and no others."""
    rows = {row[0].strip("`"): row[1] for row in tables()["Files: field of `node.json`"]}
    made = identity.Identity(7, "127.0.0.1:9", "ab" * 16, identity.MEMBER)
    assert set(json.loads(identity.encode(made))) == set(rows)
    assert set(re.findall(r"`(\w+)`", rows["phase"])) == set(identity._PHASES)
    assert re.findall(r"\d", rows["format"]) == [str(identity.FORMAT), str(identity.BOUND)]


def test_the_head_of_a_backup() -> None:
    """It has these fields, and no others."""
    rows = tables()["Files: field of a backup's first line"]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert set(named) == {field.name for field in dataclasses.fields(backup.Head)}
    assert rows[0][1] == f'"{backup.FORMAT}"'
