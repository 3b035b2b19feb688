"""Starts a cluster of example servers, loads it, kills and restarts them at random, and checks what they counted.

Every server is a process of its own (server.py --control). Increments of random amounts go to the leader; now and then
a server gets SIGKILL, the leader as often as another, sometimes all at once, and is started again a moment later.
Meanwhile the display shows leader, term, commits per second and who is down. At the end the load stops, everybody is
started and has to converge, and then this must hold, or the exit status is 1:

* every acknowledged increment was counted, at the index of its acknowledgement, with its amount, by every server;
* nothing was counted twice, and nothing that was not asked for;
* all servers counted the same commands at the same indexes, and their logs on disk agree entry by entry.

A page shows the same, with aiohttp: the servers in a ring, who leads, commits per second, how long they take, and what
happens; its buttons have another server lead, or promote, demote or remove one. This process serves the page, and no
accident ends it; the servers tell their status, and take changes, on their own port. A server that was removed stops
counting, and is not among those that have to converge.
"""

import argparse
import asyncio
import contextlib
import random
import secrets
import shutil
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path
from typing import Any

import io_uv
import pyraft
from io_uv import pyuv
from pyraft import RaftIo

SERVER = Path(__file__).resolve().parent / "server.py"
FIRST_PORT = 9001
PAGE = "127.0.0.1:8080"
CONVERGENCE_SECONDS = 60.0
STATUS_SECONDS = 0.25
LOAD_SECONDS = 0.01


class Violation(Exception):
    """Something that must never happen did."""


class Ledger:
    """Everything that was asked for, acknowledged and counted."""

    def __init__(self) -> None:
        self.under_way: dict[int, int] = {}  # request: amount
        self.acknowledged: dict[int, int] = {}  # index: amount
        self.unknown: Counter[int] = Counter()  # amounts of requests that nobody answered for
        self.counted: dict[int, int] = {}  # index: amount, as told by the servers
        self.requests = 0

    def ask(self, amount: int) -> int:
        self.requests += 1
        self.under_way[self.requests] = amount
        return self.requests

    def ack(self, request: int, index: int) -> None:
        amount = self.under_way.pop(request)
        if index in self.acknowledged:
            raise Violation(f"index {index} was acknowledged twice")
        self.acknowledged[index] = amount

    def lost(self, request: int) -> None:
        self.unknown[self.under_way.pop(request)] += 1

    def refused(self, request: int) -> None:
        del self.under_way[request]

    def applied(self, server: int, index: int, amount: int) -> None:
        former = self.counted.setdefault(index, amount)
        if former != amount:
            raise Violation(f"server {server} counts {amount} at index {index}, another one {former}")

    def check(self, counts: dict[int, int]) -> None:
        """Raise Violation unless what the servers counted is what was acknowledged, plus some of what is unknown."""
        for index, amount in self.acknowledged.items():
            if self.counted.get(index) != amount:
                raise Violation(f"{amount} acknowledged at index {index}, counted {self.counted.get(index)}")
        total = sum(self.counted.values())
        for server, count in counts.items():
            if count != total:
                raise Violation(f"server {server} has {count}, all commands together are {total}")
        beyond = Counter(amount for index, amount in self.counted.items() if index not in self.acknowledged)
        if not beyond <= self.unknown:
            raise Violation(f"counted without having been asked for: {dict(beyond - self.unknown)}")


class Member:
    """One server of the cluster, which stays while its process comes and goes."""

    def __init__(self, id: int, address: str, dir: Path) -> None:
        self.id = id
        self.address = address
        self.dir = dir
        self.process: asyncio.subprocess.Process | None = None
        self.reader: asyncio.Task[None] | None = None
        self.status: dict[str, str] = {}
        self.mine: set[int] = set()  # requests that were sent to it and have no answer yet

    @property
    def up(self) -> bool:
        return self.process is not None

    def number(self, key: str) -> int:
        return int(self.status.get(key, "0"))

    def tell(self, line: str) -> None:
        if self.process is not None and self.process.stdin is not None and not self.process.stdin.is_closing():
            self.process.stdin.write(line.encode() + b"\n")


