"""The bytes of RPC messages and of the batch headers that messages and segments share.

Duty: turn a RaftMessage into the buffers that go to the socket, and a received header back into a RaftMessage.
A message is a preamble (word type, word header length), a header of words and, for AppendEntries and InstallSnapshot,
a payload. Integers are little-endian, a word is 8 bytes. The layouts are libraft's; unused bytes are sent as zeros.

Happy path: `encode_message` packs preamble and header at once and hands the payloads on untouched. On the other side
`decode_header` reads the header and says how long the payload is; `attach_payload` cuts that into entries.

Failure modes: a message that does not fit, or could not be acted on without harm, raises Failure(RAFT_MALFORMED) with a
text that names the message and the offset in its header; a larger size than the limits allow, or an entry of 4 GiB and
more, raises Failure(RAFT_TOOBIG). Shorter headers of older versions and longer ones of newer relatives are accepted.
"""

import itertools
import mmap
import struct
from typing import Final, TypeAlias

from io_uv.failure import Failure, Unknown
from io_uv.state import Limits
from pyraft import configuration
from pyraft.errors import RAFT_MALFORMED, RAFT_TOOBIG
from pyraft.types import (
    MESSAGE_NAMES,
    NOBODYS,
    RAFT_APPEND_ENTRIES_RESULT_VERSION,
    RAFT_BARRIER,
    RAFT_CHANGE,
    RAFT_COMMAND,
    RAFT_IO_APPEND_ENTRIES,
    RAFT_IO_APPEND_ENTRIES_RESULT,
    RAFT_IO_INSTALL_SNAPSHOT,
    RAFT_IO_REQUEST_VOTE,
    RAFT_IO_REQUEST_VOTE_RESULT,
    RAFT_IO_TIMEOUT_NOW,
    RAFT_REQUEST_VOTE_RESULT_VERSION,
    RAFT_REQUEST_VOTE_VERSION,
    Buffer,
    EntryBatch,
    RaftAppendEntries,
    RaftAppendEntriesResult,
    RaftBuffer,
    RaftInstallSnapshot,
    RaftMessage,
    RaftRequestVote,
    RaftRequestVoteResult,
    RaftTimeoutNow,
    no_entries,
)

PREAMBLE_SIZE: Final = 16
BATCH_HEADER_SIZE: Final = 8
ENTRY_HEADER_SIZE: Final = 16

Data: TypeAlias = bytes | mmap.mmap
"""The source of decoding: bytes that were read, or the memory that a long payload was read into."""
Columns: TypeAlias = tuple[list[int], list[int], list[int]]
"""Terms, types and payload lengths of a batch."""

preamble: Final = struct.Struct("<QQ")

_WORD: Final = struct.Struct("<Q")
_TWO_WORDS: Final = struct.Struct("<2Q")
_THREE_WORDS: Final = struct.Struct("<3Q")
_FOUR_WORDS: Final = struct.Struct("<4Q")
_FIVE_WORDS: Final = struct.Struct("<5Q")
# The header of a batch of one: how many, term, type, length.
_ONE_ENTRY: Final = struct.Struct("<QQB3xI")
# One entry of several: term, type, length.
_ENTRY: Final = struct.Struct("<QB3xI")
# Preamble and header in one, for the messages of fixed size.
_REQUEST_VOTE: Final = struct.Struct("<7Q")
_REQUEST_VOTE_RESULT: Final = struct.Struct("<5Q")
_APPEND_ENTRIES: Final = struct.Struct("<6Q")
_HEARTBEAT: Final = struct.Struct("<8Q")
_APPEND_ENTRIES_RESULT: Final = struct.Struct("<6Q")
_INSTALL_SNAPSHOT: Final = struct.Struct("<7Q")
_TIMEOUT_NOW: Final = struct.Struct("<5Q")

