"""The job: a work directory that belongs to one set of inputs and to one run at a time.

job.json     what the parts depend on (written first, atomically, never changed)
lock         flock held for the life of the run; says who holds it
parts/       one immutable file per finished piece of work (`PartStore`)
files/       what the run keeps beside its parts (`Job.file`)
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from geopanoptic.errors import StoreError
from geopanoptic.store import disk
from geopanoptic.store.objects import ObjectParts, is_object_store
from geopanoptic.store.parts import PARTS_DIRECTORY, PartStore, temporary_name

MANIFEST = "job.json"
FORMAT = "geopanoptic-job"
VERSION = 1
_LOCK = "lock"
_FILES = "files"
_OURS = {MANIFEST, _LOCK, PARTS_DIRECTORY, _FILES}


@dataclass(frozen=True, slots=True)
class JobRef:
    """What a worker needs to reach the parts of a job: about 200 bytes when pickled, no lock.

    `root`: a folder, or an address like ``s3://bucket/job``; `files`: the coordinator's folder
    for whole files (default: within the root).
    """

    root: str
    fingerprint: str
    files: str = ""

    def parts(self, kind: str) -> PartStore | ObjectParts:
        """Open the parts of this kind, in whatever process this is."""
        if is_object_store(self.root):
            return ObjectParts(self.root, kind, self.fingerprint)
        return PartStore(Path(self.root), kind, self.fingerprint)

    def files_folder(self) -> Path:
        """Return the folder of the coordinator for whole files, making it."""
        folder = Path(self.files) if self.files else Path(self.root) / _FILES
        with disk.store_errors(folder, "making"):
            disk.make_directory(folder)
        return folder


class Job:
    """A locked work directory; use `Job.open` as a context manager.

    Law: two runs share a work directory only one after the other, and only if everything that
    their results depend on (the fingerprint) is equal.
    """

    def __init__(self, root: Path, fingerprint: str, lock: IO[str], *, resumed: bool) -> None:
        self.root = root
        self.fingerprint = fingerprint
        self.resumed = resumed
        self._lock = lock

    @classmethod
    def open(cls, root: Path, fingerprint: dict[str, Any], *, fresh: bool = False) -> Job:
        """Lock the work directory `root` and make it, or check that it is of the same inputs.

        `fingerprint`: JSON values, nested as you like, of everything the parts depend on.
        `fresh` forgets what an earlier run left. Leftover temporary files are swept.

        Raises StoreError when the directory is locked by another run (naming it), belongs to
        other inputs (naming each key that differs), holds other things, or cannot be written.
        """
        root = root.absolute()
        wanted = normalised(fingerprint)
        with disk.store_errors(root, "making the work directory"):
            _refuse_foreign(root)
            disk.make_directory(root)
            lock = _take_lock(root)
        try:
            with disk.store_errors(root, "preparing the work directory"):
                if fresh:
                    _forget(root)
                _sweep(root)
                resumed = _agree(root, wanted)
        except BaseException:
            lock.close()
            raise
        return cls(root, digest(wanted), lock, resumed=resumed)

    @property
    def ref(self) -> JobRef:
        """The small, picklable handle for workers."""
        return JobRef(str(self.root), self.fingerprint)

    def parts(self, kind: str) -> PartStore:
        """Return the parts of this kind ('infer', 'seam', ...)."""
        return PartStore(self.root, kind, self.fingerprint)

    def file(self, name: str) -> Path:
        """Return the path of a file that this run may keep in its work directory."""
        return self.ref.files_folder() / name

    def remove(self) -> None:
        """Delete everything of this job, at the end of a run that needs it no more."""
        with disk.store_errors(self.root, "removing the work directory"):
            _forget(self.root)
            (self.root / _LOCK).unlink(missing_ok=True)
            if not any(self.root.iterdir()):
                self.root.rmdir()
        self.close()

    def close(self) -> None:
        """Let go of the lock; what is on disk stays for the next run."""
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _canonical(fingerprint: dict[str, Any]) -> str:
    return json.dumps(fingerprint, sort_keys=True, separators=(",", ":"), allow_nan=False)


def normalised(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Return a fingerprint as it will be read back: tuples are lists, keys are text."""
    plain: dict[str, Any] = json.loads(_canonical(fingerprint))
    return plain


def digest(fingerprint: dict[str, Any]) -> str:
    """Return the short name of a normalised fingerprint."""
    return hashlib.sha256(_canonical(fingerprint).encode()).hexdigest()[:32]


