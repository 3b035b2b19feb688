"""Starts nodes and clients of go-dqlite (peer.go) and nodes of this project as processes, and talks to them.

`Cluster` makes them with ids from 1 on and kills all at the end. Nodes are told of a network latency of 40 ms: an
election begins after 600 ms, as in dqlite with that setting.
"""

import contextlib
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from io_uv.dqlite import image, messages, requests, responses, words
from io_uv.dqlite import upgrade as upgrades
from io_uv.dqlite.messages import Splitter
from pyraft.types import BytesLike
from tests.lib.ports import free_port

LATENCY = 40
"""Milliseconds."""
DEADLINE = 180.0
FREQUENCY = 300
"""Milliseconds between two looks of an app's role management; 30 s by default there."""

HERE = Path(__file__).resolve().parent
SOURCES = Path("/usr/share/gocode")
"""Where Debian's golang-github-canonical-go-dqlite-dev puts its sources."""
PREFIX = os.path.abspath(os.environ["DQLITE_PREFIX"]) if os.environ.get("DQLITE_PREFIX") else ""
"""Where another libdqlite than the system's is installed, with lib and include below, if there is one."""


def build(program: Path, source: Path = HERE / "peer.go") -> str:
    """Build a program of Go, ours by default; return why that cannot be, "" if it can."""
    go = shutil.which("go")
    if go is None:
        return "no Go compiler (golang-go)"
    if not Path(SOURCES, "src/github.com/canonical/go-dqlite").is_dir():
        return "no go-dqlite (golang-github-canonical-go-dqlite-dev, libdqlite-dev)"
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": str(SOURCES),
        "GOFLAGS": "",
        "CGO_LDFLAGS_ALLOW": "-Wl,-z,now",
    }
    if PREFIX:
        # The system's libraft, which Debian's go-dqlite names, would take the place of the raft in libdqlite.
        environment["CGO_CFLAGS"] = f"-I{PREFIX}/include"
        environment["CGO_LDFLAGS"] = f"-L{PREFIX}/lib -Wl,-rpath,{PREFIX}/lib -Wl,--as-needed"
    command = [go, "build", "-o", str(program), str(source)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd="/")
    return "" if done.returncode == 0 else f"go-dqlite cannot be built: {(done.stdout + done.stderr)[-400:]}"


@dataclass(frozen=True)
class Files:
    """The certificate that all nodes of a cluster share, and its key."""

    certificate: Path
    key: Path
    name: str

    def wrap(self, sock: socket.socket) -> socket.socket:
        """Return a connection with TLS in it."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.load_cert_chain(self.certificate, self.key)
        return context.wrap_socket(sock, server_hostname=self.name)


class Failed(Exception):
    """A line of the program began with "error"."""


class Lines:
    """A process that answers lines with lines."""

    def __init__(self, command: list[str], log: Path, upgrade: str = "") -> None:
        self.log = log
        environment = {**os.environ, "PEER_UPGRADE": upgrade}
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment
            )
        self._data = b""

    def read(self, seconds: float = DEADLINE) -> str:
        """Return the next line without its "ok"."""
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._data:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))
            assert ready, f"no answer within {seconds:.0f} s: {self.log.read_text()[-4000:]}"
            data = self.process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
            assert data, f"it has ended: {self.log.read_text()[-4000:]}"
            self._data += data
        line, _, self._data = self._data.partition(b"\n")
        verb, _, rest = line.decode().partition(" ")
        if verb == "error":
            raise Failed(rest)
        return rest

    def has_answered(self) -> bool:
        """Whether `read` would not have to wait."""
        assert self.process.stdout is not None
        return bool(self._data) or bool(select.select([self.process.stdout], [], [], 0)[0])

    def send(self, line: str) -> None:
        """Send a line; `read` gets its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, line: str) -> str:
        """Send a line and return the answer."""
        self.send(line)
        return self.read()

    def end(self, number: int = signal.SIGKILL) -> int:
        """Send a signal and wait for the end of the process; return its status."""
        self.process.send_signal(number)
        status = self.process.wait(120)
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        return status


