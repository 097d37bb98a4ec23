"""Two more decoders of dense fields: centres with offsets, and connected components.

Centres (Cheng et al. 2020, "Panoptic-DeepLab"): tops of the centre field are the seeds; a pixel of
a thing's region joins the centre of its class that lies nearest to where its offset points, if it
lies within reach. What no centre claims stays one thing per connected piece. Components: every
connected piece of a thing's region is one thing; for networks without an instance head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from geopanoptic.models.decode import ThingRows, answer, classified
from geopanoptic.models.segmenter import Fields, Segmented

if TYPE_CHECKING:
    from geopanoptic.models.card import ModelCard

NMS_PX = 7  # a centre is the top of so many pixels a side (the paper's)

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class CentersDecoder:
    """Settings of the centre decoder, one row per thing class.

    `peak`: value of the centre field from which a top counts; `reach_px`: how far from a centre
    the offset of its pixels may point.
    """

    rows: ThingRows
    peak: npt.NDArray[np.float32]
    reach_px: npt.NDArray[np.float32]

    KEYS = ("region", "score", "area_px", "peak", "reach_px")

    @classmethod
    def from_card(cls, card: ModelCard) -> CentersDecoder:
        """Read the thresholds `<class>_<what>` of a card; CheckpointError when one is amiss."""
        rows, extra = ThingRows.read(card.schema, card.thresholds, cls.KEYS, card.score_model)
        return cls(rows, extra["peak"], extra["reach_px"])

    def decode(self, fields: Fields, valid: npt.NDArray[np.bool_]) -> Segmented:
        """Decode one tile: `semantic` (class, h, w), `center` (h, w), `offset` (2, h, w) px.

        Laws: those of `decode.SeededDecoder`. Raises SceneError when a valid pixel has no finite
        probability.
        """
        found = classified(fields["semantic"], valid, self.rows)
        label = np.zeros(valid.shape, np.int32)
        tops = _tops(fields["center"])
        for row in range(len(self.rows.things)):
            region = found.region == row + 1
            own = tops & region & (fields["center"] >= self.peak[row])
            _join_centers(label, region, own, (fields["offset"], float(self.reach_px[row])))
        return answer(found, *_pieces(label, found.region), self.rows)


@dataclass(frozen=True, slots=True)
class ComponentsDecoder:
    """Every connected piece of a thing's region is a thing."""

    rows: ThingRows

    KEYS = ("region", "score", "area_px")

    @classmethod
    def from_card(cls, card: ModelCard) -> ComponentsDecoder:
        """Read the thresholds `<class>_<what>` of a card; CheckpointError when one is amiss."""
        return cls(ThingRows.read(card.schema, card.thresholds, cls.KEYS, card.score_model)[0])

    def decode(self, fields: Fields, valid: npt.NDArray[np.bool_]) -> Segmented:
        """Decode one tile: `semantic` (class, h, w). Laws: those of `decode.SeededDecoder`."""
        found = classified(fields["semantic"], valid, self.rows)
        pieces = _pieces(np.zeros(valid.shape, np.int32), found.region)
        return answer(found, *pieces, self.rows)


def _tops(center: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Mark the pixels that are the highest of the NMS_PX x NMS_PX around them."""
    from scipy import ndimage

    highest = ndimage.maximum_filter(center, NMS_PX, mode="constant", cval=0.0)
    tops, n = ndimage.label((center == highest) & (center > 0), np.ones((3, 3)))
    out = np.zeros(center.shape, bool)
    if n:  # of a flat top one pixel: the first
        _, first = np.unique(tops, return_index=True)
        out.ravel()[first[1:] if tops.flat[first[0]] == 0 else first] = True
    return out


def _join_centers(
    label: Ints,
    region: npt.NDArray[np.bool_],
    own: npt.NDArray[np.bool_],
    pull: tuple[npt.NDArray[np.float32], float],
) -> None:
    """Label the region's pixels by the centre their offset points at, in place."""
    from scipy.spatial import cKDTree

    offset, reach_px = pull
    centers = np.argwhere(own)
    pixels = np.argwhere(region)
    if not len(centers) or not len(pixels):
        return
    rows, cols = pixels.T
    landing = pixels + offset[:, rows, cols].T
    far, nearest = cKDTree(centers).query(landing, distance_upper_bound=reach_px)
    joined = np.isfinite(far)
    label[rows[joined], cols[joined]] = label.max() + 1 + nearest[joined]


def _pieces(label: Ints, region: npt.NDArray[np.uint8]) -> tuple[Ints, npt.NDArray[np.int64]]:
    """Cut labels (and the unlabelled rest of each region) into 4-connected pieces 1..n.

    Returns the pieces and the row of the thing classes of each (entry 0 unused).
    """
    out = _same_neighbours(label.astype(np.int64) * 256 + region, region > 0)
    row = np.zeros(int(out.max(initial=0)) + 1, np.int64)
    row[out[region > 0]] = region[region > 0].astype(np.int64) - 1
    return out, row


def _same_neighbours(key: npt.NDArray[np.int64], inside: npt.NDArray[np.bool_]) -> Ints:
    """Number the 4-connected pieces of equal keys, by their first pixel in raster order."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    index = np.full(key.shape, -1, np.int64)
    index[inside] = np.arange(int(inside.sum()))
    pairs = []
    for a, b in (((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
                 ((slice(1, None), slice(None)), (slice(None, -1), slice(None)))):  # fmt: skip
        same = inside[a] & inside[b] & (key[a] == key[b])
        pairs.append(np.stack([index[a][same], index[b][same]]))
    left, right = np.concatenate(pairs, axis=1)
    size = int(inside.sum())
    graph = coo_matrix((np.ones(len(left), bool), (left, right)), (size, size))
    piece = connected_components(graph, directed=False)[1]
    out = np.zeros(key.shape, np.int32)
    _, first, inverse = np.unique(piece, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(1, len(first) + 1)
    out[inside] = rank[inverse]
    return out
