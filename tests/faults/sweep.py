"""Fail the n-th disk operation of a small job, for every n, and resume: run as a script.

Forks one process per experiment, which needs a parent without threads, hence a script of its own.
Prints one JSON object: experiments made, and those that went wrong.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from geopanoptic.errors import StoreError
from geopanoptic.store import Job, JobRef, atomic_output, disk, part
from geopanoptic.workers import EngineSpec, open_engine

REGIONS = int(sys.argv[2])
INPUTS = {"scene": {"size": 1}, "tiling": {"core": 4}}


def infer(ref: JobRef, key: int) -> dict[str, Any]:
    store = ref.parts("infer")
    if not store.has(key):
        pixels = np.random.default_rng(key).integers(0, 9, (32, 32)).astype(np.uint8)
        store.put(key, {"semantic": pixels, "ids": np.unique(pixels)}, {"n": key})
    return {"key": key}


def smooth(ref: JobRef, key: int) -> dict[str, Any]:
    """A second stage that reads neighbours' parts, as seams do."""
    store = ref.parts("core")
    if not store.has(key):
        pair = [ref.parts("infer").get(k).arrays["semantic"] for k in (key, (key + 1) % REGIONS)]
        store.put(key, {"semantic": pair[0] + pair[1]}, {})
    return {}


def whole_job(folder: Path) -> None:
    """Two stages and one output, as a run of the command would do it; StoreError ends it."""
    with (
        Job.open(folder / "job", INPUTS) as job,
        open_engine(EngineSpec(threads=1)) as engine,
    ):
        for stage in (infer, smooth):
            failures = engine.run(partial(stage, job.ref), range(REGIONS), lambda *_: None)
            assert not failures, failures
        with atomic_output(folder / "map.bin", overwrite=True) as path:
            parts = [job.parts("core").get(k).arrays["semantic"].tobytes() for k in range(REGIONS)]
            path.write_bytes(b"".join(parts))


def in_child(work: Callable[[], None], fault: str | None) -> int:
    """Run `work` in a fork; return its wait status. 3 = a StoreError, as it should be."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        disk._seen = 0
        if fault:
            os.environ[disk.FAULT_VARIABLE] = fault
        else:
            os.environ.pop(disk.FAULT_VARIABLE, None)
        work()
        code = 0
    except StoreError:
        code = 3
    except BaseException as error:
        print(fault, repr(error), file=sys.stderr)
    finally:
        os._exit(code)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "map.bin").read_bytes()).hexdigest()


def litter(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if ".tmp" in p.name]


def experiment(folder: Path, fault: str, wanted: str) -> tuple[bool, str]:
    """Return whether the fault struck, and what is wrong afterwards (``''``: nothing)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    work = partial(whole_job, folder)
    code = in_child(work, fault)
    if code == 0:
        return False, "" if digest(folder) == wanted else "other bytes, without any error"
    what = fault.split(":")[1].split("@")[0]
    lawful = {-9} if what in ("KILL", "TORN") else {3}
    if code not in lawful:
        return True, f"ended with {code}"
    if (folder / "map.bin").exists() and digest(folder) != wanted:
        return True, "a wrong output stands under its final name"
    if hasattr(errno, what) and litter(folder):
        return True, f"left behind {litter(folder)}"
    kept = [p.stat().st_ino for p in sorted((folder / "job").rglob("*.part"))]
    code = in_child(work, None)
    if code != 0:
        return True, f"the resumed run ended with {code}"
    if digest(folder) != wanted:
        return True, "the resumed run made other bytes"
    if litter(folder):
        return True, f"the resumed run left {litter(folder)}"
    now = {p.stat().st_ino for p in (folder / "job").rglob("*.part")}
    return True, "" if now.issuperset(kept) else "a finished part was made anew"


def main(folder: Path, faults: list[str]) -> None:
    part._zstd()  # imported once here, not in each of a thousand forks
    assert in_child(partial(whole_job, _fresh(folder)), None) == 0
    wanted = digest(folder)
    made: dict[str, int] = {}
    wrong: dict[str, str] = {}
    for fault in faults:
        n, struck = 0, True
        while struck:
            n += 1
            struck, problem = experiment(folder, f"{fault}@{n}", wanted)
            made[fault] = n - 1 + struck
            if problem:
                wrong[f"{fault}@{n}"] = problem
    print(json.dumps({"made": made, "wrong": wrong}))


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[3:])
