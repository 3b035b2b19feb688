"""raft_uv_init, io.init, io.set_term, io.set_vote, io.bootstrap and io.recover of io_uv."""

import errno
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import io_uv
from io_uv import (
    directory,
    fs,
    marker,
    raft_uv_init,
    raft_uv_limits,
    raft_uv_set_block_size,
    raft_uv_set_connect_retry_delay,
    raft_uv_set_segment_size,
    raft_uv_tcp_init,
)
from io_uv.failure import Failure
from io_uv.pyuv import Loop
from io_uv.transport import RaftUvTransport
from pyraft import errors, heap
from pyraft.tracing import NoopTracer, StderrTracer
from pyraft.types import (
    RAFT_CHANGE,
    RAFT_VOTER,
    RaftConfiguration,
    RaftIo,
    RaftIoAppend,
    RaftIoAsyncWork,
    RaftIoSend,
    RaftIoSnapshotGet,
    RaftIoSnapshotPut,
    RaftMessage,
    RaftServer,
    RaftSnapshot,
)
from tests.lib.covers import covers
from tests.lib.messages import fields_of
from tests.lib.uvtest import UvIo, configuration, entry, numbers, run_until


def metadata(*words: int) -> bytes:
    return struct.pack("<4Q", *words)


def stored(path: Path) -> tuple[int, ...] | None:
    return struct.unpack("<4Q", path.read_bytes()) if path.exists() else None


def refused(dir: Path) -> tuple[int, str]:
    """Return code and text of an io.init that must fail; closing works all the same, inside the call."""
    t = UvIo(dir)
    rv = t.init()
    text = t.io.errmsg
    closed = t.begin_close()
    assert closed.calls == [(t.io,)]
    t.loop.close()
    return rv, text


# ---- raft_uv_init ----------------------------------------------------------------------------------------------------


@covers("init/dirTooLong")
def test_dir_too_long() -> None:
    """A path of more than 894 bytes is refused, one of 894 is not (B24)."""
    loop = Loop()
    transport, io = RaftUvTransport(), RaftIo()
    assert raft_uv_init(io, loop, "/" + "a" * 894, transport) == errors.RAFT_NAMETOOLONG
    assert io.errmsg == "directory path too long"
    assert raft_uv_init(io, loop, "/" + "a" * 893, transport) == 0
    assert io.impl.dir == "/" + "a" * 893
    loop.close()


def test_transport_without_version() -> None:
    """A transport whose version is not set is refused."""
    loop = Loop()
    transport, io = RaftUvTransport(), RaftIo()
    transport.version = 0
    assert raft_uv_init(io, loop, "/tmp", transport) == errors.RAFT_INVALID
    assert io.errmsg == "transport->version must be set"
    loop.close()


def test_the_table_has_its_version() -> None:
    """It is 2, as in C: async_work is there, and the core may call it."""
    loop = Loop()
    transport, io = RaftUvTransport(), RaftIo()
    transport.version = 1
    assert raft_uv_init(io, loop, "/tmp", transport) == 0
    assert io.version == 2
    loop.close()


def test_all_functions_are_there(tmp_path: Path) -> None:
    """The table is complete, and the setters set."""
    t = UvIo(tmp_path)
    of_others = ("data", "forked", "interrupted")  # the program's and raft_init's
    missing = [name for name in fields_of(t.io) if name not in of_others and getattr(t.io, name) is None]
    assert missing == []
    io_uv.raft_uv_set_connect_retry_delay(t.io, 5)
    io_uv.raft_uv_set_tracer(t.io, StderrTracer)
    raft_uv_limits(t.io).payload = 7
    assert (t.uv.connect_retry_delay, t.uv.tracer, t.uv.limits.payload) == (5, StderrTracer, 7)
    io_uv.raft_uv_set_tracer(t.io, None)
    assert t.uv.tracer is NoopTracer
    t.begin_close()
    t.loop.close()


def test_exported_names() -> None:
    """Everything in __all__ is there."""
    assert all(hasattr(io_uv, name) for name in io_uv.__all__)


# ---- io.init ---------------------------------------------------------------------------------------------------------