_REQUEST_VOTE_SIZE: Final = 40
_REQUEST_VOTE_SIZE_V1: Final = 32
_REQUEST_VOTE_RESULT_SIZE: Final = 24
_REQUEST_VOTE_RESULT_SIZE_V1: Final = 16
APPEND_ENTRIES_SIZE: Final = 48
_APPEND_ENTRIES_RESULT_SIZE: Final = 32
_APPEND_ENTRIES_RESULT_SIZE_V0: Final = 24
INSTALL_SNAPSHOT_SIZE: Final = 56
_TIMEOUT_NOW_SIZE: Final = 24

_PLAIN_COMMAND: Final = bytes((RAFT_COMMAND, 0, 0, 0))
_MULTIPLES_OF_8: Final = bytes(range(0, 256, 8))
_DISRUPT_LEADER: Final = 1 << 0
_PRE_VOTE: Final = 1 << 1
_RESULT_PRE_VOTE: Final = 1 << 0
# Ours; no relative uses it.
_RESULT_NO_MEMBER: Final = 1 << 1
_ENTRY_TYPES: Final = bytes((RAFT_COMMAND, RAFT_BARRIER, RAFT_CHANGE))
LAST: Final = (1 << 63) - 1
# Names of segments have 16 digits for an index.
LAST_INDEX: Final = 10**16 - 1
# Terms and indexes of a message, in the order in which they come.
_TERM_INDEX_TERM_INDEX: Final = (LAST, LAST_INDEX, LAST, LAST_INDEX)
_TERM_INDEX_INDEX: Final = (LAST, LAST_INDEX, LAST_INDEX)
_VOTE_NUMBERS: Final = (LAST, (1 << 64) - 1, LAST_INDEX, LAST)
# A snapshot may take a server to any index up to this one, and there is room behind it for more entries than ever come.
_LAST_SNAPSHOT_INDEX: Final = 1 << 52
_SNAPSHOT_NUMBERS: Final = (LAST, _LAST_SNAPSHOT_INDEX, LAST, _LAST_SNAPSHOT_INDEX)
FEATURES: Final = 0xFFFF
_JOINED: Final = 64 * 1024
"""Payloads of a message are joined up to so many bytes. More of them are sent as they are, if no file needs them so."""
# The last word of an AppendEntries header, which C leaves unused: "pyrf", and flags.
TAG: Final = 0x7079_7266_0000_0000
WHOLE: Final = 1 << 0
_U32: Final = 0xFFFF_FFFF
# Features that only servers of this project have (pyraft/flags.py), and the bits of a question's number.
OURS: Final = 0xC000
QUESTION: Final = 0x7FFF_FFFF


def encode_batch_header(batch: EntryBatch) -> bytes:
    """Return the header of a batch: the number of entries n, then term, type and payload length of each; 8+16n bytes.

    Raises Failure(RAFT_TOOBIG) for a payload of 4 GiB and more: its length has 32 bits.
    """
    n = len(batch.bufs)
    size = len(batch.bufs[0]) if n == 1 else _U32 + 1
    if size <= _U32:
        return _ONE_ENTRY.pack(1, batch.terms[0], batch.types[0], size)
    if 0 <= batch.alike <= _U32 and batch.terms[0] <= LAST:
        return _WORD.pack(n) + _ENTRY.pack(batch.terms[0], RAFT_COMMAND, batch.alike) * n
    return _WORD.pack(n) + _encode_entry_headers(batch, n)


def look(batch: EntryBatch) -> None:
    """Note whether the entries of a batch of several are alike (EntryBatch.alike), where that is not known yet."""
    bufs, terms = batch.bufs, batch.terms
    n = len(bufs)
    if batch.alike >= 0 or n < 2 or len(bufs[0]) != len(bufs[-1]):
        return
    if batch.types.count(RAFT_COMMAND) == n and terms.count(terms[0]) == n and len(set(map(len, bufs))) == 1:
        batch.alike = len(bufs[0])


