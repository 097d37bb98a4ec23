"""Export: a map in, the same map in another format out.

export           polygons (GeoPackage, GeoParquet, FlatGeobuf, GeoJSON), COCO panoptic, ids
"""

from geopanoptic.export.run import ExportSettings, export

__all__ = ["ExportSettings", "export"]
