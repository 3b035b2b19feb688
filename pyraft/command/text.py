"""The output of the command: columns that fit a terminal of 80, sizes and times that people read, and JSON.

Duty: `table` puts rows below each other, `pairs` names beside values, `wrap` a sentence below its subject. `dump`
prints what --json asks for: the same facts, with sizes in bytes and times in ms since the epoch.

Failure modes: none. Control characters in names and texts from a directory are escaped before they reach a terminal.
"""

import datetime
import json
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import click

from pyraft.errors import printable

WIDTH = 80


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return lines with the columns below each other; numbers are at the right of theirs."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    if not cells:
        return []
    numeric = [
        all(row[at].replace(".", "").isdigit() or row[at] in ("", "-") for row in cells) for at in range(len(head))
    ]
    widths = [max(len(row[at]) for row in [list(head), *cells]) for at in range(len(head))]
    lines = []
    for row in [list(head), *cells]:
        padded = [
            cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  " + "  ".join(padded).rstrip())
    return lines


def pairs(rows: Iterable[tuple[str, object]]) -> list[str]:
    """Return lines with a name and its value each."""
    known = [(name, printable(str(value))) for name, value in rows]
    width = max(len(name) for name, _ in known)
    return [f"{name.ljust(width)}  {value}" for name, value in known]


def wrap(text: str, indent: str = "    ") -> list[str]:
    """Return a text as lines of at most 80 characters."""
    return textwrap.wrap(printable(text), WIDTH, initial_indent=indent, subsequent_indent=indent)


def short(line: str) -> str:
    """Return a line cut to the width of a terminal."""
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def items(texts: Iterable[str]) -> list[str]:
    """Return texts as the items of a list."""
    lines: list[str] = []
    for one in texts:
        lines += textwrap.wrap(printable(one), WIDTH, initial_indent="  * ", subsequent_indent="    ")
    return lines


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


def line(text: str) -> str:
    """Return a text of others as it may reach a terminal."""
    return printable(text)


def say(lines: Iterable[str]) -> None:
    """Print lines."""
    for line in lines:
        click.echo(line)


def dump(facts: Any) -> None:
    """Print facts as JSON."""
    click.echo(json.dumps(facts, indent=2))
