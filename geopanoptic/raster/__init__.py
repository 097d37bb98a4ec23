"""Scenes in, label rasters out: the room of GDAL.

`Scene` describes a raster, `WorkingScene` reads it the way a model wants it, `LabelWriter` and
`publish_cog` write maps, `LabelReader` reads them back.
"""

from geopanoptic.raster.gdal import gdal_environment, gdal_settings
from geopanoptic.raster.scene import Scene
from geopanoptic.raster.working import ReadRequest, WorkingScene

__all__ = [
    "ReadRequest",
    "Scene",
    "WorkingScene",
    "gdal_environment",
    "gdal_settings",
]
