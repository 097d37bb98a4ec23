"""Laws of the counts and the figures read from them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from panoptic_pairs import CODE, N_CLASSES, RULES, SIDES, THINGS, Pair, pairs
from scipy.ndimage import maximum_filter, minimum_filter

from geopanoptic.contingency import Contingency
from geopanoptic.errors import SchemaError
from geopanoptic.metrics import (
    CLASS_LABEL,
    Candidates,
    GroundStats,
    Overlap,
    PanopticCount,
    QualityStats,
    Rules,
    Sides,
    Tally,
    average_precision,
    bootstrap,
    boundary_iou,
    count_outlines,
    fates,
    labels_of,
    match,
    match_objects,
    quality_of,
)
from geopanoptic.metrics.boundary import OUTSIDE, outlines


def stats(pair: Pair, rules: Rules = RULES) -> QualityStats:
    return match(Overlap.of(pair.count, rules)).statistics(N_CLASSES)


def same(a: QualityStats, b: QualityStats) -> bool:
    return (
        np.array_equal(a.tp, b.tp)
        and np.array_equal(a.fp, b.fp)
        and np.array_equal(a.fn, b.fn)
        and np.array_equal(a.iou_sum, b.iou_sum)
    )


def equal_counts(a: PanopticCount, b: PanopticCount) -> bool:
    names = ("truth", "pred", "px", "bbox", "truth_class", "pred_class")
    return (
        all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names)
        and equal_tables(a.rows, b.rows)
        and equal_tables(a.ground, b.ground)
    )


def equal_tables(a: Contingency, b: Contingency) -> bool:
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("a", "b", "pixels"))


@given(pairs(), st.integers(1, 11), st.randoms(use_true_random=False))
def test_counts_of_blocks_add_up_to_the_count_of_the_whole_in_any_order(pair, block, order) -> None:
    rows, cols = pair.shape
    ground = replace(SIDES, ground=7, ground_cols=-(-cols // 7))
    places = [(r, c) for r in range(0, rows, block) for c in range(0, cols, block)]
    order.shuffle(places)
    parts = []
    for r, c in places:
        cut = pair.map(lambda x, r=r, c=c: x[r : r + block, c : c + block])
        parts.append(PanopticCount.of(cut.truth, cut.pred, ground, (r, c)))
    whole = PanopticCount.of(pair.truth, pair.pred, ground)
    assert equal_counts(PanopticCount.sum(parts), whole)
    half = len(parts) // 2
    assert equal_counts(PanopticCount.sum(parts[:half]) + PanopticCount.sum(parts[half:]), whole)


@given(pairs())
def test_the_table_holds_every_pixel_and_its_margins_are_areas(pair) -> None:
    count = pair.count
    assert count.total_px == pair.truth[0].size
    overlap = Overlap.of(count, RULES)
    for side, (classes, ids) in ((overlap.truth, pair.truth), (overlap.pred, pair.pred)):
        for label, area, box in zip(side.label, side.area_px, side.bbox, strict=True):
            where = (ids == label) if label < CLASS_LABEL else (classes == label - CLASS_LABEL)
            assert where.sum() == area
            row, col = np.nonzero(where)
            assert box.tolist() == [row.min(), col.min(), row.max() + 1, col.max() + 1]
    rows, pixels = count.class_rows("pred", 3)
    assert dict(zip(rows, pixels, strict=True)) == {
        r: n for r, n in enumerate((pair.pred[0] == 3).sum(axis=1)) if n
    }


@given(pairs())
def test_panoptic_quality_is_that_of_the_definition(pair) -> None:
    """Against a slow reading of Kirillov 2019 and panopticapi's void rules, pixel by pixel."""
    result = stats(pair)
    void = pair.truth[0] == 0
    sides = []
    for classes, ids in (pair.truth, pair.pred):
        masks = [(classes[ids == k][0], ids == k) for k in np.unique(ids[ids > 0])]
        sides.append(masks + [(c, classes == c) for c in (3, 4) if (classes == c).any()])
    for c in range(1, N_CLASSES + 1):
        truth, pred = ([m for k, m in side if k == c] for side in sides)
        tp, iou_sum, hit_t, hit_p = 0, [], set(), set()
        for i, g in enumerate(truth):
            for j, p in enumerate(pred):
                inter = (g & p).sum()
                iou = inter / (g.sum() + p.sum() - inter - (p & void).sum())
                if iou > 0.5:
                    tp += 1
                    iou_sum.append(iou)
                    hit_t.add(i)
                    hit_p.add(j)
        fn = len(truth) - len(hit_t)
        fp = sum(
            1 for j, p in enumerate(pred) if j not in hit_p and not (p & void).sum() / p.sum() > 0.5
        )
        got = result.of_class(c)
        assert (got.tp, got.fp, got.fn) == (tp, fp, fn)
        assert got.iou_sum == pytest.approx(sum(iou_sum), abs=1e-12)


