"""The code in README.md runs, and what pyraft/FROM_C.md promises about names is true."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

import pyraft
from io_uv import pyuv
from pyraft import node
from pyraft.node.testing import Cluster, simulate
from tests.lib.ports import free_port

README = Path(__file__).resolve().parents[2] / "README.md"
CORE = Path(pyraft.__file__).with_name("README.md")
FROM_C = Path(pyraft.__file__).with_name("FROM_C.md")


def blocks(section: str = "Quick guide", path: Path = README) -> list[str]:
    """The code of a section, in order."""
    guide = path.read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", guide, flags=re.S)


def test_the_asyncio_program_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As printed, but for directory and port, it starts a cluster, and on the same directory goes on with it."""
    (program,) = blocks("In an asyncio program", CORE)
    program = program.replace("/your/raft/data", str(tmp_path)).replace("127.0.0.1:9999", f"127.0.0.1:{free_port()}")
    assert program.count(str(tmp_path)) == program.count("127.0.0.1:") == 1
    for _ in range(2):
        exec(compile(program, str(README), "exec"), {})
        assert capsys.readouterr().out == "result b'COMMAND1'\n"
    assert len(program.splitlines()) <= 30


def test_the_first_program_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As printed, on a directory that `init` has made, a member runs, goes on after a restart, and fits on a screen."""
    (program,) = blocks("A Python program")
    asyncio.run(node.init(tmp_path / "1", f"127.0.0.1:{free_port()}"))
    monkeypatch.setattr("sys.argv", ["shop.py", str(tmp_path / "1")])
    for left in (6, 5):
        exec(compile(program, str(README), "exec"), {"__name__": "shop"})
        assert capsys.readouterr().out == f"{left}\n"
    assert len(program.splitlines()) <= 35


def test_the_machine_of_the_layer_runs() -> None:
    """As printed, with types, exceptions, the shared time and two versions of a command of its own."""
    (program,) = blocks("A machine", Path(node.__file__).with_name("README.md"))
    names: dict[str, Any] = {}
    exec(compile(program, "README.md", "exec", dont_inherit=True), names)

    async def scenario(cluster: Cluster[Any]) -> None:
        shop = (await cluster.lead()).machine
        order = names["Order"]("apple", 2)
        with pytest.raises(names["OutOfStock"], match="apple"):
            await shop.take(order)
        assert await shop.take(order, backorder=True) == -2

    simulate(scenario, names["Shop"])


def test_the_quick_guide_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Copied block by block, with a directory and an address that exist, it elects, applies and stops.

    Only `loop.run()` moves behind the rest, and the block that stops waits until the command has been applied.
    """
    port = free_port()
    guide = [
        b.replace("/your/raft/data", str(tmp_path)).replace("192.168.1.1:9999", f"127.0.0.1:{port}") for b in blocks()
    ]
    names: dict[str, Any] = {}
    *setup, stop = (block.replace("loop.run()", "") for block in guide)
    for block in setup:
        exec(compile(block, str(README), "exec"), names)

    def poll(timer: Any) -> None:
        if pyraft.raft_last_applied(names["raft"]) >= names["req"].index:
            timer.close()
            exec(compile(stop, str(README), "exec"), names)

    pyuv.Timer(names["loop"]).start(poll, 0.01, 0.01)
    names["loop"].run()
    names["loop"].close()
    assert capsys.readouterr().out == "status 0 result 1\n"
    assert names["fsm"].data == [b"command1"]


def test_the_front_door_is_short() -> None:
    """README is what one reads first, at one go: everything else is in files beside the code."""
    assert len(README.read_text().split()) < 1500


def test_the_guide_has_the_steps_of_the_c_readme() -> None:
    """The calls come in the order in which the C library's README has them."""
    calls = re.findall(r"\b(raft_\w+)\(", "".join(blocks()))
    order = ["raft_uv_tcp_init", "raft_uv_init", "raft_init", "raft_configuration_add", "raft_bootstrap", "raft_start"]
    order += ["raft_apply", "raft_close"]
    positions = [calls.index(name) for name in order]
    assert positions == sorted(positions)


def test_every_name_in_the_table_exists() -> None:
    """Every call in the table can be called."""
    table = FROM_C.read_text().split("## C call, Python call")[1].split("\n## ")[0]
    right = " ".join(line.split("|")[2] for line in table.splitlines() if line.count("|") == 3)
    for name in re.findall(r"\b(raft_\w+|Raft\w+)\(", right):
        assert hasattr(pyraft, name), name
    for name in re.findall(r"pyuv\.([\w.]+)\(", right):
        found: Any = pyuv
        for part in name.split("."):
            found = getattr(found, part)
    for name in re.findall(r"loop\.(\w+)\(", right):
        assert hasattr(pyuv.Loop, name), name
