"""The little that a client has to know of a statement before it sends it: is it one, and does it only read?

Duty: `reads` says that a statement changes nothing, so that asking again is harmless; `is_single` that a text holds one
statement; `verb` which one. A node tells none of that before it has run the statement, and one that was run twice, or
half of several, cannot be taken back.

Happy path: `reads("select 1")`. Texts are cut into words with literals, quoted names and comments left out, by the
rules of SQLite's tokenizer.

Failure modes: none raises. In doubt a statement counts as one that writes: it is never run twice then. A literal
without an end reaches to the end of the text, and the node refuses it.
"""

import re
import sqlite3
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

_TOKENS: Final = re.compile(
    r"""
    --[^\n]* | /\*.*?(?:\*/|\Z)                        # comments
    | '(?:[^']|'')*(?:'|\Z) | "(?:[^"]|"")*(?:"|\Z)    # literals, names
    | `(?:[^`]|``)*(?:`|\Z) | \[[^\]]*(?:\]|\Z)
    | (?P<word>[^\W\d]\w*) | (?P<end>;) | (?P<other>\S)
    """,
    re.VERBOSE | re.DOTALL,
)
_WRITING: Final = frozenset(("insert", "update", "delete"))
"""Beside REPLACE, which is a function as well, unless INTO is behind it."""
_ASKING: Final = frozenset(
    (
        *("table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo"),
        *("foreign_key_list", "foreign_key_check", "integrity_check", "quick_check"),
    )
)
"""Pragmas whose argument names the subject of the question; the argument of any other pragma is a value to set."""

_NAMED: Final = (":", "@", "$")


def verb(sql: str) -> str:
    """Return the first word of a text, in small letters; "" if there is none."""
    return next(_words(sql), "")


def is_single(sql: str) -> bool:
    """Return whether a text holds one statement at most, perhaps with a semicolon and comments behind it."""
    for match in _TOKENS.finditer(sql):
        # The semicolons in the body of a trigger do not end it.
        if match["end"] and sqlite3.complete_statement(sql[: match.end()]):
            return not any(_matters(rest) for rest in _TOKENS.finditer(sql, match.end()))
    return True


def reads(sql: str) -> bool:
    """Return whether a text is one statement that surely changes nothing."""
    words = list(_words(sql))
    if not words or not is_single(sql):
        return False
    first = words[0]
    if first in ("select", "values", "explain"):
        return True
    if first == "with":
        return _WRITING.isdisjoint(words) and ("replace", "into") not in pairwise(words)
    return first == "pragma" and _asks(sql, words)


def returns(sql: str) -> bool:
    """Return whether a statement that writes returns rows."""
    return "returning" in _words(sql)


def ends_transaction(sql: str) -> bool:
    """Return whether a statement begins or ends a transaction, other than to a savepoint."""
    words = _words(sql)
    first = next(words, "")
    return first in ("begin", "commit", "end") or (first == "rollback" and "to" not in words)


def n_parameters(sql: str) -> int | None:
    """Return how many parameters a text has, if all of them are a bare "?"; None if there are others."""
    n, before = 0, ""
    for match in _TOKENS.finditer(sql):
        text = match.group()
        if text.isdecimal() if before == "?" else before in _NAMED and (match["word"] or text.isdecimal()):
            return None
        n += text == "?"
        before = text
    return n


def is_savepoint(sql: str) -> bool:
    """Return whether a statement is about a savepoint, or goes back to one."""
    words = _words(sql)
    first = next(words, "")
    return first in ("savepoint", "release") or (first == "rollback" and "to" in words)


def _words(sql: str) -> Iterator[str]:
    return (match["word"].lower() for match in _TOKENS.finditer(sql) if match["word"])


def _matters(match: "re.Match[str]") -> bool:
    text = match.group()
    return not (match["end"] or text.startswith(("--", "/*")))


def _asks(sql: str, words: list[str]) -> bool:
    """Return whether a PRAGMA asks and sets nothing: it has no value, or one that names the subject of the question."""
    signs = {match["other"] for match in _TOKENS.finditer(sql)}
    return not signs & {"=", "("} or not _ASKING.isdisjoint(words[1:3])
