"""The pictures of the model card: windows by rule, colours that mean what the page says."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    """Import a module of benchmarks/, which imports its neighbours by their bare names."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module("model_pictures")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def town(pictures: ModuleType) -> object:
    """Return a scene whose left half is predicted truly and whose right half is not."""
    side = 2 * pictures.SIDE_PX
    truth = np.zeros((pictures.SIDE_PX * 2, side * 2), np.int32)
    pred = truth.copy()
    for k, (r, c) in enumerate(np.ndindex(10, 20)):
        box = (slice(50 * r + 10, 50 * r + 40), slice(50 * c + 10, 50 * c + 40))
        truth[box] = k + 1
        shift = 0 if c < 10 else 20  # IoU 1/5
        pred[box[0], 50 * c + 10 + shift : 50 * c + 40 + shift] = 1000 - k
    pixels = np.full((*truth.shape, 3), 120, np.uint8)
    return pictures.BundledScene(pixels, truth, pred, pictures._matched(truth, pred))


def test_the_best_and_the_worst_windows_are_shown_and_do_not_overlap(
    pictures: ModuleType, tmp_path: Path
) -> None:
    rows = pictures.gallery(town(pictures), tmp_path)
    assert [r["kind"] for r in rows] == ["good"] * 2 + ["bad"] * 2
    assert all(r["pq"] == 1 and r["false"] == 0 and r["found"] == r["truth"] for r in rows[:2])
    assert all(r["pq"] == 0 and r["found"] == 0 and r["false"] > 0 for r in rows[2:])
    corners = [(r["row"], r["col"]) for r in rows]
    for k, a in enumerate(corners):
        for b in corners[:k]:
            assert max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= pictures.SIDE_PX
    page = "\n".join(pictures.gallery_page(rows))
    for row in rows:
        assert f"images/{row['picture']}" in page
        assert (tmp_path / row["picture"]).stat().st_size <= pictures.MOST_BYTES


def test_found_missed_and_false_buildings_have_their_colours(
    pictures: ModuleType, tmp_path: Path
) -> None:
    rows = pictures.gallery(town(pictures), tmp_path)
    for row, colours in ((rows[0], {"FOUND"}), (rows[2], {"MISSED", "FALSE"})):
        shown = np.array(Image.open(tmp_path / row["picture"]).convert("RGB")).astype(int)
        for name in ("FOUND", "MISSED", "FALSE"):
            near = np.abs(shown - (0.65 * np.array(getattr(pictures, name)) + 0.35 * 156)).max(-1)
            assert ((near < 8).sum() > 500) == (name in colours)


def test_the_card_shows_pictures_that_are_there() -> None:
    page = (ROOT / "docs/model-card.md").read_text()
    named = [line.split("](")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")]
    assert named
    sizes = {n: (ROOT / "docs" / n).stat().st_size for n in named}
    assert all(0 < size < 200_000 for size in sizes.values())
    assert sum(sizes.values()) < 600_000
