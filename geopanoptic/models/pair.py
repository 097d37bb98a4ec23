"""Two models over each other: the stuff of one, the things of the other (`SEMANTIC + INSTANCE`).

Any model that finds things (a detector, say) and any that tells land cover apart make a panoptic
model together: the rule of `fusion`, on rasters that each has decoded by its own rules.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import CheckpointError
from geopanoptic.models.card import ModelCard
from geopanoptic.models.engines import PAIR
from geopanoptic.models.segmenter import Fields, Segmented, Segmenter, TwoHalves
from geopanoptic.schema import LabelSchema

PLUS = " + "
MOST_CLASSES = 254  # ids 1..254; 0 is nodata, 255 void


def pair_card(stuff: ModelCard, things: ModelCard) -> ModelCard:
    """Return the card of two models together.

    Stuff classes and what goes with them come from the first, thing classes from the second; a
    thing's id that the first uses already becomes the lowest free one. Raises CheckpointError when
    they cannot look at the same pixels (other bands, values or GSD), one has nothing to give, or
    their classes do not fit: one name for stuff and for things, or more than 254 together.
    """
    for what in ("bands", "value_range", "percentiles"):
        one, other = getattr(stuff, what), getattr(things, what)
        if one != other:
            raise CheckpointError(
                f"'{stuff.name}' and '{things.name}' cannot work on one scene together: {what} is "
                f"{one} and {other}"
            )
    low = max(stuff.gsd_range_m[0], things.gsd_range_m[0])
    high = min(stuff.gsd_range_m[1], things.gsd_range_m[1])
    if low > high:
        raise CheckpointError(
            f"'{stuff.name}' works at {stuff.gsd_range_m} m, '{things.name}' at "
            f"{things.gsd_range_m} m: no pixel size suits both"
        )
    if not stuff.schema.stuff or not things.schema.things:
        raise CheckpointError(
            f"'{stuff.name}' must have stuff classes and '{things.name}' things; name the semantic "
            "model first"
        )
    _check_classes(stuff, things)
    sha256 = hashlib.sha256(f"{stuff.sha256}{things.sha256}".encode()).hexdigest()
    return replace(
        things,
        name=f"{stuff.name}{PLUS}{things.name}",
        version=f"{stuff.version}{PLUS}{things.version}",
        architecture=PAIR,
        arguments={"parts": [stuff.architecture, things.architecture]},
        schema=LabelSchema((*stuff.schema.stuff, *_things(stuff, things))),
        gsd_range_m=(low, high),
        preferred_gsd_m=min(max(things.preferred_gsd_m, low), high),
        core=max(stuff.core, things.core, 2 * max(stuff.halo, things.halo)),
        halo=max(stuff.halo, things.halo),
        decoder=PAIR,
        thresholds={},
        licence=f"{stuff.licence}; {things.licence}",
        sha256=sha256,
        training_data=(*stuff.training_data, *things.training_data),
        metrics=(),
        description="",
    )


def _check_classes(stuff: ModelCard, things: ModelCard) -> None:
    one = [c.name for c in stuff.schema.stuff]
    other = [c.name for c in things.schema.things]
    if both := sorted(set(one) & set(other)):
        raise CheckpointError(
            f"'{', '.join(both)}' is stuff of '{stuff.name}' and a thing of '{things.name}': a map "
            "cannot have both under one name; rename it in one of the cards"
        )
    if len(one) + len(other) > MOST_CLASSES:
        raise CheckpointError(
            f"'{stuff.name}' has {len(one)} stuff classes and '{things.name}' {len(other)} of "
            f"things; a map has at most {MOST_CLASSES} together"
        )


def _things(stuff: ModelCard, things: ModelCard) -> list[Any]:
    taken = {c.id for c in stuff.schema.stuff}
    keep = {c.id for c in things.schema.things} - taken
    free = (i for i in range(1, 255) if i not in taken | keep)
    return [c if c.id in keep else replace(c, id=next(free)) for c in things.schema.things]


class PairSegmenter(TwoHalves):
    """A Segmenter (see `segmenter.Segmenter`) of two others."""

    def __init__(self, stuff: Segmenter, things: Segmenter) -> None:
        self.card = pair_card(stuff.card, things.card)
        self._stuff, self._things = stuff, things
        self._class_of = np.zeros(256, np.uint8)
        for spec in things.card.schema.things:
            self._class_of[spec.id] = self.card.schema.by_name(spec.name).id

    def forward(self, chips: npt.NDArray[Any]) -> Fields:
        """Run both networks; the fields of each with `stuff/` or `things/` before their names."""
        found = {f"stuff/{k}": v for k, v in self._stuff.forward(chips).items()}
        return found | {f"things/{k}": v for k, v in self._things.forward(chips).items()}

    def decode(self, fields: Fields, valid: npt.NDArray[np.bool_]) -> Segmented:
        """Lay the things of the second model over the stuff of the first."""
        below, above = (
            model.decode(_named(fields, own), valid)
            for own, model in (("stuff/", self._stuff), ("things/", self._things))
        )
        score = np.where(above.instance > 0, above.score, below.score)
        return Segmented(below.stuff, above.instance, self._class_of[above.class_of], score)


def _named(fields: Fields, prefix: str) -> Fields:
    return {k.removeprefix(prefix): v for k, v in fields.items() if k.startswith(prefix)}
