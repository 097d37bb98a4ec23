"""Vector files: the attribute tables of a map's polygons, streamed to GeoPackage and others.

things_table, stuff_table, run_table   polygons and segments -> Arrow batches with attributes
LayerSpec, THINGS, STUFF, RUN          what a layer is called, its columns
Style                                  how QGIS draws a layer
Stream                                 batches made ahead, in a thread
write_gpkg, write_vectors, read_layer  files, published whole or not at all
"""

from geopanoptic.vector.formats import need_vector_suffix, write_vectors
from geopanoptic.vector.geopackage import read_layer, write_gpkg
from geopanoptic.vector.project import write_project
from geopanoptic.vector.regular import regular_classes
from geopanoptic.vector.specs import RUN, STUFF, THINGS, LayerSpec
from geopanoptic.vector.streaming import Stream
from geopanoptic.vector.styles import Style
from geopanoptic.vector.tables import TableContext, run_table, stuff_table, things_table

__all__ = [
    "RUN",
    "STUFF",
    "THINGS",
    "LayerSpec",
    "Stream",
    "Style",
    "TableContext",
    "need_vector_suffix",
    "read_layer",
    "regular_classes",
    "run_table",
    "stuff_table",
    "things_table",
    "write_gpkg",
    "write_project",
    "write_vectors",
]
