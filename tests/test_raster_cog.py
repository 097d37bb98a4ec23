"""Label rasters: written by windows, published whole or not at all, and named in QGIS."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasters import UTM, noise, write_raster

from geopanoptic.errors import SceneError, StoreError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import TileGrid, Window
from geopanoptic.raster import (
    LabelReader,
    LabelWriter,
    Scene,
    cog,
    cog_layout,
    publish_cog,
    pyramid,
    read_labels,
    write_instances_qml,
    write_score_qml,
)
from geopanoptic.schema import VOID, ClassSpec, LabelSchema

UTM10 = rasterio.CRS.from_epsg(26910).to_wkt()
SCHEMA = LabelSchema.default()
OVERVIEWS = ["mode", "nearest"]


def georef(height: int, width: int) -> GeoRef:
    return GeoRef(UTM10, UTM, (height, width))


def classes(height: int, width: int) -> np.ndarray:
    """A map of square parcels of all classes, void, and a nodata frame."""
    values = np.array([*SCHEMA.ids, VOID], np.uint8)
    small = np.random.default_rng(1).choice(values, (height // 16 + 1, width // 16 + 1))
    labels = np.kron(small, np.ones((16, 16), np.uint8))[:height, :width]
    labels[:40] = 0
    return labels


def written(path: Path, labels: np.ndarray) -> Path:
    with LabelWriter(path, georef(*labels.shape), labels.dtype.name) as writer:
        for tile in TileGrid(labels.shape, 512, 0):
            writer.write(tile.core, labels[tile.core.slices])
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """A folder with semantic.tif and instances.tif of 1100 x 1300 pixels."""
    folder = tmp_path_factory.mktemp("map")
    semantic = classes(1100, 1300)
    things = np.isin(semantic, [c.id for c in SCHEMA.things])
    blocks = np.kron(np.arange(69 * 82).reshape(69, 82) + 70_000, np.ones((16, 16), int))
    instances = np.where(things, blocks[:1100, :1300], 0).astype(np.int32)
    publish_cog(
        written(folder / "s.part.tif", semantic),
        folder / "semantic.tif",
        overviews="mode",
        palette=SCHEMA,
    )
    publish_cog(
        written(folder / "i.part.tif", instances), folder / "instances.tif", overviews="nearest"
    )
    write_instances_qml(folder / "instances.qml", int(instances.max()))
    return folder, semantic, instances


def test_what_is_published_is_what_was_written(
    published: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    folder, semantic, instances = published
    assert np.array_equal(read_labels(folder / "semantic.tif"), semantic)
    assert np.array_equal(read_labels(folder / "instances.tif"), instances)
    reader = LabelReader(folder / "instances.tif")
    assert (reader.dtype, reader.nodata, reader.shape) == ("int32", 0, (1100, 1300))
    assert reader.georef.transform == UTM
    window = Window(500, 600, 100, 90)
    assert np.array_equal(reader.read(window), instances[window.slices])
    with LabelReader(folder / "semantic.tif") as opened:
        assert np.array_equal(opened.read(window), semantic[window.slices])
    assert np.array_equal(opened.read(window), semantic[window.slices]), "opens again"


def test_published_rasters_are_valid_cogs(published: tuple[Path, np.ndarray, np.ndarray]) -> None:
    from rio_cogeo import cog_validate

    for name in ("semantic.tif", "instances.tif"):
        valid, errors, warned = cog_validate(published[0] / name, strict=True)
        assert (valid, errors, warned) == (True, [], [])
        with rasterio.open(published[0] / name) as dataset:
            assert dataset.compression.value == "DEFLATE"
            assert dataset.block_shapes == [(512, 512)]
            assert dataset.nodata == 0
            assert "PREDICTOR" not in dataset.tags(ns="IMAGE_STRUCTURE")


def test_overviews_hold_labels_that_are_there_below(
    published: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    """Cubic, GDAL's default, would invent ids between two neighbours."""
    folder, semantic, instances = published
    for name, labels in (("semantic.tif", semantic), ("instances.tif", instances)):
        with rasterio.open(folder / name, overview_level=0) as overview:
            small = overview.read(1)
        whole = labels[: small.shape[0] * 2 // 2 * 2, : small.shape[1] * 2]
        below = np.stack([whole[r::2, c::2] for r in (0, 1) for c in (0, 1)])
        small = small[: below.shape[1], : below.shape[2]]
        assert (below == small).any(axis=0).all()


def test_overviews_are_the_mode_of_classes_and_the_nearest_of_ids(
    published: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    folder, semantic, instances = published
    with rasterio.open(folder / "instances.tif", overview_level=0) as overview:
        small = overview.read(1)
    phases = [instances[r::2, c::2] for r in (0, 1) for c in (0, 1)]
    assert any(np.array_equal(small, phase) for phase in phases), "one pixel of four, always"
    # shifted by a pixel, parcels of 16 px meet inside the cells that an overview sums up
    moved = semantic[1:, 1:]
    publish_cog(
        written(folder / "m.part.tif", moved),
        folder / "moved.tif",
        overviews="mode",
        palette=SCHEMA,
    )
    with rasterio.open(folder / "moved.tif", overview_level=0) as overview:
        small = overview.read(1)
    rows, cols = (n // 2 for n in moved.shape)
    four = np.stack([moved[r::2, c::2][:rows, :cols] for r in (0, 1) for c in (0, 1)])
    sure = (four > 0).all(axis=0)  # nodata has no vote
    votes = (four[:, None] == four[None]).sum(axis=1)
    most = np.take_along_axis(four, votes.argmax(axis=0)[None], axis=0)[0]
    decided = sure & (votes.max(axis=0) >= 3)
    assert (decided & (votes.max(axis=0) == 3)).any()
    assert np.array_equal(small[:rows, :cols][decided], most[decided])


def test_both_files_become_big_tiffs_before_they_could_overflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDAL's own rule looks away when a file is compressed, and fails when it grows past 4 GB."""
    from rio_cogeo import cog_validate

    labels = classes(1300, 700)
    part = written(tmp_path / "p.tif", labels)
    found = {}
    for name, limit in (("classic.tif", 2**30), ("big.tif", 3000)):
        monkeypatch.setattr(cog_layout, "_CLASSIC_BYTES", limit)
        publish_cog(part, tmp_path / name, overviews="mode", palette=SCHEMA)
        assert np.array_equal(read_labels(tmp_path / name), labels)
        assert cog_validate(tmp_path / name, strict=True) == (True, [], [])
        found[name] = (tmp_path / name).read_bytes()[2]
    assert found == {"classic.tif": 42, "big.tif": 43}
    huge = LabelWriter(tmp_path / "h.tif", georef(60_000, 60_000), "int32")
    assert huge._profile["bigtiff"] == "if_safer"


@settings(max_examples=10, deadline=None)
@given(
    height=st.integers(1, 1500), width=st.integers(1, 2300), overviews=st.sampled_from(OVERVIEWS),
    nodata=st.sampled_from([0, 255, None]), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_overview_sums_up_the_one_below_it(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, overviews: Any,
    nodata: int | None, seed: int,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("o")
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([0, 1, 2, 255], np.uint8), (height, width))
    labels[rng.random((height, width)) < 0.3] = 7
    with LabelWriter(folder / "p.tif", georef(height, width), "uint8", nodata) as writer:
        writer.write(Window.whole((height, width)), labels)
    publish_cog(folder / "p.tif", folder / "s.tif", overviews=overviews)
    with rasterio.open(folder / "s.tif") as dataset:
        below, levels = dataset.read(1), len(dataset.overviews(1))
    assert np.array_equal(below, labels)
    for level in range(levels):
        rows, cols = (-(-n // 2) for n in below.shape)
        even = np.pad(below, ((0, below.shape[0] % 2), (0, below.shape[1] % 2)), mode="edge")
        four = np.stack([even[r::2, c::2] for r in (0, 1) for c in (0, 1)])
        if overviews == "nearest":
            wanted = four[0]
        else:
            so_far = np.tril(np.ones((4, 4), bool))[:, :, None, None]
            votes = (so_far & (four[:, None] == four[None]) & (four != nodata)[:, None]).sum(axis=1)
            wanted = np.take_along_axis(four, votes.argmax(axis=0)[None], axis=0)[0]
        with rasterio.open(folder / "s.tif", overview_level=level) as dataset:
            below = dataset.read(1)
        assert below.shape == (rows, cols)
        # at an odd rim deeper down, what lies beyond it has a vote
        inside = slice(0, rows - 1), slice(0, cols - 1)
        assert np.array_equal(below[inside], wanted[inside])
    assert max(below.shape) <= 512


def test_threads_change_no_byte_of_a_cog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = written(tmp_path / "p.tif", classes(1700, 2300))
    for threads in (1, 4):
        monkeypatch.setattr(cog, "_threads", lambda n=threads: n)
        publish_cog(part, tmp_path / f"{threads}.tif", overviews="mode")
    assert (tmp_path / "1.tif").read_bytes() == (tmp_path / "4.tif").read_bytes()


def test_an_empty_frame_of_a_continent_costs_next_to_nothing(tmp_path: Path) -> None:
    """100,000 x 100,000 px, of which one block is not empty: GDAL's driver would read 40 GB."""
    frame, something = georef(100_000, 100_000), noise(600, 600).astype(np.int32) + 1
    there = Window(70_100, 30_300, 600, 600)
    with LabelWriter(tmp_path / "p.tif", frame, "int32") as writer:
        writer.write(there, something)
    start = time.process_time()
    publish_cog(tmp_path / "p.tif", tmp_path / "i.tif", overviews="nearest")
    assert time.process_time() - start < 20
    assert np.array_equal(read_labels(tmp_path / "i.tif", there), something)
    assert not read_labels(tmp_path / "i.tif", Window(99_000, 99_000, 1000, 1000)).any()
    with rasterio.open(tmp_path / "i.tif", overview_level=2) as dataset:
        small = dataset.read(1, window=((8700, 8900), (3700, 3900)))
    rows, cols = (slice(-(-first // 8), -(-stop // 8)) for first, stop in (
        (there.row, there.row_stop), (there.col, there.col_stop)))  # fmt: skip
    wanted = something[(-there.row) % 8 :: 8, (-there.col) % 8 :: 8]
    assert np.array_equal(
        small[rows.start - 8700 : rows.stop - 8700, cols.start - 3700 : cols.stop - 3700], wanted
    )


def test_classes_carry_their_colours_and_names(
    published: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    folder = published[0]
    with rasterio.open(folder / "semantic.tif") as dataset:
        table = dataset.colormap(1)
    for spec in SCHEMA.classes:
        assert table[spec.id] == (*spec.rgb, 255)
    side = ElementTree.parse(folder / "semantic.tif.aux.xml").getroot()
    names = [c.text for c in side.iter("Category")]
    assert names[1:8] == list(SCHEMA.names)
    assert names[255] == "void"
    rows = [[f.text for f in row.iter("F")] for row in side.iter("Row")]
    assert ["1", "building", "209", "73", "91", "255"] in rows
    usages = [f.findtext("Usage") for f in side.iter("FieldDefn")]
    assert usages == ["5", "2", "6", "7", "8", "9"]
    entries = ElementTree.parse(folder / "semantic.qml").getroot().iter("paletteEntry")
    labels = {e.get("value"): (e.get("label"), e.get("color")) for e in entries}
    assert labels["1"] == ("building", "#d1495b")
    assert set(labels) == {"1", "2", "3", "4", "5", "6", "7", "255"}


def test_names_full_of_markup_stay_names(tmp_path: Path) -> None:
    schema = LabelSchema((ClassSpec(3, "<b>&\"'é</b> ../x", "stuff", "#010203"),))
    labels = np.full((20, 20), 3, np.uint8)
    publish_cog(
        written(tmp_path / "p.tif", labels), tmp_path / "s.tif",
        overviews="mode", palette=schema,
    )  # fmt: skip
    name = schema.classes[0].name
    side = ElementTree.parse(tmp_path / "s.tif.aux.xml").getroot()
    assert [c.text for c in side.iter("Category")][3] == name
    style = ElementTree.parse(tmp_path / "s.qml").getroot()
    assert next(style.iter("paletteEntry")).get("label") == name
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "p.tif", "s.qml", "s.tif", "s.tif.aux.xml",
    ]  # fmt: skip


@pytest.mark.parametrize("count", [0, 1, 63, 1024, 50_000])
def test_the_instance_style_has_rising_bounds_and_a_colour_for_every_id(
    tmp_path: Path, count: int
) -> None:
    write_instances_qml(tmp_path / "i.qml", count)
    items = list(ElementTree.parse(tmp_path / "i.qml").getroot().iter("item"))
    bounds = [float(i.get("value") or "nan") for i in items]
    assert bounds == sorted(bounds)
    assert bounds[-1] == float("inf")
    assert items[0].get("alpha") == "0", "0 is no instance"
    assert len(items) <= 1026
    colours = [i.get("color") for i in items[1:]]
    assert all(a != b for a, b in itertools.pairwise(colours))
    assert len(set(colours)) == min(max(count, 1), 64)


def test_the_score_style_is_a_ramp(tmp_path: Path) -> None:
    write_score_qml(tmp_path / "score.qml")
    items = list(ElementTree.parse(tmp_path / "score.qml").getroot().iter("item"))
    assert [i.get("label") for i in items] == ["0", "0.25", "0.5", "0.75", "1"]


@settings(max_examples=15, deadline=None)
@given(core=st.integers(100, 900), height=st.integers(1, 1100), width=st.integers(1, 1100))
def test_windows_of_any_size_give_the_same_raster(
    tmp_path_factory: pytest.TempPathFactory, core: int, height: int, width: int
) -> None:
    labels = noise(height, width)
    path = tmp_path_factory.mktemp("w") / "a.tif"
    with LabelWriter(path, georef(height, width), "uint8") as writer:
        for tile in TileGrid((height, width), core, 0):
            writer.write(tile.core, labels[tile.core.slices])
    assert np.array_equal(read_labels(path), labels)


def test_what_was_never_written_is_nodata(tmp_path: Path) -> None:
    with LabelWriter(tmp_path / "p.tif", georef(600, 600), "int32") as writer:
        writer.write(Window(0, 0, 512, 512), np.full((512, 512), 9, np.int32))
    publish_cog(tmp_path / "p.tif", tmp_path / "i.tif", overviews="nearest")
    labels = read_labels(tmp_path / "i.tif")
    assert (labels[:512, :512] == 9).all()
    assert not labels[512:].any()


def test_a_map_without_crs_keeps_pixels_as_units(tmp_path: Path) -> None:
    pixels = GeoRef.of_pixels((30, 40))
    with LabelWriter(tmp_path / "p.tif", pixels, "uint8") as writer:
        writer.write(Window.whole((30, 40)), np.ones((30, 40), np.uint8))
    publish_cog(tmp_path / "p.tif", tmp_path / "s.tif", overviews="mode")
    assert LabelReader(tmp_path / "s.tif").georef == pixels


def test_an_error_while_writing_leaves_no_file(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="ours"),
        LabelWriter(tmp_path / "p.tif", georef(9, 9), "uint8"),
    ):
        raise RuntimeError("ours")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("which", range(5))
def test_a_copy_that_differs_is_never_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    """In any of its four blocks, or in its overview."""
    source = written(tmp_path / "p.tif", classes(700, 700))
    real, made = pyramid._deflated, itertools.count()

    def wrong(values: np.ndarray) -> bytes:
        values = values.copy()
        values[3, 3] ^= next(made) == which
        return real(values)

    monkeypatch.setattr(pyramid, "_deflated", wrong)
    with pytest.raises(StoreError, match="pixels differ"):
        publish_cog(source, tmp_path / "s.tif", overviews="mode")
    assert [p.name for p in tmp_path.iterdir()] == ["p.tif"]


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.97])
def test_a_copy_cut_short_by_a_full_disk_is_never_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: float
) -> None:
    """A file system may lose the error of a write on a full disk; the file then ends early."""
    source = written(tmp_path / "p.tif", classes(1300, 1300))
    real = cog_layout.write_layout

    def full_disk(path: Path, *rest: Any) -> int:
        crc = real(path, *rest)
        os.truncate(path, int(path.stat().st_size * cut))
        return crc

    monkeypatch.setattr(cog_layout, "write_layout", full_disk)
    with pytest.raises(StoreError, match="MiB free"):
        publish_cog(source, tmp_path / "s.tif", overviews="mode", palette=SCHEMA)
    assert [p.name for p in tmp_path.iterdir()] == ["p.tif"]


def test_an_existing_product_stays_when_the_new_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "s.tif"
    publish_cog(written(tmp_path / "p.tif", classes(99, 99)), final, overviews="mode")
    before = final.read_bytes()

    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cog_layout, "write_layout", no_space)
    with pytest.raises(StoreError, match="No space left"):
        publish_cog(tmp_path / "p.tif", final, overviews="mode")
    assert final.read_bytes() == before


def test_a_really_full_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    """Under a file size limit of 200 kB, in a process of its own, as a full disk behaves."""
    code = """
import json, resource, signal, sys
from pathlib import Path
import numpy as np
from geopanoptic.errors import StoreError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.raster import LabelWriter, publish_cog
folder, when = Path(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
labels = np.random.default_rng(0).integers(1, 2**30, (1024, 1024)).astype(np.int32)
def limit(): resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    if when == "write": limit()
    with LabelWriter(folder / "p.tif", GeoRef.of_pixels((1024, 1024)), "int32") as writer:
        writer.write(Window.whole((1024, 1024)), labels)
    if when == "publish": limit()
    publish_cog(folder / "p.tif", folder / "i.tif", overviews="nearest")
    print(json.dumps("published"))
except StoreError as why:
    print(json.dumps(str(why)))
"""
    for when, left in (("write", []), ("publish", ["p.tif"])):
        folder = tmp_path / when
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder), when], capture_output=True, text=True
        )
        assert done.stdout, done.stderr
        assert "could not be written" in json.loads(done.stdout.splitlines()[-1])
        assert [p.name for p in folder.iterdir()] == left


