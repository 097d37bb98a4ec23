"""The ground a source lies on: its pixels and georeference, and label rasters brought onto it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.dataset.specs import SourceSpec
from geopanoptic.errors import SceneError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.quiet import ignored

_FINER = 0.7  # scenes finer than this share of the finest chips are read coarser
_COARSER = 4.0  # chips this many times finer than their scene would be blur
_OFF_PX = 0.5  # label rasters this little off the scene's grid are taken as lying on it


@dataclass(frozen=True, slots=True)
class Ground:
    """A source's pixels uint8 (band, h, w), where they are valid (h, w), georeference and GSD.

    `window`: the part of the scene's own grid that was read, None when it was resampled.
    """

    pixels: npt.NDArray[np.uint8]
    valid: npt.NDArray[np.bool_]
    georef: GeoRef
    gsd_m: float
    window: Window | None

    @property
    def shape(self) -> tuple[int, int]:
        return self.georef.shape

    @property
    def bounds_text(self) -> str:
        west, south, east, north = self.georef.bounds
        return f"x {west:.6g}..{east:.6g}, y {south:.6g}..{north:.6g}"


def read_ground(
    spec: SourceSpec, root: Path, bands: tuple[str, ...], default_gsd_m: float
) -> Ground:
    """Read a source's scene: its bands as the model takes them, at a fit GSD, in its window.

    Other types than uint8 are stretched as predict does. Raises SceneError: unreadable, bands that
    are not there, a GSD far too coarse for the chips that are asked for, a window off the scene.
    """
    from geopanoptic.raster import ReadRequest, Scene, WorkingScene

    scene = Scene.open(root / spec.image / spec.picture if spec.picture else root / spec.image)
    low, high = spec.gsd_range_m or (default_gsd_m, default_gsd_m)
    own = scene.georef.gsd_m or default_gsd_m
    gsd_m = spec.gsd_m or own
    if gsd_m > _COARSER * high:
        raise SceneError(
            f"source '{spec.name}' has a GSD of {gsd_m:.3g} m, but its chips are cut at "
            f"{low:.3g} to {high:.3g} m; set gsd_range_m of the source (and preferred_gsd_m and "
            "gsd_range_m of the configuration) to what the scene shows"
        )
    as_it_is = spec.gsd_m > 0 or gsd_m >= _FINER * low
    request = ReadRequest(
        bands=spec.bands or bands,
        gsd_range_m=None if as_it_is else (low, float("inf")),
        preferred_gsd_m=low,
    )
    if spec.bands and len(spec.bands) != len(bands):
        raise SceneError(
            f"source '{spec.name}' reads {len(spec.bands)} bands, but the model takes "
            f"{len(bands)}: {', '.join(bands)}"
        )
    working = WorkingScene.plan(scene, request)
    window = _window(spec, working.georef.shape, working.is_resampled)
    georef = working.georef.crop(window)
    if spec.all_valid:
        pixels = _bare(scene.members[0], working.bands, window, spec)
        return Ground(pixels, np.ones(window.shape, bool), georef, gsd_m, window)
    pixels, valid = working.read(window)
    if working.is_resampled:
        return Ground(pixels, valid, georef, georef.gsd_m or gsd_m, None)
    return Ground(pixels, valid, georef, gsd_m, window)


def _bare(
    path: str, bands: tuple[int, ...], window: Window, spec: SourceSpec
) -> npt.NDArray[np.uint8]:
    """Read the pixels of a file as they are, whatever its masks say."""
    import rasterio
    from rasterio.windows import Window as RasterWindow

    with ignored(rasterio.errors.NotGeoreferencedWarning), rasterio.open(path) as file:
        if file.dtypes[0] != "uint8" or spec.gsd_m <= 0:
            raise SceneError(
                f"source '{spec.name}': all_valid is for uint8 scenes with a gsd_m; {path} is "
                f"{file.dtypes[0]}: mend the file's alpha band or nodata instead"
            )
        part = RasterWindow(window.col, window.row, window.width, window.height)
        return file.read(list(bands), window=part)  # type: ignore[no-any-return]


def _window(spec: SourceSpec, shape: tuple[int, int], resampled: bool) -> Window:
    whole = Window.whole(shape)
    if spec.window is None:
        return whole
    if resampled:
        raise SceneError(
            f"source '{spec.name}' has a window in pixels, but is read at another pixel size; "
            "set its gsd_m to read it as it is, or use an aoi"
        )
    window = Window(*spec.window)
    if window.is_empty or not whole.contains(window):
        raise SceneError(
            f"source '{spec.name}': the window {list(spec.window)} (row, col, height, width) is "
            f"not in the scene of {shape[0]} x {shape[1]} pixels"
        )
    return window


def read_raster(path: Path, ground: Ground) -> npt.NDArray[Any]:
    """Read the first band of a label raster on the ground's grid (nearest pixel), shape (h, w).

    A raster without a place on the ground, or on the scene's own grid, is taken pixel by pixel;
    any other is warped. Outside of it labels are 0. Raises SceneError: unreadable, of another
    size than the scene and without georeference, or nowhere near it.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with ignored(NotGeoreferencedWarning), rasterio.open(path) as file:
            if file.crs is None or ground.georef.crs is None or _same_grid(file, ground):
                return _pixelwise(file, path, ground)
            return _warped(file, path, ground)
    except RasterioError as why:
        raise SceneError(f"cannot read {path}: {why}; check the path and the file") from why


