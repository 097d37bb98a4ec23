"""Panoptic maps on disk: open every kind of MAP, read blocks, write tables, check the promises."""

from geopanoptic.panoptic_map.check import check_map
from geopanoptic.panoptic_map.layers import polygon_layers
from geopanoptic.panoptic_map.map import (
    PanopticMap,
    from_polygons,
    grid_difference,
    is_vector,
    open_maps,
    packed_map,
)
from geopanoptic.panoptic_map.page import report_of
from geopanoptic.panoptic_map.stac import stac_item
from geopanoptic.panoptic_map.tables import (
    MapInfo,
    load_segments,
    read_map_json,
    save_segments,
    segment_areas_m2,
    write_map_json,
)
from geopanoptic.panoptic_map.vector import FieldChoice, Polygons, read_polygons

__all__ = [
    "FieldChoice",
    "MapInfo",
    "PanopticMap",
    "Polygons",
    "check_map",
    "from_polygons",
    "grid_difference",
    "is_vector",
    "load_segments",
    "open_maps",
    "packed_map",
    "polygon_layers",
    "read_map_json",
    "read_polygons",
    "report_of",
    "save_segments",
    "segment_areas_m2",
    "stac_item",
    "write_map_json",
]
