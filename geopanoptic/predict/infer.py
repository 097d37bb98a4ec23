"""Stage 1: read a region, segment its tiles, keep the tile products as one immutable part."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
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
from geopanoptic.predict.reading import Chip, Mask, read_tiles
from geopanoptic.predict.tables import pack
from geopanoptic.segments import PanopticTile
from geopanoptic.stitch import NodeTable, label_tile
from geopanoptic.store import Packed, pack_array
from geopanoptic.workers import trim_heap

# Above this a process gives freed memory back after a region: see workers.malloc.
_HEAP_BYTES = 2_600_000_000


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
    """What a region's tiles gave: arrays for the part, nodes, failures; and how long it took."""

    arrays: dict[str, Packed | npt.NDArray[Any]] = field(default_factory=dict)
    tiles: list[int] = field(default_factory=list)
    nodes: list[NodeTable] = field(default_factory=list)
    edges: list[Mask] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    clock: _Clock = field(default_factory=_Clock)


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
    fails alone (its pixels become nodata); StoreError (disk full) ends the run. Memory holds the
    pixels of a row or two of tiles and the compressed products, whatever the size of the region.
    """
    store = plan.parts("infer")
    if store.has(index):
        return {"cached": True, "px": plan.regions.region(index).core.area_px}
    harvest = _Harvest()
    region = plan.regions.region(index)
    _segment(plan, _batches(plan, read_tiles(plan, region, harvest.failed), harvest), harvest)
    clock = harvest.clock
    start = time.perf_counter()
    nodes = NodeTable.concatenate(harvest.nodes) if harvest.nodes else NodeTable.empty()
    arrays = harvest.arrays | pack(nodes, "nodes")
    arrays["edge"] = np.concatenate(harvest.edges) if harvest.edges else np.zeros(0, bool)
    store.put(index, arrays, {"tiles": harvest.tiles, "failed": harvest.failed})
    clock.write_s += time.perf_counter() - start
    trim_heap(_HEAP_BYTES)
    return {
        "px": region.core.area_px,
        "tiles": len(harvest.tiles),
        "seconds": {name: getattr(clock, name) for name in _Clock.__slots__},
        "failed": harvest.failed,
    }


def store_failed_region(plan: Plan, index: int, cause: str) -> None:
    """Store the part of a region that could not be worked on at all: every tile failed."""
    region = plan.regions.region(index)
    arrays = pack(NodeTable.empty(), "nodes") | {"edge": np.zeros(0, bool)}
    failed = {str(t): str(TileError(t, plan.grid.tile(t).window, cause)) for t in region.tiles}
    plan.parts("infer").put(index, arrays, {"tiles": [], "failed": failed})


def _batches(plan: Plan, bands: Iterator[list[Chip]], harvest: _Harvest) -> Iterator[list[Chip]]:
    """Group chips that look the same shape to the network, at most plan.batch together."""
    while True:
        start = time.perf_counter()
        chips = next(bands, None)
        harvest.clock.read_s += time.perf_counter() - start
        if chips is None:
            return
        harvest.tiles += [tile.index for tile, _, _ in chips]
        by_shape: dict[tuple[int, int], list[Chip]] = {}
        for chip in chips:
            by_shape.setdefault(plan.seen_window(chip[0].index).shape, []).append(chip)
        for group in by_shape.values():
            for i in range(0, len(group), plan.batch):
                yield group[i : i + plan.batch]


def _segment(plan: Plan, batches: Iterator[list[Chip]], harvest: _Harvest) -> None:
    """Run the network batch by batch on the device thread, decode in this one."""
    waiting: deque[tuple[list[Chip], Future[Any]]] = deque()
    for batch in batches:
        # One batch ahead, so that the device has work while this thread decodes, or reads.
        waiting.append((batch, _device().submit(_forward, plan, batch)))
        if len(waiting) > 1:
            _take(plan, *waiting.popleft(), harvest)
    while waiting:
        _take(plan, *waiting.popleft(), harvest)


def _take(plan: Plan, batch: list[Chip], coming: Future[Any], harvest: _Harvest) -> None:
    """Wait for the fields of a batch and decode them."""
    clock, start = harvest.clock, time.perf_counter()
    try:
        fields, seconds = coming.result()
    except (SceneError, TileError) as why:
        harvest.failed |= {str(t.index): str(why) for t, _, _ in batch}
        return
    clock.wait_s += max(0.0, time.perf_counter() - start - seconds)  # others had the device
    clock.forward_s += seconds
    for n, (tile, _, valid) in enumerate(batch):
        _decode(plan, tile, {k: v[n] for k, v in fields.items()}, valid, harvest)


def _forward(plan: Plan, batch: list[Chip]) -> tuple[dict[str, npt.NDArray[Any]], float]:
    model = segmenter_of(plan)
    seen = [mirrored(pixels, t.window, plan.seen_window(t.index)) for t, pixels, _ in batch]
    chips = np.stack(seen) if len(seen) > 1 else seen[0][None]  # a view: one tile is not copied
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
    start = time.perf_counter()
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
    harvest.nodes.append(product.nodes)
    harvest.edges.append(_touches_edge(labels, panoptic.stuff == 0, tile.window, plan.grid.shape))
    decoded = time.perf_counter()
    # compressed at once: the products of a whole region would take its memory many times
    small = labels.astype(np.uint16) if len(product.nodes) < 2**16 else labels
    harvest.arrays[f"labels/{tile.index}"] = pack_array(small)
    harvest.arrays[f"stuff/{tile.index}"] = pack_array(panoptic.stuff[core])
    harvest.arrays[f"score/{tile.index}"] = pack_array(panoptic.score[core])
    harvest.clock.decode_s += decoded - start
    harvest.clock.write_s += time.perf_counter() - decoded


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
