"""Objects of two dates for the tests of change and track: random ones, and those of files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely
from hypothesis import strategies as st

from geopanoptic.change.object_files import map_objects, true_areas_m2
from geopanoptic.change.objects import Common, Events, ObjectSet
from geopanoptic.change.observed import observe
from geopanoptic.panoptic_map import PanopticMap, open_maps
from geopanoptic.schema import ClassSpec, LabelSchema

UTM = pyproj.CRS.from_epsg(32631).to_wkt()
ORIGIN = np.array([450_000.0, 5_400_000.0])
NAMES = ("building", "vehicle")


def placed(geometry: Any) -> Any:
    """Return outlines near (0, 0) where `object_set` puts them."""
    return shapely.transform(geometry, lambda xy: xy + ORIGIN)


def object_set(
    outlines: list[Any], first_id: int = 1, crs: str | None = UTM, **columns: Any
) -> ObjectSet:
    """Make a set of buildings from outlines near (0, 0); columns replace the plain ones."""
    geometry = np.array(outlines, object).reshape(-1)
    if len(geometry):
        geometry = placed(geometry)
    n = len(geometry)
    plain: dict[str, Any] = {
        "ids": np.arange(first_id, first_id + n),
        "class_names": np.full(n, "building", object),
        "scores": np.full(n, np.nan),
        "observed": np.ones(n),
        "touches_edge": np.zeros(n, bool),
    }
    area = true_areas_m2(geometry, crs)
    return ObjectSet(geometry=geometry, area_m2=area, crs=crs, **(plain | columns))


@st.composite
def outlines(draw: st.DrawFn) -> list[Any]:
    """Up to eight rectangles and L shapes on whole metres, often overlapping, in 40 x 40 m."""
    made = []
    for _ in range(draw(st.integers(0, 8))):
        x, y = draw(st.integers(0, 30)), draw(st.integers(0, 30))
        w, h = draw(st.integers(2, 12)), draw(st.integers(2, 12))
        shape = shapely.box(x, y, x + w, y + h)
        if w > 4 and h > 4 and draw(st.booleans()):
            shape = shape - shapely.box(x + w / 2, y + h / 2, x + w, y + h)
        made.append(shape)
    return made


@st.composite
def object_sets(draw: st.DrawFn, first_id: int = 1) -> ObjectSet:
    """Random objects of two classes with scores."""
    shapes = draw(outlines())
    n = len(shapes)
    names = draw(st.lists(st.sampled_from(NAMES), min_size=n, max_size=n))
    scores = draw(st.lists(st.floats(0.1, 1.0), min_size=n, max_size=n))
    return object_set(
        shapes, first_id, class_names=np.array(names, object), scores=np.array(scores, float)
    )


def told(events: Events) -> set[tuple[str, str | None, str | None]]:
    """Return the events as (status, ids before, ids after)."""
    c = events.columns
    return set(zip(c["status"], c["before_ids"], c["after_ids"], strict=True))


def case_map(folder: Path, date: str) -> PanopticMap:
    """Open one date of a change case with the classes of its table."""
    specs = {}
    with (folder / f"{date}_segments.csv").open() as file:
        for row in csv.DictReader(file):
            kind = "thing" if row["isthing"] == "1" else "stuff"
            specs[int(row["class_id"])] = ClassSpec(
                int(row["class_id"]), row["class_name"], kind, "#808080"
            )
    schema = LabelSchema(tuple(specs.values()))
    path = f"{folder}/{date}_class.tif,{folder}/{date}_id.tif"
    (opened,) = open_maps(path, schema=schema)
    return opened


def case_objects(folder: Path, date: str) -> tuple[ObjectSet, Any, Any]:
    """Return a date's objects, its footprint and its nodata as polygons, in its own CRS."""
    import rasterio
    from rasterio.features import shapes

    with rasterio.open(folder / f"{date}_id.tif") as file:
        empty = (file.read(1) == 0).astype("uint8")
        found = shapes(empty, transform=file.transform)
        hidden = [shapely.geometry.shape(g) for g, value in found if value == 1]
        outline = shapely.box(*file.bounds)
    return map_objects(case_map(folder, date)), outline, np.array(hidden, object).reshape(-1)


def case_pair(folder: Path) -> tuple[ObjectSet, ObjectSet, Common]:
    """Return both dates in the CRS of before, with what they share when the offset is known."""
    from geopanoptic.change.object_files import in_crs_of

    expected = expected_of(folder)
    offset = tuple(expected.get("offset_m_after_minus_before", (0.0, 0.0)))
    (before, one, hidden_b), (after, two, hidden_a) = (
        case_objects(folder, d) for d in ("before", "after")
    )
    if after.crs != before.crs:
        move = pyproj.Transformer.from_crs(after.crs, before.crs, always_xy=True).transform
        two, *rest = (shapely.transform(g, move, interleaved=False) for g in (two, *hidden_a))
        hidden_a = np.array(rest, object).reshape(-1)
        after = in_crs_of(after, before.crs)
    two, *rest = (shapely.transform(g, lambda xy: xy - offset) for g in (two, *hidden_a))
    hidden = np.concatenate([hidden_b, np.array(rest, object).reshape(-1)])
    common = Common(offset, shapely.intersection(one, two), hidden)
    return observe(before, common, "before"), observe(after, common, "after"), common


def expected_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "expected.json").read_text()))
