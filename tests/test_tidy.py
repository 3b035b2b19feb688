"""The rules that keep the code in order: layering, sizes, public names, heads and docstrings, and what text may say.

They are checked on the source itself, by its syntax tree; nothing is imported except to compare the public names.
"""

import ast
import fnmatch
import functools
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib import header_names as names
from tests.lib.prose import paragraphs, second_readings
from tests.lib.source import source_files

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pyraft", "io_uv")
CODE = ("pyraft", "io_uv", "examples", "tests")

MAX_FUNCTION_LINES = 70
MAX_FILE_LINES = 600

LEAVES = {"errors", "entries", "types", "tracing", "heap", "configuration", "log", "progress", "quorum", "state"}
"""Modules of the core that import no algorithm: only each other."""

CORE_FORBIDDEN = {"asyncio", "io_uv", "multiprocessing", "os", "pathlib", "random", "secrets", "selectors", "signal"}
CORE_FORBIDDEN |= {"socket", "subprocess", "threading", "time", "uvloop", "lz4", "msgpack", "ctypes"}
CORE_ALLOWED = {"_install": {"os"}, "aio": {"asyncio"}, "tracing": {"os", "time"}, "_build": {"os", "pathlib"}}
BUILD_STEPS = {"_build": {"setuptools", "mypyc"}}
"""Modules that only the building of a wheel imports, and what is there then."""
EXTRAS = {
    "crl": {"cryptography"},
    "families": {"prometheus_client"},
    "site": {"aiohttp"},
    "traces": {"opentelemetry"},
}
"""Modules that only an extra of pyproject.toml makes importable, and what it brings."""
CORE_THIRD_PARTY = {"mypy_extensions"}

KNOT = {"apply", "convert", "replicate", "snapshot"}
"""Modules of the core that import each other in a circle: each of them may end a term, and a term's end calls them all.

There is no other circle, in either package. A module is not added here but cut; one that has left the knot goes.
"""

SEAM = {"types", "errors", "configuration", "tracing", "heap"}
"""The part of pyraft that io_uv may import: the vocabulary of the RaftIo table, never the algorithm."""

FILE_CALLS = {"close", "fallocate", "fdatasync", "fstat", "fsync", "ftruncate", "listdir", "lstat", "mkdir", "open"}
FILE_CALLS |= {"posix_fallocate", "pread", "preadv", "pwrite", "pwritev", "read", "readv", "remove", "rename"}
FILE_CALLS |= {"replace", "rmdir", "scandir", "stat", "statvfs", "truncate", "unlink", "write", "writev"}
FILE_MODULES = {"fs", "descriptors", "kaio", "libc"}
NOT_FILES = {"io_uv/writer.py": {"os.close", "os.read", "os.write"}}  # an eventfd, or a pipe in its place
NOT_FILES |= {"io_uv/directory.py": {"os.close"}}  # a pipe
NOT_FILES |= {
    # Copies that no server reads; links to look at; locks and processes of others.
    "io_uv/datadir/rehearsal.py": {"os.mkdir", "os.listdir", "os.stat"},
    "io_uv/datadir/occupancy.py": {"os.open", "os.close", "os.stat"},
    "io_uv/datadir/findings.py": {"os.stat"},
    "io_uv/dqlite/machine.py": {"os.mkdir"},  # of files that are made anew at each start
}
"""Where io_uv may call the operating system for files, so that tests can record and fail every operation."""

URL_HOSTS = {"github.com", "fsf.org", "www.gnu.org", "libuv.org", "raft.github.io", "web.stanford.edu", "www.w3.org"}


def python_files(*tops: str) -> list[Path]:
    return sorted(p for top in tops for p in (ROOT / top).rglob("*.py") if "__pycache__" not in p.parts)


