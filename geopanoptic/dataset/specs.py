"""What a source of training data is: a scene, layers of labels, and how often chips are drawn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

KINDS = (
    "vector", "ignore", "instances", "classes", "coco", "boxes", "polygons", "greenness",
    "everywhere",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer of labels. All paths are relative to the data root.

    `kind`:

    * `vector`: polygons in any file GDAL reads, in any CRS. Their class is `thing`, or stands in
      the attribute `column`; `codes` maps values of the column to class names ([] means void; no
      codes: the values are class names). Polygons of thing classes are one instance each.
      Unless `sparse`, what lies outside is none of the layer's thing classes.
    * `ignore`: polygons in any file; void inside.
    * `instances`: raster of ids of class `thing`; 0 is "not a `thing`". Without `thing` it only
      tells apart the things that other layers name.
    * `classes`: raster of codes; `codes` maps each to class names ([] void); other codes say
      nothing. Without `codes` the values are class ids (0 and 255 void).
    * `coco`: the source's `image` is a folder, `path` a COCO panoptic JSON with its PNGs in the
      folder of the same name; categories are classes by name, or by `codes`.
    * `boxes`: YOLO text of boxes of `thing`.
    * `polygons`: GeoJSON in pixels (x = col, y = row) under the label root, property `classes` (a
      list of names), or `void`, or `thing`: one instance of it.
    * `greenness`: excess-green index: above `codes` "high" tree or grass, below "low" neither.
    * `everywhere`: all pixels are one of `codes` "all".

    `layer`: of a file with several. `shrink_px`: leave out so many pixels at the rims of classes.
    `void_green`: instances with more than this share of vegetation are made void: ruins, and
    outlines drawn under trees, teach nothing about roofs.
    """

    kind: str
    path: str = ""
    thing: str = ""
    codes: dict[str, Any] = field(default_factory=dict)
    column: str = ""
    layer: str = ""
    sparse: bool = False
    shrink_px: int = 0
    void_green: float = 1.0


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A scene to train on: image path under the data root, layers, and its weight in draws.

    `gsd_m`: read the pixels as they are and take them to be so large; 0: as the file says, read
    no finer than `gsd_range_m` wants. `bands`: numbers of the bands to read (none: by name).
    `all_valid`: with gsd_m, disbelieve the file's alpha band or nodata (infrared kept as "alpha").
    `window`: (row, col, height, width) or none. `aoi`, `exclude`: polygons; labels count only
    inside, or only outside. `validation`: judge the training by this source, do not train on it.
    `validation_aoi`: polygons; split the source by place: what lies inside judges.
    `gsd_range_m`: scales its chips are drawn at (none: around the model's preferred GSD).
    `focus`: share of chips centred on a pixel of a class drawn evenly, so rare classes come up.
    `each`: the source stands for several, with '{each}' in its texts replaced and its weight
    shared out (`expand`). `picture`: of a folder of pictures, the one this source is of.
    """

    name: str
    image: str
    layers: tuple[LayerSpec, ...]
    gsd_m: float = 0.0
    weight: float = 1.0
    bands: tuple[int, ...] = ()
    all_valid: bool = False
    window: tuple[int, int, int, int] | None = None
    aoi: str = ""
    exclude: str = ""
    validation: bool = False
    validation_aoi: str = ""
    gsd_range_m: tuple[float, float] | None = None
    focus: float = 0.5
    each: tuple[str, ...] = ()
    picture: str = ""


def expand(spec: SourceSpec) -> list[SourceSpec]:
    """Return a source once per item of its `each`, split by its `validation_aoi`."""
    made = [
        replace(
            spec,
            name=spec.name.replace("{each}", item),
            image=spec.image.replace("{each}", item),
            layers=tuple(replace(y, path=y.path.replace("{each}", item)) for y in spec.layers),
            weight=spec.weight / len(spec.each),
            each=(),
        )
        for item in spec.each
    ] or [spec]
    return [part for source in made for part in _split(source)]


def _split(spec: SourceSpec) -> list[SourceSpec]:
    if not spec.validation_aoi:
        return [spec]
    whole = replace(spec, validation_aoi="")
    return [
        replace(whole, exclude=spec.validation_aoi),
        replace(whole, name=f"{spec.name} (validation)", aoi=spec.validation_aoi, validation=True),
    ]
