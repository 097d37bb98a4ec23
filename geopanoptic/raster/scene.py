"""`Scene`: one georeferenced raster, or a mosaic of files, described without being open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp

from geopanoptic.errors import SceneError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.raster.gdal import close_handle, gdal_env, is_remote, open_raster, scene_errors
from geopanoptic.raster.header import (
    band_name,
    check_header,
    date_of,
    keeps_facts_in_pam,
    stamp,
)
from geopanoptic.raster.source import Array, Bools, Source, mask_of, north_up
from geopanoptic.raster.vrt import check_vrt, driver_of

# A remote file is opened with one named driver, by its suffix: no bytes of it choose the parser.
_REMOTE_DRIVERS = {
    ".jp2": "JP2OpenJPEG", ".j2k": "JP2OpenJPEG", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG",
    ".vrt": "VRT",
}  # fmt: skip
_ALIGNED_PX = 0.02  # members of a mosaic may be off the common grid by this much of a pixel


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a scene and the (row, col) of the scene where its first pixel lies."""

    source: Source
    row: int
    col: int

    @property
    def window(self) -> Window:
        height, width = self.source.georef.shape
        return Window(self.row, self.col, height, width)


@dataclass(frozen=True)
class Scene:
    """One georeferenced raster (or mosaic of files): a description, picklable, with no open handle.

    `bands` are numbered from 1 and never include an alpha band; `band_names` are their descriptions
    or colours in lower case ('' when unknown). The grid is north-up whenever there is a CRS.
    """

    uri: str | tuple[str, ...]
    georef: GeoRef
    band_count: int
    band_names: tuple[str, ...]
    dtype: str
    band_nodata: tuple[float | None, ...]
    has_palette: bool
    date: str | None
    parts: tuple[Part, ...]
    members: tuple[str, ...]

    @classmethod
    def open(
        cls,
        uri: str | Path | Sequence[str | Path],
        *,
        nodata: float | None = None,
        date: str | None = None,
        trust_vrt: bool = False,
    ) -> Scene:
        """Describe a raster: a path, s3:// or https:// address, VRT, or a sequence of files.

        `nodata` replaces the file's own nodata value, `date` its date. Of a mosaic's files the
        later ones lie on top. `trust_vrt` opens a VRT without looking at what it names.

        Raises SceneError, always with the cure: missing, not a raster, truncated, absurd
        dimensions, hostile VRT, complex numbers, a place on the ground that cannot be worked out.
        """
        if isinstance(uri, (str, Path)):
            scene = _open_file(str(uri), nodata, trust_vrt)
        else:
            files = [str(u) for u in uri]
            if not files:
                raise SceneError("a mosaic of no files; name at least one raster")
            scene = _mosaic([_open_file(f, nodata, trust_vrt) for f in files])
        return replace(scene, date=date) if date is not None else scene

    @property
    def nodata(self) -> float | None:
        """The nodata value of the first band."""
        return self.band_nodata[0]

    @property
    def has_alpha(self) -> bool:
        return any(p.source.alpha_band for p in self.parts)

    @property
    def has_mask(self) -> bool:
        return any(p.source.has_mask for p in self.parts)

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows and columns of the blocks the (first) file is stored in."""
        return self.parts[0].source.block_shape

    @property
    def view(self) -> str:
        """How the file is brought north-up: 'plain', 'flipped' or 'warped'."""
        return self.parts[0].source.view

    @property
    def may_have_invalid(self) -> bool:
        """Tell whether any pixel can be invalid at all, as far as the header says."""
        return (
            len(self.parts) > 1
            or self.has_alpha
            or self.has_mask
            or self.view == "warped"
            or self.dtype.startswith("float")
            or any(v is not None for v in self.band_nodata)
        )

    def read(self, window: Window, bands: Sequence[int] | None = None) -> tuple[Array, Bools]:
        """Read a window: (array (band, row, col) in the scene's dtype, valid (row, col)).

        `bands` are numbers from 1 (all when None). Nodata, alpha, mask and NaN are honoured.
        Law: ``read(w)[..., v.within(w)] == read(v)`` for v inside w.
        Raises SceneError for a window outside the scene, an unknown band, or a file that fails.
        """
        numbers = tuple(range(1, self.band_count + 1)) if bands is None else tuple(bands)
        self._check(window, numbers)
        if len(self.parts) == 1:
            return self.parts[0].source.read(window, numbers)
        array = np.zeros((len(numbers), *window.shape), self.dtype)
        valid = np.zeros(window.shape, bool)
        for part in self.parts:
            common = part.window & window
            if common.is_empty:
                continue
            piece, seen = part.source.read(common.within(part.window), numbers)
            where = common.within(window).slices
            np.copyto(array[:, *where], piece, where=seen)
            valid[where] |= seen
        return array, valid

    def close(self) -> None:
        """Close the files that reading from this thread has left open; reading opens them again."""
        for part in self.parts:
            close_handle(part.source)

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this scene from another, for the job's manifest.

        Every file with its size and time of change in nanoseconds (None for remote ones), and the
        header: shape, bands, dtype, CRS, transform, nodata, block shape.
        """
        members = []
        for name in self.members:
            size, mtime_ns = stamp(name) or (None, None)
            members.append({"uri": name, "size": size, "mtime_ns": mtime_ns})
        header = {
            "shape": list(self.georef.shape),
            "band_count": self.band_count,
            "dtype": self.dtype,
            "crs": self.georef.crs,
            "transform": list(self.georef.transform)[:6],
            "nodata": [None if v is None else str(v) for v in self.band_nodata],
            "block_shape": list(self.block_shape),
        }
        return {"members": members, "header": header}

    def _check(self, window: Window, bands: tuple[int, ...]) -> None:
        if window.is_empty or not Window.whole(self.georef.shape).contains(window):
            rows, cols = self.georef.shape
            raise SceneError(f"window ({window}) is not inside the scene of {rows} x {cols} pixels")
        wrong = [b for b in bands if not 1 <= b <= self.band_count]
        if wrong or not bands:
            raise SceneError(
                f"band {wrong or 'list'} is not in 1..{self.band_count} of '{self.members[0]}' "
                f"(an alpha band is no data band); choose others with --bands"
            )


def _open_file(uri: str, nodata: float | None, trust_vrt: bool) -> Scene:
    uri = uri.removeprefix("file://")
    driver: str | None = None
    members: tuple[str, ...] = (uri,)
    pam = False
    if not is_remote(uri) and not uri.startswith("/vsi"):
        path = Path(uri)
        with scene_errors(f"'{uri!s}' cannot be looked at", "check the path"):
            driver = driver_of(path)
            pam = keeps_facts_in_pam(path)
        if driver == "VRT" and not trust_vrt:
            members = (uri, *(str(m) for m in check_vrt(path)))
    else:
        suffix = Path(uri.split("?")[0]).suffix.lower()
        if suffix == ".vrt" and not trust_vrt:
            raise SceneError(
                f"'{uri}' is a remote VRT, which could read any file or address of this machine; "
                f"name its files themselves as a mosaic"
            )
        driver = _REMOTE_DRIVERS.get(suffix, "GTiff")
    what, cure = f"'{uri}' cannot be opened", "check that it is a whole raster file"
    with (
        gdal_env(remote=is_remote(uri), pam=pam),
        scene_errors(what, cure),
        open_raster(uri, driver) as dataset,
    ):
        check_header(dataset)
        return _describe(dataset, Origin(uri, driver, members, pam), nodata)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a dataset was opened from, and how."""

    uri: str
    driver: str | None
    members: tuple[str, ...]
    pam: bool


def _describe(dataset: Any, origin: Origin, nodata: float | None) -> Scene:
    alpha, has_mask = mask_of(dataset)
    bands = tuple(b for b in range(1, dataset.count + 1) if b != alpha)
    kinds = {dataset.dtypes[b - 1] for b in bands}
    if not bands or any(k.startswith("complex") for k in kinds):
        raise SceneError(
            f"'{origin.uri}' holds {'/'.join(sorted(kinds)) or 'only alpha'}, not pictures of "
            f"real numbers; make amplitude or colour bands of it first (gdal_calc.py)"
        )
    own = [dataset.nodatavals[b - 1] for b in bands]
    georef, view, flips = north_up(dataset)
    dtype = str(np.result_type(*kinds))
    source = Source(
        uri=origin.uri,
        driver=origin.driver,
        georef=georef,
        dtype=dtype,
        bands=bands,
        band_nodata=tuple(own if nodata is None else [nodata] * len(bands)),
        alpha_band=alpha,
        has_mask=has_mask,
        view=view,
        flips=flips,
        block_shape=tuple(dataset.block_shapes[bands[0] - 1]),
        stamp=stamp(origin.uri),
        pam=origin.pam,
    )
    return Scene(
        uri=origin.uri,
        georef=georef,
        band_count=len(bands),
        band_names=tuple(band_name(dataset, b) for b in bands),
        dtype=dtype,
        band_nodata=source.band_nodata,
        has_palette=dataset.colorinterp[bands[0] - 1] == ColorInterp.palette,
        date=date_of(dataset, origin.uri),
        parts=(Part(source, 0, 0),),
        members=origin.members,
    )


def _mosaic(scenes: list[Scene]) -> Scene:
    """Lay scenes on one grid; SceneError names the first that does not fit, and how to make it."""
    first = scenes[0]
    for other in scenes[1:]:
        for what in ("band_count", "dtype", "band_names"):
            if getattr(other, what) != getattr(first, what):
                raise SceneError(
                    f"'{other.uri}' has {what.replace('_', ' ')} {getattr(other, what)}, but "
                    f"'{first.uri}' has {getattr(first, what)}; a mosaic needs them equal: convert "
                    f"with gdal_translate"
                )
    corners = [_offset(first, s) for s in scenes]
    top, left = min(r for r, _ in corners), min(c for _, c in corners)
    parts = tuple(
        Part(s.parts[0].source, r - top, c - left)
        for s, (r, c) in zip(scenes, corners, strict=True)
    )
    shape = max(p.window.row_stop for p in parts), max(p.window.col_stop for p in parts)
    whole = Window(top, left, *shape)
    dates = {s.date for s in scenes}
    return replace(
        first,
        uri=tuple(str(s.uri) for s in scenes),
        georef=replace(first.georef.crop(whole), shape=shape),
        date=dates.pop() if len(dates) == 1 else None,
        parts=parts,
        members=tuple(m for s in scenes for m in s.members),
    )


def _offset(first: Scene, other: Scene) -> tuple[int, int]:
    """Return the (row, col) of `other`'s corner on the grid of `first`."""
    a, b = first.georef.transform, other.georef.transform
    row, col = (float(v) for v in first.georef.rowcol(b.c, b.f))
    height, width = other.georef.shape
    drift = max(abs(b.a / a.a - 1) * width, abs(b.e / a.e - 1) * height)
    off = max(abs(row - round(row)), abs(col - round(col)))
    if first.georef.crs != other.georef.crs and not _same_crs(first, other):
        raise SceneError(f"'{other.uri}' and '{first.uri}' have different coordinate reference "
                         f"systems; warp one: gdalwarp -t_srs EPSG:XXXX -tap")  # fmt: skip
    if first.georef.crs is None or drift > _ALIGNED_PX or off > _ALIGNED_PX:
        raise SceneError(
            f"'{other.uri}' is not on the pixel grid of '{first.uri}' (off by {off:.2f} px, pixel "
            f"size differs by {drift:.2f} px over the file, or there is no CRS); put them on one "
            f"grid first: gdalwarp -tap -tr {a.a:g} {-a.e:g} FILES mosaic.tif"
        )
    return round(row), round(col)


def _same_crs(one: Scene, two: Scene) -> bool:
    if one.georef.crs is None or two.georef.crs is None:
        return False
    a, b = (rasterio.CRS.from_wkt(s.georef.crs) for s in (one, two))
    return bool(a == b)
