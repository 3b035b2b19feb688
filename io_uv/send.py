"""Sending messages.

The happy path of io.send is: encode the message; find the client of the target server, or make one, which begins to
connect at once; if it is connected, gather the message with others of the same turn of the loop; write them with one
call at the turn's end; call back when the system has taken them.

Possible failure modes are:

- The message has no encoding: io.send returns RAFT_MALFORMED or RAFT_TOOBIG. More is queued for that server than
  allowed, because it is away or reads too slowly, or it is not a member and too many such want answers at a time:
  RAFT_NOCONNECTION. It seems to end connections over messages of this size, for a while, or it would over so many
  entries at once if its limits are ours: RAFT_TOOBIG. io.close was called: RAFT_CANCELED. No callback.
- There is no connection: the message waits. After each attempt to connect that failed only the newest 3 keep waiting,
  the others fail with RAFT_NOCONNECTION, oldest first; another attempt follows after the retry delay, the first time
  after a lasting connection at once.
- A write fails, or the peer closes, which the client notices by reading: RAFT_IOERR for all under way; it reconnects.
- The target is not a member any more, its address changes, or io.close: what is being written and then what waits fails
  with RAFT_CANCELED, after stream, timer and connect request have ended, never inside the call.
"""

from typing import Final

from io_uv import closing, encoding, lane
from io_uv.client import Client
from io_uv.failure import Failure
from io_uv.state import Limits, Uv
from pyraft.errors import RAFT_NOCONNECTION, RAFT_TOOBIG, errmsg_cut
from pyraft.types import (
    RAFT_IO_APPEND_ENTRIES_RESULT,
    RAFT_IO_REQUEST_VOTE_RESULT,
    RaftIo,
    RaftIoSend,
    RaftMessage,
    raft_io_send_cb,
)

_ANSWERS: Final = (RAFT_IO_APPEND_ENTRIES_RESULT, RAFT_IO_REQUEST_VOTE_RESULT)
"""Messages that go to whoever has asked; all others go to members."""
_GIVEN_UP: Final = 5
"""Failures in a row after which a member's answers are tried at the address that it names itself."""
_BUSY_MSECS: Final = 1_000
_REFILL_MSECS: Final = 4_000
"""Time in which as many strangers may be called anew as may be answered at a time."""


def send(io: RaftIo, req: RaftIoSend, message: RaftMessage, cb: raft_io_send_cb) -> int:
    """Implementation of RaftIo.send. The head of this module says what it returns and calls back."""
    uv: Uv = io.impl
    if uv.closing:
        # C: uv_send.c:UvSend asserts.
        return closing.refuse(uv)
    req.cb = cb
    bufs = lane.encode(message)
    if bufs is None:
        try:
            bufs = encoding.encode_message(message)
        except Failure as failure:
            io.errmsg = errmsg_cut(failure.message)
            return failure.code
    size = len(bufs[0]) if len(bufs) == 1 else sum(map(len, bufs))
    id, address = message.server_id, message.server_address
    answers = message.type in _ANSWERS
    client: Client | None = None
    if not answers or (uv.peers.members is not None and uv.peers.members.get(id) == address):
        # _member, where it has nothing to do but to find it, as almost always.
        for one in uv.clients:
            if one.id == id:
                client = one if one.address == address and not one.answering else None
                break
    if client is None:
        # The core sends all but answers to members only, at the addresses of its configuration.
        client = _answered(uv, id, address) if answers else _member(uv, id, address)
    if client is None:
        return RAFT_NOCONNECTION
    # C: uv_send.c queues without limit while the first attempt to connect lasts or the peer does not read.
    if client.size and client.size + size > uv.limits.queue:
        io.errmsg = f"{client.size} bytes are queued for server {client.id}, the limit is {uv.limits.queue}"
        uv.peers.teller.warn(("queue", client.id), io.errmsg)
        return RAFT_NOCONNECTION
    if client.large.size and client.large.refuses(uv.loop.now(), size):
        io.errmsg = f"server {client.id} ends the connection whenever a message of {client.large.size} bytes comes"
        return RAFT_TOOBIG
    if (size > uv.limits.header or size > uv.limits.payload) and _is_too_much(uv.limits, message, size):
        io.errmsg = "so many entries at once exceed a limit of raft_uv_limits"
        return RAFT_TOOBIG
    client.submit((req, bufs, size))
    return 0


