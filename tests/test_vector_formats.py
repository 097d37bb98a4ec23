"""GeoParquet along a Hilbert curve, vector tiles, and what other readers make of them."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pixel_oracle import PixelOracle, spell
from scenes import make_truth

from geopanoptic.errors import ConfigError
from geopanoptic.export import ExportSettings, export
from geopanoptic.panoptic_map import PanopticMap
from geopanoptic.predict import Execution, PredictSettings, Products, run
from geopanoptic.vector import geoparquet
from geopanoptic.vector.geoparquet import hilbert

UNIT = np.array([0.0, 0.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    scene = spell(make_truth("blobs", (200, 230), seed=4), folder / "scene.tif")
    products = Products.to([folder / "town.panoptic"])
    run(str(scene), PixelOracle(), products, PredictSettings(date="2024-05-01"), Execution())
    return folder / "town.panoptic"


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_the_curve_visits_every_cell_once_and_walks_to_a_neighbour(bits: int) -> None:
    n = 2**bits
    col, row = np.meshgrid(np.arange(n), np.arange(n))
    centres = np.stack([(col.ravel() + 0.5) / n, (row.ravel() + 0.5) / n], axis=1)
    index = hilbert(centres, UNIT)
    assert len(np.unique(index)) == n * n
    walk = centres[np.argsort(index)] * n
    assert np.allclose(abs(np.diff(walk, axis=0)).sum(axis=1), 1)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1))
def test_any_points_have_an_index(points: list[tuple[float, float]]) -> None:
    array = np.array(points)
    extent = np.concatenate([array.min(axis=0), array.max(axis=0)])
    index = hilbert(array, extent)
    assert ((index >= 0) & (index < 2**32)).all()
    assert hilbert(np.array([[np.nan, 0.0]]), extent).tolist() == [-1]


def test_geoparquet_is_sorted_and_holds_every_row(
    town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geoparquet, "_ROW_GROUP", 40)
    export(town, tmp_path / "t.parquet")
    for layer, name in (("things", "t.parquet"), ("stuff", "t.stuff.parquet")):
        frame = geopandas.read_parquet(tmp_path / name)
        truth = geopandas.read_file(town / "panoptic.gpkg", layer=layer)
        key = "instance_id" if layer == "things" else "part_id"
        frame, truth = frame.set_index(key), truth.set_index(key)
        assert len(frame) == len(truth)
        assert frame.geometry.geom_equals(truth.geometry.reindex(frame.index)).all()
        assert (frame["area_m2"] == truth["area_m2"].reindex(frame.index)).all()
        boxes = frame.bounds.to_numpy()
        extent = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
        index = hilbert((boxes[:, :2] + boxes[:, 2:]) / 2, extent)
        assert (np.diff(index) >= 0).all()
    assert {p.name for p in tmp_path.iterdir()} == {"t.parquet", "t.stuff.parquet"}


def test_geoparquet_says_what_it_holds_and_readers_skip_by_the_box(
    town: Path, tmp_path: Path
) -> None:
    export(town, tmp_path / "t.parquet")
    about = json.loads(pq.read_metadata(tmp_path / "t.parquet").metadata[b"geo"])
    assert about["version"] == "1.1.0"
    column = about["columns"][about["primary_column"]]
    assert column["encoding"] == "WKB"
    assert column["covering"]["bbox"]["xmax"] == ["bbox", "xmax"]
    whole = geopandas.read_parquet(tmp_path / "t.parquet")
    np.testing.assert_allclose(column["bbox"], whole.total_bounds)
    x0, y0, x1, y1 = whole.total_bounds
    box = (x0, y0, (x0 + x1) / 2, (y0 + y1) / 2)
    part = geopandas.read_parquet(tmp_path / "t.parquet", bbox=box)
    assert 0 < len(part) < len(whole)
    assert set(part["instance_id"]) == set(whole.cx[box[0] : box[2], box[1] : box[3]].instance_id)


def test_vector_tiles_hold_the_things_with_their_attributes(town: Path, tmp_path: Path) -> None:
    if pyogrio.list_drivers().get("PMTiles") != "rw":
        pytest.skip("this pyogrio's GDAL writes no PMTiles")
    export(town, tmp_path / "t.pmtiles", ExportSettings(classes=("building",)))
    assert (tmp_path / "t.pmtiles").read_bytes()[:8] == b"PMTiles\x03"
    frame = pyogrio.read_dataframe(tmp_path / "t.pmtiles")
    panoptic = PanopticMap.open(town)
    things = panoptic.things().query("class_name == 'building'").set_index("instance_id")
    assert set(frame["instance_id"]) == set(things.index)
    assert set(frame["class_name"]) == {"building"}
    # at the finest zoom outlines keep their places to a fraction of a pixel
    found = frame.dissolve("instance_id").to_crs(things.crs)
    apart = found.geometry.centroid.distance(things.geometry.reindex(found.index).centroid)
    assert apart.max() < 1.0 * panoptic.georef.gsd_m
    large = things[things["pixel_count"] > 30].sort_index()
    assert len(large) > 3
    np.testing.assert_allclose(found.area.reindex(large.index), large["area_m2"], rtol=0.2)


def test_tiles_and_shapefiles_are_refused_with_the_cure(town: Path, tmp_path: Path) -> None:
    from geopanoptic.vector import write_vectors

    with pytest.raises(ConfigError, match="assign one"):
        write_vectors(tmp_path / "t.pmtiles", {}, None, PanopticMap.open(town).schema)
    with pytest.raises(ConfigError, match=r"\.gpkg"):
        export(town, tmp_path / "t.shp")
    with pytest.raises(ConfigError, match=r"10 letters.*\.gpkg"):
        write_vectors(tmp_path / "t.shp", {}, None, PanopticMap.open(town).schema)


def test_geojson_is_in_degrees_counterclockwise_with_few_decimals(
    town: Path, tmp_path: Path
) -> None:
    # RFC 7946: section 4 (WGS 84, longitude first), 3.1.6 (right-hand rule), 5 (bbox), 11.2
    export(town, tmp_path / "t.geojson", ExportSettings(classes=("building",)))
    data = json.loads((tmp_path / "t.geojson").read_text())
    assert "crs" not in data
    rings = [r for f in data["features"] for p in f["geometry"]["coordinates"] for r in p[:1]]
    assert rings
    for ring in rings:
        x, y = np.array(ring).T
        assert (abs(x) <= 180).all()
        assert (abs(y) <= 90).all()
        assert ((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) > 0
        assert ring[0] == ring[-1]
        assert all(len(repr(v).partition(".")[2]) <= 7 for v in map(float, x))
