"""Decode dense fields to a panoptic tile: stuff by arg-max, things by seeds and bounded growth.

A thing class claims the pixels where its probability reaches a threshold. Inside that region the
instances are split by a watershed on the *strength* field, distance to the outline times
(1 - contact): two tops are two instances when the saddle between them is deep for their height,
and both grow downhill until they meet or the region ends. Everything a pixel's fate depends on lies
within a thing's own region, so a halo wider than a thing decides it as the whole scene would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import CheckpointError, SceneError, nearest_name
from geopanoptic.models.segmenter import Segmented
from geopanoptic.schema import LabelSchema

if TYPE_CHECKING:
    from geopanoptic.models.card import ModelCard

_KEYS = ("region", "ratio", "peak", "score", "area_px")


@dataclass(frozen=True, slots=True)
class SeededDecoder:
    """Settings of the decoder, one row per thing class in the order of `things`.

    `channels` of the thing and stuff classes in the semantic field; `region`: probability from
    which a pixel is claimed; `ratio`: of saddle to lower peak below which two tops are two things;
    `peak`: strength a top needs to be one; `score`: mean probability below which a segment
    returns to stuff; `area_px`: the same for specks that do not touch the window's rim.
    """

    things: npt.NDArray[np.uint8]
    stuff: npt.NDArray[np.uint8]
    thing_channels: npt.NDArray[np.int64]
    stuff_channels: npt.NDArray[np.int64]
    region: npt.NDArray[np.float32]
    ratio: npt.NDArray[np.float32]
    peak: npt.NDArray[np.uint8]
    score: npt.NDArray[np.float32]
    area_px: npt.NDArray[np.int64]

    @classmethod
    def from_card(cls, card: ModelCard) -> SeededDecoder:
        """Read the thresholds `<class>_<what>` of a card; CheckpointError when one is amiss."""
        if card.decoder != "seeded":
            raise CheckpointError(
                f"the model '{card.name}' wants the decoder '{card.decoder}'; this program has "
                "'seeded': update geopanoptic"
            )
        return cls.from_thresholds(card.schema, card.thresholds)

    @classmethod
    def from_thresholds(cls, schema: LabelSchema, thresholds: Mapping[str, float]) -> SeededDecoder:
        """Make the decoder of a schema; every thing class needs all of them."""
        wanted = {f"{c.name}_{key}" for c in schema.things for key in _KEYS}
        for key in thresholds:
            if key not in wanted:
                raise CheckpointError(f"unknown threshold '{key}'{nearest_name(key, wanted)}")
        if missing := sorted(wanted - set(thresholds)):
            raise CheckpointError(f"the card lacks the threshold {', '.join(missing)}")
        rows = [[thresholds[f"{c.name}_{key}"] for key in _KEYS] for c in schema.things]
        table = np.array(rows, np.float32).reshape(-1, len(_KEYS))
        return cls(
            things=np.array([c.id for c in schema.things], np.uint8),
            stuff=np.array([c.id for c in schema.stuff], np.uint8),
            thing_channels=np.array([schema.ids.index(c.id) for c in schema.things], np.int64),
            stuff_channels=np.array([schema.ids.index(c.id) for c in schema.stuff], np.int64),
            region=table[:, 0].copy(),
            ratio=table[:, 1].copy(),
            peak=np.clip(np.round(table[:, 2] * 255), 1, 255).astype(np.uint8),
            score=table[:, 3].copy(),
            area_px=table[:, 4].astype(np.int64),
        )

    def __call__(
        self, semantic: npt.NDArray[np.float32], strength: Any, valid: npt.NDArray[np.bool_]
    ) -> Segmented:
        """Decode one tile.

        `semantic` (class, h, w): probabilities in the schema's order; `strength` (h, w) in 0..1;
        `valid` (h, w): where there is a measurement. Laws: stuff is 0 exactly where not valid;
        an instance is one 4-connected piece of one class inside its region; ids are 1..n in the
        order of their seeds. Raises SceneError when a valid pixel has no finite probability.
        """
        from geopanoptic.models import flood

        stuff, region, claim, score, bad = flood.classify(semantic, valid, self)
        if bad:
            raise SceneError(
                f"the network answers with NaN or infinity on {bad} of {valid.size} pixels; "
                "check the scene's values (NaN that is not marked as nodata, huge numbers)"
            )
        priority = flood.quantised(strength, region)
        label, class_row = flood.seeds(priority, region, self.ratio, self.peak)
        flood.grow(priority, region, label)
        instance, kept = flood.settle(label, claim, class_row, self)
        class_of = np.zeros(len(kept) + 1, np.uint8)
        class_of[1:] = self.things[class_row[kept]]
        return Segmented(stuff, instance, class_of, np.where(instance > 0, claim, score))
