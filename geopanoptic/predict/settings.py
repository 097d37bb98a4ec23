"""What a user may set for a prediction, and the products that `--out` asks for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from geopanoptic.errors import ConfigError
from geopanoptic.models.engines import ENGINES
from geopanoptic.models.engines.precision import PRECISIONS

ProductKind = Literal["map", "raster", "vector", "preview"]

VECTOR_SUFFIXES = (".gpkg", ".parquet", ".fgb", ".geojson")


@dataclass(frozen=True, slots=True)
class PredictSettings:
    """Everything that changes the map, except scene and model; None takes the card's default.

    `core`, `halo` px of the working grid. `gsd_m` metres: the working GSD. `bands` 1-based.
    `mask` raster (0 = leave out) and `aoi` polygons: what lies outside becomes nodata.
    `min_area_m2`: smaller things return to stuff. `grid`: 'working' keeps the grid the model saw,
    'scene' brings the labels back to the scene's own grid. `origin`: (row, col) of the working grid
    where one corner of the tile grid lies; None anchors it to the CRS's origin. `tta`: 'flips'
    averages the network's answer over the mirror images of every tile, at four times the work.
    `engine` carries out the network; 'auto' takes the best that is installed for the model.
    `precision` is what it computes in; 'auto' the fastest that the model's card vouches for.
    """

    core: int | None = None
    halo: int | None = None
    gsd_m: float | None = None
    bands: tuple[int, ...] | None = None
    nodata: float | None = None
    date: str | None = None
    mask: str | None = None
    aoi: str | None = None
    min_area_m2: float | None = None
    grid: Literal["working", "scene"] = "working"
    origin: tuple[int, int] | None = None
    tta: Literal["none", "flips"] = "none"
    engine: Literal["auto", "torch", "torch_compile", "openvino", "onnxruntime"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"

    def __post_init__(self) -> None:
        for name in ("core", "gsd_m"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} = {value} must be more than 0")
        if self.halo is not None and self.halo < 0:
            raise ConfigError(f"halo = {self.halo} must not be negative")
        if self.min_area_m2 is not None and self.min_area_m2 < 0:
            raise ConfigError(f"min_area_m2 = {self.min_area_m2} must not be negative")
        if self.bands is not None and (not self.bands or min(self.bands) < 1):
            raise ConfigError(f"bands = {self.bands}: name bands by number, the first is 1")
        if self.grid not in ("working", "scene"):
            raise ConfigError(f"grid = '{self.grid}': use 'working' or 'scene'")
        if self.tta not in ("none", "flips"):
            raise ConfigError(f"tta = '{self.tta}': use 'none' or 'flips'")
        if self.engine not in ENGINES:
            raise ConfigError(f"engine = '{self.engine}': use {', '.join(ENGINES)}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision = '{self.precision}': use {', '.join(PRECISIONS)}")


@dataclass(frozen=True, slots=True)
class Products:
    """Where the results go and in which shape; none of it changes the map itself.

    `classes`: names of the classes that vector products hold (None: all). `simplify_m` metres.
    `regularize`: right angles for the buildings of vector products (None: our default; True: the
    schema must have the class). `scores`: also write the score raster.
    """

    paths: tuple[Path, ...]
    classes: tuple[str, ...] | None = None
    simplify_m: float | None = None
    regularize: bool | None = None
    scores: bool = False
    overwrite: bool = False

    @classmethod
    def to(cls, paths: Iterable[str | Path], **rest: object) -> Products:
        """Collect output paths; ConfigError for a suffix that names no product."""
        listed = list(paths)
        for path in listed:
            product_kind(path)
        return cls(tuple(dict.fromkeys(map(Path, listed))), **rest)  # type: ignore[arg-type]

    def files_of(self, path: Path) -> list[Path]:
        """Return every file that a product of more than one may write, itself first."""
        kind = product_kind(path)
        if kind == "raster":
            return [path, instances_beside(path)]
        if kind == "vector" and path.suffix.lower() != ".gpkg":
            # these formats hold one layer each: things in NAME.ext, stuff beside it
            return [path, path.with_suffix(f".stuff{path.suffix}")]
        return [path]

    def of_kind(self, kind: ProductKind) -> list[Path]:
        return [p for p in self.paths if product_kind(p) == kind]


def product_kind(path: str | Path) -> ProductKind:
    """Tell which product a path asks for by its suffix; ConfigError with the cure otherwise."""
    suffix = Path(path).suffix.lower()
    if suffix == ".panoptic" or str(path).endswith("/"):
        return "map"
    if suffix in (".tif", ".tiff"):
        return "raster"
    if suffix == ".png":
        return "preview"
    if suffix in VECTOR_SUFFIXES:
        return "vector"
    if suffix == ".shp":
        raise ConfigError(
            f"{path}: a Shapefile cuts attribute names to 10 letters and files to 2 GB; "
            f"write .gpkg instead, QGIS and ArcGIS open it alike"
        )
    raise ConfigError(
        f"{path}: no product has the suffix '{suffix}'; use {', '.join(VECTOR_SUFFIXES)} for "
        f"polygons, .tif for rasters, .panoptic for the whole map, .png for a preview"
    )


def instances_beside(semantic: Path) -> Path:
    """Return NAME.instances.tif beside NAME.tif."""
    return semantic.with_name(f"{semantic.stem}.instances.tif")
