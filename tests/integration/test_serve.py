"""`pyraft serve` as systemd and a shell run it: processes, signals, and what the manager is told."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("aiohttp", reason="the extra http is not installed")

from pyraft.command import serve
from pyraft.node import Settings
from pyraft.node.systemd import Notifier
from tests.integration.test_command import run
from tests.lib.tlstest import Authority
from tests.lib.uvnode import free_addresses

ROOT = Path(__file__).resolve().parents[2]

SHOP = """
from pyraft.node import Machine, command, query


class Shop(Machine):
    def __init__(self):
        self.stock = {}

    @command
    def put(self, item):
        self.stock[item] = self.stock.get(item, 0) + 1
        return self.stock[item]

    @command
    def explode(self):
        raise MemoryError("nothing left")


def make():
    return Shop()


number = 7
"""

CLIENT = """
import asyncio, sys
from pyraft.node import connect
from shop import Shop

async def main():
    async with connect([sys.argv[1]], Shop()) as client:
        with client.timeout(5):
            print(await getattr(client.machine, sys.argv[2])(*sys.argv[3:]))

asyncio.run(main())
"""


class Manager:
    """systemd's end of the socket."""

    def __init__(self, name: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(60)
        self.socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self.heard: list[str] = []

    def until(self, line: str) -> None:
        """Read until somebody says `line`."""
        while not any(said.startswith(line) for said in self.heard):
            self.heard += self.socket.recv(4096).decode().split("\n")

    def forget(self) -> None:
        """Begin to listen anew."""
        self.heard = []


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, near_path: Path) -> Iterator[tuple[Manager, str]]:
    """A manager, and the name of its socket as the environment has it."""
    name = str(near_path / "notify") if request.param == "path" else f"@pyraft-test-{os.getpid()}-{near_path.name}"
    made = Manager(name)
    yield made, name
    made.socket.close()


