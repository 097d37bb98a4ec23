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
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import CheckpointError, SceneError, nearest_name
from geopanoptic.models.confidence import SCORE_KEYS, ScoreModel, modelled
from geopanoptic.models.segmenter import Fields, Segmented, TwoHalves
from geopanoptic.schema import LabelSchema
from geopanoptic.segments import SCORE_ONE

if TYPE_CHECKING:
    from geopanoptic.models.card import ModelCard

NONE: Mapping[str, ScoreModel] = {}


@dataclass(frozen=True, slots=True)
class ThingRows:
    """What every decoder asks of the classes, one row per thing class in the order of `things`.

    `channels` of the thing and stuff classes in the semantic field; `region`: probability from
    which a pixel is claimed; `score`: mean probability below which a segment returns to stuff;
    `area_px`: the same for specks that do not touch the window's rim; `score_model` (row, 3): the
    coefficients of `confidence` that make a segment's score, NaN where it is the mean probability.
    """

    things: npt.NDArray[np.uint8]
    stuff: npt.NDArray[np.uint8]
    thing_channels: npt.NDArray[np.int64]
    stuff_channels: npt.NDArray[np.int64]
    region: npt.NDArray[np.float32]
    score: npt.NDArray[np.float32]
    area_px: npt.NDArray[np.int64]
    score_model: npt.NDArray[np.float64]

    @classmethod
    def read(
        cls,
        schema: LabelSchema,
        thresholds: Mapping[str, float],
        keys: tuple[str, ...],
        score_model: Mapping[str, ScoreModel] = NONE,
    ) -> tuple[ThingRows, dict[str, npt.NDArray[np.float32]]]:
        """Read the thresholds `<class>_<key>`; return the rows and the columns of all keys.

        Every thing class needs all of them; CheckpointError when one is unknown or lacking.
        """
        wanted = {f"{c.name}_{key}" for c in schema.things for key in keys}
        for key in thresholds:
            if key not in wanted:
                raise CheckpointError(f"unknown threshold '{key}'{nearest_name(key, wanted)}")
        if missing := sorted(wanted - set(thresholds)):
            raise CheckpointError(f"the card lacks the threshold {', '.join(missing)}")
        column = {
            key: np.array([thresholds[f"{c.name}_{key}"] for c in schema.things], np.float32)
            for key in keys
        }
        rows = cls(
            things=np.array([c.id for c in schema.things], np.uint8),
            stuff=np.array([c.id for c in schema.stuff], np.uint8),
            thing_channels=np.array([schema.ids.index(c.id) for c in schema.things], np.int64),
            stuff_channels=np.array([schema.ids.index(c.id) for c in schema.stuff], np.int64),
            region=column["region"],
            score=column["score"],
            area_px=column["area_px"].astype(np.int64),
            score_model=np.array(
                [
                    [
                        score_model[c.name][k] if c.name in score_model else np.nan
                        for k in SCORE_KEYS
                    ]
                    for c in schema.things
                ],
                np.float64,
            ).reshape(-1, len(SCORE_KEYS)),
        )
        return rows, column


class Decoder(Protocol):
    """Turns the fields of one tile (no leading axis) and its valid pixels into rasters."""

    def decode(self, fields: Fields, valid: npt.NDArray[np.bool_]) -> Segmented: ...


class DecodesFields(TwoHalves):
    """A segmenter of dense fields: its `decoder` is the one that its card names."""

    decoder: Decoder

    def decode(self, fields: Fields, valid: npt.NDArray[np.bool_]) -> Segmented:
        """Decode the fields of one tile (no leading axis); see `decoder_of`."""
        return self.decoder.decode(fields, valid)


def decoder_of(card: ModelCard) -> Decoder:
    """Return the decoder that a card names; CheckpointError when this program has none such."""
    from geopanoptic.models.centers import CentersDecoder, ComponentsDecoder

    kinds: dict[str, Any] = {
        "seeded": SeededDecoder, "centers": CentersDecoder, "components": ComponentsDecoder,
    }  # fmt: skip
    if card.decoder not in kinds:
        raise CheckpointError(
            f"the model '{card.name}' wants the decoder '{card.decoder}'; this program has "
            f"{', '.join(map(repr, kinds))}: update geopanoptic"
        )
    decoder: Decoder = kinds[card.decoder].from_card(card)
    return decoder


