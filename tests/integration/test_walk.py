"""The walk of one command in pyraft/README.md is what runs: a cluster on one loop is watched function by function.

The functions that the section "One command through the lane" names have to be called in the order in which it names
them. For the sections before it, which tell of several ways, each arrow has to be a call: the left function speaks of
the right one.
"""

import ast
import contextlib
import itertools
import re
import sys
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import io_uv
import pyraft
from io_uv import writer
from io_uv.pyuv import Loop, Timer
from pyraft import raft_last_index
from tests.lib.compiled import COMPILED
from tests.lib.source import ROOT
from tests.lib.uvnode import Node, make_nodes, settled
from tests.lib.uvtest import run_until
from tests.test_tidy import python_files

Function = tuple[str, str]
"""A module's name and a function's, be it a class's."""

ARROW = re.compile(r"`[^`]+`(?:,?\s+→\s+`[^`]+`)+")

pytestmark = pytest.mark.skipif(COMPILED, reason="compiled functions are not seen by a profile")


def functions() -> tuple[dict[Function, set[str]], dict[str, set[str]]]:
    """Return all functions of both packages with the names that they speak of, and the modules of each class."""
    found: dict[Function, set[str]] = {}
    classes: dict[str, set[str]] = {}
    for path in python_files("pyraft", "io_uv"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                names = {getattr(part, "id", "") or getattr(part, "attr", "") for part in ast.walk(node)}
                found.setdefault((path.stem, node.name), set()).update(names)
            elif isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, set()).add(path.stem)
    return found, classes


FUNCTIONS, CLASSES = functions()


def section(title: str) -> str:
    """Return the text of a section of pyraft/README.md."""
    return (ROOT / "pyraft" / "README.md").read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]


def names_in(text: str) -> list[str]:
    """Return what stands in backquotes, without arguments, but for system calls, as send(2)."""
    return re.findall(r"`([\w.]+)(?:\((?!2\))[^`]*\))?`", text)


def meant(name: str, modules: set[str]) -> set[Function]:
    """Return the functions that a name may be: module.function, Class.method, or a function of one of `modules`."""
    owner, _, function = name.rpartition(".")
    places = CLASSES.get(owner, {owner}) if owner else modules
    return {(module, function) for module in places} & FUNCTIONS.keys()


def hops(text: str, modules: set[str]) -> list[tuple[str, set[Function]]]:
    """Return each name of a function with those that it may be; their modules are added to `modules`."""
    found = []
    for name in names_in(text):
        functions = meant(name, modules)
        if functions:
            modules |= {module for module, _ in functions}
            found.append((name, functions))
    return found


class Watch:
    """Writes down which functions of the packages are called."""

    def __init__(self) -> None:
        self.calls: list[Function] = []
        self._tops = tuple(str(Path(package.__path__[0])) for package in (pyraft, io_uv))

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(self._tops):
            self.calls.append((Path(code.co_filename).stem, code.co_name))


def calm(nodes: list[Node], n: int) -> bool:
    """Return whether all have applied `n` commands, and have their logs on their disks: nothing is being written."""
    logs = {(raft_last_index(node.raft), node.raft.last_stored) for node in nodes}
    return len({index for log in logs for index in log}) == 1 and all(len(node.fsm.numbers) == n for node in nodes)


def calls_of_commands(dir: Path) -> Generator[tuple[list[Function], bool], None, None]:
    """Have three servers on one loop apply commands; yield for each what was called, and whether AIO wrote it."""
    loop = Loop()
    nodes = make_nodes(dir, 3, loop)
    leader = settled(nodes)
    timer = Timer(loop)
    try:
        for number in itertools.count():
            watch = Watch()

            def submit(timer: Timer, watch: Watch = watch, number: int = number) -> None:
                sys.setprofile(watch)
                leader.submit(number)

            timer.start(submit, 0.0, 0.0)
            run_until(loop, lambda n=number + 1: calm(nodes, n))
            sys.setprofile(None)
            yield watch.calls, all(one.uv.writer._mode == writer.AIO and one.uv.writer._may_submit() for one in nodes)
    finally:
        sys.setprofile(None)
        timer.close()
        close(nodes, loop)


def close(nodes: list[Node], loop: Any) -> None:
    """Close all."""
    for node in nodes:
        node.close()
    run_until(loop, lambda: all(node.closed for node in nodes))
    loop.close()


def first_missing(called: list[Function], wanted: list[tuple[str, set[Function]]]) -> str:
    """Return the first name that has no place behind those before it, "" if there are places for all.

    They are looked for from each call of the first one up to its next call: that is an event of its own.
    """
    starts = [i for i, one in enumerate(called) if one in wanted[0][1]]
    furthest = 0
    for start, end in itertools.pairwise([*starts, len(called)]):
        at, n = start, 0
        for _, functions in wanted:
            at = next((i for i in range(at, end) if called[i] in functions), -1)
            if at < 0:
                break
            n += 1
        if n == len(wanted):
            return ""
        furthest = max(furthest, n)
    return wanted[furthest][0]


def test_a_command_passes_the_functions_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each event, whose name is printed in bold type, what is named first is called first.

    One of some commands has to go so: another one may meet a heartbeat, or a write that takes longer. Writes go by AIO,
    which a server finds out to be quicker; where the file system has none, their hops are left out.
    """
    monkeypatch.setattr(writer.Writer, "_choose", lambda self, write: writer.AIO)
    events = re.split(r"\n(?=\*\*)", section("One command through the lane").rpartition("`make profile`")[0])[1:]
    assert len(events) == 6
    modules = {"client", "replicate"}
    walk = [hops(event, modules) for event in events]
    missing: list[str] = []
    with contextlib.closing(calls_of_commands(tmp_path)) as commands:
        for called, aio in itertools.islice(commands, 40):
            missing = []
            for wanted in walk:
                those = [hop for hop in wanted if aio or not {module for module, _ in hop[1]} & {"kaio", "writer"}]
                assert len(those) > 2
                missing.append(first_missing(called, those))
            if not any(missing):
                break
    assert not any(missing), missing


@pytest.mark.parametrize("title", ["A command", "An AppendEntries"])
def test_each_arrow_is_a_call(title: str) -> None:
    """The function on its left has the one on its right in it."""
    modules = {"replicate"} if title == "A command" else {"accept"}
    found = 0
    for chain in ARROW.findall(section(title)):
        names = names_in(chain)
        for left, right in itertools.pairwise(names):
            functions = meant(left, modules)
            assert functions, f"{left} is not there"
            modules |= {module for module, _ in functions}
            spoken = set().union(*(FUNCTIONS[function] for function in functions))
            assert right.rpartition(".")[2] in spoken, f"{left} does not speak of {right}"
            found += 1
    assert found >= 3


def test_what_is_out_of_order_is_found() -> None:
    """A function that is not called, or not behind the one before it, or not before the first one comes again."""
    called = [("a", "f"), ("a", "g"), ("a", "f"), ("a", "h")]
    f, g, h = (("f", {("a", "f")}), ("g", {("a", "g")}), ("h", {("a", "h")}))
    assert first_missing(called, [f, g]) == ""
    assert first_missing(called, [f, h]) == ""
    assert first_missing(called, [f, g, h]) == "h"
    assert first_missing(called, [g, h, f]) == "f"
    assert first_missing(called, [f, ("i", {("a", "i")})]) == "i"
    assert first_missing([], [f]) == "f"
