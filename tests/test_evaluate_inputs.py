"""Maps of every form, limits, class maps, gates and outputs of `evaluate`."""

from __future__ import annotations

import json
import re
import sqlite3
from html.parser import HTMLParser
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from click.testing import CliRunner
from panoptic_pairs import random_side
from rasterio.warp import Resampling, reproject

from geopanoptic.cli.main import cli
from geopanoptic.errors import ConfigError, SceneError, SchemaError, StoreError
from geopanoptic.evaluate import EvaluateSettings, Outputs, evaluate
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.panoptic_map import MapInfo, PanopticMap, save_segments, write_map_json
from geopanoptic.schema import ClassSpec, LabelSchema
from geopanoptic.workers import EngineSpec

UTM = rasterio.crs.CRS.from_epsg(32645).to_wkt()
SHAPE = (120, 150)
GEOREF = GeoRef(UTM, Affine(0.5, 0, 400_000.0, 0, -0.5, 3_000_000.0), SHAPE)
SCHEMA = LabelSchema(
    (
        ClassSpec(1, "building", "thing", "#d1495b"),
        ClassSpec(2, "vehicle", "thing", "#edae49"),
        ClassSpec(3, "tree", "stuff", "#1b7837"),
        ClassSpec(4, "road", "stuff", "#8d99ae"),
    )
)
Side = tuple[np.ndarray, np.ndarray]


def town(seed: int = 0) -> tuple[Side, Side]:
    """A truth and a prediction of the same town: some objects shifted, some gone, some new."""
    rng = np.random.default_rng(seed)
    classes = np.full(SHAPE, 3, np.uint8)
    classes[:, 70:80] = 4
    truth = classes.copy(), np.zeros(SHAPE, np.int32)
    pred = classes.copy(), np.zeros(SHAPE, np.int32)
    k = 0
    for r in range(4, 110, 15):
        for c in (5, 22, 40, 90, 110, 130):
            k += 1
            h, w = rng.integers(5, 11, 2)
            cls = 1 if rng.random() < 0.7 else 2
            truth[0][r : r + h, c : c + w], truth[1][r : r + h, c : c + w] = cls, k
            if rng.random() < 0.8:
                dr, dc = rng.integers(-2, 3, 2)
                rows, cols = slice(r + dr, r + dr + h), slice(c + dc, c + dc + w)
                pred[0][rows, cols], pred[1][rows, cols] = cls, 500 - k
    return truth, pred


def write_raster(path: Path, data: np.ndarray, georef: GeoRef = GEOREF, **extra: object) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", height=data.shape[0], width=data.shape[1], count=1,
        dtype=data.dtype, crs=georef.crs, transform=georef.transform,
        tiled=True, blockxsize=32, blockysize=32, **extra,
    ) as file:  # fmt: skip
        file.write(data, 1)


def write_map(
    folder: Path, side: Side, georef: GeoRef = GEOREF, schema: LabelSchema = SCHEMA
) -> Path:
    write_map_json(folder, MapInfo(schema))
    write_raster(folder / "semantic.tif", side[0], georef, nodata=0)
    write_raster(folder / "instances.tif", side[1], georef, nodata=0)
    return folder


@pytest.fixture
def maps(tmp_path: Path) -> tuple[Path, Path]:
    """Return (prediction, truth) map directories."""
    truth, pred = town()
    return write_map(tmp_path / "p.panoptic", pred), write_map(tmp_path / "t.panoptic", truth)


FIGURES = ("all", "things", "stuff", "miou", "oa", "f1")


def figures(found: object) -> str:
    return json.dumps([found[key] for key in FIGURES])  # type: ignore[index]


def test_map_directories_and_bare_rasters_give_the_same_figures(maps, tmp_path: Path) -> None:
    pred, truth = maps
    a = evaluate(pred, truth)
    bare = f"{pred / 'semantic.tif'},{pred / 'instances.tif'}"
    b = evaluate(bare, truth)
    c = evaluate(bare, f"{truth / 'semantic.tif'},{truth / 'instances.tif'}")
    assert figures(a) == figures(b) == figures(c)
    assert list(b["per_class"]) == ["building", "vehicle", "tree", "road"]
    assert 0 < a["all"]["pq"] < 1
    assert a["per_class"]["building"]["area_truth_m2"] == pytest.approx(
        float((town()[0][0] == 1).sum()) * 0.25, rel=1e-2
    )


