"""In which order files are written, synced, renamed and removed: what only a power cut would tell otherwise.

Each test has the order as the functions of `io_uv.fs` are called. `test_power_cuts.py` tries what a crash leaves.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest

from io_uv import fs, marker, segment
from tests.lib.disk import Dir
from tests.lib.uvload import Opener, closed, opened

NAMES: tuple[str, ...] = (
    "make_file",
    "overwrite_file",
    "remove_file",
    "rename_file",
    "replace_file",
    "rewrite_file",
    "sync_dir",
)
NAMES += ("truncate_and_rename",)


class Order:
    """Notes calls as "function file", as they begin; `written` has what the last rewrite of a file gave it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[str] = []
        self.written: dict[str, bytes] = {}
        for name in NAMES:
            monkeypatch.setattr(fs, name, self._noting(name, getattr(fs, name)))

    def _noting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def note(dir: str, *arguments: Any, **options: Any) -> Any:
            self.steps.append(" ".join([name, *(word for word in arguments[:1] if isinstance(word, str))]))
            if name == "rewrite_file":
                self.written[arguments[0]] = bytes(arguments[1])
            return call(dir, *arguments, **options)

        return note

    def about(self, *beginnings: str) -> list[str]:
        """Return the steps, those on files with other names left out."""
        return [step for step in self.steps if step == "sync_dir" or step.split()[1].startswith(beginnings)]


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> Order:
    """Notes from here on."""
    return Order(monkeypatch)


def test_an_open_segment_is_written_again_before_it_is_closed(data: Dir, opener: Opener, order: Order) -> None:
    """Its last sync may have failed, and a second sync proves nothing: Linux forgets what it could not write."""
    opened(data, 1, 1, 3)
    opened(data, 2, 4, 2)
    content = {name: data.read(name) for name in ("open-1", "open-2")}
    assert opener.load().state() == (0, None, 1, [1, 2, 3, 4, 5])
    close = ["rewrite_file {0}", "truncate_and_rename {0}", "rename_file {0}", "sync_dir"]
    steps = order.about("open-")
    assert steps[:8] == [step.format(name) for name in ("open-1", "open-2") for step in close]
    for name, first, n in (("open-1", 1, 3), ("open-2", 4, 2)):
        written = order.written[name]
        assert content[name].startswith(written)
        assert written == data.read(segment.closed_name(first, first + n - 1))


@pytest.mark.parametrize("cut", [False, True])
def test_the_marker_is_durable_before_anything_is_set_aside(data: Dir, opener: Opener, order: Order, cut: bool) -> None:
    """A crash in between must not leave a log that lacks entries and a server that votes."""
    closed(data, 1, 2)
    if cut:  # A good batch stays, what is behind it is cut off.
        opened(data, 1, 3, 3, ours=True)
        opened(data, 2, 6, ours=True)
        data.overwrite("open-1", 48 + 32, b"\xff")
    else:
        data.resize(closed(data, 3, 2), 20)
        opened(data, 1, 5)
    assert opener.load(auto_recovery=True).rv == 0
    assert marker.marker_read(str(data)) is not None
    first = next(i for i, step in enumerate(order.steps) if step.split()[0] in ("rename_file", "rewrite_file"))
    assert f"replace_file {marker.NAME}" in order.steps[:first]


def test_what_load_returns_is_durable(data: Dir, opener: Opener, order: Order) -> None:
    """Names too that the process before gave and did not live to sync: the directory is synced, last of all."""
    closed(data, 1, 2)
    t = opener()
    assert t.init() == 0
    order.steps.clear()
    assert t.io.load(t.io)[0] == 0
    assert order.steps[-1:] == ["sync_dir"]


def test_segments_are_set_aside_from_the_last_one_on(data: Dir, opener: Opener, order: Order) -> None:
    """A crash in between leaves a log whose damage is at its end; each name is durable before the next one changes."""
    closed(data, 1, 2)
    name = closed(data, 3, 2)
    opened(data, 1, 5)
    opened(data, 2, 6)
    data.resize(name, 20)
    assert opener.load(auto_recovery=True).rv == 0
    steps = order.about("open-", name)
    at = [steps.index(f"rename_file {each}") for each in ("open-2", "open-1", name)]
    assert at == sorted(at)
    assert all(steps[i + 1] == "sync_dir" for i in at)


def test_snapshots_of_another_future_are_gone_for_good_before_the_log_goes(
    data: Dir, opener: Opener, order: Order
) -> None:
    """With an installed snapshot ones that would be loaded in its place go, durably, then the segments before it."""
    data.snapshot(3, 50)
    t = opener()
    assert t.init() == 0
    rv, *_ = t.io.load(t.io)
    assert rv == 0
    assert t.io.start(t.io, 1000, lambda io: None, lambda io, message: None) == 0
    t.append(2)
    order.steps.clear()
    put = t.put(40, trailing=0)
    t.wait(put)
    assert put.statuses == [0]
    steps = order.about("snapshot-3-50-", "0")
    gone = max(i for i, step in enumerate(steps) if step.startswith("remove_file snapshot-3-50-"))
    assert steps[gone + 1] == "sync_dir"
    assert not any(step.startswith("remove_file 0") for step in steps[: gone + 1])
    assert [name for name in os.listdir(t.dir) if name.startswith("snapshot-3-50-")] == []
