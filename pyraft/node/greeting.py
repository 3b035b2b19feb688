"""The beginning of raft's own connections between members: which cluster and which server the caller means.

Duty: `Greeting` is the handshake of a node's transport. It is libraft's, with more behind the end of the address, in
the room for its padding: MAGIC, the cluster's id (16 bytes), the id of the server that is called (a word). A C server,
and older ones of ours, take the address up to its end and look no further.

Happy path: `raft_uv_set_handshake(transport, Greeting(cluster, id))`; a peer of the same cluster that means this server
is let in, and so is one that says nothing of either.

Failure modes: two kinds of peers are refused: those of another cluster, whose configuration may have an address of
ours, and those that mean another server, whose address this one has now, for instance after the loss of a disk. The
reason is logged here, and is sent to the caller, which logs it too (`io_uv.tcp_listen`, `io_uv.client`).
"""

from typing import Final

from io_uv import tcp_common

MAGIC: Final = b"pyraft\0\1"

_SIZE: Final = len(MAGIC) + 16 + 8


class Greeting:
    """The handshake of one server; see the head of this module."""

    answered = True

    def __init__(self, cluster: str, id: int) -> None:
        self._cluster = bytes.fromhex(cluster)
        self._id = id

    def encode(self, id: int, address: str) -> bytes:
        """Return what this server says where it does not matter whom it means."""
        return tcp_common.encode_handshake(id, address)

    def introduce(self, id: int, address: str, peer: int) -> bytes:
        """Return what this server says first to server `peer`."""
        return tcp_common.encode_handshake(id, address, MAGIC + self._cluster + peer.to_bytes(8, "little"))

    def reader(self, limit: int) -> "GreetingReader":
        """Return the reader of one handshake."""
        return GreetingReader(self._cluster, self._id, limit)


class GreetingReader:
    """Reads one handshake, and refuses those that mean somebody else."""

    def __init__(self, cluster: bytes, id: int, limit: int) -> None:
        self._cluster = cluster
        self._own = id
        self._inner = tcp_common.Handshake(limit)
        self.id = 0
        self.address = ""
        self.rest = b""
        self.hears = False
        """Whether the peer reads a refusal, where TLS does not have it wait for an answer anyway."""

    def feed(self, data: bytes) -> bool:
        """Take some bytes; True once all is known. Raises ValueError with the reason why the peer is not let in."""
        inner = self._inner
        if not inner.feed(data):
            return False
        self.id, self.address, self.rest = inner.id, inner.address, inner.rest
        more = inner.more.lstrip(b"\0")
        if not more.startswith(MAGIC) or len(more) < _SIZE:
            return True
        self.hears = True
        cluster = more[len(MAGIC) : len(MAGIC) + 16]
        if cluster != self._cluster:
            raise ValueError(
                f"server {self.id} at {self.address} is of cluster {cluster.hex()}, and this one is of "
                f"{self._cluster.hex()}"
            )
        peer = int.from_bytes(more[len(MAGIC) + 16 : _SIZE], "little")
        if peer != self._own:
            raise ValueError(
                f"server {self.id} at {self.address} calls server {peer}, and here is server {self._own} now"
            )
        return True
