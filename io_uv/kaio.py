"""Linux asynchronous I/O (io_submit and its kin) through the raw system calls, completions through an eventfd.

Duty: `Context`, a kernel queue of writes. A write is submitted without blocking, its completion makes the eventfd
readable, `reap` collects the results, from the ring that the kernel shares with the process or, where that is not
known to be safe, by io_getevents. The system calls keep the interpreter lock: each takes a few microseconds, and giving
the lock up and fetching it back would cost more. So only non-blocking writes (`nowait`) belong here on a loop.

Happy path: Context(n) once, then submit(...) and reap() for each write; close() when nothing is in flight any more.

Failure modes: OSError with the errno of the system call: EAGAIN from Context (no AIO events left on the machine,
fs.aio-max-nr), EAGAIN from submit (nothing is free, or it is refused), EOPNOTSUPP and EINVAL (file system without
support), ENOSYS where the kernel or the processor is not supported, and whatever a sandbox says; `called` tells to
which call. A write that would block completes with EAGAIN. The caller keeps the memory alive until the completion.
"""

import contextlib
import ctypes
import errno
import os
import platform
import struct
import sys
from typing import Any, Final

_NUMBERS: Final = {
    # machine: io_setup, io_destroy, io_getevents, io_submit
    "x86_64": (206, 207, 208, 209),
    "aarch64": (0, 1, 4, 2),
    "riscv64": (0, 1, 4, 2),
    "loongarch64": (0, 1, 4, 2),
    "ppc64le": (227, 228, 229, 230),
}
_NAMES: Final = ("io_setup", "io_destroy", "io_getevents", "io_submit")
_SETUP, _DESTROY, _GETEVENTS, _SUBMIT = range(4)

_IOCB_CMD_PWRITE: Final = 1
_IOCB_FLAG_RESFD: Final = 1
_RWF_DSYNC: Final = 0x02
_RWF_NOWAIT: Final = 0x08

# struct iocb: data, key, rw_flags, opcode, priority, fd, buf, nbytes, offset, reserved, flags, resfd
_IOCB: Final = struct.Struct("<QIiHhiQQqQIi")
_IOCB_SIZE: Final = 64
# struct io_event: data, obj, res, res2
_EVENT: Final = struct.Struct("<QQqq")
_EVENT_SIZE: Final = 32

# struct aio_ring, which io_setup returns the address of: id, number of events, head, tail, magic, compatible and
# incompatible features, size of all this; the events follow. Head is the reader's, tail the kernel's.
_RING_WORDS: Final = ctypes.c_uint32 * 8
_RING_SIZE: Final = 32
_EVENTS, _HEAD, _TAIL, _MAGIC, _INCOMPATIBLE, _SIZE = 1, 2, 3, 4, 6, 7
_RING_MAGIC: Final = 0xA10A10A1


def _syscalls() -> "tuple[Any, Any, tuple[int, int, int, int]] | None":
    """Return the libc's syscall function, twice: keeping the interpreter lock and giving it up, and the numbers."""
    if not sys.platform.startswith("linux") or struct.calcsize("P") != 8 or sys.byteorder != "little":
        return None
    numbers = _NUMBERS.get(platform.machine())
    if numbers is None:
        return None
    keeping = ctypes.PyDLL(None, use_errno=True).syscall
    yielding = ctypes.CDLL(None, use_errno=True).syscall
    for call in (keeping, yielding):
        call.restype = ctypes.c_long
        call.argtypes = [ctypes.c_long] * 6
    return keeping, yielding, numbers


_found: Final = _syscalls()


def _call(which: int, *args: int, blocking: bool = False) -> int:
    """Make system call number `which` of _NUMBERS' columns; raise OSError if it fails."""
    if _found is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), _NAMES[which])
    keeping, yielding, numbers = _found
    return _repeat(yielding if blocking else keeping, (numbers[which], *args, *(0,) * (5 - len(args))), _NAMES[which])


def called(exc: OSError) -> str:
    """Return the name of the system call that an exception of this module is about."""
    return str(exc.filename or _NAMES[_SETUP])


def _repeat(call: Any, args: tuple[int, ...], name: str) -> int:
    """Make a system call until no signal interrupts it; raise OSError if it fails, with the name for `called`."""
    while True:
        rv: int = call(*args)
        if rv >= 0:
            return rv
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code), name)


