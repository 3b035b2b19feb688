"""Memory functions: the default heap, and one put in its place."""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from typing import Any

import pytest

from pyraft import (
    RaftHeap,
    raft_aligned_alloc,
    raft_aligned_free,
    raft_calloc,
    raft_free,
    raft_heap_get,
    raft_heap_set,
    raft_heap_set_default,
    raft_malloc,
    raft_realloc,
)
from tests.lib.covers import covers


@pytest.fixture(autouse=True)
def _default_heap() -> Iterator[None]:
    """Leave the default heap behind."""
    yield
    raft_heap_set_default()


@covers("raft_heap/malloc", "raft_heap/calloc")
def test_memory_is_a_bytearray_of_zeros() -> None:
    """malloc and calloc give as many writable bytes as were asked for."""
    assert raft_malloc(8) == bytearray(8)
    assert raft_calloc(3, 4) == bytearray(12)
    raft_free(raft_malloc(8))
    raft_free(None)


@covers("raft_heap/realloc")
def test_realloc_keeps_the_content() -> None:
    """The part that fits is kept, new memory is zero, and nothing is as good as malloc."""
    ptr: Any = raft_malloc(4)
    ptr[:] = b"abcd"
    assert raft_realloc(ptr, 8) == bytearray(b"abcd\0\0\0\0")
    assert raft_realloc(ptr, 2) == bytearray(b"ab")
    assert raft_realloc(None, 2) == bytearray(2)


@covers("raft_heap/aligned_alloc")
@pytest.mark.parametrize("alignment", [512, 1024, 4096])
def test_aligned_memory_is_aligned(alignment: int) -> None:
    """The address is a multiple of the alignment, as direct I/O needs it."""
    ptr = raft_aligned_alloc(alignment, 2048)
    assert len(ptr) == 2048
    assert ctypes.addressof(ctypes.c_char.from_buffer(ptr)) % alignment == 0
    raft_aligned_free(alignment, ptr)


def test_a_heap_in_its_place_serves_all_functions() -> None:
    """Every function goes to the heap that was set, with its data first, until the default is back."""
    calls: list[Any] = []
    heap = RaftHeap()
    default = raft_heap_get()
    heap.data = "data"
    heap.malloc = lambda *args: calls.append(("malloc", *args))
    heap.free = lambda *args: calls.append(("free", *args))
    heap.calloc = lambda *args: calls.append(("calloc", *args))
    heap.realloc = lambda *args: calls.append(("realloc", *args))
    heap.aligned_alloc = lambda *args: calls.append(("aligned_alloc", *args))
    heap.aligned_free = lambda *args: calls.append(("aligned_free", *args))
    raft_heap_set(heap)
    assert raft_heap_get() is heap
    assert raft_malloc(1) is None
    raft_free("ptr")
    raft_calloc(2, 3)
    raft_realloc("ptr", 4)
    raft_aligned_alloc(512, 5)
    raft_aligned_free(512, "ptr")
    assert calls == [
        ("malloc", "data", 1),
        ("free", "data", "ptr"),
        ("calloc", "data", 2, 3),
        ("realloc", "data", "ptr", 4),
        ("aligned_alloc", "data", 512, 5),
        ("aligned_free", "data", 512, "ptr"),
    ]
    raft_heap_set_default()
    assert raft_heap_get() is default
    assert raft_malloc(1) == bytearray(1)


def test_memory_that_cannot_be_had_is_none() -> None:
    """None stands for NULL: an alignment above a page, or nothing at all."""
    assert raft_aligned_alloc(1 << 20, 4096) is None
    assert raft_aligned_alloc(512, 0) is None


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # threads of other tests; the child uses none
@pytest.mark.parametrize("size", [-1, 1 << 62, 1 << 63, 1 << 64])
def test_impossible_sizes_are_none_too(size: int) -> None:
    """C's functions take what does not fit for a size that nobody has."""
    assert raft_malloc(size) is None
    assert raft_calloc(1, size) is None
    assert raft_calloc(-1, -1) is None
    assert raft_realloc(bytearray(1), size) is None
    assert raft_aligned_alloc(4096, size) is None


def test_memory_that_the_system_refuses_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of the address space does: an exception here would stop the server that wants to write."""

    def refuse(*args: Any) -> Any:
        raise OSError(errno.ENOMEM, "")

    monkeypatch.setattr(mmap, "mmap", refuse)
    assert raft_aligned_alloc(4096, 4096) is None


def test_aligned_memory_is_not_shared_with_forked_children() -> None:
    """Entries wait in it for being written."""
    memory: Any = raft_aligned_alloc(4096, 4096)
    child = os.fork()
    if child == 0:
        memory[:] = b"x" * 4096
        os._exit(0)
    os.waitpid(child, 0)
    assert memory == bytes(4096)
