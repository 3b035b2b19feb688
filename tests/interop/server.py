"""The counterpart of server.c on this project: same arguments, same lines in and out (described there)."""

import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import io_uv
import pyraft
from io_uv import pyuv
from pyraft import Raft, RaftApply, RaftBarrier, RaftChange, RaftConfiguration, RaftFsm, RaftIo, RaftTransfer

STATE = struct.Struct("<3Q")
MASK = (1 << 64) - 1
WITHOUT_ENTRIES = 64
"""Bytes of an AppendEntries that is a heartbeat."""


class Fsm:
    """Counts entries and bytes and chains a checksum over all payloads."""

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self.chain = 0
        self.blob_size = 0

    def table(self) -> RaftFsm:
        fsm = RaftFsm()
        fsm.version = 1
        fsm.apply = self.apply
        fsm.snapshot = self.snapshot
        fsm.restore = self.restore
        return fsm

    def apply(self, fsm: RaftFsm, buf: bytes) -> tuple[int, None]:
        self.count += 1
        self.bytes += len(buf)
        self.chain = (self.chain * 6364136223846793005 + zlib.crc32(buf) + len(buf)) & MASK
        return 0, None

    def snapshot(self, fsm: RaftFsm) -> tuple[int, list[bytes]]:
        bufs = [STATE.pack(self.count, self.bytes, self.chain)]
        if self.blob_size:
            bufs.append(blob(self.chain, self.blob_size))
        return 0, bufs

    def restore(self, fsm: RaftFsm, buf: Any) -> int:
        if len(buf) < STATE.size:
            return pyraft.RAFT_MALFORMED
        count, size, chain = STATE.unpack_from(buf)
        if bytes(buf[STATE.size :]) != blob(chain, len(buf) - STATE.size):
            return pyraft.RAFT_MALFORMED
        self.count, self.bytes, self.chain = count, size, chain
        return 0


