"""The plan of a run: scene as the model wants it, tile grid, regions, and what it will cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic import __version__
from geopanoptic.errors import SceneError
from geopanoptic.grid import RegionGrid, TileGrid, Tiling, Window
from geopanoptic.models import Engine, ModelCard, Segmenter, check_model, choose_engine
from geopanoptic.predict.seen import Seen, seen_regions
from geopanoptic.predict.settings import PredictSettings
from geopanoptic.raster import Area, ReadRequest, Scene, WorkingScene
from geopanoptic.store import JobRef, ObjectParts, PartStore

# Networks halve their input up to five times; what they see starts on multiples of this, counted
# from the map's origin, so that a pixel falls on the same place in every window.
STRIDE = 32
# At the scene's rim at least so many pixels are mirrored in, where the halo leaves room.
_MIRRORED_PX = 32

# Blocks that files are usually stored in: tiles of that size and more share blocks at their rims.
_BLOCK_PX = 256

# What a run takes, for the estimate. Measured with landcover-v0 on the Banepa scene and its
# labelled window (2 cores, 2026-11-25): 54 MB of parts and rasters for 18.9 Mpx; peaks of 1.6 GB
# with windows of 768 px, and of 2.7 GB with windows of 1280 px.
_WORK_BYTES_PER_PX = 2.9
_RAM_BYTES = 1.1e9  # libraries and tables of one process
_RAM_BYTES_PER_PX = 1000.0  # activations and fields, per pixel of the windows in one network call
_READ_BYTES_PER_PX = 12.0  # pixels of the regions that wait, per pixel of one region


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a worker needs to do its part; frozen, picklable, without open handles.

    `model` is a name or path, or a Segmenter object of the caller's. `threads` is for the network,
    per process; `engine` carries it out; `batch` counts tiles. The grid is cut on the working
    grid of `scene`.
    """

    scene: WorkingScene
    area: Area | None
    card: ModelCard
    model: str | Segmenter
    grid: TileGrid
    k: int
    join_threshold: float
    settings: PredictSettings
    engine: Engine
    job: JobRef | None = None
    device: str = "cpu"
    threads: int = 1
    batch: int = 1

    @property
    def regions(self) -> RegionGrid:
        return RegionGrid(self.grid, self.k)

    @property
    def seen(self) -> Seen:
        """The regions to be worked on: not those that no file of the scene covers."""
        return seen_regions(self.scene, self.grid, self.k)

    def parts(self, kind: str) -> PartStore | ObjectParts:
        """Return the store of one kind of part files of this run's work directory."""
        assert self.job is not None, "a plan without a job has no parts"
        return self.job.parts(kind)

    def files_folder(self) -> Path:
        """Return the folder of the work directory for whole files, making it."""
        assert self.job is not None
        return self.job.files_folder()

    def seen_window(self, index: int) -> Window:
        """Return what the network sees of a tile: its window, at the scene's rim with a margin.

        The margin lies inside the nominal window and keeps the stride on the same pixels. It is
        not the whole nominal window, because what lies beyond the scene only costs time.
        """
        window, nominal = self.grid.tile(index).window, self.grid.nominal_window(index)
        top, left = (
            min(room, room % STRIDE + _MIRRORED_PX)
            for room in (window.row - nominal.row, window.col - nominal.col)
        )
        bottom, right = (
            min(room, _MIRRORED_PX)
            for room in (nominal.row_stop - window.row_stop, nominal.col_stop - window.col_stop)
        )
        return Window.from_bounds(
            window.row - top, window.col - left, window.row_stop + bottom, window.col_stop + right
        )

    def read(self, window: Window) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Read pixels (band, row, col) and validity of a window of the working grid."""
        pixels, valid = self.scene.read(window)
        if self.area is not None:
            valid &= self.area.inside(self.scene.georef.crop(window))
        return pixels, valid

    @property
    def min_area_px(self) -> npt.NDArray[np.int64]:
        """The least area of a thing for each class id, in pixels; shape (256,)."""
        least = np.ones(256, np.int64)
        gsd = self.scene.georef.gsd_m or self.card.preferred_gsd_m
        for spec in self.card.schema.things:
            area_m2 = self.settings.min_area_m2
            if area_m2 is None:
                area_m2 = self.card.min_area_m2(spec.name)
            least[spec.id] = max(1, round(area_m2 / gsd**2))
        return least

    def fingerprint(self) -> dict[str, Any]:
        """Return what must be equal for a work directory to be gone on with."""
        return {
            "format": 1,
            "geopanoptic": __version__,
            "scene": self.scene.scene.fingerprint(),
            "read": {k: self.scene.describe()[k] for k in ("bands", "working", "scaling")},
            "area": None if self.area is None else self.area.fingerprint(),
            "model": {"name": self.card.name, "card": self.card.fingerprint},
            "grid": asdict(self.grid) | {"k": self.k, "join_threshold": self.join_threshold},
            "engine": self.engine.to_json(),
            # what they came to stands in the line above
            "settings": {
                k: v for k, v in asdict(self.settings).items() if k not in ("engine", "precision")
            },
        }


def make_plan(
    scene: Scene, model: str | Segmenter, settings: PredictSettings, *, gpu: bool = False
) -> Plan:
    """Bring a scene and a model together; every refusal comes from here, before the work starts.

    `gpu`: the network will run on a GPU, which decides the engine where settings leave it open.
    Raises SceneError when the scene breaks the promise of the model's card, CheckpointError for
    a model file that cannot be used, GridError for core and halo that do not fit, ConfigError
    for an engine that is not here.
    """
    if isinstance(model, str):
        card = check_model(model)
        engine = choose_engine(card, settings.engine, precision=settings.precision, gpu=gpu)
    else:
        card, engine = model.card, Engine("given", "", "as it comes")
    working = WorkingScene.plan(scene, _request(card, settings))
    tiling = _tiling(card, settings, working)
    grid = tiling.grid(working.georef.shape)
    if settings.min_area_m2 is not None:
        working.georef.need_metres("--min-area")
    area = None
    if settings.mask or settings.aoi:
        area = Area.open(mask=settings.mask, aoi=settings.aoi, georef=working.georef)
    return Plan(
        scene=working,
        area=area,
        card=card,
        model=model,
        grid=grid,
        k=_tiles_per_side(grid),
        join_threshold=tiling.join_threshold,
        settings=settings,
        engine=engine,
    )


def _request(card: ModelCard, settings: PredictSettings) -> ReadRequest:
    if settings.bands is not None and len(settings.bands) != len(card.bands):
        raise SceneError(
            f"the model '{card.name}' reads {len(card.bands)} bands ({', '.join(card.bands)}), "
            f"but --bands names {len(settings.bands)}: {', '.join(map(str, settings.bands))}"
        )
    return ReadRequest(
        bands=settings.bands or card.bands,
        gsd_range_m=card.gsd_range_m,
        preferred_gsd_m=card.preferred_gsd_m,
        gsd_m=settings.gsd_m,
        percentiles=card.percentiles,
    )


def _tiling(card: ModelCard, settings: PredictSettings, working: WorkingScene) -> Tiling:
    """Take core and halo from settings or card, and anchor the grid to the map.

    Cores begin on multiples of their size counted from the CRS's origin, so that a crop of a
    scene is cut along the same lines, and the network sees the same windows. A scene smaller
    than a core gets one tile of its own size (rounded up to the stride).
    """
    core = settings.core or card.core
    halo = card.halo if settings.halo is None else settings.halo
    if settings.origin is not None:
        return Tiling(core, halo, settings.origin, card.join_threshold)
    least = working.georef.phase(STRIDE)
    need = max(n + p for n, p in zip(working.georef.shape, least, strict=True))
    if settings.core is None and need <= core:
        core = max(-(-need // STRIDE) * STRIDE, 2 * halo)
        phase = least
    else:
        phase = working.georef.phase(core)
    return Tiling(core, halo, ((-phase[0]) % core, (-phase[1]) % core), card.join_threshold)


def _tiles_per_side(grid: TileGrid) -> int:
    """Choose the region size from the grid alone, so that a resumed run cuts alike.

    Bigger regions read less twice and ask less of the scheduler: the Banepa scene (24 tiles with
    a halo of 128 px, JPEG) takes 4.2 CPU seconds to read tile by tile, 2.6 in regions of 2 x 2,
    2.4 in one. Their number keeps workers evenly busy. A row of a region's tiles is in memory at a
    time: 4 x 4 tiles of 1024 px take 100 MB more than 2 x 2 (32,768^2: 658 for 547 to 611 MB), so
    only scenes that would keep the scheduler busy with regions (about 370,000^2 px) have them.
    """
    few = 6 if grid.core >= _BLOCK_PX else 32  # where tiles are tiny, so is what reading costs
    for k, least in ((4, 8192), (2, few)):
        if len(RegionGrid(grid, k)) >= least:
            return k
    return 1


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take, before it starts."""

    shape: tuple[int, int]
    gsd_m: float | None
    tiles: int
    regions: int
    work_mb: float
    ram_mb: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def estimate(plan: Plan, mpx_per_s: float, processes: int = 1) -> Estimate:
    """Estimate tiles, disk, memory and time from the grid and a measured network speed.

    `mpx_per_s` is the network's speed in million window pixels per second, all processes together.
    """
    window_px = plan.grid.window_shape[0] * plan.grid.window_shape[1]
    side = plan.k * plan.grid.core + 2 * plan.grid.halo
    network = _RAM_BYTES_PER_PX * window_px * plan.batch
    ram = processes * (_RAM_BYTES + network + _READ_BYTES_PER_PX * side * side)
    px = plan.grid.shape[0] * plan.grid.shape[1]
    return Estimate(
        shape=plan.grid.shape,
        gsd_m=plan.scene.georef.gsd_m,
        tiles=len(plan.grid),
        regions=len(plan.regions),
        work_mb=_WORK_BYTES_PER_PX * px / 1e6,
        ram_mb=ram / 1e6,
        seconds=len(plan.grid) * window_px / 1e6 / mpx_per_s,
    )
