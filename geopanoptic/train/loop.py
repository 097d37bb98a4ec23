"""The loop: chips in, a model file out; resumable at every saved step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from geopanoptic.dataset import (
    Chip,
    ChipSet,
    ChipSettings,
    Reading,
    Roots,
    SourceArray,
    pictures_of,
    prepare_source,
)
from geopanoptic.errors import ConfigError
from geopanoptic.models import ModelCard, save_model
from geopanoptic.schema import LabelSchema
from geopanoptic.train.objective import objective_of
from geopanoptic.train.parallel import World, open_world
from geopanoptic.train.record import Record
from geopanoptic.train.settings import TrainConfig, TrainPaths
from geopanoptic.train.state import TrainState, save_tensors
from geopanoptic.train.tune import calibrated, samples, tune
from geopanoptic.train.validate import Judge, Judgement

_IN_PROCESS = 50  # trainings of fewer steps cut their chips themselves

# Called with what a training has to say: 'sources', 'losses', 'scores' or 'tuned', and numbers.
Progress = Callable[[str, dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class Execution:
    """How a training is carried out; none of it changes what is learnt but by rounding."""

    device: str = "auto"
    progress: Progress | None = None

    def report(self, what: str, values: dict[str, float]) -> None:
        if self.progress is not None:
            self.progress(what, values)


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Treat the tiniest numbers as 0 meanwhile: early moments of Adam are slow to reckon with."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)  # the setting is the thread's, and the thread the caller's


@_denormals_flushed()
def fit(
    config: TrainConfig,
    paths: TrainPaths,
    schema: LabelSchema | None = None,
    execution: Execution | None = None,
) -> ModelCard:
    """Train and write `NAME.safetensors` in `paths.run`; return its card.

    Resumes from `last.safetensors` there (weights, moving average, optimiser; every `save_every`
    steps) and logs as `Record` says. With validation sources the weights that scored best become
    the model, its thresholds are tuned and its scores calibrated on them; without, the last ones
    do. Law: chips depend on the seed and the step alone, so a resumed run sees the chips it would
    have seen, and so does any number of processes (torchrun) together.
    Raises StoreError when the checkpoint is of other settings, ConfigError when the loss is lost,
    SceneError or SchemaError for a source that cannot be read or does not fit.
    """
    execution = execution or Execution()
    with open_world(execution.device) as world:
        return _Training(config, paths, schema or config.schema(), world, execution).run()


class _Training:
    """One run in one process: the data, the state, and who judges it."""

    def __init__(
        self,
        config: TrainConfig,
        paths: TrainPaths,
        schema: LabelSchema,
        world: World,
        execution: Execution,
    ) -> None:
        self.config, self.paths, self.world, self.execution = config, paths, world, execution
        self.schema = schema
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        paths.run.mkdir(parents=True, exist_ok=True)
        self.card = config.card(schema)
        with world.one_by_one():
            train, judges = prepared(config, paths, schema)
        planes = Reading(schema, config.bands).planes
        settings = ChipSettings(config.chip_px, config.seed, planes, config.augment)
        self.chips = ChipSet(train, settings, config.steps * config.batch)
        self.state = TrainState.begin(config, schema, paths, world)
        self.objective: Any = objective_of(config, schema, self.state.net, world.device)
        shape = (1, len(config.bands), 1, 1)
        self.mean, self.scale = (
            torch.tensor(values, device=world.device).view(shape)
            for values in (self.card.mean, [1 / s for s in self.card.std])
        )
        self.judge = Judge(self.state.net, self.card, judges) if judges and world.leads else None
        self.judged = bool(judges) and config.validate_every > 0
        self.record = (
            Record(paths.run, self.state.step, config.tensorboard) if world.leads else None
        )
        if world.leads:
            execution.report("sources", {"train": len(train), "validation": len(judges)})

    def run(self) -> ModelCard:
        """Go to the last step, or until validation gains no more; write the model."""
        state, config = self.state, self.config
        clock, done = time.monotonic(), state.step
        sums: dict[str, float] = {}
        for batch in self._batches():
            for name, loss in self._step(batch).items():
                sums[name] = sums.get(name, 0.0) + loss / config.log_every
            if state.step % config.log_every == 0:
                self._log(sums, (time.monotonic() - clock) / (state.step - done))
                clock, done, sums = time.monotonic(), state.step, {}
            before = time.monotonic()
            stop = self._validate() if self._is_due() else False
            clock += time.monotonic() - before  # judging is no part of a step
            if self.world.leads and (stop or self._is_saved()):
                state.save(self.paths.last, config)
            if self.world.agree(stop) if self.judged and self._is_due() else stop:
                break
        return self._finish() if self.world.leads else self.card

    def _is_due(self) -> bool:
        every, step = self.config.validate_every, self.state.step
        return self.judged and (step % every == 0 or step == self.config.steps)

    def _is_saved(self) -> bool:
        step = self.state.step
        return step % self.config.save_every == 0 or step == self.config.steps

    def _batches(self) -> Iterator[Chip]:
        """Yield this process's batches from the state's step on, cut ahead by another process."""
        config, share = self.config, self.world.share(self.config.batch)
        mine = [
            step * config.batch + self.world.rank * share + k
            for step in range(self.state.step, config.steps)
            for k in range(share)
        ]
        apart = config.steps > _IN_PROCESS
        loader = DataLoader(
            self.chips,
            batch_size=share,
            sampler=mine,
            num_workers=int(apart),
            prefetch_factor=6 if apart else None,
        )
        device = self.world.device
        for batch in loader:
            yield Chip(*(part.to(device, non_blocking=True) for part in batch))

    def _step(self, chip: Chip) -> dict[str, float]:
        """Make one optimiser step and return the losses."""
        state, config = self.state, self.config
        x = (chip.image.float() - self.mean) * self.scale
        x = x.contiguous(memory_format=torch.channels_last)
        # a resumed run draws the numbers that it would have drawn (boxes, points, drop-out)
        torch.manual_seed(config.seed * 1_000_003 + state.step)
        for group in state.optimiser.param_groups:
            group["lr"] = group["peak"] * schedule(state.step, config)
        with state.arithmetic.autocast():
            answer = state.wrapped(*self.objective.inputs(x, chip))
        loss, parts = self.objective(answer, chip)
        if not bool(torch.isfinite(loss)):
            raise ConfigError(f"the loss is {loss.item()} at step {state.step}; lower `lr`")
        state.arithmetic.step(loss, state.net, state.optimiser, config.clip_norm)
        state.step += 1
        state.average(config.ema)
        return {name: value.item() for name, value in parts.items()}

    def _log(self, sums: dict[str, float], s_per_step: float) -> None:
        means = dict(zip(sums, self.world.mean(list(sums.values())), strict=True))
        values = {**means, "s_per_step": s_per_step}
        if self.record is not None:
            self.record.losses(self.state.step, values)
            self.execution.report("losses", {"step": self.state.step, **values})

    def _validate(self) -> bool:
        """Score the moving average; keep it when it is the best; tell whether to stop."""
        if self.judge is None or self.record is None:
            return False
        state = self.state
        found = self.judge(state.ema)
        score = -1.0 if found.pq is None else found.pq
        if score > state.best[0]:
            state.best, state.stale = (score, state.step), 0
            weights = {k: v.cpu().contiguous() for k, v in state.ema.items()}
            save_tensors(weights, self.paths.best, {"step": str(state.step)})
        else:
            state.stale += 1
        self.record.picture(state.step, self.judge.panels(state.ema))
        self.record.scores(state.step, found.row())
        self.execution.report("scores", {"step": state.step, **found.row()})
        return 0 < self.config.patience <= state.stale

    def _finish(self) -> ModelCard:
        """Write the model: the best weights, thresholds tuned and scores calibrated on them."""
        assert self.record is not None
        weights, card = self.state.ema, self.card
        if self.judge is not None:
            if self.judged and self.paths.best.exists():
                weights = load_file(self.paths.best, device=str(self.world.device))
            card = self._tuned(weights, self.judge)
        self.record.write_page()
        tensors = {k: v.cpu().numpy() for k, v in weights.items()}
        return save_model(self.paths.run / f"{self.config.name}.safetensors", tensors, card)

    def _tuned(self, weights: dict[str, torch.Tensor], judge: Judge) -> ModelCard:
        config = self.config
        if config.tune and self.schema.things:
            found = samples(judge.segmenter(weights), judge.sources, config.seed)
            judge.card, reached = tune(judge.card, found, frozenset(config.thresholds))
            self.execution.report("tuned", {f"pq_{n}": v for n, v in reached.items()})
        last = judge(weights)
        card = replace(judge.card, metrics=validation_metrics(last, judge.sources))
        return calibrated(card, last.classes) if config.tune else card


def prepared(
    config: TrainConfig, paths: TrainPaths, schema: LabelSchema
) -> tuple[list[SourceArray], list[SourceArray]]:
    """Prepare all sources: those to train on and those that judge.

    Raises ConfigError when there are none to train on, or two of one name.
    """
    specs = [p for s in config.source_specs() for p in pictures_of(s, paths.data)]
    names = [s.name for s in specs]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ConfigError(f"more than one source is called '{twice[0]}'; names tell them apart")
    if all(s.validation for s in specs):
        raise ConfigError("the configuration names no sources to train on; see configs/")
    reading = Reading(schema, config.bands, config.preferred_gsd_m)
    roots = Roots(paths.data, paths.labels, paths.cache)
    made = [prepare_source(s, reading, roots) for s in specs]
    train = [m for m in made if not m.spec.validation]
    return train, [m for m in made if m.spec.validation]


def validation_metrics(
    found: Judgement, sources: Sequence[SourceArray]
) -> tuple[dict[str, object], ...]:
    """Return the scores as rows of a card."""
    where = "validation: " + ", ".join(sorted({s.spec.name for s in sources}))[:200]
    rows: list[dict[str, object]] = []
    for name, score in found.classes.items():
        quality = score.quality
        if quality.pq is not None and quality.rq is not None:
            rows += [
                {"what": f"{name} pq at IoU 0.5", "where": where, "value": round(quality.pq, 4)},
                {"what": f"{name} f1 at IoU 0.5", "where": where, "value": round(quality.rq, 4)},
            ]
    return tuple(rows)


def schedule(step: int, config: TrainConfig) -> float:
    """Return the share of the peak rate: linear warm-up, then half a cosine down to 2 %."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    along = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return 0.02 + 0.49 * (1 + math.cos(math.pi * min(along, 1.0)))
