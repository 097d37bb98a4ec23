"""Stage 1: read a region, segment its tiles, keep the tile products as one immutable part."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import SceneError, TileError
from geopanoptic.grid import Tile, Window
from geopanoptic.models import Engine, Segmenter, load_model, with_tta
from geopanoptic.predict.backoff import DEVICE
from geopanoptic.predict.plan import Plan
from geopanoptic.predict.tables import pack
from geopanoptic.segments import PanopticTile
from geopanoptic.stitch import NodeTable, label_tile
from geopanoptic.workers import trim_heap

# Above this a process gives freed memory back after a region: see workers.malloc.
_HEAP_BYTES = 2_600_000_000

Chip = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(slots=True)
class _Clock:
    """Seconds by stage of one region."""

    read_s: float = 0.0
    wait_s: float = 0.0
    forward_s: float = 0.0
    decode_s: float = 0.0
    write_s: float = 0.0


@dataclass(slots=True)
class _Harvest:
    """What a region's tiles gave: arrays for the part, nodes, failures."""

    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    nodes: list[NodeTable] = field(default_factory=list)
    edges: list[Mask] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@lru_cache(maxsize=1)
def _device() -> ThreadPoolExecutor:
    """The one thread of this process that may run the network.

    One thread is the device lock, keeps first-come order, and gives torch one OpenMP team
    (thread counts are per calling thread, and a second team would fight for the same cores).
    """
    return ThreadPoolExecutor(1, thread_name_prefix="device")


@lru_cache(maxsize=2)
def _loaded(where: tuple[str, str], place: tuple[str, int], tta: str, engine: Engine) -> Segmenter:
    model, _ = where  # the card's fingerprint beside it: a file may be another one by now
    device, threads = place
    return load_model(model, device=device, threads=threads, tta=tta, engine=engine)


def segmenter_of(plan: Plan) -> Segmenter:
    """Return the plan's model, loaded once per process and only on the device thread."""
    if not isinstance(plan.model, str):
        return with_tta(plan.model, plan.settings.tta)
    where, place = (plan.model, plan.card.fingerprint), (plan.device, plan.threads)
    return _loaded(where, place, plan.settings.tta, plan.engine)


def warm_up(plan: Plan) -> Future[Segmenter]:
    """Start loading the model now, beside the first reads."""
    return _device().submit(segmenter_of, plan)


def measured_speed(plan: Plan) -> float:
    """Return the network's speed on this machine, in million window pixels per second."""
    rows, cols = plan.grid.window_shape
    chips = np.zeros((plan.batch, len(plan.card.bands), rows, cols), np.uint8)

    def timed() -> float:
        model = segmenter_of(plan)
        model.forward(chips)  # the first call also pays for set-up
        start = time.perf_counter()
        model.forward(chips)
        return time.perf_counter() - start

    return chips.shape[0] * rows * cols / 1e6 / _device().submit(timed).result()


def infer_region(plan: Plan, index: int) -> dict[str, Any]:
    """Segment the tiles of region `index` and store the part; return its small record.

    The record: pixels, tiles, seconds by stage, and `failed`: tile number -> reason. A tile
    fails alone (its pixels become nodata); StoreError (disk full) ends the run.
    """
    store = plan.parts("infer")
    if store.has(index):
        return {"cached": True, "px": plan.regions.region(index).core.area_px}
    clock, harvest = _Clock(), _Harvest()
    region = plan.regions.region(index)
    start = time.perf_counter()
    chips = _read(plan, region.window, region.tiles, harvest)
    clock.read_s = time.perf_counter() - start
    _segment(plan, chips, harvest, clock)
    start = time.perf_counter()
    nodes = NodeTable.concatenate(harvest.nodes) if harvest.nodes else NodeTable.empty()
    arrays = harvest.arrays | pack(nodes, "nodes")
    arrays["edge"] = np.concatenate(harvest.edges) if harvest.edges else np.zeros(0, bool)
    store.put(index, arrays, {"tiles": [t.index for t, _, _ in chips], "failed": harvest.failed})
    clock.write_s = time.perf_counter() - start
    trim_heap(_HEAP_BYTES)
    return {
        "px": region.core.area_px,
        "tiles": len(chips),
        "seconds": {name: getattr(clock, name) for name in _Clock.__slots__},
        "failed": harvest.failed,
    }


def store_failed_region(plan: Plan, index: int, cause: str) -> None:
    """Store the part of a region that could not be worked on at all: every tile failed."""
    region = plan.regions.region(index)
    arrays = pack(NodeTable.empty(), "nodes") | {"edge": np.zeros(0, bool)}
    failed = {str(t): str(TileError(t, plan.grid.tile(t).window, cause)) for t in region.tiles}
    plan.parts("infer").put(index, arrays, {"tiles": [], "failed": failed})


def _read(
    plan: Plan, window: Window, tiles: tuple[int, ...], harvest: _Harvest
) -> list[tuple[Tile, Chip, Mask]]:
    """Read the region in one go; when a block is damaged, tile by tile to save the rest."""
    try:
        pixels, valid = plan.read(window)
    except SceneError:
        return _read_tiles(plan, tiles, harvest)
    chips = []
    for tile in map(plan.grid.tile, tiles):
        rows, cols = tile.window.within(window).slices
        if valid[rows, cols].any():
            chips.append((tile, pixels[:, rows, cols], valid[rows, cols]))
    return chips