def test_a_folder_that_is_not_there_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="could not be written"):
        written(tmp_path / "no" / "p.tif", classes(9, 9))
    part = written(tmp_path / "p.tif", classes(9, 9))
    with pytest.raises(StoreError, match="could not be written"):
        publish_cog(part, tmp_path / "no" / "s.tif", overviews="mode")


def test_a_label_reader_refuses_what_are_no_labels(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="no file"):
        LabelReader(tmp_path / "nowhere.tif")
    picture = write_raster(tmp_path / "rgb.tif", noise(3, 9, 9))
    with pytest.raises(SceneError, match=r"3 band\(s\) of uint8"):
        LabelReader(picture)
    height = write_raster(tmp_path / "f.tif", noise(1, 9, 9, dtype="float32"))
    with pytest.raises(SceneError, match="float32"):
        LabelReader(height)
    turned = UTM @ rasterio.Affine.rotation(20)
    tilted = write_raster(tmp_path / "t.tif", noise(1, 9, 9), transform=turned)
    with pytest.raises(SceneError, match="-r near"):
        LabelReader(tilted)


def test_a_published_map_can_be_read_as_a_scene(
    published: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    scene = Scene.open(published[0] / "semantic.tif")
    assert scene.has_palette
    _, valid = scene.read(Window.whole(scene.georef.shape))
    assert np.array_equal(valid, published[1] > 0)


IN_QGIS = """
import json, os, sys
from qgis.core import QgsApplication, QgsRasterLayer
app = QgsApplication([], False)
app.initQgis()
found = {}
for path in sys.argv[1:]:
    layer = QgsRasterLayer(path, "labels")
    message, styled = layer.loadDefaultStyle()
    renderer = layer.renderer()
    classes = renderer.classes() if renderer.type() == "paletted" else []
    found[path] = [renderer.type(), styled, {c.value: [c.label, c.color.name()] for c in classes}]
print(json.dumps(found), flush=True)
os._exit(0)
"""


@pytest.mark.qgis
def test_qgis_shows_classes_by_name_and_colour(
    published: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    paths = [str(published[0] / name) for name in ("semantic.tif", "instances.tif")]
    done = subprocess.run(
        ["/usr/bin/python3", "-c", IN_QGIS, *paths],
        env=os.environ | {"QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
    )
    semantic, instances = json.loads(done.stdout.splitlines()[-1]).values()
    assert semantic[:2] == ["paletted", True]
    for spec in SCHEMA.classes:
        assert semantic[2][str(float(spec.id))] == [spec.name, spec.color]
    assert instances[:2] == ["singlebandpseudocolor", True]


@pytest.mark.bench
def test_both_rasters_of_a_20_mpx_map_take_less_than_1500_cpu_ms(tmp_path: Path) -> None:
    import time

    semantic = np.kron(classes(500, 625), np.ones((8, 8), np.uint8))
    parcels = np.kron(np.arange(32 * 40).reshape(32, 40) + 1, np.ones((128, 128), int))
    instances = np.where(semantic <= 2, parcels[:4000, :5000], 0)
    start = time.process_time()
    written(tmp_path / "s.tif", semantic)
    publish_cog(tmp_path / "s.tif", tmp_path / "a.tif", overviews="mode", palette=SCHEMA)
    written(tmp_path / "i.tif", instances.astype(np.int32))
    publish_cog(tmp_path / "i.tif", tmp_path / "b.tif", overviews="nearest")
    took = time.process_time() - start
    shutil.rmtree(tmp_path, ignore_errors=True)
    assert took < 1.5, f"{took:.2f} s"
