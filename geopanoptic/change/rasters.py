"""The rasters of a comparison: from-to codes and status, with everything that explains them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from geopanoptic.change.counting import Told, blocks
from geopanoptic.change.legend import CHANGED, SMALL, UNCHANGED, Entry, status_legend, write_legends
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.raster import LabelReader, LabelWriter, publish_cog


def write_codes(work_file: Path, final: Path, entries: tuple[Entry, ...]) -> None:
    """Publish the from-to codes as a COG with attribute table, style and legend."""
    publish_cog(work_file, final, overviews="nearest")
    write_legends(final, entries, colour_table=False)


def write_status(
    codes_file: Path, gpkg: Path, final: Path, factor: int, block: int, told: Told
) -> None:
    """Write what became of every pixel: 0 nodata, 1 unchanged, 2 changed, 3 too small to count.

    Patches below the minimum mapping unit and slivers are read back from the layer
    `landcover_change` of `gpkg`, block by block, and burnt; their outlines are those of the pixels,
    so the burnt pixels are exactly theirs.
    """
    temporary = final.with_suffix(".work.tif")
    with LabelReader(codes_file) as codes:
        shape = codes.shape
        with LabelWriter(temporary, codes.georef, "uint8") as out:
            done = 0
            for window in blocks(shape, block):
                code = codes.read(window).astype(np.int64)
                status = np.where(code // factor == code % factor, UNCHANGED, CHANGED)
                status = np.where(code == 0, 0, status).astype(np.uint8)
                if (status == CHANGED).any():
                    status[_small(gpkg, codes.georef, window)] = SMALL
                out.write(window, status)
                done += window.area_px
                told(done, shape[0] * shape[1])
    publish_cog(temporary, final, overviews="nearest")
    write_legends(final, status_legend(), colour_table=True)
    temporary.unlink()


def _small(gpkg: Path, georef: GeoRef, window: Window) -> npt.NDArray[np.bool_]:
    """Return the pixels of a window that lie in patches too small to count."""
    import pyogrio
    import shapely
    from affine import Affine
    from rasterio.features import rasterize

    part = georef.crop(window)
    found = pyogrio.read_dataframe(
        gpkg,
        layer="landcover_change",
        columns=[],
        bbox=part.bounds,
        where="below_mmu = 1 OR sliver = 1",
    )
    if not len(found):
        return np.zeros(window.shape, bool)
    pixels = shapely.transform(
        np.asarray(found.geometry.array, object),
        # back to whole pixels, which map coordinates have rounded
        lambda xy: np.rint(np.stack(part.rowcol(xy[:, 0], xy[:, 1])[::-1], axis=1)),
    )
    burnt = rasterize(pixels, out_shape=window.shape, transform=Affine.identity(), dtype="uint8")
    return np.asarray(burnt > 0)
