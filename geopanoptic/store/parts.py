"""The part store: one immutable file per key; the file itself is the mark that its work is done."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geopanoptic.errors import StoreError
from geopanoptic.store import disk
from geopanoptic.store.part import Array, Header, Packed, Part, encode, read_arrays, read_header

PARTS_DIRECTORY = "parts"
_counter = itertools.count()


def temporary_name(final_name: str) -> str:
    """Return a hidden name beside `final_name` that no other thread, process or host uses."""
    host = socket.gethostname().split(".")[0][:32]
    return f".{final_name}.{host}-{os.getpid()}-{next(_counter)}.tmp"


@dataclass(frozen=True)
class PartStore:
    """Parts of one `kind` ('infer', 'seam', ...) in the work directory `root`, by key (a number).

    Laws: a part that is visible is whole and never changes (first writer wins, so a task may run
    twice, on two hosts, without harm); `has(key)` after `put(key)`, also after a power cut;
    a part of another job (another fingerprint) is not there.
    """

    root: Path
    kind: str
    fingerprint: str

    def __post_init__(self) -> None:
        assert self.kind.isidentifier(), f"a kind of parts is a plain word, not {self.kind!r}"

    def path(self, key: int) -> Path:
        """Return where the part of this key lies."""
        return self._folder / part_name(key)

    @property
    def _folder(self) -> Path:
        return self.root / PARTS_DIRECTORY / self.kind

    def put(self, key: int, arrays: Mapping[str, Array | Packed], meta: Mapping[str, Any]) -> bool:
        """Write a part; tell whether it is this call's (False: another writer was first).

        Written beside, flushed, then linked to its name. A damaged part in the way is replaced.
        Raises StoreError when the disk is full (with the numbers) or not writable.
        """
        final = self.path(key)
        pieces = encode((self.fingerprint, self.kind, int(key)), arrays, meta)
        need = sum(len(piece) for piece in pieces)
        with disk.store_errors(final, "writing", need):
            for last_try in (False, True):
                disk.make_directory(final.parent)
                temporary = final.with_name(temporary_name(final.name))
                disk.write_new(temporary, pieces)
                try:
                    return self._publish(temporary, key)
                except FileNotFoundError:
                    # A new run has swept our temporary file away while we, a worker of a dead
                    # run, were about to link it.
                    if last_try:
                        raise
                finally:
                    temporary.unlink(missing_ok=True)
        raise AssertionError("unreachable: the second try returns or raises")

    def _publish(self, temporary: Path, key: int) -> bool:
        final = self.path(key)
        if disk.link_new(temporary, final):
            return True
        if self.has(key):
            return False
        disk.replace(temporary, final)
        return True

    def get(self, key: int, names: Sequence[str] | None = None) -> Part:
        """Read a part, or only the named arrays of it; every byte read is checked.

        Raises StoreError when the part is missing, damaged or of another job.
        """
        header = self._header(key)
        with disk.store_errors(self.path(key), "reading"):
            return Part(key, read_arrays(self.path(key), header, names), header.meta)

    def meta(self, key: int) -> dict[str, Any]:
        """Read only the header's JSON of a part. Raises StoreError like `get`."""
        return self._header(key).meta

    def has(self, key: int) -> bool:
        """Tell whether a whole part of this job lies under this key (header, size, fingerprint)."""
        try:
            self._header(key)
        except StoreError:
            return False
        return True

    def keys(self) -> Iterator[int]:
        """Yield the keys of all parts for which `has` holds, in ascending order."""
        found = (int(path.stem) for path in self._folder.glob("[0-9a-f][0-9a-f]/*.part"))
        return (key for key in sorted(found) if self.has(key))

    def discard(self, key: int) -> None:
        """Remove a part, if it is there; its work is then to be done again."""
        with disk.store_errors(self.path(key), "removing"):
            self.path(key).unlink(missing_ok=True)

    def verify(self, key: int) -> None:
        """Read all of a part and throw it away. Raises StoreError when one bit is wrong."""
        self.get(key)

    def _header(self, key: int) -> Header:
        path = self.path(key)
        try:
            with disk.store_errors(path, "reading"):
                header = read_header(path)
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise missing(path) from None
            raise
        check_identity(header, (self.fingerprint, self.kind, key), path)
        return header


def part_name(key: int) -> str:
    """Return the folder and name of the part of this key: 256 folders share the files."""
    assert key >= 0, f"a key is a number >= 0, not {key}"
    return f"{key % 256:02x}/{key:08d}.part"


def missing(path: Path | str) -> StoreError:
    """Make the error for a part that is not there."""
    return StoreError(f"the part {path} is not there; run the same command again to compute it")


def check_identity(header: Header, wanted: tuple[str, str, int], path: Path | str) -> None:
    """Raise StoreError unless the part is of the `wanted` (fingerprint, kind, key)."""
    fingerprint, kind, key = wanted
    if (header.fingerprint, header.kind, header.key) != wanted:
        raise StoreError(
            f"the part {path} belongs to another job ({header.kind} {header.key} of "
            f"{header.fingerprint[:8]}, not {kind} {key} of {fingerprint[:8]}); "
            "delete it and run the same command again"
        )
