"""A cluster of real processes, each in a network namespace of its own, whose links can be cut.

Duty: `Lab` makes a bridge and one namespace per server, starts `register_server` in each, and obeys: `cut` and `heal`
one direction of a link, `isolate`, `reset` connections, `heal_all`. The test talks to the servers through pipes, which
no cut touches. Needs root and the commands ip and, for resets alone, iptables; `why_not` says what is missing.

A direction is cut by a wrong hardware address in the sender's neighbour table: its packets go out and reach nobody,
without an error, as with a broken switch.

Failure modes: an ip command that fails raises CalledProcessError. `close` removes everything it made.
"""

import os
import selectors
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOBODY = "02:00:00:00:00:ff"
PORT = 9000


def why_not(*, resets: bool = False) -> str:
    """Return why there can be no lab here; an empty string if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for command in ("ip", "iptables") if resets else ("ip",):
        if shutil.which(command) is None:
            return f"the command {command} is missing"
    name = f"raft-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"no network namespaces: {made.stderr.strip()}"
    try:
        commands = [f"ip -n {name} link add br0 type bridge", f"ip -n {name} link add v0 type veth peer name v1"]
        if resets:
            commands.append(f"ip netns exec {name} iptables -A INPUT -p tcp -j REJECT --reject-with tcp-reset")
        for line in commands:
            done = subprocess.run(line.split(), capture_output=True, text=True, check=False)
            if done.returncode != 0:
                return f"{line}: {done.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)
    return ""


class Member:
    """One server: its namespace, its process, and the lines it has written."""

    def __init__(self, lab: "Lab", id: int) -> None:
        self.id = id
        self.namespace = f"{lab.name}-{id}"
        self.ip = f"10.77.0.{id}"
        self.dir = lab.dir / str(id)
        self.process: subprocess.Popen[bytes] | None = None
        self.rest = b""

    def tell(self, line: str) -> None:
        """Write a line to the server."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()


class Lab:
    """Namespaces, servers 1 to n, and the state of the links between them."""

    def __init__(self, dir: Path, n: int) -> None:
        self.dir = dir
        self.name = f"raft{os.getpid()}"
        self.hub = f"{self.name}-hub"
        self.members = {id: Member(self, id) for id in range(1, n + 1)}
        self.cuts: set[tuple[int, int]] = set()
        self.resets: set[int] = set()
        self.selector = selectors.DefaultSelector()
        self.lines: list[tuple[int, list[str]]] = []
        self.namespaces: list[str] = []
        self.stderr = (dir / "stderr.txt").open("wb")
        try:
            self._wire()
            for member in self.members.values():
                self._start(member)
        except BaseException:
            self.close()
            raise

    def _wire(self) -> None:
        self._add_namespace(self.hub)
        ip(self.hub, "link add br0 type bridge", "link set br0 up")
        for member in self.members.values():
            self._add_namespace(member.namespace)
            ip(self.hub, f"link add v{member.id} type veth peer name eth0 netns {member.namespace}")
            ip(self.hub, f"link set v{member.id} master br0 up")
            ip(member.namespace, f"addr add {member.ip}/24 dev eth0", "link set eth0 up", "link set lo up")

    def _add_namespace(self, name: str) -> None:
        subprocess.run(["ip", "netns", "add", name], check=True)
        self.namespaces.append(name)

    def _start(self, member: Member) -> None:
        member.dir.mkdir()
        members = ",".join(f"{other.id}={other.ip}:{PORT}" for other in self.members.values())
        program = [sys.executable, "-m", "tests.lib.register_server", str(member.dir), str(member.id), members]
        command = ["ip", "netns", "exec", member.namespace, *program]
        pipe = subprocess.PIPE
        member.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.stderr, cwd=ROOT)
        assert member.process.stdout is not None
        os.set_blocking(member.process.stdout.fileno(), False)
        self.selector.register(member.process.stdout, selectors.EVENT_READ, member)

    def poll(self, seconds: float) -> list[tuple[int, list[str]]]:
        """Wait at most so long for lines of servers; return them as (id, words)."""
        lines: list[tuple[int, list[str]]] = []
        for key, _ in self.selector.select(seconds):
            member: Member = key.data
            data = os.read(key.fd, 1 << 16)
            if not data:
                self.selector.unregister(key.fileobj)
                raise AssertionError(f"server {member.id} has ended: {(self.dir / 'stderr.txt').read_text()[-2000:]}")
            *complete, member.rest = (member.rest + data).split(b"\n")
            lines += [(member.id, line.decode().split()) for line in complete]
        return lines

    # Links.

    def cut(self, source: int, target: int) -> None:
        """Let nothing from `source` reach `target` any more."""
        if (source, target) not in self.cuts:
            self.cuts.add((source, target))
            address = self.members[target].ip
            ip(self.members[source].namespace, f"neigh replace {address} lladdr {NOBODY} nud permanent dev eth0")

    def heal(self, source: int, target: int) -> None:
        """Undo a cut."""
        if (source, target) in self.cuts:
            self.cuts.remove((source, target))
            ip(self.members[source].namespace, f"neigh del {self.members[target].ip} dev eth0")

    def cut_both(self, one: int, two: int) -> None:
        """Cut a link in both directions."""
        self.cut(one, two)
        self.cut(two, one)

    def isolate(self, id: int) -> None:
        """Cut a server off from all others."""
        for other in self.members:
            if other != id:
                self.cut_both(id, other)

    def reset(self, id: int) -> None:
        """Answer every packet that a server receives with a reset, until `heal_all`."""
        self.resets.add(id)
        rule = "iptables -I INPUT -p tcp -j REJECT --reject-with tcp-reset"
        subprocess.run(["ip", "netns", "exec", self.members[id].namespace, *rule.split()], check=True)

    def heal_all(self) -> None:
        """Undo all cuts and resets."""
        for source, target in list(self.cuts):
            self.heal(source, target)
        for id in self.resets:
            subprocess.run(["ip", "netns", "exec", self.members[id].namespace, "iptables", "-F", "INPUT"], check=True)
        self.resets.clear()

    def connections(self, one: int, two: int) -> int:
        """Return how many established connections a server believes to have with another."""
        command = ["ip", "netns", "exec", self.members[one].namespace, "ss", "-Htn", "state", "established"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        return sum(self.members[two].ip + ":" in line for line in lines)

    # The end.

    def close(self) -> None:
        """Stop the servers and remove the namespaces."""
        processes = [member.process for member in self.members.values() if member.process is not None]
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        deadline = time.monotonic() + 10
        for process in processes:
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self.selector.close()
        self.stderr.close()
        for name in self.namespaces:
            subprocess.run(["ip", "netns", "del", name], check=False)


def ip(namespace: str, *commands: str) -> None:
    """Run ip commands in a namespace."""
    batch = "".join(command + "\n" for command in commands)
    subprocess.run(["ip", "-n", namespace, "-batch", "-"], input=batch.encode(), check=True, capture_output=True)
