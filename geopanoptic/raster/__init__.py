"""Scenes in, label rasters out: the room of GDAL.

`Scene` describes a raster, `WorkingScene` reads it the way a model wants it, `LabelWriter` and
`publish_cog` write maps, `LabelReader` reads them back.
"""

from geopanoptic.raster.area import Area
from geopanoptic.raster.cog import LabelReader, LabelWriter, publish_cog, read_labels
from geopanoptic.raster.gdal import gdal_env, gdal_environment, gdal_settings
from geopanoptic.raster.preview import Panels, jpeg_uri, read_panels, write_png, write_preview
from geopanoptic.raster.scene import Scene
from geopanoptic.raster.style import write_instances_qml, write_score_qml
from geopanoptic.raster.working import ReadRequest, WorkingScene

__all__ = [
    "Area",
    "LabelReader",
    "LabelWriter",
    "Panels",
    "ReadRequest",
    "Scene",
    "WorkingScene",
    "gdal_env",
    "gdal_environment",
    "gdal_settings",
    "jpeg_uri",
    "publish_cog",
    "read_labels",
    "read_panels",
    "write_instances_qml",
    "write_png",
    "write_preview",
    "write_score_qml",
]
