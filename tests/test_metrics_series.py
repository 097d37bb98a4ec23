"""SCOT, VPQ and STQ: equal to the references, and their laws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geopanoptic.evaluate import EvaluateSettings, evaluate
from geopanoptic.metrics import (
    ClassCode,
    CountedDate,
    DateObjects,
    PanopticCount,
    Rules,
    Scot,
    Sides,
    TubeOverlap,
    match_objects,
    quality_of,
    scot,
    stq,
    vpq,
)

EXACT = 1e-12


# --- references ----------------------------------------------------------------------------------


def cases(shared: Path, kind: str) -> list[Path]:
    folder = shared / "reference" / kind
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return sorted(p for p in folder.iterdir() if p.is_dir())


@pytest.mark.parametrize("suffix", ["csv", "geojson"])
def test_scot_of_polygons_is_that_of_solaris(shared: Path, suffix: str) -> None:
    for case in cases(shared, "scot_cases"):
        truth = json.loads((case / "expected.json").read_text())
        got = evaluate(
            case / f"proposal.{suffix}",
            case / f"truth.{suffix}",
            EvaluateSettings(series=True, metrics=("f1",)),
        )["series"]
        assert got["scot"] == pytest.approx(truth["scot"], abs=EXACT), case.name
        for aoi, row in truth["per_aoi"].items():
            mine = got["per_aoi"][aoi]
            assert {k: mine[k] for k in row} == pytest.approx(row, abs=EXACT), (case.name, aoi)
        for key, row in truth["per_timestep"].items():
            wanted = {k: v for k, v in row.items() if k != "matches"}
            mine = got["per_timestep"][key]
            assert {k: mine[k] for k in wanted} == pytest.approx(wanted, abs=EXACT), case.name


def objects_of_labels(truth: Any, pred: Any) -> DateObjects:
    """Read one date from two label rasters, 0 = nothing."""
    both, n = np.unique(np.stack([truth.ravel(), pred.ravel()]), axis=1, return_counts=True)
    area = [dict(zip(*np.unique(a, return_counts=True), strict=True)) for a in (truth, pred)]
    rows = np.flatnonzero((both > 0).all(axis=0))
    t, p = both[0][rows].astype(np.int64), both[1][rows].astype(np.int64)
    union = np.array([area[0][a] + area[1][b] for a, b in zip(t, p, strict=True)]) - n[rows]
    ids = [np.array(sorted(k for k in a if k), np.int64) for a in area]
    return DateObjects(ids[0], ids[1], t, p, n[rows] / union if len(rows) else np.zeros(0))


def test_scot_of_rasters_matches_the_same_objects_as_solaris(shared: Path) -> None:
    for case in cases(shared, "scot_cases"):
        truth = json.loads((case / "expected.json").read_text())
        maps = np.load(case / "labels.npz")
        for aoi, row in truth["per_aoi"].items():
            dates = sorted(int(k.rpartition("/")[2]) for k in truth["per_timestep"]
                           if k.startswith(f"{aoi}/"))  # fmt: skip
            found = scot(
                [
                    objects_of_labels(maps[f"truth_{aoi}_{d}"], maps[f"proposal_{aoi}_{d}"])
                    for d in dates
                ]
            )
            assert found.scot == pytest.approx(row["scot"], abs=EXACT), case.name
            for d, (t, p) in zip(dates, found.matched, strict=True):
                wanted = truth["per_timestep"][f"{aoi}/{d}"]["matches"]
                assert [list(x) for x in zip(t.tolist(), p.tolist(), strict=True)] == wanted


def dates_of(case: Path) -> tuple[list[CountedDate], int]:
    maps, tables = np.load(case / "maps.npz"), json.loads((case / "segments.json").read_text())
    ids = [c["id"] for c in tables["categories"]]
    things = frozenset(c["id"] for c in tables["categories"] if c["isthing"])
    code = ClassCode.of({k: k for k in ids}, ids, (0, 255))
    sides, dates = Sides(code, code, max(ids)), []
    for d in range(len(tables["dates"])):
        pair, crowd = [], []
        for side in ("gt", "pred"):
            labels = maps[f"{side}_{d}"].astype(np.int32)
            look = np.zeros(int(labels.max()) + 1, np.uint8)
            for segment in tables[side][d]:
                look[segment["id"]] = segment["category_id"]
            pair.append((look[labels], labels))
            crowd.append(frozenset(s["id"] for s in tables[side][d] if s.get("iscrowd")))
        rules = Rules(things=things, truth_crowd=crowd[0])
        dates.append(CountedDate(PanopticCount.of(pair[0], pair[1], sides), rules))
    return dates, max(ids)


def test_vpq_is_that_of_vps(shared: Path) -> None:
    for case in cases(shared, "track_cases"):
        truth = json.loads((case / "expected.json").read_text())["vpq"]
        dates, n = dates_of(case)
        found = vpq(dates, n, 4)
        assert found.mean("all") == pytest.approx(truth["mean_over_windows"], abs=EXACT)
        for k, window in enumerate(found.windows, 1):
            wanted = truth[f"window_{k}"]
            for name, group in (("All", "all"), ("Things", "things"), ("Stuff", "stuff")):
                mean = getattr(window, group)
                got = {"pq": mean.pq, "sq": mean.sq, "rq": mean.rq, "n": mean.n}
                assert got == pytest.approx(wanted["results"][name], abs=EXACT), (case.name, k)
            for c, row in wanted["stats"].items():
                q = window.per_class[int(c)]
                assert (q.tp, q.fp, q.fn) == (row["tp"], row["fp"], row["fn"])
                assert q.iou_sum == pytest.approx(row["iou_sum"], abs=EXACT * 100)


def test_stq_is_that_of_deeplab2(shared: Path) -> None:
    for case in cases(shared, "track_cases"):
        truth = json.loads((case / "expected.json").read_text())["stq"]
        dates, n = dates_of(case)
        found = stq(dates, range(1, n + 1), n)
        got = {"STQ": found.stq, "AQ": found.aq, "IoU": found.iou}
        assert got == pytest.approx({k: truth[k] for k in got}, abs=EXACT), case.name
        exact = TubeOverlap.of(dates, n).exact(range(1, n + 1))
        assert exact.aq == pytest.approx(truth["AQ"], rel=1e-6)  # the reference adds in float32


def test_a_series_of_coco_files_gives_the_references_figures(shared: Path, tmp_path: Path) -> None:
    case = cases(shared, "track_cases")[0]
    paths = [write_coco_series(case, side, tmp_path) for side in ("pred", "gt")]
    got = evaluate(*paths, EvaluateSettings(series=True, bootstrap=0))["series"]
    truth = json.loads((case / "expected.json").read_text())
    assert got["vpq"] == pytest.approx(truth["vpq"]["mean_over_windows"], abs=EXACT)
    assert got["stq"] == pytest.approx(truth["stq"]["STQ"], abs=EXACT)
    assert got["vpq_windows"]["2"]["all"] == pytest.approx(
        truth["vpq"]["window_2"]["results"]["All"], abs=EXACT
    )


def write_coco_series(case: Path, side: str, folder: Path) -> Path:
    from PIL import Image

    maps, tables = np.load(case / "maps.npz"), json.loads((case / "segments.json").read_text())
    (folder / side).mkdir()
    notes = []
    for d, date in enumerate(tables["dates"]):
        ids = maps[f"{side}_{d}"]
        rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
        Image.fromarray(rgb).save(folder / side / f"{date}.png")
        notes.append(
            {"image_id": date, "file_name": f"{date}.png", "segments_info": tables[side][d]}
        )
    path = folder / f"{side}.json"
    path.write_text(json.dumps({"categories": tables["categories"], "annotations": notes}))
    return path


# --- laws ----------------------------------------------------------------------------------------


@st.composite
def series(draw: st.DrawFn, most_dates: int = 4) -> list[tuple[Any, Any]]:
    """Pairs of label rasters: truth objects that come and go, predictions with other ids."""
    seed, n_dates = draw(st.integers(0, 2**16)), draw(st.integers(1, most_dates))
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, 6, (4, 4)), np.ones((4, 4), int))
    dates = []
    for _ in range(n_dates):
        truth = np.where(rng.random(truth.shape) < 0.05, rng.integers(0, 6, truth.shape), truth)
        pred = np.roll(truth, rng.integers(0, 2), axis=1)
        pred = np.where(pred > 0, (pred + rng.integers(0, 2)) % 7 + 10, 0)
        dates.append((truth.copy(), pred))
    return dates


def scot_of(dates: list[tuple[Any, Any]]) -> Scot:
    return scot([objects_of_labels(t, p) for t, p in dates])


@given(series())
def test_renaming_ids_changes_no_scot(dates: list[tuple[Any, Any]]) -> None:
    names = np.array([0, 91, 17, 55, 3, 78])
    renamed = scot_of([(names[t], np.where(p > 0, 1000 - p, 0)) for t, p in dates])
    plain = scot_of(dates)
    # among matchings of equal sums any may be chosen, so only what all of them share is compared
    assert renamed.dates == plain.dates
    tops = [objects_of_labels(t, p).iou for t, p in dates]
    if all(len(np.unique(i.round(9))) == len(i) for i in tops):
        assert renamed.scot == plain.scot
        assert renamed.mismatches == plain.mismatches


@given(series())
def test_removed_is_change_read_backwards(dates: list[tuple[Any, Any]]) -> None:
    forward, backward = scot_of(dates), scot_of(dates[::-1])
    assert forward.removed == backward.change
    assert forward.change == backward.removed


@given(series())
def test_a_perfect_answer_tracks_perfectly(dates: list[tuple[Any, Any]]) -> None:
    found = scot_of([(t, np.where(t > 0, t + 100, 0)) for t, _ in dates])
    assert found.mismatches == 0
    assert found.track.f1 in (1.0, None)
    assert found.change.f1 in (1.0, None)
    assert found.removed.f1 in (1.0, None)
    assert found.scot == (1.0 if found.change.seen else 0.0)


def counted(dates: list[tuple[Any, Any]]) -> list[CountedDate]:
    """Make things (class 1) of the labels on stuff (class 2)."""
    code = ClassCode.plain(2, [1])
    out = []
    for pair in dates:
        sides = [(np.where(a > 0, 1, 2).astype(np.uint8), a.astype(np.int32)) for a in pair]
        out.append(
            CountedDate(
                PanopticCount.of(sides[0], sides[1], Sides(code, code, 2)),
                Rules(things=frozenset({1})),
            )
        )
    return out


@given(series())
def test_vpq_of_single_dates_is_pq_and_a_frozen_series_has_one_vpq(dates: list[Any]) -> None:
    date = counted(dates[:1])
    plain = quality_of(date[0].count, 2, [1])
    assert vpq(date, 2).windows[0] == plain
    for window in vpq(date * 3, 2, 3).windows:
        assert window.all.pq == pytest.approx(plain.all.pq)


@given(series())
def test_stq_is_symmetric_in_renaming_and_bounded(dates: list[Any]) -> None:
    exact = TubeOverlap.of(counted(dates), 2).exact((1, 2))
    renamed = [(t, np.where(p > 0, 50 - p, 0)) for t, p in dates]
    other = TubeOverlap.of(counted(renamed), 2).exact((1, 2))
    assert (exact.aq, exact.iou) == (other.aq, other.iou)
    if exact.aq is not None:
        assert 0 <= exact.aq <= 1
        like = stq(counted(dates), (1, 2), 2)
        assert like.aq == pytest.approx(exact.aq, rel=1e-5)
        assert like.iou == exact.iou
        same = TubeOverlap.of(counted([(t, t) for t, _ in dates]), 2).exact((1, 2))
        assert (same.aq, same.iou) == (pytest.approx(1.0), 1.0)


def test_an_object_that_moves_nowhere_but_changes_its_name_is_a_mismatch() -> None:
    one = np.array([1])
    dates = [
        DateObjects(one, np.array([p]), one, np.array([p]), np.array([0.9])) for p in (7, 8, 8, 7)
    ]
    found = scot(dates)
    assert found.mismatches == 2
    assert (found.track.tp, found.track.fp, found.track.fn) == (2, 2, 2)
    assert found.change.fp == 1  # the second name is a new object nobody built
    assert found.undefined is None


def test_prediction_dates_that_the_truth_lacks_are_not_scored(tmp_path: Path) -> None:
    head = "aoi,timestep,id,geometry\n"
    box = '"POLYGON ((0 0, 0 2, 2 2, 2 0, 0 0))"'
    (tmp_path / "t.csv").write_text(head + "".join(f"A,{k},1,{box}\n" for k in (0, 1)))
    (tmp_path / "p.csv").write_text(head + "".join(f"A,{k},5,{box}\n" for k in (0, 1, 2, 3)))
    settings = EvaluateSettings(series=True, metrics=("f1",))
    got = evaluate(tmp_path / "p.csv", tmp_path / "t.csv", settings)["series"]
    assert (got["dates"], got["per_aoi"]["A"]["track_fp"]) == (2, 0)
    assert got["scot_undefined"] == "no new object"


def test_matching_by_table_equals_matching_of_f1() -> None:
    rng = np.random.default_rng(3)
    truth, pred = (np.kron(rng.integers(0, 9, (6, 6)), np.ones((3, 3), int)) for _ in range(2))
    date = counted([(truth, pred)])[0]
    from geopanoptic.metrics import Overlap

    overlap = Overlap.of(date.count, date.rules)
    wanted = match_objects(overlap, 0.25)
    thing = overlap.truth.class_id[overlap.t[wanted.pair]] == 1
    assert len(objects_of_labels(truth, pred).matches()[0]) == int(thing.sum())


# --- oracles -------------------------------------------------------------------------------------


def crowded(dates: list[tuple[Any, Any]], seed: int) -> tuple[list[Any], list[CountedDate]]:
    """Add void to both sides, a crowd (id 5) and an id that changes its class (4, at odd dates).

    Classes: 1 and 2 things, 3 stuff. Returns ((truth class, truth id, pred class, pred id), ...).
    """
    rng = np.random.default_rng(seed)
    plain, out = [], []
    code = ClassCode.plain(3, [1, 2])
    for k, (t, p) in enumerate(dates):
        sides = []
        for ids, odd in ((t, 4), (p, 14)):
            classes = np.select([ids == 0, ids == odd], [3, 1 + k % 2], 1).astype(np.uint8)
            ids = np.where(ids == 0, 0, ids).astype(np.int32)
            void = rng.random(ids.shape) < 0.1
            classes[void], ids[void] = 0, 0
            sides.append((classes, ids))
        (tc, ti), (pc, pi) = sides
        plain.append((tc, ti, pc, pi))
        count = PanopticCount.of((tc, ti), (pc, pi), Sides(code, code, 3))
        rules = Rules(things=frozenset({1, 2}), truth_crowd=frozenset({5}))
        out.append(CountedDate(count, rules))
    return plain, out


@given(series(), st.integers(0, 999))
def test_stq_is_what_the_definition_says_pixel_by_pixel(dates: list[Any], seed: int) -> None:
    plain, counts = crowded(dates, seed)
    tc, ti, pc, pi = (np.stack(a).astype(int) for a in zip(*plain, strict=True))
    crowd = np.isin(tc, [1, 2]) & (ti == 5)
    truth = np.where(np.isin(tc, [1, 2]) & ~crowd, tc * 1000 + ti, 0)
    pred = np.where(np.isin(pc, [1, 2]) & ~crowd, pc * 1000 + pi, 0)
    tubes = [g for g in np.unique(truth) if g]
    total = 0.0
    for g in tubes:
        for p in (p for p in np.unique(pred) if p):
            both = int(((truth == g) & (pred == p)).sum())
            total += both * both / int(((truth == g) | (pred == p)).sum()) / int((truth == g).sum())
    judged = tc > 0
    unions = {c: int((judged & ((tc == c) | (pc == c))).sum()) for c in range(4)}
    hits = {c: int((judged & (tc == c) & (pc == c)).sum()) for c in range(1, 4)}
    ious = [hits[c] / unions[c] for c in range(1, 4) if unions[c]]
    exact = TubeOverlap.of(counts, 3).exact((1, 2, 3))
    like = stq(counts, (1, 2, 3), 3)
    assert exact.iou == pytest.approx(np.mean(ious) if ious else None)
    if tubes:
        assert exact.aq == pytest.approx(total / len(tubes), abs=EXACT)
        assert like.aq == pytest.approx(exact.aq, rel=1e-5)
    else:
        assert exact.aq is None
    if ious:  # void of the prediction is one more class to deeplab2
        n = len(ious) + bool((judged & (pc == 0)).any())
        assert like.iou == pytest.approx(sum(ious) / n)


@given(series(), st.integers(0, 999))
def test_vpq_is_what_the_definition_says_pixel_by_pixel(dates: list[Any], seed: int) -> None:
    plain, counts = crowded(dates, seed)
    found = vpq(counts, 3, 3)
    for length, window in enumerate(found.windows, 1):
        wanted = {c: [0, 0, 0, 0.0] for c in (1, 2, 3)}
        for k in range(len(plain) - length + 1):
            for c, row in tube_statistics(plain[k : k + length]).items():
                wanted[c] = [a + b for a, b in zip(wanted[c], row, strict=True)]
        for c, (tp, fp, fn, iou) in wanted.items():
            q = window.per_class[c]
            assert (q.tp, q.fp, q.fn) == (tp, fp, fn)
            assert q.iou_sum == pytest.approx(iou, abs=EXACT)


def tube_statistics(dates: list[Any]) -> dict[int, list[Any]]:
    """Return [TP, FP, FN, sum of IoU] per class of one volume, by masks (vps)."""
    tc, ti, pc, pi = (np.stack(a) for a in zip(*dates, strict=True))
    truth, pred = np.where(tc == 3, 900, ti), np.where(pc == 3, 900, pi)
    truth[tc == 0], pred[pc == 0] = 0, 0
    out: dict[int, list[Any]] = {c: [0, 0, 0, 0.0] for c in (1, 2, 3)}

    def class_at_first(ids: Any, classes: Any, label: int) -> int:
        k = int(np.flatnonzero((ids == label).any(axis=(1, 2)))[0])
        return int(classes[k][ids[k] == label][0])

    of_truth = {g: class_at_first(truth, tc, g) for g in np.unique(truth) if g}
    of_pred = {p: class_at_first(pred, pc, p) for p in np.unique(pred) if p}
    matched: set[tuple[str, int]] = set()
    for g, c in of_truth.items():
        for p in (p for p, d in of_pred.items() if d == c and g != 5):
            a, b = truth == g, pred == p
            iou = (a & b).sum() / ((a | b).sum() - (b & (truth == 0)).sum())
            if iou > 0.5:
                out[c][0] += 1
                out[c][3] += float(iou)
                matched |= {("t", g), ("p", p)}
    for g, c in of_truth.items():
        out[c][2] += ("t", g) not in matched and g != 5
    for p, c in of_pred.items():
        mine = pred == p
        crowd = (truth == 5) & (of_truth.get(5) == c)
        ignored = (mine & ((truth == 0) | crowd)).sum() / mine.sum() > 0.5
        out[c][1] += ("p", p) not in matched and not ignored
    return out


def test_dates_meet_whether_a_reader_makes_times_of_them_or_not() -> None:
    import datetime as dt

    from geopanoptic.evaluate.polygon_series import _date

    when = dt.datetime(2018, 5, 1, tzinfo=dt.UTC)
    assert {_date(v) for v in ("2018-05-01", when, when.date(), "2018-05-01T00:00:00Z")} == {
        "2018-05-01"
    }
    assert _date("T3") == "T3"
    assert _date(7) == 7.0


def test_a_series_of_bare_rasters_gives_the_references_figures(
    shared: Path, tmp_path: Path
) -> None:
    from geopanoptic.georef import GeoRef
    from geopanoptic.grid import Window
    from geopanoptic.raster import LabelWriter

    for case in cases(shared, "track_cases"):
        folder = tmp_path / case.name
        folder.mkdir()
        maps, tables = np.load(case / "maps.npz"), json.loads((case / "segments.json").read_text())
        things = {c["id"] for c in tables["categories"] if c["isthing"]}
        sides: dict[str, list[str]] = {"gt": [], "pred": []}
        for side, names in sides.items():
            for d in range(len(tables["dates"])):
                ids = maps[f"{side}_{d}"].astype(np.int32)
                look = np.zeros(int(ids.max()) + 1, np.uint8)
                for segment in tables[side][d]:
                    look[segment["id"]] = segment["category_id"]
                classes = look[ids]
                ids = np.where(np.isin(classes, list(things)), ids, 0).astype(np.int32)
                for name, array in (("class", classes), ("id", ids)):
                    path = folder / f"{side}_{d}_{name}.tif"
                    georef = GeoRef.of_pixels(ids.shape)
                    with LabelWriter(path, georef, str(array.dtype), 0) as writer:
                        writer.write(Window.whole(ids.shape), array)
                names.append(f"{folder}/{side}_{d}_class.tif,{folder}/{side}_{d}_id.tif")
        got = evaluate(sides["pred"], sides["gt"], EvaluateSettings(series=True, bootstrap=0))
        truth = json.loads((case / "expected.json").read_text())
        series = got["series"]
        assert series["vpq"] == pytest.approx(truth["vpq"]["mean_over_windows"], abs=EXACT)
        assert series["stq"] == pytest.approx(truth["stq"]["STQ"], abs=EXACT)
        for k in "1234":
            for name, group in (("All", "all"), ("Things", "things"), ("Stuff", "stuff")):
                wanted = truth["vpq"][f"window_{k}"]["results"][name]
                assert series["vpq_windows"][k][group] == pytest.approx(wanted, abs=EXACT)