def test_the_figures_do_not_depend_on_the_crs(maps, tmp_path: Path) -> None:
    pred, truth = maps
    a = evaluate(pred, truth)
    degrees = GeoRef(
        rasterio.crs.CRS.from_epsg(4326).to_wkt(), Affine(6e-6, 0, 85.0, 0, -6e-6, 27.0), SHAPE
    )
    t, p = town()
    b = evaluate(
        write_map(tmp_path / "p4326", p, degrees), write_map(tmp_path / "t4326", t, degrees)
    )
    assert json.dumps([a[k] for k in ("all", "things", "stuff", "miou")]) == json.dumps(
        [b[k] for k in ("all", "things", "stuff", "miou")]
    )
    assert a["per_class"]["tree"]["area_pred_m2"] != b["per_class"]["tree"]["area_pred_m2"]


def test_worker_processes_change_no_byte(maps) -> None:
    pred, truth = maps
    settings = EvaluateSettings(boundary="1m")
    a = evaluate(pred, truth, settings, engine=EngineSpec(threads=1))
    b = evaluate(pred, truth, settings, engine=EngineSpec(workers=2), walk=(64, None))
    assert a.to_json() == b.to_json()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("block", [64, 100, 512, 4096])
def test_neither_blocks_nor_workers_change_a_byte(maps, workers: int, block: int) -> None:
    pred, truth = maps
    settings = EvaluateSettings(boundary="1m")
    a = evaluate(pred, truth, settings)
    b = evaluate(pred, truth, settings, engine=EngineSpec(workers=workers), walk=(block, None))
    assert a.to_json() == b.to_json()


def test_polygons_as_truth_are_judged_on_the_predictions_grid(maps, tmp_path: Path) -> None:
    pred, truth = maps
    things = PanopticMap.open(truth).things()[["class_name", "geometry"]]
    things.to_file(tmp_path / "truth.gpkg")
    things.to_crs(4326).to_file(tmp_path / "truth.geojson")
    by_map, by_gpkg = evaluate(pred, truth), evaluate(pred, tmp_path / "truth.gpkg")
    assert by_map["things"]["pq"] == by_gpkg["things"]["pq"]
    assert by_gpkg["stuff"]["n"] == 0
    assert list(by_gpkg["per_class"]) == ["building", "vehicle"]
    assert "only these classes are judged" in by_gpkg["warnings"][-1]
    by_json = evaluate(pred, tmp_path / "truth.geojson")
    assert by_json["things"]["pq"] == pytest.approx(by_map["things"]["pq"], abs=0.02)
    swapped = evaluate(tmp_path / "truth.gpkg", pred)
    assert swapped["per_class"]["building"]["tp"] == by_map["per_class"]["building"]["tp"]


def test_polygons_that_overlap_or_vanish_are_told(maps, tmp_path: Path) -> None:
    x, y = GEOREF.xy(10, 10)
    boxes = [shapely.box(x, y - 5, x + 5, y), shapely.box(x + 3, y - 5, x + 8, y)]
    boxes += [shapely.box(x - 900, y, x - 890, y + 5), shapely.box(x + 20, y, x + 20.1, y + 0.1)]
    truth = geopandas.GeoDataFrame({"class_name": ["building"] * 4}, geometry=boxes, crs=UTM)
    truth.to_file(tmp_path / "t.gpkg")
    found = evaluate(maps[0], tmp_path / "t.gpkg")
    assert "1 pairs of polygons overlap" in found["warnings"][0]
    assert "2 of 4 polygons have no pixel" in found["warnings"][1]
    assert found["per_class"]["building"]["count_truth"] == 2


def test_a_class_raster_alone_gives_pixel_measures(maps) -> None:
    pred, truth = maps
    found = evaluate(pred / "semantic.tif", truth)
    assert found["miou"] == evaluate(pred, truth)["miou"]
    assert found["all"]["pq"] is None
    assert "no instance raster" in found["warnings"][0]


def test_outside_the_area_of_interest_nothing_is_judged(maps, tmp_path: Path) -> None:
    pred, truth = maps
    x0, y0 = GEOREF.xy(0, 0)
    x1, y1 = GEOREF.xy(120, 75)
    aoi = geopandas.GeoDataFrame(geometry=[shapely.box(x0, y1, x1, y0)], crs=UTM)
    aoi.to_crs(4326).to_file(tmp_path / "aoi.geojson")
    half = evaluate(pred, truth, EvaluateSettings(aoi=str(tmp_path / "aoi.geojson")))
    mask = np.ones(SHAPE, np.uint8)
    mask[:, 75:] = 0
    write_raster(tmp_path / "mask.tif", mask)
    masked = evaluate(pred, truth, EvaluateSettings(mask=str(tmp_path / "mask.tif")))
    left_out = geopandas.GeoDataFrame(
        geometry=[shapely.box(x1, y1, GEOREF.xy(0, 150)[0], y0)], crs=UTM
    )
    left_out.to_file(tmp_path / "mask.gpkg")
    ignored = evaluate(pred, truth, EvaluateSettings(mask=str(tmp_path / "mask.gpkg")))
    assert figures(half) == figures(masked) == figures(ignored)
    t, p = town()
    t = t[0] * mask, t[1] * mask
    cut = evaluate(write_map(tmp_path / "pc", p), write_map(tmp_path / "tc", t))
    assert figures(cut) == figures(half) != figures(evaluate(pred, truth))


