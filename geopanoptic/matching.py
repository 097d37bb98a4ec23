"""One-to-one assignment between two sets, per connected component of their candidate graph.

Never dense over the whole: a scene of 10^5 x 10^5 objects has few candidates per object.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

DENSE_CELLS = 250_000  # largest component solved as a dense matrix (2 MB)
COUNT_FIRST = 100.0  # SCOT (SpaceNet 7): maximise sum(100 + IoU), so number first, IoU second


def assign(left: Ints, right: Ints, weight: Floats) -> Ints:
    """Choose candidates so that no left and no right occurs twice and the sum of weights is most.

    `left`, `right` int (n,): the ends of each candidate; `weight` float64 (n,), > 0. Returns the
    indices of the chosen candidates, sorted. Use ``COUNT_FIRST + iou`` for as many matches as
    possible and among those the best.

    Laws: the result does not depend on the order of candidates up to ties of equal sums; it
    equals the dense optimum (Hungarian method) of the whole.
    Raises ValueError when a weight is not positive.
    """
    # scipy's optimisers take a while to import, and most evaluations never assign
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    left, right = np.asarray(left, np.int64), np.asarray(right, np.int64)
    weight = np.asarray(weight, np.float64)
    if len(left) == 0:
        return np.zeros(0, np.int64)
    if not (weight > 0).all():
        raise ValueError(f"weights must be > 0; the least is {weight.min()}")
    _, a = np.unique(left, return_inverse=True)
    _, b = np.unique(right, return_inverse=True)
    n_a, n_b = int(a.max()) + 1, int(b.max()) + 1
    graph = coo_matrix((np.ones(len(a)), (a, b + n_a)), shape=(n_a + n_b, n_a + n_b))
    component = connected_components(graph, directed=False)[1][a]
    size = np.bincount(component)
    chosen = [np.flatnonzero(size[component] == 1)]
    order = np.lexsort((b, a, component))
    order = order[size[component[order]] > 1]
    starts = np.flatnonzero(np.diff(component[order], prepend=-1))
    chosen += [rows[_solve(a[rows], b[rows], weight[rows])] for rows in np.split(order, starts)[1:]]
    return np.sort(np.concatenate(chosen))


def _solve(a: Ints, b: Ints, weight: Floats) -> Ints:
    """Solve one component; return the positions of its chosen candidates."""
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    _, i = np.unique(a, return_inverse=True)
    _, j = np.unique(b, return_inverse=True)
    n_i, n_j = int(i.max()) + 1, int(j.max()) + 1
    position = csr_matrix((np.arange(1, len(a) + 1), (i, j)), shape=(n_i, n_j))
    if n_i * n_j <= DENSE_CELLS:
        value = np.zeros((n_i, n_j))
        value[i, j] = weight
        rows, cols = linear_sum_assignment(value, maximize=True)
    else:
        # A private stand-in for each left makes a full matching exist. Its weight is nearly
        # nothing, so it is taken only by those that stay alone.
        alone = csr_matrix((np.full(n_i, weight.min() * 1e-9), (np.arange(n_i), np.arange(n_i))))
        sparse = csr_matrix((weight, (i, j)), shape=(n_i, n_j))
        whole = csr_matrix(_beside(sparse, alone))
        rows, cols = min_weight_full_bipartite_matching(whole, maximize=True)
        rows, cols = rows[cols < n_j], cols[cols < n_j]
    found = np.asarray(position[rows, cols]).ravel()
    return np.asarray(found[found > 0] - 1, np.int64)


def _beside(left: Any, right: Any) -> Any:
    """Put two sparse matrices with equal rows side by side."""
    from scipy.sparse import coo_matrix

    x, y = left.tocoo(), right.tocoo()
    return coo_matrix(
        (
            np.concatenate([x.data, y.data]),
            (np.concatenate([x.row, y.row]), np.concatenate([x.col, y.col + left.shape[1]])),
        ),
        shape=(left.shape[0], left.shape[1] + right.shape[1]),
    )
