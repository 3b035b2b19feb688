"""The services of pytest for the mutants, each if its variable is set.

MUTANTS_MEASURE=FILE notes for each test which lines of the packages it executes. MUTANTS_TESTS=FILE runs the tests
whose ids stand in FILE, one a line, in that order, and no others; MUTANTS_SKIP=FILE all others. MUTANTS_NOTE=FILE notes
there at once which tests begin and which fail, for whoever has to kill the process.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants.reach import keep
from tests.mutants.tree import PACKAGES

MEASURE = os.environ.get("MUTANTS_MEASURE")
CHOSEN = os.environ.get("MUTANTS_TESTS")
SKIPPED = os.environ.get("MUTANTS_SKIP")
NOTE = os.environ.get("MUTANTS_NOTE")


class Measuring:
    """Counts lines by tests."""

    def __init__(self, answer: Path) -> None:
        import coverage

        self.answer = answer
        self.tests: list[tuple[str, float]] = []
        self.failed: set[str] = set()
        self.cov = coverage.Coverage(data_file=None, source=list(PACKAGES), config_file=False, concurrency="thread")
        self.cov.start()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        begin = time.monotonic()
        self.cov.switch_context(item.nodeid)
        yield
        self.cov.switch_context("")
        self.tests.append((item.nodeid, round(time.monotonic() - begin, 4)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.cov.stop()
        data = self.cov.get_data()
        root = Path(str(session.config.rootpath))
        contexts: dict[str, dict[int, list[str]]] = {}
        for file in data.measured_files():
            contexts[file] = data.contexts_by_lineno(file)
        keep(self.answer, root, [pair for pair in self.tests if pair[0] not in self.failed], contexts)


class Choosing:
    """Runs what is asked for, in the order asked for, or what is not."""

    def __init__(self, names: list[str], wanted: bool) -> None:
        self.order = {name: i for i, name in enumerate(names)}
        self.wanted = wanted

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if (item.nodeid in self.order) == self.wanted]
        if self.wanted:
            items.sort(key=lambda item: self.order[item.nodeid])


class Noting:
    """Says how far it is."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def _note(self, line: str) -> None:
        with self.file.open("a") as out:
            out.write(f"{line}\n")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._note(f"began {nodeid}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._note(f"failed {report.nodeid}")


def pytest_configure(config: pytest.Config) -> None:
    """Take up whatever is asked for."""
    if MEASURE:
        config.pluginmanager.register(Measuring(Path(MEASURE)))
    for file, wanted in ((CHOSEN, True), (SKIPPED, False)):
        if file:
            config.pluginmanager.register(Choosing(Path(file).read_text().splitlines(), wanted))
    if NOTE:
        config.pluginmanager.register(Noting(Path(NOTE)))
