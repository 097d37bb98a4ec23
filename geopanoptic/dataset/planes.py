"""Planes of a prepared source: image, label set, distances, instance; and sets as bit masks.

The set of classes a pixel may be is a bit mask: bit k for the k-th class of the schema, eight
classes to a byte plane, the first byte first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geopanoptic.schema import LabelSchema

Bytes = npt.NDArray[np.uint8]

MOST_IDS = 65_535  # ids in two bytes; numbered in raster order, so near ones differ


@dataclass(frozen=True, slots=True)
class Planes:
    """Where what lies in the last axis of a prepared array, for `n_bands` and `n_classes`.

    Order: bands, set bytes, signed distance, second distance, id (low byte, high byte).
    """

    n_bands: int
    n_classes: int

    @property
    def n_sets(self) -> int:
        """Bytes of a label set."""
        return -(-self.n_classes // 8)

    @property
    def sets(self) -> slice:
        return slice(self.n_bands, self.n_bands + self.n_sets)

    @property
    def signed(self) -> int:
        return self.n_bands + self.n_sets

    @property
    def second(self) -> int:
        return self.signed + 1

    @property
    def ids(self) -> slice:
        return slice(self.signed + 2, self.signed + 4)

    @property
    def count(self) -> int:
        return self.signed + 4

    @property
    def everything(self) -> Bytes:
        """The set of all classes, which says nothing: uint8 (n_sets,)."""
        return mask_bytes((1 << self.n_classes) - 1, self.n_sets)

    def ids_of(self, array: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        """Return the instance ids (h, w) of a prepared array (h, w, count); 0 = none."""
        low, high = np.moveaxis(np.asarray(array[..., self.ids], np.int32), -1, 0)
        return np.asarray(low + 256 * high, np.int32)


def set_of(names: Sequence[str], schema: LabelSchema) -> int:
    """Return the bit mask of class names; SchemaError names one that is unknown."""
    return sum(1 << schema.ids.index(schema.by_name(n).id) for n in names)


def mask_bytes(mask: int, n_sets: int) -> Bytes:
    """Return a bit mask as bytes, the lowest first: uint8 (n_sets,)."""
    return np.frombuffer(mask.to_bytes(n_sets, "little"), np.uint8).copy()


def is_exactly(sets: Bytes, mask: int) -> npt.NDArray[np.bool_]:
    """Tell where the sets (..., n_sets) are this bit mask."""
    return np.asarray((sets == mask_bytes(mask, sets.shape[-1])).all(-1), bool)
