"""A cluster of register servers as processes on the loopback, which can be killed and started again.

Duty: `Lab` starts `register_server` for each id on an address of its own and reads what they say; `kill` sends SIGKILL,
`start` starts a server again on its directory, `pause` stops it for a while without its knowing. Servers beyond
`voters` wait to be added to the cluster.

Failure modes: a server that ends without being killed raises AssertionError with the end of its standard error.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.lib.uvnode import free_addresses

ROOT = Path(__file__).resolve().parents[2]


class Member:
    """One server: its process, None while it is down, and the lines it has written."""

    def __init__(self, lab: "Lab", id: int, address: str, *, joins: bool) -> None:
        self.id = id
        self.address = address
        self.joins = joins
        self.dir = lab.dir / str(id)
        self.process: subprocess.Popen[bytes] | None = None
        self.rest = b""
        self.paused = False

    def take(self, data: bytes) -> list[tuple[int, list[str]]]:
        """Return the complete lines as (id, words) with what was said before."""
        *complete, self.rest = (self.rest + data).split(b"\n")
        return [(self.id, line.decode().split()) for line in complete]

    def tell(self, line: str) -> None:
        """Write a line to the server; a server that is down hears nothing."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()


class Lab:
    """Servers 1 to n, of which the first `voters` are bootstrapped; `slow` says of one that starts if it is slow."""

    def __init__(self, dir: Path, n: int, voters: int, slow: Callable[[int], bool] = lambda id: False) -> None:
        self.dir = dir
        self.slow = slow
        addresses = free_addresses(n)
        self.initial = ",".join(f"{id}={addresses[id]}" for id in range(1, voters + 1))
        self.members = {id: Member(self, id, addresses[id], joins=id > voters) for id in addresses}
        self.selector = selectors.DefaultSelector()
        self.stderr = (dir / "stderr.txt").open("ab")
        self.said: list[tuple[int, list[str]]] = []
        for member in self.members.values():
            member.dir.mkdir()
            self.start(member.id)

    def start(self, id: int) -> None:
        """Start a server on its directory."""
        member = self.members[id]
        assert member.process is None
        program = [sys.executable, "-m", "tests.lib.register_server", str(member.dir), str(id)]
        program += [f"{id}={member.address}", "join"] if member.joins else [self.initial]
        program += ["slow"] if self.slow(id) else []
        pipe = subprocess.PIPE
        # In a session of its own, so that Ctrl-C reaches the test alone, which then stops the servers.
        member.process = subprocess.Popen(
            program, stdin=pipe, stdout=pipe, stderr=self.stderr, cwd=ROOT, start_new_session=True
        )
        assert member.process.stdout is not None
        os.set_blocking(member.process.stdout.fileno(), False)
        self.selector.register(member.process.stdout, selectors.EVENT_READ, member)

    def kill(self, id: int) -> None:
        """End a server with SIGKILL; `poll` tells what it had said before, and of its end as `gone`."""
        member = self.members[id]
        process = member.process
        assert process is not None
        process.kill()
        process.wait()
        assert process.stdout is not None
        self.said += [*member.take(process.stdout.read() or b""), (id, ["gone"])]
        self._forget(member, process)

    def pause(self, id: int) -> None:
        """Stop a server with SIGSTOP, as a machine does that swaps or moves."""
        self._signal(id, signal.SIGSTOP)
        self.members[id].paused = True

    def resume(self, id: int) -> None:
        """Let a server go on that was paused."""
        self._signal(id, signal.SIGCONT)
        self.members[id].paused = False

    def _signal(self, id: int, number: signal.Signals) -> None:
        process = self.members[id].process
        assert process is not None
        process.send_signal(number)

    def _forget(self, member: Member, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        assert process.stdin is not None
        self.selector.unregister(process.stdout)
        process.stdout.close()
        process.stdin.close()
        member.process = None
        member.rest = b""
        member.paused = False

    def poll(self, seconds: float) -> list[tuple[int, list[str]]]:
        """Wait at most so long for lines of servers; return them as (id, words)."""
        lines, self.said = self.said, []
        for key, _ in self.selector.select(seconds):
            member: Member = key.data
            data = os.read(key.fd, 1 << 16)
            assert data, f"server {member.id} has ended: {(self.dir / 'stderr.txt').read_text()[-2000:]}"
            lines += member.take(data)
        return lines

    def heal_all(self) -> None:
        """Start every server that is down, and let all go on."""
        for member in self.members.values():
            if member.paused:
                self.resume(member.id)
            if member.process is None:
                self.start(member.id)

    def close(self) -> None:
        """Stop all servers; no process is left behind, whatever has happened."""
        for member in self.members.values():
            process = member.process
            if process is None:
                continue
            with contextlib.suppress(OSError):
                if member.paused:
                    self.resume(member.id)
                member.tell("stop")
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            # A signal may have interrupted a kill.
            with contextlib.suppress(OSError, KeyError, ValueError):
                self._forget(member, process)
        self.selector.close()
        self.stderr.close()
