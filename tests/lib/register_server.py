"""A server of a cluster that keeps registers, driven through pipes.

    python -m tests.lib.register_server DIR ID 1=HOST:PORT,2=HOST:PORT,…

Duty: a real process, core and io_uv, for tests that put servers where no socket of the test reaches them. Lines on
standard input, numbers throughout:

    write REQ KEY VALUE       read REQ KEY       cas REQ KEY EXPECTED VALUE       status       stop

Lines on standard output: `ready`; `ok REQ RESULT` (the value read, the value written, 1 or 0 for a compare-and-set);
`no REQ CODE` when the operation will never take effect; `maybe REQ CODE` when nobody knows;
`status STATE TERM LEADER LAST COMMIT APPLIED DIGEST`, where equal digests mean equal registers.
Reads go through the log, so that they are linearizable.

Failure modes: a call that fails at the start ends the process with a text on standard error.
"""

import struct
import sys
import zlib
from typing import Any

import io_uv
import pyraft
from io_uv import pyuv
from pyraft import Raft, RaftApply, RaftConfiguration, RaftFsm, RaftIo

WRITE, READ, CAS = 1, 2, 3
COMMAND = struct.Struct("<4Q")
PAIR = struct.Struct("<2Q")

ELECTION_TIMEOUT_MSECS = 500
HEARTBEAT_MSECS = 50


class Registers(RaftFsm):
    """Numbers by number, all 0 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 2
        self.values: dict[int, int] = {}
        self.apply = self._apply
        self.snapshot = self._snapshot
        self.restore = self._restore

    def _apply(self, fsm: RaftFsm, buf: bytes) -> tuple[int, int]:
        kind, key, expected, value = COMMAND.unpack(buf)
        before = self.values.get(key, 0)
        if kind == READ:
            return 0, before
        if kind == CAS and before != expected:
            return 0, 0
        self.values[key] = value
        return 0, 1 if kind == CAS else value

    def _snapshot(self, fsm: RaftFsm) -> tuple[int, list[bytes]]:
        return 0, [b"".join(PAIR.pack(key, value) for key, value in sorted(self.values.items()))]

    def _restore(self, fsm: RaftFsm, buf: Any) -> int:
        self.values = dict(PAIR.iter_unpack(buf))
        return 0

    def digest(self) -> int:
        """Return a checksum of all registers."""
        return zlib.crc32(repr(sorted(self.values.items())).encode())


class Server:
    """A raft server that obeys standard input."""

    def __init__(self, dir: str, id: int, members: dict[int, str]) -> None:
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
        pyraft.raft_set_pre_vote(self.raft, True)
        conf = RaftConfiguration()
        for member, address in members.items():
            check(pyraft.raft_configuration_add(conf, member, address, pyraft.RAFT_VOTER), address)
        rv = pyraft.raft_bootstrap(self.raft, conf)
        check(0 if rv == pyraft.RAFT_CANTBOOTSTRAP else rv, self.io.errmsg)
        check(pyraft.raft_start(self.raft), self.raft.errmsg)
        self.rest = b""
        self.input = pyuv.Pipe(self.loop)
        self.input.open(0)
        self.input.start_read(self.read)

    def read(self, pipe: Any, data: bytes | None, error: int | None) -> None:
        """Obey the lines that have arrived; the end of the input ends the server."""
        if data is None:
            self.stop()
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            word, *numbers = line.decode().split()
            if word == "stop":
                self.stop()
                return
            if word == "status":
                self.status()
            else:
                self.submit(word, [int(number) for number in numbers])

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

    def status(self) -> None:
        """Say how the server is."""
        raft = self.raft
        leader, _ = pyraft.raft_leader(raft)
        numbers = (pyraft.raft_state(raft), raft.current_term, leader, pyraft.raft_last_index(raft))
        say("status", *numbers, raft.commit_index, pyraft.raft_last_applied(raft), self.fsm.digest())

    def stop(self) -> None:
        """Close everything."""
        self.input.close()
        pyraft.raft_close(self.raft, None)


def check(rv: int, text: str) -> None:
    """End the process if a call has failed."""
    if rv != 0:
        sys.exit(f"{text}: {pyraft.raft_strerror(rv)}")


def say(*words: object) -> None:
    """Write a line."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run a server until its input ends."""
    dir, id, members = sys.argv[1:]
    server = Server(dir, int(id), {int(k): v for k, _, v in (part.partition("=") for part in members.split(","))})
    say("ready")
    server.loop.run()


if __name__ == "__main__":
    main()
