"""The lane's bytes: the two messages of replication, each read and written with one Struct.

Duty: `decode` reads an AppendEntriesResult, a heartbeat or an AppendEntries of one command, if all of it is there and
it is as this project's servers write them: what a leader and its followers exchange where all is well. `encode` writes
one of them. `recv.Reader` and `encoding.encode_message` ask here first, and go on with the general codec (`encoding`)
where the answer is None.

Left out, as a test fails: other types, versions and sizes; messages that are not there whole; numbers out of range, so
that each refusal has the general codec's words; questions, and last words of C's; several entries, which the general
codec cuts with strides; barriers and configurations. The same bytes mean the same here and there: `test_lane.py` reads
and writes random messages both ways.

Failure modes: none.
"""

import struct
from typing import Final

from io_uv import encoding
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
        return _append_entries(term, second, third, fourth, batch), at + length
    if size == _HEARTBEAT_SIZE - encoding.PREAMBLE_SIZE and end - at >= _HEARTBEAT_SIZE:
        n, last = _HEARTBEAT.unpack_from(data, at)[6:]
        if n != 0 or last != _WHOLE:
            return None
        return _append_entries(term, second, third, fourth, EntryBatch([], [], [])), at + _HEARTBEAT_SIZE
    return None


def encode(message: RaftMessage) -> list[bytes | memoryview] | None:
    """Return what encoding.encode_message does, None for that to do it."""
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
    if not args.whole or not isinstance(batch, EntryBatch) or len(batch.bufs) > 1:
        return None
    n = len(batch.bufs)
    numbers = (args.term, args.prev_log_index, args.prev_log_term, args.leader_commit, n)
    bufs: list[bytes | memoryview]
    try:
        if n == 0:
            bufs = [_HEARTBEAT.pack(kind, _HEARTBEAT_SIZE - encoding.PREAMBLE_SIZE, *numbers, _WHOLE)]
        else:
            size, buf = _ONE_SIZE - encoding.PREAMBLE_SIZE, batch.bufs[0]
            bufs = [_ONE.pack(kind, size, *numbers, batch.terms[0], batch.types[0], len(buf), _WHOLE), buf]
    except struct.error:
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
    message = RaftMessage()
    message.type = RAFT_IO_APPEND_ENTRIES_RESULT
    message.append_entries_result = p
    return message, at + _RESULT_SIZE


def _append_entries(term: int, prev_index: int, prev_term: int, commit: int, batch: EntryBatch) -> RaftMessage:
    p = RaftAppendEntries()
    p.term = term
    p.prev_log_index = prev_index
    p.prev_log_term = prev_term
    p.leader_commit = commit
    p.whole = True
    p.entries = batch
    message = RaftMessage()
    message.type = RAFT_IO_APPEND_ENTRIES
    message.append_entries = p
    return message