def _is_too_much(limits: Limits, message: RaftMessage, size: int) -> bool:
    """Return whether servers with our limits end the connection over entries that they would take one by one."""
    args = message.append_entries
    if args is None or len(args.entries) < 2:
        return False
    header = encoding.APPEND_ENTRIES_SIZE + encoding.ENTRY_HEADER_SIZE * len(args.entries)
    payload = size - encoding.PREAMBLE_SIZE - header
    return header > limits.header or (limits.piece == 0 and payload > limits.payload)


def close(uv: Uv) -> None:
    """Abort all clients."""
    for client in list(uv.clients):
        client.abort()


def configured(uv: Uv, members: dict[int, str]) -> None:
    """End what is for nobody any more: from now on these are the members, by id, with their addresses.

    If this server is not among them it calls none of them by itself. They may not know that, so it still answers.
    """
    uv.peers.members = members
    is_out = _is_out(uv)
    for client in list(uv.clients):
        if members.get(client.id) == client.address:
            if is_out:
                client.dismiss()
            elif client.answering:
                client.adopt()
        elif client.id in members or not client.answering:
            client.abort()


def _is_out(uv: Uv) -> bool:
    """Return whether this server is not a member of the cluster whose members it knows."""
    members = uv.peers.members
    return members is not None and len(members) > 0 and uv.id not in members


def _answered(uv: Uv, id: int, address: str) -> Client | None:
    """Return the client for an answer, a new one if need be; None, with a text, if it must not be sent."""
    # A peer's word on its own address counts only as long as nobody knows better: it may be a stranger, who wants
    # us to call somebody else.
    known = None if uv.peers.members is None else uv.peers.members.get(id)
    if known is not None:
        client = _member(uv, id, known, answering=_is_out(uv))
        if known == address or (client.failures < _GIVEN_UP and not client.answering):
            return client
        # A member that cannot be reached where it should be may have moved, and our configuration be an old one.
    for client in uv.clients:
        if client.id == id and client.address == address:
            found: Client = client
            return found
    return _stranger(uv, id, address)


def _member(uv: Uv, id: int, address: str, answering: bool = False) -> Client:
    """Return the client of a member, a new one if there is none or if its address has changed.

    A new one that is but `answering` goes when it is not used any more.
    """
    for client in uv.clients:
        if client.id != id:
            continue
        if client.address == address:
            if client.answering and not answering:
                client.adopt()
            found: Client = client
            return found
        if not client.answering:
            client.abort()
            break
    return _new(uv, Client(uv, id, address, answering))


def _stranger(uv: Uv, id: int, address: str) -> Client | None:
    """Return a new client for a server that is not a member, within what there may be of these."""
    now: int = uv.loop.now()
    answering = [client for client in uv.clients if client.answering]
    if len(answering) >= uv.limits.answers:
        oldest = min(answering, key=lambda client: (client.stream is not None, client.used_at))
        if oldest.stream is not None and now - oldest.used_at < _BUSY_MSECS:
            _too_many(uv, f"{len(answering)} servers that are not members are being answered already")
            return None
        oldest.abort()
    earned = (now - uv.peers.answers_at) * uv.limits.answers / _REFILL_MSECS
    uv.peers.answers_at = now
    uv.peers.answers_left = min(uv.peers.answers_left + earned, float(uv.limits.answers))
    if uv.peers.answers_left < 1:
        _too_many(uv, "too many servers that are not members want answers at once")
        return None
    uv.peers.answers_left -= 1
    return _new(uv, Client(uv, id, address, answering=True))


def _too_many(uv: Uv, text: str) -> None:
    """Answer nobody else, and tell: one of them may be a server whose configuration here is an old one."""
    uv.io.errmsg = text
    uv.peers.teller.warn("answers", "%s, the limit is %d", text, uv.limits.answers)


def _new(uv: Uv, client: Client) -> Client:
    uv.clients.append(client)
    client.connect()
    return client
