"""Links in a data directory lead nowhere, all but files are refused, directories that others may write are told."""

import os
import socket
import stat
from pathlib import Path

import pytest

from io_uv import fs, sums
from io_uv.failure import Failure
from pyraft.errors import RAFT_INVALID
from tests.lib.uvtest import UvIo

NAMES = [
    "metadata1",
    "metadata2",
    "metadata1.sum",
    "0000000000000001-0000000000000001",
    "open-1",
    "log-set-aside",
    "corrupt-1-open-1",
]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_link_in_a_data_directory_is_refused(tmp_path: Path, name: str, there: bool) -> None:
    """Whether it leads to a file or to nothing: else a server would write there, or take what is there for its own."""
    target = tmp_path / "target"
    if there:
        target.write_bytes(b"precious")
    dir = tmp_path / "data"
    dir.mkdir()
    (dir / name).symlink_to(target)
    f = UvIo(dir)
    assert f.init() == RAFT_INVALID
    assert f.io.errmsg == f"{name} in directory '{dir}' is a symbolic link"
    f.close()
    assert (dir / name).is_symlink()
    assert (target.read_bytes() if there else not target.exists()) in (b"precious", True)


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_file_is_refused(tmp_path: Path, near_path: Path, name: str, kind: str) -> None:
    """A server that opens a FIFO would wait for its other end for ever, in raft_init."""
    path = tmp_path / name
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(near_path / name))
    else:
        try:
            os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
        except OSError:
            pytest.skip("devices take root")
    f = UvIo(tmp_path)
    assert f.init() == RAFT_INVALID
    assert f.io.errmsg == f"{name} in directory '{tmp_path}' is a {kind}"
    f.close()
    assert path.exists()


def test_links_of_other_names_and_to_the_directory_are_fine(tmp_path: Path) -> None:
    """Files that are not ours are not looked at, and where the directory is is the operator's business."""
    dir = tmp_path / "data"
    dir.mkdir()
    (dir / "notes").symlink_to("nowhere")
    (tmp_path / "link").symlink_to(dir)
    f = UvIo(tmp_path / "link").start()
    f.append()
    f.close()


def test_a_link_that_appears_later_is_not_followed(tmp_path: Path) -> None:
    """It is neither for writing nor for reading; a sidecar is left out then, as whenever it cannot be written."""
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    dir = tmp_path / "data"
    dir.mkdir()
    f = UvIo(dir).start()
    assert f.io.set_term(f.io, 1) == 0
    for name in ("metadata1.sum", "metadata2", "metadata2.sum"):
        (dir / name).unlink(missing_ok=True)
        (dir / name).symlink_to(target)
    assert f.io.set_term(f.io, 2) != 0
    assert "too many symbolic links" in f.io.errmsg
    sums.store(str(dir), "metadata1", 1, 1, durable=False)
    assert sums.load(str(dir), "metadata1") is None
    with pytest.raises(Failure):
        fs.read_file(str(dir), "metadata2")
    f.close()
    assert target.read_bytes() == b"precious"


def test_a_directory_that_others_may_write_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They could replace the log; a directory of the own is not told."""
    dir = tmp_path / "data"
    dir.mkdir(mode=0o755)
    UvIo(dir).start().close()
    assert caplog.records == []
    os.chmod(dir, 0o777)
    UvIo(dir).start().close()
    assert [record.getMessage() for record in caplog.records] == [f"{dir} may be written by others (mode 777)"]