def core_files() -> list[Path]:
    """The modules of pyraft but for the packages in it, which are floors above the core."""
    return [path for path in python_files("pyraft") if path.parent == ROOT / "pyraft"]


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@pytest.fixture(scope="module", autouse=True)
def _no_tree_stays() -> Iterator[None]:
    """Let go of the trees: with a million nodes each collection of garbage in the tests to come takes a second."""
    yield
    tree_of.cache_clear()


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports at run time, as dotted names; `from a import b` counts as a and a.b."""
    found: set[str] = set()
    for node in _run_time_nodes(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}:{node.lineno} imports relatively"
            assert node.module is not None
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _run_time_nodes(child)


def tops(imported: set[str]) -> set[str]:
    return {name.split(".")[0] for name in imported}


def siblings(path: Path, package: str) -> set[str]:
    """The modules of `package` that a file imports, by their name inside it."""
    modules = {module_of(p).removeprefix(f"{package}.") for p in python_files(package)} - {package}
    inside = {name.removeprefix(f"{package}.") for name in imports_of(path) if name.startswith(f"{package}.")}
    return inside & modules


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """Return those of `modules` that a file imports anywhere, in functions too.

    `from a import b` counts as a.b if that is a module, and not as a: a package may import its modules.
    """
    found: set[str] = set()
    for node in _run_time_nodes(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            dotted = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= dotted & modules
            if dotted - modules:
                found.add(node.module or "")
    return found & modules - {module_of(path)}


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the largest sets of nodes of which each leads to each other one."""

    def reached_from(start: str) -> set[str]:
        reached: set[str] = set()
        waiting = [start]
        while waiting:
            for other in graph[waiting.pop()] - reached:
                reached.add(other)
                waiting.append(other)
        return reached

    reach = {node: reached_from(node) for node in graph}
    found: list[set[str]] = []
    for node in sorted(graph):
        if node in reach[node] and not any(node in circle for circle in found):
            found.append({other for other in reach[node] if node in reach[other]})
    return found


def definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_the_core_imports_nothing_that_touches_the_world() -> None:
    """pyraft knows no socket, file, clock or loop: time, randomness and I/O come through the RaftIo table."""
    for path in core_files():
        forbidden = tops(imports_of(path)) & (CORE_FORBIDDEN - CORE_ALLOWED.get(path.stem, set()))
        assert not forbidden, f"{relative(path)} imports {sorted(forbidden)}"


def test_the_leaves_import_no_algorithm() -> None:
    """Errors, types, the state and the pure data structures stand below everything else."""
    for path in core_files():
        if path.stem in LEAVES:
            above = siblings(path, "pyraft") - LEAVES
            assert not above, f"{relative(path)} imports {sorted(above)}"


def test_the_core_does_not_know_its_users() -> None:
    """No module of the core imports the fixture or the asyncio front, which are built on it."""
    for path in core_files():
        if path.stem in {"__init__", "__main__", "fixture", "fixture_check", "fixture_copy", "fixture_io", "aio"}:
            continue
        users = siblings(path, "pyraft") & {"fixture", "fixture_check", "fixture_copy", "fixture_io", "aio", "node"}
        assert not users, f"{relative(path)} imports {sorted(users)}"


def test_imports_go_in_no_circle() -> None:
    """No module imports another one that leads back to it, at run time, but those of the core's one knot."""
    files = {module_of(path): path for path in python_files(*PACKAGES)}
    graph = {module: imported_modules(path, set(files)) for module, path in files.items()}
    assert circles(graph) == [{f"pyraft.{name}" for name in KNOT}]


def rows_of_modules(path: Path) -> list[list[str]]:
    """Return the modules that the first table of a package's README lists, by rows."""
    table = path.read_text().split("|---|---|\n", 1)[1].split("\n\n")[0]
    return [re.findall(r"`([\w/*]+)`", line.split("|")[1]) for line in table.splitlines()]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tables_of_modules_are_complete(package: str) -> None:
    """Each module of a package is in the table of its README, once, and each name in that is a module or a package."""
    listed = [name for row in rows_of_modules(ROOT / package / "README.md") for name in row]
    assert len(listed) == len(set(listed))
    there = {path.stem for path in python_files(package) if path.parent == ROOT / package and path.stem[0] != "_"}
    patterns = [name for name in listed if name.endswith("*")]
    plain = {name for name in listed if not name.endswith(("*", "/"))}
    assert plain - there == set(), "listed, but not there"
    assert {name for name in there - plain if not any(fnmatch.fnmatch(name, glob) for glob in patterns)} == set()
    assert {f"{path.parent.name}/" for path in (ROOT / package).glob("*/__init__.py")} <= set(listed)


