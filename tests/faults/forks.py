"""Experiments in forked processes: make a run fail or die at one place, resume it, compare.

A fork is cheap (no imports), but its parent must have no threads: scripts use this, not pytest.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from geopanoptic.errors import StoreError
from geopanoptic.store import disk

REFUSED = 3  # the status of a child that ended with a StoreError, as it should


@dataclass(frozen=True)
class Subject:
    """A job to be disturbed: `work` does all of it in a folder, `digest` sums up its outputs.

    `outputs` are the final names under which nothing half-made may ever stand.
    """

    work: Callable[[Path], None]
    digest: Callable[[Path], str]
    outputs: tuple[str, ...]


def fork(work: Callable[[], None], fault: str | None = None) -> int:
    """Run `work` in a fork, with a fault or without; return the child's number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        disk._seen = 0
        os.environ.pop(disk.FAULT_VARIABLE, None)
        if fault:
            os.environ[disk.FAULT_VARIABLE] = fault
        work()
        code = 0
    except StoreError as error:
        cures = ("run the same command", "the disk", "make it writable")
        code = REFUSED if any(cure in str(error) for cure in cures) else 1
        if code == 1:
            print(fault, f"no cure in: {error}", file=sys.stderr)
    except BaseException:
        print(fault, traceback.format_exc(), file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(child: int) -> int:
    """Return the exit code of a child; minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def clean(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def litter(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if ".tmp" in p.name]


def _parts(folder: Path) -> set[tuple[str, int]]:
    return {(p.name, p.stat().st_ino) for p in folder.rglob("*.part")}


def resumes(subject: Subject, folder: Path, wanted: str) -> str:
    """Run again undisturbed in what is left; return what is wrong then (``''``: nothing)."""
    if all((folder / name).exists() for name in subject.outputs):  # it died after all was done
        same = subject.digest(folder) == wanted
        return "" if same else "something wrong stands under a final name"
    kept = _parts(folder)
    code = wait(fork(lambda: subject.work(folder)))
    if code != 0:
        return f"the resumed run ended with {code}"
    if subject.digest(folder) != wanted:
        return "the resumed run made other bytes"
    if litter(folder):
        return f"the resumed run left {litter(folder)}"
    now = _parts(folder)
    return "" if not now or now.issuperset(kept) else "a finished part was made anew"


def with_fault(subject: Subject, folder: Path, fault: str, wanted: str) -> tuple[bool, str]:
    """Return whether the fault struck, and what is wrong afterwards (``''``: nothing)."""
    clean(folder)
    code = wait(fork(lambda: subject.work(folder), fault))
    if code == 0:
        return False, "" if subject.digest(folder) == wanted else "other bytes, without any error"
    what = fault.split(":")[1].split("@")[0]
    lawful = -signal.SIGKILL if what in ("KILL", "TORN") else REFUSED
    if code != lawful:
        return True, f"ended with {code}"
    if hasattr(errno, what) and litter(folder):
        return True, f"left behind {litter(folder)}"
    return True, resumes(subject, folder, wanted)


def killed_after(subject: Subject, folder: Path, seconds: float, wanted: str) -> str:
    """kill -9 after so many seconds, wherever it is then; return what is wrong afterwards."""
    clean(folder)
    child = fork(lambda: subject.work(folder))
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    wait(child)
    return resumes(subject, folder, wanted)
