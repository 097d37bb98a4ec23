"""Count two panoptic maps against each other, block by block: the one table all metrics read.

A map side is a class raster (uint8) and an instance raster (int32). Each pixel gets one *label*:
void 0; a segment with an identity its instance id (1 .. 2^31 - 1); a class without identities
2^31 + class. What is counted for every pair of labels that meet: pixels and their bounding box.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from geopanoptic.contingency import Contingency
from geopanoptic.errors import SchemaError
from geopanoptic.metrics.kernel import count_block
from geopanoptic.metrics.tally import Tally

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

VOID_LABEL = 0
CLASS_LABEL = 2**31  # label of a class whose pixels have no identity: CLASS_LABEL + class
UNKNOWN = 255  # code of a raster value that the schema does not know
_PRED_SIDE = 256  # in `PanopticCount.rows`, side b's classes are shifted by this


@dataclass(frozen=True, slots=True)
class ClassCode:
    """How the class values of one side's raster are read.

    `code` uint8 (256,): the common class 1..K of each raster value; 0 = void (or nodata);
    255 = unknown, an error where it is met. `keeps_id` bool (256,): whether the instance raster
    tells segments of this raster value apart (things; stuff only when segments are kept).
    """

    code: Bytes
    keeps_id: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, to_class: dict[int, int], with_id: Iterable[int], void: Iterable[int]) -> ClassCode:
        """Make the code: raster value -> common class, values with identities, void values."""
        code = np.full(256, UNKNOWN, np.uint8)
        for value, common in to_class.items():
            code[value] = common
        code[list(void)] = 0
        keeps = np.zeros(256, bool)
        keeps[list(with_id)] = True
        return cls(code, keeps)

    @classmethod
    def plain(cls, n_classes: int, things: Iterable[int]) -> ClassCode:
        """Make the code of a raster that holds 1..n itself; 0 and 255 are void."""
        return cls.of({c: c for c in range(1, n_classes + 1)}, things, (0, 255))


@dataclass(frozen=True, slots=True)
class Sides:
    """How both sides are read, and the ground blocks of the bootstrap.

    `n_classes` common classes 1..n. `ground` is the edge of a ground block in pixels (0: the
    whole raster is one block) and `ground_cols` how many lie side by side.
    """

    truth: ClassCode
    pred: ClassCode
    n_classes: int
    ground: int = 0
    ground_cols: int = 1


@dataclass(frozen=True, slots=True)
class PanopticCount:
    """What two maps have in common: one row per pair (truth label, prediction label) that meets.

    `truth`, `pred` labels and `px` int64 (n,), sorted by (truth, pred); `bbox` int64 (n, 4) first
    row, first col, stop row, stop col of the common pixels; `truth_class`, `pred_class` uint8, the
    common classes. `rows` counts (row, class [+256 for the prediction]); `ground` counts
    (ground block, truth class x 256 + prediction class).

    Law: ``count(X) + count(Y) == count(X ∪ Y)`` on disjoint pixels, in any order.
    """

    truth: Ints
    pred: Ints
    px: Ints
    bbox: Ints
    truth_class: Bytes
    pred_class: Bytes
    rows: Contingency = field(default_factory=Contingency.empty)
    ground: Contingency = field(default_factory=Contingency.empty)

    @classmethod
    def empty(cls) -> PanopticCount:
        """Make the count of no pixels."""
        none = np.zeros(0, np.int64)
        no_class = np.zeros(0, np.uint8)
        return cls(none, none, none, np.zeros((0, 4), np.int64), no_class, no_class)

    @classmethod
    def of(
        cls,
        truth: tuple[npt.ArrayLike, npt.ArrayLike],
        pred: tuple[npt.ArrayLike, npt.ArrayLike],
        sides: Sides,
        origin: tuple[int, int] = (0, 0),
    ) -> PanopticCount:
        """Count one block: each side is (class uint8, instance int32), shape (rows, cols).

        `origin` is the (row, col) of the block's first pixel in the scene.
        Raises SchemaError for a class value that no schema knows, a negative instance id, or an
        instance on pixels of two classes; the message names one pixel. ValueError when the four
        arrays differ in shape.
        """
        t_class, t_id = (np.ascontiguousarray(x, d) for x, d in zip(truth, _DTYPES, strict=True))
        p_class, p_id = (np.ascontiguousarray(x, d) for x, d in zip(pred, _DTYPES, strict=True))
        if len({x.shape for x in (t_class, t_id, p_class, p_id)}) != 1 or t_class.ndim != 2:
            shapes = [x.shape for x in (t_class, t_id, p_class, p_id)]
            raise ValueError(f"the four label arrays are not of one 2-D shape: {shapes}")
        if t_class.size == 0:
            return cls.empty()
        height, width = t_class.shape
        edge = sides.ground or max(height, width, 1) + max(origin)
        first = (origin[0] // edge, origin[1] // edge)
        blocks = ((origin[0] + height - 1) // edge - first[0] + 1,
                  (origin[1] + width - 1) // edge - first[1] + 1)  # fmt: skip
        n = sides.n_classes + 1
        row_px = np.zeros((height, 2, n), np.int64)
        ground_px = np.zeros((blocks[0] * blocks[1], n, n), np.int64)
        frame = np.array([*origin, edge, *first, blocks[1]], np.int64)
        codes = np.stack([sides.truth.code, sides.pred.code])
        keeps = np.stack([sides.truth.keeps_id, sides.pred.keeps_id])
        fault = np.zeros(5, np.int64)
        flags = np.zeros((width + 7) // 8 * 8, np.uint8)
        scratch = (flags, flags.view(np.uint64), np.zeros(width + 1, np.int64))
        slots, table = count_block(
            (t_class, t_id), (p_class, p_id), codes, keeps, frame,
            (row_px, ground_px, fault, scratch),
        )  # fmt: skip
        if fault[0]:
            raise SchemaError(_describe(fault))
        full = np.flatnonzero(slots)
        full = full[np.argsort(slots[full])]
        keys, table = slots[full] - np.uint64(1), table[full]
        return cls(
            (keys >> np.uint64(32)).astype(np.int64),
            (keys & np.uint64(2**32 - 1)).astype(np.int64),
            table[:, 0].copy(),
            table[:, 1:5].copy(),
            table[:, 5].astype(np.uint8),
            table[:, 6].astype(np.uint8),
            rows=_row_counts(row_px, origin[0]),
            ground=_ground_counts(ground_px, first, blocks, sides.ground_cols),
        )

    @classmethod
    def sum(cls, counts: Sequence[PanopticCount]) -> PanopticCount:
        """Add counts of disjoint pixels of one scene; the order does not matter."""
        parts = [c for c in counts if len(c)]
        if not parts:
            return cls.empty()
        truth = np.concatenate([c.truth for c in parts])
        pred = np.concatenate([c.pred for c in parts])
        order = np.lexsort((pred, truth))
        truth, pred = truth[order], pred[order]
        new = np.concatenate(([True], (truth[1:] != truth[:-1]) | (pred[1:] != pred[:-1])))
        at = np.flatnonzero(new)
        px = np.concatenate([c.px for c in parts])[order]
        bbox = np.concatenate([c.bbox for c in parts])[order]
        low = np.minimum.reduceat(bbox[:, :2], at, axis=0)
        high = np.maximum.reduceat(bbox[:, 2:], at, axis=0)
        classes: list[Bytes] = []
        for name in ("truth_class", "pred_class"):
            column = np.concatenate([getattr(c, name) for c in parts])[order]
            classes.append(column[at])
            same = np.repeat(column[at], np.diff(np.append(at, len(column)))) == column
            if not same.all():
                _two_classes(name, (truth if name == "truth_class" else pred)[~same][0])
        return cls(
            truth[at],
            pred[at],
            np.add.reduceat(px, at),
            np.concatenate([low, high], axis=1),
            classes[0],
            classes[1],
            rows=Contingency.sum(c.rows for c in parts),
            ground=Contingency.sum(c.ground for c in parts),
        )

    def __add__(self, other: PanopticCount) -> PanopticCount:
        return PanopticCount.sum((self, other))

    def __len__(self) -> int:
        return len(self.px)

    @classmethod
    def tally(cls) -> Tally[PanopticCount]:
        """Return an empty running sum of counts."""
        return Tally(cls.sum, lambda c: len(c) + len(c.rows) + len(c.ground))

    @property
    def total_px(self) -> int:
        return int(self.px.sum())

    @property
    def pairs(self) -> Contingency:
        """The bare contingency of labels."""
        return Contingency(self.truth, self.pred, self.px)

    def confusion(self, n_classes: int) -> Ints:
        """Return pixels per (truth class, prediction class), shape (n+1, n+1); 0 = void."""
        n = n_classes + 1
        cell = self.truth_class.astype(np.int64) * n + self.pred_class
        # float64 weights are exact up to 2^53 pixels
        flat = np.bincount(cell, weights=self.px, minlength=n * n)
        return flat.astype(np.int64).reshape(n, n)

    def class_rows(self, side: str, class_id: int) -> tuple[Ints, Ints]:
        """Return (rows, pixels) where a class of one side ('truth' or 'pred') lies."""
        wanted = class_id + (_PRED_SIDE if side == "pred" else 0)
        here = self.rows.b == wanted
        return self.rows.a[here], self.rows.pixels[here]


_DTYPES = (np.uint8, np.int32)


def _row_counts(row_px: Ints, row0: int) -> Contingency:
    row, side, cls = np.nonzero(row_px)
    return Contingency.from_rows(row + row0, cls + side * _PRED_SIDE, row_px[row, side, cls])


def _ground_counts(
    px: Ints, first: tuple[int, int], blocks: tuple[int, int], ground_cols: int
) -> Contingency:
    block, truth, pred = np.nonzero(px)
    index = (first[0] + block // blocks[1]) * ground_cols + first[1] + block % blocks[1]
    return Contingency.from_rows(index, truth * 256 + pred, px[block, truth, pred])


def _describe(fault: Ints) -> str:
    what, row, col, value, other = (int(x) for x in fault)
    side = "truth" if what % 2 else "prediction"
    place = f"at row {row}, col {col}"
    if what <= 2:
        return f"the {side} has class value {value} {place}, which its schema does not name"
    if what <= 4:
        return f"the {side} has the negative instance id {value} {place}"
    return (
        f"instance {value} of the {side} lies on pixels of two classes (seen {place}, class "
        f"number {other} of the evaluation); run 'geopanoptic check' on it"
    )


def _two_classes(side: str, label: int) -> None:
    raise SchemaError(
        f"instance {label} of the {side.removesuffix('_class')} map lies on pixels of two "
        f"classes; an instance must have one class: run 'geopanoptic check' on it"
    )