def alike(header: Data, at: int, n: int) -> tuple[int, int] | None:
    """Return term and payload length of n commands whose headers begin at header[at:], None if these differ.

    They do if a byte that is not used is not 0, as it may be in a message of C's.
    """
    one = bytes(header[at : at + ENTRY_HEADER_SIZE])
    if one[8:12] != _PLAIN_COMMAND or header[at : at + ENTRY_HEADER_SIZE * n] != one * n:
        return None
    term, _, length = _ENTRY.unpack(one)
    return term, length


def encode_batch(batch: EntryBatch) -> tuple[bytes, bytes]:
    """Return header and payloads of a batch, as they stand in messages and in files (raft/uv.h).

    Those of several entries are kept with the batch, so that they are made once for file and messages. Raises Failure
    as encode_batch_header does.
    """
    if len(batch.bufs) == 1:
        return encode_batch_header(batch), batch.bufs[0]
    head, body = batch.head, batch.body
    if head is None or body is None:
        head, body = encode_batch_header(batch), b"".join(batch.bufs)
        batch.head, batch.body = head, body
    return head, body


def decode_batch_header(view: bytes | memoryview | mmap.mmap, offset: int, n: int) -> Columns:
    """Return terms, types and payload lengths from the header of a batch of `n` entries that starts at `offset`.

    `view` is any bytes-like object (quickest: bytes) that holds all of the 8+16n bytes; the count in front, which the
    caller has read and judged, is skipped. Raises Failure(RAFT_MALFORMED) for an entry type that does not exist.
    """
    if n == 1:
        _, term, type, length = _ONE_ENTRY.unpack_from(view, offset)
        if type not in _ENTRY_TYPES:
            raise Unknown(RAFT_MALFORMED, f"entry 0 of 1 has unknown type {type}")
        return [term], [type], [length]
    at = offset + BATCH_HEADER_SIZE
    types = bytes(view[at + 8 : at + ENTRY_HEADER_SIZE * n : ENTRY_HEADER_SIZE])
    if types.strip(_ENTRY_TYPES):
        i = next(i for i in range(n) if types[i] not in _ENTRY_TYPES)
        raise Unknown(RAFT_MALFORMED, f"entry {i} of {n} has unknown type {types[i]}")
    # Strides of whole tuples stay in C: 3 µs for 64 entries, against 5 for a loop over them.
    terms = struct.unpack_from(f"<{2 * n}Q", view, at)[::2]
    lengths = struct.unpack_from(f"<{4 * n}I", view, at)[3::4]
    return list(terms), list(types), list(lengths)


def encode_message(message: RaftMessage) -> list[bytes | memoryview]:
    """Return the buffers that make up `message` on the wire: preamble and header first, then the payloads untouched.

    Always the newest layout, whatever the message's version field says. Raises Failure: RAFT_MALFORMED for a type
    that does not exist, RAFT_TOOBIG for a number or length that has no room in its field.
    """
    encode = _ENCODERS.get(message.type)
    if encode is None:
        raise Failure(RAFT_MALFORMED, f"unknown message type {message.type}")
    try:
        return encode(message)
    except struct.error as exc:
        raise Failure(RAFT_TOOBIG, f"{MESSAGE_NAMES[message.type]}: {exc}") from None


def name_of(type: int) -> str:
    """Return the name of a message type, for traces."""
    return MESSAGE_NAMES.get(type, f"message of type {type}")


def decode_header(type: int, buf: Data, at: int, size: int, limits: Limits) -> tuple[RaftMessage, list[int], int]:
    """Decode the header of `size` bytes at buf[at:]; return the message, its entries' lengths and its payload's.

    `type` is the low 16 bits of the preamble's type word. Entries, snapshot data, and the peer's id and address are
    still missing in the message. Raises Failure as the module's head has it; its offsets count from the preamble's end.
    """
    decode = _DECODERS.get(type)
    if decode is None:
        raise Failure(RAFT_MALFORMED, "unknown message type")
    message = RaftMessage()
    message.type = type
    lengths, payload = decode(message, buf, at, size)
    if payload > limits.payload:
        _check_size(message, lengths, payload, limits)
    return message, lengths, payload