def _same_grid(file: Any, ground: Ground) -> bool:
    """Tell whether a raster's pixels are those of the scene's own grid."""
    import pyproj

    window = ground.window
    if window is None:
        return False
    if pyproj.CRS.from_wkt(file.crs.to_wkt()) != pyproj.CRS.from_wkt(ground.georef.crs or ""):
        return False
    its = GeoRef(None, file.transform, (file.height, file.width))
    x, y = its.xy([window.row, window.row_stop], [window.col, window.col_stop])
    rows, cols = ground.georef.rowcol(x, y)
    worst = max(np.abs(rows - [0, window.height]).max(), np.abs(cols - [0, window.width]).max())
    return bool(worst <= _OFF_PX)


def _pixelwise(file: Any, path: Path, ground: Ground) -> npt.NDArray[Any]:
    from rasterio.windows import Window as RasterWindow

    window = ground.window or Window.whole(ground.shape)
    if window.row_stop > file.height or window.col_stop > file.width:
        raise SceneError(
            f"{path} has {file.height} x {file.width} pixels and no place on the ground, but the "
            f"scene needs {window.row_stop} x {window.col_stop}; georeference it, or cut it to "
            "the scene's pixels"
        )
    return file.read(  # type: ignore[no-any-return]
        1, window=RasterWindow(window.col, window.row, window.width, window.height)
    )


def _warped(file: Any, path: Path, ground: Ground) -> npt.NDArray[Any]:
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    rows, cols = ground.shape
    with WarpedVRT(
        file,
        crs=ground.georef.crs,
        transform=ground.georef.transform,
        height=rows,
        width=cols,
        resampling=Resampling.nearest,
        add_alpha=True,
    ) as view:
        labels, inside = view.read(1), view.read(view.count) != 0
    if not inside.any():
        raise SceneError(
            f"the labels of {path} lie off the scene ({ground.bounds_text} in its CRS); check "
            "that both are of the same place and that their CRS are right"
        )
    return np.where(inside, labels, 0)


def read_polygons(path: Path, layer: str, ground: Ground) -> Any:
    """Read the polygons of a vector file in the ground's CRS, as a GeoDataFrame.

    A file without a CRS is taken to be in the scene's. Raises SceneError: unreadable, no polygons,
    none of them on the scene, or a scene without a CRS under a file that has one.
    """
    import pyogrio

    if not path.exists():
        raise SceneError(f"there is no file {path}; check the path (relative to data_root)")
    try:
        frame = pyogrio.read_dataframe(path, **({"layer": layer} if layer else {}))
    except Exception as why:  # pyogrio raises its own errors and plain ValueErrors alike
        raise SceneError(f"{path} is no vector file that can be read ({why})") from why
    if not hasattr(frame, "geometry"):
        raise SceneError(f"{path} has a table without geometries; name the `layer` to read")
    frame = frame[frame.geometry.notna() & ~frame.geometry.is_empty]
    if not len(frame):
        raise SceneError(f"{path} holds no polygons")
    odd = ~frame.geometry.geom_type.isin(["Polygon", "MultiPolygon"])
    if odd.any():
        raise SceneError(
            f"{path}: {int(odd.sum())} of {len(frame)} geometries are points or lines; labels are "
            "polygons: buffer them, or digitise outlines"
        )
    if frame.crs is not None:
        if ground.georef.crs is None:
            raise SceneError(
                f"{path} has a CRS, but the scene has none to lay it on; assign one "
                "(gdal_edit.py -a_srs EPSG:XXXX SCENE)"
            )
        frame = frame.to_crs(ground.georef.crs)
    west, south, east, north = ground.georef.bounds
    near = frame.geometry.bounds
    on = (near.minx < east) & (near.maxx > west) & (near.miny < north) & (near.maxy > south)
    if not on.any():
        a, b, c, d = frame.total_bounds
        raise SceneError(
            f"the labels of {path} lie off the scene: they span x {a:.6g}..{c:.6g}, y {b:.6g}.."
            f"{d:.6g} in its CRS, the scene {ground.bounds_text}; check that both are of the same "
            "place and that their CRS are right"
        )
    return frame[on].reset_index(drop=True)


def burn(geometries: Any, ground: Ground) -> npt.NDArray[np.int32]:
    """Paint geometries 1, 2, ... in order onto the ground's grid; later ones lie on top."""
    from rasterio.features import rasterize

    shapes = [(geometry, k) for k, geometry in enumerate(geometries, 1)]
    out = rasterize(shapes, ground.shape, transform=ground.georef.transform, dtype="int32")
    return np.asarray(out, np.int32)
