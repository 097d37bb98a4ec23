"""The layers of tracks.gpkg: columns, colours, and how QGIS plays them."""

from __future__ import annotations

import pyarrow as pa

from geopanoptic.track.temporal import TemporalStyle
from geopanoptic.vector import LayerSpec, Style
from geopanoptic.vector.specs import TIME
from geopanoptic.vector.styles import LayerStyle

_TEXT, _INT, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()


def observations_spec(id_type: pa.DataType) -> LayerSpec:
    """Return the layer of objects, one row per track and date; ids are numbers or text."""
    return LayerSpec(
        "observations",
        (
            ("track_id", _INT),
            ("date", _TEXT),
            ("date_from", TIME),
            ("date_to", TIME),
            ("object_id", id_type),
            ("class", _TEXT),
            ("area_m2", _REAL),
            ("score", _REAL),
            ("status", _TEXT),
            ("iou_prev", _REAL),
            ("gap", _INT),
            ("touches_edge", _FLAG),
        ),
    )


TRACKS = LayerSpec(
    "tracks",
    (
        ("track_id", _INT),
        ("class", _TEXT),
        ("state", _TEXT),
        ("first_seen", TIME),
        ("last_seen", TIME),
        ("built_after", TIME),
        ("built_before", TIME),
        ("gone_after", TIME),
        ("gone_before", TIME),
        ("n_observed", _INT),
        ("n_seen", _INT),
        ("n_gap", _INT),
        ("area_first", _REAL),
        ("area_last", _REAL),
        ("area_min", _REAL),
        ("area_max", _REAL),
        ("growth_m2_per_year", _REAL),
        ("confirmed", _FLAG),
        ("provisional", _FLAG),
        ("parents", _TEXT),
        ("children", _TEXT),
    ),
)
LINEAGE = LayerSpec(
    "lineage",
    (
        ("parent_track", _INT),
        ("child_track", _INT),
        ("date", _TEXT),
        ("date_before", _TEXT),
        ("kind", _TEXT),
        ("overlap_m2", _REAL),
        ("iou", _REAL),
    ),
    None,
)
COUNTS = ("count", "added", "removed", "split", "merged", "complex", "added_confirmed",
          "removed_confirmed")  # fmt: skip
TIMELINE = LayerSpec(
    "timeline",
    (
        ("date", _TEXT),
        ("class", _TEXT),
        ("count", _INT),
        ("area_m2", _REAL),
        *((name, _INT) for name in COUNTS[1:]),
    ),
    None,
)
DATES = LayerSpec(
    "dates",
    (
        ("date", _TEXT),
        ("date_from", TIME),
        ("source", _TEXT),
        ("is_reference", _FLAG),
        ("n_objects", _INT),
        ("id_type", _TEXT),
        ("left_out", _INT),
        ("offset_x", _REAL),
        ("offset_y", _REAL),
        ("registration", _TEXT),
    ),
    None,
)
FOOTPRINTS = LayerSpec("footprints", (("date", _TEXT), ("date_from", TIME)))
UNSEEN = LayerSpec("unseen", (("date", _TEXT), ("date_from", TIME), ("why", _TEXT)))
TRAJECTORIES = LayerSpec(
    "trajectories",
    (
        ("trajectory", _TEXT),
        ("n_changes", _INT),
        ("pixels", _INT),
        ("area_m2", _REAL),
        ("share", _REAL),
    ),
    None,
)
PARAMETERS = LayerSpec("parameters", (("key", _TEXT), ("value", _TEXT)), None)

# As in changes.gpkg where a word is the same; green and red for what came and went.
STATUS_COLORS = {
    "first": "#7f7f7f",
    "unchanged": "#bdbdbd",
    "added": "#2a9d4b",
    "grown": "#a6d96a",
    "shrunk": "#fdae61",
    "modified": "#2b83ba",
    "reclassified": "#e7298a",
    "split": "#9b5de5",
    "merged": "#7b3294",
    "complex": "#542788",
    "unobserved": "#d9d9d9",
}
STATE_COLORS = {
    "present": "#2a9d4b",
    "gone": "#d7191c",
    "continued": "#7b3294",
    "unknown": "#bdbdbd",
}


def layer_styles() -> dict[str, LayerStyle]:
    """Return how QGIS draws the layers, with their times for its temporal controller."""
    status = Style("status", _legend(STATUS_COLORS), outlined=True)
    state = Style("state", _legend(STATE_COLORS), outlined=True)
    unseen = Style("why", (("nodata", "nodata", "#404040"), ("mask", "mask", "#8d99ae")))
    return {
        "observations": TemporalStyle(status, "date_from", "date_to"),
        "tracks": TemporalStyle(state, "first_seen", "gone_before"),
        "unseen": unseen,
    }


def _legend(colors: dict[str, str]) -> tuple[tuple[str, str, str], ...]:
    return tuple((word, word, color) for word, color in colors.items())
