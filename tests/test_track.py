"""Tracking: the laws of links, ids and lives, and short stories with their ends."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from series_scenes import Box, blind, series, view

from geopanoptic.change.objects import ObjectRules
from geopanoptic.errors import ConfigError
from geopanoptic.track import DateView, TrackSettings, track_views
from geopanoptic.track.links import link_series
from geopanoptic.track.tables import (
    Tracked,
    lineage_rows,
    observation_rows,
    timeline_rows,
    track_rows,
)
from geopanoptic.track.views import relate_rows

RULES = ObjectRules()
A: Box = (0, 0, 20, 12)
A_WEST, A_EAST = (0, 0, 11, 12), (12, 0, 20, 12)
B: Box = (40, 0, 60, 12)
C: Box = (80, 0, 100, 12)

few = settings(
    max_examples=settings().max_examples * 2 // 5
)  # a series costs as much as many scenes


def tracked(views: list[DateView], **given: object) -> Tracked:
    return track_views(views, RULES, TrackSettings(**given))  # type: ignore[arg-type]


def links_of(views: list[DateView], max_gap: int = 2) -> set[tuple[str, int, str, int]]:
    links = link_series(views, RULES, max_gap).links
    return {
        (
            views[e].date, int(views[e].objects.ids[i]), views[d].date, int(views[d].objects.ids[j])
        )
        for e, i, d, j in zip(links.e, links.i, links.d, links.j, strict=True)
    }  # fmt: skip


def same_tracks(a: Tracked, b: Tracked) -> bool:
    mine = {v.date: t for v, t in zip(a.views, a.identity.track, strict=True) if len(v)}
    other = {v.date: t for v, t in zip(b.views, b.identity.track, strict=True) if len(v)}
    return mine.keys() == other.keys() and all(np.array_equal(mine[d], other[d]) for d in mine)


# --- laws ----------------------------------------------------------------------------------------


@few
@given(series(most_dates=2))
def test_two_dates_are_tracked_as_change_compares_them(views: list[DateView]) -> None:
    everything = np.arange(len(views[0])), np.arange(len(views[1]))
    events = relate_rows((views[0], views[1]), everything, RULES)
    t = tracked(views)
    pairs = set(zip(events.links.before.tolist(), events.links.after.tolist(), strict=True))
    links = t.identity.links
    assert set(zip(links.i.tolist(), links.j.tolist(), strict=True)) == pairs
    line, counts = timeline_rows(t), events.counts(below_mmu=True)
    last = [k for k, d in enumerate(line["date"]) if d == views[1].date]
    for name in ("added", "removed", "split", "merged", "complex"):
        assert int(sum(line[name][k] for k in last)) == counts[name], name
    status = Counter(
        s
        for s, d in zip(observation_rows(t)["status"], observation_rows(t)["date"], strict=True)
        if d == views[1].date
    )
    for name in ("unchanged", "grown", "shrunk", "modified"):
        assert status[name] == counts[name], name


@few
@given(series())
def test_no_two_objects_of_a_date_share_a_track(views: list[DateView]) -> None:
    for policy in ("largest", "new"):
        t = tracked(views, split_policy=policy)
        for track in t.identity.track:
            assert len(np.unique(track)) == len(track)
        every = np.unique(np.concatenate(t.identity.track))
        assert every.tolist() == list(range(1, len(t.lives) + 1))


@few
@given(series(), st.integers(1, 3))
def test_a_later_date_changes_no_id(views: list[DateView], k: int) -> None:
    whole, part = tracked(views), tracked(views[:k])
    for old, new in zip(part.identity.track, whole.identity.track, strict=False):
        assert np.array_equal(old, new)


@few
@given(series(most_dates=2, clouds=False), st.integers(2, 4))
def test_a_frozen_map_keeps_its_ids_and_builds_nothing(views: list[DateView], n: int) -> None:
    still = [DateView(f"{2000 + k}-01-01", views[0].objects) for k in range(n)]
    t = tracked(still)
    for track in t.identity.track:
        assert np.array_equal(track, t.identity.track[0])
    line = timeline_rows(t)
    assert sum(int(np.sum(line[k])) for k in ("added", "removed", "split", "merged")) == 0
    assert (t.lives.n_seen == n).all()
    assert t.lives.confirmed.all()


@few
@given(series(), st.data())
def test_a_date_that_saw_nothing_changes_no_track(
    views: list[DateView], data: st.DataObject
) -> None:
    k = data.draw(st.integers(0, len(views)))
    dark = [*views[:k], blind(1900 if k == 0 else 2000 + k), *views[k:]]
    dark = [DateView(f"{1990 + n}-01-01", v.objects, v.footprint, v.hidden)
            for n, v in enumerate(dark)]  # fmt: skip
    bright = [v for n, v in enumerate(dark) if n != k]
    a, b = tracked(bright), tracked(dark)
    assert same_tracks(a, b)
    for name in ("n_seen", "n_gap", "confirmed", "provisional", "area_first", "area_last"):
        assert np.array_equal(getattr(a.lives, name), getattr(b.lives, name)), name
    for name in ("built_after", "built_before", "gone_after", "gone_before"):
        assert track_rows(a)[name] == track_rows(b)[name], name


@few
@given(series())
def test_time_reversed_gives_the_same_links(views: list[DateView]) -> None:
    forward = links_of(views)
    backward = {(b, j, a, i) for a, i, b, j in links_of(views[::-1])}
    assert forward == backward


@few
@given(series())
def test_every_object_is_one_observation_and_areas_are_those_of_the_maps(
    views: list[DateView],
) -> None:
    t = tracked(views)
    rows, line = observation_rows(t), timeline_rows(t)
    assert len(rows["track_id"]) == sum(len(v) for v in views)
    assert int(t.lives.n_seen.sum()) == sum(len(v) for v in views)
    for v in views:
        mine = [k for k, d in enumerate(line["date"]) if d == v.date]
        assert sum(line["area_m2"][k] for k in mine) == pytest.approx(v.objects.area_m2.sum())
        assert sum(int(line["count"][k]) for k in mine) == len(v)
    lives = t.lives
    assert (lives.first <= lives.last).all()
    assert (lives.built_after < lives.first).all()
    gone = lives.gone_before >= 0
    assert (lives.gone_before[gone] > lives.last[gone]).all()
    assert not (lives.has_heirs & gone).any()
    ends = zip(rows["date_from"], rows["date_to"], strict=True)
    assert all(begin < end for begin, end in ends)


@few
@given(series(), st.integers(0, 2**16))
def test_the_order_of_rows_changes_nothing(views: list[DateView], seed: int) -> None:
    rng = np.random.default_rng(seed)
    mixed, orders = [], []
    for v in views:
        orders.append(rng.permutation(len(v)))
        mixed.append(DateView(v.date, v.objects.take(orders[-1]), v.footprint, v.hidden))
    a, b = tracked(views), tracked(mixed)
    for track, other, order in zip(a.identity.track, b.identity.track, orders, strict=True):
        assert np.array_equal(track[order], other)


# --- stories -------------------------------------------------------------------------------------


def test_a_miss_does_not_end_a_track_and_two_do() -> None:
    one = tracked([view(2000, [A]), view(2001, []), view(2002, [A])])
    assert [t.tolist() for t in one.identity.track] == [[1], [], [1]]
    assert (one.lives.n_seen[0], one.lives.n_gap[0], one.lives.n_observed[0]) == (2, 1, 3)
    two = tracked([view(2000, [A]), view(2001, []), view(2002, []), view(2003, [A])])
    assert [t.tolist() for t in two.identity.track] == [[1], [], [], [2]]
    assert two.dates[two.lives.gone_before[0]] == "2001-01-01"
    assert two.dates[two.lives.built_after[1]] == "2002-01-01"
    three = tracked(list(two.views), max_gap=3)
    assert [t.tolist() for t in three.identity.track] == [[1], [], [], [1]]


def test_a_cloud_is_no_absence() -> None:
    cloud = [(-10.0, -10.0, 30.0, 30.0)]
    t = tracked([view(2000, [A, B]), *(view(2001 + k, [A, B], cloud) for k in range(3)),
                 view(2004, [A, B])])  # fmt: skip
    assert t.identity.track[-1].tolist() == t.identity.track[0].tolist()
    assert t.lives.n_gap.tolist() == [0, 0]
    assert sorted(t.lives.n_seen.tolist()) == [2, 5]


def test_coming_and_going_are_intervals_between_dates_that_saw_the_place() -> None:
    cloud = [(30.0, -10.0, 70.0, 30.0)]
    t = tracked([view(2000, []), view(2001, [], cloud), view(2002, [B]), view(2003, [B]),
                 view(2004, [], cloud), view(2005, [])])  # fmt: skip
    row = {k: v[0] for k, v in track_rows(t).items()}
    years = {k: row[k].year for k in ("built_after", "built_before", "gone_after", "gone_before")}
    assert years == {
        "built_after": 2000, "built_before": 2002, "gone_after": 2003, "gone_before": 2005
    }  # fmt: skip
    assert row["state"] == "gone"
    first = track_rows(tracked([view(2002, [B]), view(2003, [B])]))
    assert first["built_after"] == [None]  # nobody looked before
    assert first["gone_before"] == [None]


def test_of_a_split_the_larger_part_keeps_the_id_and_the_other_knows_its_parent() -> None:
    t = tracked([view(2000, [A, B]), view(2001, [A_EAST, A_WEST, B]), view(2002, [A, B])])
    assert [x.tolist() for x in t.identity.track] == [[1, 2], [3, 1, 2], [1, 2]]
    rows = lineage_rows(t)
    assert (rows["kind"], rows["parent_track"].tolist(), rows["child_track"].tolist()) == (
        ["split", "merged"], [1, 3], [3, 1]
    )  # fmt: skip
    table = track_rows(t)
    assert (table["parents"][2], table["children"][2]) == ("1", "1")
    assert table["built_before"][2] is None  # it was not built, it came off another
    assert table["state"][2] == "continued"
    fresh = tracked([view(2000, [A, B]), view(2001, [A_EAST, A_WEST, B])], split_policy="new")
    assert [x.tolist() for x in fresh.identity.track] == [[1, 2], [3, 4, 2]]
    assert track_rows(fresh)["children"][0] == "3;4"


def test_where_several_became_several_as_many_as_possible_carry_on() -> None:
    before: list[Box] = [(0, 0, 10, 10), (10, 0, 20, 10)]
    after: list[Box] = [(5, 0, 15, 10), (0, 0, 4, 10)]
    t = tracked([view(2000, before), view(2001, after)])
    assert set(t.identity.kind.tolist()) == {"complex"}
    # the best single pair would be the first with the first; but then the second would end
    assert t.identity.track[1].tolist() == [2, 1]


def test_flicker_is_not_confirmed_and_the_last_date_is_provisional() -> None:
    t = tracked([view(2000, [A]), view(2001, [A, B]), view(2002, [A]), view(2003, [A]),
                 view(2004, [A, C])])  # fmt: skip
    table = track_rows(t)
    assert table["confirmed"] == [True, False, True]
    assert table["provisional"] == [False, False, True]
    line = timeline_rows(t)
    assert (int(np.sum(line["added"])), int(np.sum(line["added_confirmed"]))) == (2, 1)
    assert (int(np.sum(line["removed"])), int(np.sum(line["removed_confirmed"]))) == (1, 0)


def test_growth_is_the_slope_of_the_area() -> None:
    boxes: list[Box] = [(0, 0, 20, 12), (0, 0, 20, 12.5), (0, 0, 20, 13)]
    t = tracked([view(2000 + k, [b]) for k, b in enumerate(boxes)])
    assert t.lives.growth_m2_per_year[0] == pytest.approx(10, rel=2e-3)
    assert (t.lives.area_first[0], t.lives.area_max[0]) == (240, 260)


def test_an_empty_series_has_no_tracks() -> None:
    t = tracked([view(2000, []), view(2001, [])])
    assert len(t.lives) == 0
    assert track_rows(t)["track_id"].tolist() == []
    assert timeline_rows(t)["date"] == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_gap": 0}, "--max-gap 0"),
        ({"split_policy": "larges"}, "did you mean 'largest'"),
        ({"confirm_seen": 4}, "4/3"),
        ({"register": "maybe"}, "auto or none"),
    ],
)
def test_wrong_settings_are_refused_by_name(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrackSettings(**given)  # type: ignore[arg-type]
