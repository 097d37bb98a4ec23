"""Scenes that are nearly all nodata: what no file covers costs nothing and changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from sparse_scenes import Trivial, pattern, sparse_vrt

from geopanoptic.grid import TileGrid, Window
from geopanoptic.panoptic_map import PanopticMap, check_map
from geopanoptic.polygons import trace
from geopanoptic.predict import Execution, PredictSettings, Products, run
from geopanoptic.predict.seen import Seen
from geopanoptic.raster import ReadRequest, Scene, WorkingScene

PLACES = [(30, 500), (250, 20), (500, 240)]
SHAPE, SIDE = (700, 900), 70


@pytest.fixture(scope="module")
def vrt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sparse_vrt(tmp_path_factory.mktemp("sparse") / "scene.vrt", SHAPE, PLACES, SIDE)


@pytest.fixture(scope="module")
def planned(vrt: Path) -> WorkingScene:
    return working(vrt)


def working(path: Path, **request: Any) -> WorkingScene:
    return WorkingScene.plan(Scene.open(path), ReadRequest(**request))


def meets(boxes: np.ndarray, w: Window) -> bool:
    return any(not (Window.from_bounds(*box) & w).is_empty for box in boxes.tolist())


@pytest.mark.parametrize("gsd_m", [0.3, 0.5, 0.17])
def test_outside_of_what_is_covered_no_pixel_is_valid(vrt: Path, gsd_m: float) -> None:
    scene = working(vrt, gsd_m=gsd_m)
    boxes = scene.coverage()
    assert boxes is not None
    rows, cols = scene.georef.shape
    valid = scene.read(Window(0, 0, rows, cols))[1]
    covered = np.zeros((rows, cols), bool)
    for row, col, row_stop, col_stop in boxes.tolist():
        covered[row:row_stop, col:col_stop] = True
    assert not (valid & ~covered).any()
    assert valid.sum() > 0.7 * covered.sum()  # and the boxes are no larger than they need be


@given(core=st.integers(20, 200), k=st.integers(1, 4), origin=st.tuples(*[st.integers(0, 199)] * 2))
def test_regions_that_are_left_out_have_no_valid_pixel_and_the_others_meet_a_file(
    planned: WorkingScene, core: int, k: int, origin: tuple[int, int]
) -> None:
    grid = TileGrid(SHAPE, core, min(8, core // 2), origin)
    seen, boxes = Seen(planned, grid, k), planned.coverage()
    assert boxes is not None
    left_out = 0
    for region in seen._regions:
        if not seen.has(region.index):
            assert not meets(boxes, region.window)
            left_out += region.core.area_px
        assert seen.has_any(region.core) == meets(boxes, region.core)
    assert seen.unseen_px == left_out
    assert list(seen.indexes) == [i for i in range(len(seen._regions)) if seen.has(i)]


def changed(vrt: Path, name: str, old: str, new: str) -> Path:
    path = vrt.with_name(name)
    path.write_text(vrt.read_text().replace(old, new))
    return path


def test_where_the_headers_do_not_tell_everything_is_read(vrt: Path) -> None:
    nodata = "<NoDataValue>0</NoDataValue>"
    for name, new in (("a.vrt", ""), ("b.vrt", f"{nodata}<HideNoDataValue>1</HideNoDataValue>")):
        assert Scene.open(changed(vrt, name, nodata, new)).parts[0].source.driver == "VRT"
        assert working(changed(vrt, name, nodata, new)).coverage() is None
    # the user's nodata is not what the VRT fills with
    scene = WorkingScene.plan(Scene.open(vrt, nodata=90), ReadRequest())
    assert scene.coverage() is None
    assert working(vrt.with_name("member0.tif")).coverage() is None
    plain = working(vrt.with_name("member0.tif"))
    assert list(Seen(plain, TileGrid((70, 70), 20, 2), 1).indexes) == list(range(16))


def test_a_mosaic_covers_its_files(vrt: Path) -> None:
    files = [vrt.with_name(f"member{n}.tif") for n in range(3)]
    scene = WorkingScene.plan(Scene.open(files), ReadRequest())
    boxes = scene.coverage()
    assert boxes is not None
    top, left = min(r for r, _ in PLACES), min(c for _, c in PLACES)
    assert sorted(map(tuple, boxes.tolist())) == sorted(
        (r - top, c - left, r - top + SIDE, c - left + SIDE) for r, c in PLACES
    )


def test_the_map_of_a_sparse_vrt_is_that_of_the_same_pixels_in_one_file(
    vrt: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.tif"
    with rasterio.open(vrt) as scene, rasterio.open(
        whole, "w", driver="GTiff", count=3, dtype="uint8", height=SHAPE[0], width=SHAPE[1],
        crs=scene.crs, transform=scene.transform, nodata=0, photometric="RGB",
    ) as out:  # fmt: skip
        out.write(scene.read())
    settings = PredictSettings(core=32, halo=4)
    made = {}
    for name, scene_path in (("sparse", vrt), ("whole", whole)):
        out_path = tmp_path / f"{name}.panoptic"
        run(str(scene_path), Trivial(), Products.to([out_path]), settings, Execution())
        assert check_map(out_path) == []
        made[name] = [
            rasterio.open(out_path / f"{kind}.tif").read(1) for kind in ("semantic", "instances")
        ]
        things = PanopticMap.open(out_path).things()
        made[name] += [things.geometry.to_wkb().tolist(), things.instance_id.tolist()]
    for sparse, dense in zip(made["sparse"], made["whole"], strict=True):
        assert np.array_equal(sparse, dense)
    assert len(made["sparse"][3]) >= 3


def test_tracing_asks_for_empty_blocks_once_and_makes_the_same_polygons() -> None:
    labels = np.zeros((100, 130), np.int32)
    labels[10:20, 8:50] = 1
    labels[90:, 120:] = 2
    asked: list[Window] = []

    def blocks(window: Window) -> np.ndarray | None:
        asked.append(window)
        found = labels[window.slices]
        return found if found.any() else None

    made = list(trace(blocks, labels.shape, 16, group="id"))
    plain = list(trace(lambda w: labels[w.slices], labels.shape, 128, group="id"))

    def outlines(batches: list[Any]) -> list[bytes]:
        return sorted(g.wkb for b in batches for g in b.to_geometry(Affine.identity()))

    assert outlines(made) == outlines(plain)
    assert len(outlines(made)) == 2
    twice = {w for w in asked if asked.count(w) == 2}
    assert twice == {w for w in asked if labels[w.slices].any()}
    assert list(trace(lambda w: None, (100, 130), 16, group="part")) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_scene_of_ninety_thousand_million_pixels_takes_no_longer_than_what_is_in_it(
    tmp_path: Path,
) -> None:
    """300,000 x 300,000 px, 86,000 tiles; four files of 2048 px. Polygons are written."""
    side, size = 300_000, 2048
    places = [(11, 37), (150_001, 299_950 - size), (290_000, 5), (200_000, 123_456)]
    scene = sparse_vrt(tmp_path / "scene.vrt", (side, side), places, size)
    command = [sys.executable, "-c", BIG, str(HERE), str(scene), str(tmp_path / "out.gpkg")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["failed"] == 0
    assert report["tiles"] < 100
    assert report["peak_mb"] < 1000
    assert report["cpu_s"] < 300
    pieces = sum(ndimage.label(pattern(row, col, size, size) > 128)[1] for row, col in places)
    assert report["things"] == pieces


HERE = Path(__file__).parent
BIG = """
import json, resource, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sparse_scenes import Trivial
from geopanoptic.predict import Execution, PredictSettings, Products, run
outcome = run(
    sys.argv[2], Trivial(), Products.to([Path(sys.argv[3])]), PredictSettings(), Execution()
)
print(json.dumps({
    "failed": len(outcome.failed_tiles),
    "things": outcome.record.counts["things"],
    "tiles": outcome.record.counts["tiles_run"],
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    "cpu_s": time.process_time(),
}))
"""
