"""The node store of go-dqlite's app: `info.yaml`, who this node is, and `cluster.yaml`, where the others are.

Duty: read and write both, so that a directory can go from a Go program to this one and back. Source: app/files.go,
client/store.go of canonical/go-dqlite.

Happy path: `write_info(directory, Info(id, address, role))`. A file is written beside the old one and renamed.

Failure modes: a file that does not read as these two raises Refused, with its path; it is the subset of YAML that both
programs write, not YAML. OSError where the disk fails.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from io_uv import fs
from io_uv.failure import Failure
from pyraft.dqlite.errors import Refused

INFO: Final = "info.yaml"
CLUSTER: Final = "cluster.yaml"

_LINE: Final = re.compile(r"(?P<first>- |  |)(?P<key>\w+): *(?P<value>.*)")


@dataclass(frozen=True)
class Info:
    """A node; its role is that of the wire: 0 voter, 1 stand-by, 2 spare."""

    id: int
    address: str
    role: int


def read_info(directory: str) -> Info | None:
    """Return who the node of a directory is, None if nothing says so."""
    found = _read(Path(directory, INFO))
    return found[0] if found else None


def read_cluster(directory: str) -> list[Info]:
    """Return the members as they were known last."""
    return _read(Path(directory, CLUSTER))


def write_info(directory: str, info: Info) -> None:
    """Write who the node is."""
    _write(directory, INFO, "".join([f"{line}\n" for line in _lines(info)]))


def write_cluster(directory: str, members: Sequence[Info]) -> None:
    """Write who the members are."""
    text = ""
    for one in members:
        first, *rest = _lines(one)
        text += f"- {first}\n" + "".join([f"  {line}\n" for line in rest])
    _write(directory, CLUSTER, text)


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
            raise Refused(f"{path} has a line that says nothing: {line!r}")
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