@given(pairs())
def test_a_map_against_itself_is_perfect_and_ids_mean_nothing(pair) -> None:
    itself = Pair(pair.truth, pair.truth)
    result = quality_of(itself.count, N_CLASSES, THINGS)
    assert result.all.pq in (None, 1.0)
    classes, ids = pair.pred
    renumbered = Pair(pair.truth, (classes, np.where(ids > 0, 7 * ids + 13, 0).astype(np.int32)))
    assert same(stats(pair), stats(renumbered))


@given(pairs())
def test_flips_and_transposition_change_no_figure(pair) -> None:
    for change in (np.flipud, np.fliplr, np.transpose):
        assert same(stats(pair), stats(pair.map(change)))


@given(pairs(), st.integers(2, 3))
def test_nearest_upsampling_keeps_quality_and_multiplies_areas(pair, k) -> None:
    larger = pair.map(lambda x: np.repeat(np.repeat(x, k, 0), k, 1))
    assert same(stats(pair), stats(larger))
    assert np.array_equal(
        pair.count.confusion(N_CLASSES) * k * k, larger.count.confusion(N_CLASSES)
    )


@given(pairs())
def test_pq_is_sq_times_rq_for_each_class(pair) -> None:
    result = stats(pair)
    for c in range(1, N_CLASSES + 1):
        q = result.of_class(c)
        if q.seen:
            assert q.pq == pytest.approx(q.sq * q.rq, abs=1e-15)
            assert 0 <= q.pq <= 1


@given(pairs(void=False))
def test_without_void_swapping_the_sides_swaps_fp_and_fn(pair) -> None:
    a, b = stats(pair), stats(Pair(pair.pred, pair.truth))
    assert np.array_equal(a.tp, b.tp)
    assert np.array_equal(a.fp, b.fn)
    assert np.array_equal(a.fn, b.fp)
    assert np.array_equal(a.iou_sum, b.iou_sum)


@given(pairs())
def test_void_truth_over_a_false_object_never_lowers_quality(pair) -> None:
    overlap = Overlap.of(pair.count, RULES)
    matched = match(overlap)
    false = np.flatnonzero(matched.fp & (overlap.pred.label < CLASS_LABEL))
    if len(false) == 0:
        return
    hidden = pair.pred[1] == overlap.pred.label[false[0]]
    c = int(overlap.pred.class_id[false[0]])
    # the truth beneath must be stuff, else a truth object would change with it
    if (pair.truth[1][hidden] > 0).any():
        return
    classes, ids = pair.truth[0].copy(), pair.truth[1]
    classes[hidden] = 0
    before, after = (
        matched.statistics(N_CLASSES).of_class(c),
        stats(Pair((classes, ids), pair.pred)),
    )
    assert after.of_class(c).fp == before.fp - 1
    assert (after.of_class(c).pq or 0.0) >= (before.pq or 0.0)


@given(pairs(), st.integers(1, 4))
def test_outlines_are_where_the_square_around_a_pixel_is_not_one_label(pair, d) -> None:
    padded = np.pad(labels_of(*pair.truth, CODE), d, constant_values=OUTSIDE)
    size = 2 * d + 1
    want = maximum_filter(padded, size) != minimum_filter(padded, size)
    assert np.array_equal(outlines(padded, d), want[d:-d, d:-d])


