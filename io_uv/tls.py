"""TLS for the stock transport: both ends prove who they are.

Duty: `raft_uv_tls_init` makes a transport like raft_uv_tcp_init does, whose connections are TLS 1.3 inside;
`raft_uv_tls_reload` reads renewed files and ends the connections that the old ones let in. The bytes inside are those
of plain TCP.

Happy path: both ends show a certificate that one of the given authorities has signed, and that names the server. It
does so by DNS names `raft-server-ID`; or, where it has no name of that form, by the host of the server's address, as a
DNS name or an IP address. The acceptor compares it with the id and address that the connector claims in the handshake,
the connector with the server that it wants to reach. Only then does a message pass.

Failure modes: a certificate that is missing, not signed, expired, revoked or somebody else's ends the connection: the
connector gets RAFT_UNAUTHORIZED, or RAFT_NOCONNECTION where another attempt may help, and the acceptor's log or trace
has the reason. So does, where revocation lists are used, an authority without a list that is valid now. Files that are
of no use leave a transport and its connections as they were. A certificate that names hosts only does not bind the id:
its owner can pose as another server, but only at its own host.
"""

import os
import ssl
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from io_uv import pyuv, tcp, tcp_common
from io_uv.credentials import Files, Path, Source, is_certain, names_of, names_server, reason_of, shown
from io_uv.failure import Failure
from io_uv.gate import Gate
from io_uv.transport import Data, RaftUvTransport
from pyraft.errors import RAFT_INVALID, RAFT_UNAUTHORIZED, errmsg_cut
from pyraft.tracing import trace

_READ_SIZE: Final = 64 * 1024
_PIECE: Final = 128 * 1024
# So much may be encrypted and not yet taken by the system: more would only hold memory twice.
_WINDOW: Final = 1024 * 1024
Policy: TypeAlias = Callable[[dict[str, Any], int, str], bool]
_EXPIRED: Final = pyuv.errno.UV_ECONNABORTED


def raft_uv_tls_init(
    transport: RaftUvTransport,
    loop: pyuv.Loop,
    certificate: Path,
    key: Path,
    authorities: Path,
    crl: Path | None = None,
) -> int:
    """Make `transport` one that uses TLS over TCP sockets on `loop`, an io_uv.pyuv.Loop. Ours.

    `certificate` is a PEM file with the own certificate and what lies between it and its authority, `key` one with its
    private key, without a passphrase, `authorities` one with the certificates of those who may vouch for peers; nobody
    else is trusted. `crl` is a PEM file with revocation lists: one at least of each of these authorities and of each
    other authority that signs a peer's chain; a peer with a certificate in its chain that is revoked, or whose issuer
    has no list that is valid at the time of the handshake, is refused. Without `crl` nothing is ever revoked.

    Errors: RAFT_INVALID, with a text, if transport.version is not 1 or a file is of no use: unreadable, malformed,
    without a list, neither expired nor of the future, of an authority, or an own certificate that no peer with these
    files would accept. Raises TypeError as raft_uv_tcp_init does. raft_uv_tcp_set_bind_address and raft_uv_tcp_close
    serve this transport too.
    """
    return init(transport, loop, Files(certificate, key, authorities, crl))


def init(transport: RaftUvTransport, loop: pyuv.Loop, source: Source) -> int:
    """Make `transport` one that uses TLS with the contexts of a source. The errors are those of raft_uv_tls_init."""
    try:
        security = Security(source)
    except Failure as failure:
        transport.errmsg = errmsg_cut(failure.message)
        return failure.code
    rv = tcp.raft_uv_tcp_init(transport, loop)
    if rv == 0:
        transport.impl.security = security
    return rv


def raft_uv_tls_reload(transport: RaftUvTransport) -> int:
    """Read the files given to raft_uv_tls_init again, and make all connections anew under what they hold. Ours.

    Call it on the loop's thread. Connections made before end here and now, in both directions, as if they had broken:
    nothing more is delivered from them, the own ones are made again and so are, by their owners, those of peers. A
    message that io.send has not begun to write goes to the new connection, what is being written is called back with
    RAFT_IOERR. Returns RAFT_INVALID, with a text, if a file is of no use, and all stays as it was, connections
    included; or if the transport is not one of raft_uv_tls_init; or if another thread runs the loop.
    """
    security = _security(transport)
    if security is None:
        return RAFT_INVALID
    try:
        ended = security.reload()
    except Failure as failure:
        transport.errmsg = errmsg_cut(failure.message)
        return failure.code
    trace(transport.impl.tracer, f"TLS: certificates were reloaded, {ended} connections ended")
    return 0