@covers("init/dirDoesNotExist")
def test_dir_does_not_exist(tmp_path: Path) -> None:
    """A missing directory is RAFT_NOTFOUND."""
    dir = tmp_path / "missing"
    assert refused(dir) == (errors.RAFT_NOTFOUND, f"directory '{dir}' does not exist")


@covers("init/dirNotAccessible")
def test_dir_not_writable(tmp_path: Path) -> None:
    """A directory whose owner may not write is refused."""
    dir = tmp_path / "locked"
    dir.mkdir(mode=0)
    try:
        assert refused(dir) == (errors.RAFT_INVALID, f"directory '{dir}' is not writable")
    finally:
        dir.chmod(0o700)


def test_dir_is_a_file(tmp_path: Path) -> None:
    """A plain file is not a directory."""
    file = tmp_path / "file"
    file.touch()
    assert refused(file) == (errors.RAFT_INVALID, f"path '{file}' is not a directory")


def test_a_directory_that_may_not_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mode lets the owner write, but the owner is somebody else."""

    def refuse(*args: object) -> None:
        raise PermissionError(errno.EACCES, "")

    monkeypatch.setattr(fs, "open", refuse)
    assert refused(tmp_path) == (errors.RAFT_IOERR, f"open directory '{tmp_path}': permission denied")


@covers("init/noSpace")
def test_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk probing fails with RAFT_NOSPACE."""

    def refuse(*args: object) -> None:
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(fs, "fallocate", refuse)
    monkeypatch.setattr(fs, "pwrite", refuse)
    text = "create I/O capabilities probe file: not enough space to allocate 4096 bytes"
    assert refused(tmp_path) == (errors.RAFT_NOSPACE, f"{text}, in directory '{tmp_path}'")
    assert os.listdir(tmp_path) == []


@covers("init/probeDirectIoOom", "init/probeAsyncIoOom")
def test_no_memory_for_probing(tmp_path: Path) -> None:
    """When the heap has no memory for the probing writes, io.init says RAFT_NOMEM and which of them it was."""
    seen = []
    for allocations in range(2):
        left = [allocations]
        base = heap.RaftHeap()
        mine = heap.RaftHeap()

        def aligned_alloc(
            data: object, alignment: int, size: int, left: list[int] = left, base: heap.RaftHeap = base
        ) -> object:
            left[0] -= 1
            return base.aligned_alloc(data, alignment, size) if left[0] >= 0 else None

        mine.aligned_alloc = aligned_alloc
        heap.raft_heap_set(mine)
        try:
            seen.append(refused(tmp_path))
        finally:
            heap.raft_heap_set_default()
    assert seen == [
        (errors.RAFT_NOMEM, "probe Direct I/O: out of memory"),
        (errors.RAFT_NOMEM, "probe Async I/O: out of memory"),
    ]


def test_nothing_is_left_of_probing(tmp_path: Path) -> None:
    """io.init leaves no file behind, and removes what an interrupted operation left."""
    for name in (".probe", ".probe_fallocate", "tmp-metadata1", "snapshot-1-2-3", "snapshot-1-2-4.meta"):
        (tmp_path / name).write_bytes(b"")
    t = UvIo(tmp_path).start()
    assert os.listdir(tmp_path) == []
    t.close()


def test_transport_that_fails(tmp_path: Path) -> None:
    """An error of the transport's init is passed on with its text."""
    t = UvIo(tmp_path)

    def init(transport: RaftUvTransport, id: int, address: str) -> int:
        transport.errmsg = "broken"
        return errors.RAFT_IOERR

    t.transport.init = init
    assert t.init() == errors.RAFT_IOERR
    assert t.io.errmsg == "transport: broken"
    assert t.begin_close().calls == [(t.io,)]
    t.loop.close()


def test_transport_that_raises(tmp_path: Path) -> None:
    """The exception comes out, and the directory can be had by the next attempt."""
    t = UvIo(tmp_path)
    init, t.transport.init = t.transport.init, None
    assert t.init() == errors.RAFT_INVALID
    assert t.io.errmsg == "the transport is not initialized, see raft_uv_tcp_init"
    t.transport.init = lambda transport, id, address: 1 // 0
    with pytest.raises(ZeroDivisionError):
        t.init()
    t.transport.init = init
    t.start().close()


