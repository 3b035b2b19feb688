"""Directories that a call makes for its own use, and that go again where it comes to nothing.

Duty: `making` has a block run in a directory, which is made with those above it where there is none; `undone` has a
block that raises leave nothing behind of what it is going to make, so that a command that is refused changes nothing.

Happy path: `with making("data/1"): …`, and the directory is there, durably.

Failure modes: Failure where it cannot be made, and whatever the block raises. A directory with other files in it by
then stays, as does all of it after a kill.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from io_uv import fs
from io_uv.failure import failure


@contextlib.contextmanager
def undone(*paths: str | os.PathLike[str]) -> Iterator[list[Path]]:
    """Where the block raises, remove those of these files and directories that were not there before it.

    A directory that is not empty stays. The block gets the list of what would go, and may clear it.
    """
    known = [Path(path) for path in paths]
    missing = [one for one in known if not os.path.lexists(one)]
    try:
        yield missing
    except BaseException:
        for one in sorted(missing, key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):
                one.rmdir() if one.is_dir() else one.unlink()
        raise


@contextlib.contextmanager
def making(path: str | os.PathLike[str], mode: int = 0o777) -> Iterator[None]:
    """Make a directory, and those above it that are missing, durably; where the block raises they go, if empty."""
    where = Path(path)
    with undone(where, *where.parents) as missing:
        made = list(missing)
        try:
            where.mkdir(mode, parents=True, exist_ok=True)
        except OSError as exc:
            raise failure(f"make directory {where}", exc) from None
        for one in made:
            fs.sync_dir(os.fspath(one.parent))
        yield
