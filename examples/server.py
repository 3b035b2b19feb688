"""A server whose state machine is one counter: the C library's example, on this project.

    server.py DIR ID                      server ID of the cluster 127.0.0.1:9001 to 127.0.0.1:9003, data in DIR

As in C, the leader adds 1 every 125 ms and says so every 100, and SIGINT hands leadership over and stops. Commands (8
bytes, little-endian), snapshots, addresses and settings are C's, so C and Python example servers form one cluster.

    --members 1=HOST:PORT,2=HOST:PORT,…   another cluster than the default one
    --control                             add nothing by itself, obey lines on standard input instead (see Control)
    --changes                             have members added, removed and so on by all who reach the port (`pyraft add`)
"""

import argparse
import gc
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import io_uv
import pyraft
from io_uv import pyuv
from io_uv.histogram import Histogram
from pyraft import Raft, RaftApply, RaftConfiguration, RaftFsm, RaftIo, RaftTransfer
from pyraft.node import offer_status

APPLY_RATE_MSECS = 125
PULSE_SECONDS = 0.02
MEMBERS = "1=127.0.0.1:9001,2=127.0.0.1:9002,3=127.0.0.1:9003"
STATE_NAMES = {
    pyraft.RAFT_UNAVAILABLE: "unavailable",
    pyraft.RAFT_FOLLOWER: "follower",
    pyraft.RAFT_CANDIDATE: "candidate",
    pyraft.RAFT_LEADER: "leader",
}
U64 = struct.Struct("<Q")


