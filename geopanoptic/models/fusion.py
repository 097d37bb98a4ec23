"""From a set of scored masks to rasters: who owns a pixel. Plain numpy.

The rule of the field (Kirillov et al. 2019, "Panoptic segmentation", section 4): a pixel claimed by
an instance takes its class and id, else the stuff class; conflicts between instances go to the
higher score; what is small or mostly hidden returns to stuff; no pixel has two labels. Queries of
DETR's kin settle conflicts pixel by pixel (Cheng et al. 2021, "MaskFormer", section 3.4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import CheckpointError, nearest_name
from geopanoptic.models.segmenter import Fields, Segmented
from geopanoptic.schema import NODATA, VOID, LabelSchema
from geopanoptic.segments import SCORE_NONE, SCORE_ONE

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class MaskSet:
    """Masks of one chip: the class id (q,) and score (q,) of each, and its probability (h, w).

    `prob(i)` makes the i-th mask when it is asked for: a hundred of them at once would not fit.
    """

    class_id: npt.NDArray[np.uint8]
    score: Floats
    prob: Callable[[int], Floats]


@dataclass(frozen=True, slots=True)
class FusionRules:
    """Thresholds of a card whose decoder is `paste` or `queries`.

    `score`: least score of a mask that may claim pixels. `mask`: probability from which a pixel
    belongs to a mask. `visible`: share of a mask that must be left when stronger ones have taken
    theirs. `stuff`: confidence below which stuff is void. `area_px`: least area of a thing that
    does not touch the rim.
    """

    score: float = 0.5
    mask: float = 0.5
    visible: float = 0.5
    stuff: float = 0.0
    area_px: float = 1.0

    @classmethod
    def from_thresholds(cls, thresholds: Mapping[str, float]) -> FusionRules:
        """Read a card's thresholds; CheckpointError names an unknown one."""
        known = [f.name for f in fields(cls)]
        for key in thresholds:
            if key not in known:
                raise CheckpointError(f"unknown threshold '{key}'{nearest_name(key, known)}")
        return cls(**thresholds)


@dataclass(slots=True)
class Canvas:
    """Rasters under work (h, w): stuff, its confidence, instance (0 none), its class, claim."""

    stuff: npt.NDArray[np.uint8]
    stuff_value: Floats
    instance: npt.NDArray[np.int32]
    thing: npt.NDArray[np.uint8]
    claim: Floats

    @classmethod
    def blank(cls, shape: tuple[int, int]) -> Canvas:
        return cls(
            np.full(shape, VOID, np.uint8),
            np.zeros(shape, np.float32),
            np.zeros(shape, np.int32),
            np.zeros(shape, np.uint8),
            np.zeros(shape, np.float32),
        )

    def paint_stuff(self, value: Floats, class_id: int) -> None:
        """Give pixels to a stuff class where it is more confident than what stands there."""
        better = value > self.stuff_value
        self.stuff[better] = class_id
        self.stuff_value[better] = value[better]

    def paint_thing(self, where: npt.NDArray[np.bool_], number: int, class_id: int) -> None:
        self.instance[where] = number
        self.thing[where] = class_id

    def to_fields(self, rules: FusionRules) -> Fields:
        """Return the rasters as fields, stuff below the rules' confidence as void."""
        self.stuff[self.stuff_value < rules.stuff] = VOID
        return {
            "stuff": self.stuff,
            "stuff_score": _bytes(self.stuff_value),
            "instance": self.instance,
            "thing": self.thing,
            "claim": _bytes(self.claim),
        }


def paste(
    masks: MaskSet, semantic: Mapping[int, Floats], shape: tuple[int, int], rules: FusionRules
) -> Fields:
    """Paste masks of things from the highest score down, over the best stuff class.

    `semantic`: probability (h, w) of each stuff class id. Law: of two overlapping masks the one
    with the higher score keeps its pixels whole; equal scores go in the order of the set.
    """
    canvas = Canvas.blank(shape)
    for class_id, value in semantic.items():
        canvas.paint_stuff(value, class_id)
    number = 0
    for q in np.argsort(-masks.score, kind="stable"):
        if masks.score[q] < rules.score:
            break
        own = masks.prob(int(q)) >= rules.mask
        free = own & (canvas.instance == 0)
        if not free.any() or free.sum() < rules.visible * own.sum():
            continue
        number += 1
        canvas.paint_thing(free, number, int(masks.class_id[q]))
        canvas.claim[free] = masks.score[q]
    return canvas.to_fields(rules)


def by_queries(
    masks: MaskSet, schema: LabelSchema, shape: tuple[int, int], rules: FusionRules
) -> Fields:
    """Give each pixel to the mask with the greatest score times probability.

    Masks of stuff classes compete with those of things, and the best of them is the stuff beneath
    things. Law: the order of the masks does not matter but for exact ties.
    """
    canvas = Canvas.blank(shape)
    best, held = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    owner = np.full(shape, -1, np.int32)
    whole = np.zeros(len(masks.score), np.int64)
    for q in range(len(masks.score)):
        stuff = not schema.is_thing(int(masks.class_id[q]))
        if not stuff and masks.score[q] < rules.score:
            continue
        prob = masks.prob(q)
        value = prob * masks.score[q]
        if stuff:
            canvas.paint_stuff(value, int(masks.class_id[q]))
        if masks.score[q] < rules.score:
            continue
        whole[q] = int((prob >= rules.mask).sum())
        better = value > best
        best[better], held[better], owner[better] = value[better], prob[better], q
    number = 0
    for q in np.unique(owner[owner >= 0]):
        if not schema.is_thing(int(masks.class_id[q])):
            continue
        own = (owner == q) & (held >= rules.mask)
        if not own.any() or own.sum() < rules.visible * whole[q]:
            continue
        number += 1
        canvas.paint_thing(own, number, int(masks.class_id[q]))
        canvas.claim[own] = masks.score[q]
    return canvas.to_fields(rules)


def decode_rasters(fields: Fields, valid: npt.NDArray[np.bool_], rules: FusionRules) -> Segmented:
    """Turn the fields of one tile (cropped, no leading axis) into its rasters.

    Laws: stuff is 0 exactly where not valid; ids are 1..n in the order of the set; a thing of less
    than `rules.area_px` is dropped unless the window's rim may have cut it.
    """
    found = np.where(valid, fields["instance"], 0)
    ids, compact = np.unique(found, return_inverse=True)
    compact = compact.reshape(found.shape)
    area = np.bincount(compact.ravel(), minlength=len(ids))
    rim = np.zeros(len(ids), bool)
    for line in (compact[0], compact[-1], compact[:, 0], compact[:, -1]):
        rim[line] = True
    keep = (ids > 0) & (rim | (area >= rules.area_px))
    number = np.zeros(len(ids), np.int32)
    number[keep] = np.arange(1, keep.sum() + 1)
    instance = number[compact]
    class_of = np.zeros(int(keep.sum()) + 1, np.uint8)
    class_of[instance] = np.where(instance > 0, fields["thing"], 0)
    score = np.where(instance > 0, fields["claim"], fields["stuff_score"]).astype(np.uint8)
    stuff = np.where(valid, fields["stuff"], NODATA).astype(np.uint8)
    return Segmented(stuff, instance, class_of, np.where(valid, score, SCORE_NONE).astype(np.uint8))


def _bytes(value: Floats) -> npt.NDArray[np.uint8]:
    return np.round(np.clip(value, 0, 1) * SCORE_ONE).astype(np.uint8)
