"""Compare two vector files of things without pixels: exact polygon overlaps (SpaceNet)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import SceneError
from geopanoptic.evaluate.classes import ClassChoice
from geopanoptic.evaluate.figures import Figures
from geopanoptic.evaluate.settings import EvaluateSettings
from geopanoptic.evaluate.summary import versions
from geopanoptic.georef import GeoRef
from geopanoptic.metrics import (
    Chosen,
    Fates,
    Matching,
    Overlap,
    Rules,
    SegmentSide,
    fates,
    match_objects,
)
from geopanoptic.panoptic_map import FieldChoice, Polygons, read_polygons
from geopanoptic.panoptic_map.vector import in_crs

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PolygonScene:
    """One image's polygons of both sides and their overlaps; areas stand in for pixels.

    `true_m2`: the true area of both sides' polygons (the plain area without a CRS). `geometry`:
    the polygons of truth and prediction; `class_names`: of the classes 1..n.
    """

    names: tuple[str, str]
    overlap: Overlap
    scores: Floats | None
    true_m2: tuple[Floats, Floats]
    settings: EvaluateSettings
    geometry: tuple[npt.NDArray[np.object_], npt.NDArray[np.object_]]
    class_names: tuple[str, ...]
    crs: str | None

    @cached_property
    def chosen(self) -> Chosen:
        """The polygons that are large enough."""
        return Chosen.larger_than(*self.true_m2, self.settings.min_area_m2)

    @cached_property
    def objects(self) -> Matching:
        """The matches at the asked IoU."""
        return match_objects(self.overlap, self.settings.iou, self.chosen, unique=False)

    @cached_property
    def matched(self) -> Matching:
        """The matches of PQ: at IoU > 0.5, one to one though polygons may overlap their own."""
        return match_objects(self.overlap, 0.5, self.chosen, unique=False)

    @cached_property
    def fates(self) -> Fates:
        """What became of every polygon."""
        return fates(self.objects)

    def area_m2(self, side: SegmentSide) -> Floats:
        """Return the true areas of a side's polygons."""
        return self.true_m2[0] if side is self.overlap.truth else self.true_m2[1]


def evaluate_polygons(
    named: Sequence[tuple[str | Path, str | Path]], settings: EvaluateSettings
) -> tuple[dict[str, Any], list[PolygonScene]]:
    """Return the result (as `summarise`, without pixel figures) and the scenes.

    SpaceNet's rules: IoU > threshold strictly, one to one; truth of at least and predictions of
    more than the least area. Files with an ImageId are compared image by image.
    """
    if settings.tolerance is not None or settings.resample_truth:
        raise SceneError(
            "two vector files are compared without pixels: boundary PQ and --resample-truth need "
            "a raster on one side"
        )
    pairs = [_read(pred, truth, settings) for pred, truth in named]
    names = sorted({str(n) for pair in pairs for side in pair for n in side.class_name})
    scenes = []
    for (pred, truth), (pred_path, truth_path) in zip(pairs, named, strict=True):
        for image in sorted({*truth.image, *pred.image}):
            label = f"#{image}" if image else ""
            scenes.append(
                compare_polygons(
                    (f"{pred_path}{label}", f"{truth_path}{label}"),
                    pred.take(pred.image == image),
                    truth.take(truth.image == image),
                    names,
                    settings,
                )
            )
    things = frozenset(range(1, len(names) + 1))
    figures = Figures(scenes, names, things, settings, len(names))
    return polygon_result(figures, scenes, settings), scenes


def _read(
    pred: str | Path, truth: str | Path, settings: EvaluateSettings
) -> tuple[Polygons, Polygons]:
    choice = ClassChoice.read(settings.class_map, settings.void_classes, False)
    t = read_polygons(truth, FieldChoice(settings.truth_class_field, settings.crowd_field))
    p = read_polygons(pred, FieldChoice(settings.pred_class_field))
    renamed = [choice.renamed.get(str(n), str(n)) for n in t.class_name]
    t.class_name[:] = renamed
    t = t.take([n not in settings.void_classes and n != "" for n in renamed])
    p = p.take([n not in settings.void_classes for n in p.class_name])
    if settings.aoi or settings.mask:
        raise SceneError("--aoi and --mask need a raster on one side; clip the files instead")
    if t.crs is not None or p.crs is not None:
        moved = in_crs(p, GeoRef(t.crs, GeoRef.of_pixels((1, 1)).transform, (1, 1)))
        p = Polygons(moved, p.class_name, p.score, p.ignore, p.image, t.crs)
    return p, t