class Counter(RaftFsm):
    """The state machine: a command is a number to add. `on_apply(amount)` is told before it counts."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 2
        self.count = 0
        self.on_apply: Callable[[int], None] = lambda amount: None
        self.apply = Counter.do_apply
        self.snapshot = Counter.do_snapshot
        self.restore = Counter.do_restore

    def do_apply(self, buf: bytes) -> tuple[int, int]:
        if len(buf) != U64.size:
            return pyraft.RAFT_MALFORMED, 0
        (amount,) = U64.unpack(buf)
        self.on_apply(amount)
        self.count = (self.count + amount) % (1 << 64)
        return 0, self.count

    def do_snapshot(self) -> tuple[int, list[bytes]]:
        return 0, [U64.pack(self.count)]

    def do_restore(self, buf: Any) -> int:
        if len(buf) != U64.size:
            return pyraft.RAFT_MALFORMED
        (self.count,) = U64.unpack(buf)
        return 0


class Server:
    """A raft server with all it depends on."""

    def __init__(
        self, dir: str, id: int, members: dict[int, str], bootstrap: bool, output: TextIO, changes: bool = False
    ) -> None:
        self.id = id
        self.output = output
        self.loop = pyuv.Loop()
        self.transport = io_uv.RaftUvTransport()
        self.io = RaftIo()
        self.fsm = Counter()
        self.raft = Raft()
        self.transfer = RaftTransfer()
        self.running = self.stopping = self.failed = False
        self.on_stop: Callable[[], None] = lambda: None
        self.on_change: Callable[[], None] = lambda: None
        self.signals = [pyuv.Signal(self.loop), pyuv.Signal(self.loop)]
        self.check(io_uv.raft_uv_tcp_init(self.transport, self.loop), "raft_uv_tcp_init")
        self.check(io_uv.raft_uv_init(self.io, self.loop, dir, self.transport), "raft_uv_init", self.io.errmsg)
        rv = pyraft.raft_init(self.raft, self.io, self.fsm, id, members[id])
        self.check(rv, "raft_init", pyraft.raft_errmsg(self.raft))
        self.commits = Histogram()  # seconds from raft_apply to the callback
        # On the port that the servers have for each other, for `pyraft status` and the page of cluster.py.
        voters = len(members) if changes else 0
        self.check(offer_status(self.transport, self.io, self.raft, self.commits, voters), "offer_status")
        if bootstrap:
            self.bootstrap(members)
        pyraft.raft_set_snapshot_threshold(self.raft, 64)
        pyraft.raft_set_snapshot_trailing(self.raft, 16)
        pyraft.raft_set_pre_vote(self.raft, True)
        pyraft.raft_register_state_cb(self.raft, self.changed)

    def log(self, text: str) -> None:
        print(f"{self.id}: {text}", file=self.output, flush=True)

    def check(self, rv: int, call: str, text: str = "") -> None:
        if rv != 0:
            self.log(f"{call}(): {text or pyraft.raft_strerror(rv)}")
            sys.exit(1)

    def bootstrap(self, members: dict[int, str]) -> None:
        """Write the first configuration, unless a former run did.

        The C library's example does so at every start, and so does this one with --bootstrap. It is right for as long
        as disks are not lost: a member whose disk was replaced begins anew in this way, under its id, without what it
        had acknowledged and promised, and may help to elect a leader that lacks it too.
        """
        conf = RaftConfiguration()
        for id, address in members.items():
            self.check(
                pyraft.raft_configuration_add(conf, id, address, pyraft.RAFT_VOTER), "raft_configuration_add", address
            )
        rv = pyraft.raft_bootstrap(self.raft, conf)
        if rv != pyraft.RAFT_CANTBOOTSTRAP:
            self.check(rv, "raft_bootstrap", self.io.errmsg)

    def run(self) -> None:
        """Start, and return when the server has been stopped."""
        self.log("starting")
        self.check(pyraft.raft_start(self.raft), "raft_start", pyraft.raft_errmsg(self.raft))
        if pyraft.raft_last_index(self.raft) == 0:  # before the loop runs, so it has not taken part in anything
            self.log("there is no log: --bootstrap is for the first start, see Server.bootstrap")
            sys.exit(1)
        self.running = True
        for handle, signum in zip(self.signals, (signal.SIGINT, signal.SIGTERM), strict=True):
            handle.start(lambda handle, signum: self.stop(), signum)
        self.loop.run()
        self.loop.close()

    def changed(self, raft: Raft, old: int, new: int) -> None:
        """The state has changed. Nothing leads back from unavailable but a restart, which is not for us to make."""
        self.on_change()
        if new == pyraft.RAFT_UNAVAILABLE and self.running and not self.stopping:
            self.failed = True
            self.stop()

    def stop(self) -> None:
        """Hand leadership over, if it is ours and somebody can take it, and close everything."""
        if self.stopping:
            return
        self.stopping = True
        self.log("stopping")
        self.on_stop()
        for handle in self.signals:
            handle.close()
        if pyraft.raft_state(self.raft) == pyraft.RAFT_LEADER:
            rv = pyraft.raft_transfer(self.raft, self.transfer, 0, lambda req: self.close())
            if rv == 0:
                return
        self.close()

    def close(self) -> None:
        pyraft.raft_close(self.raft, self.closed)

    def closed(self, raft: Raft) -> None:
        if self.failed:
            self.log(f"unavailable: {pyraft.raft_errmsg(raft)}")
        io_uv.raft_uv_close(self.io)
        io_uv.raft_uv_tcp_close(self.transport)


class Ticker:
    """The daily work of the C example: the leader adds 1 every 125 ms."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.timer = pyuv.Timer(server.loop)
        self.timer.start(self.fire, 0, APPLY_RATE_MSECS / 1000)
        server.on_stop = self.timer.close

    def fire(self, timer: Any) -> None:
        raft = self.server.raft
        if pyraft.raft_state(raft) != pyraft.RAFT_LEADER:
            return
        rv = pyraft.raft_apply(raft, RaftApply(), [U64.pack(1)], 1, self.applied)
        if rv != 0:
            self.server.log(f"raft_apply(): {pyraft.raft_errmsg(raft)}")

    def applied(self, req: RaftApply, status: int, result: Any) -> None:
        if status == 0 and result % 100 == 0:
            self.server.log(f"count {result}")
        elif status not in (0, pyraft.RAFT_LEADERSHIPLOST):
            self.server.log(f"raft_apply() callback: {pyraft.raft_errmsg(self.server.raft)} ({status})")


