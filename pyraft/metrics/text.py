"""The text that a scrape gets, in Prometheus' format 0.0.4: what prometheus_client writes, in a third of the time.

Duty: `text` writes families whose names and labels are this package's own, so none of them has to be checked again; the
time goes from the loop of a busy server, which a thread that writes holds up.

Happy path: `text(collector.collect())`. Failure modes: none; values of labels, which others choose, are escaped.
Kinds of families that this package does not have, such as summaries, are not known here.
"""

from collections.abc import Iterable
from typing import Any, Final

_KINDS: Final = {"counter": ("_total", "counter"), "info": ("_info", "gauge")}
"""For kinds that OpenMetrics names otherwise: the end of the name, and the kind in the older format."""


def text(families: Iterable[Any]) -> str:
    """Return the text of families."""
    lines: list[str] = []
    for family in families:
        end, kind = _KINDS.get(family.type, ("", family.type))
        name = family.name + end
        lines.append(f"# HELP {name} {_escape(family.documentation)}\n# TYPE {name} {kind}")
        for name, labels, value, *_ in family.samples:  # a boolean is written as a number
            if labels:
                pairs = ",".join([f'{key}="{_quote(labels[key])}"' for key in sorted(labels)])
                lines.append(f"{name}{{{pairs}}} {+value!r}")
            else:
                lines.append(f"{name} {+value!r}")
    return "\n".join(lines) + "\n"


def _escape(words: str) -> str:
    return words.replace("\\", r"\\").replace("\n", r"\n")


def _quote(value: str) -> str:
    return _escape(value).replace('"', r"\"") if "\\" in value or "\n" in value or '"' in value else value
