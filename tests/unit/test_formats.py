"""The tables of io_uv/FORMATS.md say what is on the wire: each field that they name is at the offset that they give."""

import re
import struct
from pathlib import Path
from typing import Any

import pytest

import io_uv
from io_uv import encoding, tcp_common
from io_uv.state import Limits
from pyraft import configuration, fixture_copy, fixture_io, plausible
from pyraft.types import (
    MESSAGE_NAMES,
    RAFT_COMMAND,
    RAFT_VOTER,
    RaftAppendEntries,
    RaftAppendEntriesResult,
    RaftConfiguration,
    RaftEntry,
    RaftInstallSnapshot,
    RaftMessage,
    RaftRequestVote,
    RaftRequestVoteResult,
    RaftServer,
    RaftTimeoutNow,
)
from tests.lib.messages import fields_of

FORMATS = Path(io_uv.__file__).with_name("FORMATS.md")

CONF = RaftConfiguration()
CONF.servers.append(RaftServer(5, "127.0.0.1:9000", RAFT_VOTER))


def table(title: str) -> tuple[str, dict[str, str]]:
    """Return the heading that begins with `title`, and its table: what is at which offset."""
    heading, _, text = FORMATS.read_text().split(f"\n### {title}")[1].partition("\n")
    rows = re.findall(r"^\| (\S.*?) \| (.*) \|$", text.split("\n#")[0], re.M)
    return heading, dict(rows[1:])


def word(data: bytes, offset: int) -> int:
    """Return the word at an offset."""
    return int(struct.unpack_from("<Q", data, offset)[0])


def numbers_of(args: Any) -> list[str]:
    """Return the names of the numbers that a message carries in words of their own."""
    others = ("n_entries", "version", "question")
    return [name for name in fields_of(args) if name not in others and type(getattr(args, name)) is int]


def filled(args: Any) -> Any:
    """Give every number of a message another value."""
    for value, name in enumerate(numbers_of(args), 1000):
        setattr(args, name, value)
    return args


MESSAGES: dict[str, tuple[str, Any]] = {
    "RequestVote header": ("request_vote", RaftRequestVote()),
    "RequestVoteResult header": ("request_vote_result", RaftRequestVoteResult()),
    "AppendEntries header": ("append_entries", RaftAppendEntries()),
    "AppendEntriesResult header": ("append_entries_result", RaftAppendEntriesResult()),
    "InstallSnapshot header": ("install_snapshot", RaftInstallSnapshot()),
    "TimeoutNow header": ("timeout_now", RaftTimeoutNow()),
}


def encoded(title: str) -> tuple[Any, int, bytes]:
    """Return the arguments of a message with two entries or a configuration, the header's length, and all its bytes."""
    member, args = MESSAGES[title]
    filled(args)
    if member == "append_entries":
        args.entries = [RaftEntry(7, RAFT_COMMAND, bytes(8)), RaftEntry(8, RAFT_COMMAND, bytes(16))]
        args.whole = True
    if member == "install_snapshot":
        args.conf, args.data = CONF, b"snapshot"
    message = RaftMessage()
    found = re.search(r"type (\d), (\d+)", table(title)[0])
    assert found is not None
    message.type = int(found[1])
    setattr(message, member, args)
    data = b"".join(encoding.encode_message(message))
    assert word(data, 0) == message.type
    return args, word(data, 8), data[encoding.PREAMBLE_SIZE :]


@pytest.mark.parametrize("title", MESSAGES)
def test_fields_are_where_the_table_says(title: str) -> None:
    """Numbers are looked up in the bytes; every number of the message has a row."""
    heading, rows = table(title)
    args, size, data = encoded(title)
    fields = {int(offset): text for offset, text in rows.items() if offset.isdigit()}
    named = set()
    for offset, text in fields.items():
        found = re.match(r"`(\w+)`", text)
        if found and type(getattr(args, found[1])) is int:
            assert word(data, offset) == getattr(args, found[1]), found[1]
            named.add(found[1])
    assert named == set(numbers_of(args))
    length = re.search(r", (\d+)", heading)
    assert length is not None
    extra = {"AppendEntries header": 32, "InstallSnapshot header": len(configuration.encode(CONF))}.get(title, 0)
    assert size == int(length[1]) + extra
    assert encoding.decode_header(int(heading.split()[1].strip(",")), data, 0, size, Limits())


