"""The lane's bytes: the two messages of replication, each read and written with one Struct.

Duty: `decode` reads an AppendEntriesResult, a heartbeat or an AppendEntries of one command, or of several that are
alike (EntryBatch.alike), if all of it is there and it is as this project's servers write them: what a leader and its
followers exchange where all is well. `encode` writes one of them. `recv.Reader` and `send.send` ask here first, and go
on with the general codec (`encoding`) where the answer is None.

These fail a test here and are left to the general codec: other types, versions and sizes; messages that are not there
whole; numbers out of range, so that each refusal has that codec's words; questions, and last words of C's; barriers and
configurations, and several commands that are not alike. The same bytes mean the same here and there: `test_lane.py`
reads and writes random messages both ways.

Failure modes: none.
"""

import struct
from typing import Final

from io_uv import encoding
from io_uv.failure import Failure
from io_uv.state import Limits
from pyraft.types import (
    RAFT_COMMAND,
    RAFT_IO_APPEND_ENTRIES,
    RAFT_IO_APPEND_ENTRIES_RESULT,
    EntryBatch,
    RaftAppendEntries,
    RaftAppendEntriesResult,
    RaftMessage,
)

# Preamble and header: type, size, then term, rejected, last index, features.
_RESULT: Final = struct.Struct("<6Q")
_RESULT_SIZE: Final = 48
# Type, size, term, previous index and term, commit index, number of entries, last word.
_HEARTBEAT: Final = struct.Struct("<8Q")
_HEARTBEAT_SIZE: Final = 64
# The same with the entry's term, type and length before the last word.
_ONE: Final = struct.Struct("<8QB3xIQ")
_ONE_SIZE: Final = 80
_JOINED: Final = 32 * 1024
"""Payloads of less are joined with their header here, once, and not by the stream for each follower."""
# Where the number of entries stands, from the begin of the preamble on.
_COUNT_AT: Final = 48
_UP_TO_COUNT: Final = struct.Struct("<6Q")
_WORD: Final = struct.Struct("<Q")
_WHOLE: Final = encoding.TAG | encoding.WHOLE


def decode(data: bytes, at: int, end: int, limits: Limits) -> tuple[RaftMessage, int] | None:
    """Return the message that begins at data[at:] and where it ends, at most `end`; None for the general codec."""
    if end - at < _RESULT_SIZE:
        return None
    kind, size, term, second, third, fourth = _RESULT.unpack_from(data, at)
    if size > limits.header:
        return None
    if kind == RAFT_IO_APPEND_ENTRIES_RESULT:
        return _result(term, second, third, fourth, at) if size == _RESULT_SIZE - encoding.PREAMBLE_SIZE else None
    if kind != RAFT_IO_APPEND_ENTRIES or term > encoding.LAST or third > encoding.LAST:
        return None
    if second >= encoding.LAST_INDEX or fourth > encoding.LAST_INDEX:
        return None
    if size == _ONE_SIZE - encoding.PREAMBLE_SIZE and end - at >= _ONE_SIZE:
        n, entry_term, type, length, last = _ONE.unpack_from(data, at)[6:]
        at += _ONE_SIZE
        if n != 1 or type != RAFT_COMMAND or not 0 < entry_term <= term or last != _WHOLE:
            return None
        if length % 8 != 0 or length > limits.payload or length > end - at:
            return None
        batch = EntryBatch([entry_term], [type], [data[at : at + length]])
        at += length
    elif size == _HEARTBEAT_SIZE - encoding.PREAMBLE_SIZE and end - at >= _HEARTBEAT_SIZE:
        n, last = _HEARTBEAT.unpack_from(data, at)[6:]
        if n != 0 or last != _WHOLE:
            return None
        batch = EntryBatch([], [], [])
        at += _HEARTBEAT_SIZE
    else:
        found = _several(data, at, end, size, limits)
        if found is None or found.terms[0] > term or second + len(found.bufs) > encoding.LAST_INDEX:
            return None
        batch = found
        at += encoding.PREAMBLE_SIZE + size + batch.alike * len(batch.bufs)
    p = RaftAppendEntries()
    p.term = term
    p.prev_log_index = second
    p.prev_log_term = third
    p.leader_commit = fourth
    p.whole = True
    p.entries = batch
    message = RaftMessage(RAFT_IO_APPEND_ENTRIES)
    message.append_entries = p
    return message, at


