"""Nodes under uvicorn, gunicorn and anyio, where these are installed: they begin and end with their programs."""

import importlib.util
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_command import run as run_command
from tests.integration.test_node_processes import Processes, wait_for
from tests.lib.uvnode import free_addresses

PROGRAM = """
from pyraft.node import Node, Refused
from tests.lib.nodes import QUICK, Shop

async def app(scope, receive, send):
    if scope["type"] == "lifespan":  # as Starlette does it
        await receive()
        try:
            async with Node("data", Shop(), settings=QUICK) as node:
                scope["state"]["shop"] = node.machine
                await send({"type": "lifespan.startup.complete"})
                await receive()
            await send({"type": "lifespan.shutdown.complete"})
        except Refused as exc:
            await send({"type": "lifespan.startup.failed", "message": str(exc)})
        return
    number = await scope["state"]["shop"].put("apple")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(number).encode()})
"""

SCOPES = """
import anyio

from pyraft.node import Node
from tests.lib.nodes import QUICK, Shop

async def main():
    for n in (1, 3, 5):
        with anyio.CancelScope() as scope:
            async with Node("data", Shop(), settings=QUICK) as node:
                async with anyio.create_task_group() as group:
                    group.start_soon(node.machine.put, "apple")
                    group.start_soon(node.machine.put, "apple")
                assert await anyio.to_thread.run_sync(anyio.from_thread.run, node.machine.left, "apple") == n + 1
                scope.cancel()
                await anyio.sleep_forever()
    print("done")

anyio.run(main)
"""


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Processes in a directory with a member and the program."""
    (tmp_path / "program.py").write_text(PROGRAM)
    assert run_command("init", str(tmp_path / "data"), "--address", free_addresses(1)[1]).exit_code == 0
    found = Processes(tmp_path)
    yield found
    found.end()


def need(*names: str) -> None:
    """Skip a test without these packages."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed: this project does not depend on it")


def serve(processes: Processes, *words: str) -> tuple["subprocess.Popen[str]", str]:
    """Start a server; return it with its address."""
    address = free_addresses(1)[1]
    bind = ("--host", "127.0.0.1", "--port", address.split(":")[1]) if words[0] == "uvicorn" else ("-b", address)
    return processes.start("-m", *words, *bind, "program:app", stdout=subprocess.DEVNULL), f"http://{address}/"


def answer(url: str) -> str:
    """Return what a server says, an empty text while it is not there."""
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            found: str = response.read().decode()
            return found
    except OSError:
        return ""


@pytest.mark.parametrize(
    "words",
    [
        ("uvicorn", "--loop", "asyncio"),
        ("uvicorn", "--loop", "uvloop"),
        ("gunicorn", "-k", "uvicorn_worker.UvicornWorker", "-w", "1"),
    ],
    ids=["uvicorn", "uvicorn-uvloop", "gunicorn"],
)
def test_a_member_under_a_server_of_asgi(processes: Processes, words: tuple[str, ...]) -> None:
    """It answers calls, is closed by SIGTERM, and leaves its directory free; a second one is refused."""
    need(words[0], *(("uvicorn_worker",) if words[0] == "gunicorn" else ()))
    for expected in ("1", "2"):  # each answer counts one
        server, url = serve(processes, *words)
        wait_for(lambda url=url, expected=expected: answer(url) == expected)
        second, _ = serve(processes, *words)
        assert second.wait(300) != 0
        server.send_signal(signal.SIGTERM)
        assert server.wait(300) in (0, -signal.SIGTERM)


def test_a_member_in_scopes_of_anyio(processes: Processes) -> None:
    """A scope that is cancelled leaves the directory free, and threads reach the loop by anyio's own way."""
    need("anyio")
    (processes.dir / "scopes.py").write_text(SCOPES)
    program = processes.start("scopes.py")
    assert program.communicate(timeout=300)[0] == "done\n"
    assert program.returncode == 0
