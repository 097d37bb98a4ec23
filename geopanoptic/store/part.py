"""One part: named arrays and a little JSON in one immutable, checksummed file (format GPP1).

    b"GPP1" | u32 header length | u32 crc32 of the header | header JSON | zstd sections

All numbers little-endian. The header holds `fingerprint`, `kind`, `key`, `meta` and, per section,
name, dtype, shape, offset (from the end of the header), length and crc32 of the compressed bytes.
No pickle anywhere. The file's size follows from its header, so a truncated part is known at once;
a flipped bit is known when the section is read.
"""

from __future__ import annotations

import functools
import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import StoreError

MAGIC = b"GPP1"
_PREFIX = struct.Struct("<4sII")
_MAX_HEADER = 64 * 2**20
_PLAIN_KINDS = "biuf"  # booleans and numbers: what has no pointers in it

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Part:
    """What one part holds: `arrays` by name, and its `meta` (JSON values)."""

    key: int
    arrays: dict[str, Array]
    meta: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Packed:
    """An array as it will lie in a part: made early by `pack_array`, so that many take no room."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Header:
    """The parsed header of a part file; `start` is the byte where its sections begin."""

    fingerprint: str
    kind: str
    key: int
    meta: dict[str, Any]
    sections: dict[str, dict[str, Any]]
    start: int

    @property
    def file_size(self) -> int:
        """The bytes that the whole file must have."""
        return self.start + sum(int(section["length"]) for section in self.sections.values())


@functools.cache
def _zstd() -> Any:
    from numcodecs.zstd import Zstd  # 0.15 s to import: only processes that touch parts pay

    return Zstd(level=1)


def pack_array(given: npt.ArrayLike) -> Packed:
    """Compress an array of any shape (also empty) and a boolean, integer or float dtype.

    Byte order is stored little-endian. Raises TypeError for any other dtype: that is the caller's
    mistake.
    """
    array = np.asarray(given)
    if array.dtype.kind not in _PLAIN_KINDS:
        raise TypeError(f"an array has dtype {array.dtype}; a part holds plain numbers")
    plain = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    data = bytes(_zstd().encode(plain.reshape(-1).view(np.uint8))) if plain.size else b""
    return Packed(plain.dtype.str, array.shape, data)


def encode(
    identity: tuple[str, str, int], arrays: Mapping[str, Array | Packed], meta: Mapping[str, Any]
) -> list[bytes]:
    """Return the byte pieces of a part file with this `identity` = (fingerprint, kind, key).

    Arrays are as `pack_array` takes them, or packed already: the bytes are the same.
    """
    sections: dict[str, dict[str, Any]] = {}
    pieces: list[bytes] = []
    offset = 0
    for name, given in arrays.items():
        packed = given if isinstance(given, Packed) else pack_array(given)
        sections[name] = {
            "dtype": packed.dtype,
            "shape": list(packed.shape),
            "offset": offset,
            "length": len(packed.data),
            "crc32": zlib.crc32(packed.data),
        }
        pieces.append(packed.data)
        offset += len(packed.data)
    fingerprint, kind, key = identity
    header = json.dumps(
        {
            "fingerprint": fingerprint,
            "kind": kind,
            "key": key,
            "meta": dict(meta),
            "sections": sections,
        },
        separators=(",", ":"),
    ).encode()
    return [_PREFIX.pack(MAGIC, len(header), zlib.crc32(header)) + header, *pieces]


def read_header(path: Path) -> Header:
    """Read and check the header of a part file, and that the file has the size it promises.

    Raises FileNotFoundError when there is none, StoreError when it is damaged.
    """
    with path.open("rb") as file:
        return parse_header(file, path)


def parse_header(file: BinaryIO, path: Path | str) -> Header:
    """Do as `read_header` with an open file; `path` is its name in messages."""
    prefix = file.read(_PREFIX.size)
    if len(prefix) < _PREFIX.size:
        raise damaged(path, f"it has only {len(prefix)} bytes")
    magic, length, crc = _PREFIX.unpack(prefix)
    if magic != MAGIC or length > _MAX_HEADER:
        raise damaged(path, f"it begins with {magic!r}, not {MAGIC!r}")
    raw = file.read(length)
    if len(raw) < length or zlib.crc32(raw) != crc:
        raise damaged(path, "its header fails its checksum")
    size = file.seek(0, 2)
    fields = json.loads(raw)
    header = Header(**fields, start=_PREFIX.size + length)
    if size != header.file_size:
        raise damaged(path, f"it has {size} bytes, its header promises {header.file_size}")
    return header


def read_arrays(path: Path, header: Header, names: Sequence[str] | None) -> dict[str, Array]:
    """Read the named sections (all when None), each checked against its crc32.

    Raises StoreError when a section is damaged, KeyError for a name the part does not hold.
    """
    with path.open("rb") as file:
        return parse_arrays(file, path, header, names)


def parse_arrays(
    file: BinaryIO, path: Path | str, header: Header, names: Sequence[str] | None
) -> dict[str, Array]:
    """Do as `read_arrays` with an open file; `path` is its name in messages."""
    wanted = list(header.sections) if names is None else names
    return {name: _read_section(file, path, header, name) for name in wanted}


def _read_section(file: BinaryIO, path: Path | str, header: Header, name: str) -> Array:
    if name not in header.sections:
        raise KeyError(f"part {path} holds {', '.join(header.sections)}; it has no {name!r}")
    section = header.sections[name]
    file.seek(header.start + section["offset"])
    packed = file.read(section["length"])
    if len(packed) != section["length"] or zlib.crc32(packed) != section["crc32"]:
        raise damaged(path, f"section {name!r} fails its checksum")
    shape = tuple(section["shape"])
    flat = np.empty(math.prod(shape), dtype=np.dtype(section["dtype"]))
    if flat.size:
        # Decoding into memory of the promised size: a section that unpacks to more is refused.
        _zstd().decode(packed, out=flat.view(np.uint8))
    return flat.reshape(shape)


def damaged(path: Path | str, why: str) -> StoreError:
    """Make the error for a damaged part, with the cure."""
    return StoreError(
        f"the part {path} is damaged: {why}; delete that file and run the same command again "
        "(only this part is computed anew), and have the disk checked"
    )
