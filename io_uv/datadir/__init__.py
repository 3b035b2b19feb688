"""Data directories of stopped servers: look into them, check them, mend them.

Duty: the tools for an operator whose server does not start, for directories of this library, of libraft 0.9 to 0.18, of
cowsql and of dqlite, which have one format. The command `pyraft dir` is a thin layer over these functions.

Happy path:

    with datadir.hold(path):
        contents = datadir.read(path)           # what is there
        findings = datadir.check(path)          # what is wrong with it
        rehearsal = datadir.rehearse(path)      # what a start would do
        plan = datadir.repair(path)             # how to mend it; apply=True does it
        datadir.export(path, file)              # all of it in one file, from which import_ makes a directory

Failure modes: `io_uv.failure.Failure` with a RAFT_* code and a text; RAFT_BUSY if a server has the directory.
"""

from io_uv.datadir.archive import Archive, Archived, examine, export, import_
from io_uv.datadir.content import (
    VERDICTS,
    Contents,
    Entry,
    MetadataFile,
    SegmentFile,
    SnapshotFile,
    entries,
    read,
)
from io_uv.datadir.findings import DAMAGE, LOSS, NOTE, Finding, check
from io_uv.datadir.merging import Merge, merge
from io_uv.datadir.occupancy import hold
from io_uv.datadir.planting import plant
from io_uv.datadir.progress import Progress
from io_uv.datadir.recovery import Position, Refused, position, recover
from io_uv.datadir.rehearsal import Rehearsal, rehearse
from io_uv.datadir.renumbering import Seat, renumber
from io_uv.datadir.repairs import Repair, repair
from io_uv.datadir.speed import Speed, advise, measure
from io_uv.failure import Failure

__all__ = [
    "DAMAGE",
    "LOSS",
    "NOTE",
    "VERDICTS",
    "Archive",
    "Archived",
    "Contents",
    "Entry",
    "Failure",
    "Finding",
    "Merge",
    "MetadataFile",
    "Position",
    "Progress",
    "Refused",
    "Rehearsal",
    "Repair",
    "Seat",
    "SegmentFile",
    "SnapshotFile",
    "Speed",
    "advise",
    "check",
    "entries",
    "examine",
    "export",
    "hold",
    "import_",
    "measure",
    "merge",
    "plant",
    "position",
    "read",
    "recover",
    "rehearse",
    "renumber",
    "repair",
]
