"""Memory functions of raft.h.

Duty: `raft_malloc` and its kin exist so that code carried over from C runs, and so that allocation faults can be
injected: a RaftHeap set with `raft_heap_set` serves them and the library's own aligned I/O buffers.
An allocation is a bytearray (an aligned one a memoryview on page-aligned memory); None stands for NULL.

Failure modes: a heap function that returns None is an allocation that failed; callers answer RAFT_NOMEM.
"""

import mmap
from typing import Any, Final

from mypy_extensions import mypyc_attr


@mypyc_attr(allow_interpreted_subclasses=True)
class RaftHeap:
    """`struct raft_heap`: an allocator; every function takes `data` first, as in C."""

    __slots__ = ("aligned_alloc", "aligned_free", "calloc", "data", "free", "malloc", "realloc")

    def __init__(self) -> None:
        self.data: Any = None
        self.malloc: Any = _malloc
        self.free: Any = _free
        self.calloc: Any = _calloc
        self.realloc: Any = _realloc
        self.aligned_alloc: Any = _aligned_alloc
        self.aligned_free: Any = _aligned_free


def _malloc(data: Any, size: int) -> Any:
    return bytearray(size)


def _free(data: Any, ptr: Any) -> None:
    return None


def _calloc(data: Any, nmemb: int, size: int) -> Any:
    return bytearray(nmemb * size)


def _realloc(data: Any, ptr: Any, size: int) -> Any:
    fresh = bytearray(size)
    if ptr is not None:
        kept = min(size, len(ptr))
        fresh[:kept] = ptr[:kept]
    return fresh


def _aligned_alloc(data: Any, alignment: int, size: int) -> Any:
    if alignment > mmap.PAGESIZE or size == 0:
        return None
    return memoryview(mmap.mmap(-1, size))[:size]


def _aligned_free(data: Any, alignment: int, ptr: Any) -> None:
    return None


_default: Final = RaftHeap()
_current: list[RaftHeap] = [_default]


def raft_malloc(size: int) -> Any:
    """Return a zeroed bytearray of `size` bytes, or None if the current heap has none."""
    heap = _current[0]
    return heap.malloc(heap.data, size)


def raft_free(ptr: Any) -> None:
    """Release memory of raft_malloc, raft_calloc or raft_realloc; None is allowed."""
    if ptr is None:
        return
    heap = _current[0]
    heap.free(heap.data, ptr)


def raft_calloc(nmemb: int, size: int) -> Any:
    """Return a zeroed bytearray of nmemb * size bytes, or None."""
    heap = _current[0]
    return heap.calloc(heap.data, nmemb, size)


def raft_realloc(ptr: Any, size: int) -> Any:
    """Return a bytearray of `size` bytes that starts with the content of `ptr`, or None."""
    heap = _current[0]
    return heap.realloc(heap.data, ptr, size)


def raft_aligned_alloc(alignment: int, size: int) -> Any:
    """Return a writable memoryview of `size` bytes at an address that is a multiple of `alignment`, or None."""
    heap = _current[0]
    return heap.aligned_alloc(heap.data, alignment, size)


def raft_aligned_free(alignment: int, ptr: Any) -> None:
    """Release memory of raft_aligned_alloc."""
    heap = _current[0]
    heap.aligned_free(heap.data, alignment, ptr)


def raft_heap_set(heap: RaftHeap) -> None:
    """Make `heap` serve all allocations from now on."""
    _current[0] = heap


def raft_heap_set_default() -> None:
    """Go back to the default heap."""
    _current[0] = _default


def raft_heap_get() -> RaftHeap:
    """Return the heap in force, to put it back later or to defer to it."""
    return _current[0]
