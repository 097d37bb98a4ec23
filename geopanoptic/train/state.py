"""What a training carries from step to step, and how it is put down and taken up again."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from geopanoptic.errors import StoreError
from geopanoptic.models.checkpoint import read_header, read_tensors
from geopanoptic.models.dense import DenseArgs, DenseNet, build_dense, lukemelas_to_smp
from geopanoptic.models.torch_segmenter import fill
from geopanoptic.train.settings import TrainConfig, TrainPaths


class TrainState:
    """Network, optimiser, moving average and step: what a checkpoint holds."""

    def __init__(self, net: DenseNet, config: TrainConfig) -> None:
        self.net = net
        self.step = 0
        _freeze(net.train(), config.frozen_stages)
        inner = {id(p) for p in net.encoder.parameters()}
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
        self.ema = {k: v.detach().clone() for k, v in net.state_dict().items()}

    @classmethod
    def begin(cls, config: TrainConfig, n_classes: int, paths: TrainPaths) -> TrainState:
        """Take up the run saved in `paths.last`, or begin from another model, or from ImageNet.

        Raises CheckpointError when the weights of the other model or of ImageNet do not fit.
        """
        net = build_dense(DenseArgs(config.encoder, config.decoder_channels), n_classes)
        if paths.last.exists():
            state = cls(net, config)
            state.load(paths.last, config)
            return state
        if paths.start is not None:
            fill(net, read_tensors(paths.start, read_header(paths.start)), str(paths.start))
        elif paths.encoder is not None:
            raw = torch.load(paths.encoder, map_location="cpu", weights_only=True)
            net.encoder.load_state_dict(lukemelas_to_smp(raw, net.encoder))
        return cls(net, config)

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
        save_tensors(tensors, path, {"step": str(self.step), "config": repr(config.fixed())})

    def load(self, path: Path, config: TrainConfig) -> None:
        """Take up a saved state; StoreError when it was made by other settings."""
        with safe_open(path, "pt") as file:
            meta = file.metadata()
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
        if meta["config"] != repr(config.fixed()):
            raise StoreError(
                f"{path} was made with other settings; give another run directory or remove it"
            )
        self.step = int(meta["step"])
        self.net.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})
        self.ema = {k[4:]: v for k, v in tensors.items() if k.startswith("ema.")}
        adam = self.optimiser.state_dict()
        for key, value in tensors.items():
            if key.startswith("adam."):
                _, i, name = key.split(".")
                adam["state"].setdefault(int(i), {})[name] = value
        self.optimiser.load_state_dict(adam)


def _freeze(net: DenseNet, stages: int) -> None:
    """Keep the stem and the first stages of a timm encoder as they are, statistics too."""
    if stages == 0:
        return
    encoder = net.encoder.model
    for part in (encoder.conv_stem, encoder.bn1, *encoder.blocks[:stages]):
        part.eval().requires_grad_(False)


def save_tensors(tensors: dict[str, torch.Tensor], path: Path, meta: dict[str, str]) -> None:
    """Write tensors so that nothing half-written ever stands under `path`."""
    part = path.with_suffix(".tmp")
    save_file(tensors, part, metadata=meta)
    part.replace(path)
