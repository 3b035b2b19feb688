"""Programs that are interrupted at a chosen line of pyraft or io_uv, each in a process of its own.

Duty: `lines_of(name)` runs a program once and notes how often it executes which line of the two packages; `begin` runs
it anew and interrupts it at one of them, once or twice, and `Run.end` returns what was wrong with its end, or with its
directory. The programs are those of the READMEs with several commands, the first one as it stands and with an `except`
that closes the server, and examples/kv.py. Several may run at a time: they share nothing.

A trace function counts lines. It raises KeyboardInterrupt there (`raise`), which no handler keeps away: this is what
Ctrl-C in front of `run`, a handler of the program that raises, or an asyncio of Python 3.10 may do; or it sends this
process SIGINT (`signal`), as Ctrl-C does. Lines of finalisers are left out, as Python itself drops what is raised in
them, and so is what runs at the end of the interpreter.

Right is: the process ends within a generous time, cleanly or by the interrupt; nothing is on its standard error about
exceptions ignored or never retrieved; its directory loads, and has every command that was acknowledged.
"""

import faulthandler
import gc
import itertools
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import io_uv
import pyraft
from io_uv import disk, metadata

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PACKAGES = tuple(str(Path(package.__file__ or "").parent) + os.sep for package in (pyraft, io_uv))
COMMANDS = 12
DEADLINE = 60
"""Seconds that a program may take on a busy machine; it needs one. After half of them it shows where it is."""

ENDLESS = "it did not end"
"""The problem of a program that takes longer."""

NOISE = ("ignored in", "never retrieved", "never awaited", "was destroyed", "Unhandled exception", "Timeout (")

KINDS = ("raise", "signal")


class Line(NamedTuple):
    """A line of a package, and which of its executions is meant."""

    file: str
    number: int
    time: int

    def __str__(self) -> str:
        return f"{os.path.relpath(self.file, ROOT)}:{self.number}:{self.time}"

    @classmethod
    def parse(cls, text: str) -> "Line":
        """Return the line that `str` made this text of."""
        file, number, time = text.rsplit(":", 2)
        return cls(str(ROOT / file), int(number), int(time))


@dataclass
class Case:
    """One run: which program, interrupted how, where, and how many lines later once more (0: not)."""

    program: str
    kind: str
    line: Line
    again: int = 0

    def __str__(self) -> str:
        return f"--program {self.program} --kind {self.kind} --line {self.line} --again {self.again}"


@dataclass
class Outcome:
    """The end of a run."""

    problem: str
    reached: int
    acknowledged: int
    stderr: str = field(repr=False, default="")


# Interrupting.


class Tracer:
    """Counts the lines of this thread that belong to the packages, and interrupts."""

    def __init__(self, case: Case | None, reached: Callable[[], object]) -> None:
        self.counts: Counter[tuple[str, int]] = Counter()
        self.target = case.line if case is not None else None
        self.kind = case.kind if case is not None else ""
        self.again = case.again if case is not None else 0
        self.left = -1  # lines until the next interrupt; negative: nobody knows yet
        self.reached = reached

    def install(self) -> None:
        """Trace from now on."""
        sys.settrace(self.call)

    def remove(self) -> None:
        """Trace no more."""
        sys.setprofile(None)
        sys.settrace(None)

    def call(self, frame: FrameType, event: str, arg: object) -> Any:
        """The trace function of the thread: look at functions of the packages only, or of the one file that matters."""
        file = frame.f_code.co_filename
        if self.target is not None and self.left < 0:
            return self.local if file == self.target.file else None
        return self.local if file.startswith(PACKAGES) else None

    def local(self, frame: FrameType, event: str, arg: object) -> Any:
        """The trace function of a frame."""
        if event != "line":
            return self.local
        key = (frame.f_code.co_filename, frame.f_lineno)
        if self.target is None:
            if self.left:
                self.counts[key] += 1
            return self.local
        if self.left < 0:
            if key == self.target[:2]:
                self.counts[key] += 1
                if self.counts[key] >= self.target.time:
                    self.left = 0
            if self.left < 0:
                return self.local
        elif self.left:
            self.left -= 1
        if self.left == 0 and not _finalising(frame):
            self.interrupt()
        return self.local

    def interrupt(self) -> None:
        """Interrupt, and count on for the second time, if there is to be one."""
        self.reached()
        self.left, self.again = self.again, 0
        if self.left:
            sys.setprofile(self.resume)  # Python stops tracing where a trace function raises
        else:
            self.target, self.left = None, 0
            sys.settrace(None)
        if self.kind == "raise":
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    def resume(self, frame: FrameType, event: str, arg: object) -> None:
        """The profile function that is there for a moment: trace again, what is on the stack too."""
        sys.setprofile(None)
        sys.settrace(self.call)
        above: FrameType | None = frame
        while above is not None:
            if above.f_code.co_filename.startswith(PACKAGES):
                above.f_trace = self.local
            above = above.f_back