def _check_size(message: RaftMessage, lengths: list[int], size: int, limits: Limits) -> None:
    """Raise Failure(RAFT_TOOBIG) for a payload of `size` bytes, beyond limits.payload, that there is no room for."""
    limit = limits.payload
    if message.install_snapshot is not None:
        limit = max(limit, limits.snapshot)
    elif limits.piece > 0:
        size = max(lengths)  # it is taken in pieces (pieces.Large)
    if size > limit:
        raise Failure(RAFT_TOOBIG, f"payload of {size} bytes exceeds the limit of {limit}")


def attach_payload(message: RaftMessage, lengths: list[int], buf: Data, at: int, size: int) -> None:
    """Give `message` the payload of `size` bytes at buf[at:]: the entries' bytes, or the snapshot's data as a view.

    `buf` is bytes, or a mapping, which entries are copied from. Raises Failure(RAFT_MALFORMED) for an entry of type
    CHANGE whose payload is not a configuration.
    """
    if message.install_snapshot is not None:
        message.install_snapshot.data = memoryview(buf)[at : at + size].toreadonly()
        return
    args = message.append_entries
    assert args is not None
    batch = args.entries
    assert isinstance(batch, EntryBatch)
    if batch.head is not None:
        batch.body = buf = bytes(buf[at : at + size])
        at = 0
    if batch.alike >= 0 or lengths.count(lengths[0]) == len(lengths) > 1:
        batch.bufs = cut(memoryview(buf)[at : at + size], lengths[0])
        if batch.alike >= 0:
            return
    else:
        ends = itertools.accumulate(lengths, initial=at)
        batch.bufs = [buf[begin:end] for begin, end in itertools.pairwise(ends)]
    _check_changes(batch)


def cut(payload: memoryview, length: int) -> list[bytes]:
    """Cut pieces of one length, above 0. Equal lengths are common, and struct cuts them in half the time."""
    return list(itertools.chain.from_iterable(struct.iter_unpack(f"{length}s", payload)))


def _encode_entry_headers(batch: EntryBatch, n: int) -> bytes:
    """Return the 16 bytes of each entry: term (8), type (1), unused (3), payload length (4)."""
    halves: list[int] = [0] * (4 * n)
    halves[0::4] = batch.terms
    halves[2::4] = batch.types
    halves[3::4] = map(len, batch.bufs)
    try:
        return struct.pack(f"<{4 * n}I", *halves)
    except struct.error:
        # A term of more than 32 bits, or a length that does not fit at all.
        pass
    words = [0] * (2 * n)
    words[0::2] = batch.terms
    words[1::2] = [type | len(buf) << 32 for type, buf in zip(batch.types, batch.bufs, strict=True)]
    try:
        return struct.pack(f"<{2 * n}Q", *words)
    except struct.error:
        longest = max(map(len, batch.bufs))
        raise Failure(RAFT_TOOBIG, f"entry with a payload of {longest} bytes or a term above 64 bits") from None


def _encode_request_vote(message: RaftMessage) -> list[bytes | memoryview]:
    p = message.request_vote
    assert p is not None
    flags = (_DISRUPT_LEADER if p.disrupt_leader else 0) | (_PRE_VOTE if p.pre_vote else 0)
    last = (p.last_log_index, p.last_log_term)
    return [_REQUEST_VOTE.pack(RAFT_IO_REQUEST_VOTE, _REQUEST_VOTE_SIZE, p.term, p.candidate_id, *last, flags)]