def test_grids_must_agree_unless_the_truth_is_resampled(maps, tmp_path: Path) -> None:
    pred, truth = maps
    t, _ = town()
    finer = tuple(np.repeat(np.repeat(x, 2, 0), 2, 1) for x in t)
    fine = GeoRef(UTM, GEOREF.transform @ Affine.scale(0.5), (240, 300))
    write_map(tmp_path / "fine", finer, fine)
    with pytest.raises(SceneError, match=r"120 x 150 against 240 x 300.*--resample-truth"):
        evaluate(pred, tmp_path / "fine")
    found = evaluate(pred, tmp_path / "fine", EvaluateSettings(resample_truth=True))
    assert figures(found) == figures(evaluate(pred, truth))


def test_resampling_is_that_of_gdal_nearest(maps) -> None:
    truth = maps[1]
    t, _ = town()
    lon, lat = GEOREF.lonlat(*GEOREF.xy(-5, -4))
    lonlat = GeoRef(
        rasterio.crs.CRS.from_epsg(4326).to_wkt(),
        Affine(4.1e-6, 0, float(lon), 0, -4.1e-6, float(lat)),
        (160, 190),
    )
    moved = []
    for data in t:
        out = np.zeros(lonlat.shape, data.dtype)
        reproject(
            data, out, src_transform=GEOREF.transform, src_crs=GEOREF.crs,
            dst_transform=lonlat.transform, dst_crs=lonlat.crs, resampling=Resampling.nearest,
            tolerance=0, init_dest_nodata=True,
        )  # fmt: skip
        moved.append(out)
    assert (moved[0] > 0).any()
    from geopanoptic.evaluate.sources import ResampledSource

    source = ResampledSource(PanopticMap.open(truth).source, GEOREF, lonlat)
    got = source.read(Window.whole(lonlat.shape))
    assert (got[0] != moved[0]).mean() < 0.001
    assert (got[1] != moved[1]).mean() < 0.001


def test_truth_classes_are_renamed_made_void_or_refused(maps, tmp_path: Path) -> None:
    pred, _ = maps
    t, _ = town()
    other = LabelSchema(
        (
            ClassSpec(1, "house", "thing", "#111111"),
            ClassSpec(2, "car", "thing", "#222222"),
            ClassSpec(3, "wood", "stuff", "#333333"),
            ClassSpec(4, "street", "stuff", "#444444"),
        )
    )
    truth = write_map(tmp_path / "other", t, schema=other)
    (tmp_path / "map.csv").write_text("from,to\nhouse,building\n2,vehicle\nwood,tree\nstreet,\n")
    found = evaluate(pred, truth, EvaluateSettings(class_map=str(tmp_path / "map.csv")))
    assert list(found["per_class"]) == ["building", "vehicle", "tree", "road"]
    plain = evaluate(pred, maps[1], EvaluateSettings(void_classes=("road",)))
    assert figures(found) == figures(plain)
    with pytest.raises(SchemaError, match="no class is called that"):
        evaluate(pred, truth, EvaluateSettings(void_classes=("lake",)))
    (tmp_path / "bad.csv").write_text("lake,tree\n")
    with pytest.raises(SchemaError, match="'lake'"):
        evaluate(pred, truth, EvaluateSettings(class_map=str(tmp_path / "bad.csv")))


def test_a_name_cannot_be_thing_here_and_stuff_there(maps, tmp_path: Path) -> None:
    t, _ = town()
    rows = [c.to_json() | ({"kind": "thing"} if c.name == "tree" else {}) for c in SCHEMA.classes]
    truth = write_map(tmp_path / "odd", t, schema=LabelSchema.from_json(rows))
    with pytest.raises(SchemaError, match=r"'tree' is stuff in .* but a thing"):
        evaluate(maps[0], truth)


