"""Mistakes against io_uv and io_uv.pyuv that a type checker has to find, in the manner of wrong_core.py."""

import io_uv
from io_uv import pyuv
from pyraft import RaftIo, RaftIoAppend, RaftTracer

loop, disk, transport = pyuv.Loop(), RaftIo(), io_uv.RaftUvTransport()

# raft_uv.

io_uv.raft_uv_init(disk, "loop", "data", transport)  # wrong
io_uv.raft_uv_init(disk, loop, 3, transport)  # wrong
io_uv.raft_uv_init(disk, loop, "data", loop)  # wrong
io_uv.raft_uv_init(loop, disk, "data", transport)  # wrong
io_uv.raft_uv_init(disk, loop, "data")  # wrong
io_uv.raft_uv_close(transport)  # wrong
io_uv.raft_uv_set_auto_recovery(disk, "on")  # wrong
io_uv.raft_uv_set_block_size(disk, 4096.0)  # wrong
io_uv.raft_uv_set_connect_retry_delay(disk, "1s")  # wrong
io_uv.raft_uv_set_segment_size(disk, None)  # wrong
io_uv.raft_uv_set_snapshot_compression(disk, "lz4")  # wrong
io_uv.raft_uv_set_tracer(disk, print)  # wrong
io_uv.raft_uv_limits(disk).queue = "1 MiB"  # wrong
io_uv.raft_uv_limits(disk).queues = 1  # wrong
io_uv.raft_uv_tcp_init(disk, loop)  # wrong
io_uv.raft_uv_tcp_init(transport, None)  # wrong
io_uv.raft_uv_tcp_set_bind_address(transport, ("0.0.0.0", 9000))  # wrong
io_uv.raft_uv_tcp_close(disk)  # wrong
io_uv.raft_uv_tls_init(transport, loop, "cert.pem", "key.pem")  # wrong
io_uv.raft_uv_tls_init(transport, loop, b"cert", "key.pem", "ca.pem")  # wrong
io_uv.raft_uv_tls_reload(loop)  # wrong

# Other protocols on the port.


def for_guest(t: io_uv.RaftUvTransport, guest: io_uv.RaftUvGuest) -> None:
    """Take a guest."""


io_uv.raft_uv_serve(loop, 7, for_guest)  # wrong
io_uv.raft_uv_serve(transport, "word", for_guest)  # wrong
io_uv.raft_uv_serve(transport, lambda: True, for_guest)  # wrong
io_uv.raft_uv_serve(transport, lambda word: word.upper(), for_guest)  # wrong
io_uv.raft_uv_serve(transport, 7, lambda guest: None)  # wrong
io_uv.raft_uv_serve(transport, 7, lambda t, guest: guest.write(b"x"))  # wrong
io_uv.raft_uv_serve(transport, 7, lambda t, guest: guest.stream.write(b"x"))  # wrong
io_uv.raft_uv_serve(transport, 7, lambda t, guest: guest.stream.write("x", lambda stream, error: None))  # wrong
io_uv.raft_uv_serve(transport, 7, lambda t, guest: guest.stream.write(b"x", lambda stream, e: stream.clos()))  # wrong
io_uv.raft_uv_serve(transport, 7, lambda t, guest: guest.stream.close(lambda stream: stream.clos()))  # wrong
io_uv.raft_uv_serve(transport, 7, lambda t, guest: guest.stream.start_read(lambda stream, data: None))  # wrong
io_uv.raft_uv_serve(transport, 7)  # wrong
io_uv.raft_uv_upgrade(transport, 1, "127.0.0.1:1")  # wrong

# How streams are opened and how connections begin.


def dial(t: io_uv.RaftUvTransport, req: io_uv.RaftUvConnect) -> int:
    """Take a request of another class."""
    return 0


class Halfway:
    """Lacks the reader."""

    answered = True

    def encode(self, id: int, address: str) -> bytes:
        """Introduce nobody."""
        return b""


io_uv.raft_uv_set_dialer(transport, dial)  # wrong
io_uv.raft_uv_set_dialer(transport, lambda t, req: None)  # wrong
io_uv.raft_uv_set_dialer(transport, lambda t, req: req.cb(req, 0))  # wrong
io_uv.raft_uv_set_dialer(transport, lambda t, req: 0, lambda address: 0)  # wrong
io_uv.raft_uv_set_opening(transport, lambda t, req: 0)  # wrong
io_uv.raft_uv_set_snapshot_check(disk, lambda: 0)  # wrong
io_uv.raft_uv_set_snapshot_check(disk, lambda data: None)  # wrong
io_uv.raft_uv_set_snapshot_check(transport, None)  # wrong
io_uv.raft_uv_set_handshake(transport, Halfway())  # wrong
io_uv.raft_uv_set_handshake(transport, b"hello")  # wrong
io_uv.raft_uv_dial(transport, io_uv.RaftUvDial(), "127.0.0.1:1", lambda req, stream, status: None)  # wrong
io_uv.raft_uv_dial(transport, io_uv.RaftUvConnect(), 0, "x", lambda req, stream, status: None)  # wrong
io_uv.raft_uv_dial(transport, io_uv.RaftUvDial(), 0, "x", lambda req, stream: None)  # wrong
io_uv.raft_uv_dial(transport, io_uv.RaftUvDial(), 0, "x", lambda req, stream, status: stream.stop_read())  # wrong
io_uv.RaftUvDial().cancel = 3  # wrong
io_uv.raft_uv_tls_set_policy(transport, lambda certificate, id: True)  # wrong