def _refuse_foreign(root: Path) -> None:
    """Never settle in (and later clear) a directory that somebody keeps other things in."""
    if root.exists() and not root.is_dir():
        raise StoreError(f"the work directory {root} is a file; choose another --work-dir")
    if not root.exists() or (root / MANIFEST).exists():
        return
    foreign = [p.name for p in root.iterdir() if p.name not in _OURS and not _is_temporary(p)]
    if foreign:
        raise foreign_error(root, foreign)


def foreign_error(root: Path | str, foreign: list[str]) -> StoreError:
    """Make the error for a work directory that holds other things."""
    return StoreError(
        f"{root} is no work directory of geopanoptic and not empty (it holds {foreign[0]!r} "
        f"and {len(foreign) - 1} other things); choose an empty or new --work-dir"
    )


def _take_lock(root: Path) -> IO[str]:
    descriptor = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    file = os.fdopen(descriptor, "r+", encoding="utf-8")  # open for the life of the run
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(file.read())
        file.close()
        raise in_use(root, holder) from None
    except BaseException:
        file.close()
        raise
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "since": now()}
    file.truncate(0)
    file.write(json.dumps(mine))
    file.flush()
    return file


def in_use(root: Path | str, holder: str) -> StoreError:
    """Make the error for a work directory that another run has locked."""
    return StoreError(
        f"the work directory {root} is in use by another run ({holder}); wait for it, stop "
        "it, or choose another --work-dir"
    )


def _holder(text: str) -> str:
    try:
        who = json.loads(text)
        return f"process {who['pid']} on {who['host']}, since {who['since']}"
    except (ValueError, KeyError, TypeError):
        return "it has not said which yet"


def now() -> str:
    """Return the time as manifests and locks write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _forget(root: Path) -> None:
    # The manifest goes last: killed in between, the directory still is what it says it is.
    for name in (PARTS_DIRECTORY, _FILES):
        if (root / name).exists():
            shutil.rmtree(root / name)
    (root / MANIFEST).unlink(missing_ok=True)


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _sweep(root: Path) -> None:
    for pattern in (".*.tmp", f"{PARTS_DIRECTORY}/*/*/.*.tmp"):
        for path in root.glob(pattern):
            path.unlink(missing_ok=True)


def _agree(root: Path, wanted: dict[str, Any]) -> bool:
    """Write the manifest, or check the one that is there; tell whether it was there."""
    manifest = root / MANIFEST
    if not manifest.exists():
        temporary = root / temporary_name(MANIFEST)
        disk.write_new(temporary, [manifest_text(wanted)])
        try:
            disk.link_new(temporary, manifest)
        finally:
            temporary.unlink(missing_ok=True)
        return False
    check_manifest(manifest.read_bytes(), manifest, wanted)
    return True


def manifest_text(wanted: dict[str, Any]) -> bytes:
    """Return the bytes of a new job's manifest."""
    content = {"format": FORMAT, "version": VERSION, "created": now(), "fingerprint": wanted}
    return json.dumps(content, indent=1).encode()


def check_manifest(text: bytes, manifest: Path | str, wanted: dict[str, Any]) -> None:
    """Raise StoreError when the manifest is damaged or its fingerprint is not the `wanted` one."""
    found = _parse_manifest(text, manifest)
    root = str(manifest).removesuffix(f"/{MANIFEST}")
    changes = list(differences(found, wanted))
    if changes:
        shown = "; ".join(changes[:8]) + (f"; and {len(changes) - 8} more" if changes[8:] else "")
        raise StoreError(
            f"the work directory {root} was made for other inputs. What differs: {shown}. "
            "Use --fresh to start anew (its finished parts are lost) or another --work-dir"
        )


def _parse_manifest(text: bytes, manifest: Path | str) -> dict[str, Any]:
    cure = "use --fresh to start anew, or another --work-dir"
    try:
        content = json.loads(text.decode("utf-8"))
        version = content["version"] if content["format"] == FORMAT else None
        fingerprint: dict[str, Any] = content["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{manifest} is damaged or no job of geopanoptic ({error}); {cure}"
        ) from error
    if version != VERSION:
        raise StoreError(f"{manifest} has version {version!r}, this is version {VERSION}; {cure}")
    return fingerprint


def differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """Yield one phrase per differing leaf, by its dotted name: ``model.sha256: "a", now "b"``."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            inner = f"{name}.{key}" if name else str(key)
            if key not in wanted:
                yield f"{inner}: {_short(found[key])}, now not there"
            elif key not in found:
                yield f"{inner}: not there, now {_short(wanted[key])}"
            else:
                yield from differences(found[key], wanted[key], inner)
    elif json.dumps(found, sort_keys=True) != json.dumps(wanted, sort_keys=True):
        yield f"{name}: {_short(found)}, now {_short(wanted)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
