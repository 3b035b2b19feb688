"""Backups of databases: one database of a cluster that runs, in a file that SQLite opens.

Duty: `take` asks a node for a database's files (DUMP), the leader if nothing else is said, and writes one file of them,
which is checked by SQLite and appears under its name when it is whole and on the disk.

Happy path: `await take(["10.0.0.1:9001"], "app.db", "app.backup")`. All that was acknowledged before the call is in it,
as the leader has it. The pages go from the connection to the disk: a database may be larger than the memory, here. The
page at 1 GiB, which SQLite does not use, is zeros, whatever the node has there.

Failure modes: Refused for a file that is there already, a database that nobody knows, and one that PRAGMA
integrity_check finds fault with; DqliteError for what the node refuses; OSError for connections and the disk. The file
is removed then, and so it is when this is cancelled.
"""

import asyncio
import contextlib
import mmap
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, TypeVar

from io_uv.datadir import newfile
from io_uv.dqlite import image, messages, requests, responses, words
from io_uv.dqlite.machine import fault_of
from io_uv.dqlite.words import ParseError
from pyraft.dqlite.errors import DqliteError, Refused
from pyraft.dqlite.peer import Dial, Peer, dial_tcp, find_leader, several
from pyraft.node.deadlines import within

_WAL_MARK: Final = 18
"""Where page 1 says, in two bytes, whether the database is in WAL mode; a backup is not, as it has no log beside it."""
_SECONDS: Final = 60.0
"""The longest pause of a node in the middle of an answer."""
_MAX_FAILURE: Final = 1 << 20
_PIECE: Final = 1 << 18

T = TypeVar("T")


@dataclass(frozen=True)
class Backup:
    """A backup that was written: the node that has given the database, and its size in pages."""

    address: str
    n_pages: int
    page_size: int


async def take(
    addresses: Iterable[str],
    database: str,
    path: str | os.PathLike[str],
    *,
    member: str = "",
    dial: Dial = dial_tcp,
) -> Backup:
    """Write a backup of a database to a new file; `member` is the node to take it from, else it is the leader.

    A member that is behind the leader gives an older state.
    """
    known = several(addresses)
    target = Path(path)
    if target.exists():
        raise Refused(f"there is a file {target} already")
    part = newfile.hidden(target)
    address = member or await _leader(known, dial)
    try:
        with part.open("x+b") as main, tempfile.TemporaryFile(dir=target.parent) as log:
            await _receive(address, dial, database, main, log)
            made = await _in_thread(lambda: _finish(address, database, main, log))
        newfile.give_name(part, target)
    except FileExistsError:
        raise Refused(f"there is a file {target} already") from None
    except ParseError as exc:
        raise ConnectionError(f"{address} has answered with nonsense: {exc}") from None
    finally:
        part.unlink(missing_ok=True)
    newfile.sync_name(target)
    return made


async def _leader(known: list[str], dial: Dial) -> str:
    """Return the address of the leader; those who are not voters do not know it, but they know the others."""
    with contextlib.suppress(OSError, DqliteError):
        async with await find_leader(known, dial) as peer:
            return peer.address
    for address in list(known):
        with contextlib.suppress(OSError, DqliteError):
            async with await Peer.open(address, dial) as peer:
                known += [one.address for one in await peer.members()]
    async with await find_leader(known, dial) as peer:
        return peer.address


async def _in_thread(work: Callable[[], Backup]) -> Backup:
    """Run `work` in a thread, and wait for it also when this is cancelled: it uses files."""
    running = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


async def _receive(address: str, dial: Dial, database: str, main: IO[bytes], log: IO[bytes]) -> None:
    """Write what the node sends as the database's main file and its log."""
    reader, writer = await _in_time(dial(address), address)
    try:
        writer.write(words.u64(messages.PROTOCOL) + requests.Dump(database).encode())
        await _in_time(writer.drain(), address)
        size, type, schema, _ = messages.HEADER.unpack(
            await _in_time(reader.readexactly(messages.HEADER.size), address)
        )
        size *= words.WORD
        if type == responses.Failed.TYPE and size < _MAX_FAILURE:
            answer = responses.decode(type, schema, await _in_time(reader.readexactly(size), address))
            assert isinstance(answer, responses.Failed)
            raise DqliteError(answer.code, answer.message)
        if type != responses.Files.TYPE:
            raise ParseError(f"an answer of type {type}")
        if await _in_time(reader.readexactly(words.WORD), address) != words.u64(2):
            raise ParseError("another number of files than 2")
        for name, file in ((database, main), (database + "-wal", log)):
            head = words.text(name)
            found = await _in_time(reader.readexactly(len(head) + words.WORD), address)
            left = int.from_bytes(found[len(head) :], "little")
            if found[: len(head)] != head or left > size:
                raise ParseError(f"a file of {left} bytes, or of another name, in {size}")
            while left:
                data = await _in_time(reader.read(min(left, _PIECE)), address)
                if not data:
                    raise ConnectionResetError(f"{address} has ended the connection")
                file.write(data)
                left -= len(data)
            file.flush()
    except asyncio.IncompleteReadError:
        raise ConnectionResetError(f"{address} has ended the connection") from None
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _in_time(waiting: Awaitable[T], address: str) -> T:
    try:
        return await within(waiting, _SECONDS)
    except TimeoutError:
        raise TimeoutError(f"nothing from {address} for {_SECONDS:g} s") from None


def _finish(address: str, database: str, main: IO[bytes], log: IO[bytes]) -> Backup:
    """Move the log into the main file, have it checked, and put it on the disk."""
    fd, size = main.fileno(), os.fstat(main.fileno()).st_size
    wal = _mapped(log)
    if size == 0 and not wal:
        raise Refused(f"{address} knows no database '{database}'")
    first = os.pread(fd, image.HEADER_SIZE, 0) if size else bytes(wal[8:12])
    page_size = image.page_size_of(first) if size else int.from_bytes(first, "big")
    n_pages = 0
    for number, page, size in image.frames(image.Database(database, memoryview(b""), wal, page_size)):
        os.pwrite(fd, page, (number - 1) * page_size)
        n_pages = size
    first = os.pread(fd, image.HEADER_SIZE, 0)
    n_pages = n_pages or image.page_count_of(first)
    if image.page_size_of(first) != page_size or n_pages * page_size > os.fstat(fd).st_size:
        raise ParseError(f"{os.fstat(fd).st_size} bytes of database '{database}', which has {n_pages} pages")
    os.ftruncate(fd, n_pages * page_size)
    unused = image.lock_page_of(page_size)
    if unused <= n_pages:
        os.pwrite(fd, bytes(page_size), (unused - 1) * page_size)
    os.pwrite(fd, b"\1\1", _WAL_MARK)
    os.fsync(fd)
    if fault := fault_of(main.name, "integrity_check"):
        raise Refused(f"database '{database}' of {address} is not sound: {fault}")
    return Backup(address, n_pages, page_size)


def _mapped(file: IO[bytes]) -> memoryview:
    size = os.fstat(file.fileno()).st_size
    return memoryview(mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) if size else b"")
