"""Bytes of a real node: its answers read as they should, are written again as they came, and ours are the same."""

from collections.abc import Callable

import pytest

from io_uv.dqlite import requests, responses
from io_uv.dqlite.tuples import IsoTime, UnixTime
from tests.interop.dqlite.driver import Cluster, Node, ask, exchange

SETTING_UP = [
    requests.Client(1),
    requests.Open("test.db"),
    requests.ExecSql(0, "create table m(i int, f float, t text, b blob, n int, d datetime, o boolean)"),
]


@pytest.fixture
def node(cluster: Callable[..., Cluster]) -> Node:
    """A node of go-dqlite that leads a cluster of its own."""
    made = cluster().go()
    made.start()
    return made


def test_answers_are_written_as_they_came(node: Node) -> None:
    """All kinds of answers, both schemas' prepared statements, failures, rows in parts; a blob's padding is ignored."""
    insert = "insert into m values(?, ?, ?, ?, ?, ?, ?)"
    row = (-2, 1.5, "hi ü", b"12345678", None, 1700000000, True)
    asked: list[requests.Request] = [
        *(requests.Leader(), *SETTING_UP, requests.Prepare(0, insert), requests.Exec(0, 0, row)),
        requests.Exec(0, 0, (1 << 62, -0.0, "", b"", None, IsoTime("2026-01-02"), False)),
        requests.QuerySql(0, "select * from m"),
        requests.Prepare(0, "select t from m where i = ?"),
        requests.Query(0, 1, (-2,)),
        requests.Finalize(0, 1),
        requests.QuerySql(
            0, "with recursive c(x) as (select 1 union all select x + 1 from c limit 1000) select * from c"
        ),
        requests.QuerySql(0, "nonsense"),
        requests.Exec(0, 9),
        *(requests.Cluster(0), requests.Cluster(1), requests.Describe(), requests.Weight(4), requests.Describe()),
        *(requests.Add(2, "127.0.0.1:1"), requests.Assign(2, 1), requests.Remove(2), requests.Dump("test.db")),
    ]
    came = exchange(node.address, *asked)
    found = [responses.decode(*message) for message in came]
    for message, answer in zip(came, found, strict=True):
        assert answer.body() == message[2], answer
        assert (answer.TYPE, answer.schema) == message[:2]
    dates = (UnixTime(1700000000), IsoTime("2026-01-02"))
    rows = ((*row[:5], dates[0], True), (1 << 62, -0.0, "", b"", None, dates[1], False))
    first, *_ = [answer for answer in found if isinstance(answer, responses.Rows)]
    assert first == responses.Rows(tuple("iftbndo"), rows)
    assert [type(value) for value in first.rows[0]] == [int, float, str, bytes, type(None), UnixTime, bool]
    assert found[0] == responses.Server(1, node.address)
    assert found[-6:-1] == [responses.Empty(), responses.Metadata(0, 4), *[responses.Empty()] * 3]


def test_what_came_with_dqlite_1_18(node: Node) -> None:
    """A statement is prepared with the place of the next one; many parameters; rows of a write, and of one without."""
    many = tuple(range(300))
    asked: list[requests.Request] = [
        *(*SETTING_UP, requests.Prepare(0, "select 1; select 2", 1), requests.Prepare(0, "select ?300", 1)),
        *(requests.Query(0, 1, many, 1), requests.QuerySql(0, "select ?300", many, 1)),
        requests.ExecSql(0, "insert into m(i) values(?300)", many, 1),
        requests.QuerySql(0, "insert into m(i) values(7) returning i"),
        *(requests.QuerySql(0, "insert into m(i) values(8)"), requests.QuerySql(0, "select sum(i) from m")),
        *(requests.Prepare(0, "select 1; select 2"), requests.Cluster(7)),
    ]
    refusal = ask(node.address, *SETTING_UP[:2], requests.ExecSql(0, "select 1"))[-1]
    if not isinstance(refusal, responses.Failed) or refusal.code != responses.ERROR:
        pytest.skip("this is a dqlite before 1.18.2")
    came = exchange(node.address, *asked)[3:]
    found = [responses.decode(*message) for message in came]
    assert [answer.body() for answer in found] == [message[2] for message in came]
    assert found == [
        *(responses.Stmt(0, 0, 0, 9, schema=1), responses.Stmt(0, 1, 300, 11, schema=1)),
        *[responses.Rows(("?300",), ((299,),))] * 2,
        *(responses.Result(1, 1), responses.Rows(("i",), ((7,),)), responses.Rows((), ())),
        *(responses.Rows(("sum(i)",), ((314,),)), responses.Failed(responses.ERROR, "nonempty statement tail")),
        responses.Failed(responses.PARSE, "unrecognized cluster format"),
    ]


def test_rows_are_cut_as_a_node_cuts_them(node: Node) -> None:
    """The parts of a long answer are those of `responses.parts`, byte for byte."""
    query = "with recursive c(x) as (select 1 union all select x + 1 from c limit 2000) select x, hex(x) from c"
    came = exchange(node.address, *SETTING_UP[:2], requests.QuerySql(0, query))[2:]
    read = [responses.decode(*message) for message in came]
    assert len(read) > 5
    rows = [row for part in read if isinstance(part, responses.Rows) for row in part.rows]
    assert [part.body() for part in responses.parts(("x", "hex(x)"), rows)] == [message[2] for message in came]


def test_a_witness_answers_as_a_node_does(cluster: Callable[..., Cluster]) -> None:
    """All requests but statements have the same answers.

    Formats that do not exist are not asked for: DESCRIBE with one ends the process of dqlite 1.11.1.
    """
    both = cluster()
    first, witness = both.go(), both.python()
    first.start()
    witness.start()
    ask(first.address, *SETTING_UP)
    both.until_equal([first, witness])
    asked: list[requests.Request] = [
        *(requests.Leader(), requests.Client(9), requests.Cluster(0), requests.Cluster(1)),
        *(requests.Describe(), requests.Weight(5), requests.Describe()),
    ]
    assert ask(witness.address, *asked) == ask(first.address, *asked)
    # Only a leader does these.
    changes: list[requests.Request] = [
        *(requests.Add(5, "127.0.0.1:5"), requests.Assign(2, 1), requests.Remove(2), requests.Transfer(2)),
        *(requests.Open("test.db"), requests.Prepare(0, "select 1"), requests.ExecSql(0, "select 1")),
    ]
    for change in changes:
        assert ask(witness.address, change) == [responses.Failed(responses.NOT_LEADER, "not leader")]
