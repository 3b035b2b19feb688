"""The times that an instance measures for those who watch it, beside the writes of entries.

Duty: `Figures` has how late the tick of the loop is, when members were heard of last, and how long snapshots take to be
stored, installed and read, with their sizes. Each costs two looks at a clock per tick, or per snapshot: messages are
counted anyway, and a tick looks whose count has grown.

Happy path: `uv`, `snapshot` observe; `health` hands them to whoever asks. Failure modes: none.
"""

from io_uv.histogram import Histogram


class Sized(Histogram):
    """Times that things of different sizes take, and the sum of their sizes, in bytes."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def note(self, seconds: float, size: int) -> None:
        """Count one thing."""
        self.observe(seconds)
        self.bytes += size


class Figures:
    """See the head of this module."""

    __slots__ = ("contacts", "due", "installed", "lateness", "loaded", "stored")

    def __init__(self) -> None:
        self.due = 0.0
        """When the next tick is due, by time.monotonic(); 0 as long as there are none."""
        self.lateness = Histogram()
        """How late ticks were: for so long something else has held the loop."""
        self.stored = Sized()
        """Snapshots of this server's own, put on the disk; sizes are those of the files."""
        self.installed = Sized()
        """Those of a leader's, likewise."""
        self.loaded = Sized()
        """Those that were read, to be sent."""
        self.contacts: dict[int, float] = {}
        """When a message of each member came last, by time.monotonic(), to a tick; by id."""

    def tick(self, now: float, interval: float) -> None:
        """A tick has come, and the next is due after `interval` seconds."""
        self.lateness.observe(max(0.0, now - self.due))
        self.due = now + interval
