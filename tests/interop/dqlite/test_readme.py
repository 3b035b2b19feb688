"""The programs and commands of the READMEs about dqlite, as printed but for ports and directories."""

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pyraft.dqlite
from io_uv import dqlite
from pyraft.dqlite import Cluster
from tests.interop.dqlite.driver import SOURCES, build
from tests.interop.dqlite.driver import Cluster as Nodes
from tests.lib.ports import free_port

CLIENT = Path(pyraft.dqlite.__file__).with_name("README.md")
MEMBERS = Path(dqlite.__file__).with_name("README.md")
VOTING_SECONDS = 150.0
"""The role management of go-dqlite looks every 30 s."""


def test_the_programs_run(cluster: Callable[..., Nodes], capfd: pytest.CaptureFixture[str]) -> None:
    """The client's runs twice, then the administrator's does."""
    node = cluster().go()
    node.start()
    programs = re.findall(r"```python\n(.*?)```", CLIENT.read_text(), flags=re.S)
    assert len(programs) == 2
    shop, admin = (re.sub(r"10\.0\.0\.\d:9001", node.address, program) for program in programs)
    for _ in range(2):
        exec(compile(shop, str(CLIENT), "exec"), {})
        assert capfd.readouterr().out == "1\napple 5\n"
    admin = admin.replace("await ", "asyncio.run(").replace(".members())", ".members()))")
    exec(compile("import asyncio\n" + admin, str(CLIENT), "exec"), {})
    assert f"address='{node.address}', role=0" in capfd.readouterr().out


class Demo:
    """The three processes that the README starts, and what is done with them."""

    def __init__(self, folder: Path, demo: Path) -> None:
        text = MEMBERS.read_text()
        self.ports = {port: str(free_port()) for port in ("8001", "8002", "9001", "9002", "9003")}
        found = re.findall(r"^    (dqlite-demo .*|pyraft dqlite witness .*--address 127\.0\.0\.1.*)$", text, re.M)
        self.commands = [self._here(line, folder, demo) for line in found]
        assert len(self.commands) == 3
        self.folder = folder
        self.running: dict[int, subprocess.Popen[bytes]] = {}

    def _here(self, line: str, folder: Path, demo: Path) -> list[str]:
        for port, ours in self.ports.items():
            line = line.replace(f":{port}", f":{ours}")
        program, *rest = line.split()
        if program == "pyraft":
            return [sys.executable, "-m", "pyraft", *rest]
        return [str(demo), *rest, "--dir", str(folder / "demo")]

    def start(self, n: int) -> None:
        """Start one of the three."""
        with (self.folder / f"{n}.log").open("ab") as log:
            self.running[n] = subprocess.Popen(self.commands[n], cwd=self.folder, stdout=log, stderr=log)

    def kill(self, n: int) -> None:
        """Kill one of the three."""
        process = self.running.pop(n)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def put(self, n: int, value: str) -> None:
        """Store a value by the API of a node, which answers only when there is a leader."""
        url = f"http://127.0.0.1:{self.ports[f'800{n + 1}']}/key"
        end = time.monotonic() + VOTING_SECONDS
        while True:
            request = urllib.request.Request(url, data=value.encode(), method="PUT")
            with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=20) as answer:
                if answer.read().strip() == b"done":
                    return
            assert time.monotonic() < end, (self.folder / f"{n}.log").read_text()[-2000:]
            time.sleep(0.1)

    def get(self, n: int) -> str:
        """Return the value."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[f'800{n + 1}']}/key", timeout=20) as answer:
            return str(answer.read().decode().strip())

    def voters(self) -> int:
        """Return how many members vote, 0 while nobody leads or one of them does not know the leader."""
        try:
            for port in ("9001", "9002", "9003"):
                members = asyncio.run(Cluster([f"127.0.0.1:{self.ports[port]}"], timeout_seconds=5).members())
        except pyraft.dqlite.Unavailable:
            return 0
        return sum(one.role == 0 for one in members)

    def serves(self) -> bool:
        """Whether the programs of go-dqlite answer: they end if they cannot write as they start."""
        try:
            return bool(self.get(0) and self.get(1))
        except OSError:
            return False

    def until_all_vote(self) -> None:
        """Wait until any of the three may be lost."""
        end = time.monotonic() + VOTING_SECONDS
        while self.voters() < 3 or not self.serves():
            assert time.monotonic() < end, [path.read_text()[-1000:] for path in self.folder.glob("*.log")]
            time.sleep(0.2)


@pytest.fixture
def demo(tmp_path: Path, go_program: Path) -> Iterator[Demo]:
    """The three, of which none runs yet."""
    program = tmp_path / "dqlite-demo"
    problem = build(program, SOURCES / "src/github.com/canonical/go-dqlite/cmd/dqlite-demo/dqlite-demo.go")
    if problem:
        pytest.skip(problem)
    made = Demo(tmp_path, program)
    yield made
    for n in list(made.running):
        made.kill(n)


def test_two_go_nodes_and_a_witness_survive_the_loss_of_any(demo: Demo) -> None:
    """The three commands start them; each is killed in turn, a value is stored, and it comes back."""
    for n in range(3):
        demo.start(n)
        if n == 0:
            demo.put(0, "first")
    demo.until_all_vote()
    for n in range(3):
        demo.kill(n)
        other = 1 if n == 0 else 0
        demo.put(other, f"without {n}")
        assert demo.get(other) == f"without {n}"
        demo.start(n)
        demo.until_all_vote()
