"""The output of the command: columns that fit a terminal of 80, sizes and times that people read, and JSON.

Duty: `table` puts rows below each other, `pairs` names beside values, `wrap` a sentence below its subject. `say` prints
them; on a terminal `screen` draws the tables. `dump` prints what --json asks for: the same facts, with sizes in bytes
and times in ms since the epoch.

Failure modes: none. A word that is longer than a line, as paths are, is not cut, so that it can be copied: it stands on
a line of its own, which the terminal breaks. Control characters in names and texts from a directory are escaped before
they reach a terminal.
"""

import datetime
import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from pyraft.command import output, screen
from pyraft.errors import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH = 80


@dataclass(frozen=True)
class Table:
    """Rows of cells below a head. `numeric` says which columns have numbers, which are at the right."""

    head: list[str]
    rows: list[list[str]]
    numeric: list[bool]

    def lines(self) -> list[str]:
        """Return it as lines, as wide as they get."""
        rows = [self.head, *self.rows]
        widths = [max(len(row[at]) for row in rows) for at in range(len(self.head))]
        lines = []
        for row in rows:
            cells = zip(row, widths, self.numeric, strict=True)
            padded = [cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells]
            lines.append("  " + "  ".join(padded).rstrip())
        return lines


Part: TypeAlias = str | Table
"""A line, or a table."""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[Part]:
    """Return rows as a table with the columns below each other; nothing, if there are none."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    if not cells:
        return []
    numeric = [
        all(row[at].replace(".", "").isdigit() or row[at] in ("", "-") for row in cells) for at in range(len(head))
    ]
    return [Table(list(head), cells, numeric)]


def pairs(rows: Iterable[tuple[str, object]]) -> list[str]:
    """Return lines with a name and its value each."""
    known = [(name, str(value)) for name, value in rows]
    width = max(len(name) for name, _ in known)
    lines: list[str] = []
    for name, value in known:
        first = f"{name.ljust(width)}  "
        lines += _lines(value, first, " " * len(first)) or [first]
    return lines


def wrap(text: str, indent: str = "    ") -> list[str]:
    """Return a text as lines of at most 80 characters, or of one longer word."""
    return _lines(text, indent, indent)


def short(line: str) -> str:
    """Return a line cut to the width of a terminal."""
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def items(texts: Iterable[str]) -> list[str]:
    """Return texts as the items of a list."""
    lines: list[str] = []
    for one in texts:
        lines += _lines(one, "  * ", "    ")
    return lines


def _lines(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(
        printable(text),
        WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def size(n: int) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024  # type: ignore[assignment]
    return f"{n:.1f} GiB"


def moment(ms: int) -> str:
    """Return a time in ms since the epoch as date and time in UTC; C's snapshots count from a boot instead."""
    if ms < 1_000_000_000_000:
        return f"{ms} ms after a boot"
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def span(seconds: float) -> str:
    """Return a length of time for people, in the unit that fits; "-" if it is not known."""
    if seconds < 0:
        return "-"
    for unit, length in (("s", 60.0), ("min", 60.0), ("h", 48.0)):
        if seconds < length:
            return f"{seconds:.0f} {unit}"
        seconds /= 60 if unit != "h" else 24
    return f"{seconds:.0f} d"


def say(parts: Iterable[Part]) -> None:
    """Print lines, in which there may be texts of others, and tables."""
    for part in parts:
        if isinstance(part, str):
            output.put(printable(part))
        elif screen.lively(sys.stdout):
            with output.written():
                screen.show(sys.stdout, part.head, part.rows, part.numeric)
        else:
            output.put("\n".join(part.lines()))


def drawn(parts: Iterable[Part]) -> "RenderableType":
    """Return parts as something that rich draws."""
    return screen.group(
        [printable(one) if isinstance(one, str) else screen.table(one.head, one.rows, one.numeric) for one in parts]
    )


def done(sentence: str, as_json: bool, **facts: Any) -> None:
    """Print what a command has done, as a sentence or as JSON."""
    if as_json:
        dump(facts)
    else:
        say(wrap(sentence, ""))


def dump_line(facts: Any) -> None:
    """Print facts as a line of JSON, for commands that print more than one."""
    output.put(json.dumps(facts))


def dump(facts: Any) -> None:
    """Print facts as JSON."""
    output.put(json.dumps(facts, indent=2))