@covers("init/metadataOneTooShort")
def test_metadata_too_short(tmp_path: Path) -> None:
    """A metadata file that a crash left short is ignored."""
    (tmp_path / "metadata1").write_bytes(bytes(16))
    t = UvIo(tmp_path).start()
    assert t.loaded[:3] == (0, 0, 0)
    t.close()


@covers("init/metadataOneBadFormat")
def test_metadata_bad_format(tmp_path: Path) -> None:
    """Another format version is RAFT_MALFORMED."""
    (tmp_path / "metadata1").write_bytes(metadata(2, 1, 1, 0))
    assert refused(tmp_path) == (errors.RAFT_MALFORMED, "decode content of metadata1: bad format version 2")


@covers("init/metadataOneBadVersion")
def test_metadata_bad_version(tmp_path: Path) -> None:
    """Version 0 is RAFT_CORRUPT."""
    (tmp_path / "metadata1").write_bytes(metadata(1, 0, 1, 0))
    assert refused(tmp_path) == (errors.RAFT_CORRUPT, "decode content of metadata1: version is set to zero")


@covers("init/metadataOneAndTwoSameVersion")
def test_metadata_same_version(tmp_path: Path) -> None:
    """Two files of one version are RAFT_CORRUPT."""
    for name in ("metadata1", "metadata2"):
        (tmp_path / name).write_bytes(metadata(1, 2, 2, 0))
    assert refused(tmp_path) == (errors.RAFT_CORRUPT, "metadata1 and metadata2 are both at version 2")


# ---- io.set_term and io.set_vote -------------------------------------------------------------------------------------


@covers("set_term/first", "set_term/second", "set_term/third", "set_term/fourth")
def test_set_term(tmp_path: Path) -> None:
    """Stores take turns between the two files, the version counts them."""
    t = UvIo(tmp_path).start()
    one, two = tmp_path / "metadata1", tmp_path / "metadata2"
    assert t.io.set_term(t.io, 1) == 0
    assert (stored(one), stored(two)) == ((1, 1, 1, 0), None)
    assert t.io.set_term(t.io, 2) == 0
    assert (stored(one), stored(two)) == ((1, 1, 1, 0), (1, 2, 2, 0))
    assert t.io.set_term(t.io, 3) == 0
    assert (stored(one), stored(two)) == ((1, 3, 3, 0), (1, 2, 2, 0))
    assert t.io.set_term(t.io, 4) == 0
    assert (stored(one), stored(two)) == ((1, 3, 3, 0), (1, 4, 4, 0))
    t.close()


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        pytest.param((1, 1, 1, 0), None, (1, 2, 9, 0), id="one"),
        pytest.param((1, 3, 3, 0), (1, 2, 2, 0), (1, 4, 9, 0), id="one is newer"),
        pytest.param((1, 1, 1, 0), (1, 2, 2, 0), (1, 3, 9, 0), id="two is newer"),
    ],
)
@covers("set_term/metadataOneExists", "set_term/metadataOneIsGreater", "set_term/metadataTwoIsGreater")
def test_set_term_goes_on(
    tmp_path: Path, one: tuple[int, ...], two: tuple[int, ...] | None, expected: tuple[int, ...]
) -> None:
    """The next version follows the newest that is there."""
    (tmp_path / "metadata1").write_bytes(metadata(*one))
    if two is not None:
        (tmp_path / "metadata2").write_bytes(metadata(*two))
    t = UvIo(tmp_path).start()
    assert t.io.set_term(t.io, 9) == 0
    assert stored(tmp_path / ("metadata1" if expected[1] % 2 else "metadata2")) == expected
    t.close()