def address_of(buffer: Any) -> int:
    """Return the address of a writable buffer. It is valid as long as the caller keeps the buffer."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _map_ring(ctx: int) -> tuple[Any, Any]:
    """Return the words at the head of a context's ring and the memory of its events; (None, None) if it is of no use.

    On x86-64 only: it does not reorder reads, so what is behind the tail that is read is there.
    """
    if platform.machine() != "x86_64":
        return None, None
    words = _RING_WORDS.from_address(ctx)
    if words[_MAGIC] != _RING_MAGIC or words[_INCOMPATIBLE] != 0 or words[_SIZE] != _RING_SIZE:
        return None, None
    return words, (ctypes.c_char * (_EVENT_SIZE * words[_EVENTS])).from_address(ctx + _RING_SIZE)


class Context:
    """A queue of up to `n` writes in flight, and the eventfd that counts their completions."""

    __slots__ = (
        "_call_submit",
        "_ctx",
        "_event_fd",
        "_events",
        "_free",
        "_iocbs",
        "_n",
        "_pointers",
        "_ring",
        "_ring_events",
        "_submissions",
        "_timeout",
    )

    def __init__(self, n: int) -> None:
        assert n > 0
        self._n = n
        try:
            self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, "eventfd") from None
        handle = ctypes.c_ulong(0)
        try:
            _call(_SETUP, n, ctypes.addressof(handle))
        except OSError:
            os.close(self._event_fd)
            raise
        self._ctx = handle.value
        # Everything that a submission or a collection needs is allocated once and patched.
        self._iocbs = ctypes.create_string_buffer(_IOCB_SIZE * n)
        first = ctypes.addressof(self._iocbs)
        self._pointers = (ctypes.c_ulong * n)(*(first + _IOCB_SIZE * i for i in range(n)))
        assert _found is not None
        self._call_submit, _, numbers = _found
        at = ctypes.addressof(self._pointers)
        self._submissions = [(numbers[_SUBMIT], self._ctx, 1, at + 8 * i, 0, 0) for i in range(n)]
        self._events = ctypes.create_string_buffer(_EVENT_SIZE * n)
        self._timeout = (ctypes.c_long * 2)(0, 0)
        self._ring, self._ring_events = _map_ring(self._ctx)
        self._free = list(range(n))

    def fileno(self) -> int:
        """Return the eventfd: it is readable when completions wait for `reap`."""
        return self._event_fd

    @property
    def inflight(self) -> int:
        """Number of writes submitted and not reaped yet."""
        return self._n - len(self._free)

    def submit(
        self, fd: int, buffer: Any, length: int, offset: int, nowait: bool = True, dsync: bool = False, tag: int = 0
    ) -> None:
        """Start writing `length` bytes of `buffer` (a writable buffer or an address) at `offset` of the file.

        `nowait` makes the kernel refuse (EAGAIN, here or as the result) what would block; `dsync` makes this write
        durable on its own. `tag` comes back with the result. OSError: the write was not started.
        """
        slot = self._free[-1]
        address = buffer if type(buffer) is int else address_of(buffer)
        flags = (_RWF_NOWAIT if nowait else 0) | (_RWF_DSYNC if dsync else 0)
        _IOCB.pack_into(
            self._iocbs,
            _IOCB_SIZE * slot,
            tag << 16 | slot,
            0,
            flags,
            _IOCB_CMD_PWRITE,
            0,
            fd,
            address,
            length,
            offset,
            0,
            _IOCB_FLAG_RESFD,
            self._event_fd,
        )
        call, args = self._call_submit, self._submissions[slot]
        while call(*args) < 0:  # _repeat, without its call
            code = ctypes.get_errno()
            if code != errno.EINTR:
                raise OSError(code, os.strerror(code), _NAMES[_SUBMIT])
        self._free.pop()

    def heard(self) -> bool:
        """Return whether a completion was told since the last time, or a thread has written to the eventfd."""
        try:
            return os.eventfd_read(self._event_fd) > 0
        except BlockingIOError:
            return False

    def reap(self) -> list[tuple[int, int]]:
        """Return (tag, result) of all completed writes without waiting: bytes written, or a negative errno.

        OSError: a completion was told, but io_getevents is refused, so that its result cannot be had.
        """
        heard = True
        try:
            os.eventfd_read(self._event_fd)
        except BlockingIOError:
            heard = False  # nobody was told of a completion; the queue may have one all the same
        ring, events = self._ring, self._ring_events
        if ring is not None and events is not None:
            done: list[tuple[int, int]] = []
            head = ring[_HEAD]
            while head != ring[_TAIL]:
                data, _, result, _ = _EVENT.unpack_from(events, _EVENT_SIZE * head)
                self._free.append(data & 0xFFFF)
                done.append((data >> 16, result))
                head = ring[_HEAD] = (head + 1) % ring[_EVENTS]
            return done
        try:
            return self._collect()
        except OSError:
            if heard:
                raise
            return []

    def _collect(self) -> list[tuple[int, int]]:
        """Ask the system, where the ring is of no use."""
        done: list[tuple[int, int]] = []
        events, timeout = ctypes.addressof(self._events), ctypes.addressof(self._timeout)
        n = _call(_GETEVENTS, self._ctx, 0, self._n, events, timeout)
        for i in range(n):
            data, _, result, _ = _EVENT.unpack_from(self._events, _EVENT_SIZE * i)
            self._free.append(data & 0xFFFF)
            done.append((data >> 16, result))
        return done

    def forget(self) -> None:
        """In a forked child: close the eventfd. The queue is the parent's, and so is the ring, which is mapped here."""
        os.close(self._event_fd)
        self._event_fd = -1
        self._ring = self._ring_events = None

    def close(self) -> None:
        """Release the queue. It waits for writes in flight, if any, and tens of ms for the kernel: not on a loop.

        Where the kernel does not take it back, which nothing can be done about, it does so at the end of the process.
        """
        if self._event_fd >= 0:
            os.close(self._event_fd)
            self._event_fd = -1
            self._ring = self._ring_events = None  # about to be unmapped
            with contextlib.suppress(OSError):
                _call(_DESTROY, self._ctx, blocking=True)
