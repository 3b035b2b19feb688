"""A server of a cluster that keeps registers, driven through pipes.

    python -m tests.lib.register_server DIR ID 1=HOST:PORT,2=HOST:PORT,… [join] [slow]

Duty: a real process, core and io_uv, for tests that put servers where no socket of the test reaches them. Lines on
standard input, numbers throughout:

    write REQ KEY VALUE       read REQ KEY       cas REQ KEY EXPECTED VALUE       status       stop
    add REQ ID ADDRESS        assign REQ ID ROLE        remove REQ ID             transfer REQ ID

Lines on standard output: `ready TERM VOTE STORED`, what was found on the disk; `ok REQ RESULT` (the value read, the
value written, 1 or 0 for a compare-and-set); `no REQ CODE` when the operation will never take effect; `maybe REQ CODE`
when nobody knows; `changed REQ CODE`; `status` and the numbers of `promises.Status`. Equal digests mean equal registers
by the same commands in the same order, each applied once. Reads go through the log, so that they are linearizable.
With `join` a new server is not bootstrapped, but waits to be added. With `slow` every write of entries takes a while,
so that there is time to kill the server before it is done.

Failure modes: a call that fails at the start, or a server that becomes unavailable, ends the process with a text on
standard error.
"""

import errno
import functools
import operator
import struct
import sys
import time
import zlib
from typing import Any

import io_uv
import pyraft
from io_uv import fs, kaio, pyuv
from pyraft import Raft, RaftApply, RaftChange, RaftConfiguration, RaftFsm, RaftIo, RaftTransfer

WRITE, READ, CAS = 1, 2, 3
COMMAND = struct.Struct("<4Q")
PAIR = struct.Struct("<2Q")

ELECTION_TIMEOUT_MSECS = 500
HEARTBEAT_MSECS = 50
TICK_SECONDS = 0.01
SLOW_SECONDS = 0.03


