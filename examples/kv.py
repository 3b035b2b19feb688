"""A replicated key-value store, embedded the C way: callbacks on a loop. Copy it and change the store.

    kv.py DIR ID 1=HOST:PORT,2=HOST:PORT,… --new    one server of a new cluster, once; a cluster of one will do
    kv.py DIR ID 1=HOST:PORT,2=HOST:PORT,…          the same one at all later starts

Lines on standard input: `set KEY VALUE`, `del KEY`, `get KEY`, `leader`; the end of input stops the server.
Writes go to the leader only: another server answers with its address. `get` reads what this server has applied.
"""

import sys
from typing import Any

import msgpack

import io_uv
import pyraft
from io_uv import pyuv


def encode(command: list[Any]) -> bytes:
    """Return a command as an entry: msgpack, filled up with nil (one byte each) to a multiple of 8 bytes."""
    data = msgpack.packb(command)
    return bytes(data) + b"\xc0" * (-len(data) % 8)


def decode(entry: bytes) -> list[Any]:
    """Return the command of an entry: the first object in it."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(entry)
    command: list[Any] = unpacker.unpack()
    return command


EMPTY = (
    "--new is for the first start of a new cluster. A member that has lost its data must not begin anew under its id, "
    "as it has stored and promised what the others count on: remove it, and add one with a new id"
)
"""Why a server is not bootstrapped at every start."""


class Store(pyraft.RaftFsm):
    """The state machine: every server applies the same commands in the same order."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 1
        self.content: dict[str, Any] = {}
        self.apply = Store.do_apply
        self.snapshot = Store.do_snapshot
        self.restore = Store.do_restore

    def do_apply(self, buf: bytes) -> tuple[int, Any]:
        """Change the store; the result goes to the callback of raft_apply on the server that took the command."""
        operation, key, *value = decode(buf)
        former = self.content.pop(key, None)
        if operation == "set":
            self.content[key] = value[0]
        return 0, former

    def do_snapshot(self) -> tuple[int, list[bytes]]:
        """Return the whole state; the log before it can then be dropped."""
        return 0, [msgpack.packb(self.content)]

    def do_restore(self, buf: Any) -> int:
        """Replace the whole state by a snapshot's: at start, or when the leader's log begins later than ours ends."""
        self.content = msgpack.unpackb(buf)
        return 0


class Server:
    """The loop, the disk and network, and the raft server on them."""

    def __init__(self, dir: str, id: int, members: dict[int, str], new: bool) -> None:
        self.loop = pyuv.Loop()
        self.transport = io_uv.RaftUvTransport()
        self.io = pyraft.RaftIo()
        self.raft = pyraft.Raft()
        self.store = Store()
        check(io_uv.raft_uv_tcp_init(self.transport, self.loop), self.transport.errmsg)
        check(io_uv.raft_uv_init(self.io, self.loop, dir, self.transport), self.io.errmsg)
        rv = pyraft.raft_init(self.raft, self.io, self.store, id, members[id])
        check(rv, pyraft.raft_errmsg(self.raft))
        pyraft.raft_set_pre_vote(self.raft, True)
        pyraft.raft_set_snapshot_threshold(self.raft, 1000)
        if new:
            self.bootstrap(members)
        check(pyraft.raft_start(self.raft), pyraft.raft_errmsg(self.raft))
        if pyraft.raft_last_index(self.raft) == 0:  # before the loop runs, so it has not taken part in anything
            sys.exit(f"{dir} is empty: {EMPTY}")

    def bootstrap(self, members: dict[int, str]) -> None:
        """Write the first configuration, the same on all servers. Never at a later start: see EMPTY."""
        conf = pyraft.RaftConfiguration()
        for member, address in members.items():
            check(pyraft.raft_configuration_add(conf, member, address, pyraft.RAFT_VOTER), address)
        check(pyraft.raft_bootstrap(self.raft, conf), self.io.errmsg)

    def submit(self, command: list[Any]) -> None:
        """Have a command replicated; say how it ended."""

        def applied(req: pyraft.RaftApply, status: int, former: Any) -> None:
            print(f"was {former!r}" if status == 0 else pyraft.raft_strerror(status), flush=True)

        rv = pyraft.raft_apply(self.raft, pyraft.RaftApply(), [encode(command)], 1, applied)
        if rv == pyraft.RAFT_NOTLEADER:
            print(f"ask the leader: {pyraft.raft_leader(self.raft)}", flush=True)
        elif rv != 0:
            print(pyraft.raft_errmsg(self.raft), flush=True)

    def finish(self) -> None:
        """Stop when what was submitted has been answered."""
        rv = pyraft.raft_barrier(self.raft, pyraft.RaftBarrier(), lambda req, status: self.close())
        if rv != 0:  # not the leader: nothing is under way
            self.close()

    def close(self) -> None:
        """Stop; the loop ends when everything is closed."""

        def closed(raft: pyraft.Raft) -> None:
            io_uv.raft_uv_close(self.io)
            io_uv.raft_uv_tcp_close(self.transport)

        pyraft.raft_close(self.raft, closed)


class Console:
    """Standard input, line by line."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.rest = b""
        self.pipe = pyuv.Pipe(server.loop)
        self.pipe.open(sys.stdin.fileno())
        self.pipe.start_read(self.read)
        self.failed = False
        pyraft.raft_register_state_cb(server.raft, self.changed)

    def changed(self, raft: pyraft.Raft, old: int, new: int) -> None:
        """A server that its disk has failed does not come back by itself: end, so that somebody starts it again."""
        if new == pyraft.RAFT_UNAVAILABLE and not self.pipe.closed:
            self.failed = True
            self.pipe.close()
            self.server.close()

    def read(self, pipe: Any, data: bytes | None, error: int | None) -> None:
        if data is None:
            pipe.close()
            self.server.finish()
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            match line.decode().split():
                case ["set", key, value]:
                    self.server.submit(["set", key, value])
                case ["del", key]:
                    self.server.submit(["del", key])
                case ["get", key]:
                    print(repr(self.server.store.content.get(key)), flush=True)
                case ["leader"]:
                    print(pyraft.raft_leader(self.server.raft), flush=True)
                case _:
                    print("set KEY VALUE | del KEY | get KEY | leader", flush=True)


def check(rv: int, text: str) -> None:
    """Give up with a message unless a call succeeded."""
    if rv != 0:
        sys.exit(f"{text or pyraft.raft_strerror(rv)} ({rv})")


def main() -> None:
    if len(sys.argv) not in (4, 5) or sys.argv[4:] not in ([], ["--new"]):
        sys.exit("usage: kv.py DIR ID 1=HOST:PORT,2=HOST:PORT,… [--new]")
    members = {int(id): address for id, _, address in (item.partition("=") for item in sys.argv[3].split(","))}
    server = Server(sys.argv[1], int(sys.argv[2]), members, sys.argv[4:] == ["--new"])
    console = Console(server)
    server.loop.run()
    server.loop.close()
    if console.failed:
        sys.exit(f"the server has stopped: {pyraft.raft_errmsg(server.raft)}")


if __name__ == "__main__":
    main()