def test_ignored_polygons_are_neither_missed_nor_asked_for(tmp_path: Path) -> None:
    boxes = [shapely.box(x, 0, x + 10, 10) for x in (0, 20, 40)]
    truth = geopandas.GeoDataFrame(
        {"class": ["building"] * 3, "ignore": [0, 0, 1]}, geometry=boxes, crs=UTM
    )
    truth.to_file(tmp_path / "t.gpkg")
    pred = geopandas.GeoDataFrame(
        {"class": ["building"] * 2, "score": [0.9, 0.8]},
        geometry=[boxes[0], shapely.box(42, 2, 46, 6)],
        crs=UTM,
    )
    pred.to_file(tmp_path / "p.gpkg")
    row = evaluate(tmp_path / "p.gpkg", tmp_path / "t.gpkg")["per_class"]["building"]
    assert (row["tp"], row["fp"], row["fn"]) == (1, 1, 2)
    settings = EvaluateSettings(crowd_field="ignore")
    row = evaluate(tmp_path / "p.gpkg", tmp_path / "t.gpkg", settings)["per_class"]["building"]
    assert (row["tp"], row["fp"], row["fn"], row["ap50"]) == (1, 0, 1, pytest.approx(51 / 101))
    with pytest.raises(SceneError, match=r"'ignored'.*did you mean 'ignore'"):
        evaluate(tmp_path / "p.gpkg", tmp_path / "t.gpkg", EvaluateSettings(crowd_field="ignored"))


def test_scores_of_the_map_give_average_precision_and_their_absence_is_told(
    maps, tmp_path: Path
) -> None:
    pred, truth = maps
    assert evaluate(pred, truth)["ap"]["reason"].endswith("p.panoptic has no scores")
    opened = PanopticMap.open(pred)
    table = opened.segment_table
    table.score[:] = np.linspace(0.1, 0.9, len(table))
    save_segments(pred, table, SCHEMA, GEOREF)
    found = evaluate(pred, truth)
    assert 0 < found["ap"]["ap"] < found["ap"]["ap50"] <= 1


def test_several_pairs_are_summed_before_ratios_are_taken(maps, tmp_path: Path) -> None:
    pred, truth = maps
    t, p = town(seed=5)
    other = write_map(tmp_path / "p2", p), write_map(tmp_path / "t2", t)
    both = evaluate([pred, other[0]], [truth, other[1]])
    parts = [evaluate(pred, truth), evaluate(*other)]
    for name in SCHEMA.names:
        for key in ("tp", "fp", "fn", "count_truth"):
            assert both["per_class"][name][key] == sum(f["per_class"][name][key] for f in parts)
    assert len(both["scenes"]) == 2


def test_figures_are_gated_for_continuous_integration(maps, tmp_path: Path) -> None:
    pred, truth = (str(m) for m in maps)
    run = CliRunner().invoke
    out = tmp_path / "old.json"
    assert (
        run(cli, ["evaluate", pred, truth, "--out", str(out)], standalone_mode=False).return_value
        == 0
    )
    pq = json.loads(out.read_text())["all"]["pq"]
    for rule, status in (
        (f"pq={pq - 0.01}", 0),
        (f"pq={pq + 0.01}", 4),
        ("building.f1=0.99", 4),
        ("pq=baseline", 0),
        ("pq=baseline+0.01", 4),
        ("ap=0.1", 4),  # undefined: there are no scores
    ):
        got = run(
            cli,
            ["evaluate", pred, truth, "--baseline", str(out), "--fail-below", rule],
            standalone_mode=False,
        )
        assert got.return_value == status, rule
    for bad in ("pq", "pqq=0.4", "lake.pq=0.4"):
        got = run(cli, ["evaluate", pred, truth, "--fail-below", bad], standalone_mode=False)
        assert isinstance(got.exception, ConfigError), bad
    again = run(cli, ["evaluate", pred, truth, "--out", str(out)], standalone_mode=False)
    assert isinstance(again.exception, StoreError)


def test_the_json_on_stdout_is_the_file(maps, tmp_path: Path) -> None:
    pred, truth = (str(m) for m in maps)
    out = tmp_path / "e.json"
    got = CliRunner().invoke(cli, ["evaluate", pred, truth, "--out", str(out), "--json"])
    assert got.stdout == out.read_text()
    assert json.loads(out.read_text())["parameters"]["iou"] == 0.5