def _encode_request_vote_result(message: RaftMessage) -> list[bytes | memoryview]:
    p = message.request_vote_result
    assert p is not None
    flags = (_RESULT_PRE_VOTE if p.pre_vote else 0) | (_RESULT_NO_MEMBER if p.no_member else 0)
    granted = 1 if p.vote_granted else 0
    head = (RAFT_IO_REQUEST_VOTE_RESULT, _REQUEST_VOTE_RESULT_SIZE)
    return [_REQUEST_VOTE_RESULT.pack(*head, p.term, granted, flags)]


def _encode_append_entries(message: RaftMessage) -> list[bytes | memoryview]:
    p = message.append_entries
    assert p is not None
    if p.encoded:
        return p.encoded
    n = len(p.entries)
    size = APPEND_ENTRIES_SIZE + ENTRY_HEADER_SIZE * n
    args = (RAFT_IO_APPEND_ENTRIES, size, p.term, p.prev_log_index, p.prev_log_term, p.leader_commit)
    # C: uv_encoding.c:sizeofAppendEntries counts a leader id that is not sent, so a header ends with an unused word.
    last = TAG | WHOLE if p.whole else TAG | p.question << 1 if p.question else 0
    if n == 0:
        return [_HEARTBEAT.pack(*args, 0, last)]
    batch = EntryBatch.of(p.entries, n)
    bufs: list[bytes | memoryview]
    if batch.body is not None or sum(map(len, batch.bufs)) <= _JOINED:
        entries, payload = encode_batch(batch)
        bufs = [b"".join((_APPEND_ENTRIES.pack(*args), entries, _WORD.pack(last))), payload]
    else:
        header = b"".join((_APPEND_ENTRIES.pack(*args), encode_batch_header(batch), _WORD.pack(last)))
        bufs = [header, *batch.bufs]
    if p.encoded is not None:
        p.encoded = bufs
    return bufs


def _encode_append_entries_result(message: RaftMessage) -> list[bytes | memoryview]:
    p = message.append_entries_result
    assert p is not None
    head = (RAFT_IO_APPEND_ENTRIES_RESULT, _APPEND_ENTRIES_RESULT_SIZE)
    return [_APPEND_ENTRIES_RESULT.pack(*head, p.term, p.rejected, p.last_log_index, p.features | p.question << 16)]


def _encode_install_snapshot(message: RaftMessage) -> list[bytes | memoryview]:
    p = message.install_snapshot
    assert p is not None
    data = _view(p.data)
    conf = configuration.encode(p.conf)
    size = INSTALL_SNAPSHOT_SIZE + len(conf)
    args = (p.term, p.last_index, p.last_term, p.conf_index, len(conf))
    # C: uv_encoding.c:sizeofInstallSnapshot counts a leader id too.
    tail = _TWO_WORDS.pack(data.nbytes, 0)
    return [_INSTALL_SNAPSHOT.pack(RAFT_IO_INSTALL_SNAPSHOT, size, *args) + conf + tail, data]


def _encode_timeout_now(message: RaftMessage) -> list[bytes | memoryview]:
    p = message.timeout_now
    assert p is not None
    head = (RAFT_IO_TIMEOUT_NOW, _TIMEOUT_NOW_SIZE)
    return [_TIMEOUT_NOW.pack(*head, p.term, p.last_log_index, p.last_log_term)]


def _view(data: Buffer) -> memoryview:
    if isinstance(data, RaftBuffer):
        return memoryview(data.base).cast("B")[: data.len]
    return memoryview(data).cast("B")


