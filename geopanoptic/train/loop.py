"""The loop: chips in, a model file out; resumable at every saved step."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from geopanoptic.dataset import ChipSet, ChipSettings, SourceArray, prepare_source
from geopanoptic.errors import ConfigError
from geopanoptic.models import ModelCard, save_model
from geopanoptic.models.losses import (
    InstanceReach,
    instance_loss,
    superset_loss,
    thing_dice_loss,
)
from geopanoptic.schema import LabelSchema
from geopanoptic.train.settings import TrainConfig, TrainPaths
from geopanoptic.train.state import TrainState

_IN_PROCESS = 50  # trainings of fewer steps cut their chips themselves


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Treat the tiniest numbers as 0 meanwhile: early moments of Adam are slow to reckon with."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)  # the setting is the thread's, and the thread the caller's


@_denormals_flushed()
def fit(config: TrainConfig, paths: TrainPaths, schema: LabelSchema | None = None) -> ModelCard:
    """Train to the last step and write `NAME.safetensors` in `paths.run`; return its card.

    Resumes from `last.safetensors` there (weights, moving average, optimiser; every `save_every`
    steps) and logs to `log.csv`. Law: chips depend on the seed and the step alone, so a resumed
    run sees the chips it would have seen.
    Raises StoreError when the checkpoint is of other settings, ConfigError when the loss is lost,
    SceneError for a source that cannot be read.
    """
    schema = schema or LabelSchema.default()
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    paths.run.mkdir(parents=True, exist_ok=True)
    state = TrainState.begin(config, len(schema), paths)
    weight = class_weights(config, schema)
    clock, done = time.monotonic(), state.step
    sums: dict[str, float] = {}
    for batch in _batches(_chips(config, paths, schema), config, state.step):
        for name, loss in _step(state, batch, weight, config).items():
            sums[name] = sums.get(name, 0.0) + loss / config.log_every
        if state.step % config.log_every == 0:
            rate = (time.monotonic() - clock) / (state.step - done)
            _log(paths.run / "log.csv", {"step": state.step, **sums, "s_per_step": rate})
            clock, done, sums = time.monotonic(), state.step, {}
        if state.step % config.save_every == 0 or state.step == config.steps:
            state.save(paths.last, config)
    tensors = {k: v.numpy() for k, v in state.ema.items()}
    return save_model(paths.run / f"{config.name}.safetensors", tensors, config.card(schema))


def class_weights(config: TrainConfig, schema: LabelSchema) -> torch.Tensor:
    """Return the weights of the classes in the schema's order."""
    weight = torch.ones(len(schema))
    for name, value in config.class_weight.items():
        weight[schema.ids.index(schema.by_name(name).id)] = value
    return weight


def _chips(config: TrainConfig, paths: TrainPaths, schema: LabelSchema) -> ChipSet:
    sources = [
        SourceArray(spec, prepare_source(spec, schema, paths.data, paths.labels, paths.cache))
        for spec in config.source_specs()
    ]
    if not sources:
        raise ConfigError("the configuration names no sources; see configs/ for an example")
    settings = ChipSettings(config.chip_px, config.seed, len(schema))
    return ChipSet(sources, settings, config.steps * config.batch)


def _batches(chips: ChipSet, config: TrainConfig, start: int) -> Iterator[list[torch.Tensor]]:
    """Yield the batches from step `start` on, cut ahead of time by one other process."""
    apart = config.steps > _IN_PROCESS
    yield from DataLoader(
        chips,
        batch_size=config.batch,
        sampler=range(start * config.batch, len(chips)),
        num_workers=int(apart),
        prefetch_factor=6 if apart else None,
    )


def _step(
    state: TrainState, batch: list[torch.Tensor], weight: torch.Tensor, config: TrainConfig
) -> dict[str, float]:
    """Make one optimiser step and return the losses."""
    image, sets, signed_px, second_px = batch
    x = (image.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
    for group in state.optimiser.param_groups:
        group["lr"] = group["peak"] * schedule(state.step, config)
    fields = state.net(x)
    n = len(weight)
    probability = fields[:, :n].softmax(1)
    semantic = superset_loss(probability, sets, weight)
    dice = thing_dice_loss(probability, sets, 0) + thing_dice_loss(probability, sets, 1)
    instance = instance_loss(fields[:, n:], signed_px, second_px, InstanceReach())
    loss = semantic + config.dice_weight * dice + config.instance_weight * instance
    if not bool(torch.isfinite(loss)):
        raise ConfigError(f"the loss is {loss.item()} at step {state.step}; lower `lr`")
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(state.net.parameters(), config.clip_norm)
    state.optimiser.step()
    state.step += 1
    state.average(config.ema)
    return {"semantic": semantic.item(), "dice": dice.item(), "instance": instance.item()}


def schedule(step: int, config: TrainConfig) -> float:
    """Return the share of the peak rate: linear warm-up, then half a cosine down to 2 %."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    along = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return 0.02 + 0.49 * (1 + math.cos(math.pi * min(along, 1.0)))


def _log(path: Path, row: dict[str, float]) -> None:
    """Append a row to the CSV log, with a header when it is new."""
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if fresh:
            writer.writeheader()
        writer.writerow({k: f"{v:.5g}" for k, v in row.items()})
        file.flush()
        os.fsync(file.fileno())