def blob(chain: int, size: int) -> bytes:
    """The bytes that a snapshot carries besides the state: byte i is byte i % 8 of the chain, plus i // 8."""
    seed = chain.to_bytes(8, "little")
    period = bytes((seed[i % 8] + i // 8) & 0xFF for i in range(2048))
    return (period * (size // len(period) + 1))[:size]


def say(*words: object) -> None:
    print(*words, flush=True)


def answer(rv: int, text: str) -> None:
    if rv == 0:
        say("ok")
    else:
        say("error", rv, text)


def parse_servers(text: str) -> RaftConfiguration:
    conf = RaftConfiguration()
    for item in text.split(","):
        id, _, rest = item.partition("=")
        address, _, role = rest.partition("/")
        assert pyraft.raft_configuration_add(conf, int(id), address, int(role)) == 0
    return conf


class Server:
    """A raft server and what it needs, driven by lines."""

    def __init__(self, dir: str, id: int, address: str, settings: Sequence[str]) -> None:
        self.loop = pyuv.Loop()
        self.transport = io_uv.RaftUvTransport()
        self.io = RaftIo()
        self.raft = Raft()
        self.fsm = Fsm()
        self.closing = False
        self.rest = b""
        rv = io_uv.raft_uv_tcp_init(self.transport, self.loop)
        if rv == 0:
            rv = io_uv.raft_uv_init(self.io, self.loop, dir, self.transport)
        if rv != 0:
            answer(rv, self.io.errmsg)
            sys.exit(1)
        rv = pyraft.raft_init(self.raft, self.io, self.fsm.table(), id, address)
        if rv != 0:
            answer(rv, pyraft.raft_errmsg(self.raft))
            sys.exit(1)
        for setting in settings:
            name, _, value = setting.partition("=")
            self.set(name, int(value))
        self.input = pyuv.Pipe(self.loop)
        self.input.open(0)
        self.input.start_read(self.on_input)

    def set(self, name: str, value: int) -> None:
        setters: dict[str, Callable[[int], Any]] = {
            "segment": lambda n: io_uv.raft_uv_set_segment_size(self.io, n),
            "compression": lambda n: io_uv.raft_uv_set_snapshot_compression(self.io, bool(n)),
            "recovery": lambda n: io_uv.raft_uv_set_auto_recovery(self.io, bool(n)),
            "retry": lambda n: io_uv.raft_uv_set_connect_retry_delay(self.io, n),
            "election": lambda n: pyraft.raft_set_election_timeout(self.raft, n),
            "heartbeat": lambda n: pyraft.raft_set_heartbeat_timeout(self.raft, n),
            "threshold": lambda n: pyraft.raft_set_snapshot_threshold(self.raft, n),
            "trailing": lambda n: pyraft.raft_set_snapshot_trailing(self.raft, n),
            "install": lambda n: pyraft.raft_set_install_snapshot_timeout(self.raft, n),
            "append": lambda n: pyraft.raft_set_max_append_bytes(self.raft, n),
            "prevote": lambda n: pyraft.raft_set_pre_vote(self.raft, bool(n)),
            "blob": lambda n: setattr(self.fsm, "blob_size", n),
        }
        setters[name](value)

    def on_input(self, handle: Any, data: bytes | None, error: int | None) -> None:
        if error is not None or data is None:
            self.quit()
            return
        *lines, self.rest = (self.rest + data).split(b"\n") if b"\n" in data else [self.rest + data]
        for line in lines:
            if not self.closing:
                self.execute(line.decode())

    def execute(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if command == "bootstrap":
            answer(pyraft.raft_bootstrap(self.raft, parse_servers(rest)), self.io.errmsg)
        elif command == "recover":
            answer(pyraft.raft_recover(self.raft, parse_servers(rest)), self.io.errmsg)
        elif command == "start":
            answer(pyraft.raft_start(self.raft), pyraft.raft_errmsg(self.raft))
        elif command == "status":
            self.status()
        elif command == "quit":
            self.quit()
        else:
            self.request(command, *rest.split(" "))

    def status(self) -> None:
        r = self.raft
        id, _ = pyraft.raft_leader(r)
        conf = ",".join(f"{s.id}:{s.role}" for s in r.configuration.servers) or "-"
        indexes = (pyraft.raft_last_index(r), r.commit_index, pyraft.raft_last_applied(r))
        fsm = (self.fsm.count, self.fsm.bytes, self.fsm.chain)
        say("status", pyraft.raft_state(r), r.current_term, id, *indexes, *fsm, conf)

    def request(self, command: str, number: str, *arguments: str) -> None:
        def done(req: Any, status: int = 0, result: Any = None) -> None:
            index = req.index if isinstance(req, (RaftApply, RaftBarrier)) else 0
            say("done", number, status, index)

        r = self.raft
        if command == "next":  # not in server.c
            say("done", number, 0, self.next_for(int(arguments[0])))
            return
        rv = pyraft.RAFT_INVALID
        if command == "apply":
            rv = pyraft.raft_apply(r, RaftApply(), [bytes.fromhex(arguments[0] if arguments else "")], 1, done)
        elif command == "barrier":
            rv = pyraft.raft_barrier(r, RaftBarrier(), done)
        elif command == "add":
            rv = pyraft.raft_add(r, RaftChange(), int(arguments[0]), arguments[1], done)
        elif command == "assign":
            rv = pyraft.raft_assign(r, RaftChange(), int(arguments[0]), int(arguments[1]), done)
        elif command == "remove":
            rv = pyraft.raft_remove(r, RaftChange(), int(arguments[0]), done)
        elif command == "transfer":
            rv = pyraft.raft_transfer(r, RaftTransfer(), int(arguments[0]), done)
        if rv != 0:
            say("done", number, rv, 0)

    def next_for(self, id: int) -> int:
        """Return from which entry on the server sends to another one, 0 if it does not, or if entries are queued."""
        if self.raft.leader_state is None:
            return 0
        for client in self.io.impl.clients:
            if client.id == id and any(size > WITHOUT_ENTRIES for _, _, size in client.pending):
                return 0
        i = [server.id for server in self.raft.configuration.servers].index(id)
        return self.raft.leader_state.progress[i].next_index

    def quit(self) -> None:
        if not self.closing:
            self.closing = True
            self.input.close()
            pyraft.raft_close(self.raft, self.on_close)

    def on_close(self, raft: Raft) -> None:
        io_uv.raft_uv_close(self.io)
        io_uv.raft_uv_tcp_close(self.transport)


def main(argv: Sequence[str]) -> int:
    if len(argv) < 3:
        print("usage: server.py DIR ID ADDRESS [NAME=NUMBER ...]", file=sys.stderr)
        return 2
    server = Server(argv[0], int(argv[1]), argv[2], argv[3:])
    answer(0, "")
    server.loop.run()
    server.loop.close()
    say("bye")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
