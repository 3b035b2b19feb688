"""A million hostile inputs: everything that takes bytes from outside is given bytes that nobody should send.

    python -m tests.fuzzy.hostile --inputs 1000000 --seed 7
    python -m tests.fuzzy.hostile --atheris 60

Duty: the first form mutates good inputs at random, the second lets atheris search for inputs that reach new code, where
it is installed (`pip install atheris`). Targets: whole connections (handshake and messages, in pieces), single headers,
configurations, segments, metadata, compressed snapshots, what dqlite says (`hostile_dqlite`), and the core itself, to
which such messages are delivered between ticks and completions.

These must hold: nothing but a Failure is raised, no input takes long, the process does not grow, and in the core no
exception, no lower term or commit index, no second vote in a term, and no stop without a proof that a peer has lied.

Failure modes: a finding is printed with the command that replays it, and the exit status is 1.
"""

import argparse
import importlib
import importlib.util
import random
import subprocess
import sys
import time
import traceback
import types
from collections.abc import Callable, Sequence
from typing import Any

from io_uv import compress, crc, encoding, metadata, open_segment, segment, sums
from io_uv.failure import Failure
from io_uv.recv import Reader
from io_uv.state import Limits
from io_uv.tcp_common import Handshake
from pyraft import RAFT_LEADER, RAFT_UNAVAILABLE, RaftApply, RaftFsm, configuration, raft_apply
from pyraft.types import (
    RAFT_BARRIER,
    RAFT_CHANGE,
    RAFT_COMMAND,
    EntryBatch,
    RaftAppendEntries,
    RaftEntry,
    RaftMessage,
)
from tests.fuzzy import hostile_dqlite, hostile_dqlite_machine
from tests.fuzzy.__main__ import quiet
from tests.lib import messages as m
from tests.lib import solo
from tests.lib.frames import framed
from tests.lib.peer import handshake, words
from tests.lib.solo import Solo

LIMITS = Limits()
SMALL = Limits()
SMALL.piece = 24
"""Limits with which most messages with entries are taken in pieces."""
STALL_SECONDS = 0.5
"""Processor time that no single input may take."""
GROWTH_KIB = 48 * 1024
"""The growth that the process is allowed after its first tenth of the inputs."""

_PROVEN_LIES = ("contradicts the leader's", "as well")
"""Texts with which a server stops because two leaders of a term, or two committed entries, cannot both be true."""


class Choices:
    """Decisions taken from bytes, 0 when they run out: the same bytes, the same story."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, n: int) -> int:
        """Return a number from 0 to n - 1."""
        if self._at >= len(self._data):
            return 0
        byte = self._data[self._at]
        self._at += 1
        return byte % n

    def pick(self, options: Sequence[Any]) -> Any:
        """Return one of the options."""
        return options[self.below(len(options))]

    @property
    def left(self) -> int:
        """Bytes left."""
        return len(self._data) - self._at


class Echo(RaftFsm):
    """A state machine that takes anything."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 1
        self.apply = lambda fsm, buf: (0, None)
        self.snapshot = lambda fsm: (0, [b"snapshot"])
        self.restore = lambda fsm, buf: 0


# Targets. Each takes bytes and raises an exception when something is wrong.


class _Owner:
    """The one who gets what a connection brings: `way` 0 takes all whole; 1 takes pieces, 2 slowly, 3 refuses some."""

    def __init__(self, way: int) -> None:
        self.way = way
        self.limits = SMALL if way else LIMITS
        self.reader = Reader(self.limits, self.deliver, "", (lambda: True) if way == 2 else None)
        self._before: RaftAppendEntries | None = None

    def deliver(self, message: RaftMessage) -> None:
        """See that a piece follows the one before, and that something follows it."""
        args, before = message.append_entries, self._before
        self._before = None
        if before is not None and not before.refused:
            assert args is not None
            assert isinstance(before.entries, EntryBatch)
            assert args.prev_log_index == before.prev_log_index + len(before.entries)
            assert args.prev_log_term == before.entries.terms[-1]
            assert (args.term, before.whole, before.question) == (before.term, False, 0)
        if args is None or not args.partial:
            return
        assert isinstance(args.entries, EntryBatch)
        sizes = [len(buf) for buf in args.entries.bufs if buf]
        assert sum(sizes) <= self.limits.piece or len(sizes) == 1
        assert args.leader_commit <= args.prev_log_index + len(args.entries)
        args.refused = self.way == 3 and args.prev_log_index % 3 == 0
        self._before = args

    def feed(self, data: bytes) -> None:
        """Take some bytes, and go on where the reader waits for that."""
        self.reader.feed(data)
        while self.reader.held:
            self.reader.resume(b"")


