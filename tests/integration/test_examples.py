"""The examples, run as a reader would run them, and the check of cluster.py against what it must catch."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.lib.ports import free_port

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DEADLINE = 300


@pytest.fixture(scope="module")
def cluster() -> ModuleType:
    """examples/cluster.py as a module."""
    spec = importlib.util.spec_from_file_location("example_cluster", EXAMPLES / "cluster.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def program(name: str, *arguments: object) -> list[str]:
    return [sys.executable, str(EXAMPLES / name), *(str(a) for a in arguments)]


@pytest.mark.parametrize("servers", [1, 3])
def test_a_cluster_under_accidents_counts_right(servers: int, tmp_path: Path) -> None:
    """cluster.py ends with its check held, whatever it killed."""
    options = ("--servers", servers, "--seconds", 5, "--seed", 4, "--directory", tmp_path / "data")
    done = subprocess.run(
        program("cluster.py", *options), capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "held (seed 4): " in done.stdout
    assert "kill " in done.stdout
    assert "commits/s" in done.stdout
    assert [line for line in done.stderr.splitlines() if not line.startswith("Executing <")] == []  # python -X dev


def test_the_cluster_has_a_page(tmp_path: Path) -> None:
    """It shows servers that are killed and come back, who leads, times of commits, and buttons, as long as it runs."""
    pytest.importorskip("aiohttp", reason="the extra http is not installed")
    options = ("--seconds", 600, "--seed", 4, "--directory", tmp_path / "data", "--page", "127.0.0.1:0")
    process = subprocess.Popen(program("cluster.py", *options), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        where, token = page_of(process)
        seen: set[str] = set()
        while not {"gone", "back", "leads", "times", "buttons"} <= seen:
            assert process.poll() is None, seen
            try:
                view = asked(where, token, "cluster")
            except urllib.error.HTTPError:  # all are down at the moment
                continue
            dead = [one for one in view["members"] if one["status"] is None]
            seen |= {"gone"} if dead else {"back"} if "gone" in seen else set()
            seen |= {"leads"} if view["leader"] else set()
            alive = [one["status"] for one in view["members"] if one["status"]]
            seen |= {"times"} if any(sum(one["commit_counts"]) for one in alive) else set()
            seen |= {"buttons"} if "transfer" in view["changes"] else set()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{where}cluster", timeout=60)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE)


def page_of(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Return the address of the page that cluster.py prints, and its token."""
    assert process.stdout is not None
    line = next(line.split()[2] for line in process.stdout if line.startswith("page at "))
    where, _, token = line.partition("#token=")
    return where, token


def asked(where: str, token: str, path: str, change: "dict[str, str] | None" = None) -> "dict[str, Any]":
    """Ask the page something, or have it change something."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    data = None if change is None else json.dumps(change).encode()
    with urllib.request.urlopen(urllib.request.Request(where + path, data, headers), timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def test_a_server_of_the_cluster_is_removed_by_its_page(tmp_path: Path) -> None:
    """Behind the token that is printed; another one leads first, and the check is of the two that are left."""
    pytest.importorskip("aiohttp", reason="the extra http is not installed")
    options = ("--seconds", 30, "--calm", "--seed", 4, "--directory", tmp_path / "data", "--page", "127.0.0.1:0")
    process = subprocess.Popen(program("cluster.py", *options), stdout=subprocess.PIPE, text=True)
    try:
        where, token = page_of(process)
        view: dict[str, Any] = {"leader": None}
        while not view["leader"]:
            with contextlib.suppress(urllib.error.HTTPError):  # none of them answers yet
                view = asked(where, token, "cluster")
        former = view["leader"]
        other = next(one["id"] for one in view["members"] if one["id"] != former)
        assert asked(where, token, "change", {"change": "transfer", "member": other}) == {"done": int(other)}
        asked(where, token, "change", {"change": "remove", "member": former})
        while former in [one["id"] for one in asked(where, token, "cluster")["members"]]:
            assert process.poll() is None  # the page may show what it has asked a moment ago
    finally:
        said, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, said
    assert "on each of 2 servers" in said


def test_two_clusters_never_have_the_same_ports(cluster: ModuleType) -> None:
    """A port is its server's, also while that is down."""
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        ours = cluster.addresses(3, first)
        assert [id for id, _ in ours] == [1, 2, 3]
        for _ in range(2):  # as killed servers leave it
            with socket.socket() as server:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                server.bind(("127.0.0.1", int(ours[0][1].rpartition(":")[2])))
                server.listen()
            others = cluster.addresses(3, second)
            assert not {address for _, address in ours} & {address for _, address in others}


