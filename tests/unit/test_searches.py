"""The searches of test_tidy.py find what they are made for, and nothing else."""

from pathlib import Path

import pytest

from tests import test_tidy
from tests.lib.prose import second_readings
from tests.test_tidy import circles, imported_modules, unknown_names


def test_circles_are_found() -> None:
    """The search finds circles of two and more, apart from each other, and none where there is none."""
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": {"e"}, "e": {"f"}, "f": {"d"}, "g": {"a"}}
    assert circles(graph) == [{"b", "c"}, {"d", "e", "f"}]


def test_imports_inside_functions_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import in a function counts, one for the type checker does not, and a name of a package is the package's."""
    monkeypatch.setattr(test_tidy, "ROOT", tmp_path)
    (tmp_path / "p").mkdir()
    path = tmp_path / "p" / "a.py"
    path.write_text(
        "from p import b, name\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p import d\n"
        "def f():\n    import p.c\n    from p.e import x\n    from p import a\n"
    )
    assert imported_modules(path, {"p", "p.a", "p.b", "p.c", "p.d", "p.e"}) == {"p", "p.b", "p.c", "p.e"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Whoever leads has it.", ["Whoever leads has it."]),
        ("It ends. What was open is closed. So it goes.", ["What was open is closed."]),
        ("* What is refused", ["What is refused"]),
        ("**Who asks** gets it.", ["**Who asks** gets it."]),
        ("That is no error of ours.", ["That is no error of ours."]),
        ("It is a mark that is none.", ["It is a mark that is none."]),
        ("There are none, and there is none.", []),
        ("Whom it calls.", ["Whom it calls."]),
        ("It ends by who began it.", ["It ends by who began it."]),
        ("It waits; what comes is kept.", ["It waits; what comes is kept."]),
        ("It ends; whoever waits is told; so it goes.", ["It ends; whoever waits is told; so it goes."]),
        ("It is to be no voter.", ["It is to be no voter."]),
        ("Who leads? Nobody who is asked. There is no leader, it is no longer one; and what is it; who leads?", []),
    ],
)
def test_second_readings_are_found(text: str, found: list[str]) -> None:
    """Headless clauses, "is no …" and "is none" are found at the beginning of a paragraph and inside it."""
    assert [reading.lstrip("* ") for reading in second_readings(text)] == [reading.lstrip("* ") for reading in found]


def test_unknown_names_are_found() -> None:
    """The search passes what exists and names that are not ours, and finds each kind of what does not exist."""
    modules = {"election": {"vote", "raft_x", "Votes"}, "io": {"x"}}
    assert unknown_names("`election.vote` `raft_x` `election.Votes` `io.nothing` `os.fork` `a b`", modules, set()) == []
    tests = {"test_a_b", "test_a.py"}
    assert unknown_names("`test_a_b` `test_a.py` `unit/test_a.py` `test_a_…` `raft_x(r)`", modules, tests) == []
    wrong = [
        "election.veto",
        "raft_y",
        "RaftY",
        "RAFT_Y",
        "test_c",
        "unit/test_c.py",
        "test_c_…",
        "raft_z(r)",
        "no.py",
        "lib/no.py",
    ]
    for name in wrong:
        assert unknown_names(f"`{name}`", modules, tests) != [], name