# Transports.


class Pipes(io_uv.RaftUvTransport):
    """A transport that has more."""

    def __init__(self) -> None:
        super().__init__()
        self.path = "pipe"


def listen_on_pipes(t: Pipes, cb: io_uv.raft_uv_accept_cb) -> int:
    """Need a Pipes."""
    return 0


def accepted(t: io_uv.RaftUvTransport, id: str, address: str, stream: io_uv.RaftUvStream) -> None:
    """Take an id for a text."""


class HalfStream:
    """Lacks start_read and closed."""

    def write(self, data: bytes, callback: object) -> None:
        """Drop something."""

    def close(self, callback: object) -> None:
        """Close nothing."""


transport.init = lambda t, id: 0  # wrong
transport.init = lambda t, id, address: None  # wrong
transport.listen = listen_on_pipes  # wrong
transport.listen = lambda t, cb: cb(t, 1, "1", HalfStream())  # wrong
transport.listen = lambda t, cb: cb(t, 1, "1")  # wrong
transport.listen(transport, accepted)  # wrong
transport.connect = lambda t, req, address, cb: 0  # wrong
transport.connect = lambda t, req, id, address, cb: cb(req, 0)  # wrong
transport.check_address = lambda t: 0  # wrong
transport.same_address = lambda t, address: True  # wrong
transport.close = lambda t: None  # wrong
transport.close = 3  # wrong
transport.conect = listen_on_pipes  # wrong
io_uv.RaftUvConnect().cb = lambda req, status: None  # wrong
io_uv.RaftUvConnect().cb = lambda req, stream, status: stream.write(b"x", None)  # wrong

# Handles.


def for_signal(handle: pyuv.Signal, signum: int) -> None:
    """Be the callback of a signal."""


def for_timer(handle: pyuv.Timer) -> None:
    """Be the callback of a timer."""


timer, tcp, pipe = pyuv.Timer(loop), pyuv.TCP(loop), pyuv.Pipe(loop)
pyuv.Timer()  # wrong
pyuv.Timer(disk)  # wrong
timer.start(for_signal, 1, 0)  # wrong
timer.start(for_timer, "1", 0)  # wrong
timer.start(for_timer, 1)  # wrong
timer.start(1, 0, for_timer)  # wrong
timer.start(lambda: None, 1, 0)  # wrong
timer.start(lambda handle: handle.write(b"x"), 1, 0)  # wrong
timer.close(lambda handle, error: None)  # wrong
timer.repeat = "1"  # wrong
timer.stpo()  # wrong
pyuv.Idle(loop).start(for_timer)  # wrong
pyuv.Prepare(loop).start(lambda: None)  # wrong
pyuv.Check(loop).start(3)  # wrong
pyuv.Async(loop, lambda: None)  # wrong
pyuv.Async(loop, for_timer)  # wrong
pyuv.Signal(loop).start(for_timer, 15)  # wrong
pyuv.Signal(loop).start(for_signal, "SIGTERM")  # wrong
pyuv.Poll(loop, "0")  # wrong
pyuv.Poll(loop, 0).start(1, lambda handle, events: None)  # wrong
tcp.bind("127.0.0.1:0")  # wrong
tcp.listen(lambda handle: None)  # wrong
tcp.accept(timer)  # wrong
tcp.connect(("127.0.0.1", 1), for_timer)  # wrong
tcp.connect(("127.0.0.1", 1))  # wrong
tcp.start_read(lambda handle, data: None)  # wrong
tcp.start_read(lambda handle, data, error: data.strip())  # wrong
tcp.start_read_into(lambda handle: bytearray(8), lambda handle, n, error: None)  # wrong
tcp.start_read_into(lambda handle, size: b"x", lambda handle, n, error: None)  # wrong
tcp.write("text")  # wrong
tcp.write(["text"])  # wrong
tcp.write(b"x", for_timer)  # wrong
tcp.try_write([b"x"])  # wrong
tcp.shutdown(for_timer)  # wrong
tcp.getsockname().host  # wrong
tcp.nodelay("on")  # wrong
pipe.bind(3)  # wrong
pipe.connect("name", lambda handle: None)  # wrong
pipe.write(b"x", None, 3)  # wrong
loop.run("once")  # wrong
loop.queue_work(lambda x: None)  # wrong
loop.queue_work(print, lambda: None)  # wrong
loop.now().upper()  # wrong
pyuv.dns.getaddrinfo("127.0.0.1", 1)  # wrong
pyuv.dns.getaddrinfo(loop, "127.0.0.1", 1).cancel()  # wrong
pyuv.dns.getaddrinfo(loop, "127.0.0.1", 1, callback=lambda found: None)  # wrong
pyuv.dns.getaddrinfo(loop, "127.0.0.1", 1, callback=lambda found, error: found[0])  # wrong
pyuv.dns.getnameinfo(loop, "127.0.0.1")  # wrong
disk.append(disk, RaftIoAppend(), RaftTracer(), 1, lambda req, status: None)  # wrong