def _decode_request_vote(message: RaftMessage, buf: Data, at: int, size: int) -> tuple[list[int], int]:
    legacy = size == _REQUEST_VOTE_SIZE_V1
    if size < _REQUEST_VOTE_SIZE and not legacy:
        raise _short(size, _REQUEST_VOTE_SIZE)
    p = RaftRequestVote()
    p.term, p.candidate_id, p.last_log_index, p.last_log_term = _FOUR_WORDS.unpack_from(buf, at)
    _check_range((p.term, p.candidate_id, p.last_log_index, p.last_log_term), _VOTE_NUMBERS)
    if p.candidate_id == 0:
        raise Failure(RAFT_MALFORMED, "candidate id 0 at offset 8")
    if legacy:
        p.version = 1
    else:
        (flags,) = _WORD.unpack_from(buf, at + _REQUEST_VOTE_SIZE_V1)
        p.version = RAFT_REQUEST_VOTE_VERSION
        p.disrupt_leader = flags & _DISRUPT_LEADER != 0
        p.pre_vote = flags & _PRE_VOTE != 0
    message.request_vote = p
    return [], 0


def _decode_request_vote_result(message: RaftMessage, buf: Data, at: int, size: int) -> tuple[list[int], int]:
    legacy = size == _REQUEST_VOTE_RESULT_SIZE_V1
    if size < _REQUEST_VOTE_RESULT_SIZE and not legacy:
        raise _short(size, _REQUEST_VOTE_RESULT_SIZE)
    p = RaftRequestVoteResult()
    p.term, granted = _TWO_WORDS.unpack_from(buf, at)
    _check_range((p.term,), _TERM_INDEX_INDEX)
    p.vote_granted = granted != 0
    if legacy:
        p.version = 1
    else:
        # Newer relatives keep more in this word; its first byte is the flags.
        p.version = RAFT_REQUEST_VOTE_RESULT_VERSION
        flags = buf[at + _REQUEST_VOTE_RESULT_SIZE_V1]
        p.pre_vote = flags & _RESULT_PRE_VOTE != 0
        p.no_member = flags & _RESULT_NO_MEMBER != 0
    message.request_vote_result = p
    return [], 0


def _decode_append_entries(message: RaftMessage, buf: Data, at: int, size: int) -> tuple[list[int], int]:
    # The word at the end may be missing. C's is whatever was in the memory, perhaps a word of ours; then `whole` is
    # true of the message all the same, as C's go to the end of the log.
    fixed = APPEND_ENTRIES_SIZE - 8
    if size < fixed:
        raise _short(size, fixed)
    p = RaftAppendEntries()
    n: int
    p.term, p.prev_log_index, p.prev_log_term, p.leader_commit, n = _FIVE_WORDS.unpack_from(buf, at)
    n &= _U32
    # A heartbeat may name a predecessor that nobody has (pyraft.proof).
    asks = n == 0 and p.prev_log_index >= NOBODYS
    _check_range((p.term, 0 if asks else p.prev_log_index, p.prev_log_term, p.leader_commit), _TERM_INDEX_TERM_INDEX)
    message.append_entries = p
    at_last = fixed + ENTRY_HEADER_SIZE * n
    if size >= at_last + 8:
        (last,) = _WORD.unpack_from(buf, at + at_last)
        p.whole = last == TAG | WHOLE
        if last & WHOLE == 0 and last & ~_U32 == TAG:
            p.question = (last & _U32) >> 1
    if n == 0:
        p.entries = no_entries()
        return [], 0
    if size < fixed + ENTRY_HEADER_SIZE * n:
        raise Failure(RAFT_MALFORMED, f"{n} entries at offset 32 do not fit in a header of {size} bytes")
    lengths = _decode_entries(p, buf, at + 32, n)
    batch = p.entries
    assert isinstance(batch, EntryBatch)
    payload = sum(lengths) if batch.alike < 0 else batch.alike * n
    if n > 1 and p.whole:
        header = bytes(buf[at + 32 : at + 40 + ENTRY_HEADER_SIZE * n])
        batch.head = _canonical_header(header, n, batch.alike >= 0)
    if payload == 0:
        batch.bufs = [b""] * n
        if batch.head is not None:
            batch.body = b""
        _check_changes(batch)
    return lengths, payload


