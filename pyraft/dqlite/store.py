"""The node store of go-dqlite's app: `info.yaml`, who this node is, and `cluster.yaml`, where the others are.

Duty: read and write both, so that a directory can go from a Go program to this one and back; `NodeStore` has clients
find the nodes by the second. Source: app/files.go, client/store.go of canonical/go-dqlite.

Happy path: `write_info(directory, Info(id, address, role))`. A file is written beside the old one and renamed.

Failure modes: a file that does not read as these two raises Refused, with its path; it is the subset of YAML that both
programs write, not YAML. OSError where the disk fails.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from io_uv import fs
from io_uv.dqlite.responses import Member
from io_uv.failure import Failure
from pyraft.dqlite.errors import Refused

INFO: Final = "info.yaml"
CLUSTER: Final = "cluster.yaml"

_log: Final = logging.getLogger("pyraft")

_LINE: Final = re.compile(r"(?P<first>- |  |)(?P<key>\w+): *(?P<value>.*)")


@dataclass(frozen=True)
class Info:
    """A node; its role is that of the wire: 0 voter, 1 stand-by, 2 spare."""

    id: int
    address: str
    role: int


class NodeStore:
    """The addresses of nodes in a file as cluster.yaml is, for `Client` and `Cluster`.

    It is read anew each time that the leader is looked for. With `keep` it is written when the members are others
    than in it; it may not be there yet then, and `first` has the addresses to begin with.
    """

    def __init__(self, path: str | os.PathLike[str], *, keep: bool = False, first: Iterable[str] = ()) -> None:
        self.path = Path(path)
        self.keep = keep
        self.first = list(first)

    def addresses(self) -> list[str]:
        """Return the addresses, those of voters first. Raises Refused for a file that does not read as one, OSError."""
        known = sorted(_read(self.path), key=lambda one: one.role)
        return list(dict.fromkeys([*[one.address for one in known], *self.first]))

    def note(self, members: Sequence[Member]) -> None:
        """Take note of the members, as the leader has just told them. A file that cannot be written stays as it is."""
        if not self.keep:
            return
        found = [Info(one.id, one.address, one.role or 0) for one in members]
        try:
            if found != _read(self.path):
                _write(os.fspath(self.path.parent), self.path.name, cluster_text(found))
        except OSError as exc:
            _log.warning("%s is not what the members are: %s", self.path, exc)


def read_info(directory: str) -> Info | None:
    """Return who the node of a directory is, None if nothing says so."""
    found = _read(Path(directory, INFO))
    return found[0] if found else None


def read_cluster(directory: str) -> list[Info]:
    """Return the members as they were known last."""
    return _read(Path(directory, CLUSTER))


def write_info(directory: str, info: Info) -> None:
    """Write who the node is."""
    _write(directory, INFO, info_text(info))


def write_cluster(directory: str, members: Sequence[Info]) -> None:
    """Write who the members are."""
    _write(directory, CLUSTER, cluster_text(members))


def info_text(info: Info) -> str:
    """Return the content of info.yaml."""
    return "".join([f"{line}\n" for line in _lines(info)])


def cluster_text(members: Sequence[Info]) -> str:
    """Return the content of cluster.yaml."""
    text = ""
    for one in members:
        first, *rest = _lines(one)
        text += f"- {first}\n" + "".join([f"  {line}\n" for line in rest])
    return text


def _lines(info: Info) -> list[str]:
    return [f"Address: {json.dumps(info.address)}", f"ID: {info.id}", f"Role: {info.role}"]


def _write(directory: str, name: str, text: str) -> None:
    try:
        fs.replace_file(directory, name, text.encode())
    except Failure as failure:
        raise OSError(failure.message) from None


def _read(path: Path) -> list[Info]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    except UnicodeDecodeError:
        raise Refused(f"{path} is not a text") from None
    records: list[dict[str, str]] = []
    for line in lines:
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            if line.strip() in ("", "[]", "---"):
                continue
            raise Refused(f"{path} has a line of another form: {line!r}")
        if match["first"] == "- " or not records:
            records.append({})
        records[-1][match["key"].lower()] = match["value"].strip()
    return [_info(path, record) for record in records]


def _info(path: Path, record: dict[str, str]) -> Info:
    try:
        return Info(int(record["id"]), _text(record["address"]), int(record.get("role", "0")))
    except (KeyError, ValueError):
        raise Refused(f"{os.fspath(path)} has a node without an id or an address") from None


def _text(value: str) -> str:
    if value.startswith('"'):
        return str(json.loads(value))
    if value.startswith("'") and value.endswith("'"):
        return value[1:-1].replace("''", "'")
    return value
