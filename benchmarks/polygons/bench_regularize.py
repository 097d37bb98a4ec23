"""Regular outlines of buildings, measured: towns made up, real footprints, a model's predictions.

    python benchmarks/polygons/bench_regularize.py --town [--rival]
    python benchmarks/polygons/bench_regularize.py --footprints NAME=FILE.gpkg [--crop PX]
    python benchmarks/polygons/bench_regularize.py --map NAME=MAP.panoptic,FILE.gpkg
    python benchmarks/polygons/bench_regularize.py --many 200000
    ... each with --json FILE, which gains the new figures and keeps the others

Town: rectangles, Ls and courtyards about 20 px wide at all angles; the truth is known, the mask is
its signed distance plus noise. Footprints: reference polygons burnt at --gsd metres, then bent by
smooth random shifts of --noise px, so that neighbours still touch. Map: things of a finished map
that meet a reference polygon with IoU >= 0.5. IoU is always with the truth or the reference, of
the pixels' own outline, its simplification, and the regular outline; vertices are per building.
`--rival` needs buildingregulariser 0.2.5.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.features
import shapely
import shapely.affinity
from scipy import ndimage

from geopanoptic.grid import Window
from geopanoptic.polygons import PolygonBatch, RegularizeRules, regularize, trace
from geopanoptic.polygons.regularize_conflicts import corners, iou

NORTH_UP = np.array([[0.0, 1.0], [-1.0, 0.0]])


def batch_of(labels: np.ndarray) -> PolygonBatch:
    return PolygonBatch.concatenate(
        trace(lambda w: labels[w.slices], labels.shape, 2048, group="id")
    )


def figures(shapes: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    found = iou(shapes, truth)
    return {
        "iou": round(float(found.mean()), 4),
        "iou_p5": round(float(np.percentile(found, 5)), 4),
        "vertices": round(float(corners(shapes).mean()), 2),
    }


def right_angles(shapes: np.ndarray) -> float:
    """Return the share of corners within 2 degrees of a right angle."""
    right = total = 0
    for part in shapely.get_parts(shapes):
        for ring in [part.exterior, *part.interiors]:
            step = np.diff(shapely.get_coordinates(ring), axis=0)
            turn = np.degrees(np.arctan2(step[:, 1], step[:, 0]))
            off = np.abs((np.diff(turn, append=turn[0]) + 45) % 90 - 45)
            right, total = right + int((off < 2).sum()), total + len(off)
    return round(right / total, 3)


def compare(labels: np.ndarray, truth_of_label: np.ndarray) -> dict[str, Any]:
    """Outline a label raster in three ways; truth of label k in row k - 1, in (col, row)."""
    batch = batch_of(labels)
    truth = truth_of_label[batch.labels - 1]
    plain = batch.with_coords(batch.coords[:, ::-1].astype(float))
    frames = np.tile(NORTH_UP, (len(batch), 1, 1))
    chosen = np.ones(len(batch), bool)
    regularize(batch.take(np.arange(min(4, len(batch)))), chosen[:4], frames[:4])  # compile
    started = time.process_time()
    found, level = regularize(batch, chosen, frames)
    cpu_s = time.process_time() - started
    a, b = shapely.STRtree(found).query(found, predicate="intersects")
    shared = shapely.area(shapely.intersection(found[a[a < b]], found[b[a < b]]))
    smooth = shapely.coverage_simplify(plain, RegularizeRules().simple_px)
    counts = np.bincount(level, minlength=3).tolist()
    return {
        "buildings": len(batch),
        "reference_vertices": round(float(corners(truth).mean()), 2),
        "plain": figures(plain, truth),
        "simplified": figures(smooth, truth),
        "regularized": figures(found, truth)
        | {
            "levels": dict(zip(("plain", "simplified", "regular"), counts, strict=True)),
            "right_angles": right_angles(found),
            "invalid": int((~shapely.is_valid(found)).sum()),
            "largest_overlap_px": float(f"{shared.max(initial=0):.1e}"),
            "ms_per_building": round(1e3 * cpu_s / len(batch), 3),
        },
    }


def town(n: int, rough_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Return true outlines in (col, row), and the labels of their ragged masks."""
    rng, cell = np.random.default_rng(0), 48
    across = int(np.ceil(np.sqrt(n)))
    truth = np.empty(n, object)
    for k in range(n):
        w, h = rng.uniform(14, 26, 2)
        kind = rng.random()
        shape = shapely.box(-w / 2, -h / 2, w / 2, h / 2)
        if kind < 0.35:
            x, y = rng.uniform(0.35, 0.6, 2)
            shape = shape.difference(shapely.box(-w / 2, -h / 2, (x - 0.5) * w, (y - 0.5) * h))
        elif kind < 0.4 and min(w, h) > 18:
            shape = shape.difference(shapely.box(-w / 6, -h / 6, w / 6, h / 6))
        shape = shapely.affinity.rotate(shape, rng.uniform(0, 90), origin=(0, 0))
        middle = (k % across + 0.5) * cell, (k // across + 0.5) * cell
        truth[k] = shapely.affinity.translate(shape, *middle)
    size = (across * cell, across * cell)
    inside = rasterio.features.rasterize(truth, size, dtype="uint8") > 0
    distance = np.where(
        inside,
        ndimage.distance_transform_edt(inside) - 0.5,
        0.5 - ndimage.distance_transform_edt(~inside),
    )
    noise = ndimage.gaussian_filter(rng.normal(size=size), 1.2)
    mask = distance + noise * rough_px / noise.std() > 0
    parts, _ = ndimage.label(mask)
    row, col = np.indices(size) // cell
    owner = row * across + col + 1
    labels = np.zeros(size, np.int32)
    for k, box in enumerate(ndimage.find_objects(np.where(owner <= n, owner, 0)), 1):
        here = parts[box]
        if here.any():  # the largest part of a cell is its building
            labels[box] = np.where(here == np.bincount(here[here > 0]).argmax(), k, 0)
    return truth, labels


def rival(truth: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Measure buildingregulariser on the same masks at 0.3 m: its defaults and two settings."""
    import geopandas
    from buildingregulariser import regularize_geodataframe

    batch = batch_of(labels)
    plain = batch.with_coords(batch.coords[:, ::-1].astype(float))
    plain = np.array([shapely.get_geometry(g, 0) for g in plain], object)
    metres = shapely.transform(plain, lambda xy: 0.3 * xy)
    settings = {
        "default": {},
        "simplify 0.6 m": {"simplify_tolerance": 0.6},
        "no 45 degrees, no circles": {"allow_45_degree": False, "allow_circles": False},
    }
    found = {}
    for name, given in settings.items():
        frame = geopandas.GeoDataFrame({"k": batch.labels}, geometry=metres, crs="EPSG:32633")
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = regularize_geodataframe(frame, num_cores=1, **given)
        cpu_s = time.process_time() - started
        joined = made.dissolve("k").geometry.reindex(batch.labels)
        shapes = shapely.transform(np.asarray(joined.array, object), lambda xy: xy / 0.3)
        shapes = shapely.make_valid(np.where(shapely.is_missing(shapes), plain, shapes))
        found[name] = figures(shapes, truth[batch.labels - 1]) | {
            "right_angles": right_angles(np.array([g for g in shapes if g.geom_type == "Polygon"])),
            "ms_per_building": round(1e3 * cpu_s / len(batch), 3),
        }
    return found


def footprints(path: Path, gsd_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Return reference polygons in pixels (col, row) of a raster of theirs, and the raster."""
    import geopandas

    frame = geopandas.read_file(path)
    frame = frame.to_crs(frame.estimate_utm_crs())
    x0, _, _, y1 = frame.total_bounds
    shapes = shapely.transform(
        np.asarray(frame.geometry.array, object),
        lambda c: np.stack([(c[:, 0] - x0) / gsd_m + 20, (y1 - c[:, 1]) / gsd_m + 20], axis=1),
    )
    shapes = shapely.make_valid(shapes)
    right, bottom = shapely.total_bounds(shapes)[2:]
    size = int(bottom) + 20, int(right) + 20
    burnt = rasterio.features.rasterize(
        zip(shapes, range(1, len(shapes) + 1), strict=True), size, dtype="int32"
    )
    return shapes, burnt


def bent(labels: np.ndarray, strength_px: float) -> np.ndarray:
    """Move the pixels of a map by smooth random shifts."""
    if strength_px == 0:
        return labels
    rng = np.random.default_rng(0)
    at = []
    for axis in range(2):
        wave = ndimage.gaussian_filter(rng.normal(size=labels.shape).astype(np.float32), 1.5)
        place = np.arange(labels.shape[axis]).reshape((-1, 1) if axis == 0 else (1, -1))
        moved = np.rint(place + wave * (strength_px / wave.std())).astype(np.int32)
        at.append(np.clip(moved, 0, labels.shape[axis] - 1))
    return labels[at[0], at[1]]


def predicted(map_path: Path, reference: Path) -> dict[str, Any]:
    """Outline the buildings of a map that meet a reference polygon; IoU with that."""
    import geopandas

    from geopanoptic import PanopticMap

    panoptic = PanopticMap.open(map_path)
    classes, ids = panoptic.read(Window.whole(panoptic.georef.shape))
    building = panoptic.schema.by_name("building").id
    batch = batch_of(np.where(classes == building, ids, 0).astype(np.int32))
    plain = batch.with_coords(batch.coords[:, ::-1].astype(float))
    frame = geopandas.read_file(reference).to_crs(panoptic.georef.crs)
    wanted = shapely.transform(
        np.asarray(frame.geometry.array, object),
        lambda c: np.stack(panoptic.georef.rowcol(c[:, 0], c[:, 1])[::-1], axis=1),
    )
    wanted = shapely.make_valid(wanted)
    a, b = shapely.STRtree(wanted).query(plain, predicate="intersects")
    fit = iou(plain[a], wanted[b])
    a, b = a[fit >= 0.5], b[fit >= 0.5]
    frames = np.tile(NORTH_UP, (len(batch), 1, 1))
    found, level = regularize(batch, np.ones(len(batch), bool), frames)
    smooth = shapely.coverage_simplify(plain, RegularizeRules().simple_px)
    counts = np.bincount(level, minlength=3).tolist()
    after = iou(found[a], wanted[b])
    return {
        "buildings": len(batch),
        "matched": len(a),
        "reference_vertices": round(float(corners(wanted[b]).mean()), 2),
        "plain": figures(plain[a], wanted[b]),
        "simplified": figures(smooth[a], wanted[b]),
        "regularized": figures(found[a], wanted[b])
        | {
            "levels": dict(zip(("plain", "simplified", "regular"), counts, strict=True)),
            "still_matched": int((after >= 0.5).sum()),
        },
    }


def many(n: int) -> dict[str, Any]:
    """Regularise a large town: CPU seconds and memory."""
    _, small = town(2500, 0.7)
    batch = batch_of(small)
    times = -(-n // len(batch))
    across = int(np.ceil(np.sqrt(times)))
    moved = [
        PolygonBatch(
            batch.labels + k * len(batch),
            batch.coords + np.array([k // across, k % across], np.int32) * small.shape[0],
            batch.ring_offsets, batch.polygon_offsets, batch.multi_offsets,
            batch.area_px, batch.first_px, batch.touches_edge,
        )
        for k in range(times)
    ]  # fmt: skip
    whole = PolygonBatch.concatenate(moved).take(np.arange(n))
    frames = np.tile(NORTH_UP, (n, 1, 1))
    del moved
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    started = time.process_time()
    _, level = regularize(whole, np.ones(n, bool), frames)
    return {
        "buildings": n,
        "cpu_s": round(time.process_time() - started, 1),
        "extra_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 - before,
        "regular": round(float((level == 2).mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--town", action="store_true")
    parser.add_argument("--rival", action="store_true")
    parser.add_argument("--footprints", metavar="NAME=FILE")
    parser.add_argument("--gsd", type=float, default=0.3)
    parser.add_argument("--map", metavar="NAME=MAP,FILE")
    parser.add_argument("--many", type=int, metavar="N")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    report: dict[str, Any] = {}
    if given.json and given.json.exists():
        report = json.loads(given.json.read_text())
    made: dict[str, Any] = {}
    if given.town:
        for rough in (0.7, 1.0):
            truth, labels = town(2485, rough)
            made[f"town, {rough} px"] = compare(labels=labels, truth_of_label=truth)
            if given.rival:
                made[f"town, {rough} px"]["buildingregulariser"] = rival(truth, labels)
    if given.footprints:
        name, path = given.footprints.split("=")
        shapes, labels = footprints(Path(path), given.gsd)
        for noise in (0.0, 0.5, 1.0):
            made[f"{name}, {noise} px"] = compare(bent(labels, noise), shapes)
    if given.map:
        name, paths = given.map.split("=")
        made[f"{name}, predicted"] = predicted(*map(Path, paths.split(",")))
    if given.many:
        made["many"] = many(given.many)
    report |= made
    report["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}"
    print(json.dumps(made, indent=1))
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
