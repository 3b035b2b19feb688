"""The tool that repeats the suite finds what fails now and then, or hangs, and ends what it started."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fuzzy import flaky
from tests.lib import stops

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

HANGS = '''
"""Written by a test."""
import os, subprocess, sys, threading
from pathlib import Path


def test_that() -> None:
    """Hangs, and so does its child, in a session of its own."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
    Path("child").write_text(str(child.pid))
    Path("hangs").write_text(str(os.getpid()))
    threading.Event().wait()
'''


HEEDS = '''
"""Written by a test."""
import signal, subprocess, sys


def test_it() -> None:
    """A child has the signal's default."""
    look = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert subprocess.run([sys.executable, "-c", look], capture_output=True, check=True).stdout == b"True\\n"
'''


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the tool look for tests in another directory."""
    monkeypatch.setenv("PYTHONPATH", str(flaky.ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # for time
    monkeypatch.setattr(flaky, "ROOT", tmp_path)
    monkeypatch.setenv("FLAKY_NOTE", str(tmp_path / "note"))


def test_the_order_is_that_of_the_seed_and_the_run() -> None:
    """The same for the same numbers, whatever the order was before; another one for others."""
    files = [f"test_{i}.py" for i in range(20)]
    first = flaky.order(files, 7, 1)
    assert first == flaky.order(files[::-1], 7, 1)
    assert sorted(first) == sorted(files)
    assert len({tuple(flaky.order(files, seed, number)) for seed in (7, 8) for number in (1, 2)}) == 4


def test_a_test_that_fails_now_and_then_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It is with the file before its own and the run that it failed in; all files were run each time."""
    for name in ("test_a.py", "test_b.py"):
        (tmp_path / name).write_text(PROGRAM)
    assert flaky.main(["--n", "3", "--seed", "7", "."]) == 1
    ran = (tmp_path / "note").read_text().splitlines()
    assert len(ran) == 6
    out = capfd.readouterr().out
    assert "run 2 of --seed 7: 2 files beside 1 busy programs" in out
    assert f"\n{ran[2]}::test_this, after nothing, beside 1 busy programs  (--seed 7 --only 2)\n" in out
    assert out.endswith("\n1 failures\n")
    assert flaky.main(["--seed", "7", "--only", "3", "."]) == 0


def test_the_file_before_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The cause may be something that it left behind."""
    (tmp_path / "test_a.py").write_text('"""A."""\ndef test_a() -> None:\n    """Pass."""\n')
    (tmp_path / "test_b.py").write_text('"""B."""\ndef test_b() -> None:\n    """Fail."""\n    assert False\n')
    seed = next(seed for seed in range(20) if flaky.order(["test_a.py", "test_b.py"], seed, 1)[0] == "test_a.py")
    assert flaky.main(["--seed", str(seed), "--only", "1", "."]) == 1
    assert "\ntest_b.py::test_b, after test_a.py, beside 0 busy programs  (" in capfd.readouterr().out


def test_files_are_shared(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Two tests of two files that wait for each other pass; the files of clusters come behind them."""
    tests = tmp_path / "tests"
    (tests / "fuzzy").mkdir(parents=True)
    meet = (
        "import time\nfrom pathlib import Path\nHERE = Path(__file__)\n"
        "def test_met():\n    HERE.with_suffix('.met').touch()\n"
        "    end = time.monotonic() + 60\n    while len(list(HERE.parent.glob('*.met'))) < 2:\n"
        "        assert time.monotonic() < end\n"
    )
    (tests / "test_a.py").write_text(meet)
    (tests / "test_b.py").write_text(meet)
    behind = "from pathlib import Path\ndef test_behind():\n    assert len(list(Path('tests').glob('*.met'))) == 2\n"
    (tests / "fuzzy" / "test_c.py").write_text(behind)
    assert flaky.main(["--seed", "7", "--only", "2", "--jobs", "2"]) == 0
    (tests / "test_b.py").write_text("def test_b(): assert False\n")
    assert flaky.main(["--seed", "7", "--only", "1", "--jobs", "2"]) == 1
    assert "(--seed 7 --only 1 --jobs 2)\n" in capfd.readouterr().out


def test_the_same_files_are_shared_as_in_make_test() -> None:
    """Those in virtual time are too: they do not wait for anything, and there are many of them."""
    root = Path(flaky.__file__).parents[2]
    plain = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "ARGS")}
    command = ["make", "--dry-run", "--old-file", ".venv/.ready", "test"]
    done = subprocess.run(command, cwd=root, env=plain, capture_output=True, text=True, check=True)
    shared, alone = re.findall(r"'([^']*tests/[^']*)'", done.stdout)
    ignored = re.findall(r"--ignore (\S+)", alone)
    assert tuple(file for file in shared.split() if file.startswith("tests/fuzzy/")) == flaky.SEARCHES
    assert tuple(ignored) == flaky.SEARCHES
    assert {f"{word}/" for word in alone.split() if word not in (*ignored, "--ignore")} == set(flaky.ALONE)
    assert all((root / file).exists() for file in flaky.SEARCHES)


def test_what_is_told_to_stop_leaves_nothing(tmp_path: Path) -> None:
    """Each of the processes that share the files ends, and so does what hangs in them."""
    for name in ("a", "b"):
        text = HANGS.replace('"child"', f'"child_{name}"').replace('"hangs"', f'"hangs_{name}"')
        (tmp_path / f"test_{name}.py").write_text(text)
    program = (
        "import sys\nfrom pathlib import Path\nfrom tests.fuzzy import flaky\n"
        "flaky.ROOT = Path(sys.argv[1])\nsys.exit(flaky.main(['--only', '1', '--jobs', '2', '.']))"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.DEVNULL) as tool:
        notes = [tmp_path / f"{note}_{name}" for note in ("child", "hangs") for name in ("a", "b")]
        end = time.monotonic() + 60
        while not all(note.exists() and note.read_text() for note in notes) and time.monotonic() < end:
            os.sched_yield()
        tool.terminate()
        assert tool.wait(60) == 128 + signal.SIGTERM
    for note in notes:
        assert stops.parents().get(int(note.read_text()), (1, "Z"))[1] == "Z"


class _Clock:
    """Time passes only while a process hangs that has written its number into a file."""

    def __init__(self, note: Path) -> None:
        self._note = note
        self._now = 0.0

    def __call__(self) -> float:
        if self._note.exists() and int(self._note.read_text() or -1) in stops.parents():
            self._now += 1000
        return self._now


def test_a_test_that_hangs_is_named_and_the_rest_is_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its threads are written down, and nothing of it is left; a file that cannot be read keeps none from running."""
    monkeypatch.setattr(flaky, "_clock", _Clock(tmp_path / "hangs"))
    (tmp_path / "test_a.py").write_text(HANGS)
    (tmp_path / "test_b.py").write_text(PROGRAM)
    (tmp_path / "test_c.py").write_text("syntax error")
    seed = next(seed for seed in range(20) if flaky.order(["a", "b", "c"], seed, 1) == ["a", "b", "c"])
    assert flaky.main(["--seed", str(seed), "--only", "1", "."]) == 1
    assert (tmp_path / "note").read_text() == "test_b.py\n"
    out = capfd.readouterr().out
    assert f"\ntest_a.py::test_that: exit code {-signal.SIGABRT}, after nothing, " in out
    assert "in test_that" in out
    assert "\ntest_c.py, after nothing, " in out
    # It may be that nobody has asked for its exit code yet.
    assert stops.parents().get(int((tmp_path / "child").read_text()), (1, "Z"))[1] == "Z"


def test_busy_programs_end_with_what_they_are_beside() -> None:
    """They do when that raises, too."""
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


def test_busy_programs_end_without_who_started_them() -> None:
    """The tool may be killed itself."""
    program = "from tests.fuzzy import flaky\nwith flaky.beside(1) as busy: print(busy[0].pid, flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True) as tool:
        busy = os.pidfd_open(int(tool.stdout.readline()))
        tool.kill()
        # The descriptor of a process can be read from when it has ended.
        assert select.select([busy], [], [], 60)[0]
        os.close(busy)


def test_stopped_processes_go_on() -> None:
    """The root of a tree and the process below it are stopped in turn, and go on at the end."""
    program = "import subprocess, sys\nwith subprocess.Popen(['sleep', '1000']) as p: print(p.pid, flush=True)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as root:
        child = int(root.stdout.readline())
        assert stops.descendants(root.pid) == [child]
        stopper = stops.Stops(root.pid, "7", gap=0.1)
        seen: set[int] = set()
        end = time.monotonic() + 60
        while seen != {root.pid, child} and time.monotonic() < end:
            states = stops.parents()
            seen |= {pid for pid in (root.pid, child) if states[pid][1] == "T"}
        stopper.end()
        assert seen == {root.pid, child}
        assert stopper.count >= 2
        states = stops.parents()
        assert "T" not in (states[root.pid][1], states[child][1])
        os.kill(child, signal.SIGKILL)


def test_threads_dawdle() -> None:
    """Each that is started after the plugin was told to; the main one does not."""
    program = (
        "import sys, threading, time\nfrom tests.lib import watched\nslept = []\n"
        "watched._sleep = lambda seconds: slept.append(threading.current_thread().name)\n"
        "watched.dawdle('7')\nwork = lambda: [len('') for _ in range(10000)]\n"
        "thread = threading.Thread(target=work, name='other')\nthread.start()\nthread.join()\nwork()\n"
        "print(set(slept), len(slept))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.startswith("{'other'} ")
    assert 5 < int(out.split()[1]) < 200


def test_programs_of_tests_heed_sigint_where_the_shell_has_it_ignored(tmp_path: Path) -> None:
    """A shell does for tests in the background: a server that is to end by SIGINT would never end."""
    (tmp_path / "test_heeds.py").write_text(HEEDS)
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "test_heeds.py"]
    done = subprocess.run(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *tests], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
