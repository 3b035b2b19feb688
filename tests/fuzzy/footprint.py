"""The use of server processes, and whether it grows: memory, descriptors, threads, files and bytes on disk.

Duty: `Watch` takes a sample of every server now and then, keeps those of each life of each process, and judges them at
the end. A server that was never killed must not use more late in the run than early. Directories of the others,
whichever process wrote them, and the last lives of these must not use more late than that server used early.

Failure modes: AssertionError with the figures. The early sample is that of the second quarter: caches and pools have
filled by then. Medians are compared, as a snapshot being written doubles a figure for a moment.
"""

import os
import statistics
from pathlib import Path

from tests.lib.processes import Member

LONG_SECONDS = 600
"""From here on a run is long enough to judge memory closely."""


LIVES: dict[str, tuple[float, float]] = {
    "rss": (1.25, 8e6),
    "fds": (1.0, 8),
    "threads": (1.0, 2),
    "files": (1.0, 8),
    "bytes": (1.0, 24e6),
}
"""How much of what one process uses late may be more than early: a factor and an addition. Every open segment has eight
megabytes, and one descriptor."""


class Footprint:
    """One sample: resident bytes, file descriptors, threads; files in the directory and bytes allocated to them."""

    def __init__(self, member: Member) -> None:
        assert member.process is not None
        self.pid = member.process.pid
        status = Path(f"/proc/{self.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        self.rss = int(fields["VmRSS"].split()[0]) * 1024
        self.threads = int(fields["Threads"])
        self.fds = len(os.listdir(f"/proc/{self.pid}/fd"))
        self.files, self.bytes = directory(member.dir)

    def __str__(self) -> str:
        return (
            f"{self.rss / 1e6:.1f} MB, {self.fds} fds, {self.threads} threads, {self.files} files of "
            f"{self.bytes / 1e6:.1f} MB"
        )


def directory(dir: Path) -> tuple[int, int]:
    """Return number and allocated bytes of the files in a directory; some may go while they are counted."""
    sizes = []
    for entry in os.scandir(dir):
        try:
            sizes.append(entry.stat().st_blocks * 512)
        except FileNotFoundError:
            continue
    return len(sizes), sum(sizes)


class Watch:
    """All samples of all servers."""

    def __init__(self) -> None:
        self._samples: dict[int, list[Footprint]] = {}

    def sample(self, member: Member) -> Footprint:
        """Take a sample of a server that runs."""
        found = Footprint(member)
        self._samples.setdefault(member.id, []).append(found)
        return found

    def figures(self) -> list[str]:
        """Return a line for each server: begin and end of its last life, and how many lives it had."""
        lines = []
        for id, samples in sorted(self._samples.items()):
            lives = len({sample.pid for sample in samples})
            last = [sample for sample in samples if sample.pid == samples[-1].pid]
            lines.append(f"server {id}, {lives} lives seen, the last from {last[0]} to {last[-1]}")
        return lines

    def judge(self, seconds: float, spared: int) -> str:
        """Check that nothing has grown in a run of so many seconds, and return the figures of the spared server.

        Others are held to what the spared one used early: they may not have been members then, with nothing on disk.
        """
        model, late = _parts(self._samples[spared])
        rss = (1.05, 2e6) if seconds >= LONG_SECONDS else LIVES["rss"]
        figures = _compare(f"server {spared}", model, late, {**LIVES, "rss": rss})
        for id, samples in sorted(self._samples.items()):
            if id != spared:
                _, disk = _parts(samples)
                _compare(f"server {id}", model, disk, {what: LIVES[what] for what in ("files", "bytes")})
                last = [sample for sample in samples if sample.pid == samples[-1].pid]
                _compare(f"server {id}, last life", model, last[len(last) // 2 :], LIVES)
        return figures


def _parts(samples: list[Footprint]) -> tuple[list[Footprint], list[Footprint]]:
    """Return the early and the late samples: the second and the last quarter."""
    n = len(samples)
    return samples[n // 4 : n // 2 + 1], samples[-max(n // 4, 1) :]


def _compare(who: str, early: list[Footprint], late: list[Footprint], limits: dict[str, tuple[float, float]]) -> str:
    """Check medians against those of earlier samples, times a factor, plus some slack; return them as a text."""
    told = []
    for what, (factor, slack) in limits.items():
        before, after = (statistics.median(getattr(sample, what) for sample in part) for part in (early, late))
        told.append(f"{what} {before:.0f} to {after:.0f}")
        assert after <= before * factor + slack, f"{what} of {who} went from {before:.0f} to {after:.0f}"
    return f"{who} early to late: {', '.join(told)}"
