"""What became of every object: laws on random sets, and the cases that others published."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from objects import (
    case_map,
    case_objects,
    case_pair,
    expected_of,
    object_set,
    object_sets,
    outlines,
    placed,
    told,
)
from shapely.affinity import translate

from geopanoptic.change.compare import compare_objects
from geopanoptic.change.geometry import moved_by
from geopanoptic.change.object_files import ObjectFields, in_crs_of, map_objects, read_objects
from geopanoptic.change.object_notes import object_notes
from geopanoptic.change.objects import STATUSES, Common, Events, ObjectRules, ObjectSet
from geopanoptic.change.observed import observe
from geopanoptic.change.offset import OffsetRules, fine_offset
from geopanoptic.change.outlines import Outlines
from geopanoptic.change.relate import relate
from geopanoptic.change.settings import ChangeSettings
from geopanoptic.errors import SceneError

RULES = ObjectRules()
MIRROR = {"added": "removed", "grown": "shrunk", "split": "merged"}
MIRROR |= {v: k for k, v in MIRROR.items()}
CHANGE_CASES = ("base", "cloud", "geographic_45n", "identity", "mirrored", "misregistered",
                "other_crs", "web_mercator_60n")  # fmt: skip


def status_of_one(before: shapely.Geometry, after: shapely.Geometry, **rules: float) -> str:
    """Return the status when each date has one object."""
    events = relate(object_set([before]), object_set([after], 101), replace(RULES, **rules))
    return ",".join(events.status)


# ---- laws


@given(object_sets(), object_sets(101))
def test_every_object_is_in_exactly_one_event(before: ObjectSet, after: ObjectSet) -> None:
    events = relate(before, after, RULES)
    n = len(events)
    for event, count, ids, objects in (
        (events.event_of_before, "n_before", "before_ids", before),
        (events.event_of_after, "n_after", "after_ids", after),
    ):
        assert np.array_equal(np.bincount(event, minlength=n + 1)[1:], events.columns[count])
        named = [i for text in events.columns[ids] if text is not None for i in text.split(";")]
        assert sorted(named) == sorted(map(str, objects.ids))
    assert np.array_equal(events.columns["event_id"], np.arange(1, n + 1))
    assert set(events.status) <= set(STATUSES)
    for e, b, a in zip(events.links.event_id, events.links.before, events.links.after, strict=True):
        assert events.event_of_before[b] == events.event_of_after[a] == e


@given(object_sets())
def test_an_unchanged_date_has_unchanged_events_only(objects: ObjectSet) -> None:
    for rules in (RULES, ObjectRules(link=0.1), ObjectRules(tolerance_m=0.0)):
        events = relate(objects, objects, rules)
        assert set(events.status) <= {"unchanged"}
        assert len(events) == len(objects)
        assert np.allclose(events.columns["iou"], 1.0)
        assert np.allclose(events.columns["gained_m2"], 0.0, atol=1e-6)


@given(object_sets(), object_sets(101), st.booleans())
def test_exchanging_the_dates_gives_the_mirror_image(
    before: ObjectSet, after: ObjectSet, linz: bool
) -> None:
    rules = ObjectRules.linz() if linz else RULES
    there, back = relate(before, after, rules), relate(after, before, rules)
    mirrored = {(MIRROR.get(s, s), a, b) for s, b, a in told(there)}
    assert mirrored == told(back)
    for one, other in (("gained_m2", "lost_m2"), ("area_before_m2", "area_after_m2"),
                       ("overlap_m2", "overlap_m2"), ("shift_m", "shift_m"),
                       ("confidence", "confidence"), ("iou_aligned", "iou_aligned")):  # fmt: skip

        def by_event(e: Events, name: str, ids: tuple[str, str]) -> dict[tuple[object, ...], float]:
            keys = zip(e.columns[ids[0]], e.columns[ids[1]], strict=True)
            return dict(zip(keys, e.columns[name].tolist(), strict=True))

        x = by_event(there, one, ("before_ids", "after_ids"))
        y = by_event(back, other, ("after_ids", "before_ids"))
        assert x.keys() == y.keys()
        assert all(x[k] == pytest.approx(y[k], nan_ok=True, abs=1e-6) for k in x)


@given(object_sets(), object_sets(101), st.randoms())
def test_the_order_of_rows_and_the_names_of_objects_change_nothing_else(
    before: ObjectSet, after: ObjectSet, random: object
) -> None:
    events = relate(before, after, RULES)
    order = list(range(len(before)))
    random.shuffle(order)  # type: ignore[attr-defined]
    again = relate(before.take(np.array(order, int)), after, RULES)
    for name, values in events.columns.items():
        assert (
            values.tolist() == pytest.approx(again.columns[name].tolist(), nan_ok=True)
            if values.dtype.kind == "f"
            else np.array_equal(values, again.columns[name])
        )
    renamed = replace(before, ids=np.array([f"b{i:02d}" for i in before.ids], object))
    other = relate(renamed, after, RULES)
    assert events.status.tolist() == other.status.tolist()
    assert np.array_equal(events.event_of_after, other.event_of_after)


@given(object_sets(), object_sets(101))
def test_areas_of_an_event_add_up(before: ObjectSet, after: ObjectSet) -> None:
    c = relate(before, after, RULES).columns
    assert c["area_before_m2"].sum() == pytest.approx(before.area_m2.sum())
    assert c["area_after_m2"].sum() == pytest.approx(after.area_m2.sum())
    assert np.allclose(c["overlap_m2"] + c["gained_m2"], c["area_after_m2"])
    assert np.allclose(c["overlap_m2"] + c["lost_m2"], c["area_before_m2"])
    assert np.allclose(c["delta_m2"], c["gained_m2"] - c["lost_m2"])


def hide(objects: ObjectSet, clouds: list[shapely.Geometry]) -> ObjectSet:
    """Return what a raster of that date holds when nodata lies over it: objects are cut off."""
    cloud = shapely.union_all(np.array(clouds, object))
    cut = shapely.difference(objects.geometry, cloud)
    left = shapely.area(cut) > 1e-6
    touched = shapely.distance(cut, cloud) < 1e-6
    area = objects.area_m2 * shapely.area(cut) / shapely.area(objects.geometry)
    hidden = replace(
        objects, geometry=cut, area_m2=area, touches_edge=objects.touches_edge | touched
    )
    return hidden.take(left)


def apart(shapes: list[shapely.Geometry]) -> list[shapely.Geometry]:
    """Return the shapes without what they share with earlier ones, as the objects of a raster."""
    made: list[shapely.Geometry] = []
    for shape in shapes:
        left = shape.difference(shapely.union_all(made)) if made else shape
        if left.area > 1:
            made.append(left)
    return made


@given(outlines(), outlines(), outlines(), st.booleans())
def test_more_nodata_creates_nothing_added_or_removed(
    one: list[shapely.Geometry],
    two: list[shapely.Geometry],
    clouds: list[shapely.Geometry],
    over_before: bool,
) -> None:
    before, after = object_set(apart(one)), object_set(apart(two), 101)
    clear = relate(before, after, RULES)
    if not clouds:
        return
    over = placed(np.array(clouds, object))
    common = Common(hidden=over)
    if over_before:
        hidden = relate(
            hide(before, list(over)), observed := observe(after, common, "after"), RULES, common
        )
        assert len(observed) == len(after)
    else:
        hidden = relate(observe(before, common, "before"), hide(after, list(over)), RULES, common)
    was = {}
    for status, b, a in told(clear):
        was |= {("b", i): status for i in (b or "").split(";")}
        was |= {("a", i): status for i in (a or "").split(";")}
    cloudy = hidden.columns
    for k in np.flatnonzero(np.isin(hidden.status, ["added", "removed"])):
        ids = cloudy["before_ids"][k] or cloudy["after_ids"][k]
        date = "b" if cloudy["before_ids"][k] else "a"
        if was[(date, ids)] != hidden.status[k]:
            # All that the other date had of it lies under the cloud, and most of it was seen.
            assert cloudy["partly_observed"][k], (ids, was[(date, ids)])


@given(object_sets(), object_sets(101), st.sampled_from((4326, 3857, 32632, 2154)))
def test_reprojecting_both_dates_keeps_statuses_and_areas(
    before: ObjectSet, after: ObjectSet, epsg: int
) -> None:
    # odd places and thresholds, so that no figure lies on one: UTM's metre is 1 in 2500 too long
    after = after.moved(0.137, 0.071)
    odd = ObjectRules(0.4831, tolerance_m=1.0171, iou=0.6137, ratio=1.2531,
                      max_object_shift_m=2.9173, same_place_iou=0.3127)  # fmt: skip
    crs = pyproj.CRS.from_epsg(epsg).to_wkt()
    here = relate(before, after, odd)
    there = relate(in_crs_of(before, crs), in_crs_of(after, crs), odd)
    assert told(here) == told(there)
    for name in ("area_before_m2", "overlap_m2", "gained_m2"):
        assert np.allclose(here.columns[name], there.columns[name], rtol=1e-3, atol=1e-2)
    assert np.allclose(here.columns["shift_m"], there.columns["shift_m"], atol=0.02, equal_nan=True)


@given(outlines(), st.integers(0, 2**16))
def test_jitter_within_the_tolerance_is_no_change(
    shapes: list[shapely.Geometry], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    lots = [translate(s, 60.0 * k) for k, s in enumerate(shapes)]
    moved = [shapely.transform(s, lambda xy: xy + rng.uniform(-0.7, 0.7, 2)) for s in lots]
    events = relate(object_set(lots), object_set(moved, 101), RULES)
    assert set(events.status) <= {"unchanged"}


@given(outlines(), outlines())
def test_shared_areas_are_those_of_geos(
    one: list[shapely.Geometry], two: list[shapely.Geometry]
) -> None:
    left = np.array([*one, shapely.MultiPolygon(), shapely.box(0, 0, 40, 40)
                     - shapely.box(5, 5, 20, 20)], object)  # fmt: skip
    pair = shapely.MultiPolygon([shapely.box(0, 0, 9, 9), shapely.box(12, 12, 30, 30)])
    right = np.array([*two, pair], object)
    i, j = (k.ravel() for k in np.meshgrid(np.arange(len(left)), np.arange(len(right))))
    step = np.tile([[0.3, -0.7]], (len(i), 1))
    moved = np.array([translate(g, 0.3, -0.7) for g in right], object)
    found = Outlines.of(left).shared(i, Outlines.of(right), j, step)
    assert np.allclose(found, shapely.area(shapely.intersection(left[i], moved[j])), atol=1e-8)


# ---- single decisions

HOUSE = shapely.box(0, 0, 10, 10)


@pytest.mark.parametrize(
    ("after", "status"),
    [
        (shapely.box(0, 0, 10, 10), "unchanged"),
        (shapely.box(0.9, 0.4, 10.9, 10.4), "unchanged"),  # moved by the tolerance
        (shapely.box(2, 1.5, 12, 11.5), "unchanged"),  # a leaning roof
        (shapely.box(-0.9, -0.9, 10.9, 10.9), "unchanged"),  # drawn thicker, ratio 1.4
        (shapely.box(0, 0, 10, 17.5), "grown"),
        (shapely.box(0, 0, 10, 5), "shrunk"),
        (shapely.box(0, 0, 20, 5), "modified"),
        (shapely.box(20, 0, 30, 10), "removed,added"),
        (shapely.box(8, 0, 18, 10), "removed,added"),
    ],
)
def test_one_object_that_became_one(after: shapely.Geometry, status: str) -> None:
    assert status_of_one(HOUSE, after) == status


def test_the_thresholds_decide() -> None:
    longer = shapely.box(0, 0, 10, 13)
    assert status_of_one(HOUSE, longer) == "grown"
    assert status_of_one(HOUSE, longer, ratio=1.4) == "unchanged"
    assert status_of_one(HOUSE, longer, tolerance_m=3.1) == "unchanged"
    leaning = shapely.box(3, 0, 13, 10)
    assert status_of_one(HOUSE, leaning) == "unchanged"
    assert status_of_one(HOUSE, leaning, max_object_shift_m=2.0) == "modified"
    beside = shapely.box(7, 0, 17, 10)
    assert status_of_one(HOUSE, beside) == "removed,added"
    assert status_of_one(HOUSE, beside, link=0.25) == "modified"


def test_a_car_that_moved_by_less_than_the_tolerance_is_the_same_car() -> None:
    car, moved = shapely.box(0, 0, 1.5, 4), shapely.box(0.9, 0, 2.4, 4)
    assert status_of_one(car, moved) == "unchanged"
    assert status_of_one(car, moved, near=False) == "removed,added"


def test_split_merged_and_complex_are_named() -> None:
    halves = [shapely.box(0, 0, 4.5, 10), shapely.box(5.5, 0, 10, 10)]
    slices = [shapely.box(0, 0, 10, 4.5), shapely.box(0, 5.5, 10, 10)]
    assert told(relate(object_set([HOUSE]), object_set(halves, 101), RULES)) == {
        ("split", "1", "101;102")
    }
    assert told(relate(object_set(halves), object_set([HOUSE], 101), RULES)) == {
        ("merged", "1;2", "101")
    }
    assert told(relate(object_set(halves), object_set(slices, 101), ObjectRules(link=0.4))) == {
        ("complex", "1;2", "101;102")
    }


def test_another_class_in_the_same_place_is_reclassified_unless_compatible() -> None:
    other = {"class_names": np.array(["site"], object)}
    before, after = object_set([HOUSE]), object_set([shapely.box(0, 0, 10, 11)], 101, **other)
    assert told(relate(before, after, RULES)) == {("reclassified", "1", "101")}
    joined = ObjectRules(compatible=(("building", "site"),))
    assert told(relate(before, after, joined)) == {("unchanged", "1", "101")}


def test_a_car_on_the_ground_of_a_new_house_is_not_reclassified() -> None:
    car = {"class_names": np.array(["vehicle"], object)}
    before, after = object_set([shapely.box(3, 3, 5, 8)], **car), object_set([HOUSE], 101)
    assert told(relate(before, after, RULES)) == {("removed", "1", None), ("added", None, "101")}


def test_an_object_most_of_which_was_not_seen_is_unobserved() -> None:
    for share, status in ((0.0, "unobserved"), (0.4, "unobserved"), (0.8, "removed")):
        events = relate(object_set([HOUSE], observed=np.array([share])), object_set([]), RULES)
        assert events.status.tolist() == [status]
        assert events.columns["partly_observed"].tolist() == [share == 0.8]


def test_the_observed_part_decides() -> None:
    cloud = placed(shapely.box(6, -5, 20, 20))
    common = Common(hidden=np.array([cloud], object))
    before = observe(object_set([HOUSE]), common, "before")
    assert before.observed[0] == pytest.approx(0.6)
    after = object_set([shapely.box(0, 0, 6, 10)], 101, touches_edge=np.array([True]))
    events = relate(before, after, RULES, common)
    assert events.status.tolist() == ["unchanged"]
    assert events.columns["partly_observed"].tolist() == [True]
    assert events.columns["iou"][0] == pytest.approx(1.0)


def test_what_a_cloud_cut_off_a_house_is_not_a_new_house() -> None:
    # the old part lies under the cloud of the after date, the extension beside it is seen
    cloud = placed(shapely.box(-5, -5, 10, 20))
    common = Common(hidden=np.array([cloud], object))
    before = observe(object_set([HOUSE]), common, "before")
    after = object_set([shapely.box(10, 0, 18, 10)], 101, touches_edge=np.array([True]))
    assert told(relate(before, after, RULES, common)) == {("unobserved", "1", "101")}


def test_small_events_are_below_the_mapping_unit_and_out_of_the_counts() -> None:
    events = relate(
        object_set([HOUSE]), object_set([shapely.box(50, 0, 52, 2)], 101), ObjectRules(mmu_m2=20.0)
    )
    assert events.columns["below_mmu"].tolist() == [False, True]
    assert events.counts()["added"] == 0
    assert events.counts(below_mmu=True)["added"] == 1


def test_confidence_is_the_product_of_its_factors() -> None:
    before = object_set([HOUSE], scores=np.array([0.9]))
    after = object_set([shapely.box(8, 0, 18, 10)], 101, scores=np.array([0.7]))
    c = relate(before, after, RULES).columns
    # 20 % of the house lie under another one of score 0.7: 0.4 of the way to the threshold of 0.5
    assert c["confidence"][0] == pytest.approx(0.9 * (1 - 0.7) * 1.0 * (0.5 + 0.5 * 0.6), rel=1e-3)
    assert np.isnan(relate(object_set([HOUSE]), after, RULES).columns["confidence"][0])


def test_ids_of_text_are_carried_through() -> None:
    before = object_set([HOUSE], 0, ids=np.array(["DE-7/a"], object))
    after = object_set([HOUSE], 0, ids=np.array(["x"], object))
    assert told(relate(before, after, RULES)) == {("unchanged", "DE-7/a", "x")}


def test_an_id_that_occurs_twice_and_unequal_crs_are_refused() -> None:
    twice = object_set([HOUSE, shapely.box(20, 0, 25, 5)], ids=np.array([7, 7]))
    with pytest.raises(SceneError, match="id 7 occurs 2 times in the before objects"):
        relate(twice, object_set([]), RULES)
    with pytest.raises(SceneError, match="different CRSs"):
        relate(object_set([HOUSE]), object_set([HOUSE], crs=None), RULES)


# ---- offset


@given(st.integers(-80, 80), st.integers(-80, 80), st.integers(0, 2**16))
def test_the_offset_of_two_dates_is_found_from_their_objects(dx: int, dy: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lots = [
        shapely.box(x, y, x + rng.uniform(5, 12), y + rng.uniform(5, 12))
        for x in range(0, 150, 30) for y in range(0, 150, 30)
    ]  # fmt: skip
    step = np.array([dx / 10, dy / 10])
    later = [shapely.transform(s, lambda xy: xy + step) for s in lots[:-5]]
    later += [shapely.box(-40, 0, -30, 9)]
    before, after = object_set(lots), object_set(later, 101)
    limits = OffsetRules(max_shift_m=12.0, pixel_m=0.5)
    found = fine_offset(before, after, RULES, limits)
    assert (found.dx, found.dy) == pytest.approx(tuple(step), abs=0.02)
    assert found.applied == (np.hypot(*step) > 0.125)
    back = fine_offset(after, before, RULES, limits)
    assert (back.dx, back.dy) == pytest.approx((-found.dx, -found.dy), abs=0.02)


def test_no_offset_is_taken_off_where_nothing_agrees() -> None:
    assert not fine_offset(object_set([HOUSE]), object_set([]), RULES).applied
    few = fine_offset(object_set([HOUSE]), object_set([shapely.box(1, 0, 11, 10)], 101), RULES)
    assert not few.applied
    assert "only 1 objects" in few.reason


# ---- files


def test_vector_layers_are_read_with_their_ids(tmp_path: Path) -> None:
    import geopandas

    shapes = [HOUSE, shapely.box(20, 0, 30, 5), None]
    frame = geopandas.GeoDataFrame(
        {"gid": ["a", "b", "c"], "id": [5, 3, 9], "class": ["x", "y", "x"], "score": [0.5, 1, 0]},
        geometry=shapes, crs=32631,
    )  # fmt: skip
    for suffix in ("gpkg", "fgb"):
        path = tmp_path / f"houses.{suffix}"
        frame.dropna().to_file(path) if suffix == "fgb" else frame.to_file(path)
        got = read_objects(path)
        assert sorted(got.ids.tolist()) == [3, 5]
        assert set(got.class_names.tolist()) == {"x", "y"}
        assert got.crs is not None
        assert set(read_objects(path, ObjectFields(id_field="gid")).ids) == {"a", "b"}
    anonymous = frame[["geometry"]].dropna()
    anonymous.to_file(tmp_path / "anonymous.gpkg")
    assert read_objects(tmp_path / "anonymous.gpkg").ids.tolist() == [1, 2]
    assert read_objects(tmp_path / "houses.gpkg", ObjectFields(id_field="fid")).ids.tolist() == [
        1,
        2,
    ]
    with pytest.raises(SceneError, match=r"no attribute 'gidd'.*'gid'"):
        read_objects(tmp_path / "houses.gpkg", ObjectFields(id_field="gidd"))
    frame.assign(id=[1, 1, 2]).to_file(tmp_path / "twice.gpkg")
    with pytest.raises(SceneError, match="2 objects share their 'id'"):
        read_objects(tmp_path / "twice.gpkg")


def test_bad_outlines_are_repaired_on_reading(tmp_path: Path) -> None:
    import geopandas

    bow = shapely.force_3d(shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)]), 5.0)
    path = tmp_path / "bow.gpkg"
    geopandas.GeoDataFrame({"id": [1]}, geometry=[bow], crs=32631).to_file(path)
    got = read_objects(path)
    assert shapely.is_valid(got.geometry).all()
    assert shapely.area(got.geometry[0]) == pytest.approx(50.0)
    assert not shapely.has_z(got.geometry).any()


@pytest.mark.parametrize("dataset", [1, 2])
def test_links_are_those_of_land_information_new_zealand(shared: Path, dataset: int) -> None:
    folder = shared / "reference" / "linz_cases" / f"dataset_{dataset}"
    expected = expected_of(folder)["expected"]
    before, after = (read_objects(folder / f"{d}.gpkg") for d in ("before", "after"))

    def links(events: Events) -> set[tuple[int, int]]:
        pairs = zip(events.links.before, events.links.after, strict=True)
        return {(int(before.ids[b]), int(after.ids[a])) for b, a in pairs}

    exact = relate(before, after, ObjectRules.linz())
    matched, related = ({(int(b), int(a)) for b, a in expected[k]} for k in ("matched", "related"))
    assert links(exact) == matched | related
    one_to_one = (exact.columns["n_before"] == 1) & (exact.columns["n_after"] == 1)
    pairs = zip(exact.columns["before_ids"], exact.columns["after_ids"], strict=True)
    found = {(int(b), int(a)) for (b, a), one in zip(pairs, one_to_one, strict=True) if one}
    assert found == matched
    status = exact.status_of(exact.event_of_before)
    assert sorted(before.ids[status == "removed"].tolist()) == sorted(expected["removed"])
    status = exact.status_of(exact.event_of_after)
    assert sorted(after.ids[status == "added"].tolist()) == sorted(expected["added"])
    default = links(relate(before, after, RULES))
    assert len(default & (matched | related)) >= 0.95 * len(matched | related)
    assert default <= matched | related


@pytest.mark.parametrize("case", CHANGE_CASES)
def test_statuses_of_change_cases_are_those_they_were_built_with(shared: Path, case: str) -> None:
    folder = shared / "reference" / "change_cases" / case
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    before, after, common = case_pair(folder)
    events = relate(before, after, RULES, common)

    def text(ids: list[int]) -> str | None:
        return ";".join(map(str, sorted(ids))) or None

    listed = expected_of(folder)["events"]
    expected, left_out = (
        {(e["status"], text(e["before_ids"]), text(e["after_ids"])) for e in listed
         if e.get("judge", True) is judged}
        for judged in (True, False)
    )  # fmt: skip
    assert expected <= told(events)
    ids = {i for _, *both in left_out for t in both if t for i in t.split(";")}
    more = told(events) - expected
    assert all(set((b or a or "").split(";")) <= ids for _, b, a in more)


def test_the_offset_of_the_misregistered_case_is_found(shared: Path) -> None:
    folder = shared / "reference" / "change_cases" / "misregistered"
    before, after = (case_objects(folder, d)[0] for d in ("before", "after"))
    found = fine_offset(before, after, RULES, OffsetRules(pixel_m=0.5))
    assert (found.dx, found.dy) == pytest.approx((1.5, 1.0), abs=0.1)
    assert found.applied


def test_things_of_a_map_are_traced_exactly(shared: Path) -> None:
    folder = shared / "reference" / "change_cases" / "base"
    panoptic = case_map(folder, "before")
    objects = map_objects(panoptic)
    table = panoptic.segment_table.things
    assert objects.ids.tolist() == sorted(table.id.tolist())
    area_px = dict(zip(table.id.tolist(), table.area_px.tolist(), strict=True))
    assert np.allclose(shapely.area(objects.geometry), [0.25 * area_px[i] for i in objects.ids])


def test_destroyed_houses_of_joplin_come_out_removed(shared: Path) -> None:
    import geopandas

    path = shared / "data" / "change_joplin_2011_west" / "buildings_t1_t2_model.gpkg"
    before = read_objects(path, ObjectFields(id_field="inst"))
    stands = geopandas.read_file(path)["damage"].to_numpy() < 4
    # drawn anew at the second date: fewer corners, and each house up to 0.7 m elsewhere
    rng = np.random.default_rng(0)
    after = before.take(stands)
    step = rng.uniform(-0.5, 0.5, (len(after), 2))
    noisy = moved_by(shapely.simplify(after.geometry, 0.7), step)
    for geometry in (after.geometry, shapely.make_valid(noisy)):
        events = relate(before, replace(after, geometry=geometry), RULES)
        status = events.status_of(events.event_of_before)
        for truth, found in (
            (~stands, status == "removed"),
            (stands, np.isin(status, ["unchanged", "modified"])),
        ):
            both = (truth & found).sum()
            assert 2 * both / (truth.sum() + found.sum()) >= 0.95


def test_a_reader_is_told_of_classes_and_extents_that_do_not_meet() -> None:
    far = [HOUSE, shapely.box(500, 0, 510, 10)]
    before = object_set([HOUSE])
    events = relate(before, after := object_set(far, 101), RULES)
    (note,) = object_notes(before, after, events, (0.0, 0.0))
    assert note.startswith("1 of 1 added objects lie outside the bounding box of the before layer")
    renamed = object_set([HOUSE], 101, class_names=np.array(["Gebaeude"], object))
    (note,) = object_notes(before, renamed, relate(before, renamed, RULES), (0.0, 0.0))
    assert "no class name in common (before: building; after: Gebaeude)" in note
    unnamed = object_set([HOUSE], 101, class_names=np.array(["object"], object))
    assert object_notes(before, unnamed, relate(before, unnamed, RULES), (0.0, 0.0)) == ()
    assert told(relate(before, unnamed, RULES)) == {("unchanged", "1", "101")}


def test_an_id_attribute_of_one_file_serves_there(tmp_path: Path) -> None:
    import geopandas

    frame = geopandas.GeoDataFrame({"gid": ["x"]}, geometry=[HOUSE], crs=32631)
    frame.to_file(tmp_path / "a.gpkg")
    frame[["geometry"]].to_file(tmp_path / "b.gpkg")
    paths = tmp_path / "a.gpkg", tmp_path / "b.gpkg"
    found = compare_objects(*paths, ChangeSettings(id_field="gid"))
    assert told(found.events) == {("unchanged", "x", "1")}
    with pytest.raises(SceneError, match="no attribute 'gidd'"):
        compare_objects(*paths, ChangeSettings(id_field="gidd"))


@pytest.mark.parametrize("date", ["before", "after"])
def test_clouds_over_either_map_create_nothing_added_or_removed(
    shared: Path, tmp_path: Path, date: str
) -> None:
    import shutil

    import rasterio

    source = shared / "reference" / "change_cases" / "base"
    folder = tmp_path / "cloudy"
    shutil.copytree(source, folder)
    before, after, common = case_pair(source)
    was: dict[tuple[str, str], str] = {}
    for status, b, a in told(relate(before, after, RULES, common)):
        was |= {("b", i): status for i in (b or "").split(";")}
        was |= {("a", i): status for i in (a or "").split(";")}
    clouds = np.random.default_rng(7).integers([0, 0, 4, 4], [560, 560, 60, 60], (40, 4))
    for name in ("id", "class"):
        with rasterio.open(folder / f"{date}_{name}.tif", "r+") as file:
            pixels = file.read(1)
            for row, col, height, width in clouds:
                pixels[row : row + height, col : col + width] = 0
            file.write(pixels, 1)
    cloudy = relate(*(pair := case_pair(folder))[:2], RULES, pair[2])
    seen = set()
    for status, b, a in told(cloudy):
        seen.add(status)
        if status in ("added", "removed"):
            key = ("b", b) if b is not None else ("a", str(a))
            assert was[key] == status, f"{key} was {was[key]}"
    assert "unobserved" in seen