@pytest.mark.parametrize(
    ("title", "field", "bit"),
    [
        ("RequestVote header", "disrupt_leader", 0),
        ("RequestVote header", "pre_vote", 1),
        ("RequestVoteResult header", "pre_vote", 0),
        ("RequestVoteResult header", "no_member", 1),
    ],
)
def test_flags_are_where_the_table_says(title: str, field: str, bit: int) -> None:
    """Each flag alone sets its bit of the word that the table gives it, and nothing else."""
    (offset, _), *others = [(at, row) for at, row in table(title)[1].items() if f"bit {bit} `{field}`" in row]
    assert others == []
    args = MESSAGES[title][1]
    for name in ("disrupt_leader", "pre_vote", "no_member"):
        if name in fields_of(args):
            setattr(args, name, name == field)
    assert word(encoded(title)[2], int(offset)) == 1 << bit
    setattr(args, field, False)
    assert word(encoded(title)[2], int(offset)) == 0


def test_questions_are_where_the_table_says() -> None:
    """In a heartbeat the number stands in our word, in the answer above the features of ours."""
    message = RaftMessage()
    message.type = 1
    message.append_entries = RaftAppendEntries()
    message.append_entries.question = 5
    data = b"".join(encoding.encode_message(message))[encoding.PREAMBLE_SIZE :]
    assert "twice the number" in table("AppendEntries header")[1]["40 + 16 n"]
    assert data[40:48] == b"\x0a\0\0\0fryp"
    message.type, message.append_entries_result = 2, RaftAppendEntriesResult()
    message.append_entries_result.features, message.append_entries_result.question = 0xC000, 5
    data = b"".join(encoding.encode_message(message))[encoding.PREAMBLE_SIZE :]
    assert "number of the `question`" in table("AppendEntriesResult header")[1]["24"]
    assert word(data, 24) == 5 << 16 | 0xC000


def test_entries_are_where_the_table_says() -> None:
    """The headers of entries begin at 40, 16 bytes each; our word follows, then the data."""
    rows = table("AppendEntries header")[1]
    assert {"40 + 16 i", "48 + 16 i", "40 + 16 n"} <= set(rows)
    _, size, data = encoded("AppendEntries header")
    assert word(data, 32) == 2
    assert [word(data, 40), word(data, 56)] == [7, 8]
    assert data[48:56] == struct.pack("<B3xI", RAFT_COMMAND, 8)
    assert data[64:72] == struct.pack("<B3xI", RAFT_COMMAND, 16)
    assert data[72:80] == b"\x01\0\0\0fryp"
    assert size == 80
    assert data[80:] == bytes(24)


def test_snapshots_are_where_the_table_says() -> None:
    """The configuration begins at 40, the length of the data follows it, an unused word, then the data."""
    blob = configuration.encode(CONF)
    _, size, data = encoded("InstallSnapshot header")
    assert word(data, 32) == len(blob)
    assert data[40 : 40 + len(blob)] == blob
    assert word(data, 40 + len(blob)) == 8
    assert word(data, 48 + len(blob)) == 0
    assert data[size:] == b"snapshot"


def test_handshake_and_configuration_are_as_the_tables_say() -> None:
    """They are word 1, id, length, address; and format, number of servers, id, address, role."""
    assert list(table("Handshake")[1]) == ["0", "8", "16", "24"]
    data = tcp_common.encode_handshake(7, "127.0.0.1:9000")
    assert [word(data, at) for at in (0, 8, 16)] == [1, 7, 16]
    assert data[24:] == b"127.0.0.1:9000\0\0"
    assert list(table("Configuration")[1]) == ["0", "1", "9"]
    blob = configuration.encode(CONF)
    assert blob == b"\x01" + struct.pack("<QQ", 1, 5) + b"127.0.0.1:9000\0" + b"\x01" + bytes(len(blob) - 33)


OTHER_FIELDS = {"type", "server_id", "server_address"}


def test_every_kind_of_message_is_known_everywhere() -> None:
    """A member of RaftMessage has a name, a table, an encoder and a decoder, a term that is judged, and a copy."""
    members = [name for name in fields_of(RaftMessage()) if name not in OTHER_FIELDS]
    assert sorted(members) == sorted(member for member, _ in MESSAGES.values())
    assert len(MESSAGE_NAMES) == len(members)
    assert set(encoding._ENCODERS) == set(encoding._DECODERS) == set(MESSAGE_NAMES)
    assert max(MESSAGE_NAMES) == fixture_io.MESSAGE_TYPES
    for title, (member, args) in MESSAGES.items():
        message = RaftMessage()
        (message.type,) = (type for type, name in MESSAGE_NAMES.items() if title == f"{name} header")
        args.term = 1 << 40
        setattr(message, member, args)
        assert "further ahead" in plausible.problem(1, message), member
        assert getattr(fixture_copy.received(message, 1, "1"), member) is not None, member
