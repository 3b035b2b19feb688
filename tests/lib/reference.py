"""The reference of all public names as HTML, from their docstrings: `python -m tests.lib.reference DIRECTORY`.

Duty: have pdoc render the public modules into the directory. Classes and functions come first, each group by name;
constants follow, of which raft.h has seventy. Methods of a base class that has no page of its own, as those that make
the recipes of a node, stand with each class that inherits them. The index says what each module is for.

Failure modes: a docstring or an annotation that pdoc cannot render is a warning, and with `-W error` an exception.
"""

import contextlib
import importlib
import inspect
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

MODULES = (
    "pyraft",
    "pyraft.aio",
    "pyraft.fixture",
    "pyraft.node",
    "pyraft.node.testing",
    "pyraft.node.operate",
    "pyraft.node.conditions",
    "pyraft.node.backup",
    "pyraft.dqlite",
    "pyraft.metrics",
    "pyraft.page",
    "io_uv",  # and io_uv.pyuv, as one of its names
    "io_uv.datadir",
)

INDEX = """{% extends "default/index.html.jinja2" %}
{% block title %}pyraft and io_uv{% endblock %}
{% block logo %}<h1>pyraft and io_uv</h1>{% endblock %}
{% block content %}
    <header class="pdoc">{{ self.logo() }}
        <input type="search" placeholder="Search all names" aria-label="search"></header>
    <main class="pdoc"><dl>{% for name, module in all_modules.items() %}
        <dt><a href="{{ name.replace(".", "/") }}.html">{{ name }}</a></dt>
        <dd>{{ module.docstring.split("\n\n")[0] | to_html | safe }}</dd>{% endfor %}
    </dl></main>
    {% include "search.html.jinja2" %}
{% endblock %}
"""
"""pdoc's template of the index, with the first paragraph of each module."""


def main(directory: Path) -> None:
    """Write the pages, and an index of them."""
    import pdoc

    for name in MODULES:
        module = importlib.import_module(name)
        names: list[str] = module.__dict__.get("__all__", [])
        names.sort(key=lambda item: _place(module, item))  # pdoc keeps this order
    with inherited_too(), own_index():
        pdoc.pdoc(*MODULES, output_directory=directory)


@contextlib.contextmanager
def own_index() -> Iterator[None]:
    """Have pdoc make the index of INDEX."""
    import pdoc.render

    with tempfile.TemporaryDirectory() as templates:
        Path(templates, "index.html.jinja2").write_text(INDEX)
        pdoc.render.configure(template_directory=Path(templates))
        try:
            yield
        finally:
            pdoc.render.configure()


@contextlib.contextmanager
def inherited_too() -> Iterator[None]:
    """Have pdoc take what a class inherits from one of ours without a page for its own."""
    import pdoc.doc

    own: Any = vars(pdoc.doc.Class)["own_members"]

    def members(cls: Any) -> list[Any]:
        found = list(own.func(cls))
        for (module, _), more in cls.inherited_members.items():
            if module.split(".")[0] in ("pyraft", "io_uv") and module not in MODULES:
                found += [member for member in more if not member.name.startswith("_")]
        return found

    setattr(pdoc.doc.Class, "own_members", property(members))  # noqa: B010
    try:
        yield
    finally:
        setattr(pdoc.doc.Class, "own_members", own)  # noqa: B010


def _place(module: ModuleType, name: str) -> tuple[int, str]:
    """Return where a public name stands on the page of its module."""
    value = getattr(module, name)
    kinds = (inspect.isclass(value), inspect.isroutine(value), True)
    return kinds.index(True), name


if __name__ == "__main__":
    main(Path(sys.argv[1]))
