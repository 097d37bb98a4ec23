"""Polygons of a label raster: exact outlines at any scale, and their measures.

trace            label raster, read block by block -> batches of polygons
PolygonBatch     polygons on the pixel lattice; `to_geometry(transform)` gives shapely arrays
thing_labels, stuff_labels   the label rasters of a panoptic map's two layers
regularize       right angles for buildings
measure          areas and lengths in metres, true in any CRS
"""

from geopanoptic.polygons.batch import PolygonBatch
from geopanoptic.polygons.layers import stuff_labels, thing_labels
from geopanoptic.polygons.measuring import Measures, MetreMap, measure, measure_pixels
from geopanoptic.polygons.regularize import RegularizeRules, regularize
from geopanoptic.polygons.seams import BlockReader
from geopanoptic.polygons.tracing import trace

__all__ = [
    "BlockReader",
    "Measures",
    "MetreMap",
    "PolygonBatch",
    "RegularizeRules",
    "measure",
    "measure_pixels",
    "regularize",
    "stuff_labels",
    "thing_labels",
    "trace",
]