def raft_uv_tls_set_policy(transport: RaftUvTransport, policy: Policy) -> int:
    """Have `policy(certificate, id, address)` say whose a certificate is, in place of the names in it. Ours.

    `certificate` is as ssl.SSLObject.getpeercert has it, verified by one of the authorities. The policy returns whether
    it may be that of server `id` at `address`, and is asked about peers, in both directions, and about the own one. A
    cluster whose servers share a certificate has one that says yes. Call it before raft_init.
    RAFT_INVALID, with a text, if the transport is not one of raft_uv_tls_init, or if another thread runs the loop.
    """
    security = _security(transport)
    if security is None:
        return RAFT_INVALID
    security.policy = policy
    return 0


def _security(transport: RaftUvTransport) -> "Security | None":
    """Return what a TLS transport has; None, with errmsg, for another one, or if another thread runs the loop."""
    security: Security | None = getattr(transport.impl, "security", None)
    if security is None:
        transport.errmsg = "not a TLS transport"
        return None
    return None if tcp_common.misplaced(transport.impl.loop, transport) else security


class Security:
    """Certificates, and how connections are wrapped and judged. Raises Failure(RAFT_INVALID) for bad files."""

    def __init__(self, source: Source) -> None:
        self._files = source
        self._identity: tuple[int, str] | None = None
        self.policy: Policy = names_server
        self._server, self._client, self._own = self._files.load()
        self._streams: dict[TlsStream, None] = {}  # all that are not closed

    def identify(self, id: int, address: str) -> None:
        """Take note of who this server is. Raises Failure(RAFT_INVALID) if its certificate names somebody else."""
        self._check_name(self._own, id, address)
        self._identity = id, address

    def reload(self) -> int:
        """Read the files again and end all connections; return how many those were."""
        server, client, own = self._files.load()
        if self._identity is not None:
            self._check_name(own, *self._identity)
        self._server, self._client, self._own = server, client, own
        # The ssl module cannot judge a certificate again but in a handshake.
        streams = list(self._streams)
        for stream in streams:
            stream.expire("certificates were reloaded")
        return len(streams)

    def _check_name(self, own: dict[str, Any], id: int, address: str) -> None:
        if not self.policy(own, id, address):
            path = shown(os.fspath(self._files.certificate))
            raise Failure(
                RAFT_INVALID, f"own certificate {path}, of {names_of(own)}, does not name server {id} at {address}"
            )

    def accept(self, handle: pyuv.TCP, gate: Gate, host: str) -> "TlsStream":
        """Return the stream of a connection accepted from `host`; its first start_read begins the TLS handshake."""
        return TlsStream(handle, self._server, True, self._streams, gate, host)

    def connect(
        self, handle: pyuv.TCP | pyuv.Pipe, id: int, address: str, cb: Callable[["TlsStream", str], None]
    ) -> "TlsStream":
        """Return the stream of a connection made to server `id`, and agree on keys.

        `cb(stream, "")` follows when that is done and the peer is who it should be, else `cb(stream, reason)`. With an
        id of 0 it may be anybody whom an authority vouches for.
        """

        def handshake_cb(stream: TlsStream, reason: str) -> None:
            if not reason and id != 0:
                try:
                    self.check(stream, id, address)
                except Failure as failure:
                    reason = failure.message
                    stream.certain = True
            cb(stream, reason)

        stream = TlsStream(handle, self._client, False, self._streams)
        stream.handshake(handshake_cb)
        return stream

    def check(self, stream: "TlsStream", id: int, address: str) -> None:
        """Raise Failure(RAFT_UNAUTHORIZED) unless the peer's certificate names that server."""
        certificate = stream.certificate()
        if not self.policy(certificate, id, address):
            names = names_of(certificate)
            raise Failure(RAFT_UNAUTHORIZED, f"certificate of {names} does not name server {id} at {address}")


_WrittenCb: TypeAlias = Callable[["TlsStream", int | None], object]


