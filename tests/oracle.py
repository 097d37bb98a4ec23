"""OracleSegmenter: a model that knows the truth and answers tile by tile, exactly or badly."""

from __future__ import annotations

import numpy as np
from scenes import Truth, connected_pieces

from geopanoptic.grid import Tile
from geopanoptic.segments import PanopticTile


class OracleSegmenter:
    """Answer with the truth cut to the window: what a perfect network would say of that window.

    Every 4-connected component of (instance ∩ window) has an id of its own, because nobody can
    see in the window that two of them hang together outside; ids are permuted per tile, because
    networks number as they like.
    """

    def __init__(self, truth: Truth, seed: int = 0) -> None:
        self.truth = truth
        self.seed = seed

    def predict(self, tile: Tile) -> PanopticTile:
        """Return the answer for one tile's window."""
        rng = np.random.default_rng((self.seed, tile.index))
        cut = self.truth.instance[tile.window.slices]
        pieces, first = connected_pieces(cut)
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