def _decode_entries(p: RaftAppendEntries, buf: Data, at: int, n: int) -> list[int]:
    """Give `p` its n entries, but for payloads, from the batch header at buf[at:]; return the payloads' lengths."""
    same = alike(buf, at + BATCH_HEADER_SIZE, n) if n > 1 else None
    if same is not None and 0 < same[0] <= p.term and same[1] % 8 == 0 and p.prev_log_index + n <= LAST_INDEX:
        batch = p.entries = EntryBatch([same[0]] * n, [RAFT_COMMAND] * n, [])
        batch.alike = same[1]
        return [same[1]] * n
    terms, types, lengths = decode_batch_header(buf, at, n)
    if p.prev_log_index + n > LAST_INDEX:
        raise Failure(RAFT_MALFORMED, f"index out of range: {n} entries after the one at offset 8")
    if min(terms) == 0 or max(terms) > p.term:
        raise Failure(RAFT_MALFORMED, "entry with a term out of range, from offset 40 on")
    # The disk takes nothing but multiples of 8, and C steps over padding that C does not send.
    if bytes(buf[at + 20 : at + 8 + ENTRY_HEADER_SIZE * n : ENTRY_HEADER_SIZE]).strip(_MULTIPLES_OF_8):
        raise Failure(RAFT_MALFORMED, "entry with a payload that is not a multiple of 8 bytes, from offset 40 on")
    p.entries = EntryBatch(terms, types, [])
    return lengths


def _canonical_header(header: bytes, n: int, plain: bool) -> bytes | None:
    """Return the header of a batch if it is as encode_batch_header makes it: its unused bits are 0. Else None.

    `plain` says that these bits have been looked at already (alike).
    """
    if plain:
        return header if _WORD.unpack_from(header)[0] == n else None
    first = BATCH_HEADER_SIZE + 9  # The three bytes behind an entry's type.
    unused = header[first::ENTRY_HEADER_SIZE] + header[first + 1 :: ENTRY_HEADER_SIZE]
    unused += header[first + 2 :: ENTRY_HEADER_SIZE]
    return header if _WORD.unpack_from(header)[0] == n and not unused.strip(b"\0") else None


def _decode_append_entries_result(message: RaftMessage, buf: Data, at: int, size: int) -> tuple[list[int], int]:
    legacy = size == _APPEND_ENTRIES_RESULT_SIZE_V0
    if size < _APPEND_ENTRIES_RESULT_SIZE and not legacy:
        raise _short(size, _APPEND_ENTRIES_RESULT_SIZE)
    p = RaftAppendEntriesResult()
    if legacy:
        p.version = 0
        p.term, p.rejected, p.last_log_index = _THREE_WORDS.unpack_from(buf, at)
    else:
        p.version = RAFT_APPEND_ENTRIES_RESULT_VERSION
        p.term, p.rejected, p.last_log_index, features = _FOUR_WORDS.unpack_from(buf, at)
        # Newer relatives report their disk's capacity in the upper bytes of the word, ours which question they answer.
        p.features = features & FEATURES
        if features & OURS == OURS:
            p.question = features >> 16 & QUESTION
    # Servers of either kind refuse such a predecessor by its index.
    _check_range((p.term, 0 if p.rejected >= NOBODYS else p.rejected, p.last_log_index), _TERM_INDEX_INDEX)
    message.append_entries_result = p
    return [], 0


