"""The Python door of the main job."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from geopanoptic.errors import ConfigError
from geopanoptic.grid import Tiling
from geopanoptic.models import DEFAULT_MODEL
from geopanoptic.panoptic_map import PanopticMap
from geopanoptic.predict.run import Execution, run
from geopanoptic.predict.settings import PredictSettings, Products, product_kind
from geopanoptic.workers import EngineSpec


def predict(
    scene: str | Path,
    model: Any = None,
    out: str | Path | list[str | Path] | None = None,
    *,
    tiling: Tiling | None = None,
    client: Any = None,
    settings: PredictSettings | None = None,
) -> PanopticMap:
    """Predict a panoptic map of a scene and open it.

    `scene`: path or URI of any raster GDAL reads. `model`: a bundled name, a model file, or a
    Segmenter object; None = the default model. `out`: one or several paths whose suffixes pick
    the products (existing ones are replaced); None makes a map directory in a temporary folder.
    `tiling` overrides core and halo (pixels). `client`: a connected dask.distributed.Client
    whose workers do the work; None works in this process.

    Returns the map. Failed tiles are nodata in it, warned about, and listed in
    `map.info.run["failed_tiles"]`. Raises SceneError, CheckpointError, ConfigError, StoreError
    with the cure, before the work where that can be known.
    """
    settings = settings or PredictSettings()
    if tiling is not None:
        settings = replace(settings, core=tiling.core, halo=tiling.halo)
    outs = [out] if isinstance(out, str | Path) else list(out or [])
    if not any(product_kind(p) in ("map", "raster") for p in outs):
        folder = Path(tempfile.mkdtemp(prefix="geopanoptic-"))
        outs.append(folder / f"{Path(str(scene)).stem or 'scene'}.panoptic")
    products = Products.to(outs, overwrite=True)
    engine = EngineSpec(scheduler=_address(client)) if client is not None else EngineSpec()
    outcome = run(str(scene), model or DEFAULT_MODEL, products, settings, Execution(engine=engine))
    if outcome.failed_tiles:
        warnings.warn(
            f"{len(outcome.failed_tiles)} tiles failed and are nodata in the map; the first: "
            f"{next(iter(outcome.failed_tiles.values()))}",
            UserWarning,
            stacklevel=2,
        )
    maps = products.of_kind("map")
    if maps:
        return PanopticMap.open(maps[0])
    from geopanoptic.predict.settings import instances_beside

    semantic = products.of_kind("raster")[0]
    return PanopticMap.open(f"{semantic},{instances_beside(semantic)}")


def _address(client: Any) -> str:
    try:
        return str(client.scheduler.address)
    except AttributeError as why:
        raise ConfigError(
            f"client is a {type(client).__name__}; give a connected dask.distributed.Client"
        ) from why
