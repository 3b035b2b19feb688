"""Names are taken from where they live: a module that hands on what it has imported sends readers to the wrong room."""

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from tests.test_tidy import PACKAGES, module_of, python_files, relative, tree_of

FRONTS = {
    "pyraft",
    "pyraft.node",
    "pyraft.node.testing",
    "pyraft.dqlite",
    "pyraft.metrics",
    "pyraft.page",
    "io_uv",
    "io_uv.pyuv",
    "io_uv.datadir",
    "io_uv.dqlite",
}
"""Packages that gather names for users, whose modules and users may take them there."""

VOCABULARY = {"pyraft.types"}
"""Modules whose names are partly of another one, as its head says."""


def own_names(tree: ast.Module) -> set[str]:
    """Return what a module defines and assigns, in whatever scope."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def borrowed(tree: ast.Module, owns: dict[str, set[str]]) -> Iterator[str]:
    """Yield what is imported from a module, or looked up in one, that does not define it."""
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in owns:
                    modules[alias.asname or alias.name] = whole
                elif node.module in owns and node.module not in FRONTS and alias.name not in owns[node.module]:
                    yield f"{alias.name} from {node.module}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            module = modules[node.value.id]
            if module not in FRONTS and node.attr not in owns[module] and node.attr[:2] != "__":
                yield f"{node.attr} in {module}"


def test_names_are_taken_from_where_they_live() -> None:
    """No module of the packages takes a name from one that has only imported it."""
    owns = {module_of(path): own_names(tree_of(path)) for path in python_files(*PACKAGES)}
    for module in VOCABULARY:
        del owns[module]
    for path in python_files(*PACKAGES):
        if path.stem != "__init__":
            assert list(borrowed(tree_of(path), owns)) == [], relative(path)


def test_borrowed_names_are_found() -> None:
    """An import of the name shows them, or of the module; all that a module defines, or a front has, is not found."""
    owns = {"p.a": {"f"}, "p.b": {"g"}, "io_uv": set()}
    tree = ast.parse("from p import a\nfrom p.b import f, g\nfrom io_uv import raft_x\na.f\na.g\n")
    assert list(borrowed(tree, owns)) == ["f from p.b", "g in p.a"]


def test_no_module_is_hidden_by_a_name_of_its_package() -> None:
    """Had a package a function of a module's name, an import of the module would bring the function."""
    for package in FRONTS:
        front = importlib.import_module(package)
        for found in pkgutil.iter_modules(front.__path__):
            value = getattr(front, found.name, None)
            assert value is None or isinstance(value, ModuleType), f"{package}.{found.name}"
