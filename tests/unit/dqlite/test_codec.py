"""dqlite's messages and tuples: bytes as a real node sends them, both ways, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from io_uv.dqlite import messages, requests, responses, tuples
from io_uv.dqlite.messages import Splitter
from io_uv.dqlite.tuples import IsoTime, UnixTime, Value
from io_uv.dqlite.words import ParseError, Reader

REQUESTS: list[requests.Request] = [
    requests.Leader(),
    requests.Client(7),
    requests.Open("test.db"),
    requests.Prepare(0, "select 1"),
    requests.Prepare(0, "select 1; select 2", schema=1),
    requests.Exec(0, 3),
    requests.Exec(0, 3, (1, 2.5, "ü", b"abc", None, True)),
    requests.Query(0, 3, tuple(range(300)), schema=1),
    requests.Finalize(0, 3),
    requests.ExecSql(0, "insert into t values(?)", (-1,)),
    requests.QuerySql(0, "select ?", ("x" * 8,), schema=1),
    requests.Interrupt(),
    requests.Connect(4, "127.0.0.1:22004"),
    requests.Add(1 << 63 | 7, "[::1]:1"),
    requests.Assign(2, 1),
    requests.Remove(2),
    requests.Dump("test.db"),
    requests.Cluster(),
    requests.Transfer(3),
    requests.Describe(),
    requests.Weight(9),
]
RESPONSES: list[responses.Response] = [
    responses.Failed(10250, "not leader"),
    responses.Server(0, ""),
    responses.Welcome(),
    responses.Servers(()),
    responses.Servers((responses.Member(1, "a:1", 0), responses.Member(2, "b:2", 2))),
    responses.Servers((responses.Member(1, "a:1"), responses.Member(2, "somewhere:2"))),
    responses.Db(),
    responses.Stmt(0, 1, 2),
    responses.Stmt(0, 1, 2, 9, schema=1),
    responses.Result(5, 1),
    responses.Rows(("a", "b"), ((1, "x"), (None, b""))),
    responses.Rows((), (), more=True),
    responses.Empty(),
    responses.Files((("x.db", bytes(4096)), ("x.db-wal", b""))),
    responses.Metadata(1, 2),
]

VALUES: st.SearchStrategy[Value] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.text().filter(lambda text: "\0" not in text),
    st.binary(),
)
DATES: st.SearchStrategy[Value] = st.one_of(
    st.integers(0, 1 << 40).map(UnixTime), st.text("0123456789:- ").map(IsoTime)
)


def decode_all(data: bytes) -> list[tuple[int, int, bytes]]:
    """Return the messages in some bytes, all of which they must be."""
    splitter = Splitter()
    splitter.feed(data)
    found = list(splitter)
    assert splitter.rest == b""
    return found


@pytest.mark.parametrize("request_", REQUESTS, ids=repr)
def test_requests_come_back(request_: requests.Request) -> None:
    """Each request, encoded and decoded, is itself."""
    [message] = decode_all(request_.encode())
    assert requests.decode(*message) == request_


@pytest.mark.parametrize("response", RESPONSES, ids=repr)
def test_responses_come_back(response: responses.Response) -> None:
    """Each answer, encoded and decoded, is itself."""
    [message] = decode_all(response.encode())
    assert responses.decode(*message) == response


def test_all_types_are_tried() -> None:
    """No class of requests or answers is missing above."""
    assert {type(one) for one in REQUESTS} == set(requests.REQUESTS.values())
    assert {type(one) for one in RESPONSES} == set(responses.RESPONSES.values())


def test_a_server_introduces_itself_with_these_bytes() -> None:
    """They are from a live connection of dqlite 1.11.1, behind the version word."""
    seen = "030000000b000000 0400000000000000 3132372e302e302e 313a323230303400"
    assert requests.Connect(4, "127.0.0.1:22004").encode() == bytes.fromhex(seen)


def test_rows_of_all_types_are_these_bytes() -> None:
    """They are from a live connection of dqlite 1.18.6: seven columns, the padding of the blob is garbage there."""
    seen = bytes.fromhex(
        "1200000007000000 0700000000000000"
        "6900000000000000 6600000000000000 7400000000000000 6200000000000000 6e00000000000000 6400000000000000"
        "6f00000000000000 2143950b00000000 feffffffffffffff 000000000000f83f 6869000000000000"
        "0300000000000000 0102035c0e4f0e42 0000000000000000 00f1536500000000 0100000000000000 ffffffffffffffff"
    )
    [message] = decode_all(seen[:4].replace(b"\x12", bytes([len(seen) // 8 - 1])) + seen[4:])
    rows = responses.decode(*message)
    row = (-2, 1.5, "hi", b"\1\2\3", None, UnixTime(1700000000), True)
    assert rows == responses.Rows(tuple("iftbndo"), (row,))
    [back] = rows.rows if isinstance(rows, responses.Rows) else ()
    assert list(map(type, back)) == [int, float, str, bytes, type(None), UnixTime, bool]
    assert rows.body() == seen[8:].replace(b"\1\2\3\x5c\x0e\x4f\x0e\x42", b"\1\2\3\0\0\0\0\0")


@given(st.lists(VALUES, min_size=1, max_size=20), st.sampled_from([0, 1]))
def test_parameters_come_back(values: list[Value], schema: int) -> None:
    """Any values do, in both schemas; they fill whole words."""
    data = tuples.parameters(values, schema)
    assert len(data) % 8 == 0
    back = tuples.read_parameters(Reader(data), schema)
    assert list(back) == values
    assert [type(one) for one in back] == [type(one) for one in values]


@given(st.lists(st.lists(st.one_of(VALUES, DATES), min_size=3, max_size=3), max_size=20))
def test_rows_come_back(rows: list[list[Value]]) -> None:
    """Any rows do, in parts: every one but the last says that more follows."""
    columns = ("a", "", "long" * 30)
    found: list[tuple[Value, ...]] = []
    parts = list(responses.parts(columns, map(tuple, rows)))
    for part in parts:
        [message] = decode_all(part.encode())
        back = responses.decode(*message)
        assert isinstance(back, responses.Rows)
        assert (back.columns, back.more) == (columns, part is not parts[-1])
        found += back.rows
    assert found == list(map(tuple, rows))
    assert [list(map(type, row)) for row in found] == [list(map(type, row)) for row in rows]


def test_parts_end_at_a_page_of_memory() -> None:
    """A message ends with the row that takes it to 4096 bytes or beyond, and an answer without rows is one message."""
    [only] = responses.parts(("a",), [])
    assert only == responses.Rows(("a",), ())
    sizes = [len(part.rows) for part in responses.parts(("a",), [(n,) for n in range(600)])]
    assert sizes == [255, 255, 90]  # 16 bytes of names, 16 of each row


def test_more_parameters_than_schema_0_has_room_for() -> None:
    """256 of them take schema 1; a value that no database has takes neither."""
    with pytest.raises(ValueError, match="256 parameters"):
        tuples.parameters([1] * 256, 0)
    assert len(tuples.read_parameters(Reader(tuples.parameters([1] * 256, 1)), 1)) == 256
    with pytest.raises(ValueError, match="list is not"):
        tuples.row([[]])  # type: ignore[list-item]
    for value in (1 << 63, -(1 << 63) - 1, "a\0b"):
        with pytest.raises(ValueError):
            tuples.row([value])


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ((2, 0, bytes(8)), "unrecognized request type"),
        ((99, 0, bytes(8)), "unrecognized request type"),
        ((5, 2, bytes(8)), "unrecognized schema version"),
        ((0, 1, bytes(8)), "unrecognized schema version"),
        ((1, 0, b""), "number of 8 bytes at offset 0, of which 0 are there"),
        ((15, 0, b"x" * 16), "text at offset 0 has no end"),
        ((5, 0, bytes(8) + b"\1\x09" + bytes(14)), "unix time"),
        ((5, 0, bytes(8) + b"\1\x06" + bytes(14)), "a value of type 6"),
        ((5, 0, bytes(8) + b"\xff\1\1\1\1\1\1\1"), "types of parameters of 255 bytes"),
        ((5, 1, bytes(8) + b"\xff\xff\xff\xff\1\1\1\1"), "types of parameters of 4294967295 bytes"),
        ((5, 0, bytes(8) + b"\1\4\0\0\0\0\0\0" + b"\xff" * 8), "blob of 18446744073709551615 bytes"),
    ],
)
def test_bad_requests_are_refused(message: tuple[int, int, bytes], what: str) -> None:
    """They raise nothing but ParseError, with a text that says what is wrong."""
    with pytest.raises(ParseError, match=what):
        requests.decode(*message)


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ((11, 0, bytes(8)), "an answer of type 11"),
        ((1, 1, bytes(16)), "in schema 1"),
        ((3, 0, b"\xff" * 8), "servers in 0 bytes"),
        ((7, 0, b"\xff" * 8), "columns in 0 bytes"),
        ((7, 0, bytes(16)), "a row without columns"),
        ((7, 0, b"\1" + bytes(15) + b"\6" + bytes(15)), "a value of type 6"),
        ((9, 0, b"\2" + bytes(31)), "2 files in 24 bytes"),
    ],
)
def test_bad_responses_are_refused(message: tuple[int, int, bytes], what: str) -> None:
    """Numbers of things are held against the bytes that are there."""
    with pytest.raises(ParseError, match=what):
        responses.decode(*message)


def test_a_role_may_be_missing() -> None:
    """The request was once called PROMOTE and had none: a voter."""
    assert requests.decode(13, 0, b"\2" + bytes(7)) == requests.Assign(2, 0)


def test_messages_come_in_any_pieces() -> None:
    """They come byte by byte as well as all at once; all that is not complete stays."""
    data = b"".join(one.encode() for one in REQUESTS)
    splitter, found = Splitter(), list[requests.Request]()
    for byte in data:
        splitter.feed(bytes([byte]))
        found += [requests.decode(*message) for message in splitter]
    assert found == REQUESTS
    splitter.feed(data[:20])
    assert [type for type, _, _ in splitter] == [0]
    assert splitter.rest == data[16:20]


@pytest.mark.parametrize("words", [0, 3, (1 << 32) - 1])
def test_bodies_have_a_limit(words: int) -> None:
    """One that is longer, or has not a word, is refused by its header."""
    splitter = Splitter(limit=16)
    splitter.feed(messages.HEADER.pack(words, 0, 0, 0))
    with pytest.raises(ParseError, match="where up to 16 may be"):
        splitter.take()
