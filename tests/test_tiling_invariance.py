"""The flagship: tiling must not show. With an exact model, any tiling gives the untiled map."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from oracle import OracleSegmenter
from scenes import Truth
from stitching import same_partition, stitch
from strategies import orders, tilings, truths

from geopanoptic.grid import TileGrid


@given(truths(), tilings(), orders())
def test_any_core_halo_origin_and_order_equals_one_tile_up_to_renaming(
    truth: Truth, tiling, order
) -> None:
    grid = TileGrid(truth.shape, *tiling)
    done = stitch(OracleSegmenter(truth).predict, grid, order(len(grid)))
    assert same_partition(done.gid, truth.instance)
    assert np.array_equal(done.class_id, truth.class_of[truth.instance])


@given(truths())
def test_one_tile_is_the_untiled_prediction(truth: Truth) -> None:
    grid = TileGrid(truth.shape, max(truth.shape), max(truth.shape) // 2)
    done = stitch(OracleSegmenter(truth).predict, grid)
    assert len(grid) == 1
    assert np.array_equal(done.ids, truth.instance), "one tile: raster order, nothing else"
