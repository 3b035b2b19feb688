"""The needs of a wheel with compiled modules before it is built."""

import fnmatch
import re
import sysconfig
from pathlib import Path

import pytest
from setuptools import Distribution

from pyraft import _build
from tests.test_tidy import text_files

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_compiled_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name in the list is that of a module; the core is compiled but for what says why not."""
    monkeypatch.chdir(ROOT)
    found = _build.modules()
    assert [path for path in found if not Path(path).is_file()] == []
    assert len(set(found)) == len(found)
    assert "pyraft/replicate.py" in found
    assert "io_uv/fs.py" not in found, "tests put sick disks there"


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is at once, not after a minute of translating."""
    monkeypatch.setenv("CC", "/nowhere/gcc -m64")
    with pytest.raises(SystemExit, match="needs a C compiler, and there is no /nowhere/gcc -m64"):
        _build._extensions()


def test_missing_headers_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A compiler alone does not do."""
    monkeypatch.setenv("CC", "true")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(SystemExit, match="needs Python's headers"):
        _build._extensions()


@pytest.mark.parametrize("answer", ["1", "true", "True", "yes", "YES", " on "])
def test_what_people_type_for_yes(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Each of these asks for compiled modules."""
    monkeypatch.setenv(_build.SWITCH, answer)
    assert _build.asked_for()


@pytest.mark.parametrize("answer", ["", "0", "false", "no", "Off", None])
def test_what_people_type_for_no(monkeypatch: pytest.MonkeyPatch, answer: str | None) -> None:
    """Each of these, and nothing at all, asks for pure Python."""
    if answer is None:
        monkeypatch.delenv(_build.SWITCH, raising=False)
    else:
        monkeypatch.setenv(_build.SWITCH, answer)
    assert not _build.asked_for()


@pytest.mark.parametrize("answer", ["2", "y", "mypyc", "-1", "ture"])
def test_what_is_neither_is_refused(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """A user who mistypes it would get the other form without a word."""
    monkeypatch.setenv(_build.SWITCH, answer)
    with pytest.raises(SystemExit, match=f"PYRAFT_COMPILE is '{answer}'"):
        _build.asked_for()


def test_an_sdist_has_all_that_is_under_version_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """setuptools adds packages and their data, pyproject.toml, the README and the licence; we name the rest."""
    monkeypatch.chdir(ROOT)
    tops = {path.relative_to(ROOT).parts[0] for path in text_files()}
    named = {Path(name).parts[0] for name in _build.IN_SDIST}
    assert tops - named == {"LICENSE", "README.md", "io_uv", "pyproject.toml", "pyraft"}
    assert [name for name in _build.IN_SDIST if not Path(name).exists()] == []


def test_an_index_shows_a_readme_that_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no link that leads nowhere, names each file that the README links to, and keeps all else."""
    monkeypatch.chdir(ROOT)
    readme = (ROOT / "README.md").read_text()
    targets = {path for _, _, path in _build.LINK.findall(readme)}
    assert {"LICENSE", "pyraft/GAPS.md"} <= targets
    assert [path for path in targets if not (ROOT / path).exists()] == []
    distribution = Distribution()
    distribution.parse_config_files(ignore_option_errors=True)
    distribution.get_command_obj("egg_info").ensure_finalized()
    shown = distribution.metadata.long_description
    assert shown is not None
    assert re.findall(r"\]\((?!https://)[^)]*\)", shown) == []
    assert [path for path in targets if path not in shown] == []
    assert shown.count("](https://") == readme.count("](https://") > 0
    assert _build.WHERE in shown
    assert _build.standing_alone(shown) == shown


@pytest.mark.parametrize(
    ("link", "named"),
    [
        ("see [GAPS.md](pyraft/GAPS.md), too", "see pyraft/GAPS.md, too"),
        ("[tests/README.md](tests/README.md#faults) says", "tests/README.md says"),
        ("the [rules of that](pyraft/FROM_C.md)", "the rules of that (pyraft/FROM_C.md)"),
        ("built ([how](pyraft/README.md#compiling)); but", "built (how: pyraft/README.md); but"),
        ("(as [said](README.md) there)", "(as said (README.md) there)"),
        ("[elsewhere](https://a.example/docs)", "[elsewhere](https://a.example/docs)"),
        ("[here](#here), [there](mailto:a@a.example)", "[here](#here), [there](mailto:a@a.example)"),
    ],
)
def test_what_a_link_to_a_file_becomes(link: str, named: str) -> None:
    """Readers see the path of the file, once."""
    assert _build.LINK.sub(_build._named, link) == named


def test_a_wheel_has_the_documents_of_its_packages() -> None:
    """pyproject.toml names, by package, what is not a module; a document of a new package would be left out else."""
    section = (ROOT / "pyproject.toml").read_text().split("[tool.setuptools.package-data]")[1].split("\n\n")[0]
    data = {
        name: re.findall(r'"([^"]+)"', globs) for name, globs in re.findall(r'^"?([\w.]+)"? = \[(.*)\]', section, re.M)
    }
    for path in text_files():
        folder = path.parent.relative_to(ROOT)
        if folder.parts[:1] in (("pyraft",), ("io_uv",)) and path.suffix != ".py":
            globs = data.get(".".join(folder.parts), [])
            assert any(fnmatch.fnmatch(path.name, glob) for glob in globs), f"{path} is in no wheel"
