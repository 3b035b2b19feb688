"""The docstrings of public functions: those that can fail name codes, which have been provoked; all say their source.

Provoked means: a test module calls the function, or its coroutine in pyraft.aio, and names the code. That is a coarse
measure, but it finds a code that nobody has ever seen a function return, and a function that says nothing. The other
way round, a code that stands in a return statement of the function's module has to be in the docstring.
"""

import ast
import fnmatch
import inspect
import re
from types import ModuleType

import pytest

import io_uv
import pyraft
from pyraft import aio, errors, fixture, state
from tests.lib.compiled import COMPILED
from tests.lib.source import ROOT
from tests.test_tidy import PACKAGES, python_files

CODES = {name for name in vars(errors) if re.fullmatch(r"RAFT_[A-Z]+", name)}

CANNOT_FAIL = {"raft_digest", "raft_last_applied", "raft_last_index", "raft_role", "raft_state", "raft_version_number"}
CANNOT_FAIL |= {"raft_voter_contacts", "raft_fixture_event_server_index"}
CANNOT_FAIL |= {f"raft_fixture_{name}" for name in ("event_type", "init", "leader_index", "n", "n_recv", "n_send")}
CANNOT_FAIL |= {"raft_fixture_time", "raft_fixture_voted_for"}
"""Functions whose number is not a code, or always 0."""

OF_ANOTHER = {"raft_promote": "raft_assign", "raft_fixture_grow": "raft_init"}
"""Functions whose docstring names another one for its errors."""

BY_ASSERTION = {"raft_fixture_configuration"}
"""Functions whose code cannot be other than 0: what could make it so is an assertion that fails first."""

WAITS = {"close", "wait_leader", "leader_change"}
"""Methods of aio.Server that raise what another one does, or nothing of the kind."""


def functions(module: ModuleType) -> dict[str, str]:
    """Return the docstrings of a module's public functions that return a number, alone or in front of something."""
    found = {}
    for name in module.__all__:
        function = getattr(module, name)
        returns = str(getattr(function, "__annotations__", {}).get("return", ""))
        if inspect.isroutine(function) and re.match(r"<class 'int'>|tuple\[int|int", returns):
            found[name] = inspect.getdoc(function) or ""
    return found


def methods() -> dict[str, str]:
    """Return the docstrings of the methods of aio.Server that call the core, by their names."""
    found = {}
    for name, method in inspect.getmembers(aio.Server, inspect.isfunction):
        if not name.startswith("_") and (inspect.iscoroutinefunction(method) or name in ("bootstrap", "recover")):
            found[name] = inspect.getdoc(method) or ""
    return found


FUNCTIONS = functions(pyraft) | functions(io_uv) | functions(fixture)
METHODS = methods()
MODULES = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]


def named(text: str) -> set[str]:
    """Return the codes that a docstring names."""
    return CODES & set(re.findall(r"RAFT_[A-Z]+", text))


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - CANNOT_FAIL - BY_ASSERTION - {"raft_leader"}))
def test_a_function_that_can_fail_names_its_codes(name: str) -> None:
    """With no code at all nobody would know what to expect."""
    text = FUNCTIONS[name]
    assert named(text) or OF_ANOTHER.get(name, "?") in text, name


@pytest.mark.parametrize("module", [pyraft, io_uv, fixture], ids=lambda module: module.__name__)
def test_a_function_says_where_it_comes_from(module: ModuleType) -> None:
    """Its docstring names the header, or says that it is ours."""
    silent = set()
    for name in module.__all__:
        function = getattr(module, name)
        text = inspect.getdoc(function) or ""
        if inspect.isroutine(function) and not re.search(r"raft\.h|uv\.h|fixture\.h|\b[Oo]urs\b", text):
            silent.add(name)
    assert silent == set()


@pytest.mark.parametrize("module", [pyraft, io_uv, fixture], ids=lambda module: module.__name__)
def test_times_have_units(module: ModuleType) -> None:
    """A docstring of a function with a parameter in milliseconds speaks of these, or of the parameter by its name."""
    for name in module.__all__:
        function = getattr(module, name)
        if inspect.isfunction(function) and "msecs" in inspect.signature(function).parameters:
            assert re.search(r"\bms\b|`msecs`", inspect.getdoc(function) or ""), name


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_the_codes_it_names_are_provoked(name: str) -> None:
    """Some test module has both the function and the code."""
    short = re.compile(rf"\b{name}\(|\.{name.removeprefix('raft_')}\(")
    callers = [text for text in MODULES if short.search(text)]
    missing = {code for code in named(FUNCTIONS[name]) if not any(code in text for text in callers)}
    assert not missing, f"no test of {name} speaks of {sorted(missing)}"


SETTERS = ("block_size", "segment_size", "snapshot_compression", "connect_retry_delay", "tracer", "auto_recovery")