def _finalising(frame: FrameType | None) -> bool:
    """Return whether a finaliser or a weak reference's callback runs; an exception there is lost by design."""
    while frame is not None:
        if frame.f_code.co_name in ("__del__", "_collected"):
            return True
        frame = frame.f_back
    return False


# Programs.


_hosts = itertools.count()


def _address() -> str:
    """Return an address that nobody else has: programs that run at the same time are on hosts of their own."""
    number = next(_hosts)
    host = f"127.{os.getpid() % 250 + 1}.{number // 250 % 250}.{number % 250 + 1}"
    with socket.socket() as s:
        s.bind((host, 0))
        return f"{host}:{s.getsockname()[1]}"


def _blocks(directory: Path, section: str, readme: Path = README) -> list[str]:
    """Return the programs in a section of a README.md, with a directory and an address that exist."""
    text = readme.read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    address, found = _address(), re.findall(r"```python\n(.*?)```", text, flags=re.S)
    found = [block.replace("/your/raft/data", str(directory)) for block in found]
    return [re.sub(r"(192\.168\.1\.1|127\.0\.0\.1):9999", address, block) for block in found]


SETTINGS = """
from io_uv import raft_uv_set_segment_size
raft_uv_set_segment_size(io, 16384)
"""
"""Small segments, so that a short life sees everything."""

THRESHOLDS = """
raft_set_snapshot_threshold(raft, 5)
raft_set_snapshot_trailing(raft, 2)
"""

DRIVE = """
def applied(req, status, result):
    if status == 0:
        acknowledge(req.data)
        submit(req.data + 1)

def submit(number):
    global closing
    if number < COMMANDS:
        req = RaftApply()
        req.data = number
        raft_apply(raft, req, [number.to_bytes(8, "little")], 1, applied)
    else:
        closing = True
        STOP

closing = False
timer = pyuv.Timer(loop)
timer.start(lambda timer: (timer.close(), submit(0)), 0, 0)
loop.run()
loop.close()
"""

CLOSING = """
    if raft is not None:
        raft_close(raft, close_callback)
    if loop is not None:
        try:
            loop.run()
        except RuntimeError:  # the interrupt came when it was closed
            pass
        loop.close()
"""


def _c_style(directory: Path) -> str:
    """The program of README.md, which ends with the interrupt."""
    *setup, stop = _blocks(directory, "Quick guide")
    body = "".join(block.replace("loop.run()\n", "") for block in setup)
    body = body.replace("raft = Raft()", SETTINGS + "raft = Raft()").replace(
        "raft_start(raft)", THRESHOLDS + "raft_start(raft)"
    )
    stop, _, call = stop.rpartition("\nraft_close")
    first, rest = body.split("dir = ", 1)
    return first + stop + "\ndir = " + rest + DRIVE.replace("STOP", "raft_close" + call.strip())


def _closing(directory: Path) -> str:
    """The same, with a server that is closed, as one would, when the interrupt comes out."""
    body = _c_style(directory)
    inner = "".join(f"    {line}\n" for line in body.splitlines())
    return f"loop = raft = None\ntry:\n{inner}except KeyboardInterrupt:{CLOSING}    raise\n"


def _front(directory: Path) -> str:
    """The asyncio program."""
    (program,) = _blocks(directory, "In an asyncio program", ROOT / "pyraft" / "README.md")
    created = "    server = aio.Server(io, fsm, id, address)\n"
    answered = 'print("result", await server.apply(b"command1"))'
    assert created in program
    assert answered in program
    settings = "".join(f"    {line}\n" for line in SETTINGS.strip().splitlines())
    program = program.replace(created, settings + created)
    return program.replace(
        answered,
        "for number in range(COMMANDS):\n"
        "            await server.apply(number.to_bytes(8, 'little'))\n"
        "            acknowledge(number)",
    )


EXAMPLE = """
import os, runpy, sys
reading, writing = os.pipe()
os.write(writing, {text!r})
os.close(writing)
os.dup2(reading, 0)
os.close(reading)
sys.path.insert(0, {examples!r})
sys.argv = {arguments!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""A program of examples/ that is told all its commands at once, and then the end of them."""


def _example(name: str, data: Path, line: str, *options: str) -> str:
    text = "".join(line.format(number) for number in range(COMMANDS))
    arguments = [str(ROOT / "examples" / name), str(data), "1", *options]
    return EXAMPLE.format(text=text.encode(), examples=str(ROOT / "examples"), arguments=arguments)


def _kv(data: Path) -> str:
    return _example("kv.py", data, "set key {}\n", f"1={_address()}", "--new")


PROGRAMS: dict[str, Callable[[Path], str]] = {
    "c": _c_style,
    "closing": _closing,
    "aio": _front,
    "kv": _kv,
}

ANSWERS = {"kv": "was "}
"""How lines begin with which examples acknowledge one command each, in the order of the commands."""

IMPATIENT = "Event loop stopped before Future completed."
"""The words of asyncio.run where an interrupt meets it right when the program has ended by itself."""


# Running.