def connection(data: bytes) -> None:
    """Bytes as they arrive on a connection; the first one says in what pieces, and who takes them."""
    c = Choices(data[:1])
    size = c.pick((1, 7, 16, 64, 1000, 65536))
    hello = Handshake(LIMITS.handshake_address)
    owner: _Owner | None = None
    for at in range(1, len(data), size):
        piece = data[at : at + size]
        try:
            if owner is not None:
                owner.feed(piece)
            elif hello.feed(piece):
                owner = _Owner(data[0] // 6 % 4)
                owner.feed(hello.rest)
        except Failure:
            return


def header(data: bytes) -> None:
    """A header of the type that the first byte says."""
    size = len(data) - 1
    if size <= 0:
        return
    try:
        message, lengths, payload = encoding.decode_header(data[0] % 8, data, 1, size, LIMITS)
        if 0 < payload < 1 << 16:
            encoding.attach_payload(message, lengths, bytes(payload), 0, payload)
    except Failure:
        return
    # A value that was accepted can be encoded again.
    if not payload:
        encoding.encode_message(message)


def conf(data: bytes) -> None:
    """A configuration."""
    rv, decoded, _ = configuration.decode(data)
    if rv == 0 and decoded.servers:
        again = configuration.decode(configuration.encode(decoded))
        assert again[0] == 0
        assert len(again[1].servers) == len(decoded.servers)


def segment_file(data: bytes) -> None:
    """The content of a segment; checksums of the first batch are made right when the first byte says so."""
    content = bytearray(data[1:])
    if data[:1] < b"\x80" and len(content) >= 24:
        n = min(int.from_bytes(content[16:24], "little"), 64)
        end = 24 + 16 * n
        content[8:12] = crc.crc32(bytes(content[16:end])).to_bytes(4, "little")
        content[12:16] = crc.crc32(bytes(content[end:])).to_bytes(4, "little")
    open_segment.judge(bytes(content))
    segment.read_batches(bytes(content), EntryBatch([], [], []))


def small_files(data: bytes) -> None:
    """Metadata and a sidecar of checksums."""
    sums.decode(data)
    if len(data) == 32:
        try:
            metadata._decode("metadata1", data)
        except Failure:
            return


def compressed(data: bytes) -> None:
    """A compressed snapshot."""
    try:
        compress.decompress([data], len(data))
    except Failure:
        return


def core(data: bytes) -> None:
    """A server whose peers, disk and clock do what the bytes say."""
    c = Choices(data)
    servers = c.pick((1, 2, 3, 3, 3, 5))
    s = Solo(*[1] * servers, deferring=c.below(3) == 0, term=c.pick((1, 3)), fsm=Echo())  # type: ignore[arg-type]
    if servers > 1 and c.below(3) == 0:
        s.lead()
    votes: dict[int, int] = {}
    while c.left and s.state != RAFT_UNAVAILABLE:
        term, commit = s.r.current_term, s.r.commit_index
        _step(c, s)
        assert s.io.reported == []
        assert s.r.current_term >= term
        assert s.r.commit_index >= commit
        for call in s.io.calls:
            if call[0] == "set_vote":
                assert votes.setdefault(s.io.term, call[1]) == call[1], "two votes in a term"
        s.io.calls.clear()
    if s.state == RAFT_UNAVAILABLE:
        assert any(text in s.r.errmsg for text in _PROVEN_LIES), f"stopped: {s.r.errmsg!r}"


def _step(c: Choices, s: Solo) -> None:
    what = c.below(12)
    if what < 7:
        for message in _over_the_wire(_message(c, s), SMALL if c.below(3) == 0 else LIMITS):
            s.recv(message)
            if message.append_entries is not None and message.append_entries.refused:
                break  # as the reader would
    elif what == 7:
        s.tick(c.pick((50, 100, 1000, 3000)))
    elif what == 8 and s.io.appends:
        s.io.finish_append(c.pick((0, 0, 0, 18)))
    elif what == 9 and s.io.puts:
        s.io.finish_put(c.pick((0, 0, 18)))
    elif what == 10:
        s.io.finish_sends(c.pick((0, 0, 16)))
        s.io.messages.clear()
        s.io.turn()
    elif s.state == RAFT_LEADER:
        raft_apply(s.r, RaftApply(), [bytes(16)], 1, lambda req, status, result: None)


def _near(c: Choices, n: int) -> int:
    """Return a number near `n`, mostly."""
    kind = c.below(10)
    if kind < 6:
        return max(0, n + c.below(7) - 3)
    if kind < 8:
        return c.below(12)
    number: int = c.pick((0, 1, (1 << 63) - 1, (1 << 63) - 2, 1 << 32, (1 << 32) - 1, 255))
    return number


def _message(c: Choices, s: Solo) -> RaftMessage:
    """Return a message that says something about the server's term and log, true or not, from a member or not."""
    src = c.pick((2, 3, 2, 3, 4, 99, (1 << 64) - 1))
    term, last = _near(c, s.r.current_term), s.r.last_stored
    index, index_term = _near(c, last), _near(c, s.r.current_term)
    kind = c.below(6)
    if kind == 0:
        return m.append_entries(src, term, index, index_term, _near(c, last), _entries(c, s))
    if kind == 1:
        return m.append_entries_result(src, term, index, c.pick((0, 0, _near(c, last))))
    if kind == 2:
        flags = {"disrupt": c.below(3) == 0, "pre_vote": c.below(3) == 0}
        return m.request_vote(src, term, index, index_term, candidate=c.pick((0, 0, 1, 2, 99)), **flags)
    if kind == 3:
        return m.request_vote_result(src, term, c.below(3) > 0, pre_vote=c.below(3) == 0, version=1 + c.below(2))
    if kind == 4:
        return m.install_snapshot(src, term, index, index_term, _configuration(c), _near(c, last), bytes(16))
    return m.timeout_now(src, term, index, index_term)


def _configuration(c: Choices) -> Any:
    return solo.configuration(*[c.below(3) for _ in range(1 + c.below(3))])


def _entries(c: Choices, s: Solo) -> list[RaftEntry]:
    entries = []
    for _ in range(c.below(4)):
        term = max(1, _near(c, s.r.current_term))
        type = c.pick((RAFT_COMMAND, RAFT_COMMAND, RAFT_BARRIER, RAFT_CHANGE))
        if type == RAFT_CHANGE:
            entries.append(solo.change(term, _configuration(c)))
        else:
            entries.append(RaftEntry(term, type, bytes(16)))
    return entries


def _over_the_wire(message: RaftMessage, limits: Limits) -> list[RaftMessage]:
    """Return the message as a peer would receive it, perhaps in pieces; none if the border refuses it."""
    delivered: list[RaftMessage] = []
    try:
        Reader(limits, delivered.append).feed(_wire(message))
    except Failure:
        return []
    for one in delivered:
        one.server_id = message.server_id
        one.server_address = message.server_address
    return delivered


# Good inputs, to be spoilt.


def _wire(*messages: RaftMessage) -> bytes:
    return b"".join(bytes(buf) for message in messages for buf in encoding.encode_message(message))


def _good_messages() -> list[bytes]:
    servers = solo.configuration(1, 1, 0)
    entries = [RaftEntry(2, RAFT_COMMAND, bytes(8)), solo.change(2, servers), RaftEntry(3, RAFT_BARRIER, b"")]
    return [
        _wire(message)
        for message in (
            m.append_entries(2, 3, 1, 1, 1, entries),
            m.append_entries(2, 3, 1, 1, 1, [RaftEntry(3, RAFT_COMMAND, bytes(16))] * 8),
            m.append_entries(2, 3, 1, 1),
            m.append_entries_result(2, 3, 9),
            m.request_vote(2, 3, 9, 2),
            m.request_vote_result(2, 3),
            m.install_snapshot(2, 3, 9, 2, servers, 1, bytes(64)),
            m.timeout_now(2, 3, 9, 2),
        )
    ]


def _good_segments() -> list[bytes]:
    batch = EntryBatch([1, 2], [1, 2], [bytes(8), bytes(range(24))])
    one = b"".join(bytes(buf) for buf in segment.encode_batch(batch))
    return [b"\x80" + words(1) + one, b"\x80" + words(1) + one * 3 + bytes(64), b"\0" + words(1) + one]


def corpus(rng: random.Random) -> dict[str, list[bytes]]:
    """Return good inputs for every target."""
    good = _good_messages()
    hello = handshake(2, "127.0.0.1:9002")
    frame = framed([bytes(100), b"x" * 3000])
    return {
        "connection": [bytes([i]) + hello + b"".join(good[i % 6 :] + good[: i % 6]) for i in range(24)],
        "header": [data[:1] + data[16:] for data in good],
        "conf": [configuration.encode(solo.configuration(*[1] * n)) for n in (1, 3, 7)],
        "segment_file": _good_segments(),
        "small_files": [words(1, 5, 3, 2), sums.encode(5, 77)],
        "compressed": [frame],
        **hostile_dqlite_machine.corpus(),
        "core": [rng.randbytes(400) for _ in range(50)],
        **hostile_dqlite.corpus(),
    }


TARGETS: dict[str, tuple[Callable[[bytes], None], int]] = {
    "connection": (connection, 40),
    "header": (header, 30),
    "conf": (conf, 8),
    "segment_file": (segment_file, 8),
    "small_files": (small_files, 4),
    "compressed": (compressed, 4),
    "dqlite_machine": (hostile_dqlite_machine.dqlite_machine, 2),
    "core": (core, 6),
    "dqlite_requests": (hostile_dqlite.dqlite_requests, 10),
    "dqlite_responses": (hostile_dqlite.dqlite_responses, 10),
    "dqlite_session": (hostile_dqlite.dqlite_session, 4),
    "dqlite_upgrade": (hostile_dqlite.dqlite_upgrade, 5),
    "dqlite_commands": (hostile_dqlite.dqlite_commands, 5),
    "dqlite_snapshots": (hostile_dqlite.dqlite_snapshots, 3),
}
"""Functions and how often each one gets an input, as against the others."""

_NUMBERS = [0, 1, 2, 3, 5, 7, 8, 16, 24, 40, 64, 255, 1 << 16, 1 << 22, 1 << 30, 1 << 31, (1 << 32) - 1, 1 << 32]
_NUMBERS += [(1 << 63) - 1, 1 << 63, (1 << 64) - 1]


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Spoil an input in one to four places."""
    spoilt = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        at = rng.randrange(len(spoilt) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(spoilt):
            spoilt[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            # A word, where words are in most formats: behind a first byte.
            at = (at & ~7) + rng.choice((0, 1))
            spoilt[at : at + 8] = words(rng.choice(_NUMBERS))
        elif kind == 2:
            del spoilt[at : at + rng.randrange(1, 64)]
        elif kind == 3:
            spoilt[at:at] = rng.randbytes(rng.randrange(1, 32))
        elif kind == 4:
            del spoilt[at:]
        else:
            spoilt[at : at + 4] = rng.choice(_NUMBERS[:17]).to_bytes(4, "little")
    return bytes(spoilt)


class Report:
    """The findings of a run."""

    def __init__(self) -> None:
        self.inputs = dict.fromkeys(TARGETS, 0)
        self.slowest = 0.0
        self.slowest_target = ""
        self.growth_kib = 0

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {n}" for name, n in self.inputs.items())
        return (
            f"{sum(self.inputs.values())} inputs ({parts}); slowest {self.slowest * 1000:.1f} ms in "
            f"{self.slowest_target}; the process grew by {self.growth_kib} KiB"
        )


def resident_kib() -> int:
    """Return the resident memory of this process in KiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4


def run(inputs: int, seed: int, target: str | None = None) -> Report:
    """Try so many inputs; AssertionError with a command that replays it for the first that does harm."""
    rng = random.Random(seed)
    good = corpus(rng)
    names = [target] if target else list(TARGETS)
    weights = [TARGETS[name][1] for name in names]
    report = Report()
    after_warm_up = 0
    for i in range(inputs):
        if i == inputs // 10:
            after_warm_up = resident_kib()
        [name] = rng.choices(names, weights)
        data = mutate(rng, rng.choice(good[name]))
        if name == "core" and rng.randrange(4) == 0:
            data = rng.randbytes(rng.randrange(1, 600))
        seconds = try_input(name, data)
        report.inputs[name] += 1
        if seconds > report.slowest:
            report.slowest, report.slowest_target = seconds, name
    report.growth_kib = resident_kib() - after_warm_up
    assert report.growth_kib < GROWTH_KIB, f"the process grew: {report}"
    return report


def try_input(name: str, data: bytes) -> float:
    """Give one input to a target; return the processor time it took."""
    replay = f"replay: python -m tests.fuzzy.hostile --replay {name}:{data.hex()}"
    begin = time.thread_time()
    try:
        TARGETS[name][0](data)
    except Exception as exc:
        raise AssertionError(f"{exc!r}; {replay}") from exc
    seconds = time.thread_time() - begin
    assert seconds < STALL_SECONDS, f"{seconds:.1f} s; {replay}"
    return seconds


# Guided by coverage.


def guided(seconds: int) -> int:
    """Run atheris in a process of its own, because it ends the one that it is in; return the exit status."""
    if importlib.util.find_spec("atheris") is None:
        print("atheris: skipped, it is not installed (pip install atheris)")
        return 0
    command = [sys.executable, "-m", "tests.fuzzy.hostile", "--atheris-child", str(seconds)]
    return subprocess.run(command, check=False).returncode


def _guided_child(seconds: int) -> None:
    atheris: Any = importlib.import_module("atheris")
    names = list(TARGETS)

    def one_input(data: bytes) -> None:
        if data:
            try_input(names[data[0] % len(names)], data[1:])

    for module in list(sys.modules.values()):
        if module.__name__.startswith(("io_uv.", "pyraft.")) and "pyuv" not in module.__name__:
            for owner in (module, *(part for part in vars(module).values() if isinstance(part, type))):
                for part in list(vars(owner).values()):
                    if isinstance(part, types.FunctionType) and part.__module__ == module.__name__:
                        atheris.instrument_func(part)
    options = [f"-max_total_time={seconds}", "-rss_limit_mb=2048", "-max_len=1024", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options], one_input)
    atheris.Fuzz()


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many inputs to try (default: a million)")
    parser.add_argument("--seed", type=int, default=None, help="seed of the random numbers (default: random)")
    parser.add_argument("--target", choices=list(TARGETS), help="one target only")
    parser.add_argument("--replay", metavar="TARGET:HEX", help="give one input to one target")
    parser.add_argument(
        "--atheris", type=int, default=0, metavar="SECONDS", help="let atheris search for so long as well"
    )
    parser.add_argument("--atheris-child", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    quiet()
    if args.atheris_child:
        _guided_child(args.atheris_child)
    if args.replay:
        name, _, data = args.replay.partition(":")
        TARGETS[name][0](bytes.fromhex(data))
        print("no harm done")
        return 0
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    begin = time.monotonic()
    try:
        report = run(args.inputs, seed, args.target)
    except AssertionError:
        traceback.print_exc()
        return 1
    print(f"{report}; {time.monotonic() - begin:.0f} s")
    return guided(args.atheris) if args.atheris else 0


if __name__ == "__main__":
    sys.exit(main())
