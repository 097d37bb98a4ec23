"""From what the user names to pairs of maps on one grid, with their classes brought together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from geopanoptic.errors import SceneError, SchemaError
from geopanoptic.evaluate.classes import ClassChoice, CommonClasses, common_classes
from geopanoptic.evaluate.settings import EvaluateSettings
from geopanoptic.evaluate.sources import Limits, on_grid
from geopanoptic.georef import GeoRef
from geopanoptic.metrics import Sides
from geopanoptic.panoptic_map import FieldChoice, PanopticMap, is_vector, open_maps
from geopanoptic.schema import LabelSchema

MapLike = str | Path | PanopticMap

GROUND_M = 1000.0  # edge of a bootstrap block on the ground
GROUND_CELLS = 32  # blocks across a scene that is too small (or unmeasured) for such blocks
_ENOUGH = 16  # that many blocks of GROUND_M make a bootstrap


@dataclass(frozen=True, slots=True)
class ScenePair:
    """One prediction and its truth on the prediction's grid.

    `ground` = (edge px, blocks down, blocks across) of the bootstrap. `boundary_px`: the
    boundary tolerance, 0 = not asked for.
    """

    truth: PanopticMap
    pred: PanopticMap
    sides: Sides
    ground: tuple[int, int, int]
    boundary_px: int = 0

    @property
    def georef(self) -> GeoRef:
        return self.pred.georef


@dataclass(frozen=True, slots=True)
class Pairs:
    """All pairs of an evaluation and the classes they share."""

    pairs: tuple[ScenePair, ...]
    classes: CommonClasses
    has_objects: bool
    keep_stuff: bool


def make_pairs(named: Sequence[tuple[MapLike, MapLike]], settings: EvaluateSettings) -> Pairs:
    """Open (prediction, truth) pairs; COCO files with several images make several pairs.

    Raises SceneError or SchemaError when files, grids, images or classes do not fit.
    """
    opened: list[tuple[PanopticMap, PanopticMap]] = []
    for pred, truth in named:
        opened += _open_pair(pred, truth, settings)
    opened = _same_loose_classes(opened)
    if not opened:
        raise SceneError("there is nothing to evaluate: the truth holds no image")
    keep = settings.stuff_segments == "keep" or (
        settings.stuff_segments == "auto" and all(p.stuff_ids and t.stuff_ids for p, t in opened)
    )
    choice = ClassChoice.read(settings.class_map, settings.void_classes, keep)
    first = common_classes(opened[0][1], opened[0][0], choice)
    several = len(opened) > 1
    pairs = []
    for pred, truth in opened:
        classes = common_classes(truth, pred, choice)
        if classes.classes != first.classes:
            raise SceneError(
                f"{truth.name} and {opened[0][1].name} do not have the same classes, so their "
                f"figures cannot be summed"
            )
        source = on_grid(truth, pred, settings.resample_truth)
        source = Limits(settings.aoi, settings.mask).apply(source, pred.georef)
        ground = _ground(pred.georef, several)
        tolerance = settings.tolerance
        pairs.append(
            ScenePair(
                replace(truth, source=source),
                pred,
                Sides(classes.truth, classes.pred, classes.count, ground[0], ground[2]),
                ground,
                tolerance.pixels(pred.georef) if tolerance else 0,
            )
        )
    has_objects = all(p.has_instances and t.has_instances for p, t in opened)
    return Pairs(tuple(pairs), first, has_objects, keep)


def _same_loose_classes(
    opened: list[tuple[PanopticMap, PanopticMap]],
) -> list[tuple[PanopticMap, PanopticMap]]:
    """Give bare rasters of several pairs the classes of all of them: one may lack some class."""
    loose = [m for pair in opened for m in pair if m.loose_kinds]
    if len(opened) < 2 or not loose:
        return opened
    specs = {c.id: c for m in loose for c in m.schema.classes}
    specs |= {c.id: c for m in loose for c in m.schema.classes if c.is_thing}
    try:
        schema = LabelSchema(tuple(specs.values()))
    except SchemaError:
        return opened  # they name their classes differently: what follows tells of it
    return [
        tuple(replace(m, info=replace(m.info, schema=schema)) if m.loose_kinds else m for m in pair)  # type: ignore[misc]
        for pair in opened
    ]


def _ground(georef: GeoRef, several: bool) -> tuple[int, int, int]:
    height, width = georef.shape
    gsd = georef.gsd_m
    edge = max(1, round(GROUND_M / gsd)) if gsd else 0
    if edge == 0 or -(-height // edge) * -(-width // edge) < _ENOUGH:
        # without metres several images are their own blocks: pixels of photos are no ground
        whole = max(height, width)
        edge = whole if several and not gsd else max(1, -(-whole // GROUND_CELLS))
    return edge, -(-height // edge), -(-width // edge)


def _open_pair(
    pred: MapLike, truth: MapLike, settings: EvaluateSettings
) -> list[tuple[PanopticMap, PanopticMap]]:
    """Open one pair; the side that names its classes lends them to the other."""
    of_truth = FieldChoice(settings.truth_class_field, settings.crowd_field)
    of_pred = FieldChoice(settings.pred_class_field)
    if _is_vector(pred):
        truths = _open(truth, None, None, of_truth)
        preds = _open(pred, truths[0].georef, truths[0].schema, of_pred)
    elif _is_plain(pred) and not _is_vector(truth):
        truths = _open(truth, None, None, of_truth)
        lent = None if truths[0].loose_kinds else truths[0].schema
        preds = _open(pred, None, lent, of_pred)
        if lent is None:
            truths = _open(truth, None, None, of_truth)
    else:
        try:
            preds = _open(pred, None, None, of_pred)
        except SceneError:
            if not _is_coco(pred):
                raise
            # a COCO prediction without categories takes the truth's
            preds = _open(pred, None, _open(truth, None, None, of_truth)[0].schema, of_pred)
        truths = _open(truth, preds[0].georef, preds[0].schema, of_truth)
    return _by_image(preds, truths)


def _by_image(
    preds: list[PanopticMap], truths: list[PanopticMap]
) -> list[tuple[PanopticMap, PanopticMap]]:
    if len(preds) == len(truths) == 1:
        return [(preds[0], truths[0])]
    by_key = {p.name.rpartition("#")[2]: p for p in preds}
    keys = [t.name.rpartition("#")[2] for t in truths]
    missing = [k for k in keys if k not in by_key]
    if missing:
        raise SceneError(
            f"{len(missing)} of {len(keys)} truth images have no prediction: "
            f"{', '.join(missing[:5])}; predict them, or take them out of the truth"
        )
    return [(by_key[k], t) for k, t in zip(keys, truths, strict=True)]


def _open(
    named: MapLike, like: GeoRef | None, schema: LabelSchema | None, fields: FieldChoice
) -> list[PanopticMap]:
    if isinstance(named, PanopticMap):
        return [named]
    if schema is not None and fields.class_field is None:
        things = [c.name for c in schema.things]
        only = "building" if "building" in things or not things else things[0]
        fields = replace(fields, only_class=only)
    return open_maps(named, like=like, schema=schema, fields=fields)


def _is_vector(named: MapLike) -> bool:
    return not isinstance(named, PanopticMap) and is_vector(named)


def _is_coco(named: MapLike) -> bool:
    return not isinstance(named, PanopticMap) and str(named).lower().endswith(".json")


def _is_plain(named: MapLike) -> bool:
    """Tell whether a map comes as bare rasters, which seldom name their classes."""
    return (
        not isinstance(named, PanopticMap)
        and not Path(named).is_dir()
        and not _is_coco(named)
        and not is_vector(named)
    )


def both_vector(named: Sequence[tuple[MapLike, MapLike]]) -> bool:
    """Tell whether every pair is two vector files, which are compared without pixels."""
    return all(_is_vector(p) and _is_vector(t) for p, t in named)
