"""io_uv: the I/O of a Raft server, on disk files in libraft's format and its TCP protocol, driven by uvloop.

Duty: everything that raft/uv.h declares, under the same names, and functions of ours: limits, TLS, other protocols on
the same port, how connections are opened and begin. `io_uv.pyuv` is the loop that it runs on. README.md beside this
file says what is durable when, and what happens on a sick disk; FORMATS.md has the formats.

    loop = io_uv.pyuv.Loop()
    transport, io = RaftUvTransport(), RaftIo()
    raft_uv_tcp_init(transport, loop)
    raft_uv_init(io, loop, "/var/lib/server", transport)
    raft_init(raft, io, fsm, 1, "127.0.0.1:9001")

Failure modes: those of the functions; an ImportError without uvloop, lz4 or fastcrc, or beside a foreign `pyraft`.
"""

from io_uv import _install as _install  # first: it says so if pyraft is not ours
from io_uv import pyuv
from io_uv.guests import raft_uv_serve, raft_uv_upgrade
from io_uv.settings import (
    raft_uv_limits,
    raft_uv_set_auto_recovery,
    raft_uv_set_block_size,
    raft_uv_set_connect_retry_delay,
    raft_uv_set_segment_size,
    raft_uv_set_snapshot_compression,
    raft_uv_set_tracer,
)
from io_uv.snapshot import raft_uv_set_snapshot_check
from io_uv.state import Limits
from io_uv.tcp import (
    raft_uv_set_dialer,
    raft_uv_set_handshake,
    raft_uv_set_opening,
    raft_uv_tcp_close,
    raft_uv_tcp_init,
    raft_uv_tcp_set_bind_address,
)
from io_uv.tcp_connect import raft_uv_dial
from io_uv.tls import raft_uv_tls_init, raft_uv_tls_reload, raft_uv_tls_set_policy
from io_uv.transport import (
    RaftUvConnect,
    RaftUvDial,
    RaftUvDuplex,
    RaftUvGuest,
    RaftUvHandshake,
    RaftUvHandshakeReader,
    RaftUvStream,
    RaftUvTransport,
    raft_uv_accept_cb,
    raft_uv_connect_cb,
    raft_uv_dial_cb,
    raft_uv_dialer,
    raft_uv_opening,
    raft_uv_serve_cb,
    raft_uv_transport_close_cb,
)
from io_uv.uv import raft_uv_close, raft_uv_init

__all__ = [
    "Limits",
    "RaftUvConnect",
    "RaftUvDial",
    "RaftUvDuplex",
    "RaftUvGuest",
    "RaftUvHandshake",
    "RaftUvHandshakeReader",
    "RaftUvStream",
    "RaftUvTransport",
    "pyuv",
    "raft_uv_accept_cb",
    "raft_uv_close",
    "raft_uv_connect_cb",
    "raft_uv_dial",
    "raft_uv_dial_cb",
    "raft_uv_dialer",
    "raft_uv_init",
    "raft_uv_limits",
    "raft_uv_opening",
    "raft_uv_serve",
    "raft_uv_serve_cb",
    "raft_uv_set_auto_recovery",
    "raft_uv_set_block_size",
    "raft_uv_set_connect_retry_delay",
    "raft_uv_set_dialer",
    "raft_uv_set_handshake",
    "raft_uv_set_opening",
    "raft_uv_set_segment_size",
    "raft_uv_set_snapshot_check",
    "raft_uv_set_snapshot_compression",
    "raft_uv_set_tracer",
    "raft_uv_tcp_close",
    "raft_uv_tcp_init",
    "raft_uv_tcp_set_bind_address",
    "raft_uv_tls_init",
    "raft_uv_tls_reload",
    "raft_uv_tls_set_policy",
    "raft_uv_transport_close_cb",
    "raft_uv_upgrade",
]
