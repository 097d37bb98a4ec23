"""What a training carries from step to step, and how it is put down and taken up again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from geopanoptic.errors import ConfigError, StoreError
from geopanoptic.models.networks import blank_network
from geopanoptic.schema import LabelSchema
from geopanoptic.train.parallel import Arithmetic, World
from geopanoptic.train.settings import TrainConfig, TrainPaths
from geopanoptic.train.start import first_network


class TrainState:
    """Network, optimiser, moving average and step: what a checkpoint holds.

    `best`: the highest validation score so far and its step; `stale`: scores since then.
    """

    def __init__(self, net: nn.Module, config: TrainConfig, world: World) -> None:
        self.net = net.to(world.device)
        self.step = 0
        self.best: tuple[float, int] = (-1.0, 0)
        self.stale = 0
        _freeze(net.train(), config.frozen_stages)
        inner = {id(p) for p in net.encoder.parameters()}  # type: ignore[union-attr]
        encoder = [p for p in net.parameters() if p.requires_grad and id(p) in inner]
        rest = [p for p in net.parameters() if id(p) not in inner]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": encoder, "peak": config.encoder_lr, "lr": config.encoder_lr},
                {"params": rest, "peak": config.lr, "lr": config.lr},
            ],
            weight_decay=config.weight_decay,
            foreach=True,
        )
        self.wrapped = world.wrap(net)
        self.arithmetic = Arithmetic(config.amp, world.device)
        self.ema = {k: v.detach().clone() for k, v in net.state_dict().items()}

    @classmethod
    def begin(
        cls, config: TrainConfig, schema: LabelSchema, paths: TrainPaths, world: World
    ) -> TrainState:
        """Take up the run saved in `paths.last`, or begin from the first weights.

        Raises CheckpointError when the weights to begin from do not fit, StoreError when the saved
        run is of other settings.
        """
        if paths.last.exists():
            state = cls(blank_network(config.card(schema)), config, world)
            state.load(paths.last, config)
            return state
        return cls(first_network(config, schema, paths), config, world)

    def average(self, decay: float) -> None:
        """Move the average towards the network; faster in the first steps."""
        rate = 1 - min(decay, (1 + self.step) / (10 + self.step))
        now = self.net.state_dict()
        pairs = [(self.ema[k], v.detach()) for k, v in now.items() if v.is_floating_point()]
        with torch.no_grad():
            torch._foreach_lerp_([a for a, _ in pairs], [b for _, b in pairs], rate)

    def save(self, path: Path, config: TrainConfig) -> None:
        """Write everything to go on from, as tensors only (no pickle)."""
        tensors = {f"net.{k}": v.contiguous() for k, v in self.net.state_dict().items()}
        tensors |= {f"ema.{k}": v.contiguous() for k, v in self.ema.items()}
        for i, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {
                f"adam.{i}.{k}": torch.as_tensor(v).contiguous() for k, v in moments.items()
            }
        facts = {
            "step": str(self.step), "config": config.fixed_text(), "stale": str(self.stale),
            "best": f"{self.best[0]!r} {self.best[1]}",
        }  # fmt: skip
        save_tensors({k: v.cpu() for k, v in tensors.items()}, path, facts)

    def load(self, path: Path, config: TrainConfig) -> None:
        """Take up a saved state; StoreError when it was made by other settings."""
        with safe_open(path, "pt") as file:
            meta = file.metadata()
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
        if meta["config"] != config.fixed_text():
            raise StoreError(
                f"{path} was made with other settings; start afresh (--fresh), or give another "
                "work directory"
            )
        self.step = int(meta["step"])
        self.stale = int(meta["stale"])
        score, step = meta["best"].split()
        self.best = (float(score), int(step))
        self.net.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})
        device = next(self.net.parameters()).device
        self.ema = {k[4:]: v.to(device) for k, v in tensors.items() if k.startswith("ema.")}
        adam = self.optimiser.state_dict()
        for key, value in tensors.items():
            if key.startswith("adam."):
                _, i, name = key.split(".")
                adam["state"].setdefault(int(i), {})[name] = value
        self.optimiser.load_state_dict(adam)


def _freeze(net: nn.Module, stages: int) -> None:
    """Keep the stem and the first stages of a timm encoder as they are, statistics too."""
    if stages == 0:
        return
    encoder: Any = getattr(net.encoder, "model", None)
    if not all(hasattr(encoder, part) for part in ("conv_stem", "bn1", "blocks")):
        raise ConfigError(
            "frozen_stages is for EfficientNet encoders of timm (tu-tf_efficientnet_...); set it "
            "to 0 for this encoder"
        )
    for part in (encoder.conv_stem, encoder.bn1, *encoder.blocks[:stages]):
        part.eval().requires_grad_(False)


def save_tensors(tensors: dict[str, torch.Tensor], path: Path, meta: dict[str, str]) -> None:
    """Write tensors so that nothing half-written ever stands under `path`."""
    part = path.with_suffix(".tmp")
    save_file(tensors, part, metadata=meta)
    part.replace(path)
