"""The record of a training: CSV logs, a page with curves, sample pictures, TensorBoard."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import ConfigError
from geopanoptic.schema import LabelSchema

Bytes = npt.NDArray[np.uint8]
_COLOURS = ("#2b83ba", "#d1495b", "#1b7837", "#edae49", "#8338ec", "#17becf", "#7f5539", "#555555")
_WIDTH, _HEIGHT, _EDGE = 560, 220, 40


class Record:
    """Writes what a training reports under its run folder; `board`: to TensorBoard too.

    Files: `log.csv` (losses), `validation.csv` (PQ), `samples/*.png`, `index.html`. Rows from
    beyond `step`, which a run cut short may have left, are dropped. Raises ConfigError when
    TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, step: int, board: bool) -> None:
        self.folder = folder
        for name in ("log.csv", "validation.csv"):
            _forget_after(folder / name, step)
        self._board = _open_board(folder) if board else None

    def losses(self, step: int, values: dict[str, float]) -> None:
        """Log losses and seconds per step."""
        _append(self.folder / "log.csv", {"step": step, **values})
        self._to_board("train", step, values)

    def scores(self, step: int, values: dict[str, float]) -> None:
        """Log a validation and bring the page up to date."""
        _append(self.folder / "validation.csv", {"step": step, **values})
        self._to_board("validation", step, values)
        self.write_page()

    def picture(self, step: int, panels: Sequence[Bytes]) -> None:
        """Write image panels (h, w, 3) side by side as `samples/<step>.png`."""
        from PIL import Image

        folder = self.folder / "samples"
        folder.mkdir(exist_ok=True)
        sheet = np.concatenate(panels, axis=1)
        Image.fromarray(sheet).save(folder / f"{step:07d}.png")

    def write_page(self) -> None:
        """Write `index.html`: curves of losses and scores, and the sample pictures."""
        parts = []
        for title, name in (("Losses", "log.csv"), ("Validation", "validation.csv")):
            columns = read_columns(self.folder / name)
            steps = columns.pop("step", [])
            columns.pop("s_per_step", None)
            if steps:
                parts.append(f"<h2>{title}</h2>{curves(steps, columns)}")
        pictures = sorted((self.folder / "samples").glob("*.png"))[-8:]
        if pictures:
            parts.append("<h2>Samples</h2><p>Scene, truth, map.</p>")
        parts += [
            f'<figure><img src="samples/{path.name}" alt="step {int(path.stem)}">'
            f"<figcaption>step {int(path.stem)}</figcaption></figure>"
            for path in reversed(pictures)
        ]
        part = self.folder / "index.html.tmp"
        part.write_text(_PAGE.format(title=escape(self.folder.name), body="\n".join(parts)))
        part.replace(self.folder / "index.html")

    def _to_board(self, group: str, step: int, values: dict[str, float]) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{group}/{name}", value, step)
            self._board.flush()


def colour_map(semantic: Bytes, instances: npt.NDArray[Any], schema: LabelSchema) -> Bytes:
    """Return classes (h, w) as colours (h, w, 3), outlines of instances white, void black."""
    table = np.zeros((256, 3), np.uint8)
    for spec in schema.classes:
        table[spec.id] = spec.rgb
    out = table[semantic]
    for axis in (0, 1):
        step = np.diff(instances, axis=axis, append=np.take(instances, [-1], axis=axis)) != 0
        out[step] = 255
    return np.asarray(out, np.uint8)


def curves(steps: Sequence[float], columns: dict[str, list[float]]) -> str:
    """Draw columns over steps as one SVG with a legend."""
    low, high = 0.0, max((v for c in columns.values() for v in c if v >= 0), default=1.0) or 1.0
    first, last = steps[0], steps[-1]

    def at(x: float, y: float) -> str:
        along = (x - first) / max(last - first, 1)
        up = (y - low) / (high - low)
        px = _EDGE + along * (_WIDTH - 2 * _EDGE)
        return f"{px:.1f},{_HEIGHT - _EDGE - up * (_HEIGHT - 2 * _EDGE):.1f}"

    lines = []
    for k, (name, values) in enumerate(columns.items()):
        colour = _COLOURS[k % len(_COLOURS)]
        pairs = zip(steps, values, strict=False)
        points = " ".join(at(x, y) for x, y in pairs if y >= 0)  # leaves NaN out too
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
            f'<text x="{_WIDTH + 6}" y="{20 + 16 * k}" fill="{colour}">{escape(name)}</text>'
        )
    x0, y0 = at(first, low).split(",")
    x1, y1 = at(last, high).split(",")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH + 140}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="12">'
        f'<path d="M{x0} {y1} V{y0} H{x1}" fill="none" stroke="#888"/>'
        f'<text x="{x0}" y="{_HEIGHT - 22}">{first:g}</text>'
        f'<text x="{x1}" y="{_HEIGHT - 22}" text-anchor="end">{last:g} steps</text>'
        f'<text x="{_EDGE - 6}" y="{y1}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{_EDGE - 6}" y="{y0}" text-anchor="end">0</text>' + "".join(lines) + "</svg>"
    )


def read_columns(path: Path) -> dict[str, list[float]]:
    """Read a CSV log as columns of numbers, NaN where a row lacks one; {} if it is not there."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = list(rows[0]) if rows else []
    return {n: [float(r[n]) if r.get(n) else float("nan") for r in rows] for n in names}


def _append(path: Path, row: dict[str, float]) -> None:
    """Append a row to a CSV log; its header is that of the first row."""
    fresh = not path.exists()
    names = list(row)
    if not fresh:
        with path.open(newline="") as file:
            names = next(csv.reader(file))
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore", restval="")
        if fresh:
            writer.writeheader()
        writer.writerow({k: f"{v:.5g}" if k != "step" else f"{v:g}" for k, v in row.items()})
        file.flush()
        os.fsync(file.fileno())


def _forget_after(path: Path, step: int) -> None:
    """Drop the rows of later steps; without any left, the file."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    kept = [r for r in rows[1:] if r and float(r[0]) <= step]
    if not kept:
        path.unlink()
        return
    part = path.with_suffix(".tmp")
    with part.open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *kept])
    part.replace(path)


def _open_board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as why:
        raise ConfigError(
            "tensorboard: true, but TensorBoard is not installed; pip install tensorboard, or "
            "look at index.html in the run folder"
        ) from why
    return SummaryWriter(str(folder / "tensorboard"))


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body {{ font-family: sans-serif; margin: 2em; max-width: 1200px }}
img {{ max-width: 100%; image-rendering: pixelated }} figure {{ margin: 1em 0 }}</style>
<h1>{title}</h1>
{body}
</html>
"""