class Node:
    """A node whose process comes and goes."""

    def __init__(self, command: Callable[["Node"], list[str]], id: int, dir: Path) -> None:
        self.command = command
        self.id = id
        self.dir = dir
        self.address = f"127.0.0.1:{free_port()}"
        self.lines: Lines | None = None
        self.tls: Files | None = None
        self.upgrade = ""
        self.ours = False
        dir.mkdir()

    def start(self, seconds: float = DEADLINE) -> None:
        """Start the process, and wait until it says that it is ready."""
        assert self.lines is None
        self.lines = Lines(self.command(self), self.dir.with_suffix(".log"), self.upgrade)
        self.lines.read(seconds)

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End the process."""
        assert self.lines is not None
        lines, self.lines = self.lines, None
        return lines.end(number)

    def ask(self, request: requests.Request) -> responses.Response:
        """Ask the node itself, as a client."""
        return ask(self.address, request, tls=self.tls, upgrade=self.upgrade)[0]

    def dump(self, name: str = "test.db") -> bytes:
        """Return the pages of a database, nothing for one that is not there."""
        answer = self.ask(requests.Dump(name))
        if isinstance(answer, responses.Failed) and answer.code == responses.NOT_FOUND:
            return b""
        assert isinstance(answer, responses.Files), answer
        (main, content), (wal, rest) = answer.files
        assert (main, wal) == (name, name + "-wal")
        return applied(bytes(content), bytes(rest))


def applied(main: bytes, wal: bytes) -> bytes:
    """Return a database with its write-ahead log in it."""
    one = image.Database("x", memoryview(main), memoryview(wal), 4096)
    content, found = bytearray(main), list(image.frames(one))
    for number, page, _ in found:
        content[(number - 1) * 4096 : number * 4096] = page
    return bytes(content[: found[-1][2] * 4096] if found else content)


def differing(one: BytesLike, other: BytesLike) -> list[int]:
    """Return the numbers of the pages that are not the same in two databases; those that one lacks are among them."""
    first, second = memoryview(one), memoryview(other)
    sizes = range(0, max(len(first), len(second)), 4096)
    return [at // 4096 + 1 for at in sizes if first[at : at + 4096] != second[at : at + 4096]]


def exchange(
    address: str, *asked: requests.Request, tls: Files | None = None, upgrade: str = ""
) -> list[tuple[int, int, bytes]]:
    """Send requests on one connection, each behind the answer to the one before; return the answers as they came."""
    host, _, port = address.rpartition(":")
    found: list[tuple[int, int, bytes]] = []
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection((host, int(port)), timeout=DEADLINE))
        if tls is not None:
            sock = stack.enter_context(tls.wrap(sock))
        if upgrade:
            sock.sendall(upgrades.request(upgrade, address))
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                answer += sock.recv(1)
            assert answer.startswith(b"HTTP/1.1 101 "), answer
        sock.sendall(words.u64(messages.PROTOCOL))
        splitter = Splitter(1 << 30)
        for request in asked:
            sock.sendall(request.encode())
            while True:
                message = splitter.take()
                if message is None:
                    data = sock.recv(1 << 16)
                    assert data, f"{address} has ended the connection behind {request}"
                    splitter.feed(data)
                    continue
                found.append(message)
                if message[0] != responses.Rows.TYPE or message[2][-8:] == b"\xff" * 8:
                    break
    return found


def ask(
    address: str, *asked: requests.Request, tls: Files | None = None, upgrade: str = ""
) -> list[responses.Response]:
    """Return the answers of a node to requests on one connection."""
    return [responses.decode(*message) for message in exchange(address, *asked, tls=tls, upgrade=upgrade)]


class Cluster:
    """Nodes of both kinds, and clients of go-dqlite."""

    def __init__(
        self, program: Path, dir: Path, threshold: int = 1024, trailing: int = 8192, latency: int = LATENCY
    ) -> None:
        self.program = str(program)
        self.dir = dir
        self.settings = (threshold, trailing)
        self.latency = latency
        self.nodes: list[Node] = []
        self.tls: Files | None = None
        self.upgrade = ""
        """The path of the HTTP upgrade by which everybody goes to everybody, if there is one."""
        self._clients: list[Lines] = []

    def go(self, **settings: int) -> Node:
        """Return a new node of go-dqlite, which is not running yet."""
        numbers = [str(one) for one in (*self.settings, self.latency)]
        return self._add(lambda node: [self.program, "node", str(node.id), node.address, str(node.dir), *numbers])

    def app(self, voters: int = 3) -> Node:
        """Return a new app of go-dqlite, which is not running yet. It joins the nodes that are there."""
        join = ",".join([one.address for one in self.nodes]) or "-"
        numbers = [str(one) for one in (self.latency, FREQUENCY, voters)]
        files = [str(self.tls.certificate), str(self.tls.key)] if self.tls else []
        return self._add(lambda node: [self.program, "app", node.address, str(node.dir), *numbers, join, *files])

    def python(self, verb: str = "witness", *options: str) -> Node:
        """Return a new node of this project, which is not running yet. It joins with the nodes that are there."""
        threshold, trailing = self.settings
        join = [f"--join={one.address}" for one in self.nodes]
        settings = [f"--network-latency={self.latency}", f"--snapshot-threshold={threshold}"]
        settings += [f"--snapshot-trailing={trailing}", *options]
        if self.tls:
            settings += [f"--cert={self.tls.certificate}", f"--key={self.tls.key}", f"--ca={self.tls.certificate}"]
        if self.upgrade:
            settings.append(f"--upgrade={self.upgrade}")
        python = [sys.executable, "-m", "pyraft", "dqlite", verb]
        node = self._add(
            lambda node: [*python, str(node.dir), f"--id={node.id}", f"--address={node.address}", *join, *settings]
        )
        node.ours = True
        return node

    def _add(self, command: Callable[[Node], list[str]]) -> Node:
        id = len(self.nodes) + 1
        node = Node(command, id, self.dir / f"node{id}")
        node.tls = self.tls
        node.upgrade = self.upgrade
        self.nodes.append(node)
        return node

    def client(self) -> Lines:
        """Return a client that knows all nodes."""
        addresses = ",".join(one.address for one in self.nodes)
        files = [str(self.tls.certificate), str(self.tls.key)] if self.tls else []
        made = Lines([self.program, "client", addresses, *files], self.dir / "client.log", self.upgrade)
        self._clients.append(made)
        made.read()
        return made

    def until_equal(self, nodes: list[Node], name: str = "test.db") -> bytes:
        """Wait until nodes have the same pages of a database; return them."""
        end = time.monotonic() + DEADLINE
        while True:
            contents = [node.dump(name) for node in nodes]
            if contents[0] and all(one == contents[0] for one in contents):
                return contents[0]
            assert time.monotonic() < end, f"they differ: {[len(one) for one in contents]} bytes"
            time.sleep(0.02)

    def close(self) -> None:
        """Kill everything."""
        for lines in (*self._clients, *(node.lines for node in self.nodes)):
            if lines is not None and lines.process.poll() is None:
                lines.end()
            elif lines is not None:
                lines.end(0)