def test_modules_import_what_stands_above_them() -> None:
    """A module of the core imports nothing that stands below it in the README's table, as is said there."""
    rows = rows_of_modules(ROOT / "pyraft" / "README.md")
    modules = {path.stem: path for path in core_files() if path.stem[0] != "_"}
    place = {module: at for at, row in enumerate(rows) for name in row for module in fnmatch.filter(modules, name)}
    assert place.keys() == modules.keys()
    for module, path in modules.items():
        below = {name for name in siblings(path, "pyraft") & place.keys() if place[name] > place[module]}
        assert not below, f"{relative(path)} imports {sorted(below)}, which the table has further down"


def test_states_are_changed_in_one_module() -> None:
    """Only `convert` assigns a server's state, or the data that goes with one."""
    fields = {"follower_state", "candidate_state", "leader_state"}
    for path in core_files():
        if path.stem in ("convert", "state"):
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own = node.attr in fields or ast.unparse(node) == "r.state"
                assert not own, f"{relative(path)}:{node.lineno} assigns {ast.unparse(node)}"


def test_io_uv_meets_the_core_at_the_seam_only() -> None:
    """io_uv imports the vocabulary of the RaftIo table from pyraft and nothing else."""
    for path in python_files("io_uv"):
        beyond = siblings(path, "pyraft") - SEAM
        assert not beyond, f"{relative(path)} imports pyraft's {sorted(beyond)}"


def test_only_the_loop_imports_uvloop_and_it_stands_alone() -> None:
    """io_uv.pyuv is a library of its own: it alone knows uvloop, and it knows neither raft_uv nor the core."""
    for path in python_files(*CODE):
        imported = imports_of(path)
        inside = "io_uv/pyuv/" in relative(path)
        assert inside or "uvloop" not in tops(imported) or path.parts[-2] in {"benchmarks"}, relative(path)
        if inside:
            foreign = {n for n in imported if n.split(".")[0] in PACKAGES and not n.startswith("io_uv.pyuv")}
            assert foreign <= {"io_uv"}, f"{relative(path)} imports {sorted(foreign)}"


def test_file_operations_go_through_two_modules() -> None:
    """Outside `fs` and `kaio`, io_uv calls no function of `os` that works on files, nor `open`."""
    for path in python_files("io_uv"):
        if path.stem in FILE_MODULES or "io_uv/pyuv/" in relative(path):
            continue
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in NOT_FILES.get(relative(path), ()):
                continue
            direct = called == "open" or (called.startswith("os.") and called[3:] in FILE_CALLS)
            assert not direct, f"{relative(path)}:{node.lineno} calls {called}"


def test_packages_depend_on_what_is_declared() -> None:
    """Every module that pyraft and io_uv import is standard, theirs, or a dependency of pyproject.toml."""
    declared = set(
        re.findall(r'^ {4}"([\w-]+)>=', (ROOT / "pyproject.toml").read_text().split("[project.opt")[0], re.M)
    )
    for path in python_files(*PACKAGES):
        known = set(sys.stdlib_module_names) | set(PACKAGES) | declared | BUILD_STEPS.get(path.stem, set())
        known |= EXTRAS.get(path.stem, set())
        unknown = tops(imports_of(path)) - known
        assert not unknown, f"{relative(path)} imports {sorted(unknown)}"
        if path in core_files():
            assert tops(imports_of(path)) & declared <= CORE_THIRD_PARTY, relative(path)


def test_functions_are_short() -> None:
    """No function has more than 70 lines, docstring included."""
    for path in python_files(*CODE):
        for function in definitions(tree_of(path)):
            assert function.end_lineno is not None
            lines = function.end_lineno - function.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{relative(path)}:{function.lineno} {function.name}: {lines} lines"