@given(pairs(), st.integers(1, 3))
def test_boundary_quality_is_at_most_panoptic_quality(pair, d) -> None:
    overlap = Overlap.of(pair.count, RULES)
    padded = [
        np.pad(labels_of(*side, CODE), d, constant_values=OUTSIDE)
        for side in (pair.truth, pair.pred)
    ]
    iou = boundary_iou(overlap, count_outlines(*padded, d))
    assert (iou <= overlap.iou()).all()
    a, b = match(overlap).statistics(N_CLASSES), match(overlap, iou).statistics(N_CLASSES)
    assert (b.tp <= a.tp).all()
    assert (b.iou_sum <= a.iou_sum).all()


@given(pairs(), st.floats(0.05, 0.95))
def test_one_to_one_matching_never_uses_a_segment_twice_and_falls_with_the_threshold(
    pair, t
) -> None:
    overlap = Overlap.of(pair.count, RULES)
    found = match_objects(overlap, t)
    for rows in (overlap.t[found.pair], overlap.p[found.pair]):
        assert len(np.unique(rows)) == len(rows)
    lower = match_objects(overlap, t / 2)
    assert len(lower.pair) >= len(found.pair)
    if t >= 0.5:
        competing = match_objects(overlap, t, unique=False)
        assert np.array_equal(competing.pair, found.pair)


@given(pairs(), st.floats(0.1, 0.9))
def test_every_segment_has_one_fate_and_the_fates_add_up(pair, t) -> None:
    overlap = Overlap.of(pair.count, RULES)
    matched = match_objects(overlap, t)
    found = fates(matched)
    truth, pred = found.truth.status, found.pred.status
    assert (truth == "matched").sum() == (pred == "matched").sum() == len(matched.pair)
    assert np.isin(truth, ["missed", "split", "merged", "misclassified"]).sum() == matched.fn.sum()
    assert np.isin(pred, ["false", "duplicate"]).sum() == matched.fp.sum()
    mistaken = np.flatnonzero(truth == "misclassified")
    partner = overlap.pred.class_id[overlap.pred.index(found.truth.partner[mistaken])]
    assert (partner != overlap.truth.class_id[mistaken]).all()
    assert (found.truth.iou[mistaken] > 0.5).all()
    rows = overlap.t[matched.pair]
    if t >= 0.5:
        assert np.array_equal(found.truth.iou[rows], matched.iou)
        assert np.array_equal(
            found.truth.partner[rows], overlap.pred.label[overlap.p[matched.pair]]
        )


@given(pairs())
def test_average_precision_of_a_map_against_itself_is_one(pair) -> None:
    overlap = Overlap.of(Pair(pair.truth, pair.truth).count, RULES)
    for c in THINGS:
        images = [Candidates.of(overlap, np.full(len(overlap.pred), 0.5), c)]
        for value in average_precision(images):
            assert value is None or value == pytest.approx(1.0)