def test_vote(tmp_path: Path) -> None:
    """A vote belongs to the current term; a new term has none."""
    t = UvIo(tmp_path).start()
    t.io.set_term(t.io, 5)
    t.io.set_vote(t.io, 7)
    fresh = t.reopen()
    assert fresh.loaded[:3] == (0, 5, 7)
    fresh.io.set_term(fresh.io, 6)
    again = fresh.reopen()
    assert again.loaded[:3] == (0, 6, 0)
    again.close()


@pytest.mark.parametrize("call", ["open", "write", "fsync", "fdatasync"])
def test_failed_store_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """After a failed store the same version is stored again, in the same file: the other, good one stays (B42)."""
    t = UvIo(tmp_path).start()
    assert t.io.set_term(t.io, 1) == 0
    assert t.io.set_vote(t.io, 3) == 0

    def refuse(*args: object) -> int:
        raise OSError(errno.EIO, "")

    with monkeypatch.context() as patch:
        patch.setattr(fs, call, refuse)
        rv = t.io.set_term(t.io, 2)
    if call == "fsync":  # an existing file is synced by fdatasync
        assert rv == 0
    else:
        assert rv == errors.RAFT_IOERR
        assert t.io.errmsg.startswith("persist metadata1: ")
        assert stored(tmp_path / "metadata2") == (1, 2, 1, 3)
        assert (t.uv.metadata.version, t.uv.metadata.term, t.uv.metadata.voted_for) == (2, 1, 3)
        assert t.io.set_term(t.io, 2) == 0
    assert stored(tmp_path / "metadata1") == (1, 3, 2, 0)
    fresh = t.reopen()
    assert fresh.loaded[:3] == (0, 2, 0)
    fresh.close()


# ---- io.bootstrap and io.recover -------------------------------------------------------------------------------------


@covers("bootstrap/pristine")
def test_bootstrap(tmp_path: Path) -> None:
    """A pristine directory gets term 1 and the configuration as entry 1."""
    t = UvIo(tmp_path).start()
    assert t.io.bootstrap(t.io, configuration()) == 0
    fresh = t.reopen()
    rv, term, voted_for, snapshot, start_index, entries = fresh.loaded
    assert (rv, term, voted_for, snapshot, start_index) == (0, 1, 0, None, 1)
    assert [(entry.term, entry.type) for entry in entries] == [(1, RAFT_CHANGE)]
    fresh.close()


@covers("bootstrap/termIsNonZero")
def test_bootstrap_twice(tmp_path: Path) -> None:
    """A server that has a term cannot be bootstrapped."""
    t = UvIo(tmp_path).start()
    assert t.io.bootstrap(t.io, configuration()) == 0
    assert t.io.bootstrap(t.io, configuration()) == errors.RAFT_CANTBOOTSTRAP
    assert t.io.errmsg == "metadata contains term 1"
    t.close()


def test_bootstrap_too_big(tmp_path: Path) -> None:
    """A configuration that does not fit leaves nothing behind, so that a smaller one works (B20)."""
    t = UvIo(tmp_path).start()
    big = RaftConfiguration()
    big.servers = [RaftServer(i, "a" * 100, RAFT_VOTER) for i in range(1, 60)]
    assert t.io.bootstrap(t.io, big) == errors.RAFT_TOOBIG
    assert t.names() == []
    assert t.io.bootstrap(t.io, configuration()) == 0
    t.close()


@covers("recover/newConfiguration")
def test_recover(tmp_path: Path) -> None:
    """Recovering appends a configuration to the log, in the term of the metadata."""
    t = UvIo(tmp_path).start()
    assert t.io.bootstrap(t.io, configuration()) == 0
    assert t.io.set_term(t.io, 4) == 0
    two = configuration()
    two.servers.append(RaftServer(2, "2", RAFT_VOTER))
    assert t.io.recover(t.io, two) == 0
    fresh = t.reopen()
    assert [(entry.term, entry.type) for entry in fresh.loaded[5]] == [(1, RAFT_CHANGE), (4, RAFT_CHANGE)]
    fresh.close()


