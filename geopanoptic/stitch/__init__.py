"""Stitch: give every object of a scene one id, although tiles were segmented one by one.

Rule G, in four verbs. `label_tile` turns one tile's instances into canonical pieces and a table
of nodes. `match_seam` looks at the strip that two neighbouring tiles share, and at nothing else,
and says which labels meet there and which are one. `resolve` decides over the whole scene, on
tables only: an object that some tile sees whole belongs to the tile whose core holds its centre,
and that one view wins entirely; an object that every tile sees cut is the union of the views
that agree in the strips. `assemble_core` paints one core with the result.

Laws: with an exact model the partition equals the untiled one for any core, any halo >= 1 and
any shape of object; every step is a pure function of its tables, so the result does not depend
on workers, on the order of completion, or on the model's own numbering.
"""

from geopanoptic.stitch.assemble import assemble_core, measure_core, number
from geopanoptic.stitch.facts import SegmentFacts
from geopanoptic.stitch.label import label_tile
from geopanoptic.stitch.resolution import Resolution, resolve
from geopanoptic.stitch.seam import match_seam
from geopanoptic.stitch.tables import (
    CORE,
    DROP,
    PAINT,
    NodeTable,
    SeamCounts,
    SeamTable,
    TileLabels,
)

__all__ = [
    "CORE",
    "DROP",
    "PAINT",
    "NodeTable",
    "Resolution",
    "SeamCounts",
    "SeamTable",
    "SegmentFacts",
    "TileLabels",
    "assemble_core",
    "label_tile",
    "match_seam",
    "measure_core",
    "number",
    "resolve",
]
