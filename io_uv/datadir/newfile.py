"""Files outside of data directories, backups and exports: each is there whole and durable, or not at all.

Duty: `create` yields a file under a hidden name beside the one wanted, and gives it that name once it is synced. Its
steps (`hidden`, `give_name`, `sync_name`) are there for those who do more in between.

Happy path: `with create("shop.export") as file: file.write(…)`.

Failure modes: FileExistsError where there is a file of the name, also one that has come meanwhile; OSError where the
disk refuses, and whatever the block raises. The hidden file is removed then; a kill leaves it, as `.NAME.….part`.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from io_uv import fs
from io_uv.failure import Failure

_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""Errors of link(2) on a file system without hard links, such as that of a memory stick."""


@contextmanager
def create(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a file to write to; it has the name `path`, durably, when the block has ended well."""
    target = Path(path)
    if os.path.lexists(target):
        raise _taken(target)
    part = hidden(target)
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            fs.fsync(file.fileno())
        give_name(part, target)
    except OSError as exc:
        if exc.errno is None or exc.filename not in (None, os.fspath(part)):
            raise
        raise OSError(exc.errno, os.strerror(exc.errno), os.fspath(target)) from None
    finally:
        part.unlink(missing_ok=True)
    sync_name(target)


def hidden(target: Path) -> Path:
    """Return a name beside the one wanted that nobody else uses."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")


def sync_name(target: Path) -> None:
    """Make a file's name durable."""
    try:
        fs.sync_dir(os.fspath(target.parent))
    except Failure as exc:
        raise OSError(f"{target.parent}: {exc.message}") from None


def give_name(part: Path, target: Path) -> None:
    """Give a file that is on the disk its name, which no other file may have, else FileExistsError."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise _taken(target) from None
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise _taken(target) from None
        part.rename(target)


def _taken(target: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, "there is a file of that name already", os.fspath(target))
