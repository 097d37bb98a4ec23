"""How much does tiling show? A model on a scene, cut in two ways and not at all."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.contingency import Contingency
from geopanoptic.errors import SceneError
from geopanoptic.grid import TileGrid, Window
from geopanoptic.metrics import ClassCode, PanopticCount, Sides, quality_of
from geopanoptic.panoptic_map import PanopticMap
from geopanoptic.predict.plan import STRIDE, make_plan
from geopanoptic.predict.run import Execution, run
from geopanoptic.predict.settings import PredictSettings, Products
from geopanoptic.raster import Scene

UNTILED_PX = 6_000_000  # beyond it one window's activations take more than 6 GB
LARGEST_PX = 64_000_000  # the maps are compared whole, in memory
NEAR_PX = 32

Layers = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class _Maps:
    """Class and instance of every pixel, by tile grid; `grid` is the first one's."""

    anchored: Layers
    shifted: Layers
    untiled: Layers | None
    truth: Layers | None
    grid: TileGrid
    things: dict[int, str]
    classes: int


def seam_report(
    scene: str,
    model: Any,
    settings: PredictSettings | None = None,
    execution: Execution | None = None,
    truth: str | None = None,
) -> dict[str, Any]:
    """Measure what tiling does to the map of a scene; no truth is needed.

    `phase_shift`: PQ per thing class between two tile grids half a core apart.
    `untiled`: PQ per thing class of the tiled map against one window over the whole scene (None
    when it is too large for that). `near_seam`: the share of reference objects without a match
    (IoU > 0.5), within NEAR_PX of a seam and elsewhere, and their ratio; the reference is `truth`
    (any MAP) if given, else the untiled map.

    Raises SceneError for a scene of more than LARGEST_PX pixels, which would not fit in memory.
    """
    settings, execution = settings or PredictSettings(), execution or Execution()
    maps = _maps(scene, model, settings, execution, truth)
    report: dict[str, Any] = {
        "core": maps.grid.core,
        "halo": maps.grid.halo,
        "tiles": len(maps.grid),
        "phase_shift": _quality(maps.anchored, maps.shifted, maps),
        "untiled": None if maps.untiled is None else _quality(maps.untiled, maps.anchored, maps),
        "near_seam": None,
    }
    reference = maps.truth or maps.untiled
    if reference is not None:
        report["near_seam"] = _near_seam(reference, maps) | {
            "reference": "truth" if maps.truth else "untiled"
        }
    return report


def _maps(
    scene: str, model: Any, settings: PredictSettings, execution: Execution, truth: str | None
) -> _Maps:
    plan = make_plan(Scene.open(scene, nodata=settings.nodata), model, settings)
    rows, cols = plan.grid.shape
    if rows * cols > LARGEST_PX:
        raise SceneError(
            f"the scene has {rows} x {cols} pixels at the working GSD; cut out a part of at most "
            f"{LARGEST_PX // 10**6} Mpx for this measurement"
        )
    core, (row, col) = plan.grid.core, plan.grid.origin
    half = ((row + core // 2) % core, (col + core // 2) % core)
    fixed = replace(settings, core=core, halo=plan.grid.halo)
    made: dict[str, Layers] = {}
    with tempfile.TemporaryDirectory(prefix="geopanoptic-") as folder:
        cuts = {"anchored": fixed, "shifted": replace(fixed, origin=half)}
        if rows * cols <= UNTILED_PX:
            # one core over all, its corner on the stride as the tiles' corners are
            up, left = plan.scene.georef.phase(STRIDE)
            side = -(-max(rows + up, cols + left) // STRIDE) * STRIDE
            cuts["untiled"] = replace(
                fixed,
                core=side,
                halo=min(plan.grid.halo, side // 2),
                origin=((-up) % side, (-left) % side),
            )
        for name, cut in cuts.items():
            out = Path(folder) / f"{name}.panoptic"
            run(scene, model, Products.to([out]), cut, replace(execution, work_dir=None))
            panoptic = PanopticMap.open(out)
            made[name] = panoptic.read(Window.whole(panoptic.georef.shape))
        given = None
        if truth is not None:
            reference = PanopticMap.open(truth, like=panoptic.georef)
            given = reference.read(Window.whole(panoptic.georef.shape))
    schema = plan.card.schema
    return _Maps(
        made["anchored"], made["shifted"], made.get("untiled"), given, plan.grid,
        {c.id: c.name for c in schema.things}, max(schema.ids),
    )  # fmt: skip


def _quality(reference: Layers, other: Layers, maps: _Maps) -> dict[str, Any]:
    code = ClassCode.plain(maps.classes, maps.things)
    sides = Sides(code, code, maps.classes)
    found = quality_of(PanopticCount.of(reference, other, sides), maps.classes, maps.things)
    return {
        name: {"pq": found.per_class[c].pq, "rq": found.per_class[c].rq, "n": found.per_class[c].tp}
        for c, name in maps.things.items()
        if found.per_class[c].seen
    }


def _near_seam(reference: Layers, maps: _Maps) -> dict[str, Any]:
    """Count reference objects without a match near core lines and away from them."""
    ids, found = reference[1], maps.anchored[1]
    classes = np.unique(reference[0][ids > 0])  # a truth may know fewer classes than the map
    found = np.where(np.isin(maps.anchored[0], classes), found, 0)
    table = Contingency.of(ids, found)
    matched = np.unique(table.a[(table.a > 0) & (table.b > 0) & (table.iou() > 0.5)])
    there, first = np.unique(ids[ids > 0]), _near_lines(ids, maps.grid)
    missed = ~np.isin(there, matched)
    near = np.isin(there, first)
    shares = [float(missed[k].mean()) if k.any() else None for k in (near, ~near)]
    ratio = shares[0] / shares[1] if shares[0] is not None and shares[1] else None
    return {
        "objects_near": int(near.sum()),
        "objects_away": int((~near).sum()),
        "missed_near": shares[0],
        "missed_away": shares[1],
        "ratio": ratio,
    }


def _near_lines(ids: npt.NDArray[np.int32], grid: TileGrid) -> npt.NDArray[np.int32]:
    """Return the ids of objects with a pixel within NEAR_PX of a line between two cores."""
    near = np.zeros(ids.shape, bool)
    for axis, start in enumerate(grid.starts):
        for line in range(start + grid.core, ids.shape[axis], grid.core):
            band = slice(max(0, line - NEAR_PX), line + NEAR_PX)
            near[(band, slice(None)) if axis == 0 else (slice(None), band)] = True
    return np.unique(ids[near & (ids > 0)])
