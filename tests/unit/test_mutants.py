"""The tool that makes mutants: where it changes what, which tests it picks, and that nothing of it is left."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mutants import survivors
from tests.mutants.changes import SHARES, Edit, edits_of, is_program
from tests.mutants.reach import Reach, chunks
from tests.mutants.sample import draw, weight
from tests.mutants.tree import Tree
from tests.mutants.trial import end_all

SOURCE = '''"""A head with 1 number."""

LIMIT: Final = 3


def work(log: "list[int]", n: int = 2) -> bool:
    """A docstring with a < b."""
    assert n > 0
    if n <= LIMIT and (not log  # "ü" takes two bytes
                       or n == 1):
        log.sync()
        log.flush("ä"); log.close()
        log.items[0] = n + 1
    trace(log, f"{n < 3}")
    return True
'''


def changed(kind: str) -> list[str]:
    """Return what the lines around each change of a kind become."""
    return ["\n".join(edit.lines(SOURCE)[1]) for edit in edits_of("a.py", SOURCE) if edit.kind == kind]


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("compare", ['if n < LIMIT and (not log  # "ü" takes two bytes', "or n != 1):"]),
        ("arithmetic", ["log.items[0] = n - 1"]),
        ("true/false", ["return False"]),
        ("sync left out", ["pass"]),
        ("and/or", ['if n <= LIMIT or (not log  # "ü" takes two bytes', "and n == 1):"]),
    ],
)
def test_changes_are_made_where_they_belong(kind: str, lines: list[str]) -> None:
    """They are of operators, constants and statements; behind letters of two bytes too."""
    assert sorted(changed(kind)) == sorted(lines)


def test_what_is_left_alone() -> None:
    """Text, annotations, assertions and what is traced."""
    for edit in edits_of("a.py", SOURCE):
        before = edit.lines(SOURCE)[0]
        assert not any(word in line for line in before for word in ("assert", "docstring", "head", "trace"))
    numbers = changed("number")
    assert "LIMIT: Final = 4" in numbers
    assert "LIMIT: Final = 2" in numbers
    assert any("n: int = 3" in line for line in numbers)


def test_every_change_is_another_program_and_touches_its_place_only() -> None:
    """This very file, which has about everything, is changed."""
    source = Path(__file__).read_text()
    edits = edits_of("b.py", source)
    assert {edit.kind for edit in edits} >= {"compare", "left out", "negate", "number"}
    programs = [edit.apply(source) for edit in edits]
    good = [text for text in programs if is_program(text)]
    assert len(good) > 0.95 * len(programs)
    for text, edit in zip(programs, edits, strict=True):
        assert text[: edit.begin] == source[: edit.begin]
        assert text[len(text) - len(source) + edit.end :] == source[edit.end :]
        if is_program(text):
            assert ast.dump(ast.parse(text)) != ast.dump(ast.parse(source))


def test_a_sample_is_that_of_its_seed() -> None:
    """It is twice the same, without repetition, with all kinds that there are in about their shares."""
    texts = {"pyraft/a.py": Path(__file__).read_text(), "pyraft/_build.py": SOURCE}
    drawn = draw(texts, 25, 7, [])
    assert drawn == draw(texts, 25, 7, [])
    assert drawn[:10] == draw(texts, 10, 7, [])
    assert len(set(drawn)) == 25
    assert {edit.path for edit in drawn} == {"pyraft/a.py"}
    assert weight("pyraft/fixture_io.py") < weight("pyraft/log.py")
    assert sum(SHARES.values()) == 100


def test_tests_are_picked_by_the_lines_that_they_execute() -> None:
    """They are when lines have moved, the fastest first; for a line that only an import runs, those of the file."""
    lines = ["one", "two", "three", "four"]
    content = {
        "tests": [["slow", 2.0], ["quick", 0.5], ["other", 1.0]],
        "sources": {"io_uv/a.py": lines},
        "lines": {"io_uv/a.py": {"2": "3", "3": "4"}},
    }
    reach = Reach(content)
    assert reach.tests_of("io_uv/a.py", "\n".join(lines), 2, 2) == ["quick", "slow"]
    reach = Reach(content)
    assert reach.tests_of("io_uv/a.py", "\n".join(["new", "lines", *lines]), 5, 5) == ["other"]
    assert reach.tests_of("io_uv/a.py", "\n".join(["new", "lines", *lines]), 1, 1) == ["quick", "other", "slow"]
    assert Reach(content).tests_of("io_uv/b.py", "two\nfive", 1, 1) == ["quick", "slow"]
    assert reach.within(1.5, ["quick", "other", "slow"]) == ["quick", "other"]
    assert [len(chunk) for chunk in chunks([str(i) for i in range(200)])] == [25, 150, 25]


def test_a_survivor_is_known_by_what_was_changed() -> None:
    """File, surroundings and lines tell it, wherever these stand; each has a reason."""
    edit = Edit("a.py", "compare", "work", 9, 10, SOURCE.index("<="), SOURCE.index("<=") + 2, "<")
    text = f"# heading\n\n{survivors.key(edit, SOURCE)}\n= equivalent: because\n"
    assert survivors.read(text) == {survivors.key(edit, SOURCE): "equivalent: because"}
    for key, reason in survivors.known().items():
        assert reason, key
        assert len(key.splitlines()) >= 3, key


def test_the_tree_is_a_copy(tmp_path: Path) -> None:
    """A change in it is not one of ours; it takes the place of what is installed."""
    tree = Tree(tmp_path / "top")
    path = "pyraft/flags.py"
    ours = (Path(__file__).resolve().parents[2] / path).read_text()
    tree.write(path, ours + "\nMUTANT = 1\n")
    command = [sys.executable, "-c", "from pyraft import flags; print(flags.MUTANT)"]
    done = subprocess.run(command, cwd=tree.root, env=tree.environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert (Path(__file__).resolve().parents[2] / path).read_text() == ours
    Tree.remove_at(tree.top)
    assert not tree.top.exists()


def test_a_run_is_ended_with_all_that_it_started() -> None:
    """Its group ends at once."""
    program = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).wait()"
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    begin = time.monotonic()
    end_all(process)
    assert process.returncode is not None
    assert time.monotonic() - begin < 300