class Registers(RaftFsm):
    """Numbers by number, all 0 at first; `chain` is a checksum of all commands that were applied, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 2
        self.values: dict[int, int] = {}
        self.sum = 0
        self.chain = 0
        self.snapshots = 0
        self.restores = 0
        self.apply = self._apply
        self.snapshot = self._snapshot
        self.restore = self._restore

    def _apply(self, fsm: RaftFsm, buf: bytes) -> tuple[int, int]:
        kind, key, expected, value = COMMAND.unpack(buf)
        self.chain = zlib.crc32(buf, self.chain)
        before = self.values.get(key, 0)
        if kind == READ:
            return 0, before
        if kind == CAS and before != expected:
            return 0, 0
        self.sum ^= pair_sum(key, before) ^ pair_sum(key, value)
        self.values[key] = value
        return 0, 1 if kind == CAS else value

    def _snapshot(self, fsm: RaftFsm) -> tuple[int, list[bytes]]:
        self.snapshots += 1
        pairs = [(self.chain, len(self.values)), *sorted(self.values.items())]
        return 0, [b"".join(PAIR.pack(*pair) for pair in pairs)]

    def _restore(self, fsm: RaftFsm, buf: Any) -> int:
        self.restores += 1
        (self.chain, n), *pairs = PAIR.iter_unpack(buf)
        self.values = dict(pairs)
        self.sum = functools.reduce(operator.xor, (pair_sum(*pair) for pair in pairs), 0)
        return 0 if len(pairs) == n else pyraft.RAFT_CORRUPT

    def digest(self) -> int:
        """Return a checksum of all registers and of all commands that made them."""
        return self.sum << 32 | self.chain


def pair_sum(key: int, value: int) -> int:
    """Return a checksum of one register; of a register that was never written it is 0."""
    return zlib.crc32(PAIR.pack(key, value)) if value else 0


class Server:
    """A raft server that obeys standard input."""

    def __init__(self, dir: str, id: int, members: dict[int, str], join: bool) -> None:
        self.loop = pyuv.Loop()
        self.transport = io_uv.RaftUvTransport()
        self.io = RaftIo()
        self.fsm = Registers()
        self.raft = Raft()
        check(io_uv.raft_uv_tcp_init(self.transport, self.loop), self.transport.errmsg)
        check(io_uv.raft_uv_init(self.io, self.loop, dir, self.transport), self.io.errmsg)
        check(pyraft.raft_init(self.raft, self.io, self.fsm, id, members[id]), self.raft.errmsg)
        pyraft.raft_set_election_timeout(self.raft, ELECTION_TIMEOUT_MSECS)
        pyraft.raft_set_heartbeat_timeout(self.raft, HEARTBEAT_MSECS)
        pyraft.raft_set_snapshot_threshold(self.raft, 500)
        pyraft.raft_set_snapshot_trailing(self.raft, 100)
        # A snapshot that was lost with its connection is sent again after this; the default is half a minute, as in C.
        pyraft.raft_set_install_snapshot_timeout(self.raft, 3000)
        pyraft.raft_set_pre_vote(self.raft, True)
        conf = RaftConfiguration()
        for member, address in members.items():
            check(pyraft.raft_configuration_add(conf, member, address, pyraft.RAFT_VOTER), address)
        rv = 0 if join else pyraft.raft_bootstrap(self.raft, conf)
        check(0 if rv == pyraft.RAFT_CANTBOOTSTRAP else rv, self.io.errmsg)
        check(pyraft.raft_start(self.raft), "start")
        self.restored = self.fsm.restores
        self.stall = 0.0
        self.ticked = time.monotonic()
        self.ticks = pyuv.Timer(self.loop)
        self.ticks.start(self.tick, TICK_SECONDS, TICK_SECONDS)
        self.rest = b""
        self.input = pyuv.Pipe(self.loop)
        self.input.open(0)
        self.input.start_read(self.read)

    def tick(self, timer: Any) -> None:
        """Note how late the loop is."""
        now = time.monotonic()
        self.stall = max(self.stall, now - self.ticked - TICK_SECONDS)
        self.ticked = now

    def read(self, pipe: Any, data: bytes | None, error: int | None) -> None:
        """Obey the lines that have arrived; the end of the input ends the server."""
        if data is None:
            self.stop()
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            word, *rest = line.decode().split()
            if word == "stop":
                self.stop()
                return
            if word == "status":
                self.status()
            elif word in ("add", "assign", "remove", "transfer"):
                self.change(line.decode().split())
            else:
                self.submit(word, [int(number) for number in rest])

    def submit(self, word: str, numbers: list[int]) -> None:
        """Apply an operation."""
        request, key, *values = numbers
        expected = values[0] if word == "cas" else 0
        value = values[-1] if values else 0
        command = COMMAND.pack({"write": WRITE, "read": READ, "cas": CAS}[word], key, expected, value)

        def done(req: RaftApply, status: int, result: Any) -> None:
            say(f"ok {request} {result}" if status == 0 else f"maybe {request} {status}")

        rv = pyraft.raft_apply(self.raft, RaftApply(), [command], 1, done)
        if rv != 0:
            say(f"no {request} {rv}")

    def change(self, words: list[str]) -> None:
        """Change the configuration, or transfer leadership."""
        word, request, id, *rest = words

        def done(req: Any, status: int = 0) -> None:
            say(f"changed {request} {status}")

        if word == "add":
            rv = pyraft.raft_add(self.raft, RaftChange(), int(id), rest[0], done)
        elif word == "assign":
            rv = pyraft.raft_assign(self.raft, RaftChange(), int(id), int(rest[0]), done)
        elif word == "remove":
            rv = pyraft.raft_remove(self.raft, RaftChange(), int(id), done)
        else:
            rv = pyraft.raft_transfer(self.raft, RaftTransfer(), int(id), done)
        if rv != 0:
            say(f"changed {request} {rv}")

    def status(self) -> None:
        """Say how the server is; one that has become unavailable says why on standard error, and ends."""
        raft = self.raft
        if pyraft.raft_state(raft) == pyraft.RAFT_UNAVAILABLE:
            print("unavailable:", pyraft.raft_errmsg(raft), file=sys.stderr)
            self.stop()
            return
        leader, _ = pyraft.raft_leader(raft)
        numbers = (pyraft.raft_state(raft), raft.current_term, leader, pyraft.raft_last_index(raft))
        done = (raft.commit_index, pyraft.raft_last_applied(raft), self.fsm.digest(), int(self.stall * 1e6))
        installs = self.fsm.restores - self.restored
        counts = (raft.voted_for, raft.last_stored, self.fsm.snapshots, installs)
        matches: list[int] = []
        if raft.leader_state is not None:
            for server, progress in zip(raft.configuration.servers, raft.leader_state.progress, strict=True):
                matches += (server.id, progress.match_index)
        say("status", *numbers, *done, *counts, *matches)

    def stop(self) -> None:
        """Close everything."""
        self.input.close()
        self.ticks.close()
        pyraft.raft_close(self.raft, None)


def check(rv: int, text: str) -> None:
    """End the process if a call has failed."""
    if rv != 0:
        sys.exit(f"{text}: {pyraft.raft_strerror(rv)}")


def say(*words: object) -> None:
    """Write a line."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def slow_down() -> None:
    """Let the writer's thread make all writes, and take its time."""
    pwrite = fs.pwrite

    def slow(fd: int, data: Any, offset: int) -> int:
        time.sleep(SLOW_SECONDS)
        return pwrite(fd, data, offset)

    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "")

    fs.pwrite = slow
    kaio.Context.submit = refuse


def main() -> None:
    """Run a server until its input ends."""
    dir, id, members, *words = sys.argv[1:]
    addresses = {int(k): v for k, _, v in (part.partition("=") for part in members.split(","))}
    if "slow" in words:
        slow_down()
    server = Server(dir, int(id), addresses, "join" in words)
    raft = server.raft
    say("ready", raft.current_term, raft.voted_for, raft.last_stored)
    server.loop.run()


if __name__ == "__main__":
    main()
