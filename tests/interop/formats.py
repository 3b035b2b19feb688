"""Just enough of the file and message formats, written once more from their description, to compare bytes.

Memory that the C library leaves uninitialised is set to zero before a comparison, and checksums that cover it are
verified first and then left out: 3 bytes after each entry's type, the padding of a configuration, the payload of a
barrier, the last word of the headers of AppendEntries and InstallSnapshot.
"""

import struct
from pathlib import Path

COMMAND, BARRIER, CHANGE = 1, 2, 3

APPEND_ENTRIES, APPEND_ENTRIES_RESULT, REQUEST_VOTE, REQUEST_VOTE_RESULT, INSTALL_SNAPSHOT, TIMEOUT_NOW = range(1, 7)


def crc32(data: bytes) -> int:
    """The library's checksum: polynomial 0x04C11DB7, most significant bit first, from 0, without a final xor."""
    value = 0
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
    return value


def mask_configuration(blob: bytes) -> bytes:
    """Return an encoded configuration with its padding zeroed."""
    (n,) = struct.unpack_from("<Q", blob, 1)
    end = 9
    for _ in range(n):
        end = blob.index(b"\0", end + 8) + 2
    return blob[:end] + bytes(len(blob) - end)


def mask_entries(headers: bytes, data: bytes) -> tuple[bytes, bytes]:
    """Return entry headers and payloads with what is uninitialised zeroed."""
    masked_headers, masked_data, at = b"", b"", 0
    for offset in range(0, len(headers), 16):
        term, type, length = struct.unpack_from("<QB3xI", headers, offset)
        masked_headers += struct.pack("<QB3xI", term, type, length)
        payload = data[at : at + length]
        at += length
        if type == BARRIER:
            payload = bytes(length)
        elif type == CHANGE:
            payload = mask_configuration(payload)
        masked_data += payload
    assert at == len(data)
    return masked_headers, masked_data


def batches(data: bytes) -> tuple[list[tuple[bytes, bytes]], int]:
    """Return the good batches of a segment (entry headers, payloads) and the offset at which they end."""
    found: list[tuple[bytes, bytes]] = []
    assert struct.unpack_from("<Q", data) == (1,)
    offset = 8
    while offset + 16 <= len(data):
        header_crc, data_crc, n = struct.unpack_from("<IIQ", data, offset)
        if not 0 < n <= 262144 or offset + 16 + 16 * n > len(data):
            break
        header = data[offset + 8 : offset + 16 + 16 * n]
        size = sum(struct.unpack_from("<12xI", header, 8 + 16 * i)[0] for i in range(n))
        payload = data[offset + 8 + len(header) :][:size]
        if crc32(header) != header_crc or len(payload) != size or crc32(payload) != data_crc:
            break
        found.append((header[8:], payload))
        offset += 8 + len(header) + size
    return found, offset


def mask_segment(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the batches of a whole closed segment, uninitialised bytes zeroed, its checksums verified."""
    found, end = batches(data)
    assert end == len(data), f"a bad batch at byte {end} of {len(data)}"
    return [mask_entries(headers, payload) for headers, payload in found]


def mask_snapshot_meta(data: bytes) -> bytes:
    """Return a snapshot's .meta without its checksum, which is verified, and with the padding zeroed."""
    format, crc, index, length = struct.unpack_from("<QQQQ", data)
    assert crc & 0xFFFFFFFF == crc32(data[16:])
    return struct.pack("<QQQ", format, index, length) + mask_configuration(data[32:])


def mask_message(type: int, header: bytes, payload: bytes) -> tuple[bytes, bytes]:
    """Return a message's header and payload with what is uninitialised zeroed."""
    if type == APPEND_ENTRIES:
        headers, payload = mask_entries(header[40:-8], payload)
        return header[:40] + headers + bytes(8), payload
    if type == INSTALL_SNAPSHOT:
        (size,) = struct.unpack_from("<Q", header, 32)
        return header[:40] + mask_configuration(header[40 : 40 + size]) + header[40 + size : -8] + bytes(8), payload
    return header, payload


def payload_size(type: int, header: bytes) -> int:
    """Return how many bytes follow a message's header."""
    if type == APPEND_ENTRIES:
        (n,) = struct.unpack_from("<Q", header, 32)
        return sum(struct.unpack_from("<12xI", header, 40 + 16 * i)[0] for i in range(n))
    if type == INSTALL_SNAPSHOT:
        (size,) = struct.unpack_from("<Q", header, 32)
        return int(struct.unpack_from("<Q", header, 40 + size)[0])
    return 0


def open_segments(dir: Path) -> list[Path]:
    """Return the open segments of a directory that hold something, in order."""
    paths = sorted(dir.glob("open-*"), key=lambda path: int(path.name[5:]))
    return [path for path in paths if path.read_bytes()[:8] != bytes(8)]
