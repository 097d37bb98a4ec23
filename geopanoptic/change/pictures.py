"""Pictures of a comparison for its report: both maps, both images, and what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geopanoptic.change.aligned import Offset, displaced
from geopanoptic.change.drawing_kernels import draw
from geopanoptic.change.imagery import Image
from geopanoptic.change.legend import CHANGED, SMALL
from geopanoptic.change.outlines import Outlines
from geopanoptic.georef import GeoRef
from geopanoptic.report.swipe import Overlay, Picture, Slide, png_uri
from geopanoptic.schema import LabelSchema

SIDE_PX = 1000
_BLANK = (242, 242, 242)

Geometries = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Sheet:
    """The grid of the pictures: the common grid in at most 1000 x 1000 pixels."""

    grid: GeoRef

    @classmethod
    def of(cls, grid: GeoRef) -> Sheet:
        """Zoom out of (never into) a grid."""
        shrink = max(1.0, max(grid.shape) / SIDE_PX)
        h, w = (max(1, round(n / shrink)) for n in grid.shape)
        return cls(grid.zoomed((h, w)))

    def read(self, tif: Path) -> npt.NDArray[np.int64]:
        """Return a label raster of the common grid at the pixels of the sheet (nearest)."""
        import rasterio

        from geopanoptic.raster import gdal_env

        with gdal_env(), rasterio.open(tif) as dataset:
            values = dataset.read(1, out_shape=self.grid.shape)
        made: npt.NDArray[np.int64] = values.astype(np.int64)
        return made

    def maps(self, codes_tif: Path, schema: LabelSchema, factor: int) -> Slide:
        """Draw both maps in the colours of their classes, blank where they cannot be compared."""
        codes = self.read(codes_tif)
        colours = np.full((256, 3), _BLANK, np.uint8)
        for c in schema.classes:
            colours[c.id] = c.rgb
        before, after = colours[codes // factor], colours[codes % factor]
        return Slide("Maps", png_uri(before), png_uri(after))

    def images(self, paths: Sequence[str | None], offset: Offset) -> Slide | None:
        """Draw both images, the later one moved as its map was; None when one is not at hand."""
        if len(paths) != 2 or paths[0] is None or paths[1] is None:
            return None
        before = Image.open(paths[0], self.grid).picture()
        after = Image.open(paths[1], displaced(self.grid, offset)).picture()
        if before is None or after is None:
            return None
        return Slide("Images", png_uri(before), png_uri(after))

    def land_cover(self, status_tif: Path) -> Overlay:
        """Draw the pixels that changed class, over both dates."""
        status = self.read(status_tif)
        made = np.zeros((*self.grid.shape, 4), np.uint8)
        made[status == CHANGED] = (215, 48, 31, 150)
        made[status == SMALL] = (253, 174, 97, 120)
        legend = (("changed class", "#d7301f"), ("below mapping unit or sliver", "#fdae61"))
        return Overlay("Land-cover change", png_uri(made), legend, shown=False)

    def objects(
        self, geometry: Geometries, status: npt.NDArray[np.object_], colours: Mapping[str, str]
    ) -> Overlay | None:
        """Draw objects filled by status, those that stayed the same left out."""
        drawn = [s for s in colours if s != "unchanged" and (status == s).any()]
        if not drawn:
            return None
        value = np.zeros(len(status), np.int64)
        made = np.zeros((*self.grid.shape, 4), np.uint8)
        for k, name in enumerate(drawn, 1):
            value[status == name] = k
        burnt, rims = self._burn(geometry, value)
        for k, name in enumerate(drawn, 1):
            rgb = tuple(int(colours[name][i : i + 2], 16) for i in (1, 3, 5))
            made[burnt == k] = (*rgb, 110)
            made[rims == k] = (*rgb, 255)
        legend = tuple((name, colours[name]) for name in drawn)
        return Overlay("Objects by status", png_uri(made), legend)

    def _burn(self, geometry: Geometries, value: npt.NDArray[np.int64]) -> tuple[Picture, Picture]:
        outlines = Outlines.of(geometry[value > 0])
        row, col = self.grid.rowcol(outlines.xy[:, 0], outlines.xy[:, 1])
        flat = np.stack([col, row], axis=1), outlines.rings, outlines.first, outlines.count
        burnt, rims = (np.zeros(self.grid.shape, np.uint8) for _ in range(2))
        draw(flat, value[value > 0].astype(np.uint8), burnt, rims)
        return burnt, rims


def sheet_of_objects(parts: Sequence[Geometries], crs: str | None) -> Sheet | None:
    """Return a sheet around objects that came without pixels; None when there are none."""
    import shapely
    from affine import Affine

    boxes = [shapely.total_bounds(p) for p in parts if len(p)]
    if not boxes:
        return None
    x0, y0 = (float(v) for v in np.min([b[:2] for b in boxes], axis=0))
    x1, y1 = (float(v) for v in np.max([b[2:] for b in boxes], axis=0))
    size = max(x1 - x0, y1 - y0, 1e-9) / (SIDE_PX - 40)
    x0, y0, x1, y1 = x0 - 20 * size, y0 - 20 * size, x1 + 20 * size, y1 + 20 * size
    shape = max(1, round((y1 - y0) / size)), max(1, round((x1 - x0) / size))
    return Sheet(GeoRef(crs, Affine(size, 0, x0, 0, -size, y1), shape))


def drawn_objects(sheet: Sheet, parts: Sequence[Geometries], rgb: Sequence[str]) -> Slide:
    """Draw the objects of both dates as filled shapes on white: the slides of vector files."""
    pictures = []
    for geometry, colour in zip(parts, rgb, strict=True):
        made = np.full((*sheet.grid.shape, 3), 255, np.uint8)
        if len(geometry):
            burnt, rims = sheet._burn(geometry, np.ones(len(geometry), np.int64))
            strong = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
            made[burnt > 0] = strong + (255 - strong) // 2
            made[rims > 0] = strong
        pictures.append(png_uri(made))
    return Slide("Objects", pictures[0], pictures[1])