@dataclass(frozen=True, slots=True)
class Classified:
    """Best stuff, region (row + 1 of the thing class that claims a pixel), claim and score."""

    stuff: npt.NDArray[np.uint8]
    region: npt.NDArray[np.uint8]
    claim: npt.NDArray[np.uint8]
    score: npt.NDArray[np.uint8]


def classified(semantic: Any, valid: npt.NDArray[np.bool_], rows: ThingRows) -> Classified:
    """Decide stuff and claims pixel by pixel; SceneError when a valid pixel is not finite."""
    from geopanoptic.models import flood

    stuff, region, claim, score, bad = flood.classify(semantic, valid, rows)
    if bad:
        raise SceneError(
            f"the network answers with NaN or infinity on {bad} of {valid.size} pixels; "
            "check the scene's values (NaN that is not marked as nodata, huge numbers)"
        )
    return Classified(stuff, region, claim, score)


def answer(
    found: Classified, label: Any, class_row: npt.NDArray[np.int64], rows: ThingRows
) -> Segmented:
    """Drop doubtful segments and specks; put stuff, instances and scores together.

    The score of a thing's pixels is their probability, or where its class has a score model, that
    of the whole segment.
    """
    from geopanoptic.models import flood

    if not len(rows.things):
        none = np.zeros(found.stuff.shape, np.int32)
        return Segmented(found.stuff, none, np.zeros(1, np.uint8), found.score)
    instance, kept = flood.settle(label, found.claim, class_row, rows)
    class_of = np.zeros(len(kept.mean) + 1, np.uint8)
    class_of[1:] = rows.things[kept.row]
    score = np.where(instance > 0, found.claim, found.score)
    if np.isfinite(rows.score_model).any():
        sure = modelled(rows.score_model[kept.row], kept.mean, kept.outline)
        has = np.isfinite(sure)
        whole = np.zeros(len(sure) + 1, np.uint8)
        whole[1:][has] = np.round(sure[has] * SCORE_ONE)
        score = np.where(np.concatenate([[False], has])[instance], whole[instance], score)
    return Segmented(found.stuff, instance, class_of, score)


@dataclass(frozen=True, slots=True)
class SeededDecoder:
    """Settings of the decoder, one row per thing class.

    `ratio`: of saddle to lower peak below which two tops are two things; `peak`: strength a top
    needs to be one (bytes).
    """

    rows: ThingRows
    ratio: npt.NDArray[np.float32]
    peak: npt.NDArray[np.uint8]

    KEYS = ("region", "ratio", "peak", "score", "area_px")

    @classmethod
    def from_card(cls, card: ModelCard) -> SeededDecoder:
        """Read the thresholds `<class>_<what>` of a card; CheckpointError when one is amiss."""
        return cls.from_thresholds(card.schema, card.thresholds, card.score_model)

    @classmethod
    def from_thresholds(
        cls,
        schema: LabelSchema,
        thresholds: Mapping[str, float],
        score_model: Mapping[str, ScoreModel] = NONE,
    ) -> SeededDecoder:
        """Make the decoder of a schema; every thing class needs all of the thresholds."""
        rows, column = ThingRows.read(schema, thresholds, cls.KEYS, score_model)
        peak = np.clip(np.round(column["peak"] * 255), 1, 255).astype(np.uint8)
        return cls(rows, column["ratio"], peak)

    def decode(self, fields: Fields, valid: npt.NDArray[np.bool_]) -> Segmented:
        """Decode one tile from the fields `semantic` and `strength`."""
        return self(fields["semantic"], fields["strength"], valid)

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

        found = classified(semantic, valid, self.rows)
        priority = flood.quantised(strength, found.region)
        label, class_row = flood.seeds(priority, found.region, self.ratio, self.peak)
        flood.grow(priority, found.region, label)
        return answer(found, label, class_row, self.rows)
