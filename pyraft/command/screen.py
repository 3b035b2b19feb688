"""The output on a terminal: tables in its width, progress of what takes long, and views that replace each other.

Duty: `lively` says whether rich may draw on a stream. `show` prints a table there, `progress` yields the function that
library functions tell their progress, `views` the function that shows one view in place of the one before.

Happy path: all of it is rich's: tables fold cells where the terminal is narrow, NO_COLOR takes the colours, a bar
appears once something takes longer than DELAY_SECONDS, and is gone afterwards.

Failure modes: none. Nothing is drawn where the stream leads elsewhere, or TERM=dumb says that the cursor cannot be
moved. `text` puts plain lines together by itself then: other programs read them, so they are the same to the byte with
every version of rich, and a command in a pipe need not load rich, which takes about as long as click.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, TextIO

from io_uv.datadir import Progress

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.padding import Padding
    from rich.progress import Progress as Drawn
    from rich.progress import TaskID

DELAY_SECONDS: Final = 0.5
"""How long something takes before it has a bar."""

_REFRESH_SECONDS: Final = 0.1
_DUMB: Final = ("", "dumb", "unknown")

_STYLES: Final = {
    "leader": "green",
    "leads": "green",
    "no answer": "bold red",
    "unavailable": "bold red",
    "candidate": "yellow",
    "damaged": "bold red",
}
"""Colours of words; each says the same without."""


def lively(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal that can be drawn on. One that was closed is None."""
    return stream is not None and stream.isatty() and os.environ.get("TERM", "") not in _DUMB


def show(stream: TextIO, head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> None:
    """Print a table on a terminal. Its cells have nothing in them that a terminal obeys."""
    _console(stream).print(table(head, rows, numeric))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> "Padding":
    """Return a table for a terminal; cells that do not fit are folded, so that nothing of them is lost."""
    from rich import box
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for title, right in zip(head, numeric, strict=True):
        made.add_column(Text(title), justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell, _STYLES.get(cell, "")) for cell in row))
    return Padding(made, (0, 0, 0, 2), expand=False)


def group(parts: "Sequence[str | RenderableType]") -> "RenderableType":
    """Return lines and tables below each other. Nothing in the lines is taken for markup."""
    from rich.console import Group
    from rich.text import Text

    return Group(*(Text(one) if isinstance(one, str) else one for one in parts))


def _console(stream: TextIO) -> "Console":
    from rich.console import Console

    return Console(file=stream, markup=False, emoji=False, highlight=False, soft_wrap=False)


# ---- progress --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def progress(stream: TextIO) -> Iterator[Progress | None]:
    """Yield a function to tell the progress to, for what is drawn on `stream`; None where nobody draws."""
    if not lively(stream):
        yield None
        return
    bars = _Bars(stream)
    try:
        yield bars.tell
    finally:
        bars.end()


class _Bars:
    """One bar for each step that is told of. rich is loaded when the first is drawn."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next = time.monotonic() + DELAY_SECONDS
        self._steps: dict[str, tuple[int, int]] = {}
        self._tasks: dict[str, TaskID] = {}
        self._drawn: Drawn | None = None

    def tell(self, what: str, done: int, total: int) -> None:
        """Take note that `done` of `total` bytes of a step are done."""
        self._steps[what] = done, total
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _REFRESH_SECONDS
        if self._drawn is None:
            self._drawn = _bars(_console(self._stream))
            self._drawn.start()
        for name, (so_far, all_of_it) in self._steps.items():
            if name not in self._tasks:
                self._tasks[name] = self._drawn.add_task(name, total=all_of_it)
            self._drawn.update(self._tasks[name], completed=so_far, total=all_of_it)
        self._drawn.refresh()

    def end(self) -> None:
        """Take the bars away."""
        if self._drawn is not None:
            self._drawn.stop()


def _bars(console: "Console") -> "Drawn":
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Drawn

    return Drawn(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )


# ---- views -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def views(stream: TextIO) -> Iterator[Callable[["RenderableType"], None]]:
    """Yield what shows a view in place of the one before, on a terminal that is given back as it was."""
    from rich.live import Live

    console = _console(stream)
    with Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        yield lambda view: live.update(view, refresh=True)