def test_files_are_short() -> None:
    """No file has more than 600 lines."""
    for path in python_files(*CODE):
        lines = len(path.read_text().splitlines())
        assert lines <= MAX_FILE_LINES, f"{relative(path)}: {lines} lines"


def test_modules_open_with_a_head() -> None:
    """A module of the packages tells duty and failure modes in 4 to 15 lines of prose; other files what they are."""
    for path in python_files(*CODE):
        if not path.read_text().strip():
            continue
        head = ast.get_docstring(tree_of(path))
        assert head, f"{relative(path)} has no head"
        if path.parts[len(ROOT.parts)] in PACKAGES and path.stem != "__init__":
            lines = head.splitlines()
            prose = [line for line in lines if line[:1] not in ("", " ")]  # not examples
            assert len(lines) >= 4, f"{relative(path)}: a head of {len(lines)} lines"
            assert len(prose) <= 15, f"{relative(path)}: a head of {len(prose)} lines"


def test_public_names_have_docstrings() -> None:
    """Every class, function and method of the packages that is not private says what it does."""
    for path in python_files(*PACKAGES):
        nodes = [*tree_of(path).body]
        for outer in nodes:
            if isinstance(outer, ast.ClassDef) and outer.name[0] != "_":
                nodes += outer.body
        for node in nodes:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name[0] != "_":
                if any(re.search(r"overload$|setter$", ast.unparse(mark)) for mark in node.decorator_list):
                    continue
                assert ast.get_docstring(node), f"{relative(path)}:{node.lineno} {node.name} has no docstring"


def test_tests_say_what_they_show() -> None:
    """Every test opens with a sentence."""
    for path in python_files("tests"):
        for function in definitions(tree_of(path)):
            if function.name.startswith("test_"):
                assert ast.get_docstring(function), f"{relative(path)}:{function.lineno} {function.name}"


def _expected(functions: list[str], types: list[str], structs: list[str], constants: list[str]) -> set[str]:
    return {*functions, *types, *(names.class_name(tag) for tag in structs), *constants}


@pytest.mark.parametrize(
    ("module", "header", "additions"),
    [
        (
            "pyraft",
            _expected(names.RAFT_H_FUNCTIONS, names.RAFT_H_TYPES, names.RAFT_H_STRUCTS, names.RAFT_H_CONSTANTS),
            names.RAFT_ADDITIONS,
        ),
        ("io_uv", _expected(names.UV_H_FUNCTIONS, names.UV_H_TYPES, names.UV_H_STRUCTS, []), names.UV_ADDITIONS),
        (
            "pyraft.fixture",
            _expected(
                names.FIXTURE_H_FUNCTIONS, names.FIXTURE_H_TYPES, names.FIXTURE_H_STRUCTS, names.FIXTURE_H_CONSTANTS
            ),
            names.FIXTURE_ADDITIONS,
        ),
    ],
)
def test_exports_the_header(module: str, header: set[str], additions: dict[str, str]) -> None:
    """`__all__` is the C header, letter for letter, and the listed additions; all of it exists."""
    loaded = importlib.import_module(module)
    exported = set(loaded.__all__)
    assert len(loaded.__all__) == len(exported), "a name is exported twice"
    assert header - exported == set(), "missing"
    assert exported - header - set(additions) == set(), "neither in the header nor listed as an addition"
    assert set(additions) - exported == set(), "listed as an addition but not exported"
    missing = [name for name in exported if not hasattr(loaded, name)]
    assert missing == []


def text_files() -> list[Path]:
    """Every text file of the source tree."""
    binary = {".gz", ".xz", ".bin", ".png", ".snapshot"}
    return [path for path in source_files() if path.suffix not in binary]


def test_text_has_no_unfinished_business() -> None:
    """Nothing is left to do in a comment."""
    marks = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
    for path in text_files():
        found = marks.search(path.read_text(errors="replace"))
        assert not found, f"{relative(path)}: {found}"