class Control:
    """Lines on standard input and output, for a program that drives the server; the end of input stops it.

    In:  `add REQ AMOUNT`, `status`, `stop`.
    Out: `ack REQ INDEX`         counted, at that index of the log
         `nak REQ CODE TEXT`     refused: it will never be counted
         `lost REQ CODE TEXT`    nobody knows yet: leadership was lost while it was under way
         `applied INDEX AMOUNT`  for each command that this server counts, whoever took it
         `status KEY=VALUE …`    as an answer, and when the state changes; `stall` is the longest time in ms by which
                                 the loop was late since the last status, `memory` its peak in KiB
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.rest = b""
        self.output = pyuv.Pipe(server.loop)
        self.output.open(1)
        self.input = pyuv.Pipe(server.loop)
        self.input.open(0)
        self.input.start_read(self.read)
        self.stall = 0
        self.seen = time.monotonic()
        self.pulse = pyuv.Timer(server.loop)
        self.pulse.start(self.beat, PULSE_SECONDS, PULSE_SECONDS)
        server.on_stop = self.close
        server.fsm.on_apply = self.tell_applied
        server.on_change = self.tell_status

    def close(self) -> None:
        self.input.close()
        self.pulse.close()
        # The output stays open while the server closes; it does not keep the loop running.
        self.output.ref = False

    def beat(self, timer: Any) -> None:
        now = time.monotonic()
        self.stall = max(self.stall, int((now - self.seen - PULSE_SECONDS) * 1000))
        self.seen = now

    def say(self, line: str) -> None:
        self.output.write(line.encode() + b"\n")

    def read(self, handle: Any, data: bytes | None, error: int | None) -> None:
        if error is not None or data is None:
            self.server.stop()
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            command, *arguments = line.decode().split()
            if command == "add":
                self.add(*arguments)
            elif command == "status":
                self.tell_status()
            elif command == "stop":
                self.server.stop()
                return

    def add(self, number: str, amount: str) -> None:
        began = time.monotonic()

        def done(req: RaftApply, status: int, result: Any) -> None:
            if status == 0:
                self.server.commits.observe(time.monotonic() - began)
                self.say(f"ack {number} {req.index}")
            else:
                self.say(f"lost {number} {status} {pyraft.raft_strerror(status)}")

        rv = pyraft.raft_apply(self.server.raft, RaftApply(), [U64.pack(int(amount))], 1, done)
        if rv != 0:
            self.say(f"nak {number} {rv} {pyraft.raft_strerror(rv)}")

    def tell_applied(self, amount: int) -> None:
        self.say(f"applied {pyraft.raft_last_applied(self.server.raft) + 1} {amount}")

    def tell_status(self) -> None:
        raft = self.server.raft
        leader, _ = pyraft.raft_leader(raft)
        self.say(
            f"status state={STATE_NAMES[pyraft.raft_state(raft)]} term={raft.current_term} leader={leader} "
            f"last={pyraft.raft_last_index(raft)} commit={raft.commit_index} "
            f"applied={pyraft.raft_last_applied(raft)} count={self.server.fsm.count} "
            f"members={','.join(str(one.id) for one in raft.configuration.servers)} "
            f"stall={self.stall} memory={resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}"
        )
        self.stall = 0


def parse_members(text: str) -> dict[int, str]:
    """Return {id: address} from `1=HOST:PORT,2=HOST:PORT`."""
    pairs = (item.partition("=") for item in text.split(","))
    return {int(id): address for id, _, address in pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description="A server whose state machine is one counter.")
    parser.add_argument("dir", help="its data directory, which must exist")
    parser.add_argument("id", type=int, help="its id, one of the members")
    parser.add_argument("--members", type=parse_members, default=MEMBERS, metavar="1=HOST:PORT,…")
    parser.add_argument("--bootstrap", action="store_true", help="write the first configuration, unless there is one")
    parser.add_argument("--control", action="store_true", help="obey lines on standard input")
    parser.add_argument("--changes", action="store_true", help="take changes of the members on its port")
    options = parser.parse_args()
    output = sys.stderr if options.control else sys.stdout
    server = Server(options.dir, options.id, options.members, options.bootstrap, output, options.changes)
    # All objects that exist now stay: the collector need not visit it again. Few cycles are made later.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    if options.control:
        Control(server)
    else:
        Ticker(server)
    server.run()
    sys.exit(1 if server.failed else 0)


if __name__ == "__main__":
    main()