def start(tmp_path: Path, *words: object, **environment: str) -> subprocess.Popen[str]:
    """Start the command in the directory with the program."""
    (tmp_path / "shop.py").write_text(SHOP)
    return subprocess.Popen(
        [sys.executable, "-m", "pyraft", "serve", *map(str, words)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ask(tmp_path: Path, *words: str) -> str:
    """Call a command of the machine as a client does."""
    (tmp_path / "client.py").write_text(CLIENT)
    done = subprocess.run(
        [sys.executable, "client.py", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout.strip()


def test_a_service(tmp_path: Path, manager: tuple[Manager, str]) -> None:
    """It says that it is ready, once clients can reach it, who leads, that it lives, and that it goes."""
    listener, name = manager
    where = free_addresses(1)[1]
    assert run("init", tmp_path / "1", "--address", where).exit_code == 0
    (tmp_path / "token").write_text("open sesame\n")
    http = ("--http", "127.0.0.1:0", "--http-token-file", "token")
    process = start(tmp_path, "shop:Shop", "1", *http, NOTIFY_SOCKET=name, WATCHDOG_USEC="100000")
    try:
        listener.until("READY=1")
        assert process.stdout is not None
        assert process.stdout.readline().rstrip().endswith("runs")
        page = process.stdout.readline().split()[-1]
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{page}status", timeout=60)
        asked = urllib.request.Request(f"{page}status", headers={"Authorization": "Bearer open sesame"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert json.load(answer)["address"] == where
        listener.until("STATUS=this member leads, 1 members")
        listener.forget()
        listener.until("WATCHDOG=1")
        assert ask(tmp_path, where, "put", "apple") == "1"
        assert "machine    Shop" in run("status", where, "--via", where).output
        process.send_signal(signal.SIGTERM)
        listener.until("STOPPING=1")
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "leads since term" in err
        assert "Traceback" not in err
    finally:
        process.kill()
        process.communicate()


def test_a_node_that_stops_by_itself_ends_the_process(tmp_path: Path) -> None:
    """The process has exit code 1 and says the reason, so that whoever has started it starts it again."""
    where = free_addresses(1)[1]
    run("init", tmp_path / "1", "--address", where)
    process = start(tmp_path, "shop:make", "1", "--set", "timeout_seconds=2.5")
    try:
        assert process.stdout is not None
        assert process.stdout.readline().rstrip().endswith("runs")
        ask(tmp_path, where, "explode")
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "Error: the node has stopped: " in err
        assert "nothing left" in err
    finally:
        process.kill()
        process.communicate()


def test_words_of_no_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is told in a line: no module, no machine in it, no member in the directory, no such setting."""
    (tmp_path / "shopping.py").write_text(SHOP)
    (tmp_path / "empty").touch()
    (tmp_path / "spoilt.py").write_text("import nowhere_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for words, text in (
        (("nowhere:Shop", "1"), "there is no module nowhere"),
        (("shopping:Nothing", "1"), "there is no Nothing in module shopping"),
        (("shopping:number", "1"), "is a int, not a pyraft.node.Machine"),
        (("shopping:Shop.__init__", "1"), "cannot be called without arguments"),
        (("..:Shop", "1"), "is not of the form MODULE:MACHINE"),
        (("shopping:Shop", "1"), "no member of a cluster is in it"),
        (("shopping:Shop", "1", "--cert", "x"), "--cert, --key and --ca are needed"),
        (("shopping", "1"), "is not of the form MODULE:MACHINE"),
        (("shopping:Shop", "1", "--http", "0.0.0.0:1"), "give --http-token-file"),
        (("shopping:Shop", "1", "--http", "nowhere"), "is not of the form HOST:PORT"),
        (("shopping:Shop", "1", "--http", "0.0.0.0:1", "--http-token-file", "none"), "No such file"),
        (("shopping:Shop", "1", "--http", "0.0.0.0:1", "--http-token-file", "empty"), "the token is expected in it"),
        (("shopping:Shop", "1", "--http", "0.0.0.0:1", "--http-cert", "c", "--http-key", "k"), "or --http-ca"),
        (("shopping:Shop", "1", "--http", "127.0.0.1:1", "--http-cert", "c"), "--http-cert and --http-key go together"),
        (("shopping:Shop", "1", "--http", "127.0.0.1:1", "--http-ca", "c"), "--http-ca goes with these"),
        (("shopping:Shop", "1", "--http-token-file", "empty"), "--http is needed"),
        (("shopping:Shop", "1", "--set", "nonsense=1"), "with a name of "),
        (("shopping:Shop", "1", "--set", "voters=many"), "a number is needed"),
        (("shopping:Shop", "1", "--set", "voters=100"), "voters must be a whole number from 1 to 99"),
    ):
        result = run("serve", *words)
        assert result.exit_code in (1, 2), words
        assert text in " ".join(result.output.split()), (words, result.output)
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        serve.find("spoilt:Shop")


def test_settings_by_name() -> None:
    """They are whole numbers and others."""
    assert serve.settings_of(("voters=3", "clock_drift=0.1")) == Settings(voters=3, clock_drift=0.1)


def test_without_a_manager_nothing_is_said() -> None:
    """A watchdog that is another process's is not fed; a socket that is gone is ignored."""
    assert Notifier({}).interval == 0
    Notifier({}).ready("x")
    assert Notifier({"WATCHDOG_USEC": "5000000"}).interval == 2.5
    assert Notifier({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}).interval == 0
    Notifier({"NOTIFY_SOCKET": "/nowhere/at/all"}).ready("x")


def test_the_page_over_tls(tmp_path: Path) -> None:
    """It is at an address that others reach, with certificates of theirs in the place of a token."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("page", "127.0.0.1")
    where = free_addresses(1)[1]
    assert run("init", tmp_path / "1", "--address", where).exit_code == 0
    files = ("--http-cert", cert, "--http-key", key, "--http-ca", authority.path)
    process = start(tmp_path, "shop:Shop", "1", "--http", "0.0.0.0:0", *files)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().rstrip().endswith("runs")
        page = process.stdout.readline().split()[-1]
        assert page.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=str(authority.path))
        with urllib.request.urlopen(f"{page}health", timeout=60, context=context) as answer:
            assert answer.status == 200
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{page}status", timeout=60, context=context)
        context.load_cert_chain(*authority.issue("operator", "operator.example"))
        with urllib.request.urlopen(f"{page}status", timeout=60, context=context) as answer:
            assert json.load(answer)["address"] == where
        assert process.stderr is not None
        kept = cert.read_bytes()
        for content, said in (
            (b"none", "certificates stay as they were: load a certificate"),
            (kept, "were read again"),
        ):
            cert.write_bytes(content)
            process.send_signal(signal.SIGHUP)
            assert any(said in line for line in process.stderr)  # up to that line
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "Traceback" not in err
    finally:
        process.kill()
        process.communicate()