def _decode_install_snapshot(message: RaftMessage, buf: Data, at: int, size: int) -> tuple[list[int], int]:
    # The unused word at the end may be missing here too.
    fixed = INSTALL_SNAPSHOT_SIZE - 8
    if size < fixed:
        raise _short(size, fixed)
    p = RaftInstallSnapshot()
    p.term, p.last_index, p.last_term, p.conf_index, conf_size = _FIVE_WORDS.unpack_from(buf, at)
    _check_range((p.term, p.last_index, p.last_term, p.conf_index), _SNAPSHOT_NUMBERS)
    if p.last_index == 0 or p.last_term == 0:
        raise Failure(RAFT_MALFORMED, "snapshot without index or term at offset 8")
    if p.last_term > p.term:
        raise Failure(RAFT_MALFORMED, "snapshot of a later term at offset 8")
    if conf_size > size - fixed:
        raise Failure(RAFT_MALFORMED, f"configuration of {conf_size} bytes does not fit in a header of {size} bytes")
    at += 40
    rv, p.conf, problem = configuration.decode(bytes(buf[at : at + conf_size]))
    if rv != 0:
        raise Failure(RAFT_MALFORMED, f"{problem}, from offset 40 on")
    if not p.conf.servers:
        raise Failure(RAFT_MALFORMED, "configuration without servers at offset 40")
    (payload,) = _WORD.unpack_from(buf, at + conf_size)
    message.install_snapshot = p
    return [], payload


def _decode_timeout_now(message: RaftMessage, buf: Data, at: int, size: int) -> tuple[list[int], int]:
    if size < _TIMEOUT_NOW_SIZE:
        raise _short(size, _TIMEOUT_NOW_SIZE)
    p = RaftTimeoutNow()
    p.term, p.last_log_index, p.last_log_term = _THREE_WORDS.unpack_from(buf, at)
    _check_range((p.term, p.last_log_index, p.last_log_term), _TERM_INDEX_TERM_INDEX)
    message.timeout_now = p
    return [], 0


def _check_range(numbers: tuple[int, ...], lasts: tuple[int, ...]) -> None:
    """Refuse terms, indexes and ids above the last of their kind: no honest peer gets there.

    How far a term may be ahead of ours only the core can tell.
    """
    # C: uv_encoding.c takes any word, and a term of 2^64-1 wraps to 0 at the next election.
    for i, number in enumerate(numbers):
        if number > lasts[i]:
            raise Failure(RAFT_MALFORMED, f"number out of range at offset {8 * i}")


def _check_changes(batch: EntryBatch) -> None:
    """Refuse changes to a configuration that does not decode or is empty: the log must not get them."""
    if RAFT_CHANGE not in batch.types:
        return
    for type, buf in zip(batch.types, batch.bufs, strict=True):
        if type == RAFT_CHANGE:
            rv, conf, problem = configuration.decode(buf)
            if rv != 0 or not conf.servers:
                raise Failure(RAFT_MALFORMED, problem or "configuration entry without servers")


def _short(size: int, least: int) -> Failure:
    return Failure(RAFT_MALFORMED, f"header of {size} bytes is shorter than {least}")


_ENCODERS: Final = {
    RAFT_IO_APPEND_ENTRIES: _encode_append_entries,
    RAFT_IO_APPEND_ENTRIES_RESULT: _encode_append_entries_result,
    RAFT_IO_REQUEST_VOTE: _encode_request_vote,
    RAFT_IO_REQUEST_VOTE_RESULT: _encode_request_vote_result,
    RAFT_IO_INSTALL_SNAPSHOT: _encode_install_snapshot,
    RAFT_IO_TIMEOUT_NOW: _encode_timeout_now,
}
_DECODERS: Final = {
    RAFT_IO_APPEND_ENTRIES: _decode_append_entries,
    RAFT_IO_APPEND_ENTRIES_RESULT: _decode_append_entries_result,
    RAFT_IO_REQUEST_VOTE: _decode_request_vote,
    RAFT_IO_REQUEST_VOTE_RESULT: _decode_request_vote_result,
    RAFT_IO_INSTALL_SNAPSHOT: _decode_install_snapshot,
    RAFT_IO_TIMEOUT_NOW: _decode_timeout_now,
}


def bad_header_size(size: int, limit: int) -> Failure:
    """Return what is wrong with a message whose header has so many bytes."""
    if size == 0:
        return Failure(RAFT_MALFORMED, "header of 0 bytes")
    return Failure(RAFT_TOOBIG, f"header of {size} bytes exceeds the limit of {limit}")
