"""Random clusters whose servers take every message with several entries in pieces, as io_uv does with large ones.

Leaders are of ours and like C's. The rest of a message is lost now and then, as with its connection, and does not come
behind a refusal. A failing seed repeats with the test of its name.
"""

from collections import Counter

import pytest

from io_uv import pieces
from pyraft.types import EntryBatch, RaftMessage
from tests.fuzzy.__main__ import run_one
from tests.lib.simulation.node import Node

STEPS = 2000


pytestmark = pytest.mark.usefixtures("quiet_core")


@pytest.mark.parametrize("seed", range(60), ids=lambda seed: f"seed{seed}")
def test_no_invariant_breaks_in_pieces(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any length, answered one by one; nobody counts what is not stored."""
    receive = Node.receive
    seen: Counter[str] = Counter()

    def in_pieces(node: Node, message: RaftMessage) -> None:
        args = message.append_entries
        if args is None or len(args.entries) < 2 or args.partial or node.c_like:
            receive(node, message)
            return
        batch = EntryBatch.of(args.entries, len(args.entries))
        n = len(batch.bufs)
        step = 1 + (args.prev_log_index + n) % 3
        lost = (args.prev_log_index + node.id) % 7 == 0
        life = node.life
        waits = (args.prev_log_index + n + node.id) % 2 == 0
        for first in range(0, n, step):
            end = min(first + step, n)
            if waits and first > 0:
                beat = pieces.part(args, batch, first, first)
                beat.server_id, beat.server_address = message.server_id, message.server_address
                receive(node, beat)
                seen["beats"] += 1
                if node.life != life or (beat.append_entries is not None and beat.append_entries.refused):
                    return
            piece = pieces.part(args, batch, first, end)
            piece.server_id, piece.server_address = message.server_id, message.server_address
            part = piece.append_entries
            assert part is not None
            assert isinstance(part.entries, EntryBatch)
            part.entries.bufs = batch.bufs[first:end]
            receive(node, piece)
            seen["pieces"] += 1
            if part.refused or node.life != life or (lost and first > 0):
                seen["refused" if part.refused else "lost"] += 1
                return

    monkeypatch.setattr(Node, "receive", in_pieces)
    run_one(seed, STEPS)
    print(dict(seen))
