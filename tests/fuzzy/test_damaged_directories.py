"""Data directories with random damage, by all commands that look into them and mend them, and by a start.

Duty: `Case` makes, by seed, the directory of a server that was killed, and spoils one to three of its files: bits,
cuts, tails, zeros, files that are gone, twice there under another name, or in each other's place. Then:

* `pyraft dir show`, `log`, `check` and a dry `repair` end without a traceback, and change nothing;
* a server that is started on a copy does what `show` says: it is refused, or has that log and that term, and `check`
  finds fault with every directory whose start is refused or sets something aside;
* `repair` leaves a directory that loads as it is; its steps are those of its dry run, and the start behind it does what
  it says;
* bits, cuts and zeros cost nothing that was acknowledged without the mark that says so, by a repair or without one.

    DAMAGE_SEED=7 DAMAGE_CASES=500 python -m pytest -s tests/fuzzy/test_damaged_directories.py

Failure modes: a fault names the seed of its case, which alone repeats it: DAMAGE_SEED=… DAMAGE_CASES=1.
"""

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from click.testing import CliRunner

from io_uv import disk, marker, metadata, raft_uv_close, raft_uv_init, raft_uv_tcp_close, raft_uv_tcp_init
from io_uv.pyuv import Loop
from io_uv.transport import RaftUvTransport
from pyraft import Raft, RaftFsm, RaftIo, log, raft_close, raft_init, raft_start
from pyraft.command import program
from tests.integration.test_damage import (
    _after_a_kill,
    _with_a_log_only,
    _with_compressed_snapshots,
    _with_raw_snapshots,
)
from tests.lib.crashfs import Image
from tests.lib.ports import free_addresses
from tests.lib.power_cut import Expected, Found
from tests.lib.uvtest import run_until

SEED = int(os.environ.get("DAMAGE_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
CASES = int(os.environ.get("DAMAGE_CASES", "0")) or 12

FOUND = () if int(os.environ.get("DAMAGE_SEED", "0")) else (1068, 1076, 1122, 2082)
"""Cases that have shown a fault. 1068: `check` took a tear in front of a segment that was written later for harmless.
1076, 1122: a new file got the inode of a removed one, and passed for that under another name.
2082: the core refuses a log that does not begin with a configuration, and nothing said so before."""

MAKERS = (_with_compressed_snapshots, _with_raw_snapshots, _with_a_log_only)
State: TypeAlias = dict[str, tuple[bytes, bytes]]


@cache
def killed(number: int) -> tuple[Image, Expected]:
    """Return one of the directories of test_damage, and what its server had acknowledged."""
    return _after_a_kill(MAKERS[number])


def _bits(rng: random.Random, data: bytes) -> bytes:
    spoilt = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 40))):
        if spoilt:
            spoilt[rng.randrange(len(spoilt))] ^= rng.choice((1 << rng.randrange(8), 0xFF))
    return bytes(spoilt)


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.choice((0, rng.randrange(len(data) + 1), max(0, len(data) - rng.randrange(1, 64))))]


def _zeros(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    n = min(rng.choice((1, 8, 512, 4096)), len(data) - at)
    return data[:at] + bytes(n) + data[at + n :]


def _tail(rng: random.Random, data: bytes) -> bytes:
    return data + rng.choice((bytes(512), rng.randbytes(16), data[-64:]))


SPOILS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "bits": _bits,
    "cut": _cut,
    "zeros": _zeros,
    "tail": _tail,
}
TOLD = ("bits", "cut", "zeros")
"""Damages to the content of a file: the checksums see them, or they cost nothing that was acknowledged. Metadata whose
version is damaged together with other bytes are not seen: a C server could have stored them since."""


def is_told(spoilt: str) -> bool:
    """Return whether a damage is told, with the checksums beside the file as they were, or costs nothing."""
    return spoilt.partition(":")[0] in TOLD and not spoilt.startswith("bits: metadata")