def test_sentences_are_read_once() -> None:
    """No sentence of a comment, docstring or document begins with a headless clause, or says "is no …" or "is none".

    A heading may ("What runs where"), and a question.
    """
    for path in text_files():
        for line, text in paragraphs(path):
            assert second_readings(text) == [], f"{relative(path)}:{line}"


def test_text_names_no_place_outside_the_repository() -> None:
    """No absolute path of somebody's machine, no document that is not here, no address that is not a known one."""
    home = re.compile(r"(?<![\w.])/(home|Users|root|work|opt)/\w+")
    document = re.compile(r"[\w./-]*\b[\w-]+\.md\b")
    url = re.compile(r"https?://([\w.-]+)")
    for path in text_files():
        if path.name == "LICENSE":
            continue
        text = path.read_text(errors="replace")
        assert not home.search(text), f"{relative(path)}: {home.search(text)}"
        for name in document.findall(text):
            places = [ROOT / name, path.parent / name, *(ROOT / top / name for top in CODE)]
            assert any(place.is_file() for place in places), f"{relative(path)} speaks of {name}"
        hosts = {h for h in url.findall(text) if not h.startswith(("127.", "localhost")) and not h.endswith(".example")}
        assert hosts <= URL_HOSTS, f"{relative(path)} links to {sorted(hosts - URL_HOSTS)}"