def test_the_cluster_goes_on_without_aiohttp(tmp_path: Path) -> None:
    """It says how to get the page."""
    (tmp_path / "aiohttp.py").write_text("raise ImportError('not here')\n")
    options = ("--servers", 1, "--seconds", 1, "--calm", "--directory", tmp_path / "data")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        program("cluster.py", *options), capture_output=True, text=True, timeout=DEADLINE, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no page without aiohttp: pip install 'pyraft-uv[http]'" in done.stdout
    assert "held" in done.stdout


def test_a_directory_that_holds_another_run_is_refused(tmp_path: Path) -> None:
    """The increments of two runs cannot be told apart."""
    (tmp_path / "1").mkdir()
    done = subprocess.run(
        program("cluster.py", "--directory", tmp_path), capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 2
    assert "is not empty" in done.stderr


def ledger(cluster: ModuleType) -> object:
    """Two acknowledged increments, 5 and 7, counted by everybody, and one of 3 without an answer."""
    made = cluster.Ledger()
    for amount in (5, 7, 3):
        made.ask(amount)
    for server in (1, 2):
        made.applied(server, 2, 5)
        made.applied(server, 3, 7)
    made.ack(1, 2)
    made.ack(2, 3)
    made.lost(3)
    return made


def test_the_check_accepts_what_is_right(cluster: ModuleType) -> None:
    """An increment without an answer may have been counted or not."""
    made = ledger(cluster)
    made.check({1: 12, 2: 12})  # type: ignore[attr-defined]
    made.applied(1, 4, 3)  # type: ignore[attr-defined]
    made.check({1: 15, 2: 15})  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("counts", "changes", "complaint"),
    [
        ({1: 12, 2: 5}, [], "server 2 has 5"),
        ({1: 17, 2: 17}, [(1, 4, 5)], "without having been asked for"),
        ({1: 12, 2: 19}, [], "server 2 has 19"),
        ({1: 18, 2: 18}, [(1, 4, 3), (1, 5, 3)], "without having been asked for"),
    ],
    ids=["lost on one", "counted twice", "counted twice by one", "the unanswered one twice"],
)
def test_the_check_catches_what_is_wrong(
    cluster: ModuleType, counts: dict[int, int], changes: list[tuple[int, int, int]], complaint: str
) -> None:
    """A lost, a doubled and an unheard-of increment are each found."""
    made = ledger(cluster)
    for change in changes:
        made.applied(*change)  # type: ignore[attr-defined]
    with pytest.raises(cluster.Violation, match=complaint):
        made.check(counts)  # type: ignore[attr-defined]


def test_the_check_catches_an_acknowledged_increment_that_nobody_counted(cluster: ModuleType) -> None:
    """Neither all servers together nor the sum hides it."""
    made = ledger(cluster)
    request = made.ask(9)  # type: ignore[attr-defined]
    made.ack(request, 4)  # type: ignore[attr-defined]
    with pytest.raises(cluster.Violation, match="9 acknowledged at index 4, counted None"):
        made.check({1: 12, 2: 12})  # type: ignore[attr-defined]


def test_the_check_catches_servers_that_disagree_at_once(cluster: ModuleType) -> None:
    """Two servers that count different commands at one index are told while it happens, as are two acknowledgements."""
    made = ledger(cluster)
    with pytest.raises(cluster.Violation, match="server 3 counts 8 at index 3, another one 7"):
        made.applied(3, 3, 8)  # type: ignore[attr-defined]
    request = made.ask(1)  # type: ignore[attr-defined]
    with pytest.raises(cluster.Violation, match="index 3 was acknowledged twice"):
        made.ack(request, 3)  # type: ignore[attr-defined]


def first_increment_is_stored(dir: Path) -> bool:
    """Whether the first open segment, which is empty for a moment, begins with something other than zeros."""
    path = dir / "open-1"
    if not path.exists():
        return False
    with path.open("rb") as file:
        return file.read(8).strip(b"\0") != b""


def test_the_c_example_by_itself(tmp_path: Path) -> None:
    """As in C, server.py DIR ID starts, and SIGINT stops it in order."""
    members = f"1=127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        program("server.py", tmp_path, 1, "--members", members, "--bootstrap"), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "1: starting\n"
    with process:
        while not first_increment_is_stored(tmp_path):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().splitlines()[-1] == "1: stopping"
    assert process.returncode == 0
    assert not (tmp_path / "open-1").exists()
    assert any(path.name.startswith("0000000000000002-") for path in tmp_path.iterdir())


