"""OracleSegmenter: a model that knows the truth and answers tile by tile, exactly or badly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scenes import Labels, Truth, connected_pieces
from scipy import ndimage
from scipy.special import ndtri

from geopanoptic.grid import Shape, Tile, Window
from geopanoptic.segments import PanopticTile
from geopanoptic.stitch.kernels import cc4, node_sums

Pieces = Callable[[Labels], tuple[Labels, npt.NDArray[np.int64]]]


def fast_pieces(labels: Labels) -> tuple[Labels, npt.NDArray[np.int64]]:
    """Do as `scenes.connected_pieces` with the package's own loops, for large scenes."""
    pieces, n = cc4(np.ascontiguousarray(labels))
    return pieces, node_sums(pieces, n, np.zeros(labels.shape, np.uint8))[0]


class OracleSegmenter:
    """Answer with the truth cut to the window: what a perfect network would say of that window.

    Every 4-connected component of (instance ∩ window) has an id of its own, because nobody can
    see in the window that two of them hang together outside; ids are permuted per tile, because
    networks number as they like.
    """

    def __init__(self, truth: Truth, seed: int = 0, pieces: Pieces = connected_pieces) -> None:
        self.truth = truth
        self.seed = seed
        self.pieces = pieces

    def predict(self, tile: Tile) -> PanopticTile:
        """Return the answer for one tile's window."""
        rng = np.random.default_rng((self.seed, tile.index))
        cut = self.truth.instance[tile.window.slices]
        pieces, first = self.pieces(cut)
        name = np.concatenate([[0], 1 + rng.permutation(len(first))]).astype(np.int32)
        class_of = np.zeros(len(name), np.uint8)
        class_of[name[1:]] = self.truth.class_of[cut.ravel()[first]]
        score = rng.integers(100, 201, cut.shape).astype(np.uint8)
        score[rng.random(cut.shape) < 0.01] = 255
        return PanopticTile(
            tile=tile,
            stuff=self.truth.stuff[tile.window.slices].copy(),
            instance=name[pieces],
            class_of=class_of,
            score=score,
        )


@dataclass(frozen=True)
class Noise:
    """How badly a noisy oracle sees; pixels and shares.

    The defaults: boundaries wander by `model_px` the same way in every tile (the model's own
    error) and by `tile_px` from tile to tile, rising to `edge_px` within `band_px` of an
    artificial window edge, where patches drop out too (up to `dropout` of the pixels). The model
    misses and splits objects; a tile misses, splits and merges some of its own accord, and does
    so more with what its window cuts: missed with `cut_miss` x the hidden share x the share of the
    rest that lies in the band. `class_flip` of
    a tile's segments get another class; pieces below `least_px` are not reported.
    """

    model_px: float = 0.8
    model_miss: float = 0.01
    model_split: float = 0.008
    tile_px: float = 0.6
    edge_px: float = 2.5
    band_px: int = 24
    dropout: float = 0.12
    miss: float = 0.006
    split: float = 0.004
    merge: float = 0.004
    cut_miss: float = 0.5
    cut_split: float = 0.03
    class_flip: float = 0.0
    least_px: int = 12


