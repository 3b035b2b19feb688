"""Error codes, their texts, and the bounded error messages built from them.

Duty: the integers of raft.h that every function returns, `raft_strerror`, their names, and the two operations on an
error message that the library performs: make it fit its buffer, and put a context in front of it ("io: load closed
segment …"); and `printable`, which escapes what others have said, in tracebacks too. Codes are plain module integers
because the core compares them all the time.

Failure modes: none; an unknown code reads "unknown error", an over-long message is cut as in C.
"""

import logging
import traceback
from typing import Any, Final

RAFT_NOMEM: Final = 1
RAFT_BADID: Final = 2
RAFT_DUPLICATEID: Final = 3
RAFT_DUPLICATEADDRESS: Final = 4
RAFT_BADROLE: Final = 5
RAFT_MALFORMED: Final = 6
RAFT_NOTLEADER: Final = 7
RAFT_LEADERSHIPLOST: Final = 8
RAFT_SHUTDOWN: Final = 9
RAFT_CANTBOOTSTRAP: Final = 10
RAFT_CANTCHANGE: Final = 11
RAFT_CORRUPT: Final = 12
RAFT_CANCELED: Final = 13
RAFT_NAMETOOLONG: Final = 14
RAFT_TOOBIG: Final = 15
RAFT_NOCONNECTION: Final = 16
RAFT_BUSY: Final = 17
RAFT_IOERR: Final = 18
RAFT_NOTFOUND: Final = 19
RAFT_INVALID: Final = 20
RAFT_UNAUTHORIZED: Final = 21
RAFT_NOSPACE: Final = 22
RAFT_TOOMANY: Final = 23

RAFT_ERRMSG_BUF_SIZE: Final = 256
"""Size in bytes of an error message buffer in C, the closing NUL included: a message holds one byte less."""

_TEXTS: Final = {
    RAFT_NOMEM: "out of memory",
    RAFT_BADID: "server ID is not valid",
    RAFT_DUPLICATEID: "server ID already in use",
    RAFT_DUPLICATEADDRESS: "server address already in use",
    RAFT_BADROLE: "server role is not valid",
    RAFT_MALFORMED: "encoded data is malformed",
    RAFT_NOTLEADER: "server is not the leader",
    RAFT_LEADERSHIPLOST: "server has lost leadership",
    RAFT_SHUTDOWN: "server is shutting down",
    RAFT_CANTBOOTSTRAP: "bootstrap only works on new clusters",
    RAFT_CANTCHANGE: "a configuration change is already in progress",
    RAFT_CORRUPT: "persisted data is corrupted",
    RAFT_CANCELED: "operation canceled",
    RAFT_NAMETOOLONG: "resource name too long",
    RAFT_TOOBIG: "data is too big",
    RAFT_NOCONNECTION: "no connection to remote server available",
    RAFT_BUSY: "operation can't be performed at this time",
    RAFT_IOERR: "I/O error",
    RAFT_NOTFOUND: "Resource not found",
    RAFT_INVALID: "Invalid parameter",
    RAFT_UNAUTHORIZED: "No access to resource",
    RAFT_NOSPACE: "Not enough disk space",
    RAFT_TOOMANY: "System or raft limit met or exceeded",
}

_NAMES: Final = {
    RAFT_NOMEM: "RAFT_NOMEM",
    RAFT_BADID: "RAFT_BADID",
    RAFT_DUPLICATEID: "RAFT_DUPLICATEID",
    RAFT_DUPLICATEADDRESS: "RAFT_DUPLICATEADDRESS",
    RAFT_BADROLE: "RAFT_BADROLE",
    RAFT_MALFORMED: "RAFT_MALFORMED",
    RAFT_NOTLEADER: "RAFT_NOTLEADER",
    RAFT_LEADERSHIPLOST: "RAFT_LEADERSHIPLOST",
    RAFT_SHUTDOWN: "RAFT_SHUTDOWN",
    RAFT_CANTBOOTSTRAP: "RAFT_CANTBOOTSTRAP",
    RAFT_CANTCHANGE: "RAFT_CANTCHANGE",
    RAFT_CORRUPT: "RAFT_CORRUPT",
    RAFT_CANCELED: "RAFT_CANCELED",
    RAFT_NAMETOOLONG: "RAFT_NAMETOOLONG",
    RAFT_TOOBIG: "RAFT_TOOBIG",
    RAFT_NOCONNECTION: "RAFT_NOCONNECTION",
    RAFT_BUSY: "RAFT_BUSY",
    RAFT_IOERR: "RAFT_IOERR",
    RAFT_NOTFOUND: "RAFT_NOTFOUND",
    RAFT_INVALID: "RAFT_INVALID",
    RAFT_UNAUTHORIZED: "RAFT_UNAUTHORIZED",
    RAFT_NOSPACE: "RAFT_NOSPACE",
    RAFT_TOOMANY: "RAFT_TOOMANY",
}