@pytest.mark.parametrize(
    "name", [*(f"raft_uv_set_{name}" for name in SETTERS), "raft_uv_limits", "raft_uv_init", "raft_uv_tcp_init"]
)
def test_exceptions_for_mistakes_are_named(name: str) -> None:
    """Where C's compiler or a crash would tell: a table of nobody's, a loop of another kind."""
    function = getattr(io_uv, name)
    made = {"io": pyraft.RaftIo, "transport": io_uv.RaftUvTransport, "loop": object, "dir": str}
    args = [made.get(parameter, int)() for parameter in inspect.signature(function).parameters]
    with pytest.raises((TypeError, ValueError)) as caught:
        function(*args)
    text = inspect.getdoc(function) or ""
    assert re.search(rf"Raises [^.]*({type(caught.value).__name__}|as raft_uv_set_block_size)", text)


def returned(functions: dict[str, ast.FunctionDef], name: str, seen: set[str]) -> set[str]:
    """Return the codes by name in return statements of a function, and of those of its module that it calls."""
    if name in seen or name not in functions:
        return set()
    seen.add(name)
    found = set()
    for node in ast.walk(functions[name]):
        if isinstance(node, ast.Return) and node.value is not None:
            found |= {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)} & CODES
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found |= returned(functions, node.func.id, seen)
    return found


def test_the_codes_that_it_returns_are_named() -> None:
    """Its docstring does, or that of a function that it names; codes of other modules are not looked for."""
    checked = set()
    for path in python_files(*PACKAGES):
        functions = {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        for name in functions.keys() & FUNCTIONS.keys():
            text = FUNCTIONS[name]
            known = named(text).union(*(named(FUNCTIONS.get(other, "")) for other in re.findall(r"\braft_\w+", text)))
            codes = returned(functions, name, set())
            assert codes - known == set(), name
            checked |= {name} if codes else set()
    assert len(checked) > 20


@pytest.mark.parametrize("name", sorted(set(METHODS) - WAITS))
def test_a_method_of_aio_names_its_codes(name: str) -> None:
    """It does so itself, or it names the function of the core that does: the class says that these are raised."""
    of_core = re.findall(r"\((raft_\w+)", METHODS[name])
    assert named(METHODS[name]) or any(named(FUNCTIONS[function]) for function in of_core), name


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_codes_that_a_method_of_aio_names_are_provoked(name: str) -> None:
    """Some test module that uses pyraft.aio calls the method and has the code."""
    callers = [text for text in MODULES if re.search(r"\baio\b", text) and f".{name}(" in text]
    missing = {code for code in named(METHODS[name]) if not any(code in text for text in callers)}
    assert callers, f"no test calls {name}"
    assert not missing, f"no test of {name} speaks of {sorted(missing)}"


FIELDS_OF_C: dict[type, str] = {
    state.FollowerState: "randomized_election_timeout current_leader",
    state.CandidateState: "randomized_election_timeout votes disrupt_leader in_pre_vote",
    state.RaftProgress: "state next_index match_index snapshot_index last_send snapshot_last_send recent_recv features",
    state.LeaderState: "progress change promotee_id round_number round_index round_start requests voter_contacts",
    state.SnapshotState: "threshold trailing pending put",
    state.RaftInstall: "raft",
    state.RaftWrite: "raft",
    state.WaitingChange: "",
    state.ReadState: "",
    state.ApplyState: "",
    state.Said: "",
    state.Raft: "data tracer io fsm id address current_term voted_for log configuration configuration_last_snapshot "
    "configuration_committed_index configuration_uncommitted_index election_timeout heartbeat_timeout transfer "
    "snapshot install_snapshot_timeout commit_index last_applied last_stored state follower_state "
    "candidate_state leader_state election_timer_start close_cb errmsg pre_vote max_catch_up_rounds "
    "max_catch_up_round_duration callbacks",
    pyraft.RaftIo: "version errmsg",
}
"""The fields that raft.h explains, by struct, and what every request has."""


@pytest.mark.skipif(COMPILED, reason="compiled classes have no list of their fields")
@pytest.mark.parametrize("struct", FIELDS_OF_C, ids=lambda struct: struct.__name__)
def test_fields_of_ours_are_told(struct: type) -> None:
    """The docstring of a struct names each field that raft.h does not have; `name_*` stands for several."""
    text = inspect.getdoc(struct) or ""
    names = set(re.findall(r"`(\w+\*?)[(`]", text))
    fields = set(struct.__slots__) - set(FIELDS_OF_C[struct].split())  # type: ignore[attr-defined]
    assert {field for field in fields if not any(fnmatch.fnmatch(field, name) for name in names)} == set()


def test_the_lists_are_up_to_date() -> None:
    """A function that cannot fail exists, and is not listed for nothing."""
    assert set(FUNCTIONS) >= CANNOT_FAIL | BY_ASSERTION | set(OF_ANOTHER)
    assert set(METHODS) >= WAITS
    assert {name for name in CANNOT_FAIL if named(FUNCTIONS[name])} == set()