def wandering(shape: Shape, rng: np.random.Generator, spacing: int = 20) -> npt.NDArray[np.float32]:
    """Return a smooth random field of unit variance: a coarse grid of noise, interpolated."""
    coarse = rng.normal(size=(shape[0] // spacing + 3, shape[1] // spacing + 3))
    rows = rng.random() + np.arange(shape[0]) / spacing
    cols = rng.random() + np.arange(shape[1]) / spacing
    r, c = rows.astype(int), cols.astype(int)
    fr, fc = (rows - r)[:, None], (cols - c)[None, :]
    top = coarse[r][:, c] * (1 - fc) + coarse[r][:, c + 1] * fc
    low = coarse[r + 1][:, c] * (1 - fc) + coarse[r + 1][:, c + 1] * fc
    field = top * (1 - fr) + low * fr
    variance = ((1 - fr) ** 2 + fr**2) * ((1 - fc) ** 2 + fc**2)
    return (field / np.sqrt(variance)).astype(np.float32)


def warped(labels: Labels, amount_px: npt.ArrayLike, rng: np.random.Generator) -> Labels:
    """Let boundaries wander: read every pixel a little aside, never from outside the array."""
    moves = [np.rint(wandering(labels.shape, rng) * amount_px).astype(np.int32) for _ in range(2)]
    rows = np.clip(np.arange(labels.shape[0])[:, None] + moves[0], 0, labels.shape[0] - 1)
    cols = np.clip(np.arange(labels.shape[1])[None, :] + moves[1], 0, labels.shape[1] - 1)
    return labels[rows, cols]


def split_pieces(labels: Labels, which: npt.ArrayLike, rng: np.random.Generator) -> list[int]:
    """Cut labels in two across their longer side, in place; return what the new ids came from.

    New ids begin above the highest label.
    """
    fresh, parents = int(labels.max(initial=0)) + 1, []
    boxes = ndimage.find_objects(labels)
    for k in np.asarray(which, int):
        if k > len(boxes) or boxes[k - 1] is None:
            continue
        view = labels[boxes[k - 1]]
        axis = int(view.shape[1] > view.shape[0])
        at = int(view.shape[axis] * rng.uniform(0.3, 0.7))
        half = view[at:] if axis == 0 else view[:, at:]
        if (half == k).any() and (half == k).sum() < (view == k).sum():
            half[half == k] = fresh + len(parents)
            parents.append(int(k))
    return parents


def merge_pieces(labels: Labels, which: npt.NDArray[np.integer]) -> None:
    """Give the given labels the id of the neighbour they touch most, in place."""
    boxes = ndimage.find_objects(labels)
    for k in which:
        box = boxes[k - 1] if k <= len(boxes) else None
        if box is None:
            continue  # eaten by an earlier merger
        around = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
        view = labels[around]
        rim = ndimage.binary_dilation(view == k) & (view != k) & (view > 0)
        touching = np.bincount(view[rim])
        if len(touching):
            view[view == k] = touching.argmax()


class NoisySegmenter:
    """Answer like a real network: see `Noise`. `ideal` is what it would say without tiles.

    A window's noise depends on the window alone, not on its number.
    """

    def __init__(self, truth: Truth, noise: Noise | None = None, seed: int = 0) -> None:
        self.truth = truth
        self.noise = noise or Noise()
        self.seed = seed
        rng = np.random.default_rng((seed, 1))
        seen = warped(truth.instance, self.noise.model_px, rng)
        seen[truth.stuff == 0] = 0
        missed = rng.random(truth.n + 1) < self.noise.model_miss
        missed[0] = False
        seen[missed[seen]] = 0
        halves = np.flatnonzero(rng.random(truth.n) < self.noise.model_split) + 1
        top = int(seen.max(initial=0))
        parent = np.arange(top + 1)
        parent = np.concatenate([parent, split_pieces(seen, halves, rng)]).astype(int)
        pieces, n = cc4(seen)
        small = np.bincount(pieces.ravel(), minlength=n + 1) < self.noise.least_px
        seen[small[pieces]] = 0
        pieces, n = cc4(seen)
        # which true object each ideal one comes from
        self.origin = np.zeros(n + 1, int)
        self.origin[pieces.ravel()] = parent[seen.ravel()]
        self.ideal = Truth(pieces, truth.class_of[self.origin], truth.stuff)
        self.area = np.bincount(pieces.ravel(), minlength=n + 1)

    def predict(self, tile: Tile) -> PanopticTile:
        """Return the answer for one tile's window."""
        window, noise = tile.window, self.noise
        rng = np.random.default_rng((self.seed, 2, window.row, window.col, *window.shape))
        near = self._nearness(window)
        seen = warped(
            self.ideal.instance[window.slices],
            noise.tile_px + (noise.edge_px - noise.tile_px) * near,
            rng,
        )
        if noise.dropout > 0:
            level = normal_level(1 - noise.dropout * near)
            seen[wandering(window.shape, rng) > level] = 0
        seen[self.truth.stuff[window.slices] == 0] = 0
        pieces, n = cc4(seen)
        small = np.bincount(pieces.ravel(), minlength=n + 1) < noise.least_px
        seen[small[pieces]] = 0
        pieces, n = cc4(seen)
        source = np.zeros(n + 1, int)
        source[pieces.ravel()] = seen.ravel()
        source = self._mistake(pieces, source, near, rng)
        return self._answer(tile, pieces, source, near, rng)

    def _nearness(self, window: Window) -> npt.NDArray[np.float32]:
        """Return 1 at an artificial edge of the window, falling to 0 over the band."""
        far = []
        for axis in (0, 1):
            start, size = (window.row, window.col)[axis], window.shape[axis]
            place = np.arange(size, dtype=np.float32)
            low = place if start > 0 else np.full(size, np.inf, np.float32)
            more = start + size < self.truth.shape[axis]
            high = place[::-1] if more else np.full(size, np.inf, np.float32)
            far.append(np.minimum(low, high))
        distance = np.minimum(far[0][:, None], far[1][None, :])
        return np.clip(1 - distance / self.noise.band_px, 0, 1).astype(np.float32)

    def _mistake(self, pieces: Labels, source, near, rng: np.random.Generator):
        """Miss, split and merge pieces of one window, in place; return the ideal id of each."""
        noise, n = self.noise, len(source) - 1
        area = np.bincount(pieces.ravel(), minlength=n + 1)
        cut = np.zeros(n + 1, bool)
        cut[np.unique(pieces[near >= 1])] = True
        hidden = np.clip(1 - area / np.maximum(self.area[source], 1), 0, 1)
        in_band = np.bincount(pieces.ravel(), (near > 0).ravel(), n + 1) / np.maximum(area, 1)
        blind = noise.cut_miss * hidden * in_band
        miss = np.where(cut, np.maximum(noise.miss, blind), noise.miss)
        missed = rng.random(n + 1) < miss
        split = rng.random(n + 1) < np.where(cut, noise.cut_split, noise.split)
        merged = rng.random(n + 1) < noise.merge
        missed[0] = split[0] = merged[0] = False
        pieces[missed[pieces]] = 0
        merge_pieces(pieces, np.flatnonzero(merged & ~missed))
        source = source[: int(pieces.max(initial=0)) + 1]
        parents = split_pieces(pieces, np.flatnonzero(split & ~missed & ~merged), rng)
        return np.concatenate([source, source[parents].astype(int)])

    def _answer(self, tile: Tile, pieces: Labels, source, near, rng) -> PanopticTile:
        n = len(source) - 1
        classes = self.ideal.class_of[source]
        flips = rng.random(n + 1) < self.noise.class_flip
        classes = np.where(flips & (classes > 0), 3 - classes, classes)  # 1 <-> 2
        name = np.concatenate([[0], 1 + rng.permutation(n)]).astype(np.int32)
        class_of = np.zeros(n + 1, np.uint8)
        class_of[name] = classes
        sure = rng.uniform(0.7, 1.0, n + 1)[pieces] * (1 - 0.5 * near)
        return PanopticTile(
            tile=tile,
            stuff=self.truth.stuff[tile.window.slices].copy(),
            instance=name[pieces],
            class_of=class_of,
            score=np.rint(200 * sure).astype(np.uint8),
        )


def normal_level(share: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the level that a standard normal field is under on this share of its pixels."""
    return ndtri(np.clip(share, 1e-6, 1))
