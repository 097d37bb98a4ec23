"""The object layers of changes.gpkg: what a GIS user finds in them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given
from objects import object_set, object_sets

from geopanoptic.change.columns import EVENT_COLUMNS
from geopanoptic.change.layers import (
    STATUS_COLORS,
    Dated,
    as_multi,
    event_geometry,
    object_layers,
    object_styles,
)
from geopanoptic.change.objects import STATUSES, ObjectRules, ObjectSet
from geopanoptic.change.relate import relate
from geopanoptic.errors import ConfigError
from geopanoptic.schema import LabelSchema
from geopanoptic.vector import write_gpkg

BEFORE = [shapely.box(0, 0, 10, 10), shapely.box(20, 0, 30, 10), shapely.box(40, 0, 50, 10)]
AFTER = [
    shapely.box(0, 0, 10, 10), shapely.box(20, 0, 24, 10), shapely.box(25, 0, 30, 10),
    shapely.box(60, 0, 70, 10),
]  # fmt: skip


def written(path: Path, before: ObjectSet, after: ObjectSet) -> Dated:
    events = relate(before, after, ObjectRules())
    found = Dated(events, before, after, ("2019-05-01", "2024-06-01T10:00:00+02:00"))
    write_gpkg(path, object_layers(found), before.crs, LabelSchema(()), styles=object_styles())
    return found


def test_every_layer_has_its_rows_columns_and_style(tmp_path: Path) -> None:
    path = tmp_path / "changes.gpkg"
    before = object_set(BEFORE)
    after = object_set(AFTER, 0, ids=np.array(["a", "b", "c", "d"], object))
    found = written(path, before, after)
    events = geopandas.read_file(path, layer="events")
    assert list(events.columns) == [*EVENT_COLUMNS, "date_before", "date_after", "geometry"]
    assert events["status"].tolist() == ["unchanged", "split", "removed", "added"]
    assert events["after_ids"].fillna("-").tolist() == ["a", "b;c", "-", "d"]
    assert events.crs.to_epsg() == 32631
    assert str(events["date_after"][0]).startswith("2024-06-01 08:00")
    assert events["area_after_m2"][1] == pytest.approx(90.0, rel=1e-2)
    assert np.isnan(events["iou"][3])
    assert shapely.area(events.geometry[1]) == pytest.approx(90.0)
    objects = geopandas.read_file(path, layer="objects_after")
    assert objects["object_id"].tolist() == ["a", "b", "c", "d"]
    assert objects["event_id"].tolist() == [1, 2, 2, 4]
    assert geopandas.read_file(path, layer="objects_before")["object_id"].tolist() == [1, 2, 3]
    links = geopandas.read_file(path, layer="links")
    assert list(zip(links["before_id"], links["after_id"], strict=True)) == [
        (1, "a"), (2, "b"), (2, "c")
    ]  # fmt: skip
    assert [g is None or g.is_empty for g in links.geometry] == [True, False, False], (
        "the first pair lies at one place: no line"
    )
    assert shapely.is_valid(links.geometry[1:].values).all()
    assert links["frac_after"].tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert links["frac_before"].tolist() == pytest.approx([1.0, 0.4, 0.5])
    assert len(found.events.links) == 3
    with closing(sqlite3.connect(path)) as db:
        styles = dict(db.execute("SELECT f_table_name, styleQML FROM layer_styles"))
    assert set(styles) == {"events", "objects_before", "objects_after", "links"}
    assert all(f'value="{s}"' in styles["events"] for s in STATUSES)
    assert "SimpleLine" in styles["links"]
    assert "<layerGeometryType>1<" in styles["links"]


def test_dates_without_objects_make_empty_layers(tmp_path: Path) -> None:
    path = tmp_path / "changes.gpkg"
    written(path, object_set([]), object_set([]))
    for layer in ("events", "objects_before", "objects_after", "links"):
        assert len(geopandas.read_file(path, layer=layer)) == 0


@given(object_sets(), object_sets(101))
def test_the_outline_of_an_event_is_that_of_its_later_objects(
    before: ObjectSet, after: ObjectSet
) -> None:
    events = relate(before, after, ObjectRules())
    shapes = as_multi(event_geometry(Dated(events, before, after)))
    assert not shapely.is_missing(shapes).any()
    assert shapely.is_valid(shapes).all()
    for k, shape in enumerate(shapes, 1):
        mine = after.geometry[events.event_of_after == k]
        mine = mine if len(mine) else before.geometry[events.event_of_before == k]
        assert shapely.area(shape) == pytest.approx(shapely.area(shapely.union_all(mine)))


def test_every_status_has_its_own_colour() -> None:
    assert tuple(STATUS_COLORS) == STATUSES
    assert len(set(STATUS_COLORS.values())) == len(STATUSES)


def test_a_date_that_is_none_is_refused() -> None:
    found = Dated(relate(object_set([]), object_set([]), ObjectRules()), object_set([]),
                  object_set([]), ("last spring", None))  # fmt: skip
    with pytest.raises(ConfigError, match="'last spring' is not ISO 8601"):
        list(next(iter(object_layers(found).values())))
