"""An AppendEntries that is too large for memory, taken as several smaller ones.

Duty: libraft sends all that a server lacks behind its snapshot as one message, whatever its size (B31). `Large` stands
for one whose header is here, with term, type and length of each entry, and whose payload is still to come. It cuts the
entries into pieces of at most `Limits.piece` bytes, or of one entry that has more.

Happy path: `size` bytes of payload are awaited; `take` makes a message of them, which the core gets like any other; and
so on until `size` is 0. In between `recv` reads nothing until the core has stored the piece, so that no more of the
message is in memory than that and what the log keeps.

While the next piece has to wait for long, the leader's heartbeats wait behind it, in the connection. `beat` stands for
them: the leader is followed, and answered.

Failure modes: the core refuses a piece or a beat, and the rest of the message, which it would refuse too, is read and
dropped (`drop`). The connection ends in the middle: what was taken stands, and the leader goes on behind what was
acknowledged.

Each piece is a message that the leader might have sent, as its log has these entries in this place (log matching, 3.5):
with its term, the entry in front of the piece as the predecessor, and a commit index not beyond the piece. Only the
last piece says whether the leader's log ends there, as the whole message does.
"""

import mmap

from io_uv import encoding
from pyraft.types import RAFT_IO_APPEND_ENTRIES, EntryBatch, RaftAppendEntries, RaftMessage


def is_large(lengths: list[int], size: int, limit: int) -> bool:
    """Return whether entries of these lengths, `size` bytes together, are taken in pieces of `limit` bytes; 0: never.

    Messages without entries have no lengths.
    """
    return 0 < limit < size and len(lengths) > 1


def part(whole: RaftAppendEntries, batch: EntryBatch, first: int, end: int) -> RaftMessage:
    """Return a message of the entries first to before `end` of a larger one, whose entries are `batch`.

    Their payloads, and the sender, are still missing.
    """
    args = RaftAppendEntries()
    args.version = whole.version
    args.term = whole.term
    args.prev_log_index = whole.prev_log_index + first
    args.prev_log_term = batch.terms[first - 1] if first > 0 else whole.prev_log_term
    if end == len(batch.terms):
        args.leader_commit = whole.leader_commit
        args.whole = whole.whole
        args.question = whole.question
    else:
        args.leader_commit = min(whole.leader_commit, whole.prev_log_index + end)
        args.partial = True
    args.entries = EntryBatch(batch.terms[first:end], batch.types[first:end], [])
    message = RaftMessage()
    message.type = RAFT_IO_APPEND_ENTRIES
    message.append_entries = args
    return message


class Large:
    """A large AppendEntries on its way.

    The core answers each piece when it has stored it. libraft's leader gets several answers to one message by that,
    each of which tells of more. It takes an answer for what it says, not for the answer to something
    (replication.c:replicationUpdate), and its own followers do the same: they answer a heartbeat, or the end of a
    write, with what they have stored by then. In PROBE the first answer has it stream, so it sends what is left once
    more, at once; else it would send the whole message at each heartbeat until all of that is stored. A refusal of the
    first piece is that of the message. A later piece is refused after a failed write, or in another term, by an index
    that the leader has not named. It takes that for an old refusal in PROBE; in PIPELINE it goes back to what was
    acknowledged (progress.c:progressMaybeDecrement). All this holds for leaders of this project as well, and what they
    may conclude from an answer is bounded by the piece (B8).
    """

    __slots__ = ("_args", "_batch", "_end", "_first", "_left", "_lengths", "_limit", "size")

    def __init__(self, message: RaftMessage, lengths: list[int], limit: int) -> None:
        args = message.append_entries
        assert args is not None
        batch = args.entries
        assert isinstance(batch, EntryBatch)
        self._args = args
        self._batch = batch
        self._lengths = lengths
        self._limit = limit
        # The piece that is awaited: entries _first to before _end.
        self._first = 0
        self._end = 0
        # Bytes that are still to be dropped, those that are awaited included; 0 as long as nothing is.
        self._left = 0
        self.size = 0
        """Bytes of payload that are awaited; 0 at the end of the message."""
        self._advance()

    def take(self, buf: mmap.mmap) -> RaftMessage | None:
        """Return the message whose payload of `size` bytes `buf` begins with, and await the next one's.

        None if these were to be dropped. Raises Failure as encoding.attach_payload does.
        """
        if self._left > 0:
            self._left -= self.size
            self.size = min(self._left, self._limit)
            return None
        message = part(self._args, self._batch, self._first, self._end)
        encoding.attach_payload(message, self._lengths[self._first : self._end], buf, 0, self.size)
        self._advance()
        return message

    def beat(self) -> RaftMessage:
        """Return a heartbeat of the leader in the place of the piece that is awaited: its predecessor, no entries."""
        return part(self._args, self._batch, self._first, self._first)

    def drop(self) -> None:
        """Have all that is still to come dropped."""
        self._left = sum(self._lengths[self._first :])
        self.size = min(self._left, self._limit)

    def _advance(self) -> None:
        """Await the next entries: as many as fit, one with bytes at least, and all empty ones that follow."""
        self._first = end = self._end
        size = 0
        for length in self._lengths[end:]:
            if size > 0 and length > 0 and size + length > self._limit:
                break
            size += length
            end += 1
        self._end = end
        self.size = size