def test_every_object_is_in_the_error_layers_once_with_its_fate(maps, tmp_path: Path) -> None:
    pred, truth = maps
    path = tmp_path / "errors.gpkg"
    found = evaluate(pred, truth, outputs=Outputs(errors=path))
    for layer, side, source in (("truth", "truth", truth), ("predictions", "pred", pred)):
        frame = geopandas.read_file(path, layer=layer)
        assert frame.status.value_counts().to_dict() == {
            k: v for k, v in found["objects"][side].items() if v
        }
        things = PanopticMap.open(source).things().set_index("instance_id")
        frame = frame.set_index("object_id")
        assert frame.index.is_unique
        assert set(frame.index) == set(things.index)
        assert frame.geometry.geom_equals(things.geometry.reindex(frame.index)).all()
    matched = geopandas.read_file(path, layer="truth").query("status == 'matched'")
    assert (matched.iou > 0.5).all()
    assert (matched.partner_id == 500 - matched.object_id).all()
    with sqlite3.connect(path) as db:
        styles = dict(db.execute("SELECT f_table_name, styleQML FROM layer_styles"))
    assert set(styles) == {"truth", "predictions"}
    assert "misclassified" in styles["truth"]


class Tags(HTMLParser):
    """Collect tags and whether anything is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [v or "" for k, v in attrs if k in ("src", "href")]


def test_the_page_fetches_nothing_and_escapes_every_name(tmp_path: Path) -> None:
    t, p = town()
    rows = [c.to_json() for c in SCHEMA.classes]
    rows[0]["name"] = "<script>alert('x')</script>&"
    schema = LabelSchema.from_json(rows)
    pred, truth = (
        write_map(tmp_path / "p<b>", p, schema=schema),
        write_map(tmp_path / "t", t, schema=schema),
    )
    write_raster(tmp_path / "image.tif", np.full(SHAPE, 90, np.uint8))
    out = tmp_path / "page.html"
    evaluate(pred, truth, outputs=Outputs(html=out, image=str(tmp_path / "image.tif")))
    text = out.read_text()
    page = Tags()
    page.feed(text)
    assert "script" not in page.tags
    assert "b" not in {tag for tag in page.tags if "p<b>" in tag}
    assert page.sources
    assert all(source.startswith("data:image/png") for source in page.sources)
    assert "&lt;script&gt;" in text
    assert not re.search(r"https?://", text)


def test_random_maps_never_break_the_outputs(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    for k in range(4):
        sides = [random_side(rng, (40, 50), void=True) for _ in range(2)]
        georef = GeoRef(UTM, GEOREF.transform, (40, 50))
        pred, truth = (
            write_map(tmp_path / f"{n}{k}", s, georef) for n, s in zip("pt", sides, strict=True)
        )
        outputs = Outputs(tmp_path / f"{k}.json", tmp_path / f"{k}.gpkg", tmp_path / f"{k}.html")
        settings = EvaluateSettings(boundary="2px", iou=0.3, min_area_m2=1.5)
        found = evaluate(pred, truth, settings, outputs)
        assert json.loads((tmp_path / f"{k}.json").read_text()) == found.result


def test_bad_settings_and_files_are_refused_with_the_cure(maps, tmp_path: Path) -> None:
    pred, truth = maps
    for wrong in ({"metrics": ("pqq",)}, {"iou": 1.0}, {"boundary": "2 miles"}, {"max_dets": 0}):
        with pytest.raises(ConfigError):
            EvaluateSettings(**wrong)
    with pytest.raises(SceneError, match="there is no map"):
        evaluate(pred, tmp_path / "nothing.panoptic")
    (truth / "instances.tif").unlink()
    with pytest.raises(StoreError, match="incomplete"):
        evaluate(pred, truth)


def test_a_truncated_raster_gives_no_figure(maps) -> None:
    pred, truth = maps
    file = truth / "instances.tif"
    file.write_bytes(file.read_bytes()[:20000])
    with pytest.raises(SceneError, match="could not be counted"):
        evaluate(pred, truth, walk=(64, None))


def test_a_right_shape_of_the_wrong_class_is_counted_as_mistaken(tmp_path: Path) -> None:
    t, _ = town()
    classes = t[0].copy()
    for k in (3, 8):
        classes[t[1] == k] = 3 - classes[t[1] == k]  # building <-> vehicle
    found = evaluate(write_map(tmp_path / "p", (classes, t[1])), write_map(tmp_path / "t", t))
    assert sum(row["count"] for row in found["mistaken"]) == 2
    assert {(r["truth"], r["pred"]) for r in found["mistaken"]} <= {
        ("building", "vehicle"),
        ("vehicle", "building"),
    }
    assert found["objects"]["truth"]["misclassified"] == 2
