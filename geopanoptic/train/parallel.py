"""Processes that train together (torchrun), and the number format of their arithmetic."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from geopanoptic.errors import ConfigError
from geopanoptic.models.systems.segmenter import MaskNetwork


@dataclass(frozen=True, slots=True)
class World:
    """Who trains together: this process is `rank` of `size`, and works on `device`."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Tell whether this process saves, logs and judges."""
        return self.rank == 0

    def wrap(self, net: nn.Module) -> nn.Module:
        """Return the network whose gradients are averaged over all processes."""
        if self.size == 1:
            return net
        ids = [self.device] if self.device.type == "cuda" else None
        # what a network of masks does not use depends on what is in its chips
        spare = isinstance(net, MaskNetwork)
        return nn.parallel.DistributedDataParallel(
            net, device_ids=ids, find_unused_parameters=spare
        )

    def share(self, batch: int) -> int:
        """Return how many chips of a batch are this process's; ConfigError for a remainder."""
        if batch % self.size:
            raise ConfigError(
                f"a batch of {batch} chips cannot be shared by {self.size} processes; set `batch` "
                f"to a multiple of {self.size}"
            )
        return batch // self.size

    @contextmanager
    def one_by_one(self) -> Iterator[None]:
        """Let the first process go first, so that the others find the files it made."""
        if self.size > 1 and not self.leads:
            distributed.barrier()
        yield
        if self.size > 1 and self.leads:
            distributed.barrier()

    def mean(self, values: list[float]) -> list[float]:
        """Return the mean of every number over all processes."""
        if self.size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return [float(v) / self.size for v in total]

    def agree(self, stop: bool) -> bool:
        """Return what the first process says, in all of them."""
        if self.size == 1:
            return stop
        flag = torch.tensor([int(stop)], device=self.device)
        distributed.broadcast(flag, 0)
        return bool(flag.item())


@contextmanager
def open_world(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, or be alone.

    `device`: auto, cpu, cuda, cuda:N; under torchrun `cuda` is the process's own GPU. Processes
    speak gloo on the CPU and NCCL on GPUs. Raises ConfigError for a device that is not there.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", "0")) if size > 1 else None)
    if size == 1:
        yield World(0, 1, chosen)
        return
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(rank, size, chosen)
    finally:
        distributed.destroy_process_group()


def _device(name: str, local_rank: int | None) -> torch.device:
    there = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if there else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as why:
        raise ConfigError(f"'{name}' is no device; use auto, cpu, cuda or cuda:1") from why
    if device.type == "cuda" and not there:
        raise ConfigError(f"the device '{name}' is not there; use --device cpu")
    if device.type == "cuda" and local_rank is not None and device.index is None:
        device = torch.device("cuda", local_rank)
    return device


class Arithmetic:
    """Half precision where asked for: autocast, and scaled gradients for fp16."""

    def __init__(self, amp: str, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        if amp == "fp16" and not on_gpu:
            raise ConfigError("amp fp16 needs a GPU; use bf16, or off")
        if amp == "auto":
            amp = ("bf16" if torch.cuda.is_bf16_supported() else "fp16") if on_gpu else "off"
        self.kind = amp
        self._device = device.type
        self._scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    def autocast(self) -> Any:
        """Return the context that the network runs in; losses are reckoned in float32."""
        if self.kind == "off":
            return nullcontext()
        dtype = torch.bfloat16 if self.kind == "bf16" else torch.float16
        return torch.autocast(self._device, dtype)

    def step(self, loss: torch.Tensor, net: nn.Module, optimiser: Any, clip_norm: float) -> None:
        """Go one step down the gradient, clipped to `clip_norm`."""
        optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(net.parameters(), clip_norm)
        self._scaler.step(optimiser)
        self._scaler.update()