def test_recover_of_a_directory_without_a_log(tmp_path: Path) -> None:
    """It is the wrong one, as a rule: RAFT_NOTFOUND, and nothing is written. Not if something was set aside."""
    t = UvIo(tmp_path).start()
    before = t.names()
    assert t.io.recover(t.io, configuration()) == errors.RAFT_NOTFOUND
    assert t.io.errmsg.startswith(f"there is no log in {tmp_path}: nothing to recover")
    assert t.names() == before
    assert t.io.set_term(t.io, 3) == 0
    assert t.io.recover(t.io, configuration()) == errors.RAFT_NOTFOUND
    marker.marker_set(str(tmp_path), "all of it was damaged")
    assert t.io.recover(t.io, configuration()) == 0
    fresh = t.reopen()
    assert [(entry.term, entry.type) for entry in fresh.loaded[5]] == [(3, RAFT_CHANGE)]
    fresh.close()


def test_load_that_fails(tmp_path: Path) -> None:
    """A directory that cannot be loaded gives a code, a text and empty values."""
    (tmp_path / "0000000000000001-0000000000000001").write_bytes(b"")
    t = UvIo(tmp_path)
    assert t.init() == 0
    rv, term, voted_for, snapshot, start_index, entries = t.io.load(t.io)
    assert (rv, term, voted_for, snapshot, start_index, len(entries)) == (errors.RAFT_CORRUPT, 0, 0, None, 0, 0)
    assert t.io.errmsg == "load closed segment 0000000000000001-0000000000000001: file is empty"
    assert t.io.recover(t.io, configuration()) == errors.RAFT_CORRUPT
    t.close()


def test_failure_is_never_an_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any failure below io.bootstrap is a code."""
    t = UvIo(tmp_path).start()

    def refuse(*args: object) -> None:
        raise Failure(errors.RAFT_IOERR, "broken")

    monkeypatch.setattr(fs, "make_file", refuse)
    assert t.io.bootstrap(t.io, configuration()) == errors.RAFT_IOERR
    assert "broken" in t.io.errmsg
    t.close()


# ---- one instance at a time ------------------------------------------------------------------------------------------


def busy(dir: Path) -> tuple[int, str]:
    """Return what io.init answers about a directory that is in use."""
    return errors.RAFT_BUSY, f"directory '{dir}' is in use by another server"


def test_directory_in_use_is_refused_until_it_is_closed(tmp_path: Path) -> None:
    """A second instance touches nothing; when the first has called back its close, the directory is free."""
    t = UvIo(tmp_path).start()
    t.append(3)
    t.wait_for("open-2", "open-3")  # the reserve; nothing comes or goes after that
    names = sorted(os.listdir(tmp_path))
    (tmp_path / "tmp-of-the-first").touch()
    assert refused(tmp_path) == busy(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "tmp-of-the-first"])
    t.append()
    t.close()
    again = UvIo(tmp_path).start()
    assert numbers(again.loaded[5]) == [1, 2, 3, 4]
    again.close()


def test_directory_in_use_by_another_process_is_refused(tmp_path: Path) -> None:
    """It is free as soon as that process is dead, however it died."""
    lock = f"lock = directory.lock_dir({str(tmp_path)!r})"
    script = f"import sys; from io_uv import directory; {lock}; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        assert refused(tmp_path) == busy(tmp_path)
        other.kill()
    UvIo(tmp_path).start().close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # threads of other tests; the child uses none
def test_forked_child_neither_keeps_the_directory_nor_gives_it_up(tmp_path: Path) -> None:
    """The lock is the process's that took it, although a child inherits the descriptor."""
    lock = directory.lock_dir(str(tmp_path))
    child = os.fork()
    if child == 0:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(Failure, match="in use"):
        directory.lock_dir(str(tmp_path))
    end, begin = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(begin)
        os.read(end, 1)
        os._exit(0)
    try:
        lock.release()
        directory.lock_dir(str(tmp_path)).release()
    finally:
        os.close(begin)
        os.waitpid(child, 0)
        os.close(end)


def test_init_that_fails_leaves_the_directory_to_others(tmp_path: Path) -> None:
    """Only who could use a directory keeps it."""
    (tmp_path / "metadata1").write_bytes(bytes(33))
    t = UvIo(tmp_path)
    assert t.init() == errors.RAFT_CORRUPT
    directory.lock_dir(str(tmp_path)).release()
    t.begin_close()
    t.loop.close()


