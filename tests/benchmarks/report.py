"""The results: a table in Markdown, JSON, and a picture in SVG.

Everything is a median over the rounds. Ratios are to libraft in the same run.
"""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from tests.benchmarks.rows import Row, Values

REFERENCE = "libraft"
MORE_IS_BETTER = {"throughput"}
COLOURS = {
    "pyraft": "#2b6cb0",
    "pyraft-compiled": "#1a365d",
    "pyraft-system": "#63b3ed",
    "pyraft-compiled-system": "#2c5282",
    "pyraft-node": "#38a169",
    "libraft": "#a0aec0",
    "pysyncobj": "#dd6b20",
    "pysyncobj-unbatched": "#f6ad55",
}

NOTES = {"pysyncobj": " (never syncs its journal)"}

Results = dict[str, dict[str, list[Values]]]
"""Row name, then side name, to the values of each round."""


def median(values: Iterable[Values], metric: str) -> float | None:
    """The median of a metric over rounds; None where it was not measured."""
    found = [v[metric] for v in values if metric in v]
    return statistics.median(found) if found else None


def show(metric: str, value: float | None) -> str:
    """A value in the unit that is usual for it."""
    if value is None:
        return ""
    if metric in ("p50", "p99", "longest", "cpu"):
        return f"{value * 1e6:,.0f} µs" if value < 0.01 else f"{value * 1e3:,.1f} ms"
    if metric == "throughput":
        return f"{value:,.0f}/s"
    if metric == "written":
        return f"{value:,.0f} B"
    if metric.startswith("memory"):
        return f"{value / 1e6:,.0f} MB"
    if metric == "growth":
        return f"{value:.2f}"
    if metric in ("idle", "lost", "lost low", "lost high", "more cpu"):
        return f"{value * 100:.2f} %"
    return f"{value * 1e3:,.1f} ms" if value < 1 else f"{value:,.2f} s"


def ratio(results: dict[str, list[Values]], side: str, metric: str) -> float | None:
    """A side's median of a metric over the reference's."""
    mine, other = median(results.get(side, []), metric), median(results.get(REFERENCE, []), metric)
    return mine / other if mine is not None and other else None


def table(results: Results, rows: list[Row], sides: list[str]) -> str:
    """One line per row and side-by-side values of the row's metric, then what else was measured."""
    head = ["", *(f"{side}" for side in sides), *(f"{side} ÷ {REFERENCE}" for side in sides if side != REFERENCE)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        found = results.get(row.name)
        if not found:
            continue
        cells = [f"{row.name}: {row.lead}"]
        cells += [show(row.lead, median(found.get(side, []), row.lead)) for side in sides]
        for side in sides:
            if side != REFERENCE:
                r = ratio(found, side, row.lead)
                cells.append("" if r is None else f"{r:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def details(results: Results, rows: list[Row], sides: list[str]) -> str:
    """All metrics of all rows."""
    lines = []
    for row in rows:
        for side in sides:
            values = results.get(row.name, {}).get(side, [])
            if values:
                parts = [f"{metric} {show(metric, median(values, metric))}" for metric in values[0]]
                lines.append(f"{row.name:55} {side:16} {'  '.join(parts)}")
    return "\n".join(lines)


def write_json(path: Path, results: Results, about: dict[str, Any]) -> None:
    """Everything that was measured, with what it was measured on."""
    path.write_text(json.dumps({"about": about, "rows": results}, indent=1) + "\n")


def picture(results: Results, rows: list[Row], sides: list[str]) -> str:
    """Bars: how many times better than the reference each side is, on a logarithmic scale from 1/8 to 8."""
    shown = [row for row in rows if REFERENCE in results.get(row.name, {})]
    others = [side for side in sides if side != REFERENCE and any(side in results[row.name] for row in shown)]
    left, width, bar, gap = 360, 480, 9, 8
    step = bar * max(len(others), 1) + gap
    height = 60 + step * len(shown) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 60}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{left + width + 60}" height="{height}" fill="white"/>',
        f'<text x="8" y="18" font-size="13">How many times better than {REFERENCE} (same run; right is better)</text>',
    ]
    x = 8
    for side in others:
        label = side + NOTES.get(side, "")
        parts.append(f'<rect x="{x}" y="26" width="10" height="10" fill="{COLOURS[side]}"/>')
        parts.append(f'<text x="{x + 14}" y="35">{escape(label)}</text>')
        x += 32 + 6 * len(label)

    def place(value: float) -> float:
        import math

        return left + width * (math.log2(min(max(value, 1 / 8), 8)) + 3) / 6

    for tick in (0.125, 0.25, 0.5, 1, 2, 4, 8):
        at = place(tick)
        stroke = "#4a5568" if tick == 1 else "#e2e8f0"
        parts.append(f'<line x1="{at:.1f}" y1="44" x2="{at:.1f}" y2="{height - 18}" stroke="{stroke}"/>')
        parts.append(f'<text x="{at:.1f}" y="{height - 5}" text-anchor="middle">{tick:g}x</text>')
    for n, row in enumerate(shown):
        y = 50 + step * n
        parts.append(f'<text x="8" y="{y + bar}">{escape(row.name)}</text>')
        for k, side in enumerate(others):
            value = ratio(results[row.name], side, row.lead)
            if not value:
                continue
            better = value if row.lead in MORE_IS_BETTER else 1 / value
            start, end = sorted((place(1), place(better)))
            parts.append(
                f'<rect x="{start:.1f}" y="{y + bar * k}" width="{max(end - start, 1):.1f}" height="{bar - 1}" '
                f'fill="{COLOURS[side]}"><title>{escape(side)}: {better:.2f}x</title></rect>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"