class TlsStream:
    """A TLS connection over a pyuv TCP handle, with those methods of a pyuv stream that raft_uv uses."""

    def __init__(
        self,
        handle: pyuv.TCP | pyuv.Pipe,
        context: ssl.SSLContext,
        server_side: bool,
        streams: "dict[TlsStream, None]",
        gate: Gate | None = None,
        host: str = "",
    ) -> None:
        streams[self] = None
        self._streams = streams
        self._handle = handle
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._in, self._out, server_side=server_side)
        # The gate that makes steps of the handshake wait, on the side of the acceptor.
        self._gate = gate
        self._host = host
        self._steps = 0
        self._waiting = False
        self._established = False
        self._expired = False
        self._handshake_cb: Callable[[TlsStream, str], None] | None = None
        self._read_cb: Callable[[TlsStream, bytes | None, int | None], object] | None = None
        self._rest = b""
        self._resume: pyuv.Idle | None = None  # idle handle that delivers what is here already
        self._writes: deque[tuple[Iterator[memoryview], _WrittenCb | None]] = deque()  # not or not wholly encrypted
        self._in_flight = 0
        self._broken: int | None = None  # what ended writing
        self._close_cb: Callable[[TlsStream], object] | None = None
        self.reason = ""
        """Why TLS failed, if it did."""
        self.gone_cb: Callable[[], object] | None = None
        """Called once the connection is closed, behind the callback of close."""
        self.certain = False
        """Whether trying again will not help."""
        self.welcome = False
        """Whether the acceptor has let us in, see tcp_connect."""

    @property
    def closed(self) -> bool:
        """True from close() on."""
        return self._handle.closed

    def getpeername(self) -> tuple[Any, ...] | str:
        """The other end's address."""
        return self._handle.getpeername()

    def certificate(self) -> dict[str, Any]:
        """The peer's verified certificate; empty before the handshake."""
        return self._ssl.getpeercert() or {} if self._established else {}

    def handshake(self, cb: Callable[["TlsStream", str], None]) -> None:
        """Agree on keys, then call `cb(stream, "")`, or `cb(stream, reason)`."""
        self._handshake_cb = cb
        self._handle.start_read(self._handle_read_cb)
        self._advance()

    def expire(self, reason: str) -> None:
        """End reading and writing, as if the connection had broken; the owner closes it."""
        if self.closed or self._expired:
            return
        self._expired = True
        self._drop_resume()
        if self._broken is None:
            self._broken = _EXPIRED
        self._lost(_EXPIRED, reason)

    # Reading.

    def rewind(self, data: bytes) -> None:
        """Have the next start_read deliver `data` before what follows it."""
        self._rest = data

    def start_read(self, callback: Callable[["TlsStream", bytes | None, int | None], object]) -> None:
        """Call `callback(stream, data, error)` with what arrives, as any pyuv stream does."""
        self._read_cb = callback
        if not self._expired:
            self._handle.start_read(self._handle_read_cb)
        # Decrypted bytes may be waiting, and nothing on the socket would tell.
        if self._resume is None and (self._rest or self._established):
            loop = self._handle.loop
            assert loop is not None
            self._resume = pyuv.Idle(loop)
            self._resume.start(self._resume_cb)

    def stop_read(self) -> None:
        """Stop reading."""
        self._read_cb = None
        self._drop_resume()
        self._handle.stop_read()

    def _resume_cb(self, idle: pyuv.Idle) -> None:
        self._drop_resume()
        if self._expired:
            read_cb, self._read_cb = self._read_cb, None
            assert read_cb is not None
            read_cb(self, None, _EXPIRED)
            return
        data, self._rest = self._rest, b""
        if data:
            assert self._read_cb is not None
            self._read_cb(self, data, None)
        self._advance()

    def _drop_resume(self) -> None:
        if self._resume is not None:
            self._resume.close()
            self._resume = None

    def _handle_read_cb(self, handle: pyuv.TCP | pyuv.Pipe, data: bytes | None, error: int | None) -> None:
        if error is not None:
            self._lost(error, pyuv.errno.strerror(error))
            return
        self._in.write(data or b"")
        if self._gate is None or self._established:
            self._advance()
        elif not self._waiting:
            self._waiting = True
            # Nothing more is read meanwhile: it would only take memory.
            self._handle.stop_read()
            self._gate.ask(self, self._host, self._steps > 0)

    def step(self) -> None:
        """Go on with the handshake: the gate's turn has come."""
        self._waiting = False
        self._steps += 1
        if self._steps == 1 and not self._is_hello():
            self.certain = True
            self._lost(pyuv.errno.UV_EPROTO, "it does not speak TLS, which this server expects")
            return
        if not self._expired:
            self._handle.start_read(self._handle_read_cb)
        self._advance()

    def _is_hello(self) -> bool:
        """Return whether the connection begins as one of libraft's protocol does not: with a record of TLS."""
        data = self._in.read()
        self._in.write(data)
        return data[:1] == b"\x16"

    def _advance(self) -> None:
        """Do what the bytes received allow: a step of the handshake, then reading and writing."""
        if self.closed or self._expired or self._resume is not None:
            return
        try:
            if not self._established:
                self._ssl.do_handshake()
                self._established = True
                self._flush()
                cb, self._handshake_cb = self._handshake_cb, None
                if cb is not None:
                    cb(self, "")
            # A callback may have stopped reading and started again: `_resume` goes on then.
            while self._read_cb is not None and self._resume is None and not self.closed and not self._expired:
                data = self._ssl.read(_READ_SIZE)
                if not data:
                    raise ssl.SSLZeroReturnError
                self._read_cb(self, data, None)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._lost(pyuv.errno.UV_EOF, "end of file")
        except ssl.SSLError as exc:
            self._flush()
            self.certain = is_certain(exc)
            self._lost(pyuv.errno.UV_EPROTO, reason_of(exc))
        if not self.closed:
            self._flush()
            if self._established:
                self._encrypt()

    def _lost(self, error: int, reason: str) -> None:
        """Reading has come to an end: tell whoever waits for something."""
        if self.closed:
            return
        self.reason = f"TLS: {reason}"
        self._handle.stop_read()
        cb, self._handshake_cb = self._handshake_cb, None
        read_cb, self._read_cb = self._read_cb, None
        if cb is not None:
            cb(self, self.reason)
        elif read_cb is not None:
            read_cb(self, None, error)

    # Writing.

    def write(self, data: Data | Sequence[Data], callback: "_WrittenCb | None" = None) -> None:
        """Encrypt and send data, bytes-like or a sequence of such; `callback(stream, error)` when all has left."""
        if self.closed:
            raise pyuv.error.HandleClosedError(pyuv.errno.UV_EBADF, "Handle is closing/closed")
        buffers: Any = (data,) if isinstance(data, bytes | bytearray | memoryview) else data
        self._writes.append((_pieces(buffers), callback))
        if self._established:
            self._encrypt()

    def _encrypt(self) -> None:
        """Encrypt and write as much as the window has room for."""
        while self._writes and self._in_flight < _WINDOW and not self.closed:
            pieces, callback = self._writes[0]
            piece = next(pieces, None)
            if piece is not None and self._broken is None:
                try:
                    self._ssl.write(piece)
                except ssl.SSLError:
                    self._broken = pyuv.errno.UV_EPROTO
                self._flush()
                continue
            self._writes.popleft()
            # Nothing in it but the place behind the last piece.
            self._write(b"", callback)

    def _flush(self) -> None:
        """Send what the TLS layer has produced."""
        data = self._out.read()
        if data and not self.closed:
            self._in_flight += len(data)
            self._write(data, None)

    def _write(self, data: bytes, callback: "_WrittenCb | None") -> None:
        self._handle.write(data, lambda handle, error: self._written(len(data), error, callback))

    def _written(self, size: int, error: int | None, callback: "_WrittenCb | None") -> None:
        self._in_flight -= size
        if self._broken is None:
            self._broken = error
        if callback is not None:
            callback(self, self._broken)
        if not self.closed:
            self._encrypt()

    # The end.

    def close(self, callback: Callable[["TlsStream"], object] | None = None) -> None:
        """Close the connection; all that is not written is called back with UV_ECANCELED, then `callback(stream)`."""
        if self.closed:
            raise pyuv.error.HandleClosedError(pyuv.errno.UV_EBADF, "Handle is closing/closed")
        self._streams.pop(self, None)
        self._drop_resume()
        self._read_cb = self._handshake_cb = None
        self._close_cb = callback
        self._handle.close(self._closed)

    def _closed(self, handle: pyuv.TCP | pyuv.Pipe) -> None:
        while self._writes:
            _, callback = self._writes.popleft()
            if callback is not None:
                callback(self, pyuv.errno.UV_ECANCELED)
        if self.gone_cb is not None:
            tcp_common.call_both(self._close_cb, self, self.gone_cb)
        elif self._close_cb is not None:
            self._close_cb(self)


def _pieces(buffers: Sequence[Data]) -> Iterator[memoryview]:
    """Yield the buffers in pieces worth a call each: small ones joined, large ones cut and not copied."""
    small: list[Data] = []
    size = 0
    for buf in buffers:
        if len(buf) < _PIECE:
            small.append(buf)
            size += len(buf)
            if size < _PIECE:
                continue
        if small:
            yield memoryview(b"".join(small))
            small, size = [], 0
        if len(buf) >= _PIECE:
            view = memoryview(buf)
            for at in range(0, len(view), _PIECE):
                yield view[at : at + _PIECE]
    if small and size:
        yield memoryview(b"".join(small))
