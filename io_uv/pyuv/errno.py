"""The error codes of libuv, as pyuv names them, with libuv's texts.

Duty: `UV_*` constants (negative: -errno for what the system reports, -3000 and below for name resolution, -4095 for the
end of a stream), `errorcode` from code to name, `strerror` from code to text, and the two places where an exception of
the system becomes a code: `from_os_error` and `from_gai_error`. Callbacks carry such a code, or None for success;
exceptions of `io_uv.pyuv.error` carry (code, text).

A number that has no name here (a system newer than this table) keeps its value and is described by the system's text.
"""

import errno
import os
import socket
from typing import Final

UV_E2BIG: Final = -errno.E2BIG
UV_EACCES: Final = -errno.EACCES
UV_EADDRINUSE: Final = -errno.EADDRINUSE
UV_EADDRNOTAVAIL: Final = -errno.EADDRNOTAVAIL
UV_EAFNOSUPPORT: Final = -errno.EAFNOSUPPORT
UV_EAGAIN: Final = -errno.EAGAIN
UV_EALREADY: Final = -errno.EALREADY
UV_EBADF: Final = -errno.EBADF
UV_EBUSY: Final = -errno.EBUSY
UV_ECANCELED: Final = -errno.ECANCELED
UV_ECONNABORTED: Final = -errno.ECONNABORTED
UV_ECONNREFUSED: Final = -errno.ECONNREFUSED
UV_ECONNRESET: Final = -errno.ECONNRESET
UV_EDESTADDRREQ: Final = -errno.EDESTADDRREQ
UV_EEXIST: Final = -errno.EEXIST
UV_EFAULT: Final = -errno.EFAULT
UV_EFBIG: Final = -errno.EFBIG
UV_EHOSTDOWN: Final = -errno.EHOSTDOWN
UV_EHOSTUNREACH: Final = -errno.EHOSTUNREACH
UV_EILSEQ: Final = -errno.EILSEQ
UV_EINTR: Final = -errno.EINTR
UV_EINVAL: Final = -errno.EINVAL
UV_EIO: Final = -errno.EIO
UV_EISCONN: Final = -errno.EISCONN
UV_EISDIR: Final = -errno.EISDIR
UV_ELOOP: Final = -errno.ELOOP
UV_EMFILE: Final = -errno.EMFILE
UV_EMLINK: Final = -errno.EMLINK
UV_EMSGSIZE: Final = -errno.EMSGSIZE
UV_ENAMETOOLONG: Final = -errno.ENAMETOOLONG
UV_ENETDOWN: Final = -errno.ENETDOWN
UV_ENETUNREACH: Final = -errno.ENETUNREACH
UV_ENFILE: Final = -errno.ENFILE
UV_ENOBUFS: Final = -errno.ENOBUFS
UV_ENODEV: Final = -errno.ENODEV
UV_ENOENT: Final = -errno.ENOENT
UV_ENOMEM: Final = -errno.ENOMEM
UV_ENONET: Final = -errno.ENONET
UV_ENOPROTOOPT: Final = -errno.ENOPROTOOPT
UV_ENOSPC: Final = -errno.ENOSPC
UV_ENOSYS: Final = -errno.ENOSYS
UV_ENOTCONN: Final = -errno.ENOTCONN
UV_ENOTDIR: Final = -errno.ENOTDIR
UV_ENOTEMPTY: Final = -errno.ENOTEMPTY
UV_ENOTSOCK: Final = -errno.ENOTSOCK
UV_ENOTSUP: Final = -errno.ENOTSUP
UV_ENOTTY: Final = -errno.ENOTTY
UV_ENXIO: Final = -errno.ENXIO
UV_EOVERFLOW: Final = -errno.EOVERFLOW
UV_EPERM: Final = -errno.EPERM
UV_EPIPE: Final = -errno.EPIPE
UV_EPROTO: Final = -errno.EPROTO
UV_EPROTONOSUPPORT: Final = -errno.EPROTONOSUPPORT
UV_EPROTOTYPE: Final = -errno.EPROTOTYPE
UV_ERANGE: Final = -errno.ERANGE
UV_EREMOTEIO: Final = -errno.EREMOTEIO
UV_EROFS: Final = -errno.EROFS
UV_ESHUTDOWN: Final = -errno.ESHUTDOWN
UV_ESOCKTNOSUPPORT: Final = -errno.ESOCKTNOSUPPORT
UV_ESPIPE: Final = -errno.ESPIPE
UV_ESRCH: Final = -errno.ESRCH
UV_ETIMEDOUT: Final = -errno.ETIMEDOUT
UV_ETXTBSY: Final = -errno.ETXTBSY
UV_EXDEV: Final = -errno.EXDEV
UV_EINPROGRESS: Final = -errno.EINPROGRESS
UV_EAI_ADDRFAMILY: Final = -3000
UV_EAI_AGAIN: Final = -3001
UV_EAI_BADFLAGS: Final = -3002
UV_EAI_CANCELED: Final = -3003
UV_EAI_FAIL: Final = -3004
UV_EAI_FAMILY: Final = -3005
UV_EAI_MEMORY: Final = -3006
UV_EAI_NODATA: Final = -3007
UV_EAI_NONAME: Final = -3008
UV_EAI_OVERFLOW: Final = -3009
UV_EAI_SERVICE: Final = -3010
UV_EAI_SOCKTYPE: Final = -3011
UV_EAI_BADHINTS: Final = -3013
UV_EAI_PROTOCOL: Final = -3014
UV_UNKNOWN: Final = -4094
UV_EOF: Final = -4095

