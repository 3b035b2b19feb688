"""The client of dqlite looks into a statement before it sends it; SQLite itself is asked whether it is right."""

import sqlite3

import pytest

from pyraft.dqlite import sql

TRIGGER = "create trigger x after insert on t begin insert into u values(1); delete from v; end"

READING = [
    "select 1",
    " -- insert\n/* delete */ SELECT 'insert; it''s' AS \"update\", 1 AS [delete;], 2 AS `x;`",
    "values (1), (2);",
    "with c(x) as (select 1) select * from c ; -- that was all",
    "with c(x) as (select replace('abc', 'b', 'x')) select replace(x, 'a', 'into') from c",
    "explain insert into t values(1)",
    "pragma table_info(t)",
    "pragma main.index_list(t)",
    "pragma user_version",
]
WRITING = [
    "insert into t values('select')",
    "with c(x) as (select 1) insert into t select x from c",
    "with c(x) as (select 1) delete from t returning a",
    "replace into t values(1)",
    "with c(x) as (select 1) replace /* a row */ into t select x from c",
    "pragma user_version = 3",
    "pragma user_version(3)",
    "create table select_(a)",
    "vacuum",
    TRIGGER,
]


@pytest.mark.parametrize("text", READING)
def test_statements_that_only_read(text: str) -> None:
    """They are taken for such, and SQLite leaves a database as it is."""
    assert sql.reads(text)
    assert _changes(text) == b""


@pytest.mark.parametrize("text", WRITING)
def test_statements_that_may_write(text: str) -> None:
    """They are not taken for others."""
    assert not sql.reads(text)
    assert sql.is_single(text)


def _changes(text: str) -> bytes:
    """Return what a database is afterwards, if it is another one than before."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("create table t(a)")
    before = connection.serialize() if hasattr(connection, "serialize") else b""
    connection.execute(text).fetchall()
    after = connection.serialize() if hasattr(connection, "serialize") else b""
    connection.close()
    return after if after != before else b""


@pytest.mark.parametrize("text", [*READING, *WRITING])
def test_two_statements_are_seen(text: str) -> None:
    """A second one behind the semicolon, not in a literal, a name or a comment, and not what only looks like one."""
    assert sql.is_single(text + " ; -- ; select 1\n /* ; */ ;")
    two = text.rstrip("; ").replace("; -- that was all", "") + "\n; select 2"
    assert not sql.is_single(two)
    assert not sql.reads(two)


def test_transactions_and_savepoints_are_seen() -> None:
    """Going back to a savepoint is not the end of a transaction."""
    for text in ("begin", "BEGIN IMMEDIATE", "/* */ commit;", "end transaction", "rollback", "rollback transaction"):
        assert sql.ends_transaction(text)
        assert not sql.is_savepoint(text)
    for text in ("savepoint a", "release a", "rollback to a", "rollback transaction to savepoint a"):
        assert sql.is_savepoint(text)
        assert not sql.ends_transaction(text)
    assert not sql.ends_transaction("select 'commit'")
    assert sql.returns("insert into t values('x') RETURNING a")
    assert not sql.returns("insert into t values('returning')")


def test_texts_without_an_end() -> None:
    """They are one statement, for the node to refuse; long ones take no longer than their length."""
    for text in ("select 'a; select 2", 'select "a; x', "select [a; x", "/* select 1; select 2", "select `a;"):
        assert sql.is_single(text)
    assert sql.is_single("select '" + ";" * 1_000_000 + "'")
    assert sql.verb("") == sql.verb("-- x") == sql.verb("42") == ""


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("select 1", 0),
        ("select ?, '?', \"?\", [?], `?` -- ?\n, ? /* ? */", 2),
        ("select ??", 2),
        ("select ? 'a', ?+1, x ->> ?", 3),
        ("select ?1, ?", None),
        ("select ?, ?12", None),
        ("select ?, :a", None),
        ("select @a, ?", None),
        ("select $a", None),
        ("select :1", None),
    ],
)
def test_bare_parameters_are_counted(text: str, n: "int | None") -> None:
    """Others may stand for one that was there before, and are not."""
    assert sql.n_parameters(text) == n
