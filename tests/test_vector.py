"""Vector files: the attributes, the formats, and that they appear whole or not at all."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyproj
import pytest
import rasterio.features
import shapely
from affine import Affine

from geopanoptic.errors import ConfigError, SceneError, SchemaError, StoreError
from geopanoptic.georef import GeoRef
from geopanoptic.polygons import stuff_labels, thing_labels, trace
from geopanoptic.schema import ClassSpec, LabelSchema
from geopanoptic.segments import SegmentTable
from geopanoptic.vector import (
    RUN,
    STUFF,
    THINGS,
    LayerSpec,
    Style,
    TableContext,
    read_layer,
    run_table,
    stuff_table,
    things_table,
    write_gpkg,
    write_project,
    write_vectors,
)

UTM = pyproj.CRS(32633).to_wkt()
SCHEMA = LabelSchema.default()


@dataclass(frozen=True)
class Town:
    """A small panoptic map: 12 houses and cars on five kinds of ground, nodata in a corner."""

    semantic: npt.NDArray[np.uint8]
    instance: npt.NDArray[np.int32]
    segments: SegmentTable
    context: TableContext

    @classmethod
    def build(cls, crs: str | None = UTM, **context: Any) -> Town:
        rng = np.random.default_rng(7)
        semantic = np.kron(rng.integers(3, 8, (10, 12)), np.ones((8, 8))).astype(np.uint8)
        semantic[:10, :10] = 0
        instance = np.zeros(semantic.shape, np.int32)
        for k in range(12):
            r, c = 14 + 20 * (k // 4), 6 + 22 * (k % 4)
            instance[r : r + 9, c : c + 5 + k] = k + 1
        instance[17:19, 8:10] = 0  # a courtyard
        kind = np.where(np.arange(13) % 3 == 0, 2, 1).astype(np.uint8)
        semantic[instance > 0] = kind[instance[instance > 0]]
        ids = np.arange(1, 13)
        n = len(ids)
        segments = SegmentTable(
            id=ids[::-1].astype(np.int64),
            class_id=kind[ids][::-1],
            area_px=np.bincount(instance.ravel())[1:][::-1],
            score=np.linspace(0.4, 1.0, n, dtype=np.float32)[::-1],
            bbox=np.zeros((n, 4), np.int32),
            touches_edge=(ids == 4)[::-1],
            on_seam=(ids == 5)[::-1],
            n_tiles=np.where(ids == 5, 2, 1)[::-1].astype(np.uint16),
            seam_agreement=np.where(ids == 5, 0.9, np.nan)[::-1].astype(np.float32),
        )
        georef = GeoRef(crs, Affine(0.3, 0, 600_000, 0, -0.3, 6_650_000), semantic.shape)  # type: ignore[arg-type]
        about = TableContext(SCHEMA, georef, "2024-05-01", "town.tif", "tiny 1", **context)
        return cls(semantic, instance, segments, about)

    def things(self) -> Iterator[pa.RecordBatch]:
        traced = trace(
            lambda w: thing_labels(self.semantic[w.slices], self.instance[w.slices]),
            self.instance.shape,  # type: ignore[arg-type]
            32,
            group="id",
            simplify_px=self.context.simplify_px,
        )
        return things_table(traced, self.segments, self.context)

    def stuff(self) -> Iterator[pa.RecordBatch]:
        traced = trace(
            lambda w: stuff_labels(self.semantic[w.slices], self.instance[w.slices], SCHEMA),
            self.instance.shape,  # type: ignore[arg-type]
            32,
            group="part",
            simplify_px=self.context.simplify_px,
        )
        return stuff_table(traced, self.context)

    def layers(self) -> dict[str | LayerSpec, Any]:
        run = [run_table({"version": "1", "tiles": 4})]
        return {"things": self.things(), "stuff": self.stuff(), "run": run}


@pytest.fixture(scope="module")
def gpkg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vector") / "town.gpkg"
    town = Town.build()
    counts = write_gpkg(path, town.layers(), UTM, SCHEMA)
    assert counts["things"] == 12
    assert counts["run"] == 2
    return path


def test_a_geopackage_burnt_again_gives_the_map(gpkg: Path) -> None:
    town = Town.build()
    things, stuff = read_layer(gpkg, "things"), read_layer(gpkg, "stuff")
    assert things.crs.to_epsg() == 32633
    transform, shape = town.context.georef.transform, town.instance.shape
    instance = rasterio.features.rasterize(
        zip(things.geometry, things.instance_id, strict=True), shape, transform=transform,
        dtype="int32",
    )  # fmt: skip
    np.testing.assert_array_equal(instance, town.instance)
    semantic = rasterio.features.rasterize(
        [*zip(stuff.geometry, stuff.class_id, strict=True),
         *zip(things.geometry, things.class_id, strict=True)],
        shape, transform=transform, dtype="uint8",
    )  # fmt: skip
    np.testing.assert_array_equal(semantic, town.semantic)
    assert shapely.coverage_is_valid(np.concatenate([things.geometry, stuff.geometry]))


def test_things_carry_what_the_segment_table_and_the_pixels_say(gpkg: Path) -> None:
    town = Town.build()
    found = read_layer(gpkg, "things").set_index("instance_id").sort_index()
    assert [*found.columns] == [name for name, _ in THINGS.columns[1:]] + ["geometry"]
    by_id = town.segments.take(np.argsort(town.segments.id))
    np.testing.assert_array_equal(found.pixel_count, by_id.area_px)
    np.testing.assert_array_equal(found.class_id, by_id.class_id)
    np.testing.assert_allclose(found.score, by_id.score)
    np.testing.assert_array_equal(found.touches_edge, by_id.touches_edge)
    np.testing.assert_array_equal(found.on_seam, by_id.on_seam)
    np.testing.assert_array_equal(found.n_tiles, by_id.n_tiles)
    np.testing.assert_allclose(found.seam_agreement, by_id.seam_agreement)
    assert set(found.class_name) == {"building", "vehicle"}
    row_m2 = town.context.georef.row_area_m2()
    for k, row in found.iterrows():
        assert row.area_m2 == pytest.approx(
            (row_m2[:, None] * (town.instance == k)).sum(), rel=1e-6
        )
    assert found.length_m[12] == pytest.approx(16 * 0.3, rel=1e-3)
    assert found.width_m[12] == pytest.approx(9 * 0.3, rel=1e-3)
    assert found.azimuth_deg[12] == pytest.approx(91.5, abs=0.2)  # grid north is not north
    assert found.perimeter_m[12] == pytest.approx(50 * 0.3, rel=1e-3)
    assert found.n_vertices[12] >= 4
    assert str(found.scene_date[1]) == "2024-05-01 00:00:00+00:00"
    assert (found.scene_id[1], found.model[1]) == ("town.tif", "tiny 1")


def test_stuff_parts_are_named_for_good_and_know_nodata(gpkg: Path) -> None:
    town = Town.build()
    found = read_layer(gpkg, "stuff")
    assert [*found.columns] == [name for name, _ in STUFF.columns] + ["geometry"]
    assert found.part_id.is_unique
    first = np.unravel_index(found.part_id - 1, town.semantic.shape)
    np.testing.assert_array_equal(town.semantic[first], found.class_id)
    assert found.score.isna().all()
    reaches = shapely.box(*town.context.georef.bounds).boundary
    corner = shapely.box(600_000, 6_650_000 - 3, 600_003, 6_650_000)
    touching = [
        g.intersection(corner).length > 0 or g.intersection(reaches).length > 0
        for g in found.geometry
    ]
    np.testing.assert_array_equal(found.touches_edge, touching)


def test_the_run_is_a_table_of_keys(gpkg: Path) -> None:
    run = read_layer(gpkg, "run")
    assert dict(zip(run.key, map(json.loads, run.value), strict=True)) == {
        "version": "1",
        "tiles": 4,
    }


def test_the_geopackage_opens_styled_in_old_and_new_qgis(gpkg: Path) -> None:
    """The conditions were measured with QGIS 3.22 and 3.40: it ignores anything else silently."""
    with closing(sqlite3.connect(gpkg)) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        assert version == 10300
        rows = db.execute(
            "SELECT f_table_name, f_table_catalog, f_table_schema, f_geometry_column, styleQML,"
            " useAsDefault, update_time FROM layer_styles WHERE useAsDefault = 1"
            " ORDER BY f_table_name"
        ).fetchall()
        ids = db.execute("SELECT useAsDefault, styleName, styleQML FROM layer_styles ORDER BY id")
        ((flag, other, by_score), *rest) = ids
        columns = dict(db.execute("SELECT table_name, column_name FROM gpkg_geometry_columns"))
        assert db.execute(
            "SELECT count(*) FROM gpkg_contents WHERE table_name = 'layer_styles'"
        ).fetchone() == (1,)
    assert [r[0] for r in rows] == ["stuff", "things"]
    # another style to choose stands before the defaults: some QGIS take the newest row
    assert (flag, other) == (0, "score")
    assert 'type="graduatedSymbol" attr="score"' in by_score
    assert by_score.count("<range ") == 10
    assert {r[0] for r in rest} == {1}
    for name, catalog, schema, column, qml, default, updated in rows:
        assert (catalog, schema, default) == ("", "", 1)
        assert column == columns[name]
        assert updated
        assert 'attr="class_name"' in qml
        mine = SCHEMA.things if name == "things" else SCHEMA.stuff
        for c in SCHEMA.classes:
            assert (f'value="{c.name}"' in qml) == (c in mine)
    assert "209,73,91,90" in rows[1][4]


def test_class_names_of_any_letters_make_well_formed_styles() -> None:
    from xml.etree import ElementTree

    names = ['a "quoted" <name> & more', "Gebäude", "建物"]
    classes = [ClassSpec(i + 1, n, "thing", "#102030") for i, n in enumerate(names)]
    root = ElementTree.fromstring(Style.of_classes(classes, outlined=True).to_qml())
    assert [c.get("value") for c in root.iter("category")] == names


@pytest.mark.parametrize("suffix", [".parquet", ".fgb", ".geojson"])
def test_other_formats_hold_the_same_features(gpkg: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"town{suffix}"
    counts = write_vectors(path, Town.build().layers(), UTM, SCHEMA)
    assert list(counts) == ["things", "stuff"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [f"town{suffix}", f"town.stuff{suffix}"]
    )
    for layer, key in (("things", "instance_id"), ("stuff", "part_id")):
        own = path if layer == "things" else tmp_path / f"town.stuff{suffix}"
        want, found = (read_layer(p, n).sort_values(key) for p, n in ((gpkg, layer), (own, None)))
        np.testing.assert_array_equal(found[key], want[key])
        np.testing.assert_allclose(found.area_m2, want.area_m2)
        assert [*found.class_name] == [*want.class_name]
        if suffix == ".geojson":
            want = want.to_crs(4326)
            distance = shapely.hausdorff_distance(
                found.geometry.to_numpy(), want.geometry.to_numpy()
            )
            assert distance.max() < 1e-7
        else:
            assert found.crs.to_epsg() == 32633
            assert (
                shapely.to_wkb(found.geometry.to_numpy())
                == shapely.to_wkb(want.geometry.to_numpy())
            ).all()


def test_geoparquet_says_how_it_is_made(tmp_path: Path) -> None:
    path = tmp_path / "town.parquet"
    write_vectors(path, {"things": Town.build().things()}, UTM, SCHEMA)
    geo = json.loads(pq.read_metadata(path).metadata[b"geo"])
    column = geo["columns"][geo["primary_column"]]
    assert geo["version"] == "1.1.0"
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["MultiPolygon"]
    assert column["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    table = pq.read_table(path)
    boxes = shapely.bounds(shapely.from_wkb(table["geom"].to_numpy()))
    for i, name in enumerate(("xmin", "ymin", "xmax", "ymax")):
        np.testing.assert_array_equal(pa.compute.struct_field(table["bbox"], name), boxes[:, i])
    assert column["bbox"] == [*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)]
    # rings run as the metadata promises
    for multi in shapely.from_wkb(table["geom"].to_numpy()):
        assert all(part.exterior.is_ccw for part in multi.geoms)


def test_geojson_has_longitude_first_seven_decimals_and_no_crs(tmp_path: Path) -> None:
    path = tmp_path / "town.geojson"
    write_vectors(path, {"things": Town.build().things()}, UTM, SCHEMA)
    made = json.loads(path.read_text())
    assert "crs" not in made
    lon, lat = made["features"][0]["geometry"]["coordinates"][0][0][0]
    assert (round(lon), round(lat)) == (17, 60)
    assert len(repr(lon).split(".")[1]) <= 7


def test_a_shapefile_is_refused_with_the_reason_and_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"10 letters.*town\.gpkg"):
        write_vectors(tmp_path / "town.shp", {}, UTM, SCHEMA)
    with pytest.raises(ConfigError, match=r"'\.kml'.*\.gpkg"):
        write_vectors(tmp_path / "town.kml", {}, UTM, SCHEMA)


def test_without_a_crs_metres_are_empty_not_wrong(tmp_path: Path) -> None:
    town = Town.build(crs=None)
    write_gpkg(tmp_path / "a.gpkg", town.layers(), None, SCHEMA)
    found = read_layer(tmp_path / "a.gpkg", "things")
    assert found.crs is None
    for name in ("area_m2", "perimeter_m", "length_m", "width_m", "azimuth_deg"):
        assert found[name].isna().all()
    assert found.pixel_count.sum() == np.count_nonzero(town.instance)
    with pytest.raises(ConfigError, match=r"GeoJSON.*gdal_edit"):
        write_vectors(tmp_path / "a.geojson", town.layers(), None, SCHEMA)
    with pytest.raises(SceneError, match="--min-area"):
        Town.build(crs=None, min_area_m2=3.0)


def test_classes_and_least_area_choose_what_is_written() -> None:
    cars = pa.Table.from_batches(Town.build(classes=("vehicle",)).things())
    assert set(cars["class_name"].to_pylist()) == {"vehicle"}
    assert cars.num_rows == 4
    every = pa.Table.from_batches(Town.build().things())
    large = pa.Table.from_batches(Town.build(min_area_m2=8.0).things())
    want = [i for i, a in zip(every["instance_id"].to_pylist(), every["area_m2"].to_pylist(),
                              strict=True) if a >= 8.0]  # fmt: skip
    assert 0 < large.num_rows < every.num_rows
    assert large["instance_id"].to_pylist() == want
    with pytest.raises(SchemaError, match="building"):
        Town.build(classes=("bilding",))


def test_simplified_layers_leave_no_gap_and_measure_what_they_draw(tmp_path: Path) -> None:
    exact, town = Town.build(), Town.build(simplify_m=0.5)
    write_gpkg(tmp_path / "a.gpkg", town.layers(), UTM, SCHEMA)
    things, stuff = (read_layer(tmp_path / "a.gpkg", n) for n in ("things", "stuff"))
    both = np.concatenate([things.geometry, stuff.geometry])
    assert shapely.coverage_is_valid(both)
    assert shapely.area(both).sum() == pytest.approx(np.count_nonzero(town.semantic) * 0.09)
    # 0.9998 squared: the scale of UTM two degrees off its centre
    np.testing.assert_allclose(things.area_m2, things.area, rtol=1e-3)
    want = pa.Table.from_batches(exact.things())
    assert sorted(things.pixel_count) == sorted(want["pixel_count"].to_pylist())
    with pytest.raises(SceneError, match="--simplify"):
        Town.build(crs=None, simplify_m=1.0)
    with pytest.raises(ConfigError, match=r"--simplify -1\.0"):
        Town.build(simplify_m=-1.0)


def test_an_instance_without_a_segment_is_an_error(tmp_path: Path) -> None:
    town = Town.build()
    broken = Town(town.semantic, town.instance, town.segments.take([0, 1, 2]), town.context)
    with pytest.raises(StoreError, match=r"instance id \d+ .* not in the segment table"):
        write_gpkg(tmp_path / "a.gpkg", {"things": broken.things()}, UTM, SCHEMA)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_older_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    write_gpkg(path, Town.build().layers(), UTM, SCHEMA)
    before = path.read_bytes()

    def breaks() -> Iterator[pa.RecordBatch]:
        yield next(Town.build().stuff())
        raise ZeroDivisionError("in the middle")

    for suffix in (".gpkg", ".parquet", ".fgb", ".geojson"):
        with pytest.raises(ZeroDivisionError, match="in the middle"):
            write_vectors(path.with_suffix(suffix), {"stuff": breaks()}, UTM, SCHEMA)
    assert [p.name for p in tmp_path.iterdir()] == ["a.gpkg"]
    assert path.read_bytes() == before


def test_ctrl_c_in_the_middle_stays_ctrl_c(tmp_path: Path, monkeypatch: Any) -> None:
    from geopanoptic.vector import streaming

    class Interrupted(streaming.Queue):  # type: ignore[type-arg]
        def get(self, *args: Any, **kwargs: Any) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setattr(streaming, "Queue", Interrupted)
    for suffix in (".gpkg", ".parquet", ".fgb", ".geojson"):
        with pytest.raises(KeyboardInterrupt):
            write_vectors(tmp_path / f"a{suffix}", Town.build().layers(), UTM, SCHEMA)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_error_with_the_cure(tmp_path: Path) -> None:
    for suffix in (".gpkg", ".parquet", ".fgb", ".geojson"):
        with pytest.raises(StoreError, match="must exist and be writable"):
            write_vectors(tmp_path / "no" / f"a{suffix}", Town.build().layers(), UTM, SCHEMA)


def test_empty_layers_are_there_with_their_columns(tmp_path: Path) -> None:
    write_gpkg(tmp_path / "a.gpkg", {"things": [], "stuff": [], "seams_qa": []}, UTM, SCHEMA)
    assert [row[0] for row in pyogrio.list_layers(tmp_path / "a.gpkg")][:2] == ["things", "stuff"]
    found = read_layer(tmp_path / "a.gpkg", "things")
    assert len(found) == 0
    assert "seam_agreement" in found.columns
    for suffix in (".parquet", ".fgb", ".geojson"):
        write_vectors(tmp_path / f"a{suffix}", {"things": []}, UTM, SCHEMA)
        assert len(read_layer(tmp_path / f"a{suffix}")) == 0


def test_other_layers_bring_their_own_columns_and_style(tmp_path: Path) -> None:
    geometry = shapely.to_wkb(shapely.multipolygons([shapely.box(0, 0, 1, 1)], indices=[0]))
    batch = pa.RecordBatch.from_pydict({"geom": pa.array(geometry), "kind": ["new"], "n": [3]})
    styles = {"changes": Style("kind", (("new", "new", "#ff0000"),))}
    write_gpkg(tmp_path / "a.gpkg", {"changes": [batch]}, UTM, SCHEMA, styles=styles)
    found = read_layer(tmp_path / "a.gpkg", "changes")
    assert found.geometry[0].area == 1
    assert (found.kind[0], found.n[0]) == ("new", 3)
    with closing(sqlite3.connect(tmp_path / "a.gpkg")) as db:
        ((table, qml),) = db.execute("SELECT f_table_name, styleQML FROM layer_styles")
    assert table == "changes"
    assert 'attr="kind"' in qml
    spec = LayerSpec("cells", (("n", pa.int32()),), "Polygon")
    square = pa.array(shapely.to_wkb(np.array([shapely.box(0, 0, 1, 1)])))
    cells = pa.RecordBatch.from_pydict({"n": [1], "geom": square})
    write_gpkg(tmp_path / "b.gpkg", {spec: [cells]}, UTM, SCHEMA)
    assert pyogrio.read_info(tmp_path / "b.gpkg")["geometry_type"] == "Polygon"


def test_an_unknown_layer_names_the_nearest(gpkg: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="did you mean 'things'"):
        read_layer(gpkg, "thing")
    (tmp_path / "junk.gpkg").write_text("junk")
    with pytest.raises(StoreError, match="cannot read polygons"):
        read_layer(tmp_path / "junk.gpkg")
    (tmp_path / "junk.parquet").write_text("junk")
    with pytest.raises(StoreError, match="cannot read polygons"):
        read_layer(tmp_path / "junk.parquet")


def test_a_bad_date_is_refused() -> None:
    georef = GeoRef(UTM, Affine.identity(), (1, 1))
    with pytest.raises(ConfigError, match="ISO 8601"):
        TableContext(SCHEMA, georef, "1st of May")
    assert str(TableContext(SCHEMA, georef, "2024-05-01T12:00:00+02:00").scene_date).startswith(
        "2024-05-01 10:00"
    )
    assert RUN.geometry_type is None


def test_a_project_holds_every_layer_with_its_style_and_a_way_from_where_it_lies(
    tmp_path: Path,
) -> None:
    from xml.etree import ElementTree
    from zipfile import ZipFile

    folder = tmp_path / ".work" / "town.panoptic"
    folder.mkdir(parents=True)
    write_gpkg(folder / "panoptic.gpkg", Town.build().layers(), UTM, SCHEMA)
    (folder / "semantic.tif").touch()
    (folder / "semantic.qml").write_text("<qgis><pipe><rasterrenderer/></pipe></qgis>")
    scene = tmp_path / "scenes" / "town.tif"
    write_project(folder / "town.qgz", folder, UTM, scene, final=tmp_path / "town.panoptic")
    assert not list(folder.glob(".*"))
    with ZipFile(folder / "town.qgz") as archive:
        assert archive.namelist() == ["town.qgs"]
        root = ElementTree.fromstring(archive.read("town.qgs"))
    layers = {x.findtext("layername"): x for x in root.iter("maplayer")}
    assert {n: x.findtext("datasource") for n, x in layers.items()} == {
        "things": "./panoptic.gpkg|layername=things",
        "things by score": "./panoptic.gpkg|layername=things",
        "stuff": "./panoptic.gpkg|layername=stuff",
        "semantic": "./semantic.tif",
        "scene": "../scenes/town.tif",
    }
    ids = [x.findtext("id") for x in layers.values()]
    assert ids == [x.get("id") for x in root.iter("layer-tree-layer")]
    assert all(len(i) > 10 for i in ids)  # QGIS gives a shorter one a new name and loses the layer
    for name, tag in (("things", "renderer-v2"), ("semantic", "pipe"), ("scene", "pipe")):
        assert layers[name].find(tag) is not None
        assert layers[name].findtext("srs/spatialrefsys/authid") == "EPSG:32633"
    tree = root.iter("layer-tree-layer")
    assert [x.get("name") for x in tree if x.get("checked") == "Qt::Checked"] == ["things", "scene"]
    assert root.findtext("properties/SpatialRefSys/ProjectionsEnabled") == "1"
    with pytest.raises(StoreError, match="must exist"):
        write_project(tmp_path / "no" / "a.qgz", folder, UTM)
