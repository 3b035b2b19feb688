"""Error codes, their texts, messages cut and wrapped to C's buffer of 256 bytes, and what the log may hold."""

import io
import logging
import sys

import pytest

import pyraft
from pyraft import raft_strerror
from pyraft.errors import code_name, errmsg_cut, errmsg_wrap, escape_record
from tests.lib.covers import covers

CODES = [
    ("NOMEM", "out of memory"),
    ("BADID", "server ID is not valid"),
    ("DUPLICATEID", "server ID already in use"),
    ("DUPLICATEADDRESS", "server address already in use"),
    ("BADROLE", "server role is not valid"),
    ("MALFORMED", "encoded data is malformed"),
    ("NOTLEADER", "server is not the leader"),
    ("LEADERSHIPLOST", "server has lost leadership"),
    ("SHUTDOWN", "server is shutting down"),
    ("CANTBOOTSTRAP", "bootstrap only works on new clusters"),
    ("CANTCHANGE", "a configuration change is already in progress"),
    ("CORRUPT", "persisted data is corrupted"),
    ("CANCELED", "operation canceled"),
    ("NAMETOOLONG", "resource name too long"),
    ("TOOBIG", "data is too big"),
    ("NOCONNECTION", "no connection to remote server available"),
    ("BUSY", "operation can't be performed at this time"),
    ("IOERR", "I/O error"),
    ("NOTFOUND", "Resource not found"),
    ("INVALID", "Invalid parameter"),
    ("UNAUTHORIZED", "No access to resource"),
    ("NOSPACE", "Not enough disk space"),
    ("TOOMANY", "System or raft limit met or exceeded"),
]


@covers("raft_strerror/<18 codes>")
@pytest.mark.parametrize(("code", "name", "text"), [(i, *entry) for i, entry in enumerate(CODES, 1)])
def test_codes_and_texts_are_those_of_the_c_library(code: int, name: str, text: str) -> None:
    """Each constant has its number, each number its text, and its name."""
    assert getattr(pyraft, f"RAFT_{name}") == code
    assert raft_strerror(code) == text
    assert code_name(code) == f"RAFT_{name}"


@covers("raft_strerror/default")
@pytest.mark.parametrize("code", [0, -1, 24, 666])
def test_other_codes_have_a_text_too(code: int) -> None:
    """0 does not stand for an error and has no text of its own, as in C."""
    assert raft_strerror(code) == "unknown error"
    assert code_name(code) == str(code)


@covers("ErrMsgPrintf/noParams", "ErrMsgPrintf/params", "ErrMsgWrapf/noParams", "ErrMsgWrapf/params")
def test_a_context_goes_in_front() -> None:
    """ "prefix: message", as long as it fits; short messages stay as they are."""
    assert errmsg_cut("boom 123") == "boom 123"
    assert errmsg_wrap("boom", "no luck") == "no luck: boom"
    assert errmsg_wrap("", "io") == "io: "


@covers("ErrMsgWrapf/partialTruncate", "ErrMsgWrapf/fullTruncate")
def test_messages_are_cut_to_the_buffer_of_c() -> None:
    """They have 255 bytes at most; a prefix of that length leaves nothing of the message, not even the colon."""
    assert errmsg_wrap("no luck", "x" * 249) == "x" * 249 + ": no l"
    assert errmsg_wrap("no luck", "x" * 254) == "x" * 254
    assert errmsg_wrap("no luck", "x" * 300) == "x" * 255
    assert errmsg_cut("x" * 300) == "x" * 255


def test_a_cut_never_splits_a_character() -> None:
    """The limit counts bytes of UTF-8, and half a character is dropped."""
    cut = errmsg_cut("é" * 200)
    assert cut == "é" * 127
    assert errmsg_cut("x" * 254 + "é") == "x" * 254


def raises_for_another() -> None:
    """Raise an exception with a cause, both of which quote what others have sent."""
    try:
        raise KeyError("a\nforged")
    except KeyError as exc:
        raise ValueError('no such user: x\nforged\n  File "forged"\x1b[2J') from exc


def test_tracebacks_in_the_log_have_no_lines_of_others() -> None:
    """An exception of a state machine may quote a command. Its frames stay lines of their own."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    logger = logging.getLogger("pyraft")
    logger.addHandler(handler)
    try:
        raises_for_another()
    except ValueError as exc:
        logger.error("it raised", exc_info=exc)
    finally:
        logger.removeHandler(handler)
    lines = out.getvalue().splitlines()
    assert lines[0] == "it raised"
    assert lines.count("Traceback (most recent call last):") == 2
    assert lines[-1] == 'ValueError: no such user: x\\nforged\\n  File "forged"\\x1b[2J'
    assert sum("in raises_for_another" in line for line in lines) == 2
    assert "The above exception was the direct cause of the following exception:" in lines


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have no notes before 3.11")
def test_notes_of_exceptions_in_the_log_have_no_lines_of_others() -> None:
    """Those of the exception have none, nor have those of what led to it."""
    inner, cause, outer = ValueError("inner"), KeyError("cause"), RuntimeError("outer")
    for exc in (inner, cause, outer):
        exc.add_note(f"{exc}\nforged")
    outer.__cause__, cause.__context__ = cause, inner
    record = logging.LogRecord("pyraft", logging.ERROR, "", 1, "text", None, (RuntimeError, outer, None))
    assert escape_record(record)
    assert record.exc_text is not None
    assert "forged" not in record.exc_text.splitlines()
    assert record.exc_text.count("\\nforged") == 3


def test_a_traceback_that_is_printable_is_left_to_the_formatter() -> None:
    """So a program's own formatter is asked for it."""
    try:
        raise ValueError("plain ü")
    except ValueError as exc:
        record = logging.LogRecord("pyraft", logging.ERROR, "", 1, "text", None, (type(exc), exc, exc.__traceback__))
    assert escape_record(record)
    assert record.exc_text is None
