"""The tool that repeats the suite finds what fails now and then, and ends what it started."""

import os
from pathlib import Path

import pytest

from tests.fuzzy import flaky

PROGRAM = '''
"""Written by a test."""
import os
from pathlib import Path

NOTE = Path(os.environ["FLAKY_NOTE"])


def test_this() -> None:
    """Fails the second time."""
    with NOTE.open("a") as file:
        file.write(f"{Path(__file__).name}\\n")
    assert NOTE.read_text().count("\\n") != 3
'''


def test_the_order_is_that_of_the_seed_and_the_run() -> None:
    """The same for the same numbers, whatever the order was before; another one for others."""
    files = [f"test_{i}.py" for i in range(20)]
    first = flaky.order(files, 7, 1)
    assert first == flaky.order(files[::-1], 7, 1)
    assert sorted(first) == sorted(files)
    assert len({tuple(flaky.order(files, seed, number)) for seed in (7, 8) for number in (1, 2)}) == 4


def test_a_test_that_fails_now_and_then_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the run that it failed in; all files were run each time."""
    for name in ("test_a.py", "test_b.py"):
        (tmp_path / name).write_text(PROGRAM)
    monkeypatch.setattr(flaky, "ROOT", tmp_path)
    monkeypatch.setenv("FLAKY_NOTE", str(tmp_path / "note"))
    assert flaky.main(["--n", "3", "--seed", "7", "."]) == 1
    assert len((tmp_path / "note").read_text().splitlines()) == 6
    out = capfd.readouterr().out
    assert "run 2 of --seed 7: 2 files beside 1 busy programs" in out
    assert "(--seed 7 --only 2)" in out
    assert out.endswith("1 failures\n")
    assert flaky.main(["--seed", "7", "--only", "3", "."]) == 0


def test_busy_programs_end_with_what_they_are_beside() -> None:
    """Also when that raises."""
    pids: list[int] = []

    def fail() -> None:
        with flaky.beside(2) as busy:
            assert all(process.poll() is None for process in busy)
            pids.extend(process.pid for process in busy)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
