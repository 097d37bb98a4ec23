"""Disturb a job at every place and resume it: a script, see `forks` for why.

    sweep.py FOLDER partsN|map|pair|polygons STEP[+LAST] FAULT...

partsN: two stages and an output in the shape of the main job, N regions. The others are the main
job on 16 regions: to a map directory with a copy of its polygons, to a pair of rasters, to a
GeoPackage.

FAULT is `OP:WHAT` as in `geopanoptic.store.disk` (its n-th, n = 1, 1 + STEP, ... and each of the
LAST ones, until it strikes no more), `moment:N` (kill -9 at N moments spread over the run's time),
or `each:KILL` (kill -9 before each operation: what the dead leave is the folder as it is then, so
one run gives all the folders; two with the same names in them are one case, since parts never
change and hidden files are swept unread). Prints one JSON object.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from forks import Subject, clean, fork, killed_after, resumes, wait, with_fault

from geopanoptic.store import Job, JobRef, atomic_output, disk, part
from geopanoptic.workers import EngineSpec, open_engine


def infer(ref: JobRef, key: int) -> dict[str, Any]:
    store = ref.parts("infer")
    if not store.has(key):
        pixels = np.random.default_rng(key).integers(0, 9, (32, 32)).astype(np.uint8)
        store.put(key, {"semantic": pixels, "ids": np.unique(pixels)}, {"n": key})
    return {}


def smooth(ref: JobRef, regions: int, key: int) -> dict[str, Any]:
    """A second stage that reads neighbours' parts, as seams do."""
    store = ref.parts("core")
    if not store.has(key):
        pair = [ref.parts("infer").get(k).arrays["semantic"] for k in (key, (key + 1) % regions)]
        store.put(key, {"semantic": pair[0] + pair[1]}, {})
    return {}


def parts_job(regions: int, folder: Path) -> None:
    """Two stages and one output, in the shape of the main job."""
    with (
        Job.open(folder / "job", {"regions": regions}) as job,
        open_engine(EngineSpec(threads=1)) as engine,
    ):
        for stage in (partial(infer, job.ref), partial(smooth, job.ref, regions)):
            assert not engine.run(stage, range(regions), lambda *_: None)
        with atomic_output(folder / "map.bin", overwrite=True) as path:
            parts = [job.parts("core").get(k).arrays["semantic"].tobytes() for k in range(regions)]
            path.write_bytes(b"".join(parts))


def predict_job(scene: Path, names: tuple[str, ...], folder: Path) -> None:
    """The main job itself, with a model that reads the truth out of the pixels."""
    from pixel_oracle import PixelOracle

    from geopanoptic.predict import Execution, PredictSettings, Products, infer, run

    execution = Execution(engine=EngineSpec(threads=1))
    # several products are replaced, for a run that dies between their names has made some of them
    outputs = Products.to([folder / name for name in names], overwrite=len(names) > 1)
    run(str(scene), PixelOracle(), outputs, PredictSettings(core=40, halo=3), execution)
    infer._device().shutdown()
    infer._device.cache_clear()


# Final names of the main job, and the files that must be the same bytes (of a GeoPackage, which
# holds the time: the same rows).
PRODUCTS = {
    "map": (("map.panoptic", "things.gpkg"),
            ("map.panoptic/semantic.tif", "map.panoptic/instances.tif", "things.gpkg")),
    "pair": (("map.tif",), ("map.tif", "map.instances.tif", "map.qml", "map.tif.aux.xml")),
    "polygons": (("things.gpkg",), ("things.gpkg",)),
}  # fmt: skip


def digest_of(names: tuple[str, ...], folder: Path) -> str:
    return hashlib.sha256(b"".join(_content(folder / name) for name in names)).hexdigest()


def _content(path: Path) -> bytes:
    if path.suffix != ".gpkg":
        return path.read_bytes()
    with closing(sqlite3.connect(path)) as package:
        rows = [
            package.execute(f"SELECT * FROM {layer} ORDER BY fid").fetchall()
            for layer in ("things", "stuff", "seams_qa")
        ]
    return repr(rows).encode()