def anchors(path: Path) -> set[str]:
    """Return the names of a Markdown file's headings as links have them."""
    headings = re.findall(r"^#+ (.*)", path.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    """Every relative link of a Markdown file leads to a file that is there, and to a heading that it has."""
    found = 0
    for path in text_files():
        if path.suffix != ".md":
            continue
        for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
            if link.startswith("https://"):
                continue
            name, _, heading = link.partition("#")
            target = path.parent / name if name else path
            assert target.exists(), f"{relative(path)} links to {name}, which is not there"
            assert not heading or heading in anchors(target), f"{relative(path)} links to {link}: no such heading"
            found += 1
    assert found > 20


PLACES = (".", *CODE)
"""The places that paths in prose are relative to."""

HANDED_OVER = {"client", "fsm", "io", "loop", "message", "node", "server", "session", "signal", "stream", "uv"}
"""Names that stand in prose in front of a field of a struct, or are the standard library's, not a module of ours."""

SEARCHES = {
    "votedFor": "pyraft/PAPER.md",
    "matchIndex": "pyraft/PAPER.md",
    "persistent": "pyraft/PAPER.md",
    "own-term commits": "pyraft/PAPER.md",
    "vote durability": "pyraft/PAPER.md",
    "conflicting suffix": "pyraft/PAPER.md",
    "pre-vote and terms": "pyraft/PAPER.md",
    "figure 8": "pyraft/PAPER.md",
    "snapshot install": "pyraft/PAPER.md",
    "removed servers": "pyraft/CALLBACKS.md",
    "order on close": "pyraft/CALLBACKS.md",
    "order of callbacks": "pyraft/CALLBACKS.md",
    "full disk": "pyraft/CALLBACKS.md",
    "ENOSPC": "pyraft/CALLBACKS.md",
    "calls from callbacks": "pyraft/CALLBACKS.md",
    "re-entrance": "pyraft/CALLBACKS.md",
    "AppendEntries header": "io_uv/FORMATS.md",
    "new RPC": "pyraft/README.md",
    "new version of a file format": "pyraft/README.md",
    "new recipe": "pyraft/README.md",
    "new public function": "pyraft/README.md",
}
"""Subjects that a stranger looks for, and the file in which these words must find each."""


def names_in_modules() -> dict[str, set[str]]:
    """Return per module, by the end of its name, what it defines: fields, methods, parameters, modules of a package."""
    found: dict[str, set[str]] = {}
    for path in python_files(*PACKAGES):
        names = found.setdefault(path.parent.name if path.stem == "__init__" else path.stem, set())
        found.setdefault(path.parent.name, set()).add(path.stem)
        for node in ast.walk(tree_of(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
                names.add(node.id if isinstance(node, ast.Name) else node.attr)
            elif isinstance(node, ast.ImportFrom):
                names |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.arg):
                names.add(node.arg)
    return found


def unknown_names(text: str, modules: dict[str, set[str]], tests: set[str]) -> list[str]:
    """Return what stands in backquotes in `text` and looks like a name of this project's that does not exist."""
    everything = set().union(names.RAFT_H_STRUCTS, names.UV_H_STRUCTS, modules, *modules.values())
    unknown = []
    for name in re.findall(r"`([\w./…]+)(?:\([^`]*\))?`", text):
        module, _, rest = re.sub(r"^(pyraft|io_uv)\.(?=\w)", "", name).partition(".")
        if rest in ("h", "c", "json", "md", "toml", "yaml", "go", "crt"):
            continue
        if name.startswith("test_") or "/test_" in name:
            test = name.rpartition("/")[2]
            if not any(known == test or (test.endswith("…") and known.startswith(test[:-1])) for known in tests):
                unknown.append(name)
        elif name.endswith(".py"):
            if module not in modules and name not in tests and not any((ROOT / top / name).exists() for top in PLACES):
                unknown.append(name)
        elif "/" in name or "…" in name:
            continue
        elif module in modules and rest and module not in HANDED_OVER:
            first, *others = rest.split(".")
            if first not in modules[module] or not all(other in everything for other in others):
                unknown.append(name)
        elif re.match(r"(raft_|Raft)\w+$|RAFT_\w+$", name) and name not in everything:
            unknown.append(name)
    return unknown


def test_names_in_the_documents_exist() -> None:
    """All that the READMEs and tables beside the code call by name is there: modules' functions, C's names, tests."""
    modules = names_in_modules()
    tests = {path.name for path in python_files("tests", "examples")} | {path.stem for path in python_files("tests")}
    tests |= {function.name for path in python_files("tests") for function in definitions(tree_of(path))}
    for path in text_files():
        if path.suffix == ".md" and path.name != "CHANGES.md":
            unknown = unknown_names(path.read_text(), modules, tests | {"test_bN_"})
            assert not unknown, f"{relative(path)} speaks of {unknown}"


def test_names_in_comments_exist() -> None:
    """So is what docstrings and comments call by name, single words with an underscore included."""
    modules = names_in_modules()
    everything = set().union(names.RAFT_H_STRUCTS, names.UV_H_STRUCTS, modules, *modules.values())
    tests = {path.name for path in python_files("tests", "examples")}
    for path in python_files(*PACKAGES):
        text = "\n".join(paragraph for _, paragraph in paragraphs(path))
        unknown = unknown_names(text, modules, tests)
        unknown += [word for word in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", text) if word not in everything]
        assert not unknown, f"{relative(path)} speaks of {unknown}"


def test_a_stranger_finds_it_with_one_search() -> None:
    """Each subject stands under the words that people look for; the file that treats of it is one of the first three.

    Documents come in the order in which git grep -i has them. Where README.md is the first one it says where to look.
    """
    documents = sorted(relative(path) for path in text_files() if path.suffix == ".md")
    for words, name in SEARCHES.items():
        found = [document for document in documents if words.lower() in (ROOT / document).read_text().lower()]
        assert name in found[:3], f"{words} leads to {found}"
        lines = [line for line in (ROOT / "README.md").read_text().splitlines() if words.lower() in line.lower()]
        assert not lines or any(f"({name})" in line for line in lines), f"README.md does not lead to {name}: {lines}"


def test_the_front_door_is_short() -> None:
    """README.md is read in a few minutes: below 1,500 words."""
    assert len((ROOT / "README.md").read_text().split()) < 1500


def test_top_level_is_what_it_should_be() -> None:
    """Prose lives beside the code it explains and benchmarks among the tests: no further folder, no further file."""
    expected = {".ci", ".gitignore", "LICENSE", "Makefile", "README.md", "examples", "io_uv", "pyproject.toml"}
    expected |= {"pyraft", "tests"}
    tracked = {path.relative_to(ROOT).parts[0] for path in text_files()}
    assert tracked <= expected, f"{sorted(tracked - expected)}"