def test_the_key_value_store_keeps_what_it_was_told(tmp_path: Path) -> None:
    """Lines in, answers out; a second run finds what the first one left."""
    command = program("kv.py", tmp_path, 1, f"1=127.0.0.1:{free_port()}")
    told = "set color green\nset color blue\nset size 7\ndel size\nnonsense\n"
    new = [*command, "--new"]
    first = subprocess.run(new, input=told, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert first.returncode == 0, first.stderr
    usage = "set KEY VALUE | del KEY | get KEY | leader"
    assert sorted(first.stdout.splitlines()) == sorted([usage, "was None", "was 'green'", "was None", "was '7'"])
    second = subprocess.run(command, input="del color\n", capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert second.stdout == "was 'blue'\n"
    again = subprocess.run(new, input="", capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert again.returncode == 1
    assert "metadata contains term" in again.stderr


@pytest.mark.parametrize("name", ["kv.py", "kv_asyncio.py", "server.py"])
def test_a_member_that_has_lost_its_disk_does_not_begin_anew(name: str, tmp_path: Path) -> None:
    """Without the option of a first start a program on an empty directory ends, and says why."""
    members = f"1=127.0.0.1:{free_port()}"
    options = {"kv.py": [members], "kv_asyncio.py": [members, 0], "server.py": ["--members", members]}[name]
    command = program(name, tmp_path, 1, *options)
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 1
    assert "first start" in done.stdout + done.stderr
    assert not any(path.name.startswith("metadata") for path in tmp_path.iterdir())


def test_the_key_value_store_in_asyncio_serves_connections(tmp_path: Path) -> None:
    """It takes the same lines over TCP, and answers in order; SIGTERM stops it."""
    command = program("kv_asyncio.py", tmp_path, 1, f"1=127.0.0.1:{free_port()}", 0, "--new")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split()[-1])
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as s:
            s.settimeout(DEADLINE)
            s.sendall(b"leader\nset color green\nset color blue\nget color\nget size\n")
            s.shutdown(socket.SHUT_WR)
            answers = s.makefile().read().splitlines()
        assert answers[0].startswith("(1, '127.0.0.1:")
        assert answers[1:] == ["was None", "was 'green'", "'blue'", "None"]
        process.terminate()
    assert process.returncode == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_key_value_store_in_asyncio_does_not_wait_for_its_clients(signum: signal.Signals, tmp_path: Path) -> None:
    """It ends at once and silently while one client is idle, one waits for a leader, and one does not read."""
    members = f"1=127.0.0.1:{free_port()},2=127.0.0.1:{free_port()}"
    command = [sys.executable, "-W", "default", *program("kv_asyncio.py", tmp_path, 1, members, 0, "--new")[1:]]
    with contextlib.ExitStack() as stack:
        # In development mode asyncio says what takes a tenth of a second, as anything may beside other tests.
        environment = {**os.environ, "PYTHONDEVMODE": ""}
        process = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        address = ("127.0.0.1", int(process.stdout.readline().split()[-1]))
        idle, waiting, deaf = (stack.enter_context(socket.create_connection(address, DEADLINE)) for _ in range(3))
        idle.sendall(b"get color\n")
        waiting.sendall(b"get color\nleader\n")
        for client in (idle, waiting):
            client.settimeout(DEADLINE)
            assert client.recv(100) == b"None\n"
        deaf.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                deaf.send(b"get color\n" * 10_000)
        process.send_signal(signum)
        output = process.communicate(timeout=DEADLINE)
    assert output == ("", "")
    assert process.returncode == 0


CLOCKLESS = """
import runpy, sys
from io_uv import uv
time, left = uv._time, list(range(20))
def broken(io):
    left.pop()
    return time(io)
uv._time = broken
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(("name", "text"), [("server.py", "1: unavailable: "), ("kv.py", "the server has stopped: ")])
def test_a_server_that_becomes_unavailable_ends(name: str, text: str, tmp_path: Path) -> None:
    """Nothing leads back from unavailable, so the process does not stay; its last words say why."""
    members = f"1=127.0.0.1:{free_port()}"
    options = ["--members", members, "--bootstrap"] if name == "server.py" else [members, "--new"]
    command = [sys.executable, "-c", CLOCKLESS, str(EXAMPLES / name), str(tmp_path), "1", *options]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.wait(DEADLINE) == 1
        assert process.stdout is not None
        said = process.stdout.read()
    assert text in said
    assert "pop from empty list" in said
