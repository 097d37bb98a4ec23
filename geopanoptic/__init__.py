"""geopanoptic: scene-level panoptic maps from large GeoTIFFs, with ids unique over the scene.

    import geopanoptic as gp

    panoptic = gp.predict("scene.tif", out="scene.panoptic")
    panoptic.things()        # GeoDataFrame of buildings and vehicles
    panoptic.semantic        # lazy xarray with CRS

Names are imported on first use, so that `import geopanoptic` costs next to nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name -> the module it lives in
_DOOR = {
    "ChangeSettings": "change",
    "GeoPanopticError": "errors",
    "LabelSchema": "schema",
    "ModelCard": "models",
    "PanopticMap": "panoptic_map",
    "PredictSettings": "predict",
    "Scene": "raster",
    "TileGrid": "grid",
    "Tiling": "grid",
    "change": "change",
    "evaluate": "evaluate",
    "fit": "train",
    "load_model": "models",
    "predict": "predict",
    "predict_array": "predict",
    "track": "track",
}

__all__ = ["__version__", *sorted(_DOOR)]

if TYPE_CHECKING:
    from geopanoptic.change import ChangeSettings as ChangeSettings
    from geopanoptic.change import change as change
    from geopanoptic.errors import GeoPanopticError as GeoPanopticError
    from geopanoptic.evaluate import evaluate as evaluate
    from geopanoptic.grid import TileGrid as TileGrid
    from geopanoptic.grid import Tiling as Tiling
    from geopanoptic.models import ModelCard as ModelCard
    from geopanoptic.models import load_model as load_model
    from geopanoptic.panoptic_map import PanopticMap as PanopticMap
    from geopanoptic.predict import PredictSettings as PredictSettings
    from geopanoptic.predict import predict as predict
    from geopanoptic.predict import predict_array as predict_array
    from geopanoptic.raster import Scene as Scene
    from geopanoptic.schema import LabelSchema as LabelSchema
    from geopanoptic.track import track as track
    from geopanoptic.train import fit as fit


class _Door(ModuleType):
    """The package as a door of lazily imported names.

    A class, not a module `__getattr__`, because `predict` and `evaluate` are both a room and the
    function that the room is for: Python would put the submodule in the function's place as soon
    as anyone imports it. Rooms stay importable (`from geopanoptic.predict import ...`).
    """

    def __getattr__(self, name: str) -> Any:
        if name not in _DOOR:
            raise AttributeError(f"module 'geopanoptic' has no attribute '{name}'")
        return getattr(importlib.import_module(f"geopanoptic.{_DOOR[name]}"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _DOOR or not isinstance(value, ModuleType):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return list(__all__)


sys.modules[__name__].__class__ = _Door
