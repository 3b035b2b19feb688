"""Starts nodes and clients of go-dqlite (peer.go) and nodes of this project as processes, and talks to them.

`Cluster` makes them with ids from 1 on and kills all at the end. Nodes are told of a network latency of 40 ms: an
election begins after 600 ms, as in dqlite with that setting.
"""

import contextlib
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from io_uv.dqlite import image, messages, requests, responses, words
from io_uv.dqlite.messages import Splitter
from tests.lib.ports import free_port

LATENCY = 40
"""Milliseconds."""
DEADLINE = 60.0


class Failed(Exception):
    """A line of the program began with "error"."""


class Lines:
    """A process that answers lines with lines."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)
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
        status = self.process.wait(30)
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
        dir.mkdir()

    def start(self) -> None:
        """Start the process, and wait until it says that it is ready."""
        assert self.lines is None
        self.lines = Lines(self.command(self), self.dir.with_suffix(".log"))
        self.lines.read()

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End the process."""
        assert self.lines is not None
        lines, self.lines = self.lines, None
        return lines.end(number)

    def ask(self, request: requests.Request) -> responses.Response:
        """Ask the node itself, as a client."""
        return ask(self.address, request)[0]

    def dump(self, name: str = "test.db") -> bytes:
        """Return the pages of a database, nothing for one that is not there."""
        answer = self.ask(requests.Dump(name))
        if isinstance(answer, responses.Failed) and answer.code == responses.NOT_FOUND:
            return b""
        assert isinstance(answer, responses.Files), answer
        (main, content), (wal, rest) = answer.files
        assert (main, wal) == (name, name + "-wal")
        return applied(content, rest)


def applied(main: bytes, wal: bytes) -> bytes:
    """Return a database with its write-ahead log in it."""
    one = image.Database("x", memoryview(main), memoryview(wal), 4096)
    content, found = bytearray(main), list(image.frames(one))
    for number, page, _ in found:
        content[(number - 1) * 4096 : number * 4096] = page
    return bytes(content[: found[-1][2] * 4096] if found else content)


def exchange(address: str, *asked: requests.Request) -> list[tuple[int, int, bytes]]:
    """Send requests on one connection, each behind the answer to the one before; return the answers as they came."""
    host, _, port = address.rpartition(":")
    found: list[tuple[int, int, bytes]] = []
    with socket.create_connection((host, int(port)), timeout=DEADLINE) as sock:
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


def ask(address: str, *asked: requests.Request) -> list[responses.Response]:
    """Return the answers of a node to requests on one connection."""
    return [responses.decode(*message) for message in exchange(address, *asked)]


class Cluster:
    """Nodes of both kinds, and clients of go-dqlite."""

    def __init__(self, program: Path, dir: Path, threshold: int = 1024, trailing: int = 8192) -> None:
        self.program = str(program)
        self.dir = dir
        self.settings = (threshold, trailing)
        self.nodes: list[Node] = []
        self._clients: list[Lines] = []

    def go(self, **settings: int) -> Node:
        """Return a new node of go-dqlite, which is not running yet."""
        numbers = [str(one) for one in (*self.settings, LATENCY)]
        return self._add(lambda node: [self.program, "node", str(node.id), node.address, str(node.dir), *numbers])

    def python(self, verb: str = "witness") -> Node:
        """Return a new node of this project, which is not running yet. It joins with the nodes that are there."""
        threshold, trailing = self.settings
        join = [f"--join={one.address}" for one in self.nodes]
        settings = [f"--network-latency={LATENCY}", f"--snapshot-threshold={threshold}"]
        settings += [f"--snapshot-trailing={trailing}"]
        python = [sys.executable, "-m", "pyraft", "dqlite", verb]
        return self._add(
            lambda node: [*python, str(node.dir), f"--id={node.id}", f"--address={node.address}", *join, *settings]
        )

    def _add(self, command: Callable[[Node], list[str]]) -> Node:
        id = len(self.nodes) + 1
        node = Node(command, id, self.dir / f"node{id}")
        self.nodes.append(node)
        return node

    def client(self) -> Lines:
        """Return a client that knows all nodes."""
        addresses = ",".join(one.address for one in self.nodes)
        made = Lines([self.program, "client", addresses], self.dir / "client.log")
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
