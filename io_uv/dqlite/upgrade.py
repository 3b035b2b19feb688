"""HTTP upgrades: how LXD and microcluster have dqlite on the port of their API.

Duty: whoever connects asks `POST PATH` with `Upgrade: dqlite` and `X-Dqlite-Version: 1`, inside TLS where there is TLS;
behind the answer 101 the connection is dqlite's, for servers and clients alike. `opening` is that for connections that
raft opens (raft_uv_set_opening), `serve` for those that come in, `request` and `refusal` for clients with streams of
their own. Source: lxd/cluster/gateway.go, internal/db of canonical/microcluster.

Happy path: `serve` finds a request of HTTP in front of the version word, answers 101, and hands the connection on when
the version word has come. Nobody sends anything behind a request before its answer, and dqlite's nodes say nothing by
themselves.

Failure modes: a head that is longer than 8 KiB or does not follow HTTP/1.1, and one that does not come in the time of a
handshake, end the connection. Requests for something else are answered: 404 for another path, 405 for another method,
400 without the upgrade or with a body, 426 and 503 for another version, as there. Of an answer other than 101 raft
hears RAFT_NOCONNECTION, or RAFT_UNAUTHORIZED where it will be the same next time.
"""

from collections.abc import Callable
from typing import Any, Final

from io_uv import pyuv
from io_uv.dqlite import messages, words
from io_uv.dqlite.words import ParseError
from io_uv.guests import raft_uv_serve
from io_uv.transport import RaftUvDial, RaftUvDuplex, RaftUvGuest, RaftUvTransport, raft_uv_opening
from pyraft.errors import RAFT_NOCONNECTION, RAFT_UNAUTHORIZED

LXD: Final = "/internal/database"
MICROCLUSTER: Final = "/cluster/internal/database"
"""The paths of these; older versions of microcluster have LXD's."""

MAX_HEAD: Final = 8192
"""Bytes of a request or an answer, all of which are its head."""
_MAX_FIELDS: Final = 64
_END: Final = b"\r\n\r\n"
_METHODS: Final = (b"POST ", b"GET ", b"PUT ", b"HEAD ", b"PATCH ", b"DELETE ", b"OPTIONS ")
_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_VERSION: Final = 1
_MAX_DIGITS: Final = 9
_LASTING: Final = (401, 403, 426)
"""Answers behind which it is of no use to ask again."""
_REASONS: Final = {
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    426: "Upgrade Required",
    503: "Service Unavailable",
}
_WELCOME: Final = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: dqlite\r\n\r\n"


class Head:
    """The head of a request or an answer: three words, and fields by their names in small letters."""

    __slots__ = ("fields", "first")

    def __init__(self, first: list[str], fields: dict[str, str]) -> None:
        self.first = first
        self.fields = fields


def check_path(path: str) -> str:
    """Return a path that can be asked for; ValueError for anything else."""
    if not path.startswith("/") or not all("!" <= one <= "~" for one in path):
        raise ValueError(f"no path of a URL: {path!r}")
    return path


def take_head(data: bytearray) -> Head | None:
    """Remove a head from the beginning of `data` and return it; None while it is not complete. Raises ParseError."""
    end = data.find(_END, 0, MAX_HEAD)
    if end < 0:
        if len(data) >= MAX_HEAD:
            raise ParseError(f"more than {MAX_HEAD} bytes without an end of the head")
        return None
    text = bytes(data[:end]).decode("latin-1")
    del data[: end + len(_END)]
    first, *lines = text.split("\r\n")
    if any(one != "\t" and (one < " " or one == "\x7f") for line in (first, *lines) for one in line):
        raise ParseError("control characters in the head")
    if len(lines) > _MAX_FIELDS:
        raise ParseError(f"{len(lines)} fields in the head")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not name or not _TOKEN.issuperset(name):
            raise ParseError(f"no field of a head: {line[:60]!r}")
        fields[name] = value.strip(" \t") if name not in fields else f"{fields[name]}, {value.strip()}"
    return Head(first.split(" ", 2), fields)


def request(path: str, address: str) -> bytes:
    """Return the request for an upgrade. ValueError for an address that cannot stand in it."""
    if not address or not all("!" <= one <= "~" for one in address):
        raise ValueError(f"no address for a request: {address!r}")
    lines = (
        *(f"POST {check_path(path)} HTTP/1.1", f"Host: {address}", "User-Agent: pyraft", "Content-Length: 0"),
        *("Connection: Upgrade", "Upgrade: dqlite", f"X-Dqlite-Version: {_VERSION}"),
    )
    return "\r\n".join(lines).encode() + _END


def refusal(answer: Head) -> tuple[int, str]:
    """Return (0, "") for an answer that makes the connection dqlite's, else its status and why it does not."""
    version, *rest = answer.first
    if version not in ("HTTP/1.1", "HTTP/1.0") or not rest or not (rest[0].isdecimal() and len(rest[0]) == 3):
        raise ParseError(f"no status of HTTP: {' '.join(answer.first)[:60]!r}")
    status = int(rest[0])
    if status == 426:
        return status, "it says that this node is outdated (status 426)"
    if status != 101:
        return status, f"it answers with status {' '.join(rest)[:100]}"
    if answer.fields.get("upgrade", "").lower() != "dqlite":
        return status, "it has switched to something else than dqlite"
    return 0, ""


