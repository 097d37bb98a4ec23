"""A job whose work directory is on an object store; `open_job` picks the right kind of job."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from geopanoptic.errors import StoreError
from geopanoptic.store.job import (
    MANIFEST,
    Job,
    JobRef,
    check_manifest,
    digest,
    foreign_error,
    in_use,
    manifest_text,
    normalised,
)
from geopanoptic.store.lease import Lease
from geopanoptic.store.objects import (
    ObjectParts,
    file_system,
    is_object_store,
    object_errors,
    put_new,
)
from geopanoptic.store.parts import PARTS_DIRECTORY


@dataclass
class ObjectJob:
    """`Job` with the same laws, on an object store.

    `root`: its address. `files`: a local folder beside the outputs, for what GDAL writes piece by
    piece; made anew by each run and removed with it.
    """

    root: str
    fingerprint: str
    files: Path
    resumed: bool
    lease: Lease

    @classmethod
    def open(
        cls, root: str, fingerprint: dict[str, Any], *, files: Path, fresh: bool = False
    ) -> ObjectJob:
        """Take the lease on the work directory and make it, or check that it is of the same inputs.

        Raises StoreError as `Job.open` does, and when the store's package or credentials are
        missing.
        """
        fs, path = file_system(root)
        wanted = normalised(fingerprint)
        try:
            with object_errors(root, "opening the work directory"):
                _refuse_foreign(fs, root, path)
                lease = Lease.take(fs, path)
        except FileNotFoundError as why:
            raise StoreError(
                f"the work directory {root} cannot be made: {why}; make the bucket first"
            ) from why
        if isinstance(lease, str):
            raise in_use(root, lease)
        try:
            with object_errors(root, "preparing the work directory"):
                if fresh:
                    _forget(fs, path)
                resumed = not put_new(fs, f"{path}/{MANIFEST}", manifest_text(wanted))
                if resumed:
                    text = fs.cat_file(f"{path}/{MANIFEST}")
                    check_manifest(text, f"{root.rstrip('/')}/{MANIFEST}", wanted)
        except BaseException:
            lease.release()
            raise
        return cls(root, digest(wanted), files, resumed, lease)

    @property
    def ref(self) -> JobRef:
        """The small, picklable handle for workers."""
        return JobRef(self.root, self.fingerprint, str(self.files))

    def parts(self, kind: str) -> ObjectParts:
        """Return the parts of this kind ('infer', 'seam', ...)."""
        return ObjectParts(self.root, kind, self.fingerprint)

    def remove(self) -> None:
        """Delete everything of this job. Raises StoreError when another run has taken it over."""
        self.lease.check()
        fs, path = file_system(self.root)
        with object_errors(self.root, "removing the work directory"):
            _forget(fs, path)
        self.close()

    def close(self) -> None:
        """Let go of the lease; the objects stay for the next run, the local files do not."""
        self.lease.release()
        shutil.rmtree(self.files, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_job(
    root: Path | str, fingerprint: dict[str, Any], *, files: Path, fresh: bool = False
) -> Job | ObjectJob:
    """Open the job at a folder or at an address like ``s3://bucket/job``.

    `files`: where a job on an object store keeps what must be local. Raises StoreError.
    """
    if is_object_store(root):
        return ObjectJob.open(str(root), fingerprint, files=files, fresh=fresh)
    return Job.open(Path(str(root).removeprefix("file://")), fingerprint, fresh=fresh)


def _refuse_foreign(fs: Any, root: str, path: str) -> None:
    if fs.exists(f"{path}/{MANIFEST}"):
        return
    ours = (f"{path}/{PARTS_DIRECTORY}/", f"{path}/lock/")
    foreign = [name for name in fs.find(path, maxdepth=3) if not name.startswith(ours)]
    if foreign:
        raise foreign_error(root, [name.removeprefix(f"{path}/") for name in foreign])


def _forget(fs: Any, path: str) -> None:
    # The manifest goes last: killed in between, the directory still is what it says it is.
    if fs.exists(f"{path}/{PARTS_DIRECTORY}"):
        fs.rm(f"{path}/{PARTS_DIRECTORY}", recursive=True)
    if fs.exists(f"{path}/{MANIFEST}"):
        fs.rm_file(f"{path}/{MANIFEST}")
