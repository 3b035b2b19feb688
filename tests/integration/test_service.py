"""examples/service.py, in processes: the service that this layer was made for, with what its members go through."""

import concurrent.futures
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lib.uvnode import free_addresses

SERVICE = Path(__file__).resolve().parents[2] / "examples" / "service.py"
DEADLINE = 120.0


@pytest.fixture(autouse=True)
def aiohttp() -> None:
    """Skip where aiohttp is not there; in CI that is a failure."""
    if importlib.util.find_spec("aiohttp") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("aiohttp is missing, and with it a test of an example")
        pytest.skip("aiohttp is not installed: pip install -e .[dev]")


class Service:
    """The processes of the service, by member, and requests to them."""

    def __init__(self, dir: Path) -> None:
        self.dir = dir / "data"
        ports = [address.rpartition(":")[2] for address in free_addresses(8).values()]
        self.ports = {n: (ports[2 * n - 2], ports[2 * n - 1]) for n in range(1, 5)}
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, number: int) -> None:
        """Start one member by itself."""
        raft, http = self.ports[number]
        via = [f"127.0.0.1:{self.ports[n][0]}" for n in self.ports if n != number]
        command = [sys.executable, str(SERVICE), str(self.dir / str(number)), f"{raft}:{http}", "--via", *via]
        self.processes[number] = subprocess.Popen(command)

    def request(self, number: int, method: str, path: str, data: bytes | None = None) -> Any:
        """Have a member answer a request; OSError if it does not."""
        url = f"http://127.0.0.1:{self.ports[number][1]}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=DEADLINE) as answer:
            return json.loads(answer.read())

    def insist(self, method: str, path: str, *numbers: int, data: bytes | None = None) -> Any:
        """Ask one of some members after the other until one answers, as a client with retries does.

        Also a single one: as its leader is lost, if the machine stands still, it may answer that nobody leads.
        """
        return self.until(lambda: self.any_of(numbers, method, path, data), lambda found: found is not None)[0]

    def any_of(self, numbers: tuple[int, ...], method: str, path: str, data: bytes | None) -> list[Any] | None:
        """Return the answer of the first of some members that gives one, in a list."""
        for number in numbers:
            with contextlib.suppress(OSError):
                return [self.request(number, method, path, data)]
        return None

    def until(self, ask: Callable[[], Any], test: Callable[[Any], object]) -> Any:
        """Ask until the answer is as it should be."""
        pause, end, last = threading.Event(), time.monotonic() + DEADLINE, "no answer"
        while time.monotonic() < end:
            try:
                if test(found := ask()):
                    return found
                last = repr(found)
            except OSError as exc:
                last = repr(exc)
            pause.wait(0.05)
        raise AssertionError(f"does not come true within {DEADLINE:g} s: {last}")

    def roles(self, number: int) -> list[str]:
        """Return the roles of all members, as one tells them."""
        return sorted(member[2] for member in self.request(number, "GET", "/status")["members"])


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Three members by the one command; all that runs in the end is ended."""
    made = Service(tmp_path)
    ports = [":".join(made.ports[n]) for n in (1, 2, 3)]
    all_of_them = subprocess.Popen([sys.executable, str(SERVICE), str(made.dir), *ports])
    try:
        made.until(lambda: made.roles(3), lambda roles: roles == ["voter"] * 3)
        yield made
    finally:
        all_of_them.terminate()
        for process in made.processes.values():
            process.terminate()
        for process in (all_of_them, *made.processes.values()):
            try:
                assert process.wait(DEADLINE) in (0, -signal.SIGTERM)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def test_the_service_of_three_members(service: Service) -> None:
    """Writes and strong reads on any member, values that end, hits that count once, one job, a fourth member."""
    revision = service.insist("PUT", "/map/color", 1, data=b"green")
    assert service.insist("PUT", "/map/color", 2, data=b"blue") > revision
    assert service.insist("GET", "/map/color", 3) == "blue"
    service.insist("PUT", "/map/short?ttl=0.3", 3, data=b"x")
    service.until(lambda: service.insist("GET", "/map/short", 1), lambda value: value is None)
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        asked = [(member, n) for n in range(1, 31) for member in (1, 2, 3)]
        found = list(pool.map(lambda it: service.insist("POST", f"/hits/client{it[1]}/1", it[0]), asked))
    assert sorted(set(found)) == list(range(1, 31))
    assert service.insist("GET", "/status", 2)["hits"] == 30
    service.until(lambda: service.insist("GET", "/status", 1)["job"], lambda runs: runs >= 2)
    service.start(4)
    service.until(lambda: service.roles(4), lambda roles: roles == ["voter"] * 4)
    assert service.insist("GET", "/map/color", 4) == "blue"


def test_members_are_stopped_killed_and_replaced(tmp_path: Path) -> None:
    """Under load each member is restarted, one killed, and one whose disk is lost refused: every hit counts once."""
    service = Service(tmp_path)
    subprocess.run(
        [sys.executable, "-m", "pyraft", "init", service.dir / "1", "--address", f"127.0.0.1:{service.ports[1][0]}"],
        check=True,
        capture_output=True,
    )
    over, counts = threading.Event(), [0] * 4

    def load(client: int) -> None:
        while not over.is_set():
            number = counts[client] + 1
            service.insist("POST", f"/hits/client{client}/{number}", *[(client + n) % 3 + 1 for n in range(3)])
            counts[client] = number

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        try:
            for number in (1, 2, 3):
                service.start(number)
            service.until(lambda: service.roles(3), lambda roles: roles == ["voter"] * 3)
            clients = [pool.submit(load, client) for client in range(4)]
            for number, signum in ((1, signal.SIGTERM), (2, signal.SIGTERM), (3, signal.SIGKILL), (1, signal.SIGTERM)):
                before = sum(counts)
                service.until(lambda: sum(counts), lambda after, before=before: after >= before + 20)
                service.processes[number].send_signal(signum)
                assert service.processes[number].wait(DEADLINE) in (0, -signal.SIGKILL)
                service.start(number)
                service.until(lambda number=number: service.roles(number), bool)
            over.set()
            for client in clients:
                client.result(DEADLINE)
            assert service.insist("GET", "/status", 1, 2, 3)["hits"] == sum(counts)
            service.processes[2].kill()
            service.processes[2].wait()
            shutil.rmtree(service.dir / "2")
            service.start(2)
            assert service.processes[2].wait(DEADLINE) == 1  # refused: its address is a member's that has lost its disk
            service.start(4)
            service.until(lambda: service.roles(4), lambda roles: len(roles) == 4)
            assert service.insist("GET", "/status", 4)["hits"] == sum(counts)
        finally:
            over.set()
            for process in service.processes.values():
                process.terminate()
                process.wait(DEADLINE)
