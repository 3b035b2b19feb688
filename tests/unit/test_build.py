"""What a wheel with compiled modules asks for before it is built."""

from pathlib import Path

import pytest

from pyraft import _build

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
    """At once, not after a minute of translating."""
    monkeypatch.setenv("CC", "/nowhere/gcc -m64")
    with pytest.raises(SystemExit, match="needs a C compiler, and there is no /nowhere/gcc -m64"):
        _build._extensions()


def test_missing_headers_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A compiler alone does not do."""
    monkeypatch.setenv("CC", "true")
    monkeypatch.setattr(_build.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(SystemExit, match="needs Python's headers"):
        _build._extensions()