@given(pairs(), st.integers(3, 9))
def test_ground_blocks_add_up_to_the_whole(pair, edge) -> None:
    down, across = (-(-n // edge) for n in pair.shape)
    sides = replace(SIDES, ground=edge, ground_cols=across)
    count = PanopticCount.of(pair.truth, pair.pred, sides)
    matched = match(Overlap.of(count, RULES))
    found = GroundStats.of(count, matched, (edge, down, across), N_CLASSES, frozenset({3, 4}))
    whole = matched.statistics(N_CLASSES)
    judged = count.confusion(N_CLASSES).copy()
    assert found.confusion.sum(axis=0)[1:].tolist() == judged[1:].tolist()
    assert (found.tp.sum(axis=0) <= whole.tp).all()
    if (pair.truth[0] > 0).all():
        assert np.array_equal(found.tp.sum(axis=0), whole.tp)
        assert np.array_equal(found.fp.sum(axis=0), whole.fp)
        assert np.array_equal(found.fn.sum(axis=0), whole.fn)
    groups = {"all": [1, 2, 3, 4], "things": [1, 2], "stuff": [3, 4]}
    for interval in bootstrap(found, 50, groups).values.values():
        assert interval is None or 0 <= interval[0] <= interval[1] <= 1


def test_the_interval_of_one_block_repeated_has_no_width() -> None:
    rng = np.random.default_rng(3)
    truth = np.ones((8, 8), np.uint8), np.arange(64, dtype=np.int32).reshape(8, 8) // 2 + 1
    pred = truth[0], np.where(rng.random((8, 8)) < 0.3, 99, truth[1]).astype(np.int32)
    big = Pair(truth, pred).map(lambda x: np.tile(x, (3, 3)))
    offset = np.kron(np.arange(9).reshape(3, 3), np.ones((8, 8), int)).astype(np.int32) * 1000
    big = Pair((big.truth[0], big.truth[1] + offset), (big.pred[0], big.pred[1] + offset))
    count = PanopticCount.of(big.truth, big.pred, replace(SIDES, ground=8, ground_cols=3))
    matched = match(Overlap.of(count, RULES))
    stats_ = GroundStats.of(count, matched, (8, 3, 3), N_CLASSES, frozenset({3, 4}))
    interval = bootstrap(stats_, 100, {"all": [1, 2, 3, 4]}).values["pq.all"]
    pq = quality_of(count, N_CLASSES, THINGS).all.pq
    assert interval == [pytest.approx(pq, abs=1e-6), pytest.approx(pq, abs=1e-6)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c, i: c.__setitem__((2, 3), 77), "class value 77 at row 12, col 23"),
        (lambda c, i: i.__setitem__((2, 3), -4), "negative instance id -4 at row 12"),
        (
            lambda c, i: (i.__setitem__((0, slice(0, 2)), 5), c.__setitem__((0, 1), 2)),
            "two classes",
        ),
    ],
)
def test_labels_that_break_the_promise_are_named_with_a_pixel(change, words) -> None:
    classes, ids = np.ones((4, 5), np.uint8), np.ones((4, 5), np.int32)
    good = classes.copy(), ids.copy()
    change(classes, ids)
    with pytest.raises(SchemaError, match=words):
        PanopticCount.of((classes, ids), good, SIDES, (10, 20))


def test_an_instance_of_two_classes_is_found_across_blocks() -> None:
    ids = np.ones((2, 2), np.int32)
    other = np.full((2, 2), 3, np.uint8), np.zeros((2, 2), np.int32)
    parts = [
        PanopticCount.of((np.full((2, 2), c, np.uint8), ids), other, SIDES, (2 * c, 0))
        for c in (1, 2)
    ]
    with pytest.raises(SchemaError, match="instance 1"):
        PanopticCount.sum(parts)


def test_nothing_counted_gives_undefined_figures_not_errors() -> None:
    result = quality_of(PanopticCount.empty(), N_CLASSES, THINGS)
    assert result.all.pq is None
    assert result.all.n == 0
    void = np.zeros((3, 3), np.uint8), np.zeros((3, 3), np.int32)
    assert quality_of(Pair(void, void).count, N_CLASSES, THINGS).all.pq is None
    assert (
        quality_of(
            PanopticCount.of(void, void, Sides(CODE, CODE, N_CLASSES)), N_CLASSES, THINGS
        ).things.pq
        is None
    )


@given(pairs(), st.lists(st.integers(0, 29), max_size=8))
def test_a_tally_is_the_sum_of_its_parts_whenever_it_adds_them(pair, cuts) -> None:
    cuts = sorted({0, *(c for c in cuts if c < pair.shape[0]), pair.shape[0]})
    running = Tally(PanopticCount.sum, lambda count: 60_000 + len(count))  # adds every other part
    for top, stop in pairwise(cuts):
        part = pair.map(lambda x, top=top, stop=stop: x[top:stop])
        running.add(PanopticCount.of(part.truth, part.pred, SIDES, (top, 0)))
    whole = PanopticCount.of(pair.truth, pair.pred, replace(SIDES, ground=1000))
    got = running.total()
    assert np.array_equal(got.px, whole.px)
    assert np.array_equal(got.bbox, whole.bbox)
    assert equal_tables(got.rows, whole.rows)
