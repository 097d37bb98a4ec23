"""The tool: named maps in, figures and named files out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geopanoptic.errors import ConfigError
from geopanoptic.evaluate.pairing import MapLike, both_vector, make_pairs
from geopanoptic.evaluate.polygons import PolygonScene, evaluate_polygons
from geopanoptic.evaluate.scene import Scene
from geopanoptic.evaluate.series import map_series
from geopanoptic.evaluate.settings import EvaluateSettings
from geopanoptic.evaluate.summary import summarise
from geopanoptic.evaluate.walk import Progress, Walk, count_pairs
from geopanoptic.store import atomic_output, check_output
from geopanoptic.workers import EngineSpec
from geopanoptic.workers.spec import available_cores

BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Outputs:
    """Files to write: `json`, `errors` (GeoPackage), `html`; None = not wanted.

    `image`: a raster on the prediction's grid, shown behind the examples of the HTML page.
    """

    json: Path | None = None
    errors: Path | None = None
    html: Path | None = None
    overwrite: bool = False
    image: str | None = None

    def check(self) -> None:
        """Refuse outputs that could not be written, before any work (StoreError)."""
        for path, suffix in ((self.json, ".json"), (self.errors, ".gpkg"), (self.html, ".html")):
            if path is not None:
                check_output(path, self.overwrite, {suffix})


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` returns: `result` is the JSON object, `scenes` the counted pairs.

    Of two vector files there are `polygons` instead of counted pairs.
    """

    result: dict[str, Any]
    scenes: tuple[Scene, ...] = field(default=(), repr=False)
    polygons: tuple[PolygonScene, ...] = field(default=(), repr=False)

    def to_json(self) -> str:
        """Return the JSON text: the same bytes for any block size and number of workers."""
        return json.dumps(self.result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def __getitem__(self, name: str) -> Any:
        return self.result[name]


def evaluate(
    pred: MapLike | Sequence[MapLike],
    truth: MapLike | Sequence[MapLike],
    settings: EvaluateSettings | None = None,
    outputs: Outputs | None = None,
    engine: EngineSpec | None = None,
    *,
    walk: tuple[int, Progress | None] = (BLOCK, None),
) -> Evaluation:
    """Score the map `pred` against `truth`: Panoptic Quality and more, over whole scenes.

    Both may be a map directory, COCO panoptic X.json (with X/), 'SEMANTIC.tif,INSTANCES.tif', a
    class raster, a vector file, an open PanopticMap, or equally long lists of these, whose
    statistics are summed; with `settings.series` they are the dates of one series. `engine`: where
    blocks are counted (default: threads of this process). `walk` = (edge of a block in px,
    progress callback): neither changes a figure.

    Raises SceneError, SchemaError, StoreError or ConfigError, each with the cure.
    """
    settings, outputs = settings or EvaluateSettings(), outputs or Outputs()
    preds = [pred] if isinstance(pred, MapLike) else list(pred)
    truths = [truth] if isinstance(truth, MapLike) else list(truth)
    named = list(zip(preds, truths, strict=True))
    outputs.check()
    if both_vector(named):
        result, compared = _polygon_figures(_paths(named), settings)
        return _written(Evaluation(result, polygons=tuple(compared)), outputs)
    pairs = make_pairs(named, settings)
    spec = engine or EngineSpec(threads=min(available_cores(), 4))
    counted = count_pairs(Walk.over(pairs.pairs, walk[0]), spec, walk[1])
    scenes = tuple(
        Scene.of(pair, count, pairs, settings)
        for pair, count in zip(pairs.pairs, counted, strict=True)
    )
    result = summarise(scenes, pairs, settings)
    if settings.series:
        result["series"], warnings = map_series(scenes, pairs, settings)
        result["warnings"] += warnings
    return _written(Evaluation(result, scenes), outputs)


def _polygon_figures(
    named: list[tuple[str | Path, str | Path]], settings: EvaluateSettings
) -> tuple[dict[str, Any], list[PolygonScene]]:
    if not settings.series:
        return evaluate_polygons(named, settings)
    if len(named) > 1:
        raise ConfigError(
            f"--series takes one vector file with all dates on each side, not {len(named)} pairs"
        )
    from geopanoptic.evaluate.polygon_series import evaluate_polygon_series

    return evaluate_polygon_series(*named[0], settings)


def _paths(named: Sequence[tuple[MapLike, MapLike]]) -> list[tuple[str | Path, str | Path]]:
    """Return the pairs as paths, which pairs of vector files are."""
    return [(p, t) for p, t in named if isinstance(p, str | Path) and isinstance(t, str | Path)]


def _written(found: Evaluation, outputs: Outputs) -> Evaluation:
    """Write what is asked for; all of it appears when the last is done."""
    with ExitStack() as stack:

        def place(final: Path) -> Path:
            return stack.enter_context(atomic_output(final, outputs.overwrite))

        if outputs.json is not None:
            place(outputs.json).write_text(found.to_json(), encoding="utf-8")
        if outputs.errors is not None:
            from geopanoptic.evaluate.errors_layer import write_errors

            write_errors(place(outputs.errors), found.scenes, found.polygons)
        if outputs.html is not None:
            from geopanoptic.evaluate.page import page

            place(outputs.html).write_text(page(found, outputs.image), encoding="utf-8")
    return found