class Case:
    """A damaged directory; see the head of this module."""

    def __init__(self, seed: int, place: Path) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.place = place
        self.dir = place / "dir"
        image, self.expected = killed(self.rng.randrange(len(MAKERS)))
        self.dir.mkdir(parents=True)
        for name, (content, attributes) in image.files.items():
            (self.dir / name).write_bytes(content)
            for attribute, value in attributes:
                os.setxattr(self.dir / name, attribute, value)
        self.story = [self._spoil() for _ in range(self.rng.choice((1, 1, 1, 2, 3)))]

    def _spoil(self) -> str:
        rng = self.rng
        names = sorted(os.listdir(self.dir))
        path = self.dir / rng.choice(names)
        what = rng.choice(("bits", "bits", "cut", "zeros", "tail", "gone", "twice", "swapped"))
        if what in SPOILS:
            with path.open("r+b") as file:
                spoilt = SPOILS[what](rng, file.read())
                file.seek(0)
                file.write(spoilt)
                file.truncate()
            return f"{what}: {path.name}"
        if what == "gone":
            path.unlink()
            return f"{what}: {path.name}"
        other = self.dir / rng.choice(names)
        if what == "swapped":
            path.rename(self.dir / "x")
            if other != path:
                other.rename(path)
            (self.dir / "x").rename(other)
            return f"{what}: {path.name} and {other.name}"
        name = rng.choice((self._other_name(path.name), other.name))
        if name != path.name:
            shutil.copy2(path, self.dir / name)
        return f"{what}: {path.name} as {name}"

    def _other_name(self, name: str) -> str:
        """Return a name that has one of the numbers in it changed."""
        parts = name.split("-")
        at = self.rng.randrange(len(parts))
        digits = "".join(c for c in parts[at] if c.isdigit())
        if not digits:
            return name + "-1"
        changed = str(max(0, int(digits) + self.rng.choice((-1, 1, 7)))).rjust(len(digits), "0")
        return "-".join([*parts[:at], parts[at].replace(digits, changed), *parts[at + 1 :]])

    def state(self) -> State:
        """Return all that is in the directory."""
        found = {}
        for one in sorted(self.dir.iterdir()):
            note = os.getxattr(one, "user.raft.size") if "user.raft.size" in os.listxattr(one) else b""
            found[one.name] = one.read_bytes(), note
        return found

    def run(self, *words: str) -> Any:
        """Return what a command prints, as JSON; its exit code is in `code`."""
        result = CliRunner().invoke(program, ["dir", words[0], str(self.dir), *words[1:]])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.code = result.exit_code
        assert self.code in (0, 1), (words, result.output)
        if "--json" not in words:
            return result.output
        if words[0] == "log":
            return [json.loads(line) for line in result.stdout.splitlines()]
        return json.loads(result.stdout)

    def start(self) -> "Start":
        """Start a server on a copy."""
        copy = self.place / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.dir, copy)
        return Start(copy)

    def play(self) -> str:
        """Do all that the head of this module says; return how it ended."""
        before = self.state()
        said = self.run("show", "--json")
        shown = self.run("show")
        assert "a start" in shown or self.code == 1, shown
        self.run("log", "--json")
        self.run("check", "--json")
        found_wrong = self.code
        planned = self.run("repair", "--json")
        assert self.state() == before, "something has changed"
        if "error" in said:
            return "not looked into"
        first = self.start()
        first.compare(said["start"])
        if first.code or first.is_marked:
            assert found_wrong, f"check finds nothing, and a start: {first.said()}"
        done = self.run("repair", "--apply", "--json")
        assert done["steps"] == planned["steps"]
        assert done["starts"] == planned["starts"]
        assert done["may_lose"] == planned["may_lose"]
        if not done["needed"]:
            assert self.state() == before, "a directory that loads was changed"
        elif not done["applied"]:
            assert first.code
            assert self.state() == before, "what cannot be mended was changed"
            return "left"
        second = self.start() if done["applied"] else first
        second.compare(self.run("show", "--json")["start"])
        assert second.code == 0 or (second.is_marked and done["starts"]), second.said()
        if all(map(is_told, self.story)) and (len(self.story) == 1 or ".sum" not in str(self.story)):
            assert second.is_marked or not (problem := self._loss()), problem
        return "mended" if done["applied"] else "marked" if first.is_marked else "starts"

    def _loss(self) -> str:
        """Return what the log lacks, or has otherwise, of what was acknowledged."""
        found = Found.__new__(Found)
        state = metadata.load(str(self.dir))
        found.version, found.term, found.voted_for = state.version, state.term, state.voted_for
        disk.clean_up(str(self.dir))
        found.snapshot, found.start_index, found.entries = disk.load(str(self.dir), True)
        found.marked = marker.marker_read(str(self.dir)) is not None
        return "" if found.marked else self.expected.problems(found, fall_back=True)


class Start:
    """The outcome of raft_init and raft_start on a directory."""

    def __init__(self, dir: Path) -> None:
        loop, transport, io, fsm, raft = Loop(), RaftUvTransport(), RaftIo(), RaftFsm(), Raft()
        fsm.version = 1
        fsm.apply = lambda fsm, buf: (0, None)
        fsm.snapshot = lambda fsm: (0, [])
        fsm.restore = lambda fsm, buf: 0
        assert raft_uv_tcp_init(transport, loop) == 0
        assert raft_uv_init(io, loop, str(dir), transport) == 0
        self.reason = ""
        closed: list[Raft] = []
        self.code = raft_init(raft, io, fsm, 1, free_addresses(1)[1])
        if self.code == 0:
            self.code = raft_start(raft)
            self.reason = raft.errmsg if self.code else ""
            self.term, self.last = raft.current_term, log.last_index(raft.log)
            self.is_marked = marker.marker_read(str(dir)) is not None
            raft_close(raft, closed.append)
            run_until(loop, lambda: bool(closed))
        else:
            self.reason = raft.errmsg
            self.term = self.last = 0
            self.is_marked = marker.marker_read(str(dir)) is not None
        raft_uv_close(io)
        raft_uv_tcp_close(transport)
        loop.close()

    def said(self) -> str:
        """Return it in words."""
        return f"{self.code}: {self.reason}" if self.code else f"term {self.term}, log to {self.last}"

    def compare(self, said: dict[str, Any]) -> None:
        """Fail where `show` has said something else."""
        assert (self.code == 0) == (said["starts"] and not said["alone"]), (self.said(), said)
        if self.code == 0:
            assert (self.last, self.is_marked) == (said["last_index"], said["recovering"]), (self.said(), said)
            assert self.term in (said["term"], said["term"] + 1), (self.said(), said)  # the only voter elects itself


def test_damaged_directories(tmp_path: Path) -> None:
    """Many are looked into, mended and started on."""
    print(f"DAMAGE_SEED={SEED} DAMAGE_CASES={CASES}")
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    for seed in (*FOUND, *range(SEED, SEED + CASES)):
        case = Case(seed, tmp_path / "case")
        try:
            outcomes[case.play()] += 1
        except Exception as exc:
            faults.append(f"DAMAGE_SEED={seed} DAMAGE_CASES=1, {'; '.join(case.story)}: {exc!r:.2000}")
        shutil.rmtree(case.place)
    print(dict(outcomes))
    assert not faults, "\n".join(faults)
