"""The bytes of a cloud-optimised GeoTIFF: header, directories, then blocks from coarse to fine.

GDAL's COG driver reads, halves, compresses, reads again and compresses again. Here blocks come
compressed (`pyramid`), and only their order and the directories are left to be written. Layout and
the claims in the header are those of GDAL's driver (https://gdal.org/drivers/raster/cog.html).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from geopanoptic.raster.cog import BLOCK_PX
from geopanoptic.raster.pyramid import Level, Pyramid

_CLASSIC_BYTES = 2**32 - 2**20  # a larger file becomes a BigTIFF
_CLAIMS = (
    "LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    "BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
_GHOST = f"GDAL_STRUCTURAL_METADATA_SIZE={len(_CLAIMS):06d} bytes\n{_CLAIMS}".encode()
# Georeference (scale, tie points, matrix, GeoTIFF keys) and nodata, as GDAL wrote them.
_KEPT = (33550, 33922, 34264, 34735, 34736, 34737)
_NODATA = 42113
_BYTES_OF = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 11: 4, 12: 8, 16: 8}  # by TIFF's type number
_ASCII, _SHORT, _LONG, _LONG8 = 2, 3, 4, 16
_FRAME = 8  # bytes around a block: its length before, its last four bytes again behind
_PIECE = 2**22

Entry = tuple[int, int, bytes]  # tag, type, values


@dataclass(frozen=True, slots=True)
class Header:
    """What directories say beside sizes: pixel type, colour of 256 values or None, kept tags."""

    dtype: str
    palette: npt.NDArray[np.uint16] | None
    kept: tuple[Entry, ...]


def kept_tags(path: Path) -> tuple[Entry, ...]:
    """Return georeference and nodata of a TIFF that GDAL wrote on this kind of machine."""
    with path.open("rb") as file:
        start = file.read(16)
        assert start[:2] == b"II", f"{path} is not a little-endian TIFF"
        big = start[2:4] == b"\x2b\x00"
        (at,) = struct.unpack("<Q", start[8:16]) if big else struct.unpack("<I", start[4:8])
        width, first, count = (20, 8, "<Q") if big else (12, 2, "<H")
        file.seek(at)
        (entries,) = struct.unpack(count, file.read(first))
        rows = file.read(entries * width)
        found = []
        for k in range(entries):
            row = rows[k * width : (k + 1) * width]
            tag, kind = struct.unpack("<HH", row[:4])
            if tag not in (*_KEPT, _NODATA):
                continue
            (n,) = struct.unpack("<Q" if big else "<I", row[4:12] if big else row[4:8])
            value = row[12:] if big else row[8:]
            size = n * _BYTES_OF[kind]
            if size > len(value):
                file.seek(struct.unpack("<Q" if big else "<I", value)[0])
                value = file.read(size)
            found.append((tag, kind, value[:size]))
    return tuple(found)


def write_layout(path: Path, pyramid: Pyramid, header: Header) -> int:
    """Write the file at `path`; return the CRC-32 of its bytes, so that they can be read back."""
    frames = [_framed(data) for data in pyramid.constants]
    sizes = [_sizes(level, pyramid.constants) for level in pyramid.levels]
    data_bytes = sum(int((s.astype(np.int64) + _FRAME).sum()) for s in sizes)
    big = data_bytes + 64 * sum(s.size for s in sizes) > _CLASSIC_BYTES
    empty = [np.zeros(s.size, np.uint64) for s in sizes]
    start = len(_head(header, pyramid.levels, sizes, empty, big))
    offsets: list[npt.NDArray[np.uint64]] = list(empty)
    for k in reversed(range(len(sizes))):  # the coarsest comes first
        steps = np.cumsum(sizes[k].astype(np.uint64) + np.uint64(_FRAME))
        offsets[k] = np.uint64(start + 4) + np.concatenate([np.zeros(1, np.uint64), steps[:-1]])
        start += int(steps[-1])
    crc = 0
    with path.open("wb") as file:
        for piece in _pieces(pyramid, frames, _head(header, pyramid.levels, sizes, offsets, big)):
            file.write(piece)
            crc = zlib.crc32(piece, crc)
    return crc


def checksum(path: Path) -> int:
    """Return the CRC-32 of the bytes of a file."""
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            crc = zlib.crc32(piece, crc)
    return crc


def _sizes(level: Level, constants: Sequence[bytes]) -> npt.NDArray[np.uint32]:
    of_constant = np.array([len(c) for c in constants] or [0], np.uint32)
    sizes = np.where(level.constant >= 0, of_constant[level.constant], level.size)
    return sizes.astype(np.uint32).reshape(-1)


def _framed(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data + data[-4:]


def _pieces(pyramid: Pyramid, frames: list[bytes], head: bytes) -> Iterator[bytes]:
    """Yield the bytes of the file, in pieces of some megabytes."""
    gathered, length = [head], len(head)
    for level in reversed(pyramid.levels):
        rows = zip(level.constant, level.place, level.size, strict=True)
        for constant, place, size in rows:
            for k, at, n in zip(constant.tolist(), place.tolist(), size.tolist(), strict=True):
                frame = frames[k] if k >= 0 else _framed(_read(pyramid.spool, at, n))
                gathered.append(frame)
                length += len(frame)
                if length >= _PIECE:
                    yield b"".join(gathered)
                    gathered, length = [], 0
    yield b"".join(gathered)


def _read(spool: BinaryIO, at: int, size: int) -> bytes:
    spool.seek(at)
    data = spool.read(size)
    if len(data) != size:
        raise OSError(f"the spool of compressed blocks ends at {at + len(data)}")
    return data


def _head(
    header: Header,
    levels: Sequence[Level],
    sizes: Sequence[npt.NDArray[np.uint32]],
    offsets: Sequence[npt.NDArray[np.uint64]],
    big: bool,
) -> bytes:
    """Return everything before the blocks; its length does not depend on the offsets."""
    start = (
        struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0) if big else struct.pack("<2sHI", b"II", 42, 0)
    )
    head = bytearray(start + _GHOST)
    link = 8 if big else 4  # where the place of the next directory is written
    for number, level in enumerate(levels):
        head += bytes(len(head) % 2)
        struct.pack_into("<Q" if big else "<I", head, link, len(head))
        entries = _entries(header, level, number, (sizes[number], offsets[number]), big)
        made, link = _directory(entries, len(head), big)
        head += made
    return bytes(head)


def _entries(
    header: Header,
    level: Level,
    number: int,
    blocks: tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]],
    big: bool,
) -> list[Entry]:
    sizes, offsets = blocks
    dtype = np.dtype(header.dtype)
    is_palette = header.palette is not None
    places = (_LONG8, offsets.astype("<u8")) if big else (_LONG, offsets.astype("<u4"))
    entries: list[Entry] = [
        (254, _LONG, struct.pack("<I", 1 if number else 0)),  # 1: of reduced resolution
        (256, _LONG, struct.pack("<I", level.shape[1])),
        (257, _LONG, struct.pack("<I", level.shape[0])),
        (258, _SHORT, struct.pack("<H", dtype.itemsize * 8)),
        (259, _SHORT, struct.pack("<H", 8)),  # DEFLATE
        (262, _SHORT, struct.pack("<H", 3 if is_palette else 1)),
        (277, _SHORT, struct.pack("<H", 1)),
        (284, _SHORT, struct.pack("<H", 1)),
        (322, _SHORT, struct.pack("<H", BLOCK_PX)),
        (323, _SHORT, struct.pack("<H", BLOCK_PX)),
        (324, places[0], places[1].tobytes()),
        (325, _LONG, sizes.astype("<u4").tobytes()),
        (339, _SHORT, struct.pack("<H", {"u": 1, "i": 2, "f": 3}[dtype.kind])),
    ]
    if header.palette is not None:
        entries.append((320, _SHORT, header.palette.astype("<u2").tobytes()))
    entries += [e for e in header.kept if number == 0 or e[0] == _NODATA]
    return sorted(entries)


def _directory(entries: list[Entry], at: int, big: bool) -> tuple[bytes, int]:
    """Return a directory that begins at `at`, and where in the file its link to the next one is."""
    count, row, place, room = ("<Q", "<HHQ", "<Q", 8) if big else ("<H", "<HHI", "<I", 4)
    table = bytearray(struct.pack(count, len(entries)))
    link = at + len(table) + len(entries) * (struct.calcsize(row) + room)
    values, value_at = bytearray(), link + room
    for tag, kind, data in entries:
        table += struct.pack(row, tag, kind, len(data) // _BYTES_OF[kind])
        if len(data) <= room:
            table += data.ljust(room, b"\0")
            continue
        values += bytes((value_at + len(values)) % 2)
        table += struct.pack(place, value_at + len(values))
        values += data
    return bytes(table) + bytes(room) + bytes(values), link