def test_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C locks nothing anywhere; here a second server would not be noticed, and would destroy what the first writes."""

    def unsupported(*args: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fs, "flock", unsupported)
    monkeypatch.setattr(fs, "ofd_lock", unsupported)
    code, text = refused(tmp_path)
    assert code == errors.RAFT_IOERR
    assert text.startswith(f"directory '{tmp_path}' cannot be locked against a second server")
    assert os.listdir(tmp_path) == []


def test_init_of_a_table_in_use_changes_nothing(tmp_path: Path) -> None:
    """A second io.init is refused, and the server that has the table keeps its directory."""
    t = UvIo(tmp_path).start()
    assert t.io.init(t.io, 2, "127.0.0.1:1") == errors.RAFT_BUSY
    assert t.io.errmsg == f"a server uses this table, and directory '{tmp_path}', already"
    assert (t.uv.id, t.uv.address) == (1, t.address)
    assert refused(tmp_path) == busy(tmp_path)
    t.append(1)
    t.close()


def test_a_closed_table_is_of_no_use(tmp_path: Path) -> None:
    """After io.close every function answers RAFT_CANCELED and says why, io.init too; raft_uv_init makes it anew."""
    t = UvIo(tmp_path).start()
    t.wait(t.begin_close())
    io = t.io
    calls: list[Callable[[], int]] = [
        lambda: io.init(io, 1, t.address),
        lambda: io.append(io, RaftIoAppend(), [entry(8)], 1, None),
        lambda: io.truncate(io, 1),
        lambda: io.snapshot_put(io, 0, RaftIoSnapshotPut(), RaftSnapshot(), None),
        lambda: io.snapshot_get(io, RaftIoSnapshotGet(), None),
        lambda: io.async_work(io, RaftIoAsyncWork(), None),
        lambda: io.send(io, RaftIoSend(), RaftMessage(), None),
        lambda: io.defer(io, [bytes(8)], 1, print),
    ]
    for call in calls:
        io.errmsg = ""
        assert (call(), io.errmsg) == (errors.RAFT_CANCELED, "closed")
    assert raft_uv_tcp_init(t.transport, t.loop) == 0
    assert raft_uv_init(io, t.loop, tmp_path, t.transport) == 0
    assert io.init(io, 1, t.address) == 0
    t.wait(t.begin_close())
    t.loop.close()


def test_close_after_the_loop(tmp_path: Path) -> None:
    """A program that closes the loop first gets the directory back all the same, inside io.close."""
    t = UvIo(tmp_path).start()
    t.append(1)
    t.loop.close()
    assert t.begin_close().calls == [(t.io,)]
    directory.lock_dir(str(tmp_path)).release()
    UvIo(tmp_path).start().close()


@pytest.mark.parametrize("setter", [raft_uv_set_block_size, raft_uv_set_segment_size, raft_uv_set_connect_retry_delay])
def test_sizes_and_delays_are_integers(tmp_path: Path, setter: Callable[[RaftIo, Any], None]) -> None:
    """TypeError from the setter itself, not from the first use; ValueError where there is no table of raft_uv_init."""
    t = UvIo(tmp_path)
    with pytest.raises(TypeError):
        setter(t.io, None)
    t.begin_close()
    t.loop.close()
    io_uv.raft_uv_close(t.io)
    for io in (t.io, RaftIo()):
        with pytest.raises(ValueError, match="not a table of raft_uv_init"):
            setter(io, 1)


@pytest.mark.parametrize("size", [0, 1, 4095])
def test_a_segment_has_a_block_at_least(tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture) -> None:
    """With a size below that fallocate was taken for refused."""
    t = UvIo(tmp_path).start()
    raft_uv_set_segment_size(t.io, size)
    t.append()
    run_until(t.loop, lambda: len(t.uv.prepare_pool) == 2)
    assert (tmp_path / "open-2").stat().st_size == t.uv.block_size
    assert [record.getMessage() for record in caplog.records if "fallocate" in record.getMessage()] == []
    t.close()
