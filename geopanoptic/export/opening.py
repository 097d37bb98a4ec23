"""Open what is to be exported: one map of a file that may hold several, its classes, its place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from geopanoptic.errors import ConfigError, SceneError, nearest_name
from geopanoptic.panoptic_map import PanopticMap, open_maps, packed_map, read_map_json
from geopanoptic.raster import Scene
from geopanoptic.schema import LabelSchema


@dataclass(frozen=True, slots=True)
class MapOpening:
    """How to read the map.

    `ids`: the file is one raster of class x `ids` + instance (Cityscapes: 1000). `image`: the image
    of a COCO file with several. `like`: a raster whose georeference the map takes (the grid, for
    polygons). `schema_of`: a map directory whose classes are those of a raster without names.
    """

    ids: int | None = None
    image: str | None = None
    like: str | None = None
    schema_of: str | None = None

    def open(self, path: str | Path) -> PanopticMap:
        """Return the map; SceneError, ConfigError or SchemaError with the cure."""
        schema = self._schema()
        georef = None if self.like is None else Scene.open(self.like).georef
        if self.ids is not None:
            found = packed_map(path, self.ids, schema)
        else:
            found = self._pick(str(path), open_maps(path, like=georef, schema=schema))
        if georef is None or found.georef == georef:
            return found
        if found.georef.shape != georef.shape:
            a, b = found.georef.shape, georef.shape
            raise SceneError(
                f"{self.like} has {b[0]} x {b[1]} pixels but {found.name} has {a[0]} x {a[1]}; "
                f"--like takes the scene that the map was drawn on"
            )
        return replace(found, georef=georef)

    def _schema(self) -> LabelSchema | None:
        return None if self.schema_of is None else read_map_json(self.schema_of).schema

    def _pick(self, path: str, maps: list[PanopticMap]) -> PanopticMap:
        keys = [m.name.rpartition("#")[2] for m in maps]
        if self.image is not None:
            if self.image not in keys:
                raise ConfigError(
                    f"{path} has no image '{self.image}'{nearest_name(self.image, keys)}; it has "
                    f"{', '.join(keys[:20])}"
                )
            return maps[keys.index(self.image)]
        if len(maps) != 1:
            raise SceneError(
                f"{path} holds {len(maps)} images, not one; choose with --image: "
                f"{', '.join(keys[:20])}"
            )
        return maps[0]