def _child(source: str, tracer: Tracer, deadline: float, acknowledge: Callable[[int], object]) -> None:
    """Run a program, and end as it does; called in a forked process."""
    faulthandler.dump_traceback_later(deadline / 2, exit=True)
    names: dict[str, Any] = {"acknowledge": acknowledge, "COMMANDS": COMMANDS, "__name__": "__main__"}
    code = compile(source, "program.py", "exec")
    try:
        tracer.install()
        exec(code, names)
    finally:
        tracer.remove()


class Run:
    """A program under way in a child process. Its maker calls `ended` until that is true, and then `end`."""

    def __init__(self, program: str, case: Case | None, directory: Path, pid: int, deadline: float) -> None:
        self.program = program
        self.deadline = deadline
        self.case = case
        self.directory = directory
        self.pid = pid
        self.began = time.monotonic()
        self.status: int | None = None

    def ended(self) -> bool:
        """Return whether the child has ended; one that does not is killed, and has no status."""
        done, status = os.waitpid(self.pid, os.WNOHANG)
        if done:
            self.status = os.waitstatus_to_exitcode(status)
        elif time.monotonic() > self.began + self.deadline:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            done = self.pid
        return done != 0

    def wait(self) -> None:
        """Return when the child has ended."""
        while not self.ended():
            time.sleep(0.002)

    def end(self) -> Outcome:
        """Judge what the program has left, and remove it."""
        outcome = _judge(self.status, self.program, self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)
        return outcome


def begin(program: str, case: Case | None, base: str | None = None, deadline: float = DEADLINE) -> Run:
    """Start a program in a child, in a directory of its own. In the child, this ends in what the program ends in."""
    directory = Path(tempfile.mkdtemp(prefix="interrupted-", dir=base))
    data = directory / "data"
    data.mkdir()
    source = PROGRAMS[program](data)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Run(program, case, directory, pid, deadline)
    for name, number in (("stdout", 1), ("stderr", 2), ("acknowledged", 3), ("reached", 4)):
        fd = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(fd, number)
    tracer = Tracer(case, lambda: os.write(4, b"!"))
    try:
        _child(source, tracer, deadline, lambda number: os.write(3, b"%d\n" % number))
    finally:
        if case is None:
            lines = (f"{file}\t{line}\t{n}\n" for (file, line), n in tracer.counts.items())
            (directory / "lines").write_text("".join(lines))
    sys.exit(0)


def _stored(data: Path, counted: bool) -> list[int]:
    """Load a directory, as the next start would; return the numbers that its commands are, or that they have."""
    found = metadata.load(str(data))
    snapshot, _, entries = disk.load(str(data), False)
    disk.check_term(found, snapshot, entries)
    if counted:
        return list(range(entries.types.count(pyraft.RAFT_COMMAND)))
    whole = b"" if snapshot is None else b"".join(bytes(buf) for buf in snapshot.bufs)
    numbers = [int.from_bytes(whole[i : i + 8], "little") for i in range(0, len(whole), 8)]
    return numbers + [int.from_bytes(buf, "little") for buf in entries.bufs if len(buf) == 8]


def _judge(status: int | None, program: str, directory: Path) -> Outcome:
    stdout, stderr, numbers, dots = (
        (directory / name).read_text() for name in ("stdout", "stderr", "acknowledged", "reached")
    )
    reached = len(dots)
    counted = program in ANSWERS
    answers = [line for line in stdout.splitlines() if counted and line.startswith(ANSWERS[program])]
    acknowledged = list(range(len(answers))) if counted else [int(word) for word in numbers.split()]
    impatient = program == "aio" and IMPATIENT in stderr
    # After these words, or a second interrupt, asyncio complains of the program's own task, whatever that does.
    silent = impatient or (program == "aio" and reached > 1)
    noises = [] if silent else [noise for noise in NOISE if noise in stderr]
    problem = ""
    if status is None or "Timeout (" in stderr:
        problem = ENDLESS
    elif status not in (0, -signal.SIGINT) and not impatient:
        problem = f"status {status}"
    elif noises:
        problem = f"noise: {noises}"
    try:
        lost = sorted(set(acknowledged) - set(_stored(directory / "data", counted)))
    except Exception as exc:
        problem = f"does not load: {exc!r}"
    else:
        problem = f"lost: {lost}" if lost else problem
    return Outcome(problem, reached, len(acknowledged), stderr)


def lines_of(program: str, base: str | None = None) -> dict[tuple[str, int], int]:
    """Run a program without an interrupt; return how often it executes each line of the packages."""
    run = begin(program, None, base)
    run.wait()
    lines = run.directory / "lines"
    found = [line.split("\t") for line in lines.read_text().splitlines()] if lines.exists() else []
    outcome = run.end()
    if run.status != 0 or outcome.problem or outcome.acknowledged != COMMANDS:
        raise RuntimeError(f"{program}: {outcome} {outcome.stderr}")
    return {(file, int(number)): int(n) for file, number, n in found}


def freeze() -> None:
    """Spare children to look through, and so to copy, what this process has in memory: half of what one costs."""
    gc.collect()
    gc.freeze()