def subject_for(what: str, folder: Path) -> Subject:
    if what.startswith("parts"):
        part._zstd()  # imported once here, not in each of a thousand forks
        regions = int(what.removeprefix("parts"))
        return Subject(partial(parts_job, regions), partial(digest_of, ("map.bin",)), ("map.bin",))
    from pixel_oracle import spell
    from scenes import make_truth

    names, compared = PRODUCTS[what]
    scene = spell(make_truth("row houses", (150, 150), seed=6), clean(folder / "in") / "scene.tif")
    predict_job(scene, names, clean(folder / "warm"))  # compiled and imported once, in the parent
    return Subject(partial(predict_job, scene, names), partial(digest_of, compared), names)


def count(subject: Subject, folder: Path, fault: str) -> int:
    """Return how many operations a run makes that `fault` could strike."""
    found = clean(folder).with_name("count")

    def work() -> None:
        subject.work(folder)
        found.write_text(str(disk._seen))

    assert wait(fork(work, f"{fault}@{10**9}")) == 0
    return int(found.read_text())


def folders_at_each_operation(subject: Subject, run: Path, kept: Path) -> tuple[int, int]:
    """Keep the folder of a run as it is before each operation; return operations and folders."""
    clean(kept)
    note = kept.with_name("noted")

    def work() -> None:
        known: set[frozenset[str]] = set()
        lock, operations = threading.Lock(), 0

        def look(op: str) -> str:
            nonlocal operations
            with lock:
                operations += 1
                names = frozenset(str(path.relative_to(run)) for path in run.rglob("*"))
                if names not in known:
                    known.add(names)
                    copied(run, kept / str(len(known)))
                note.write_text(json.dumps([operations, len(known)]))
            return ""

        disk._operation = look
        subject.work(run)

    clean(run)
    assert wait(fork(work)) == 0
    operations, folders = json.loads(note.read_text())
    return operations, folders


def copied(folder: Path, to: Path) -> None:
    def copy(source: str, target: str) -> None:
        if source.endswith(".part"):
            os.link(source, target)
        else:
            shutil.copyfile(source, target)

    shutil.copytree(folder, to, copy_function=copy)


def killed_before_each(
    subject: Subject, run: Path, wanted: str
) -> tuple[tuple[int, int], dict[str, str]]:
    kept, wrong = run.with_name("kept"), {}
    found = folders_at_each_operation(subject, run, kept)
    for n in range(1, found[1] + 1):
        shutil.rmtree(run)
        copied(kept / str(n), run)
        problem = resumes(subject, run, wanted)
        if problem:
            wrong[f"each:KILL@{n}"] = problem
    return found, wrong


def numbers(total: int, step: int, last: int) -> Iterator[int]:
    """Yield which operations are struck; one after the last means that none was."""
    each = max(1, total - last + 1)
    yield from range(1, each, step)
    yield from itertools.count(each)


def main(folder: Path, what: str, steps: str, faults: list[str]) -> None:
    step, _, last = steps.partition("+")
    subject = subject_for(what, folder)
    run = folder / "run"
    clean(run)
    began = time.monotonic()
    assert wait(fork(lambda: subject.work(run))) == 0
    took = time.monotonic() - began
    wanted = subject.digest(run)
    made: dict[str, int] = {}
    totals: dict[str, int] = {}
    wrong: dict[str, str] = {}
    for fault in faults:
        kind, _, moments = fault.partition(":")
        if kind == "moment":
            for i in range(int(moments)):
                problem = killed_after(subject, run, took * (i + 0.5) / int(moments), wanted)
                made[fault] = i + 1
                if problem:
                    wrong[f"{fault}@{i}"] = problem
            continue
        if kind == "each":
            (made[fault], totals[fault]), found = killed_before_each(subject, run, wanted)
            wrong |= found
            continue
        totals[fault] = count(subject, run, fault)
        for n in numbers(totals[fault], int(step), int(last or 0)):
            struck, problem = with_fault(subject, run, f"{fault}@{n}", wanted)
            made[fault] = made.get(fault, 0) + struck
            if problem:
                wrong[f"{fault}@{n}"] = problem
            if not struck:
                break
    print(json.dumps({"made": made, "of": totals, "wrong": wrong, "seconds": took}))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
