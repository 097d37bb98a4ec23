"""The oracles and the in-memory stitcher of the tests, for benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from oracle import Noise, NoisySegmenter, OracleSegmenter, fast_pieces
from scenes import BUILDING, ROAD, VEHICLE, Truth
from stitching import stitch_tiles

__all__ = [
    "BUILDING",
    "ROAD",
    "VEHICLE",
    "Noise",
    "NoisySegmenter",
    "OracleSegmenter",
    "Truth",
    "fast_pieces",
    "stitch_tiles",
]
