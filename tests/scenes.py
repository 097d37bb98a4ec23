"""Synthetic truth: scenes whose every object is known, small and full of hard cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Labels = npt.NDArray[np.int32]

BUILDING, VEHICLE, TREE, ROAD = 1, 2, 3, 5  # class ids of the default schema


@dataclass(frozen=True)
class Truth:
    """A scene's truth: `instance` int32 (0 = none) of 4-connected instances 1..n in raster order,
    `class_of` uint8 (n+1,), `stuff` uint8 (0 = nodata, where there is no instance)."""

    instance: Labels
    class_of: npt.NDArray[np.uint8]
    stuff: npt.NDArray[np.uint8]

    @property
    def shape(self) -> tuple[int, int]:
        return self.instance.shape  # type: ignore[return-value]

    @property
    def n(self) -> int:
        return len(self.class_of) - 1

    @classmethod
    def of(cls, instance: npt.ArrayLike, class_of=None, nodata=None) -> Truth:
        """Cut nodata out, make every 4-connected piece an instance, keep each one's class.

        `class_of` maps the given ids to classes (default: buildings and vehicles in turn).
        """
        given = np.asarray(instance, np.int64).copy()
        stuff = np.full(given.shape, ROAD, np.uint8)
        stuff[: given.shape[0] // 2] = TREE
        if nodata is not None:
            given[nodata] = 0
            stuff[nodata] = 0
        pieces, first = connected_pieces(given)
        ids = given.ravel()[first]
        classes = 1 + ids % 2 if class_of is None else np.asarray(class_of)[ids]
        return cls(pieces, np.concatenate([[0], classes]).astype(np.uint8), stuff)


def connected_pieces(labels: npt.NDArray[np.integer]) -> tuple[Labels, npt.NDArray[np.int64]]:
    """Number 4-connected pieces of equal labels in raster order; also their first flat pixels.

    Written apart from the package's own kernel, over a graph of pixels, to check it.
    """
    index = np.arange(labels.size).reshape(labels.shape)
    right = (labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] > 0)
    down = (labels[1:] == labels[:-1]) & (labels[1:] > 0)
    i = np.concatenate([index[:, :-1][right], index[:-1][down]])
    j = np.concatenate([index[:, 1:][right], index[1:][down]])
    graph = coo_array((np.ones(len(i), np.int8), (i, j)), shape=(labels.size, labels.size))
    component = connected_components(graph, directed=False)[1]
    component[labels.ravel() == 0] = -1
    there = np.flatnonzero(component >= 0)
    _, first, inverse = np.unique(component[there], return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(first), np.int64)
    rank[order] = np.arange(1, len(first) + 1)
    pieces = np.zeros(labels.size, np.int32)
    pieces[there] = rank[inverse]
    return pieces.reshape(labels.shape), there[first[order]]


# --- painters: each fills a canvas of `shape` with ids from 1 on --------------------------------


def row_houses(shape: tuple[int, int], rng: np.random.Generator) -> Labels:
    """Houses in rows, sharing walls left and right, back to back every second row."""
    out = np.zeros(shape, np.int32)
    row, k = int(rng.integers(0, 3)), 1
    while row < shape[0]:
        deep = int(rng.integers(3, 9))
        col = int(rng.integers(0, 4))
        while col < shape[1]:
            wide = int(rng.integers(2, 9))
            out[row : row + deep, col : col + wide] = k
            k, col = k + 1, col + wide + (int(rng.integers(1, 4)) if rng.random() < 0.1 else 0)
        row += deep + (int(rng.integers(1, 4)) if k % 2 else 0)
    return out


def parcels(shape: tuple[int, int], rng: np.random.Generator) -> Labels:
    """Abutting parcels without any gap: the cells nearest to random seeds."""
    n = max(2, shape[0] * shape[1] // 60)
    seeds = np.zeros(shape, np.int32)
    seeds[rng.integers(0, shape[0], n), rng.integers(0, shape[1], n)] = np.arange(1, n + 1)
    nearest = ndimage.distance_transform_edt(
        seeds == 0, return_distances=False, return_indices=True
    )
    return seeds[tuple(nearest)]


def blobs(shape: tuple[int, int], rng: np.random.Generator) -> Labels:
    """Winding blobs that leave and re-enter any window; neighbours touch."""
    field = ndimage.gaussian_filter(rng.normal(size=shape), 2.0)
    bands = np.digitize(field, np.quantile(field, [0.35, 0.6, 0.8]))
    return bands.astype(np.int32)


def rings(shape: tuple[int, int], rng: np.random.Generator) -> Labels:
    """Rings around rings, one pixel apart or touching, up to the whole scene."""
    out = np.zeros(shape, np.int32)
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    k = 1
    for _ in range(3):
        r0, c0 = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        far = np.maximum(abs(rows - r0), abs(cols - c0))
        for radius in range(int(rng.integers(1, 4)), max(shape), int(rng.integers(2, 6))):
            out[far == radius] = k
            k += 1
    return out


def combs(shape: tuple[int, int], rng: np.random.Generator) -> Labels:
    """U shapes and combs: long bodies with teeth one pixel wide, of two objects interleaved."""
    out = np.zeros(shape, np.int32)
    teeth = np.arange(shape[1]) % 4
    body = shape[0] // 3
    out[body:, teeth == 0] = 1
    out[-1, :] = 1
    out[: shape[0] - 2, teeth == 2] = 2
    out[0, :] = 2
    return out if rng.random() < 0.5 else np.ascontiguousarray(out[:, ::-1])


def halls(shape: tuple[int, int], rng: np.random.Generator) -> Labels:
    """Halls longer than several tiles, lying and standing, wall to wall, among small objects."""
    out = specks(shape, rng)
    k = int(out.max()) + 1
    for _ in range(6):
        long, wide = int(rng.integers(shape[1] // 2, shape[1] + 1)), int(rng.integers(1, 9))
        row, col = int(rng.integers(0, shape[0])), int(rng.integers(0, shape[1] // 2 + 1))
        canvas = out if rng.random() < 0.5 else out.T
        canvas[row : row + wide, col : col + long] = k
        canvas[row + wide : row + 2 * wide, col : col + long] = k + 1
        k += 2
    return out


def specks(shape: tuple[int, int], rng: np.random.Generator) -> Labels:
    """Objects of a single pixel and of 2 x 2, many of them touching."""
    out = np.zeros(shape, np.int32)
    n = shape[0] * shape[1] // 12
    rows, cols = rng.integers(0, shape[0], n), rng.integers(0, shape[1], n)
    for k, (r, c) in enumerate(zip(rows, cols, strict=True), 1):
        out[r : r + 1 + k % 2, c : c + 1 + k % 2] = k
    return out


def labyrinth(shape: tuple[int, int], rng: np.random.Generator) -> Labels:
    """Random pixels of few ids: pieces of every shape."""
    return rng.integers(0, 3, shape).astype(np.int32)


PAINTERS: dict[str, Callable[[tuple[int, int], np.random.Generator], Labels]] = {
    "row houses": row_houses,
    "parcels": parcels,
    "blobs": blobs,
    "rings": rings,
    "combs": combs,
    "halls": halls,
    "specks": specks,
    "labyrinth": labyrinth,
}


def make_truth(kind: str, shape: tuple[int, int], seed: int, nodata: bool = False) -> Truth:
    """Paint a scene of one kind; with `nodata`, holes and a ragged edge are cut out of it."""
    rng = np.random.default_rng(seed)
    instance = PAINTERS[kind](shape, rng)
    holes = None
    if nodata:
        holes = np.zeros(shape, bool)
        for _ in range(3):
            r, c = rng.integers(0, shape[0]), rng.integers(0, shape[1])
            holes[r : r + int(rng.integers(1, 12)), c : c + int(rng.integers(1, 12))] = True
        holes[np.arange(shape[0])[:, None] + np.arange(shape[1]) < int(rng.integers(0, 12))] = True
    return Truth.of(instance, nodata=holes)
