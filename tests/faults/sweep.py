"""Disturb a job at every place and resume it: a script, see `forks` for why.

    sweep.py FOLDER parts|predict STEP FAULT...

FAULT is `OP:WHAT` as in `geopanoptic.store.disk` (its n-th, n = 1, 1 + STEP, ... until it strikes
no more), or `moment:N` (kill -9 at N moments spread over the run's time). Prints one JSON object.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from forks import Subject, clean, fork, killed_after, wait, with_fault

from geopanoptic.store import Job, JobRef, atomic_output, part
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


def predict_job(scene: Path, folder: Path) -> None:
    """The main job itself, with a model that reads the truth out of the pixels."""
    from pixel_oracle import PixelOracle

    from geopanoptic.predict import Execution, PredictSettings, Products, infer, run

    execution = Execution(engine=EngineSpec(threads=1))
    settings = PredictSettings(core=40, halo=3)
    outputs = Products.to([folder / "map.panoptic", folder / "things.gpkg"], overwrite=True)
    run(str(scene), PixelOracle(), outputs, settings, execution)
    infer._device().shutdown()
    infer._device.cache_clear()


def digest_of(names: tuple[str, ...], folder: Path) -> str:
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()


def subject_for(what: str, folder: Path) -> Subject:
    if what.startswith("parts"):
        part._zstd()  # imported once here, not in each of a thousand forks
        regions = int(what.removeprefix("parts"))
        return Subject(partial(parts_job, regions), partial(digest_of, ("map.bin",)), ("map.bin",))
    from pixel_oracle import spell
    from scenes import make_truth

    scene = spell(make_truth("row houses", (110, 120), seed=6), clean(folder / "in") / "scene.tif")
    predict_job(scene, clean(folder / "warm"))  # compiled and imported once, in the parent
    rasters = tuple(f"map.panoptic/{name}.tif" for name in ("semantic", "instances"))
    return Subject(
        partial(predict_job, scene), partial(digest_of, rasters), ("map.panoptic", "things.gpkg")
    )


def main(folder: Path, what: str, step: int, faults: list[str]) -> None:
    subject = subject_for(what, folder)
    run = folder / "run"
    clean(run)
    began = time.monotonic()
    assert wait(fork(lambda: subject.work(run))) == 0
    took = time.monotonic() - began
    wanted = subject.digest(run)
    made: dict[str, int] = {}
    wrong: dict[str, str] = {}
    for fault in faults:
        kind, _, count = fault.partition(":")
        if kind == "moment":
            for i in range(int(count)):
                problem = killed_after(subject, run, took * (i + 0.5) / int(count), wanted)
                made[fault] = i + 1
                if problem:
                    wrong[f"{fault}@{i}"] = problem
            continue
        n, struck = 1, True
        while struck:
            struck, problem = with_fault(subject, run, f"{fault}@{n}", wanted)
            made[fault] = made.get(fault, 0) + struck
            if problem:
                wrong[f"{fault}@{n}"] = problem
            n += step
    print(json.dumps({"made": made, "wrong": wrong, "seconds": took}))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:])