def judge(asked: Head, path: str) -> int:
    """Return the status with which a request is to be answered, 101 for well. ParseError if it is something else."""
    if len(asked.first) != 3 or asked.first[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise ParseError(f"no request of HTTP: {' '.join(asked.first)[:60]!r}")
    method, target, version = asked.first
    fields = asked.fields
    if target.partition("?")[0] != path:
        return 404
    if method != "POST":
        return 405
    if version != "HTTP/1.1" or fields.get("content-length", "0") != "0" or "transfer-encoding" in fields:
        return 400
    spoken = fields.get("x-dqlite-version", "0")
    if not (spoken.isascii() and spoken.isdecimal()):
        return 400
    version_of_peer = int(spoken) if len(spoken) < _MAX_DIGITS else MAX_HEAD
    if version_of_peer != _VERSION:
        return 426 if version_of_peer < _VERSION else 503
    return 101 if fields.get("upgrade", "").lower() == "dqlite" else 400


def opening(path: str) -> raft_uv_opening:
    """Return what raft_uv_set_opening takes: it asks for an upgrade on each connection that is opened."""
    check_path(path)
    return lambda transport, req, stream: _Asking(req, stream).begin(path)


class _Asking:
    """A request of ours under way."""

    def __init__(self, req: RaftUvDial, stream: RaftUvDuplex) -> None:
        self._req = req
        self._stream = stream
        self._data = bytearray()
        self._over = False

    def begin(self, path: str) -> int:
        """Ask."""
        try:
            data = request(path, self._req.address)
        except ValueError as exc:
            self._req.errmsg = str(exc)
            return RAFT_NOCONNECTION
        self._req.cancel = self._cancel
        self._stream.write(data, self._written)
        self._stream.start_read(self._read_cb)
        return 0

    def _cancel(self) -> None:
        self._over = True

    def _written(self, stream: RaftUvDuplex, error: int | None) -> None:
        if error is not None:
            self._end(RAFT_NOCONNECTION, pyuv.errno.strerror(error))

    def _read_cb(self, stream: RaftUvDuplex, data: bytes | None, error: int | None) -> None:
        if self._over:
            return
        if data is None:
            self._end(RAFT_NOCONNECTION, "it ends the connection instead of answering")
            return
        self._data += data
        try:
            answer = take_head(self._data)
            if answer is None:
                return
            status, reason = refusal(answer)
        except ParseError as exc:
            self._end(RAFT_NOCONNECTION, f"its answer does not follow HTTP: {exc}")
            return
        if not reason and self._data:
            reason = "it sends something before it was spoken to"
        code = RAFT_UNAUTHORIZED if status in _LASTING else RAFT_NOCONNECTION
        self._end(code if reason else 0, reason)

    def _end(self, code: int, reason: str) -> None:
        if self._over:
            return
        self._over = True
        if not self._stream.closed:
            self._stream.stop_read()
        self._req.errmsg = reason
        self._req.cb(self._req, None if code else self._stream, code)


def serve(transport: RaftUvTransport, path: str, cb: Callable[[RaftUvGuest], object]) -> int:
    """Have `cb(guest)` take the connections that are dqlite's behind a request for `path`; `received` says that word.

    Errors: those of raft_uv_serve.
    """
    check_path(path)
    return raft_uv_serve(transport, is_request, lambda transport, guest: _Visit(guest, path, cb).begin())


def is_request(word: int) -> bool:
    """Return whether a connection that begins with such a word begins with a request of HTTP."""
    return word.to_bytes(words.WORD, "little").startswith(_METHODS)


class _Visit:
    """A connection that has begun with a request."""

    def __init__(self, guest: RaftUvGuest, path: str, cb: Callable[[RaftUvGuest], object]) -> None:
        self._guest = guest
        self._path = path
        self._cb = cb
        self._data = bytearray(guest.received)
        self._switched = False
        self._over = False
        self._t: Any = guest.transport.impl
        self._timer = pyuv.Timer(self._t.loop)

    def begin(self) -> None:
        """Read on, what has come already first."""
        self._guest.closed_cb = lambda guest: self._end()
        self._timer.start(lambda timer: self._close("no version word of dqlite came in time"), self._seconds, 0)
        self._guest.stream.start_read(self._read_cb)
        self._look()

    @property
    def _seconds(self) -> float:
        return float(self._t.limits.handshake_msecs / 1000)

    def _read_cb(self, stream: RaftUvDuplex, data: bytes | None, error: int | None) -> None:
        if self._over:
            return
        if data is None:
            self._close("")
            return
        self._data += data
        self._look()

    def _look(self) -> None:
        if not self._switched:
            try:
                asked = take_head(self._data)
                status = 0 if asked is None else judge(asked, self._path)
            except ParseError as exc:
                self._close(str(exc))
                return
            if status == 0:
                return
            if status != 101:
                self._refuse(status)
                return
            self._switched = True
            self._guest.stream.write(_WELCOME, lambda stream, error: None)
        if len(self._data) < words.WORD:
            return
        if self._data[: words.WORD] != words.u64(messages.PROTOCOL):
            self._close("it asked for dqlite, and then sent something else")
            return
        self._end()
        self._guest.stream.stop_read()
        self._guest.received = bytes(self._data)
        self._cb(self._guest)

    def _refuse(self, status: int) -> None:
        """Answer with a status, and end the connection when that is on its way."""
        reason = _REASONS[status]
        text = f"{status} {reason}\n"
        head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Length: {len(text)}\r\n"
        self._end()
        self._guest.stream.stop_read()
        stream = self._guest.stream
        stream.write(f"{head}\r\n{text}".encode(), lambda stream, error: None if stream.closed else stream.close())

    def _close(self, reason: str) -> None:
        """End the connection; the log hears why, at a bounded rate."""
        if self._over:
            return
        if reason:
            host = self._guest.host
            self._t.teller.warn((host, reason), "a client at %s is not let in: %s", host, reason)
        self._end()
        if not self._guest.stream.closed:
            self._guest.stream.close()

    def _end(self) -> None:
        """Have nothing more to do with the connection."""
        if not self._over:
            self._over = True
            self._timer.close()
