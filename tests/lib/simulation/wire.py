"""Whether io_uv's codec carries what a simulated server sends: the network of the simulation hands objects over.

Duty: `problem` encodes a message as io_uv does, decodes it as the peer would, and says what became of it. Payloads are
filled up to multiples of 8 bytes, as the simulated commands have any length.

Failure modes: none; worlds whose numbers no directory of io_uv can have (`is_within`) are not asked about, nor is a
copy of the core in the pure form beside a compiled codec, which takes messages of the compiled core only.
"""

from typing import TYPE_CHECKING, Any, Final

from io_uv import encoding, lane
from io_uv.failure import Failure
from io_uv.state import Limits
from pyraft import RaftMessage, types
from pyraft.types import EntryBatch, RaftAppendEntries
from tests.lib.messages import fields_of

if TYPE_CHECKING:
    from tests.lib.simulation.profile import Profile

_LIMITS: Final = Limits()
_names: dict[type, list[str]] = {}
_TOGETHER: Final = encoding.__file__.endswith(".py") == types.__file__.endswith(".py")


def is_within(profile: "Profile") -> bool:
    """Return whether all terms and indexes of a world are ones that io_uv stores."""
    within = profile.first_index < encoding.LAST_INDEX >> 1 and profile.first_term < encoding.LAST >> 1
    return _TOGETHER and within


def problem(message: RaftMessage) -> str:
    """Return why the peer does not get this message as it was sent, "" if it does."""
    sent = _aligned(message)
    data = b"".join(bytes(buf) for buf in lane.encode(sent) or encoding.encode_message(sent))
    try:
        found = lane.decode(data, 0, len(data), _LIMITS)
        received = _decoded(data) if found is None else found[0]
    except Failure as exc:
        return f"a message that its peers do not accept: {exc}"
    before, after = _content(sent), _content(received)
    return "" if before == after else f"{before}, and its peers read {after}"


def _aligned(message: RaftMessage) -> RaftMessage:
    args = message.append_entries
    if args is None or not args.entries:
        return message
    batch = EntryBatch.of(args.entries, len(args.entries))
    copy = RaftMessage()
    copy.type = message.type
    copy.append_entries = a = RaftAppendEntries()
    for name in ("term", "prev_log_index", "prev_log_term", "leader_commit", "whole", "question"):
        setattr(a, name, getattr(args, name))
    a.entries = EntryBatch(batch.terms, batch.types, [buf + bytes(-len(buf) % 8) for buf in batch.bufs])
    return copy


def _decoded(data: bytes) -> RaftMessage:
    word, size = encoding.preamble.unpack_from(data)
    at = encoding.PREAMBLE_SIZE + size
    message, lengths, payload = encoding.decode_header(word & 0xFFFF, data, encoding.PREAMBLE_SIZE, size, _LIMITS)
    if payload:
        encoding.attach_payload(message, lengths, data, at, payload)
    return message


def _content(message: RaftMessage) -> list[Any]:
    """Return all that the peer's core reads of a message."""
    found: list[Any] = []
    for part in (
        message.request_vote,
        message.request_vote_result,
        message.append_entries,
        message.append_entries_result,
        message.install_snapshot,
        message.timeout_now,
    ):
        if part is not None:
            kind = type(part)
            if kind not in _names:
                _names[kind] = [name for name in fields_of(part) if name != "encoded"]
            found += [(name, _plain(name, getattr(part, name))) for name in _names[kind]]
    return found


def _plain(name: str, value: Any) -> Any:
    if name == "entries":
        batch = EntryBatch.of(value, len(value))
        return batch.terms, batch.types, [bytes(buf) for buf in batch.bufs]
    if name == "conf":
        return [(server.id, server.address, server.role) for server in value.servers]
    return bytes(value) if name == "data" else value