_TEXTS: Final = {
    "UV_E2BIG": "argument list too long",
    "UV_EACCES": "permission denied",
    "UV_EADDRINUSE": "address already in use",
    "UV_EADDRNOTAVAIL": "address not available",
    "UV_EAFNOSUPPORT": "address family not supported",
    "UV_EAGAIN": "resource temporarily unavailable",
    "UV_EALREADY": "connection already in progress",
    "UV_EBADF": "bad file descriptor",
    "UV_EBUSY": "resource busy or locked",
    "UV_ECANCELED": "operation canceled",
    "UV_ECONNABORTED": "software caused connection abort",
    "UV_ECONNREFUSED": "connection refused",
    "UV_ECONNRESET": "connection reset by peer",
    "UV_EDESTADDRREQ": "destination address required",
    "UV_EEXIST": "file already exists",
    "UV_EFAULT": "bad address in system call argument",
    "UV_EFBIG": "file too large",
    "UV_EHOSTDOWN": "host is down",
    "UV_EHOSTUNREACH": "host is unreachable",
    "UV_EILSEQ": "illegal byte sequence",
    "UV_EINTR": "interrupted system call",
    "UV_EINVAL": "invalid argument",
    "UV_EIO": "i/o error",
    "UV_EISCONN": "socket is already connected",
    "UV_EISDIR": "illegal operation on a directory",
    "UV_ELOOP": "too many symbolic links encountered",
    "UV_EMFILE": "too many open files",
    "UV_EMLINK": "too many links",
    "UV_EMSGSIZE": "message too long",
    "UV_ENAMETOOLONG": "name too long",
    "UV_ENETDOWN": "network is down",
    "UV_ENETUNREACH": "network is unreachable",
    "UV_ENFILE": "file table overflow",
    "UV_ENOBUFS": "no buffer space available",
    "UV_ENODEV": "no such device",
    "UV_ENOENT": "no such file or directory",
    "UV_ENOMEM": "not enough memory",
    "UV_ENONET": "machine is not on the network",
    "UV_ENOPROTOOPT": "protocol not available",
    "UV_ENOSPC": "no space left on device",
    "UV_ENOSYS": "function not implemented",
    "UV_ENOTCONN": "socket is not connected",
    "UV_ENOTDIR": "not a directory",
    "UV_ENOTEMPTY": "directory not empty",
    "UV_ENOTSOCK": "socket operation on non-socket",
    "UV_ENOTSUP": "operation not supported on socket",
    "UV_ENOTTY": "inappropriate ioctl for device",
    "UV_ENXIO": "no such device or address",
    "UV_EOVERFLOW": "value too large for defined data type",
    "UV_EPERM": "operation not permitted",
    "UV_EPIPE": "broken pipe",
    "UV_EPROTO": "protocol error",
    "UV_EPROTONOSUPPORT": "protocol not supported",
    "UV_EPROTOTYPE": "protocol wrong type for socket",
    "UV_ERANGE": "result too large",
    "UV_EREMOTEIO": "remote I/O error",
    "UV_EROFS": "read-only file system",
    "UV_ESHUTDOWN": "cannot send after transport endpoint shutdown",
    "UV_ESOCKTNOSUPPORT": "socket type not supported",
    "UV_ESPIPE": "invalid seek",
    "UV_ESRCH": "no such process",
    "UV_ETIMEDOUT": "connection timed out",
    "UV_ETXTBSY": "text file is busy",
    "UV_EXDEV": "cross-device link not permitted",
    "UV_EINPROGRESS": "operation in progress",
    "UV_EAI_ADDRFAMILY": "address family not supported",
    "UV_EAI_AGAIN": "temporary failure",
    "UV_EAI_BADFLAGS": "bad ai_flags value",
    "UV_EAI_CANCELED": "request canceled",
    "UV_EAI_FAIL": "permanent failure",
    "UV_EAI_FAMILY": "ai_family not supported",
    "UV_EAI_MEMORY": "out of memory",
    "UV_EAI_NODATA": "no address",
    "UV_EAI_NONAME": "unknown node or service",
    "UV_EAI_OVERFLOW": "argument buffer overflow",
    "UV_EAI_SERVICE": "service not available for socket type",
    "UV_EAI_SOCKTYPE": "socket type not supported",
    "UV_EAI_BADHINTS": "invalid value for hints",
    "UV_EAI_PROTOCOL": "resolved protocol is unknown",
    "UV_UNKNOWN": "unknown error",
    "UV_EOF": "end of file",
}

errorcode: Final[dict[int, str]] = {globals()[name]: name for name in _TEXTS}
"""Name of each code, for example -2 to "UV_ENOENT"."""

_GAI: Final[dict[int, int]] = {
    getattr(socket, name[3:]): code
    for code, name in errorcode.items()
    if name.startswith("UV_EAI_") and hasattr(socket, name[3:])
}


def strerror(errorno: int) -> str:
    """Text of a code: libuv's own words for the codes of this module, the system's for any other."""
    name = errorcode.get(errorno)
    if name is not None:
        return _TEXTS[name]
    return os.strerror(-errorno) if errorno < 0 else f"Unknown system error {errorno}"


def from_os_error(exc: OSError) -> int:
    """Code of what a system call raised; UV_UNKNOWN when the exception carries no number."""
    return -exc.errno if exc.errno else UV_UNKNOWN


def from_gai_error(exc: OSError) -> int:
    """Code of what getaddrinfo or getnameinfo raised: UV_EAI_* for a resolver's answer, else as from_os_error."""
    if isinstance(exc, socket.gaierror):
        return _GAI.get(exc.errno or 0, UV_EAI_FAIL)
    return from_os_error(exc)
