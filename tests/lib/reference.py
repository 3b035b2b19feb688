"""The reference of all public names as HTML, from their docstrings: `python -m tests.lib.reference DIRECTORY`.

Duty: have pdoc render the public modules into the directory. Classes and functions come first, each group by name;
constants follow, of which raft.h has seventy.

Failure modes: a docstring or an annotation that pdoc cannot render is a warning, and with `-W error` an exception.
"""

import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType

MODULES = (
    "pyraft",
    "pyraft.aio",
    "pyraft.fixture",
    "pyraft.node",
    "pyraft.node.testing",
    "io_uv",  # and io_uv.pyuv, as one of its names
    "io_uv.datadir",
)


def main(directory: Path) -> None:
    """Write the pages, and an index of them."""
    import pdoc

    for name in MODULES:
        module = importlib.import_module(name)
        names: list[str] = module.__dict__["__all__"]
        names.sort(key=lambda item: _place(module, item))  # pdoc keeps this order
    pdoc.pdoc(*MODULES, output_directory=directory)


def _place(module: ModuleType, name: str) -> tuple[int, str]:
    """Return where a public name stands on the page of its module."""
    value = getattr(module, name)
    kinds = (inspect.isclass(value), inspect.isroutine(value), True)
    return kinds.index(True), name


if __name__ == "__main__":
    main(Path(sys.argv[1]))
