"""Starts servers of both kinds as processes and talks to them in lines (see server.c)."""

import contextlib
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.lib.ports import free_port

HERE = Path(__file__).resolve().parent
DEADLINE = 120.0
"""Seconds after which something that should have happened is given up, on a machine with much else to do."""

STANDBY, VOTER, SPARE = 0, 1, 2
FOLLOWER, CANDIDATE, LEADER = 1, 2, 3


@dataclass
class Status:
    """The words of a server about itself."""

    state: int
    term: int
    leader: int
    last: int
    commit: int
    applied: int
    count: int
    bytes: int
    chain: int
    configuration: dict[int, int]


class Failed(Exception):
    """A server answered with an error."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


def until(what: str, test: Callable[[], object], seconds: float = DEADLINE) -> None:
    """Ask again and again until `test()` is true; fail, naming what, after some seconds."""
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.01)


class Node:
    """One server: its directory, address and settings stay while its process comes and goes."""

    def __init__(self, program: list[str], kind: str, dir: Path, id: int, **settings: int) -> None:
        self.program = program
        self.kind = kind
        self.dir = dir
        self.id = id
        self.address = f"127.0.0.1:{free_port()}"
        self.known_as = ""
        """The address that others have for it, if that is another one."""
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None
        self.stderr = dir.parent / f"{dir.name}.stderr"
        self._news = threading.Condition()
        self._lines: list[str] = []
        self._done: dict[int, tuple[int, int]] = {}
        self._numbers = 0
        self._eof = False
        self._reader: threading.Thread | None = None
        dir.mkdir(exist_ok=True)

    def __repr__(self) -> str:
        return f"<{self.kind} server {self.id}>"

    @property
    def alive(self) -> bool:
        return self.process is not None

    def open(self) -> None:
        """Start the process: raft_init has been called when this returns."""
        settings = [f"{name}={value}" for name, value in self.settings.items()]
        with self.stderr.open("ab") as stderr:
            self.process = subprocess.Popen(
                [*self.program, str(self.dir), str(self.id), self.address, *settings],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        self._lines, self._done, self._eof = [], {}, False
        self._reader = threading.Thread(target=self._read, args=(self.process,))
        self._reader.start()
        self._answer()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for raw in process.stdout:
            if not raw.endswith(b"\n"):
                break  # killed while it spoke
            words = raw.decode().split()
            with self._news:
                if words[0] == "done":
                    self._done[int(words[1])] = (int(words[2]), int(words[3]))
                else:
                    self._lines.append(raw.decode().rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._eof = True
            self._news.notify_all()

    def _wait(self, what: str, test: Callable[[], object], seconds: float = DEADLINE) -> None:
        with self._news:
            fired = self._news.wait_for(lambda: test() or self._eof, seconds)
            assert test(), f"{self} {'ended' if fired else 'is late'}: {what}\n{self.stderr.read_text()[-4000:]}"

    def _answer(self) -> str:
        self._wait("an answer", lambda: self._lines)
        line = self._lines.pop(0)
        if line.startswith("error"):
            _, code, text = (line + " ").split(" ", 2)
            raise Failed(int(code), text.rstrip())
        return line

    def _send(self, line: str) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def bootstrap(self, voters: Iterable["Node"], standbys: Iterable["Node"] = ()) -> None:
        """Write the first configuration of a new cluster."""
        servers = [f"{n.id}={n.known_as or n.address}/{VOTER}" for n in voters]
        servers += [f"{n.id}={n.known_as or n.address}/{STANDBY}" for n in standbys]
        self._send("bootstrap " + ",".join(servers))
        self._answer()

    def recover(self, nodes: Iterable["Node"]) -> None:
        """Force `nodes` to be the voters."""
        self._send("recover " + ",".join(f"{n.id}={n.address}/{VOTER}" for n in nodes))
        self._answer()

    def start(self) -> None:
        """Load the log and begin to take part."""
        self._send("start")
        self._answer()

    def run(self) -> None:
        """Start process and server."""
        self.open()
        self.start()

    def status(self) -> Status:
        """Ask the server about itself."""
        self._send("status")
        words = self._answer().split()
        configuration = {} if words[10] == "-" else dict(_pair(item) for item in words[10].split(","))
        state, term, leader, last, commit, applied, count, size, chain = map(int, words[1:10])
        return Status(state, term, leader, last, commit, applied, count, size, chain, configuration)

    def request(self, command: str, *arguments: object) -> int:
        """Submit a request and return its number."""
        self._numbers += 1
        self._send(" ".join([command, str(self._numbers), *(str(a) for a in arguments)]))
        return self._numbers

    def result(self, number: int) -> tuple[int, int]:
        """Wait for a request to end; return its code and the index of its entry."""
        self._wait(f"request {number}", lambda: number in self._done)
        return self._done[number]

    def ended_well(self, number: int) -> bool:
        """Return whether a request has ended by now, with success; also after a kill."""
        return self._done.get(number, (-1, 0))[0] == 0

    def call(self, command: str, *arguments: object) -> None:
        """Submit a request that must succeed, and wait for it."""
        code, _ = self.result(self.request(command, *arguments))
        if code != 0:
            raise Failed(code, f"{self}: {command} {arguments}")

    def quit(self) -> None:
        """Stop cleanly."""
        self._send("quit")
        self._wait("its end", lambda: self._eof)
        code = self._gone()
        assert code == 0, f"{self} exits with {code}\n{self.stderr.read_text()[-4000:]}"
        assert self._lines[-1] == "bye"

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self._gone()

    def _gone(self) -> int:
        assert self.process is not None
        assert self._reader is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        code = self.process.wait(DEADLINE)
        self._reader.join()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process = None
        return code

    def files(self) -> list[str]:
        """Names in its directory."""
        return sorted(path.name for path in self.dir.iterdir())


def _pair(item: str) -> tuple[int, int]:
    id, _, role = item.partition(":")
    return int(id), int(role)


class Workshop:
    """Makes nodes of both kinds in one temporary directory and ends what is left of them."""

    def __init__(self, c_server: Path, root: Path) -> None:
        self.c_server = c_server
        self.root = root
        self.nodes: list[Node] = []

    def node(self, kind: str, id: int, dir: Path | None = None, **settings: int) -> Node:
        """Make server `id` of kind "c" or "py", in a directory of its own or a given one; it is not running yet."""
        program = [str(self.c_server)] if kind == "c" else [sys.executable, "-m", "tests.interop.server"]
        node = Node(program, kind, dir or self.root / f"{id}", id, **settings)
        self.nodes.append(node)
        return node

    def heir(self, node: Node, kind: str) -> Node:
        """Make the same server, of another kind: directory, id, address and settings stay."""
        heir = self.node(kind, node.id, node.dir, **node.settings)
        heir.address = node.address
        return heir

    def copy(self, node: Node, kind: str, name: str) -> Node:
        """Make a server on a copy of a directory."""
        shutil.copytree(node.dir, self.root / name)
        copy = self.node(kind, node.id, self.root / name, **node.settings)
        copy.address = node.address
        return copy

    def close(self) -> None:
        """End every process, and see that none of ours has found fault with the bytes of another."""
        for node in self.nodes:
            if node.alive:
                node.kill()
        said = [node.stderr.read_text() for node in self.nodes if node.stderr.exists()]
        assert not [line for text in said for line in text.splitlines() if "at byte" in line and "dropped" in line]


class Cluster:
    """Nodes that form a cluster, and load for it."""

    def __init__(self, nodes: list[Node], seed: int) -> None:
        self.nodes = nodes
        self.random = random.Random(seed)
        self.acknowledged = 0

    def start(self) -> None:
        """Bootstrap and start all, and wait for a leader."""
        for node in self.nodes:
            node.open()
            node.bootstrap(self.nodes)
            node.start()
        self.leader()

    def by_id(self, id: int) -> Node:
        """Return server `id`."""
        return next(node for node in self.nodes if node.id == id)

    def find_leader(self) -> Node | None:
        """Return the leader of the highest term that a majority of the running servers follows, if there is one."""
        statuses = {node.id: node.status() for node in self.nodes if node.alive}
        leaders = [id for id, status in statuses.items() if status.state == LEADER]
        for id in leaders:
            if 2 * sum(status.leader == id for status in statuses.values()) > len(statuses):
                return self.by_id(id)
        return None

    def leader(self) -> Node:
        """Wait for a leader and return it."""
        until("a leader", self.find_leader)
        found = self.find_leader()
        return found if found is not None else self.leader()

    def lead(self, kind: str) -> Node:
        """Transfer leadership to a server of a kind, unless one has it, and return it."""
        while True:
            leader = self.leader()
            if leader.kind == kind:
                return leader
            self._hand_over(leader, next(node for node in self.nodes if node.kind == kind and node.alive))

    def hand_to(self, target: Node) -> None:
        """Transfer leadership to a server, unless it has it."""
        while (leader := self.leader()) is not target:
            self._hand_over(leader, target)

    def _hand_over(self, leader: Node, target: Node) -> None:
        leader.result(leader.request("transfer", target.id))
        # If the target was not up to date in time, the caller tries again.
        with contextlib.suppress(AssertionError):
            until("the transfer", lambda: self.find_leader() is target, 5.0)

    def payload(self) -> bytes:
        """Return an entry of a random length: mostly small, some of many blocks, always a multiple of 8.

        Never empty: a message whose entries are all empty makes libraft 0.15 free them twice.
        """
        words = self.random.choice((1, 1, 1, 2, 8, 8, 64, 65, 511, 512, 513, 2048, 8192))
        return self.random.randbytes(8 * words)

    def apply(self, n: int, window: int = 32) -> None:
        """Have `n` entries committed; one whose fate is unknown is followed by another."""
        wanted = self.acknowledged + n
        while self.acknowledged < wanted:
            leader = self.leader()
            share = min(window, wanted - self.acknowledged)
            numbers = [leader.request("apply", self.payload().hex()) for _ in range(share)]
            self.acknowledged += sum(leader.result(number)[0] == 0 for number in numbers)

    def caught_up(self, node: Node) -> bool:
        """Whether a server has applied what the leader has."""
        leader = self.find_leader()
        return leader is not None and node.status().applied == leader.status().applied

    def passes(self) -> bool:
        """Return whether a barrier gets through: a leader may lose its leadership with it."""
        leader = self.leader()
        return leader.result(leader.request("barrier"))[0] == 0

    def _equal(self) -> dict[Node, Status]:
        """Return what all running members say, if they have applied the same and one of them leads."""
        statuses = {node: node.status() for node in self.nodes if node.alive}
        leads = any(status.state == LEADER for status in statuses.values())
        return statuses if leads and len({status.applied for status in statuses.values()}) == 1 else {}

    def settle(self) -> Status:
        """Wait until all running members have applied the same, check that they agree, return the leader's status.

        The leader may change at any moment.
        """
        until("a barrier to pass", self.passes)
        found: list[dict[Node, Status]] = []
        try:
            until("all to have applied the same", lambda: found.append(self._equal()) or found[-1])
        except AssertionError as exc:
            said = [f"{node} {node.status()} {' '.join(node.files())}" for node in self.nodes if node.alive]
            raise AssertionError("\n".join([str(exc), *said])) from None
        statuses = found[-1]
        assert len({(s.applied, s.count, s.bytes, s.chain) for s in statuses.values()}) == 1, statuses
        assert len({tuple(sorted(s.configuration.items())) for s in statuses.values()}) == 1, statuses
        leader = max((s for s in statuses.values() if s.state == LEADER), key=lambda status: status.term)
        assert leader.count >= self.acknowledged
        return leader
