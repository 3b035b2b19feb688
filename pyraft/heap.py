"""Memory functions of raft.h.

Duty: `raft_malloc` and its kin exist so that code carried over from C runs, and so that allocation faults can be
injected: a RaftHeap set with `raft_heap_set` serves them and the library's own aligned I/O buffers.
An allocation is a bytearray (an aligned one a memoryview on page-aligned memory); None stands for NULL.

Failure modes: a heap function that returns None is an allocation that failed; callers answer RAFT_NOMEM.
"""

import mmap
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from mypy_extensions import mypyc_attr

Memory: TypeAlias = bytearray | memoryview
"""An allocation: something to write bytes into."""


@mypyc_attr(allow_interpreted_subclasses=True)
class RaftHeap:
    """`struct raft_heap`: an allocator; every function takes `data` first, as in C."""

    __slots__ = ("aligned_alloc", "aligned_free", "calloc", "data", "free", "malloc", "realloc")

    def __init__(self) -> None:
        self.data: Any = None
        self.malloc: Callable[[Any, int], Memory | None] = _malloc
        self.free: Callable[[Any, Memory], None] = _free
        self.calloc: Callable[[Any, int, int], Memory | None] = _calloc
        self.realloc: Callable[[Any, Memory | None, int], Memory | None] = _realloc
        self.aligned_alloc: Callable[[Any, int, int], Memory | None] = _aligned_alloc
        self.aligned_free: Callable[[Any, int, Memory], None] = _aligned_free


def _zeros(size: int) -> bytearray | None:
    """Return so many bytes; None where there are fewer, and for a size below 0."""
    try:
        return bytearray(size)
    except (MemoryError, OverflowError, ValueError):
        return None


def _malloc(data: Any, size: int) -> Memory | None:
    return _zeros(size)


def _free(data: Any, ptr: Memory) -> None:
    return None


def _calloc(data: Any, nmemb: int, size: int) -> Memory | None:
    return _zeros(nmemb * size) if nmemb >= 0 and size >= 0 else None


def _realloc(data: Any, ptr: Memory | None, size: int) -> Memory | None:
    fresh = _zeros(size)
    if ptr is not None and fresh is not None:
        kept = min(size, len(ptr))
        fresh[:kept] = ptr[:kept]
    return fresh


def _aligned_alloc(data: Any, alignment: int, size: int) -> Memory | None:
    if alignment > mmap.PAGESIZE or size <= 0:
        return None
    try:
        # Private: a forked child must not be able to change what its parent is writing to the disk.
        return memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))[:size]
    except (OSError, MemoryError, OverflowError, ValueError):
        return None


def _aligned_free(data: Any, alignment: int, ptr: Memory) -> None:
    return None


_default: Final = RaftHeap()
_current: list[RaftHeap] = [_default]


def raft_malloc(size: int) -> Memory | None:
    """Return a zeroed bytearray of `size` bytes, or None if the current heap has none (raft.h)."""
    heap = _current[0]
    return heap.malloc(heap.data, size)


def raft_free(ptr: Memory | None) -> None:
    """Release memory of raft_malloc, raft_calloc or raft_realloc; None is allowed (raft.h)."""
    if ptr is None:
        return
    heap = _current[0]
    heap.free(heap.data, ptr)


def raft_calloc(nmemb: int, size: int) -> Memory | None:
    """Return a zeroed bytearray of nmemb * size bytes, or None (raft.h)."""
    heap = _current[0]
    return heap.calloc(heap.data, nmemb, size)


def raft_realloc(ptr: Memory | None, size: int) -> Memory | None:
    """Return a bytearray of `size` bytes that starts with the content of `ptr`, or None (raft.h)."""
    heap = _current[0]
    return heap.realloc(heap.data, ptr, size)


def raft_aligned_alloc(alignment: int, size: int) -> Memory | None:
    """Return a writable memoryview of `size` bytes at an address that is a multiple of `alignment`, or None.

    Source: raft.h.
    """
    heap = _current[0]
    return heap.aligned_alloc(heap.data, alignment, size)


def raft_aligned_free(alignment: int, ptr: Memory) -> None:
    """Release memory of raft_aligned_alloc (raft.h)."""
    heap = _current[0]
    heap.aligned_free(heap.data, alignment, ptr)


def raft_heap_set(heap: RaftHeap) -> None:
    """Make `heap` serve all allocations from now on (raft.h)."""
    _current[0] = heap


def raft_heap_set_default() -> None:
    """Go back to the default heap (raft.h)."""
    _current[0] = _default


def raft_heap_get() -> RaftHeap:
    """Return the heap in force, to put it back later or to defer to it (raft.h)."""
    return _current[0]
