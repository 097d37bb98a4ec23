"""Export: a map in, the same map in another format out.

export           polygons (GeoPackage, GeoParquet, FlatGeobuf, GeoJSON, PMTiles), COCO panoptic,
                 packed ids, a report, a map directory
"""

from geopanoptic.export.opening import MapOpening
from geopanoptic.export.run import ExportSettings, export

__all__ = ["ExportSettings", "MapOpening", "export"]