_WRAP_SEPARATOR: Final = ": "


def raft_strerror(errnum: int) -> str:
    """Return the text of an error code; "unknown error" for anything else, 0 included (raft.h)."""
    return _TEXTS.get(errnum, "unknown error") if isinstance(errnum, int) else "unknown error"


_BETWEEN: Final = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)


def code_name(errnum: int) -> str:
    """Return the name of an error code, as RAFT_NOTLEADER; the number itself for anything else (ours)."""
    return _NAMES.get(errnum, str(errnum)) if isinstance(errnum, int) else str(errnum)


def printable(text: str) -> str:
    """Return `text` with escapes in place of what no text should hold: line ends, control codes, stray surrogates.

    Addresses, names in certificates and names of files come from others: in a log they could pass for lines of its own,
    or give orders to a terminal. The logs, traces and error messages of both packages go through here.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def escape_record(record: logging.LogRecord) -> bool:
    """Make a log record printable: a filter of the loggers `pyraft` and `io_uv`. It lets everything through."""
    text = record.getMessage()
    if not text.isprintable():
        record.msg = printable(text)
        record.args = None
    info = record.exc_info
    if isinstance(info, tuple) and info[0] is not None and info[1] is not None and not record.exc_text:
        # A state machine's exceptions, and notes of them, quote commands, which come from others as well.
        told = traceback.TracebackException(info[0], info[1], info[2])
        parts = list(told.format())
        _escape_notes(told)
        escaped = [_printable_part(part) for part in told.format()]
        if escaped != parts:
            record.exc_text = "".join(escaped).rstrip("\n")  # a formatter takes this for what it has made itself
    return True


def _escape_notes(told: traceback.TracebackException) -> None:
    """Escape the notes of an exception and of all that led to it: the formatting of tracebacks splits them at lines."""
    todo: list[Any] = [told]
    while todo:
        one = todo.pop()
        notes = getattr(one, "__notes__", None)  # from Python 3.11 on
        if isinstance(notes, list):
            one.__notes__ = [printable(str(note)) for note in notes]
        others = (one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ()))
        todo += [other for other in others if other is not None]


def _printable_part(part: str) -> str:
    """Return a part of a traceback with escapes: one line, but for frames and what stands between two exceptions."""
    lines = part.removesuffix("\n").split("\n")
    first = lines[0].lstrip(" |")
    indented = all(line.lstrip("|").startswith((" ", "+")) for line in lines)
    if not (first.startswith('File "') and indented) and part.strip("\n |") not in _BETWEEN:
        lines = ["\n".join(lines)]
    return "\n".join(map(printable, lines)) + ("\n" if part.endswith("\n") else "")


def errmsg_cut(message: str) -> str:
    """Return `message` cut to what C's error buffer holds: 255 bytes of UTF-8, never half a character, printable."""
    message = printable(message)
    if len(message) * 4 < RAFT_ERRMSG_BUF_SIZE:
        return message
    return message.encode("utf-8", "replace")[: RAFT_ERRMSG_BUF_SIZE - 1].decode("utf-8", "ignore")


def errmsg_wrap(message: str, prefix: str) -> str:
    """Return "prefix: message", cut to the buffer; the prefix alone where no character of the message would fit."""
    if len(prefix.encode("utf-8", "replace")) >= RAFT_ERRMSG_BUF_SIZE - (len(_WRAP_SEPARATOR) + 1):
        return errmsg_cut(prefix)
    return errmsg_cut(prefix + _WRAP_SEPARATOR + message)


logging.getLogger("pyraft").addFilter(escape_record)