def _read_tiles(
    plan: Plan, tiles: tuple[int, ...], harvest: _Harvest
) -> list[tuple[Tile, Chip, Mask]]:
    chips = []
    for tile in map(plan.grid.tile, tiles):
        try:
            pixels, valid = plan.read(tile.window)
        except SceneError as why:
            harvest.failed[str(tile.index)] = str(why)
            continue
        if valid.any():
            chips.append((tile, pixels, valid))
    return chips


def _segment(
    plan: Plan, chips: list[tuple[Tile, Chip, Mask]], harvest: _Harvest, clock: _Clock
) -> None:
    """Run the network batch by batch on the device thread, decode in this one."""
    batches = _batches(plan, chips)
    # One batch ahead, so that the device has work while this thread decodes.
    waiting = [_device().submit(_forward, plan, b) for b in batches[:1]]
    for i, batch in enumerate(batches):
        if i + 1 < len(batches):
            waiting.append(_device().submit(_forward, plan, batches[i + 1]))
        start = time.perf_counter()
        try:
            fields, seconds = waiting.pop(0).result()
        except (SceneError, TileError) as why:
            harvest.failed |= {str(t.index): str(why) for t, _, _ in batch}
            continue
        clock.wait_s += time.perf_counter() - start - seconds
        clock.forward_s += seconds
        start = time.perf_counter()
        for n, (tile, _, valid) in enumerate(batch):
            _decode(plan, tile, {k: v[n] for k, v in fields.items()}, valid, harvest)
        clock.decode_s += time.perf_counter() - start


def _batches(
    plan: Plan, chips: list[tuple[Tile, Chip, Mask]]
) -> list[list[tuple[Tile, Chip, Mask]]]:
    """Group chips that look the same shape to the network, at most plan.batch together."""
    by_shape: dict[tuple[int, int], list[tuple[Tile, Chip, Mask]]] = {}
    for chip in chips:
        by_shape.setdefault(plan.seen_window(chip[0].index).shape, []).append(chip)
    return [
        group[i : i + plan.batch]
        for group in by_shape.values()
        for i in range(0, len(group), plan.batch)
    ]


def _forward(
    plan: Plan, batch: list[tuple[Tile, Chip, Mask]]
) -> tuple[dict[str, npt.NDArray[Any]], float]:
    model = segmenter_of(plan)
    chips = np.stack(
        [mirrored(pixels, t.window, plan.seen_window(t.index)) for t, pixels, _ in batch]
    )
    start = time.perf_counter()
    fields = DEVICE.forward(model, chips)
    return fields, time.perf_counter() - start


def mirrored(pixels: npt.NDArray[Any], window: Window, seen: Window) -> npt.NDArray[Any]:
    """Reflect `pixels` (band, row, col) of `window` out to the window that is `seen`."""
    pads = [
        (0, 0),
        (window.row - seen.row, seen.row_stop - window.row_stop),
        (window.col - seen.col, seen.col_stop - window.col_stop),
    ]
    if not any(any(p) for p in pads):
        return pixels
    return np.pad(pixels, pads, mode="reflect")


def _decode(
    plan: Plan, tile: Tile, fields: Mapping[str, npt.NDArray[Any]], valid: Mask, harvest: _Harvest
) -> None:
    """Turn a tile's fields into its product: labels of the window, stuff and score of the core."""
    rows, cols = tile.window.within(plan.seen_window(tile.index)).slices
    cropped = {name: a[..., rows, cols] for name, a in fields.items()}
    try:
        answer = segmenter_of(plan).decode(cropped, valid)
    except (SceneError, TileError) as why:
        harvest.failed[str(tile.index)] = str(TileError(tile.index, tile.window, str(why)))
        return
    panoptic = PanopticTile(tile, *answer)
    product = label_tile(panoptic, plan.grid.shape)
    core = tile.core.within(tile.window).slices
    labels = product.labels
    small = labels.astype(np.uint16) if len(product.nodes) < 2**16 else labels
    harvest.arrays[f"labels/{tile.index}"] = small
    harvest.arrays[f"stuff/{tile.index}"] = panoptic.stuff[core]
    harvest.arrays[f"score/{tile.index}"] = panoptic.score[core]
    harvest.nodes.append(product.nodes)
    harvest.edges.append(_touches_edge(labels, panoptic.stuff == 0, tile.window, plan.grid.shape))


def _touches_edge(
    labels: npt.NDArray[np.int32], nodata: Mask, window: Window, shape: tuple[int, int]
) -> Mask:
    """Tell for each local id 1..n whether it meets nodata or the scene's rim (4-connected)."""
    beside = np.zeros(labels.shape, bool)
    if nodata.any():
        beside[1:] |= nodata[:-1]
        beside[:-1] |= nodata[1:]
        beside[:, 1:] |= nodata[:, :-1]
        beside[:, :-1] |= nodata[:, 1:]
    beside[0] |= window.row == 0
    beside[-1] |= window.row_stop == shape[0]
    beside[:, 0] |= window.col == 0
    beside[:, -1] |= window.col_stop == shape[1]
    touching = np.zeros(int(labels.max(initial=0)) + 1, bool)
    touching[labels[beside]] = True
    return touching[1:]
