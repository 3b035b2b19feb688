"""Frames of LZ4 in one piece, as the library writes them in many."""

from collections.abc import Iterable

from io_uv import compress
from io_uv.fs import CHUNK
from pyraft.types import BytesLike


def framed(bufs: Iterable[BytesLike]) -> bytes:
    """Return the frame whose content is the buffers one after the other."""
    pieces = []
    for buf in bufs:
        view = memoryview(buf)
        if view.nbytes:
            view = view.cast("B")
            pieces += [view[at : at + CHUNK] for at in range(0, len(view), CHUNK)]
    if not pieces:
        return compress.EMPTY_FRAME
    blocks = compress.Blocks()
    frame = b"".join(blocks.over(pieces))
    return compress.header(blocks.size) + frame
