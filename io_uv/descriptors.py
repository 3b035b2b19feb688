"""The descriptors of files that this process has, so that a forked child can close its copies of them.

Duty: `open` and `close` of `fs`, with a note of what is open. A child closes everything at once, whether a server, a
request or a thread that stayed behind has used it: closing a copy changes nothing for the parent (see `fork`).

Happy path: the note is made behind the system call. A descriptor that a thread was opening or closing when the
fork came is looked for by its path, as then only the system knows.

Failure modes: OSError of the system calls. Without /proc such a descriptor of a thread stays open in the child.
"""

import contextlib
import os
from typing import Final

_opened: Final[dict[int, str]] = {}
"""Descriptors and paths of what open() has returned and close() was not given."""
_moving: Final[list[str]] = []
"""Paths of what is being opened or closed."""


def open(path: str, flags: int, mode: int) -> int:
    """open(2)."""
    _moving.append(path)
    try:
        fd = os.open(path, flags, mode)
        _opened[fd] = path
    finally:
        _moving.remove(path)
    if flags & os.O_CREAT and os.geteuid() == 0:
        _give(fd, path)
    return fd


def _give(fd: int, path: str) -> None:
    """Have a file that root has made belong to the owner of its directory, whose server could not open it else.

    Only one that is new, by its having no content and one name: the owner of the directory may have made another one.
    """
    try:
        found, owner = os.fstat(fd), os.stat(os.path.dirname(path) or ".")
        if owner.st_uid != 0 and (found.st_uid, found.st_size, found.st_nlink) == (0, 0, 1):
            os.fchown(fd, owner.st_uid, owner.st_gid)
    except OSError:
        return  # a file system without owners


def close(fd: int) -> None:
    """close(2)."""
    path = _opened.pop(fd, "")
    _moving.append(path)
    try:
        os.close(fd)
    finally:
        _moving.remove(path)


def _close_all() -> None:
    with contextlib.suppress(OSError):
        moving = {os.path.realpath(path) for path in _moving if path}
        for name in os.listdir("/proc/self/fd") if moving else ():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{name}") in moving:
                    _opened[int(name)] = ""
    _moving.clear()
    while _opened:
        with contextlib.suppress(OSError):
            os.close(_opened.popitem()[0])


os.register_at_fork(after_in_child=_close_all)
