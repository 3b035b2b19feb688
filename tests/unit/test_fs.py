"""The file operations: texts, durability order, what a failure leaves behind."""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import directory, fs, libc
from io_uv.failure import Failure, failure
from io_uv.refusal import Refusals
from pyraft.errors import (
    RAFT_INVALID,
    RAFT_IOERR,
    RAFT_NOMEM,
    RAFT_NOSPACE,
    RAFT_NOTFOUND,
    RAFT_UNAUTHORIZED,
)
from tests.lib.covers import covers
from tests.lib.threads import open_fds

_CALLS = ("open", "write", "fsync", "fdatasync", "ftruncate", "fallocate", "rename", "unlink", "close")


class Recorder:
    """Records the calls of fs that change something, with file names for descriptors, and fails what it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.failing: dict[str, int] = {}
        self.names: dict[int, str] = {}
        for call in _CALLS:
            monkeypatch.setattr(fs, call, self._wrap(call, getattr(fs, call)))

    def _wrap(self, call: str, original: Any) -> Any:
        def wrapped(*args: Any) -> Any:
            what = self.names.get(args[0], "?") if type(args[0]) is int else os.path.basename(args[0])
            entry = f"{call} {what}"
            if call == "rename":
                entry += f" {os.path.basename(args[1])}"
            if call != "close":
                self.calls.append(entry)
            if entry in self.failing:
                code = self.failing[entry]
                raise OSError(code, os.strerror(code))
            result = original(*args)
            if call == "open":
                self.names[result] = what
            return result

        return wrapped


def refusal_of_nul() -> str:
    """The words of this Python of a path with a NUL in it: from 3.13 on something else than before."""
    try:
        os.stat("\0")
    except ValueError as exc:
        return str(exc)
    raise AssertionError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Records what happens below."""
    return Recorder(monkeypatch)


@pytest.fixture
def dir(tmp_path: Path) -> Iterator[str]:
    """A directory named `data`, and a check that no descriptor is left open."""
    before = open_fds()
    path = tmp_path / "data"
    path.mkdir()
    yield str(path)
    assert open_fds() <= before


@contextlib.contextmanager
def refused(code: int, text: str) -> Iterator[None]:
    """Expect a Failure with this code and text."""
    with pytest.raises(Failure) as caught:
        yield
    assert (caught.value.code, caught.value.message) == (code, text)


def test_a_failure_has_code_and_text_and_can_be_wrapped() -> None:
    """`wrap` makes a new one."""
    inner = Failure(RAFT_IOERR, "open: no such file or directory")
    outer = inner.wrap("read x")
    assert (outer.code, outer.message) == (RAFT_IOERR, "read x: open: no such file or directory")
    assert inner.message == "open: no such file or directory"
    assert Failure(RAFT_IOERR, "").wrap("read x").message == "read x"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (errno.EEXIST, "file already exists"),
        (errno.ENOENT, "no such file or directory"),
        (errno.EIO, "i/o error"),
        (errno.EISDIR, "illegal operation on a directory"),
        (errno.EMFILE, "too many open files"),
        (errno.EROFS, "read-only file system"),
        (errno.EACCES, "permission denied"),
        (errno.EBADF, "bad file descriptor"),
    ],
)
def test_system_errors_have_libuvs_texts(code: int, text: str) -> None:
    """They are in lower case, behind the name of the call."""
    found = failure("open", OSError(code, os.strerror(code)))
    assert (found.code, found.message) == (RAFT_IOERR, f"open: {text}")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_its_own_code_whatever_the_call(code: int) -> None:
    """XFS says it to open(2); a code that was asked for stays."""
    exc = OSError(code, os.strerror(code))
    assert failure("open", exc).code == RAFT_NOSPACE
    assert failure("open", exc).message == f"open: {os.strerror(code).lower()}"
    assert failure("open", exc, RAFT_INVALID).code == RAFT_INVALID


def test_running_out_of_memory_is_its_own_code() -> None:
    """It is not RAFT_IOERR."""
    assert failure("read", MemoryError()).code == RAFT_NOMEM