def compare_polygons(
    names: tuple[str, str],
    pred: Polygons,
    truth: Polygons,
    classes: Sequence[str],
    settings: EvaluateSettings,
) -> PolygonScene:
    """Overlay two sets of polygons: `names` of prediction and truth, `classes` numbered from 1."""
    import shapely

    number = {name: k for k, name in enumerate(classes, 1)}
    shapes = [shapely.make_valid(side.geometry) for side in (truth, pred)]
    areas = [shapely.area(s) for s in shapes]
    tree = shapely.STRtree(shapes[1])
    t, p = tree.query(shapes[0], predicate="intersects")
    order = np.lexsort((p, t))
    t, p = t[order], p[order]
    common = shapely.area(shapely.intersection(shapes[0][t], shapes[1][p]))
    real = common > 0
    sides = [
        SegmentSide(
            label=np.arange(1, len(side) + 1),
            class_id=np.array([number[str(n)] for n in side.class_name], np.int64),
            area_px=area,
            bbox=np.zeros((len(side), 4), np.int64),
            crowd=side.ignore.copy(),
            void_px=np.zeros_like(area),
            crowd_px=np.zeros_like(area),
        )
        for side, area in zip((truth, pred), areas, strict=True)
    ]
    t, p, common = t[real], p[real], common[real]
    overlap = Overlap(sides[0], sides[1], t, p, common, Rules(things=frozenset(number.values())))
    on_crowd = overlap.same_class & sides[0].crowd[t]
    np.add.at(sides[1].crowd_px, p[on_crowd], common[on_crowd])
    scores = None if np.isnan(pred.score).any() else pred.score
    return PolygonScene(
        names,
        overlap,
        scores,
        (_true_m2(truth), _true_m2(pred)),
        settings,
        (truth.geometry, pred.geometry),
        tuple(classes),
        truth.crs,
    )


def _true_m2(polygons: Polygons) -> Floats:
    """Return geodesic areas; plain ones without a CRS."""
    import pyproj
    import shapely

    plain: Floats = shapely.area(polygons.geometry)
    if polygons.crs is None or len(polygons) == 0:
        return plain
    crs = pyproj.CRS.from_wkt(polygons.crs)
    geod, geodetic = crs.get_geod(), crs.geodetic_crs
    if geod is None or geodetic is None:
        return plain
    move = pyproj.Transformer.from_crs(crs, geodetic, always_xy=True)
    lonlat = shapely.transform(
        polygons.geometry, lambda xy: np.stack(move.transform(xy[:, 0], xy[:, 1]), axis=1)
    )
    return np.array([abs(geod.geometry_area_perimeter(g)[0]) for g in lonlat])


def polygon_result(
    figures: Figures, scenes: Sequence[PolygonScene], settings: EvaluateSettings
) -> dict[str, Any]:
    """Return the result object of compared polygons: plain values, None where undefined."""
    result: dict[str, Any] = {}
    for group in ("all", "things", "stuff"):
        m = figures.stats.mean(figures.groups[group])
        result[group] = {"pq": m.pq, "sq": m.sq, "rq": m.rq, "pq_dagger": m.pq, "n": m.n}
    result["per_class"] = {}
    for c, name in enumerate(figures.names, 1):
        row = {"kind": "thing"} | figures.quality_row(c) | figures.object_row(c)
        areas = [_class_area(scenes, k, c) for k in (0, 1)]
        row |= {"area_truth_m2": areas[0], "area_pred_m2": areas[1]}
        result["per_class"][name] = row
    if "f1" in settings.metrics:
        result["f1"] = figures.f1_overall()
    if "ap" in settings.metrics:
        result["ap"] = figures.ap_overall()
    result |= {"oa": None, "miou": None}
    if "errors" in settings.metrics:
        result["objects"] = figures.object_counts()
        result["mistaken"] = figures.mistaken()
        result["by_size"] = figures.by_size()
    result["ci95"] = None
    result["scenes"] = [{"prediction": s.names[0], "truth": s.names[1]} for s in scenes]
    result["warnings"] = ["two vector files: overlaps of polygons, no pixel figures"]
    result["parameters"] = settings.to_json()
    result["versions"] = versions()
    return result


def _class_area(scenes: Sequence[PolygonScene], side: int, c: int) -> float:
    segments = [(s.overlap.truth, s.overlap.pred)[side] for s in scenes]
    return float(
        sum(s.true_m2[side][x.class_id == c].sum() for s, x in zip(scenes, segments, strict=True))
    )