class Cluster:
    """The processes, the load, the accidents and the final check."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        self.options = options
        self.directory = directory
        # One generator each, so that the schedule of accidents does not depend on how fast the load goes.
        self.amounts = random.Random(f"amounts {options.seed}")
        self.chance = random.Random(f"accidents {options.seed}")
        self.ledger = Ledger()
        self.ports = contextlib.ExitStack()
        kept = addresses(options.servers, self.ports)
        self.members = [Member(id, address, directory / str(id)) for id, address in kept]
        self.expected_exits: set[int] = set()  # process ids
        self.begun = time.monotonic()
        self.kills = 0
        self.longest_stall = 0  # ms
        self.most_memory = 0  # KiB
        self.failure: BaseException | None = None
        self.failed = asyncio.Event()
        self.ending = asyncio.Event()
        self.news: list[str] = []
        self.left = self.members  # those that nobody has removed, at the end

    # Processes.

    async def start(self, member: Member) -> None:
        member.dir.mkdir(parents=True, exist_ok=True)
        members = ",".join(f"{m.id}={m.address}" for m in self.members)
        command = [sys.executable, str(SERVER), str(member.dir), str(member.id), "--members", members, "--control"]
        # A start may be killed before it has bootstrapped, and no disk is lost here.
        command += ["--bootstrap", "--changes"]
        with (self.directory / f"{member.id}.log").open("ab") as log:
            member.process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=1 << 20,
                start_new_session=True,  # Ctrl-C is for this program; the servers stop when it tells them
            )
        member.reader = asyncio.create_task(self.read(member, member.process))

    async def read(self, member: Member, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                self.heard(member, line.decode().split())
            await process.wait()
            if process.pid not in self.expected_exits:
                log = (self.directory / f"{member.id}.log").read_text()[-2000:]
                raise Violation(f"server {member.id} ended by itself with {process.returncode}:\n{log}")
        except BaseException as exc:
            self.failure = self.failure or exc
            self.failed.set()
            if not isinstance(exc, Violation):
                raise

    def heard(self, member: Member, words: list[str]) -> None:
        kind, *rest = words
        if kind == "applied":
            self.ledger.applied(member.id, int(rest[0]), int(rest[1]))
        elif kind == "status":
            member.status = dict(word.split("=") for word in rest)
            self.longest_stall = max(self.longest_stall, member.number("stall"))
            self.most_memory = max(self.most_memory, member.number("memory"))
        else:
            request = int(rest[0])
            member.mine.discard(request)
            if kind == "ack":
                self.ledger.ack(request, int(rest[1]))
            elif kind == "nak":
                self.ledger.refused(request)
            elif kind == "lost":
                self.ledger.lost(request)

    async def end(self, member: Member, *, kill: bool) -> None:
        process = member.process
        assert process is not None
        assert member.reader is not None
        self.expected_exits.add(process.pid)
        if kill:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself, which `read` has told
                process.kill()
        else:
            member.tell("stop")
        await member.reader  # its last lines count, too
        member.process = None
        member.status = {}
        for request in member.mine:
            self.ledger.lost(request)
        member.mine.clear()

    # Load and accidents.

    async def pause(self, seconds: float) -> bool:
        """Wait; return at once, and True, when the load is to end."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.ending.wait(), seconds)
        return self.ending.is_set()

    def leader(self) -> Member | None:
        leaders = [m for m in self.members if m.up and m.status.get("state") == "leader"]
        return max(leaders, key=lambda m: m.number("term"), default=None)

    async def load(self) -> None:
        due = 0.0
        while not await self.pause(LOAD_SECONDS):
            due = min(due + self.options.rate * LOAD_SECONDS, self.options.rate)
            leader = self.leader()
            if leader is None or len(leader.mine) > 2 * self.options.rate:
                continue
            while due >= 1:
                due -= 1
                amount = self.amounts.randrange(1, 1000)
                request = self.ledger.ask(amount)
                leader.mine.add(request)
                leader.tell(f"add {request} {amount}")

    async def accidents(self) -> None:
        while not await self.pause(self.chance.uniform(0.5, 3.0)):
            victims = self.victims()
            self.kills += len(victims)
            self.say("kill " + ", ".join(f"{m.id} ({m.status.get('state', 'starting')})" for m in victims))
            await asyncio.gather(*(self.end(m, kill=True) for m in victims))
            await self.pause(self.chance.uniform(0.2, 2.0))
            self.say("restart " + ", ".join(str(m.id) for m in victims))
            await asyncio.gather(*(self.start(m) for m in victims))

    def present(self) -> list[Member]:
        """The members that are left, as the leader knows them; none as long as nobody leads."""
        leader = self.leader()
        known = "" if leader is None else leader.status["members"]
        return [member for member in self.members if str(member.id) in known.split(",")]

    def victims(self) -> list[Member]:
        chance = self.chance.random()
        if chance < 0.1:
            return list(self.members)
        leader = self.leader()
        if chance < 0.5 and leader is not None:
            return [leader]
        minority = max(1, (len(self.members) - 1) // 2)
        return self.chance.sample(self.members, self.chance.randint(1, minority))

    async def ask_status(self) -> None:
        while True:
            for member in self.members:
                member.tell("status")
            await asyncio.sleep(STATUS_SECONDS)

    # Display.

    def say(self, text: str) -> None:
        self.news.append(f"{time.monotonic() - self.begun:6.1f} s  {text}")

    def summary(self, commits_per_second: float) -> str:
        leader = self.leader()
        down = ", ".join(str(m.id) for m in self.members if not m.up)
        return (
            f"leader {leader.id if leader else '-'}  term {max(m.number('term') for m in self.members)}  "
            f"{commits_per_second:6.0f} commits/s  acknowledged {len(self.ledger.acknowledged)}  "
            f"unknown {self.ledger.unknown.total()}" + (f"  down: {down}" if down else "")
        )

    async def display(self) -> None:
        live = sys.stdout.isatty()
        window = [(time.monotonic(), 0)]
        drawn = 0
        while True:
            await asyncio.sleep(0.25 if live else 1.0)
            now = time.monotonic()
            window = [*window, (now, len(self.ledger.acknowledged))][-5:]
            rate = (window[-1][1] - window[0][1]) / max(0.001, window[-1][0] - window[0][0])
            lines = [f"{now - self.begun:6.1f} s  {self.summary(rate)}"]
            if live:
                lines += [self.row(member) for member in self.members]
                sys.stdout.write(f"\x1b[{drawn}A\x1b[J" if drawn else "")
            print(*self.news, *lines, sep="\n", flush=True)
            self.news.clear()
            drawn = len(lines)

    def row(self, member: Member) -> str:
        if not member.up:
            return f"   {member.id}  down"
        get = member.status.get
        return (
            f"   {member.id}  {get('state', 'starting'):<11} term {get('term', '-'):>4}  last {get('last', '-'):>8}  "
            f"commit {get('commit', '-'):>8}  applied {get('applied', '-'):>8}  count {get('count', '-'):>12}"
        )

    # The run.

    async def run(self) -> dict[int, int]:
        """Run it all and return what each server has counted. Raises Violation."""
        await asyncio.gather(*(self.start(member) for member in self.members))
        background = [asyncio.create_task(task) for task in (self.ask_status(), self.display())]
        trouble = [asyncio.create_task(self.load())]
        try:
            await self.unless_failed(self.at_work())
            if not self.options.calm:
                trouble.append(asyncio.create_task(self.accidents()))
            await self.unless_failed(asyncio.sleep(self.options.seconds))
            self.ending.set()
            await self.unless_failed(asyncio.gather(*trouble))
            self.say("load stopped, waiting for the servers to converge")
            await self.unless_failed(self.converge())
            return {member.id: member.number("count") for member in self.left}
        finally:
            self.ending.set()
            await asyncio.gather(*trouble, return_exceptions=True)
            await cancel(background)
            await asyncio.gather(*(self.end(m, kill=self.failure is not None) for m in self.members if m.up))
            print(*self.news, sep="\n")

    async def unless_failed(self, work: Awaitable[object]) -> None:
        """Wait for work, but no longer than until something fails, and raise that."""
        task = asyncio.ensure_future(work)
        failed = asyncio.create_task(self.failed.wait())
        await asyncio.wait([task, failed], return_when=asyncio.FIRST_COMPLETED)
        await cancel([failed])
        if self.failure is not None:
            await cancel([task])
            raise self.failure
        await task

    async def at_work(self) -> None:
        """Wait for the first increment that is acknowledged: before that, time and accidents show nothing."""
        end = time.monotonic() + CONVERGENCE_SECONDS
        while not self.ledger.acknowledged:
            if time.monotonic() > end:
                raise Violation(f"nothing acknowledged within {CONVERGENCE_SECONDS:.0f} s")
            await asyncio.sleep(LOAD_SECONDS)

    async def converge(self) -> None:
        await asyncio.gather(*(self.start(member) for member in self.members if not member.up))
        end = time.monotonic() + CONVERGENCE_SECONDS
        while not self.converged():
            if time.monotonic() > end:
                rows = "\n".join(self.row(member) for member in self.members)
                raise Violation(f"no convergence within {CONVERGENCE_SECONDS:.0f} s:\n{rows}")
            await asyncio.sleep(STATUS_SECONDS)

    def converged(self) -> bool:
        positions = {tuple(m.number(key) for key in ("term", "last", "commit", "applied")) for m in self.present()}
        if len(positions) != 1 or self.ledger.under_way:
            return False
        self.left = self.present()
        _, last, commit, applied = next(iter(positions))
        # A status may be older than what the servers have told since.
        return last == commit == applied >= max(self.ledger.counted, default=0)


@contextlib.asynccontextmanager
async def page(members: list[Member], address: str) -> AsyncIterator[None]:
    """Serve a page that shows these servers in this block, at any free port where that of `address` is taken."""
    try:
        from pyraft.page import watched
    except ImportError:
        print("no page without aiohttp: pip install 'pyraft-uv[http]'", flush=True)
        yield
        return
    via = [member.address for member in members]
    token = secrets.token_urlsafe(9)  # no other user of this machine has it
    async with contextlib.AsyncExitStack() as stack:
        try:
            where = await stack.enter_async_context(watched(via, address, token))
        except OSError:
            where = await stack.enter_async_context(watched(via, address.rpartition(":")[0] + ":0", token))
        print(f"page at http://{where}/#token={token} while it runs", flush=True)
        yield


async def cancel(tasks: "Sequence[asyncio.Future[Any]]") -> None:
    """Cancel tasks and wait until they are gone."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def addresses(n: int, keep: contextlib.ExitStack) -> list[tuple[int, str]]:
    """Return id and address of n servers: 127.0.0.1:9001 and so on, or free ports where one of these is taken.

    Nobody else gets the ports until `keep` is closed, not even while their servers are down.
    """
    with contextlib.ExitStack() as stack:
        try:
            bound = [stack.enter_context(taken(port)) for port in range(FIRST_PORT, FIRST_PORT + n)]
        except OSError:
            bound = [stack.enter_context(taken(0)) for _ in range(n)]
        with contextlib.suppress(OSError):
            for s in bound:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server, which sets it too, can listen there
            keep.push(stack.pop_all())
        return [(i + 1, f"127.0.0.1:{s.getsockname()[1]}") for i, s in enumerate(bound)]


def taken(port: int) -> socket.socket:
    """Return a socket bound to a port of 127.0.0.1, 0 for any free one; OSError if somebody has it or keeps it."""
    s = socket.socket()
    try:
        s.bind(("127.0.0.1", port))
    except OSError:
        s.close()
        raise
    return s


def read_log(member: Member) -> dict[int, tuple[int, int, bytes]]:
    """Return what a stopped server has on disk: {index: (term, type, payload)}."""
    loop = pyuv.Loop()
    transport = io_uv.RaftUvTransport()
    io = RaftIo()
    rv = io_uv.raft_uv_tcp_init(transport, loop) or io_uv.raft_uv_init(io, loop, str(member.dir), transport)
    rv = rv or io.init(io, member.id, member.address)
    if rv != 0:
        raise Violation(f"the directory of server {member.id} cannot be read: {io.errmsg} ({rv})")
    rv, _, _, _, start, entries = io.load(io)
    if rv != 0:
        raise Violation(f"the log of server {member.id} cannot be read: {io.errmsg} ({rv})")
    io.close(io, lambda io: None)
    loop.run()
    io_uv.raft_uv_close(io)
    io_uv.raft_uv_tcp_close(transport)
    loop.close()
    return {start + i: (entry.term, entry.type, entry.buf) for i, entry in enumerate(entries)}


def compare_logs(cluster: Cluster) -> int:
    """Raise Violation unless all logs agree with each other and with what was counted; return the entries compared."""
    seen: dict[int, tuple[int, int, bytes]] = {}
    for member in cluster.left:  # one that was removed may have entries that nobody else has got
        for index, entry in read_log(member).items():
            if seen.setdefault(index, entry) != entry:
                raise Violation(f"server {member.id} has {entry} at index {index}, another one {seen[index]}")
            if entry[1] == pyraft.RAFT_COMMAND and entry[2] != struct.pack("<Q", cluster.ledger.counted[index]):
                raise Violation(f"server {member.id} has {entry} at index {index}, which is not what it counted")
    return len(seen)


def run(options: argparse.Namespace, directory: Path) -> bool:
    """Run a cluster in a directory and say whether the check held."""

    async def whole() -> tuple[Cluster, dict[int, int]]:
        cluster = Cluster(options, directory)
        with cluster.ports:
            async with page(cluster.members, options.page):
                return cluster, await cluster.run()

    try:
        cluster, counts = asyncio.run(whole())
        cluster.ledger.check(counts)
        entries = compare_logs(cluster)
    except Violation as violation:
        print(f"FAILED (seed {options.seed}): {violation}")
        return False
    ledger = cluster.ledger
    more = len(ledger.counted) - len(ledger.acknowledged)
    print(
        f"held (seed {options.seed}): {len(ledger.acknowledged)} acknowledged increments counted once on each of "
        f"{len(cluster.left)} servers through {cluster.kills} kills; {more} of "
        f"{ledger.unknown.total()} unanswered ones counted too; {entries} log entries on disk agree"
    )
    print(f"longest stall of a server's loop {cluster.longest_stall} ms, most memory {cluster.most_memory // 1024} MiB")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a cluster of example servers under load and accidents.")
    parser.add_argument("--servers", type=int, default=3, help="how many (default 3)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to load it (default 30)")
    parser.add_argument("--rate", type=float, default=500.0, help="increments per second (default 500)")
    parser.add_argument("--calm", action="store_true", help="kill nobody")
    parser.add_argument("--page", default=PAGE, metavar="HOST:PORT", help=f"where its page is (default {PAGE})")
    parser.add_argument("--seed", type=int, default=None, help="of kills and amounts; printed at the end")
    parser.add_argument("--directory", type=Path, default=None, help="keep the data here (default: a temporary one)")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    if options.directory is not None and options.directory.exists() and any(options.directory.iterdir()):
        parser.error(f"{options.directory} is not empty; increments of another run would be counted as well")
    directory = options.directory or Path(tempfile.mkdtemp(prefix="raft-cluster-"))
    print(f"{options.servers} servers for {options.seconds:g} s in {directory}, seed {options.seed}", flush=True)
    try:
        held = run(options, directory)
    except KeyboardInterrupt:
        print(f"interrupted; data and logs of the servers are in {directory}")
        return 130
    if held and options.directory is None:
        shutil.rmtree(directory)
    elif not held:
        print(f"data and logs of the servers are in {directory}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