@covers("UvFsCheckDir/exists")
def test_an_existing_directory_is_fine(dir: str) -> None:
    """There is no Failure."""
    directory.check_dir(dir)


@covers("UvFsCheckDir/doesNotExist", "UvFsCheckDir/notDirPrefix", "UvFsCheckDir/notDir")
@pytest.mark.parametrize(
    ("path", "code", "text"),
    [
        ("/non/existing/dir", RAFT_NOTFOUND, "directory '/non/existing/dir' does not exist"),
        ("/dev/null/foo", RAFT_INVALID, "path '/dev/null/foo' is not a directory"),
        ("/dev/null", RAFT_INVALID, "path '/dev/null' is not a directory"),
        ("/a\0b", RAFT_IOERR, f"can't stat '/a\0b': {refusal_of_nul()}"),
    ],
)
def test_what_is_no_directory_is_refused(path: str, code: int, text: str) -> None:
    """The text has the path."""
    with refused(code, text):
        directory.check_dir(path)


@covers("UvFsCheckDir/permissionDenied")
def test_a_directory_out_of_reach_is_unauthorized(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system call is made to fail: root reaches everything."""

    def stat(path: str) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(fs, "stat", stat)
    with refused(RAFT_UNAUTHORIZED, "can't access directory '/x'"):
        directory.check_dir("/x")


@covers("UvFsCheckDir/notWritable")
def test_a_directory_without_the_owners_write_bit_is_invalid(dir: str) -> None:
    """It is for root too."""
    os.chmod(dir, 0o500)
    with refused(RAFT_INVALID, f"directory '{dir}' is not writable"):
        directory.check_dir(dir)
    os.chmod(dir, 0o700)


@covers("UvFsSyncDir/noExists")
def test_syncing_a_missing_directory_fails() -> None:
    """It raises RAFT_IOERR."""
    with refused(RAFT_IOERR, "open directory: no such file or directory"):
        fs.sync_dir("/abcdef")


@covers("UvFsOpenFileForReading/noExists")
def test_reading_a_missing_file_fails(dir: str) -> None:
    """It raises RAFT_IOERR."""
    with refused(RAFT_IOERR, "open: no such file or directory"):
        fs.read_file(dir, "foo")


@covers("UvOsJoin/basic", "UvOsJoin/dirAndFilenameMax")
def test_paths_are_joined() -> None:
    """They have up to 894 and 128 bytes."""
    assert fs.join("/data", "testfile") == "/data/testfile"
    assert len(fs.join("x" * 894, "y" * 128)) == 1023


@covers("UvOsJoin/dirTooLong", "UvOsJoin/filenameTooLong", "UvOsJoin/dirAndFilenameTooLong")
@pytest.mark.parametrize(("dir_length", "name_length"), [(895, 1), (1, 129), (895, 129)])
def test_longer_paths_are_invalid(dir_length: int, name_length: int) -> None:
    """Directory, name, both."""
    with pytest.raises(Failure) as caught:
        fs.join("x" * dir_length, "y" * name_length)
    assert caught.value.code == RAFT_INVALID


def test_sizes_and_names_are_told(dir: str) -> None:
    """A missing file has None; names are sorted."""
    assert fs.size_of(dir, "b") is None
    fs.make_file(dir, "b", [b"12", b"", memoryview(b"345")])
    fs.make_file(dir, "a", [])
    assert (fs.size_of(dir, "b"), fs.size_of(dir, "a")) == (5, 0)
    assert fs.list_dir(dir) == ["a", "b"]
    assert fs.read_file(dir, "b") == b"12345"
    with refused(RAFT_IOERR, "scan data directory: no such file or directory"):
        fs.list_dir(dir + "x")


@covers("UvFsMakeFile/notExists")
def test_a_new_file_is_synced_before_it_has_its_name(dir: str, calls: Recorder) -> None:
    """The directory is synced afterwards; the mode is 0600."""
    fs.make_file(dir, "foo", [b"hello"])
    assert calls.calls == [
        "open tmp-foo",
        "write tmp-foo",
        "fsync tmp-foo",
        "rename tmp-foo foo",
        "open data",
        "fsync data",
    ]
    assert os.stat(f"{dir}/foo").st_mode & 0o777 == 0o600


@covers("UvFsMakeFile/exists")
def test_an_existing_file_is_not_made_again(dir: str) -> None:
    """It stays, and no tmp file does."""
    fs.make_file(dir, "foo", [b"1"])
    with refused(RAFT_IOERR, "rename: file already exists"):
        fs.make_file(dir, "foo", [b"2"])
    assert fs.read_file(dir, "foo") == b"1"
    assert fs.list_dir(dir) == ["foo"]


def test_a_left_over_tmp_file_blocks_one_attempt_only(dir: str) -> None:
    """It is removed, so a retry works."""
    Path(dir, "tmp-foo").write_bytes(b"old")
    with refused(RAFT_IOERR, "open: file already exists"):
        fs.make_file(dir, "foo", [b"1"])
    fs.make_file(dir, "foo", [b"1"])
    assert fs.read_file(dir, "foo") == b"1"


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ("open tmp-foo", "open: i/o error"),
        ("write tmp-foo", "write: i/o error"),
        ("fsync tmp-foo", "fsync: i/o error"),
        ("rename tmp-foo foo", "rename: i/o error"),
        ("open data", "open directory: i/o error"),
        ("fsync data", "fsync directory: i/o error"),
    ],
)
def test_a_file_that_cannot_be_made_leaves_nothing(dir: str, calls: Recorder, step: str, text: str) -> None:
    """Whichever step fails."""
    calls.failing[step] = errno.EIO
    with refused(RAFT_IOERR, text):
        fs.make_file(dir, "foo", [b"1"])
    assert fs.list_dir(dir) == []


def test_content_that_fails_while_it_is_made_leaves_nothing(dir: str) -> None:
    """The exception passes through."""

    def content() -> Iterator[bytes]:
        yield b"1"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fs.make_file(dir, "foo", content())
    assert fs.list_dir(dir) == []


def test_short_writes_are_continued(dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are until everything is written, or nothing more is."""
    original = fs.write
    monkeypatch.setattr(fs, "write", lambda fd, data: original(fd, bytes(data)[:3]))
    fs.make_file(dir, "foo", [b"0123456789", b"ab"])
    assert fs.read_file(dir, "foo") == b"0123456789ab"
    monkeypatch.setattr(fs, "write", lambda fd, data: 0)
    with refused(RAFT_IOERR, "short write: 0 only bytes written"):
        fs.make_file(dir, "bar", [b"1"])


def test_a_file_that_shrinks_under_the_reader_is_a_short_read(dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short reads are continued as well."""
    fs.make_file(dir, "foo", [b"0123456789"])
    original = fs.read
    monkeypatch.setattr(fs, "read", lambda fd, n: original(fd, min(n, 4)))
    assert fs.read_file(dir, "foo") == b"0123456789"
    fd = fs.open_file(dir, "foo", os.O_RDONLY)
    with refused(RAFT_IOERR, "short read: 10 bytes instead of 12"):
        fs.read_exactly(fd, 12)
    fs.close(fd)


def test_overwriting_creates_once_and_then_writes_in_place(dir: str, calls: Recorder) -> None:
    """A new name needs fsync and a directory sync, a known one fdatasync; nothing is truncated."""
    fs.overwrite_file(dir, "foo", b"hello")
    assert calls.calls == [
        "open foo",
        "open foo",
        "write foo",
        "fsync foo",
        "open data",
        "fsync data",
    ]
    calls.calls.clear()
    fs.overwrite_file(dir, "foo", b"HE")
    assert calls.calls == ["open foo", "write foo", "fdatasync foo"]
    assert fs.read_file(dir, "foo") == b"HEllo"


@pytest.mark.parametrize("step", ["open foo", "write foo", "fdatasync foo"])
def test_a_failed_overwrite_tells(dir: str, calls: Recorder, step: str) -> None:
    """The call is named."""
    fs.overwrite_file(dir, "foo", b"1")
    calls.failing[step] = errno.EIO
    call = {"fdatasync": "fsync"}.get(step.split()[0], step.split()[0])
    with refused(RAFT_IOERR, f"{call}: i/o error"):
        fs.overwrite_file(dir, "foo", b"2")


def test_replacing_is_atomic(dir: str, calls: Recorder) -> None:
    """The old content stays until the rename."""
    fs.replace_file(dir, "foo", b"1")
    calls.failing["rename tmp-foo foo"] = errno.EIO
    with refused(RAFT_IOERR, "rename: i/o error"):
        fs.replace_file(dir, "foo", b"2")
    assert fs.read_file(dir, "foo") == b"1"
    calls.failing.clear()
    calls.calls.clear()
    fs.replace_file(dir, "foo", b"2")
    assert calls.calls[-4:] == ["fsync tmp-foo", "rename tmp-foo foo", "open data", "fsync data"]
    assert fs.list_dir(dir) == ["foo"]


@covers("UvFsAllocateFile/success")
@pytest.mark.parametrize("use_fallocate", [True, False])
@pytest.mark.parametrize("size", [4096, 16384, 5000, 1])
def test_a_file_is_allocated(dir: str, use_fallocate: bool, size: int) -> None:
    """Zeros of the size, and a descriptor for synchronous writes."""
    fd = fs.allocate_file(dir, "foo", size, use_fallocate)
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DSYNC
    fs.close(fd)
    assert fs.read_file(dir, "foo") == bytes(size)
    fd = fs.open_file(dir, "foo", os.O_RDONLY)
    assert fs.noted_size(fd, Refusals(dir)) in (size, 0)
    fs.close(fd)


@covers("UvFsAllocateFile/dirNoExists")
def test_nothing_is_allocated_in_a_missing_directory() -> None:
    """It raises RAFT_IOERR."""
    with refused(RAFT_IOERR, "open: no such file or directory"):
        fs.allocate_file("/non/existing/dir", "foo", 64, True)


@covers("UvFsAllocateFile/fileAlreadyExists")
def test_an_existing_file_is_not_allocated_again(dir: str) -> None:
    """It stays."""
    fs.make_file(dir, "foo", [b"1"])
    with refused(RAFT_IOERR, "open: file already exists"):
        fs.allocate_file(dir, "foo", 64, True)
    assert fs.read_file(dir, "foo") == b"1"


@covers("UvFsAllocateFile/noSpace")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_the_size(dir: str, calls: Recorder, code: int) -> None:
    """RAFT_NOSPACE, and the file is gone again."""
    calls.failing["fallocate foo"] = code
    with refused(RAFT_NOSPACE, "not enough space to allocate 134217728 bytes"):
        fs.allocate_file(dir, "foo", 134217728, True)
    assert fs.list_dir(dir) == []


def test_an_allocation_that_fails_otherwise_is_an_error(dir: str, calls: Recorder) -> None:
    """It leaves no file."""
    calls.failing["fallocate foo"] = errno.EIO
    with refused(RAFT_IOERR, "posix_allocate: i/o error"):
        fs.allocate_file(dir, "foo", 64, True)
    assert fs.list_dir(dir) == []


@covers("UvFsRenameFile/rename", "UvFsRenameFile/same")
def test_files_are_renamed(dir: str) -> None:
    """They may be renamed onto themselves."""
    fs.make_file(dir, "foo", [b"1"])
    fs.rename_file(dir, "foo", "bar")
    assert fs.list_dir(dir) == ["bar"]
    fs.rename_file(dir, "bar", "bar")
    assert fs.list_dir(dir) == ["bar"]
    with refused(RAFT_IOERR, "rename: no such file or directory"):
        fs.rename_file(dir, "foo", "bar")


def test_files_are_removed(dir: str) -> None:
    """A missing one is an error only where it should be there."""
    fs.make_file(dir, "foo", [b"1"])
    fs.remove_file(dir, "foo")
    with refused(RAFT_IOERR, "unlink: no such file or directory"):
        fs.remove_file(dir, "foo")
    fs.remove_if_there(dir, "foo")


def test_a_file_is_cut_and_synced_before_it_is_renamed(dir: str, calls: Recorder) -> None:
    """A file that has the new name is replaced."""
    fs.close(fs.allocate_file(dir, "open-1", 4096, True))
    fs.make_file(dir, "closed", [b"old"])
    calls.calls.clear()
    fs.truncate_and_rename(dir, "open-1", 80, "closed")
    assert calls.calls == [
        "open open-1",
        "fsync open-1",
        "ftruncate open-1",
        "fsync open-1",
        "rename open-1 closed",
    ]
    assert fs.read_file(dir, "closed") == bytes(80)
    fd = fs.open_file(dir, "closed", os.O_RDONLY)
    assert fs.noted_size(fd, Refusals(dir)) == 0
    fs.close(fd)


@pytest.mark.parametrize(
    ("step", "text"), [("ftruncate open-1", "truncate: i/o error"), ("fsync open-1", "fsync: i/o error")]
)
def test_a_file_that_cannot_be_cut_keeps_its_name(dir: str, calls: Recorder, step: str, text: str) -> None:
    """The rename is not tried."""
    fs.make_file(dir, "open-1", [bytes(100)])
    calls.failing[step] = errno.EIO
    with refused(RAFT_IOERR, text):
        fs.truncate_and_rename(dir, "open-1", 80, "closed")
    assert fs.list_dir(dir) == ["open-1"]


def test_descriptors_are_not_inherited(dir: str) -> None:
    """A child process of the embedder does not keep the data directory busy."""
    fd = fs.open(f"{dir}/foo", fs.O_CREATE_NEW)
    assert not os.get_inheritable(fd)
    fs.close(fd)


@pytest.mark.parametrize("fallback", [False, True], ids=["statx", "fstat"])
def test_a_removed_file_has_no_links(dir: str, monkeypatch: pytest.MonkeyPatch, fallback: bool) -> None:
    """Names are counted, with and without statx; a closed descriptor is an error."""
    if fallback:
        monkeypatch.setattr(libc, "_statx", None)
    path = os.path.join(dir, "x")
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    os.link(path, path + "-too")
    assert fs.links(fd) == 2
    os.unlink(path)
    os.unlink(path + "-too")
    assert fs.links(fd) == 0
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        fs.links(fd)


def test_a_path_leads_to_its_file_until_something_is_changed(dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file may be removed, replaced, renamed, or what it is in; a path to nothing fails, and so does no statx."""
    data = os.path.join(dir, "data")
    os.mkdir(data)
    path = os.path.join(data, "x")
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    place = fs.place(fd, path)
    assert fs.leads_to(place)
    os.rename(data, data + "-moved")
    with pytest.raises(FileNotFoundError):
        fs.leads_to(place)
    os.mkdir(data)
    Path(path).touch()
    assert not fs.leads_to(place)
    shutil.rmtree(data)
    os.rename(data + "-moved", data)
    assert fs.leads_to(place)
    os.link(path, path + "-too")  # it may be in a directory that has taken the place of this one
    assert not fs.leads_to(place)
    os.unlink(path + "-too")
    assert fs.leads_to(place)
    inode, major, minor = place._identity
    for identity in ((inode + 1, major, minor), (inode, major + 1, minor), (inode, major, minor + 1)):
        place._identity = identity  # as if it had been opened on another file system
        assert not fs.leads_to(place)
    os.unlink(path)
    with pytest.raises(FileNotFoundError):
        fs.leads_to(place)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        fs.place(fd, path)
    monkeypatch.setattr(libc, "_statx", None)
    with pytest.raises(OSError, match="not implemented"):
        fs.place(fd, path)
