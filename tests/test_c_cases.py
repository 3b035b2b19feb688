"""Which case of the C library's own suite has a test here, and which has none for a reason.

The list of cases is tests/lib/c_cases.txt. A test says what it stands for with `@covers`; the marks are read from the
source, so nothing has to run. `python -m tests.test_c_cases` writes the table into tests/README.md.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent
README = ROOT / "README.md"

LEFT_OUT: dict[str, str] = {
    "byteSha1/abc": "SHA1 is hashlib's; tests/unit/test_digest.py tests what raft_digest makes of it",
    "byteSha1/abcWithZeroLen": "SHA1 is hashlib's",
    "byteSha1/abcbd": "SHA1 is hashlib's",
}
"""Cases that could have a test and have none, with the reason."""

BEGIN = "<!-- table of python -m tests.test_c_cases -->"
END = "<!-- end of table -->"


def cases() -> dict[str, dict[str, str]]:
    """Return the C suite: its files, for each the cases with their flag."""
    files: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in (ROOT / "lib" / "c_cases.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        if line.startswith("  "):
            current[line[4:]] = line[2]
        else:
            current = files[line] = {}
    return files


def covered() -> dict[str, list[str]]:
    """Return the tests that stand for each case, as file::function."""
    found: dict[str, list[str]] = {}
    for path in sorted(ROOT.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "covers":
                    for argument in mark.args:
                        assert isinstance(argument, ast.Constant), f"{path.name}:{mark.lineno}: name the cases"
                        where = f"{path.relative_to(ROOT).as_posix()}::{node.name}"
                        found.setdefault(str(argument.value), []).append(where)
    return found


def table() -> str:
    """Return the table of tests/README.md: per file of the C suite, how many cases have a test here."""
    has_test = covered()
    rows = ["| file of the C suite | cases | tested here | left out, see below | C only | skipped in C |"]
    rows.append("|---|---|---|---|---|---|")
    sums = [0] * 5
    for file, flags in cases().items():
        tested = sum(case in has_test for case in flags)
        left = sum(case in LEFT_OUT for case in flags)
        c_only, skipped = (
            sum(flag == wanted and case not in has_test and case not in LEFT_OUT for case, flag in flags.items())
            for wanted in "NS"
        )
        numbers = [len(flags), tested, left, c_only, skipped]
        sums = [a + b for a, b in zip(sums, numbers, strict=True)]
        rows.append(f"| {file} | " + " | ".join(str(n) if n else "" for n in numbers) + " |")
    rows.append("| **all** | " + " | ".join(f"**{n}**" for n in sums) + " |")
    reasons = [f"* `{case}`: {reason}" for case, reason in sorted(LEFT_OUT.items())]
    return "\n".join([*rows, "", *(["Left out:", "", *reasons] if reasons else ["No case is left out."])])


def with_table(text: str) -> str:
    """Return the text of tests/README.md with the table brought up to date."""
    assert BEGIN in text, f"{README} has no place for the table"
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{table()}\n{END}", text, flags=re.S)


def test_marks_name_cases_that_exist() -> None:
    """Every name in a `@covers` is a case of the C suite, letter for letter."""
    known = {case for flags in cases().values() for case in flags}
    unknown = {case: where for case, where in covered().items() if case not in known}
    assert unknown == {}
    assert set(LEFT_OUT) <= known


def test_every_case_has_a_test_or_a_reason() -> None:
    """A case that means something in Python is tested here, or LEFT_OUT says why it is not."""
    has_test = covered()
    for file, flags in cases().items():
        owed = {case for case, flag in flags.items() if flag in "YIF"}
        missing = sorted(case for case in owed if case not in has_test and case not in LEFT_OUT)
        assert missing == [], f"{file}: {missing}"


def test_nothing_is_left_out_that_is_tested() -> None:
    """LEFT_OUT holds no case that has a test in the meantime, and each of its reasons says something."""
    has_test = covered()
    assert {case for case in LEFT_OUT if case in has_test} == set()
    assert all(len(reason) > 10 for reason in LEFT_OUT.values())


def test_the_table_is_up_to_date() -> None:
    """tests/README.md shows the table that the marks give (python -m tests.test_c_cases writes it)."""
    text = README.read_text()
    assert with_table(text) == text


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
    owed = [c for flags in cases().values() for c, f in flags.items() if f in "YIF"]
    missing = [case for case in owed if case not in covered() and case not in LEFT_OUT]
    print(f"{README.name}: table written; {len(missing)} cases lack a test or a reason")
    for case in missing:
        print(f"  {case}")
