"""Tracers: LIBRAFT_TRACE, levels, and what a record says."""

import re
import sys
from typing import Any

import pytest

from pyraft import RaftTracer, raft_tracer_maybe_enable
from pyraft.tracing import TRACE_DEBUG, TRACE_ERROR, TRACE_INFO, NoopTracer, StderrTracer, trace


@pytest.mark.parametrize(
    ("text", "level"), [("0", 0), ("1", 1), ("3", 3), ("5", 5), ("6", 0), ("-1", 0), ("yes", 0), ("", 0)]
)
def test_the_variable_enables_and_sets_the_level(text: str, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """LIBRAFT_TRACE is 0 to 5; anything else counts as 0."""
    monkeypatch.setenv("LIBRAFT_TRACE", text)
    tracer = RaftTracer()
    raft_tracer_maybe_enable(tracer, True)
    assert (tracer.enabled, tracer.level) == (True, level)
    raft_tracer_maybe_enable(tracer, False)
    assert tracer.enabled is False


def test_without_the_variable_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracer that the user enabled stays enabled."""
    monkeypatch.delenv("LIBRAFT_TRACE", raising=False)
    tracer = RaftTracer(enabled=True, level=4)
    raft_tracer_maybe_enable(tracer, False)
    assert (tracer.enabled, tracer.level) == (True, 4)


def test_a_record_names_its_place() -> None:
    """The tracer gets file, line and function of the caller."""
    records: list[Any] = []
    tracer = RaftTracer(lambda t, *record: records.append(record), enabled=True)
    trace(tracer, "hello", TRACE_INFO)
    [(file, line, func, level, message)] = records
    assert file.endswith("test_tracing.py")
    assert line > 0
    assert (func, level, message) == ("test_a_record_names_its_place", TRACE_INFO, "hello")


def test_a_disabled_tracer_is_not_called() -> None:
    """enabled is looked at before anything else."""
    records: list[Any] = []
    trace(RaftTracer(lambda t, *record: records.append(record)), "hello")
    trace(NoopTracer, "hello")
    assert records == []


def test_stderr_gets_one_line_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    """It has time, process, thread, level, function, place and message; all that is below the level is left out."""
    tracer = RaftTracer(StderrTracer.emit, enabled=True, level=TRACE_INFO)
    trace(tracer, "debug", TRACE_DEBUG)
    trace(tracer, "broken", TRACE_ERROR)
    err = capsys.readouterr().err
    assert "debug" not in err
    assert re.fullmatch(
        r"LIBRAFT  \[\d{6,}\] \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9} \d{6,} ERROR   "
        r"test_stderr_gets_one_line_a_record\s* \S*test_tracing\.py:\d+ +broken\n",
        err,
    )


def test_a_tracer_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Code that traces goes on; the exception is in the log. Without a function a tracer is off, as in C."""

    def emit(*record: object) -> None:
        raise RuntimeError("no paper")

    trace(RaftTracer(emit, enabled=True), "hello")
    assert "no paper" in caplog.text
    caplog.clear()
    silent: Any = RaftTracer(enabled=True)
    silent.emit = None
    trace(silent, "hello")
    assert caplog.text == ""


@pytest.mark.parametrize("exc", [OSError(28, "No space left on device"), BrokenPipeError(), ValueError("closed file")])
def test_a_stderr_that_takes_nothing_loses_the_record(
    exc: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk behind stderr neither stops anything nor is logged."""

    class Full:
        def write(self, text: str) -> int:
            raise exc

    tracer = RaftTracer(StderrTracer.emit, enabled=True)
    with monkeypatch.context() as patch:
        for stderr in (Full(), None):
            patch.setattr(sys, "stderr", stderr)
            trace(tracer, "hello")
    assert caplog.text == ""
