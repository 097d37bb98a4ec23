"""The few disk operations that results depend on, in one place, so that each can be made to fail.

Every byte that a later run trusts goes through these functions. A test sets the environment
variable ``GEOPANOPTIC_FAULT`` to ``OP:WHAT@N``, and the N-th such operation of the process fails:
OP is one of `open write fsync link replace mkdir` or `any`; WHAT is an errno name (``ENOSPC``), or
``KILL`` (the process dies by SIGKILL before the operation), or ``TORN`` (half of the bytes are
written, then SIGKILL). This is how SQLite tests its own promises (its ioerr and crash tests).
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from geopanoptic.errors import StoreError

FAULT_VARIABLE = "GEOPANOPTIC_FAULT"
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}

_lock = threading.Lock()
_seen = 0


def _operation(op: str) -> str:
    """Count one operation; fail, die or answer ``'TORN'`` when the fault variable says so."""
    plan = os.environ.get(FAULT_VARIABLE)
    if not plan:
        return ""
    wanted, rest = plan.split(":")
    what, nth = rest.split("@")
    if wanted not in (op, "any"):
        return ""
    global _seen  # one counter per process is the meaning of "the n-th operation"
    with _lock:
        _seen += 1
        if _seen != int(nth):
            return ""
    if what == "TORN" and op == "write":
        return "TORN"
    if what in ("KILL", "TORN"):
        os.kill(os.getpid(), signal.SIGKILL)
    code = getattr(errno, what)
    raise OSError(code, f"{os.strerror(code)} (injected: {op})")


def megabytes(n_bytes: int) -> str:
    """Say a number of bytes the way a person reads it."""
    if n_bytes >= 10**9:
        return f"{n_bytes / 1e9:.2f} GB"
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 10**5 else f"{n_bytes} bytes"


def free_bytes(path: Path) -> int:
    """Return the bytes free for this user where `path` lies (its nearest existing parent)."""
    here = path.absolute()
    while not here.exists() and here != here.parent:
        here = here.parent
    return shutil.disk_usage(here).free


@contextmanager
def store_errors(path: Path, doing: str, need: int | None = None) -> Iterator[None]:
    """Turn an OSError into a StoreError that names the path, the numbers and the cure."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            with suppress(OSError):
                reason += f": {megabytes(free_bytes(path))} free"
            wanted = f", {megabytes(need)} needed for this piece alone" if need else ""
            cure = "free some space and run the same command again: finished work is kept"
            raise StoreError(f"{doing} {path}: {reason}{wanted}; {cure}") from error
        if error.errno in _READ_ONLY:
            cure = "make it writable or choose another place (--work-dir, --out)"
            raise StoreError(f"{doing} {path}: {reason}; {cure}") from error
        raise StoreError(f"{doing} {path}: {reason}; the disk or mount needs a look") from error


@contextmanager
def full_disk_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn the OSError of a full disk into a StoreError as `store_errors` does; others pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        with store_errors(path, doing):
            raise


def make_directory(path: Path) -> None:
    """Make a directory (mode 0700: others must not change what we trust) and its parents."""
    if path.is_dir():
        return
    _operation("mkdir")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def write_new(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file that must not exist yet and flush it to the device; remove it on failure."""
    _operation("open")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        for piece in pieces:
            _write_all(descriptor, memoryview(piece))
        _operation("fsync")
        os.fsync(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, view: memoryview) -> None:
    if _operation("write") == "TORN":
        os.write(descriptor, view[: len(view) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    while view.nbytes:  # a write may be short, near the end of a full disk
        view = view[os.write(descriptor, view) :]


def fsync_path(path: Path) -> None:
    """Flush a file, or the names in a directory, to the device."""
    _operation("fsync")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_new(temporary: Path, final: Path) -> bool:
    """Give `temporary` its final name unless that name is taken; tell whether it was given.

    First writer wins, also among hosts. Where the file system has no hard links the check and
    the rename are two steps: two writers that meet within them both succeed, the later one stays.
    """
    _operation("link")
    try:
        os.link(temporary, final)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if final.exists():
            return False
        temporary.rename(final)
        fsync_path(final.parent)
        return True
    temporary.unlink(missing_ok=True)
    fsync_path(final.parent)
    return True


def replace(temporary: Path, final: Path) -> None:
    """Rename over `final`, whatever is there, and flush the directory."""
    _operation("replace")
    temporary.replace(final)
    fsync_path(final.parent)


def process_lives(pid: int) -> bool:
    """Tell whether a process of this host is alive, be it another user's."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
