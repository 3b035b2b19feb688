"""The prose of a file: docstrings and comments of Python, paragraphs of Markdown, each as one line of text.

Failure modes: a heading and a table's row are paragraphs too; code in Markdown is taken for prose.
"""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

HEADLESS = re.compile(r"(?:^|(?<=[.!?]) +)(?:[*|] +|\*\*)*(?:Who|What|Whom|Whose)(?:ever)?\b.*?(?:[.!?](?=\s|$)|$)")
"""A sentence whose subject is a clause without a noun in front, or a question."""

PEOPLE = re.compile(r"\b(?:as|by|for|from|so that) who\b")
"""Such a clause behind a preposition: "by who waits" is by the one that waits."""

CLAUSE = re.compile(r"; (?:who|what|whom|whose)(?:ever)?\b[^.;?|]*(?:[.;|]|$)")
"""A headless clause behind a semicolon, which begins there as a sentence would."""

IS_NO = re.compile(r"(?<!there )(?<!There )\b(?:is|are|was|were|to be) no (?!longer\b|more\b|less\b|sooner\b)")
"""A statement of what something is not an example of, where what it is would be told in one reading."""

IS_NONE = re.compile(r"(?<!there )(?<!There )\b(?:is|are|was|were|to be) none\b(?! of (?:them|these|those)\b)")
"""The same with the noun left out: "a mark that is none"."""


def paragraphs(path: Path) -> Iterator[tuple[int, str]]:
    """Return pairs of a line's number, from 1 on, and the paragraph that begins there."""
    text = path.read_text(errors="replace")
    if path.suffix == ".py":
        yield from _of_python(text)
    elif path.suffix == ".md":
        yield from ((line, part) for line, part in _parts(text, 1) if not part.startswith("#"))


def _of_python(text: str) -> Iterator[tuple[int, str]]:
    """Paragraphs of docstrings, and comments: those in lines that follow each other, at the same column, are one."""
    lines: list[str] = []
    row, column = 0, 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.STRING and token.string.startswith('"""'):
            yield from _parts(token.string[3:-3], token.start[0])
        if token.type != tokenize.COMMENT:
            continue
        if lines and token.start != (row + len(lines), column):
            yield row, " ".join(lines)
            lines = []
        if not lines:
            row, column = token.start
        lines.append(token.string.lstrip("# "))
    if lines:
        yield row, " ".join(lines)


def _parts(text: str, line: int) -> Iterator[tuple[int, str]]:
    """Paragraphs, items of lists and rows of tables."""
    for part in re.split(r"(\n\s*\n|\n(?=\s*[-*|] ))", text):
        if part.strip():
            yield line, re.sub(r"\s+", " ", part).strip()
        line += part.count("\n")


def second_readings(text: str) -> list[str]:
    """Return the parts of a paragraph that have to be read twice: headless subjects, "is no …" and "is none".

    A subject may stand behind a semicolon, too. Text in quotation marks is passed over.
    """
    text = re.sub(r'"[^"]*"', '""', text)
    found = [match.group().strip() for match in HEADLESS.finditer(text) if not match.group().endswith("?")]
    inside = [*PEOPLE.finditer(text), *CLAUSE.finditer(text), *IS_NO.finditer(text), *IS_NONE.finditer(text)]
    return found + [text[max(0, match.start() - 40) : match.end() + 20] for match in inside]
