"""The model card: what a model promises and what it was made of. No torch here."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from geopanoptic.errors import CheckpointError, SchemaError, nearest_name
from geopanoptic.models.confidence import ScoreModel, plausible
from geopanoptic.schema import LabelSchema

if TYPE_CHECKING:
    import numpy.typing as npt

    from geopanoptic.metrics import Knots

CARD_VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Decoders that read a score model; of a pair the one of things does.
_SCORES = ("seeded", "centers", "components", "pair")
_ONLY_SAID = ("metrics", "training_data", "licence", "description")  # nothing is computed from them


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The promise of a model file (contracts.md section 4).

    `architecture`: a key of `models.ARCHITECTURES` with its `arguments`. `bands`: names in the
    order the network takes them. `mean`, `std`: per band, in the unit of `value_range`; other
    value types are first brought to that range by the `percentiles` of the whole scene.
    `core`, `halo`: pixels of a tile; `decoder` with its `thresholds` (see `decode`);
    `least_area_m2`: per thing class, smaller ones return to stuff; `join_threshold`: IoU at which
    two views of a segment are one. `score_calibration`: per thing class the knots that turn the
    mean probability of a segment into the share of such segments that is right (made by
    `metrics.fit_calibration`); other classes keep it. `score_model`: per thing class the
    coefficients `bias`, `mean`, `outline` of `models.confidence` that make the score of a decoded
    segment; classes without keep the mean. `training_data` and `metrics` are lists of
    flat tables; `int8` is what `engines.precision.EightBit` knows of the model in 8 bits;
    `sha256` is `checkpoint.weights_digest` of the tensors.

    Raises CheckpointError for values that no model can mean (`from_json` does so for a file).
    """

    name: str
    version: str
    architecture: str
    arguments: Mapping[str, Any]
    schema: LabelSchema
    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    gsd_range_m: tuple[float, float]
    preferred_gsd_m: float
    core: int
    halo: int
    decoder: str
    thresholds: Mapping[str, float]
    licence: str
    sha256: str
    value_range: tuple[float, float] = (0.0, 255.0)
    percentiles: tuple[float, float] = (2.0, 98.0)
    join_threshold: float = 0.25
    least_area_m2: Mapping[str, float] = field(default_factory=dict)
    score_calibration: Mapping[str, Knots] = field(default_factory=dict)
    score_model: Mapping[str, ScoreModel] = field(default_factory=dict)
    training_data: tuple[Mapping[str, Any], ...] = ()
    metrics: tuple[Mapping[str, Any], ...] = ()
    description: str = ""
    int8: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        low, high = self.gsd_range_m
        checks = {
            "bands is empty": not self.bands,
            f"mean and std have {len(self.mean)} and {len(self.std)} values": (
                not len(self.mean) == len(self.std) == len(self.bands)
            ),
            "a std is not above 0": not all(s > 0 for s in self.std),
            f"gsd_range_m {low}..{high} does not hold preferred_gsd_m {self.preferred_gsd_m}": (
                not 0 < low <= self.preferred_gsd_m <= high
            ),
            f"core {self.core} and halo {self.halo} make no tile": not 0
            <= 2 * self.halo
            <= self.core,
            f"join_threshold {self.join_threshold} is not in 0..1": not 0
            <= self.join_threshold
            <= 1,
            "sha256 is not 64 hexadecimal digits": not _SHA256.fullmatch(self.sha256),
            "the schema has no classes": not len(self.schema),
        }
        for name, knots in self.score_calibration.items():
            known = any(c.name == name and c.is_thing for c in self.schema.classes)
            checks[f"score_calibration names '{name}', which is no thing class"] = not known
            checks[f"score_calibration of '{name}' does not rise within 0..1"] = not _rises(knots)
        checks[f"it has a score_model, but the decoder '{self.decoder}' has no use for it"] = (
            bool(self.score_model) and self.decoder not in _SCORES
        )
        for name, model in self.score_model.items():
            known = any(c.name == name and c.is_thing for c in self.schema.classes)
            checks[f"score_model names '{name}', which is no thing class"] = not known
            checks[
                f"score_model of '{name}' is not bias, mean (0 or more) and outline"
            ] = not plausible(model)
        for what, wrong in checks.items():
            if wrong:
                raise CheckpointError(
                    f"the card of model '{self.name}' is wrong: {what}; get the file again"
                )

    def min_area_m2(self, class_name: str) -> float:
        """Return the least area of a thing of this class, 0 when the card names none."""
        return float(self.least_area_m2.get(class_name, 0.0))

    def calibrated(self, class_id: npt.NDArray[Any], score: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the scores of segments (n,) of classes (n,) after calibration; NaN stays."""
        from geopanoptic.metrics import apply_calibration

        out = score.copy()
        for name, knots in self.score_calibration.items():
            here = class_id == self.schema.by_name(name).id
            out[here] = apply_calibration(knots, score[here])
        return out

    def to_json(self) -> dict[str, Any]:
        """Return the card as plain values; `from_json` reads them back as equal."""
        out: dict[str, Any] = {"card_version": CARD_VERSION}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "schema":
                out["classes"] = value.to_json()
            else:
                out[f.name] = json.loads(json.dumps(value, default=dict))
        return out

    @property
    def fingerprint(self) -> str:
        """A digest of the weights and of every promise that what comes out may depend on."""
        said = {k: v for k, v in self.to_json().items() if k not in _ONLY_SAID}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_json(cls, raw: object) -> ModelCard:
        """Read a card strictly: unknown, missing and mistyped entries are CheckpointErrors."""
        if not isinstance(raw, Mapping):
            raise CheckpointError(f"the model card is {type(raw).__name__}, not a table of entries")
        version = raw.get("card_version")
        if version != CARD_VERSION:
            raise CheckpointError(
                f"the model card has version {version!r}; this program reads {CARD_VERSION}: "
                "update geopanoptic, or get the model for this version"
            )
        known = {f.name: f for f in fields(cls)}
        rest = {k: v for k, v in raw.items() if k not in ("card_version", "classes")}
        for key in rest:
            if key not in known or key == "schema":
                raise CheckpointError(
                    f"unknown entry '{key}' in the card{nearest_name(key, known)}"
                )
        needed = {n for n, f in known.items() if _required(f)} - {"schema"}
        missing = sorted(needed - set(rest)) + ["classes"] * ("classes" not in raw)
        if missing:
            raise CheckpointError(f"the card lacks {', '.join(missing)}; get the file again")
        values = {key: _checked(key, str(known[key].type), value) for key, value in rest.items()}
        try:
            values["schema"] = LabelSchema.from_json(raw["classes"])
        except (SchemaError, TypeError) as why:
            raise CheckpointError(f"the card's classes are wrong: {why}") from why
        return cls(**values)


def _required(f: Any) -> bool:
    from dataclasses import MISSING

    return f.default is MISSING and f.default_factory is MISSING


def _checked(key: str, want: str, value: Any) -> Any:
    """Bring one JSON value to the type its field is declared with, or refuse it."""
    if want == "str":
        ok = isinstance(value, str)
    elif want == "int":
        ok = isinstance(value, int) and not isinstance(value, bool)
    elif want == "float":
        ok = _is_number(value)
        value = float(value) if ok else value
    elif want.startswith("tuple[float"):
        n = want.count("float")
        ok = isinstance(value, list) and all(map(_is_number, value))
        ok = ok and (want.endswith("...]") or len(value) == n)
        value = tuple(float(v) for v in value) if ok else value
    elif want.startswith("tuple[str"):
        ok = isinstance(value, list) and all(isinstance(v, str) for v in value)
        value = tuple(value) if ok else value
    elif want.startswith("tuple[Mapping"):
        ok = isinstance(value, list) and all(isinstance(v, dict) for v in value)
        value = tuple(value) if ok else value
    elif want == "Mapping[str, float]":
        ok = isinstance(value, dict) and all(map(_is_number, value.values()))
        value = {k: float(v) for k, v in value.items()} if ok else value
    elif want == "Mapping[str, ScoreModel]":
        ok = isinstance(value, dict) and all(
            isinstance(v, dict) and all(map(_is_number, v.values())) for v in value.values()
        )
        value = {k: {n: float(c) for n, c in v.items()} for k, v in value.items()} if ok else value
    elif want == "Mapping[str, Knots]":
        ok = isinstance(value, dict) and all(map(_is_knots, value.values()))
        value = (
            {k: tuple((float(x), float(y)) for x, y in v) for k, v in value.items()} if ok else {}
        )
    else:
        ok = isinstance(value, dict)
    if not ok:
        raise CheckpointError(f"the card's entry '{key}' is {value!r}; it must be {want}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_knots(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(k, list) and len(k) == 2 and all(map(_is_number, k)) for k in value
    )


def _rises(knots: Knots) -> bool:
    """Tell whether scores rise and calibrated ones do not fall, both within 0..1."""
    return all(0 <= v <= 1 for k in knots for v in k) and all(
        a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(knots)
    )