def _several(data: bytes, at: int, end: int, size: int, limits: Limits) -> EntryBatch | None:
    """Return the entries of an AppendEntries at data[at:] with a header of `size` bytes, if they are alike."""
    n, rest = divmod(size - (_HEARTBEAT_SIZE - encoding.PREAMBLE_SIZE), encoding.ENTRY_HEADER_SIZE)
    start = at + encoding.PREAMBLE_SIZE + size
    if rest != 0 or n < 2 or start > end:
        return None
    if _WORD.unpack_from(data, at + _COUNT_AT)[0] != n or _WORD.unpack_from(data, start - 8)[0] != _WHOLE:
        return None
    same = encoding.alike(data, at + _COUNT_AT + 8, n)
    if same is None:
        return None
    term, length = same
    payload = length * n
    if term < 1 or length == 0 or length % 8 != 0 or payload > limits.payload or payload > end - start:
        return None
    body = data[start : start + payload]
    batch = EntryBatch([term] * n, [RAFT_COMMAND] * n, encoding.cut(memoryview(body), length))
    batch.alike = length
    # They are what encode_batch would make, for the file.
    batch.head, batch.body = data[at + _COUNT_AT : start - 8], body
    return batch


def encode(message: RaftMessage) -> list[bytes | memoryview] | None:
    """Return the bytes that encoding.encode_message does, maybe in other pieces, None for that to do it."""
    kind = message.type
    args, result = message.append_entries, message.append_entries_result
    if kind == RAFT_IO_APPEND_ENTRIES_RESULT and result is not None:
        last = result.features | result.question << 16
        size = _RESULT_SIZE - encoding.PREAMBLE_SIZE
        try:
            return [_RESULT.pack(kind, size, result.term, result.rejected, result.last_log_index, last)]
        except struct.error:
            return None
    if kind != RAFT_IO_APPEND_ENTRIES or args is None:
        return None
    if args.encoded:
        return args.encoded
    batch = args.entries
    if not args.whole or type(batch) is not EntryBatch:
        return None
    n = len(batch.bufs)
    if n > 1 and batch.alike < 0:
        return None
    numbers = (args.term, args.prev_log_index, args.prev_log_term, args.leader_commit, n)
    bufs: list[bytes | memoryview]
    try:
        if n == 0:
            bufs = [_HEARTBEAT.pack(kind, _HEARTBEAT_SIZE - encoding.PREAMBLE_SIZE, *numbers, _WHOLE)]
        elif n > 1:
            size = _HEARTBEAT_SIZE - encoding.PREAMBLE_SIZE + encoding.ENTRY_HEADER_SIZE * n
            head, body = encoding.encode_batch(batch)
            header = _UP_TO_COUNT.pack(kind, size, *numbers[:4]) + head + _WORD.pack(_WHOLE)
            bufs = [header + body] if len(body) < _JOINED else [header, body]
        else:
            size, buf = _ONE_SIZE - encoding.PREAMBLE_SIZE, batch.bufs[0]
            length = len(buf)
            header = _ONE.pack(kind, size, *numbers, batch.terms[0], batch.types[0], length, _WHOLE)
            bufs = [header + buf] if length < _JOINED else [header, buf]
    except (struct.error, Failure):
        return None
    if args.encoded is not None:
        args.encoded = bufs
    return bufs


def _result(term: int, rejected: int, last_index: int, features: int, at: int) -> tuple[RaftMessage, int] | None:
    if term > encoding.LAST or rejected > encoding.LAST_INDEX or last_index > encoding.LAST_INDEX:
        return None
    p = RaftAppendEntriesResult()
    p.term = term
    p.rejected = rejected
    p.last_log_index = last_index
    p.features = features & encoding.FEATURES
    if features & encoding.OURS == encoding.OURS:
        p.question = features >> 16 & encoding.QUESTION
    message = RaftMessage(RAFT_IO_APPEND_ENTRIES_RESULT)
    message.append_entries_result = p
    return message, at + _RESULT_SIZE
