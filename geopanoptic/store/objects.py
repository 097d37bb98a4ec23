"""Parts on an object store (``s3://``, ``gs://``, ``az://`` ...) through fsspec.

There a put is atomic: an object is there whole or not at all, so that nothing needs renaming.
"First writer wins" is a conditional put (If-None-Match) where the store knows it (Amazon S3,
Google Cloud Storage, MinIO, Ceph).
"""

from __future__ import annotations

import io
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from geopanoptic.errors import StoreError
from geopanoptic.store import disk
from geopanoptic.store.part import Array, Header, Packed, Part, encode, parse_arrays, parse_header
from geopanoptic.store.parts import PARTS_DIRECTORY, check_identity, missing, part_name

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")
_EXTRAS = {"s3": "geopanoptic[s3]", "s3a": "geopanoptic[s3]", "gs": "gcsfs", "gcs": "gcsfs",
           "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}  # fmt: skip
# One request brings a part's header and its tables; labels of a tile are one more.
_READ_AHEAD = 2**18
_REMEMBERED = 32
KEPT_BYTES = 128 * 2**20


def is_object_store(root: str | Path) -> bool:
    """Tell whether a work directory is an address like ``s3://bucket/job``; file:// is local."""
    return bool(_SCHEME.match(str(root))) and not str(root).startswith("file://")


@lru_cache(maxsize=8)
def file_system(root: str) -> tuple[Any, str]:
    """Return the fsspec file system of an address, without caches of what is there, and its path.

    Raises StoreError, with the cure, when the package for its scheme is missing or the scheme is
    unknown.
    """
    scheme = root.split("://")[0]
    try:
        from fsspec.core import url_to_fs

        fs, path = url_to_fs(root, use_listings_cache=False)
    except ImportError as why:
        package = _EXTRAS.get(scheme, scheme)
        raise StoreError(
            f"a work directory at {scheme}:// needs a package that is not installed ({why}): "
            f"pip install '{package}', on all hosts"
        ) from why
    except ValueError as why:
        known = ", ".join(f"{name}://" for name in _EXTRAS)
        raise StoreError(
            f"the work directory {root} has an unknown kind of address ({why}); use {known} or a "
            "folder"
        ) from why
    return fs, path.rstrip("/")


@contextmanager
def object_errors(where: str, doing: str) -> Iterator[None]:
    """Turn whatever a store's client raises into a StoreError with the cure.

    FileNotFoundError and FileExistsError pass: they are answers. Clients have errors of their own
    (no credentials, no route), which is why everything is caught.
    """
    try:
        yield
    except (StoreError, FileNotFoundError, FileExistsError):
        raise
    except Exception as error:
        said = str(error).strip().splitlines()
        raise StoreError(
            f"{doing} {where}: {said[0] if said else type(error).__name__}; check address, "
            "credentials and network, and run the same command again: finished work is kept"
        ) from error


def put_new(fs: Any, path: str, data: bytes) -> bool:
    """Put an object unless there is one of that name; tell whether it was put."""
    disk._operation("put")
    try:
        fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        # botocore's answer to a conditional put that found an object
        if "PreconditionFailed" in str(error) or "pre-conditions" in str(error):
            return False
        raise
    return True


def put(fs: Any, path: str, data: bytes) -> None:
    """Put an object, whatever is there."""
    disk._operation("put")
    fs.pipe_file(path, data)


class _Kept:
    """Whole objects of this process that were asked for a second time, the latest KEPT_BYTES.

    A tile's neighbours ask for single labels of the same few parts again and again: on a disk that
    is a seek, here a request of 30 ms each. The coordinator asks each part once, for its tables
    only, and shall not fetch the labels with them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: OrderedDict[str, None] = OrderedDict()
        self._whole: OrderedDict[str, bytes] = OrderedDict()

    def get(self, fs: Any, path: str) -> bytes | None:
        """Return the whole object if it was asked for lately; note that it is being asked for."""
        with self._lock:
            if path in self._whole:
                self._whole.move_to_end(path)
                return self._whole[path]
            again = path in self._asked
            self._asked[path] = None
            while len(self._asked) > _REMEMBERED:
                self._asked.popitem(last=False)
        if not again:
            return None
        data: bytes = fs.cat_file(path)
        with self._lock:
            self._whole[path] = data
            while sum(map(len, self._whole.values())) > KEPT_BYTES and len(self._whole) > 1:
                self._whole.popitem(last=False)
        return data

    def forget(self, path: str) -> None:
        """Forget an object that is replaced or removed by this process."""
        with self._lock:
            self._asked.pop(path, None)
            self._whole.pop(path, None)


_kept = _Kept()


@dataclass(frozen=True)
class ObjectParts:
    """`parts.PartStore` with the same laws, on an object store; `root` is its address."""

    root: str
    kind: str
    fingerprint: str

    def __post_init__(self) -> None:
        assert self.kind.isidentifier(), f"a kind of parts is a plain word, not {self.kind!r}"

    def path(self, key: int) -> str:
        """Return the object of the part of this key, without the scheme."""
        return f"{self._folder}/{part_name(key)}"

    @property
    def _fs(self) -> Any:
        return file_system(self.root)[0]

    @property
    def _folder(self) -> str:
        return f"{file_system(self.root)[1]}/{PARTS_DIRECTORY}/{self.kind}"

    def put(self, key: int, arrays: Mapping[str, Array | Packed], meta: Mapping[str, Any]) -> bool:
        """Put a part; tell whether it is this call's (False: another writer was first).

        A damaged part in the way is replaced. Raises StoreError when the store does not take it.
        """
        data = b"".join(encode((self.fingerprint, self.kind, int(key)), arrays, meta))
        path = self.path(key)
        _kept.forget(path)
        with object_errors(path, "writing"):
            if put_new(self._fs, path, data):
                return True
            if self.has(key):
                return False
            put(self._fs, path, data)
        return True

    def get(self, key: int, names: Sequence[str] | None = None) -> Part:
        """Read a part, or only the named arrays of it; every byte read is checked.

        Raises StoreError when the part is missing, damaged or of another job.
        """
        path = self.path(key)
        with self._opened(key, keep=True) as file:
            header = self._checked(file, key)
            return Part(key, parse_arrays(file, path, header, names), header.meta)

    def meta(self, key: int) -> dict[str, Any]:
        """Read only the header's JSON of a part. Raises StoreError like `get`."""
        with self._opened(key) as file:
            return self._checked(file, key).meta

    def has(self, key: int) -> bool:
        """Tell whether a whole part of this job lies under this key (header, size, fingerprint)."""
        try:
            self.meta(key)
        except StoreError as error:
            if error.__cause__ is not None and not isinstance(error.__cause__, FileNotFoundError):
                raise  # the store does not answer: that is no "no"
            return False
        return True

    def keys(self) -> Iterator[int]:
        """Yield the keys of all parts for which `has` holds, in ascending order."""
        with object_errors(self._folder, "listing"):
            found = [Path(name) for name in self._fs.find(self._folder)]
        keys = sorted(int(p.stem) for p in found if p.suffix == ".part" and p.stem.isdigit())
        return (key for key in keys if self.has(key))

    def discard(self, key: int) -> None:
        """Remove a part, if it is there; its work is then to be done again."""
        path = self.path(key)
        _kept.forget(path)
        with object_errors(path, "removing"):
            if self._fs.exists(path):
                self._fs.rm_file(path)

    def verify(self, key: int) -> None:
        """Read all of a part and throw it away. Raises StoreError when one bit is wrong."""
        _kept.forget(self.path(key))
        self.get(key)

    @contextmanager
    def _opened(self, key: int, keep: bool = False) -> Iterator[Any]:
        path = self.path(key)
        try:
            with object_errors(path, "reading"):
                if keep and (whole := _kept.get(self._fs, path)) is not None:
                    yield io.BytesIO(whole)
                    return
                ranged = {"block_size": _READ_AHEAD, "cache_type": "readahead"}
                with self._fs.open(path, "rb", **ranged) as file:
                    yield file
        except FileNotFoundError as error:
            raise missing(path) from error

    def _checked(self, file: Any, key: int) -> Header:
        header = parse_header(file, self.path(key))
        check_identity(header, (self.fingerprint, self.kind, key), self.path(key))
        return header
