"""The main job, end to end: plan, infer, join, write; resumable at every step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from geopanoptic.errors import ConfigError, TileError
from geopanoptic.predict.finished import Finished, run_facts
from geopanoptic.predict.infer import (
    infer_region,
    measured_speed,
    store_failed_region,
    warm_up,
)
from geopanoptic.predict.join import Ids, core_region, number_ids, resolve_ids, seam_region
from geopanoptic.predict.memory import Need, within_memory
from geopanoptic.predict.plan import Plan, estimate, make_plan
from geopanoptic.predict.rasters import Rasters, write_rasters
from geopanoptic.predict.settings import PredictSettings, Products
from geopanoptic.raster import Scene
from geopanoptic.store import check_outputs, open_job
from geopanoptic.workers import Engine, EngineSpec, open_engine, settle_malloc, trim_heap
from geopanoptic.workers.spec import chosen_gpus

# Called with (stage, done, total); pixels for 'infer', steps for the other stages.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Execution:
    """How a run is carried out; none of it changes the map.

    `work_dir`: where finished tiles are kept, a folder or an address like ``s3://bucket/job``
    (default: `<first output>.gpjob`, removed at the end). `fresh`: forget what an earlier run left
    there. `batch`: tiles per network call (None: 1 on a CPU, 4 on a GPU).
    """

    engine: EngineSpec = field(default_factory=EngineSpec)
    work_dir: Path | str | None = None
    fresh: bool = False
    batch: int | None = None
    progress: Progress | None = None

    def report(self, stage: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, total)


@dataclass(slots=True)
class RunRecord:
    """What a run did: written to map.json and run.json, and shown at the end."""

    started: str
    engine: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    failed_tiles: dict[int, str] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return {
            "started": self.started,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "counts": self.counts,
            "failed_tiles": {str(tile): why for tile, why in self.failed_tiles.items()},
        }

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class Outcome:
    """The products that were written, and the record of the run that wrote them."""

    paths: tuple[Path, ...]
    record: RunRecord

    @property
    def failed_tiles(self) -> dict[int, str]:
        return self.record.failed_tiles


def run(
    scene: str, model: Any, products: Products, settings: PredictSettings, execution: Execution
) -> Outcome:
    """Predict `scene` with `model` and write `products`.

    Every check that can be made before the work is made before the work. Failed tiles do not
    stop the run: their pixels are nodata and they are listed in the record. Interrupted or
    crashed, the same call goes on where it stopped.
    """
    if not products.paths:
        raise ConfigError("nothing to write: name at least one --out path")
    for path in products.paths:
        check_outputs(products.files_of(path), products.overwrite)
    record = RunRecord(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    with record.stage("plan"):
        opened = Scene.open(scene, nodata=settings.nodata, date=settings.date)
        plan = make_plan(opened, model, settings, gpu=_on_gpu(execution.engine))
        record.engine = str(plan.engine)
        if products.classes is not None:
            plan.card.schema.subset(products.classes)  # an unknown class is refused here
        if products.regularize:
            from geopanoptic.vector import regular_classes

            regular_classes(plan.card.schema, products.regularize)  # refused where there are none
        if products.simplify_m is not None:
            plan.scene.georef.need_metres("--simplify")
        for path in products.of_kind("vector"):
            if path.suffix.lower() == ".geojson":
                plan.scene.georef.need_metres(f"{path}: GeoJSON, always in degrees,")
    execution = _within_memory(plan, execution)
    work_dir = execution.work_dir or products.paths[0].with_name(products.paths[0].name + ".gpjob")
    files = products.paths[0].with_name(products.paths[0].name + ".gpfiles")
    with open_job(work_dir, plan.fingerprint(), files=files, fresh=execution.fresh) as job:
        with open_engine(execution.engine) as engine:
            plan = replace(
                plan,
                job=job.ref,
                device=engine.device,
                threads=engine.threads_for_compute,
                batch=execution.batch or 1,
            )
            paths = _work(plan, products, execution, engine, record)
        if execution.work_dir is None:
            job.remove()
    return Outcome(paths, record)


def dry_run(
    scene: str, model: Any, settings: PredictSettings, execution: Execution
) -> dict[str, Any]:
    """Return what `run` would take: size, tiles, memory and disk in MB, seconds; writes nothing.

    The time rests on the network's speed on one tile, measured here and now.
    """
    spec = execution.engine
    opened = Scene.open(scene, nodata=settings.nodata, date=settings.date)
    plan = make_plan(opened, model, settings, gpu=_on_gpu(spec))
    execution = _within_memory(plan, execution)
    processes = max(1, spec.workers)
    plan = replace(
        plan,
        device=spec.device,
        threads=spec.cores_per_process(processes),
        batch=execution.batch or 1,
    )
    found = estimate(plan, processes * measured_speed(plan), processes)
    about = {"model": plan.card.name, "engine": str(plan.engine), "notes": list(plan.scene.notes)}
    return found.to_json() | about


def _within_memory(plan: Plan, execution: Execution) -> Execution:
    """Settle tiles per network call and regions in flight; ConfigError where --max-ram is less."""
    spec = execution.engine
    gpus = [] if spec.scheduler is not None else chosen_gpus(spec.device)
    need = Need.of(plan.grid, plan.k, plan.engine, gpu=_on_gpu(spec))
    processes = spec.workers or max(1, len(gpus))
    spec, batch = within_memory(need, spec, execution.batch, processes)
    return replace(execution, engine=spec, batch=batch)


def _on_gpu(spec: EngineSpec) -> bool:
    """Tell whether networks will run on a GPU; of a cluster elsewhere only --device cpu says no."""
    if spec.scheduler is not None:
        return spec.device != "cpu"
    return bool(chosen_gpus(spec.device))


def _work(
    plan: Plan, products: Products, execution: Execution, engine: Engine, record: RunRecord
) -> tuple[Path, ...]:
    if execution.engine.workers == 0 and execution.engine.scheduler is None:
        warm_up(plan)
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as ahead:
        # what only the last stage needs is imported while the network runs
        writing = ahead.submit(import_module, "geopanoptic.predict.publish")
        with record.stage("infer"):
            _infer(plan, execution, engine, record)
    settle_malloc()  # the network's memory is not needed any more
    with record.stage("seam"):
        _each(engine, partial(seam_region, plan), plan, execution, "seam")
    with record.stage("resolve"):
        ids = resolve_ids(plan)
    with record.stage("assemble"):
        _each(engine, partial(core_region, plan), plan, execution, "assemble")
        numbered = number_ids(plan, ids)
    trim_heap(0)  # each stage begins with what is in use, not with the peaks of those before
    with record.stage("write"):
        folder = plan.files_folder()
        rasters = write_rasters(plan, numbered, folder, scores=products.scores)
        record.failed_tiles |= ids.failed
        record.counts |= _counts(plan, rasters, ids)
        finished = Finished(plan, rasters, ids.seams, run_facts(plan, record.facts()))
        trim_heap(0)
        paths: tuple[Path, ...] = writing.result().publish(finished, products)
        return paths


def _counts(plan: Plan, rasters: Rasters, ids: Ids) -> dict[str, Any]:
    things = rasters.table.things
    return {
        **ids.resolution.counts,
        "segments": len(rasters.table),
        "things": len(things),
        "things_by_class": {
            spec.name: int((things.class_id == spec.id).sum()) for spec in plan.card.schema.things
        },
        "tiles_failed": len(ids.failed),
    }


def _infer(plan: Plan, execution: Execution, engine: Engine, record: RunRecord) -> None:
    """Run the network over all regions; add up its seconds for the record."""
    total = plan.grid.shape[0] * plan.grid.shape[1]
    _retry_failed(plan)
    done = plan.seen.unseen_px

    def on_done(_index: int, answer: dict[str, Any]) -> None:
        nonlocal done
        done += answer["px"]
        for name, value in answer.get("seconds", {}).items():
            key = f"infer.{name.removesuffix('_s')}"
            record.seconds[key] = record.seconds.get(key, 0.0) + value
        record.counts["tiles_run"] = record.counts.get("tiles_run", 0) + answer.get("tiles", 0)
        execution.report("infer", done, total)

    failures = engine.run(partial(infer_region, plan), plan.seen.indexes, on_done)
    if failures:
        # A region that fails twice (it may kill its worker) is set aside: its tiles are nodata.
        for failure in failures:
            store_failed_region(plan, failure.key, failure.cause)


def _retry_failed(plan: Plan) -> None:
    """Forget regions with failed tiles, and all that was made from them, to try them again."""
    store = plan.parts("infer")
    failed = [index for index in store.keys() if store.meta(index)["failed"]]  # noqa: SIM118
    if not failed:
        return
    # What was made from them goes first: cut short here, the next run still finds them failed.
    for kind in ("seam", "lut", "core"):
        later = plan.parts(kind)
        for index in list(later.keys()):
            later.discard(index)
    for index in failed:
        store.discard(index)


def _each(
    engine: Engine,
    task: Callable[[int], dict[str, Any]],
    plan: Plan,
    execution: Execution,
    stage: str,
) -> None:
    """Run a follow-up stage over all regions; here a failure is our fault and ends the run."""
    total, done = len(plan.seen.indexes), 0

    def on_done(_index: int, _answer: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        execution.report(stage, done, total)

    failures = engine.run(task, plan.seen.indexes, on_done)
    if failures:
        first = failures[0]
        region = plan.regions.region(first.key)
        raise TileError(region.tiles[0], region.core, f"stage '{stage}' failed: {first.cause}")
