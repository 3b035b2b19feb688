"""Damage to whole data directories: every byte flipped, every file cut at every length.

A directory is left by a server that was killed: snapshots, closed segments, open ones, metadata. Each damage must end
in one of two ways: the server starts with all that it acknowledged, or it says with a code which file is damaged.
With automatic recovery it may also start with less, but never without the marker that says so.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from io_uv import finalize
from io_uv.failure import Failure
from tests.lib.crashfs import Image, MemoryFs, installed
from tests.lib.power_cut import Expected, Found
from tests.lib.power_cut_scripts import Script
from tests.lib.uvtest import run_until

Files: TypeAlias = dict[str, tuple[bytes, tuple[tuple[str, bytes], ...]]]


def _with_compressed_snapshots(s: Script) -> None:
    s.bootstrap()
    s.set_term(2)
    s.set_vote(1)
    for _ in range(5):
        s.append(600, 600, 200)
    s.wait(s.put(9, 4, size=400))
    s.append(1504)
    s.wait(s.put(17, 100, size=700))
    for size in (64, 64, 200, 1000):
        s.append(size, 8)


def _with_raw_snapshots(s: Script) -> None:
    s.uv.uv.snapshot_compression = False
    s.bootstrap()
    for _ in range(3):
        s.append(1200, 1200)
    s.wait(s.put(5, 1, size=300))
    s.wait(s.put(7, 2, size=300))
    s.append(64)
    s.append(72)


def _with_a_log_only(s: Script) -> None:
    s.bootstrap()
    s.set_term(3)
    for size in (64, 2000, 2000, 2000, 304, 304, 600):
        s.append(size)


def _after_a_kill(make: Callable[[Script], None]) -> tuple[Image, Expected]:
    """Return the directory of a server that was killed after a script, and what it acknowledged."""
    with installed(MemoryFs()) as memory:
        script = Script(memory, 5)
        make(script)
        uv = script.uv.uv
        run_until(script.uv.loop, lambda: finalize.idle(uv) and len(uv.prepare_pool) == 2)
        files = {name: (bytes(file.content), tuple(file.attributes.items())) for name, file in memory.names.items()}
        journal = list(memory.journal)
        script.close()
    expected = Expected()
    for event in journal:
        if event[0] == "note":
            expected.note(*event[1:])
    return Image(files), expected


def _places(content: bytes) -> Iterator[int]:
    """Yield every position of a file, but only some of those in long runs of zeros."""
    for at in range(len(content)):
        if at % 257 == 0 or content[max(0, at - 24) : at + 24].strip(b"\0"):
            yield at


def _flips(content: bytes) -> Iterator[tuple[str, bytes]]:
    for at in _places(content):
        flip = 0xFF if at % 9 == 0 else 1 << at % 8
        yield f"byte {at} flipped by {flip}", content[:at] + bytes((content[at] ^ flip,)) + content[at + 1 :]


def _cuts(content: bytes) -> Iterator[tuple[str, bytes]]:
    for length in _places(content):
        yield f"cut to {length} bytes", content[:length]


def _start(image: Image, auto_recovery: bool) -> Found | Failure:
    with installed(MemoryFs(image)):
        try:
            return Found(auto_recovery)
        except Failure as exc:
            return exc


def _outcome(image: Image, expected: Expected, name: str, auto_recovery: bool) -> str:
    """Return "whole", "refused" or "marked"; anything else is a problem."""
    found = _start(image, auto_recovery)
    if isinstance(found, Failure):
        assert found.code != 0
        return "refused" if name in found.message else f"refused without naming it: {found.message}"
    problem = expected.problems(found, fall_back=True)
    if not problem:
        return "whole"
    return "marked" if found.marked and auto_recovery else problem


@pytest.mark.parametrize("damage", [_flips, _cuts])
@pytest.mark.parametrize("make", [_with_compressed_snapshots, _with_raw_snapshots, _with_a_log_only])
def test_damage_is_told_or_costs_nothing(
    make: Callable[[Script], None], damage: Callable[[bytes], Iterator[tuple[str, bytes]]]
) -> None:
    """Every file is damaged, in one way at a time."""
    image, expected = _after_a_kill(make)
    whole = _start(image, False)
    assert isinstance(whole, Found)
    assert expected.problems(whole) == ""
    assert len([name for name in image.files if name.startswith("open-")]) == 3
    outcomes: Counter[str] = Counter()
    for name, (content, attributes) in image.files.items():
        for number, (what, damaged) in enumerate(damage(content)):
            files = {**image.files, name: (damaged, attributes)}
            for auto_recovery in (False, True) if number % 4 == 0 else (False,):
                outcome = _outcome(Image(files), expected, name, auto_recovery)
                assert outcome in ("whole", "refused", "marked"), f"{name}: {what}: {outcome}"
                outcomes[outcome] += 1
    print(f"{sum(outcomes.values())} damaged directories: {dict(outcomes)}")
    assert min(outcomes[outcome] for outcome in ("whole", "refused", "marked")) > 0


def test_a_directory_without_sidecars_and_notes_loses_its_evidence_only() -> None:
    """A C server leaves it so, or a copy without attributes: damage to the format's own checksums is still told."""
    image, expected = _after_a_kill(_with_a_log_only)
    files: Files = {name: (content, ()) for name, (content, _) in image.files.items() if not name.endswith(".sum")}
    assert isinstance(_start(Image(files), False), Found)
    for name, (content, _) in files.items():
        if name.startswith("0"):
            for what, damaged in _flips(content):
                outcome = _outcome(Image({**files, name: (damaged, ())}), expected, name, False)
                assert outcome == "refused", f"{name}: {what}: {outcome}"


def test_the_loss_of_a_segment_in_the_middle_is_told() -> None:
    """That of the first one is told too."""
    image, _ = _after_a_kill(_with_a_log_only)
    closed = sorted(name for name in image.files if name.startswith("0"))
    assert len(closed) >= 3
    for name in closed[:-1]:
        found = _start(Image({other: file for other, file in image.files.items() if other != name}), False)
        assert isinstance(found, Failure)
        assert "first index should have been" in found.message
