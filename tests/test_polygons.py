"""Laws of tracing: exact, the same for every block grid, valid, without gaps."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyproj
import pytest
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.polygons import (
    MetreMap,
    PolygonBatch,
    measure,
    measure_pixels,
    stuff_labels,
    thing_labels,
    trace,
)
from geopanoptic.polygons.seams import BlockReader, Group, Line
from geopanoptic.schema import LabelSchema

PIXELS = Affine(1, 0, 0, 0, -1, 0)
GROUPS: tuple[Group, ...] = ("id", "part")
Ints = npt.NDArray[np.int32]


def reader(labels: Ints) -> BlockReader:
    return lambda window: labels[window.slices]


def traced(labels: Ints, block: int, group: Group) -> list[PolygonBatch]:
    return list(trace(reader(labels), labels.shape, block, group=group))  # type: ignore[arg-type]


def features(labels: Ints, block: int, group: Group) -> dict[int, tuple[object, ...]]:
    """Every feature by its first pixel: label, pixels, edge flag, exact geometry."""
    found: dict[int, tuple[object, ...]] = {}
    for batch in traced(labels, block, group):
        wkb = shapely.to_wkb(batch.to_geometry(PIXELS))
        for i in range(len(batch)):
            first = int(batch.first_px[i])
            assert first not in found, "a feature came out twice"
            found[first] = (
                int(batch.labels[i]),
                int(batch.area_px[i]),
                bool(batch.touches_edge[i]),
                wkb[i],
            )
    return found


def shapes(found: dict[int, tuple[object, ...]]) -> list[tuple[shapely.Geometry, int]]:
    return [(shapely.from_wkb(f[3]), int(f[0])) for f in found.values()]  # type: ignore[call-overload]


@st.composite
def noise(draw: st.DrawFn) -> Ints:
    """A map of random labels: the worst there is for saddles, holes and nodes."""
    shape = draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    low, high = draw(st.integers(-2, 0)), draw(st.integers(1, 5))
    seed = draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).integers(low, high + 1, shape).astype(np.int32)


def structured() -> dict[str, Ints]:
    """Maps with a point: rings in rings, row houses, a snake, a part of many blocks, one pixel."""
    nested = np.zeros((40, 44), np.int32)
    for i in range(0, 18, 3):
        nested[i : 40 - i, i : 44 - i] = i % 4 + 1
    rows = np.kron(np.arange(1, 31, dtype=np.int32).reshape(3, 10), np.ones((7, 4), np.int32))
    snake = np.zeros((33, 33), np.int32)
    snake[::4] = 9
    snake[2::8, :] = 9
    for i in range(0, 32, 4):
        snake[i : i + 4, 0 if i % 8 else -1] = 9
    checks = (np.indices((24, 24)).sum(axis=0) % 2 + 1).astype(np.int32)
    comb = np.zeros((30, 31), np.int32)
    comb[:, ::2] = 5
    comb[-1] = 5
    one = np.array([[7]], np.int32)
    large = np.full((20, 20), 2**31 - 1, np.int32)
    large[5:9, 5:9] = 2**31 - 2
    full = np.full((25, 25), 3, np.int32)
    return {
        "nested": nested,
        "rows": rows,
        "snake": snake,
        "checks": checks,
        "comb": comb,
        "one": one,
        "large": large,
        "full": full,
    }


STRUCTURED = structured()


@given(noise(), st.integers(1, 19), st.sampled_from(GROUPS))
def test_no_block_grid_changes_a_vertex(labels: Ints, block: int, group: Group) -> None:
    assert features(labels, block, group) == features(labels, 64, group)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", STRUCTURED)
def test_structured_maps_come_out_the_same_in_every_block_grid(name: str, group: Group) -> None:
    labels = STRUCTURED[name]
    whole = features(labels, 64, group)
    for block in (2, 3, 7, 13, 32):
        assert features(labels, block, group) == whole, block


@given(noise(), st.integers(1, 40), st.sampled_from(GROUPS))
def test_burnt_again_the_polygons_give_the_raster(labels: Ints, block: int, group: Group) -> None:
    found = shapes(features(labels, block, group))
    positive = np.maximum(labels, 0)
    if not found:
        assert not positive.any()
        return
    burnt = rasterio.features.rasterize(
        found, out_shape=labels.shape, transform=PIXELS, dtype="int32"
    )
    np.testing.assert_array_equal(burnt, positive)


@given(noise(), st.integers(1, 19), st.sampled_from(GROUPS))
def test_polygons_are_valid_and_leave_no_gap(labels: Ints, block: int, group: Group) -> None:
    found = features(labels, block, group)
    geometry = np.array([g for g, _ in shapes(found)], object)
    assert shapely.is_valid(geometry).all()
    assert not len(geometry) or shapely.coverage_is_valid(geometry)
    areas = [f[1] for f in found.values()]
    np.testing.assert_array_equal(shapely.area(geometry), areas)
    assert sum(areas) == np.count_nonzero(labels > 0)  # type: ignore[call-overload]


@given(noise(), st.integers(1, 19))
def test_outlines_are_gdals_where_no_node_is_added(labels: Ints, block: int) -> None:
    labels = np.maximum(labels, 0)
    ours = sorted(
        (label, shapely.normalize(shapely.simplify(g.geoms[0], 0)).wkt)
        for g, label in shapes(features(labels, block, "part"))
    )
    gdal = sorted(
        (int(label), shapely.normalize(shapely.simplify(shapely.geometry.shape(g), 0)).wkt)
        for g, label in rasterio.features.shapes(
            labels, mask=labels > 0, connectivity=4, transform=PIXELS
        )
    )
    assert ours == gdal


def test_of_a_single_label_the_outlines_are_gdals_to_the_vertex() -> None:
    labels = (np.random.default_rng(5).random((60, 70)) < 0.6).astype(np.int32)
    ours = [g.geoms[0] for g, _ in shapes(features(labels, 16, "part"))]
    gdal = [
        shapely.geometry.shape(g)
        for g, _ in rasterio.features.shapes(
            labels, mask=labels > 0, connectivity=4, transform=PIXELS
        )
    ]
    assert sorted(shapely.normalize(g).wkt for g in ours) == sorted(
        shapely.normalize(g).wkt for g in gdal
    )


def test_a_hole_that_touches_its_outer_ring_stays_a_ring_of_its_own() -> None:
    labels = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1]], np.int32)
    ((geometry, _),) = shapes(features(labels, 2, "id"))
    polygon = geometry.geoms[0]
    assert polygon.is_valid
    assert len(polygon.interiors) == 1
    assert polygon.area == 7


def test_an_id_of_several_parts_is_one_multipolygon() -> None:
    labels = np.zeros((9, 9), np.int32)
    labels[0:2, 0:2] = labels[5:9, 5:9] = labels[2, 2] = 4
    (batch,) = [b for b in traced(labels, 4, "id") if len(b)]
    assert batch.n_parts.tolist() == [3]
    assert batch.area_px.tolist() == [21]
    assert batch.n_vertices.tolist() == [12]


def test_things_and_stuff_traced_apart_share_every_vertex() -> None:
    rng = np.random.default_rng(3)
    schema = LabelSchema.default()
    semantic = np.kron(rng.integers(3, 8, (9, 9)), np.ones((5, 5))).astype(np.uint8)
    instance = np.zeros(semantic.shape, np.int32)
    instance[4:12, 3:9], instance[4:12, 9:14], instance[20:31, 20:40] = 1, 2, 3
    semantic[instance > 0] = 1
    semantic[40:, 40:] = 0
    semantic[33:36, 2:9] = 255
    things = features(thing_labels(semantic, instance), 16, "id")
    stuff = features(stuff_labels(semantic, instance, schema), 16, "part")
    both = np.array([g for g, _ in shapes(things) + shapes(stuff)], object)
    assert shapely.coverage_is_valid(both)
    assert shapely.area(both).sum() == np.count_nonzero((semantic > 0) & (semantic < 255))


def test_what_lies_beside_nothing_or_the_rim_touches_the_edge() -> None:
    labels = np.full((12, 12), -3, np.int32)
    labels[2:4, 2:4], labels[6:8, 6:8], labels[10:, 5:6], labels[8, 7] = 1, 2, 3, 0
    found = {f[0]: f[2] for f in features(labels, 5, "id").values()}
    assert found == {1: False, 2: True, 3: True}


def test_every_block_is_read_at_most_twice() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (50, 60)).astype(np.int32)
    times: dict[Window, int] = {}

    def read(window: Window) -> Ints:
        times[window] = times.get(window, 0) + 1
        return labels[window.slices]

    for _ in trace(read, labels.shape, 16, group="part"):  # type: ignore[arg-type]
        pass
    assert max(times.values()) == 2
    assert sum(w.area_px for w in times) == labels.size


def test_memory_is_that_of_blocks_not_of_the_scene() -> None:
    cell = np.ones((23, 23), np.int32)
    cell[3:9, 5:12] = 0
    cell[20:] = cell[:, 19:] = 0

    def houses(window: Window) -> Ints:
        rows, cols = np.ogrid[window.slices]
        label = (rows // 23) * 10_000 + cols // 23 + 1
        return (label * cell[rows % 23, cols % 23]).astype(np.int32)

    def peak(size: int) -> tuple[int, int]:
        tracemalloc.start()
        try:
            n = sum(len(batch) for batch in trace(houses, (size, size), 256, group="id"))
            return n, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(256)  # compiled code is loaded once
    (few, small), (many, large) = peak(768), peak(3072)
    assert many > 15 * few
    assert large < 2 * small, f"{small} bytes for {few} features, {large} for {many}"


@given(runs=st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 40)), min_size=1, max_size=30))
def test_a_line_is_kept_whole_and_never_takes_more_than_its_pixels(
    runs: list[tuple[int, int]],
) -> None:
    pixels = np.repeat(*np.array(runs, np.int32).T).astype(np.int32)
    kept = Line.of(pixels)
    assert np.array_equal(kept.pixels(), pixels)
    size = kept.values.nbytes + (0 if kept.counts is None else kept.counts.nbytes)
    assert size <= pixels.nbytes
    assert size <= 8 * len(runs)


def test_coordinates_come_from_whole_numbers_by_one_formula() -> None:
    labels = np.kron(np.arange(1, 7).reshape(2, 3), np.ones((11, 13))).astype(np.int32)
    transform = Affine(0.3, 0.01, 512345.6789, -0.02, -0.3, 6123456.789)
    for batch in traced(labels, 7, "id"):
        row, col = batch.coords.T.astype(float)
        x, y = GeoRef(None, transform, (1, 1)).xy(row, col)
        np.testing.assert_array_equal(batch.to_xy(transform), np.stack([x, y], axis=1))


@given(noise(), st.integers(1, 19), st.sampled_from(GROUPS))
def test_wkb_is_shapelys_byte_for_byte(labels: Ints, block: int, group: Group) -> None:
    transform = Affine(0.3, 0, 5e5, 0, -0.3, 6e6)
    for batch in traced(labels, block, group):
        data, offsets = batch.to_wkb(transform)
        ours = [data[a:b].tobytes() for a, b in pairwise(offsets)]
        assert ours == list(shapely.to_wkb(batch.to_geometry(transform), byte_order=1))


@given(noise(), st.data())
def test_taking_rows_of_a_batch_takes_their_geometry(labels: Ints, data: st.DataObject) -> None:
    for batch in traced(labels, 64, "id"):
        rows = np.array(data.draw(st.lists(st.integers(0, len(batch) - 1))), np.intp)
        taken = batch.take(rows)
        want = batch.to_geometry(PIXELS)[rows]
        assert shapely.to_wkb(taken.to_geometry(PIXELS)).tolist() == shapely.to_wkb(want).tolist()
        assert taken.n_vertices.tolist() == batch.n_vertices[rows].tolist()


# --- simplification -----------------------------------------------------------------------------


def simplified(labels: Ints, block: int, group: Group, area_px: float) -> npt.NDArray[np.object_]:
    batches = trace(
        reader(labels),
        labels.shape,
        block,
        group=group,
        simplify_px=lambda _: area_px,  # type: ignore[arg-type]
    )
    return np.array([g for b in batches for g in b.to_geometry(PIXELS)], object)


@st.composite
def coarse(draw: st.DrawFn) -> Ints:
    """Noise in cells of several pixels with specks on it: outlines with something to simplify."""
    labels = np.maximum(draw(noise()), 0)[:15, :15]
    labels = np.kron(labels, np.ones((draw(st.integers(1, 4)), draw(st.integers(1, 4))), np.int32))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    specks = rng.random(labels.shape) < draw(st.sampled_from([0.0, 0.05, 0.3]))
    return np.where(specks, rng.integers(0, 4, labels.shape), labels).astype(np.int32)


@given(coarse(), st.integers(1, 40), st.sampled_from(GROUPS), st.sampled_from([0.5, 1.0, 2.3, 9.0]))
def test_simplified_neighbours_still_share_their_edges(
    labels: Ints, block: int, group: Group, area_px: float
) -> None:
    found = simplified(labels, block, group, area_px)
    assert len(found) == len(features(labels, block, group))
    if not len(found):
        return
    assert shapely.is_valid(found).all()
    assert (shapely.area(found) > 0).all()
    assert shapely.coverage_is_valid(found)
    if (labels > 0).all():  # then they tile the scene
        assert shapely.area(found).sum() == pytest.approx(labels.size)


def winding() -> tuple[npt.NDArray[np.uint8], Ints]:
    """Classes with smooth borders, and round things among them."""
    rows, cols = np.indices((130, 150))
    waves = np.sin(rows / 11) + np.cos(cols / 13) + np.sin((rows + cols) / 17)
    semantic = np.digitize(waves, [-1.2, -0.3, 0.4, 1.2]).astype(np.uint8) + 3
    instance = np.zeros(semantic.shape, np.int32)
    for k, (r, c) in enumerate([(20, 20), (20, 37), (64, 70), (100, 40), (128, 128)]):
        instance[(rows - r) ** 2 + (cols - c) ** 2 < 81] = k + 1
    semantic[instance > 0] = 1
    return semantic, instance


@pytest.mark.parametrize("block", [40, 64, 200])
def test_simplified_layers_of_a_map_fit_together(block: int) -> None:
    semantic, instance = winding()
    things = simplified(thing_labels(semantic, instance), block, "id", 1.0)
    stuff = simplified(stuff_labels(semantic, instance, LabelSchema.default()), block, "part", 1.0)
    both = np.concatenate([things, stuff])
    assert shapely.coverage_is_valid(both)
    assert shapely.area(both).sum() == pytest.approx(semantic.size)


def test_simplification_does_as_well_as_geos_on_the_whole_scene() -> None:
    semantic, instance = winding()
    labels = stuff_labels(semantic, instance, LabelSchema.default())
    exact = np.array([g for g, _ in shapes(features(labels, 200, "part"))], object)
    ours, theirs = simplified(labels, 200, "part", 1.0), shapely.coverage_simplify(exact, 1.0)
    count = [shapely.get_num_coordinates(g).sum() for g in (exact, ours, theirs)]
    assert count[1] < 0.6 * count[0]
    assert count[1] < 1.2 * count[2]
    assert shapely.hausdorff_distance(
        shapely.union_all(shapely.boundary(exact)), shapely.union_all(shapely.boundary(ours))
    ) < 2.0  # fmt: skip


# --- measures -----------------------------------------------------------------------------------


def wkt(epsg: int) -> str:
    return pyproj.CRS(epsg).to_wkt()


def houses(x: float, y: float) -> npt.NDArray[np.object_]:
    """Rotated houses with and without a courtyard, 10 to 400 m long."""
    box = shapely.box(x, y, x + 40, y + 15)
    yard = shapely.difference(
        shapely.box(x, y + 100, x + 60, y + 140), shapely.box(x + 20, y + 110, x + 40, y + 130)
    )
    long = shapely.box(x, y + 300, x + 400, y + 310)
    two = shapely.MultiPolygon(
        [shapely.box(x, y, x + 5, y + 5), shapely.box(x + 9, y, x + 19, y + 5)]
    )
    turned = [
        shapely.affinity.rotate(g, a) for g, a in ((box, 30), (yard, -20), (long, 75), (two, 5))
    ]
    return np.array(turned, object)


@pytest.mark.parametrize("epsg", [3857, 4326])
@pytest.mark.parametrize(
    ("zone", "y"), [(32633, 6_650_000), (32645, 3_070_000), (32736, 9_800_000)]
)
def test_measures_are_the_same_in_utm_web_mercator_and_degrees(
    zone: int, y: float, epsg: int
) -> None:
    local = shapely.segmentize(houses(600_000, y), 10)
    change = pyproj.Transformer.from_crs(zone, epsg, always_xy=True)
    other = shapely.transform(local, lambda c: np.stack(change.transform(*c.T), axis=1))
    a, b = measure(local, wkt(zone)), measure(other, wkt(epsg))
    for name in ("area_m2", "perimeter_m", "compactness"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-5, err_msg=name)
    # a straight wall of 400 m in one projection bends by millimetres in another
    for name in ("length_m", "width_m"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=0.005, err_msg=name)
    np.testing.assert_allclose(a.azimuth_deg, b.azimuth_deg, atol=0.01)
    geod = pyproj.Geod(ellps="WGS84")
    to_degrees = pyproj.Transformer.from_crs(zone, 4326, always_xy=True)
    for i, house in enumerate(local):
        degrees = shapely.transform(house, lambda c: np.stack(to_degrees.transform(*c.T), axis=1))
        area, _ = geod.geometry_area_perimeter(degrees)
        perimeter = geod.geometry_length(degrees.boundary)  # holes included
        assert a.area_m2[i] == pytest.approx(abs(area), rel=1e-6)
        assert a.perimeter_m[i] == pytest.approx(perimeter, rel=1e-6)


@pytest.mark.parametrize(
    ("epsg", "step", "x", "y"),
    [
        (32633, 0.3, 600_000, 6_650_000),
        (3857, 0.149, 9_500_000, 3_200_000),
        (4326, 3e-6, 18.1, 59.3),
        (4326, 1e-3, -60.0, 70.0),
    ],
)
def test_pixels_measure_what_their_geometry_measures(
    epsg: int, step: float, x: float, y: float
) -> None:
    labels = np.random.default_rng(2).integers(0, 3, (40, 50)).astype(np.int32)
    georef = GeoRef(wkt(epsg), Affine(step, 0, x, 0, -step, y), labels.shape)  # type: ignore[arg-type]
    for batch in traced(labels, 64, "part"):
        ours = measure_pixels(batch, MetreMap.of(georef))
        theirs = measure(batch.to_geometry(georef.transform), georef.crs)
        for name in ("area_m2", "perimeter_m", "compactness"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=2e-5)
        # several rectangles may be smallest, so compare their area
        a, b = ours.length_m * ours.width_m, theirs.length_m * theirs.width_m
        np.testing.assert_allclose(a, b, rtol=2e-5)
        np.testing.assert_array_equal(ours.n_vertices, theirs.n_vertices)
        np.testing.assert_array_equal(ours.n_parts, theirs.n_parts)


def test_without_a_crs_metres_are_unknown_not_wrong() -> None:
    labels = np.ones((4, 4), np.int32)
    (batch,) = traced(labels, 4, "id")
    for m in (measure_pixels(batch, None), measure(batch.to_geometry(PIXELS), None)):
        assert np.isnan(m.area_m2).all()
        assert np.isnan(m.length_m).all()
        assert m.compactness[0] == pytest.approx(np.pi / 4)
        assert m.n_vertices.tolist() == [4]


def test_azimuth_is_counted_clockwise_from_north() -> None:
    north = shapely.box(600_000, 6_650_000, 600_010, 6_650_100)
    tilted = shapely.affinity.rotate(north, -30)  # 30 degrees clockwise
    found = measure(np.array([north, tilted], object), wkt(32633)).azimuth_deg
    # grid north of UTM 33 at 16.8 degrees east lies 1.5 degrees clockwise of true north
    assert found[1] - found[0] == pytest.approx(30.0, abs=0.01)
    assert found[0] == pytest.approx(1.55, abs=0.1)
