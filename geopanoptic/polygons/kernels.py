"""The compiled inner loops of tracing: components of one block, and the walk along its cracks.

A block is held in one flat int32 array with a rim of one pixel, `stride` = width + 2 pixels per
row. Its values say what is one region: above 0 a 4-connected component, 0 or below something that
is not traced. A lattice vertex is named by the flat index of the pixel to its north-west; an edge
by the pixel on its left (whose boundary it is) and its heading: 0 south, 1 east, 2 north, 3 west.
The interior lies on the left, so outer rings run counter-clockwise on a north-up map.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Marks = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

# Bits of a mark. Of a pixel: its west edge was walked; it lies on the rim. Of a vertex: it lies on
# the first or last row of corners of the block; on the first or last column of corners.
SEEN, RIM, ON_ROW, ON_COL = 1, 2, 4, 8


@numba.njit(cache=True, nogil=True)
def label_components(labels: Ints, padded: Ints) -> tuple[Ints, Longs]:
    """Number the 4-connected parts of equal positive labels 1..n in scan order.

    `labels` (h, w) is read, the inside of `padded` (h+2, w+2) is written: the number of a part,
    or the label itself where it is 0 or negative. Returns (label of each part, its pixel count),
    both of length n+1 with row 0 unused. Union-find with path halving, two sweeps.
    """
    h, w = labels.shape
    parent = np.empty(h * w + 1, np.int32)
    n = 0
    above, above_part = np.zeros(w, np.int32), padded[0, 1:-1]
    for r in range(h):
        row, part = labels[r], padded[r + 1, 1:-1]
        left, k = 0, 0
        joined = False  # the pixel on the left and the one above it are known to be one part
        for c in range(w):
            v = row[c]
            if v <= 0:
                part[c] = v
                joined = False
            else:
                is_up = above[c] == v
                if v != left:
                    joined = False
                    if is_up:
                        k = above_part[c]
                    else:
                        n += 1
                        k = n
                        parent[n] = k
                elif is_up and not joined and above_part[c] != k:
                    _unite(parent, k, above_part[c])
                joined = is_up
                part[c] = k
            left = v
        above, above_part = row, part
    parts = 0
    for k in range(1, n + 1):  # a parent is always smaller: it has its final number already
        if parent[k] == k:
            parts += 1
            parent[k] = parts
        else:
            parent[k] = parent[parent[k]]
    label, area = np.zeros(parts + 1, np.int32), np.zeros(parts + 1, np.int64)
    for r in range(h):
        row, part = labels[r], padded[r + 1, 1:-1]
        for c in range(w):
            if part[c] > 0:
                k = parent[part[c]]
                part[c] = k
                label[k] = row[c]
                area[k] += 1
    return label, area


@numba.njit(cache=True, nogil=True)
def _unite(parent: Ints, a: int, b: int) -> None:
    while parent[a] != a:
        parent[a] = parent[parent[a]]
        a = parent[a]
    while parent[b] != b:
        parent[b] = parent[parent[b]]
        b = parent[b]
    if a < b:
        parent[b] = a
    else:
        parent[a] = b


@numba.njit(cache=True, nogil=True)
def joined(n: int, a: Longs, b: Longs) -> Longs:
    """Return the component number of each of `n` parts of which pairs (a, b) are one.

    Components are numbered by their first part.
    """
    parent = np.arange(n, dtype=np.int32)
    for k in range(len(a)):
        _unite(parent, a[k], b[k])
    number = np.empty(n, np.int64)
    count = 0
    for k in range(n):
        if parent[k] == k:
            number[k] = count
            count += 1
        else:
            # a parent is a lower number, so it has its component already
            number[k] = number[parent[k]]
    return number


@numba.njit(cache=True, nogil=True)
def renumber(flat: Ints, lut: Ints) -> None:
    """Replace every positive value of `flat` by its entry in `lut`, in place."""
    for i in range(flat.size):
        if flat[i] > 0:
            flat[i] = lut[flat[i]]


@numba.njit(cache=True, nogil=True)
def _next_edge(flat: Ints, stride: int, vertex: int, heading: int) -> tuple[int, int, bool, bool]:
    """Return (pixel, heading) of the edge that follows, whether a vertex stands between, and
    whether label 0 lay on the right of this one.

    Turn right when the pixel ahead on the right is of the same part, else straight on when the
    one ahead on the left is, else left. At a saddle this keeps the rings of one part apart (an
    outer ring and a hole that touch in a point, which is valid) instead of one that crosses
    itself. Straight on, a vertex is set only where the neighbour on the right changes.
    """
    nw, ne, sw, se = vertex, vertex + 1, vertex + stride, vertex + stride + 1
    if heading == 0:
        left, right, ahead_left, ahead_right = ne, nw, se, sw
    elif heading == 1:
        left, right, ahead_left, ahead_right = nw, sw, ne, se
    elif heading == 2:
        left, right, ahead_left, ahead_right = sw, se, nw, ne
    else:
        left, right, ahead_left, ahead_right = se, ne, sw, nw
    k = flat[left]
    nothing = flat[right] == 0
    if flat[ahead_right] == k:
        return ahead_right, (heading + 3) & 3, True, nothing
    if flat[ahead_left] == k:
        return ahead_left, heading, flat[ahead_right] != flat[right], nothing
    return left, (heading + 1) & 3, True, nothing


@numba.njit(cache=True, nogil=True)
def _head(stride: int, pixel: int, heading: int) -> int:
    """Return the vertex an edge runs to."""
    if heading == 0:
        return pixel - 1
    if heading == 1:
        return pixel
    if heading == 2:
        return pixel - stride
    return pixel - stride - 1


@numba.njit(cache=True, nogil=True)
def _walk(
    flat: Ints, marks: Marks, stride: int, edge: int, vertices: Ints, n: int
) -> tuple[int, int, int, int]:
    """Follow the boundary from `edge` = pixel * 4 + heading until it closes or meets the rim.

    Writes vertices from place `n` on. Returns (number of vertices, end, touches, first): end is
    -1 when the ring closed, else vertex * 4 + heading of the first edge that is not ours; touches
    is 1 when label 0 lay beside it; first is the least vertex where a southward edge begins.
    """
    pixel, heading = edge >> 2, edge & 3
    touches, first = 0, flat.size
    while True:
        if heading == 0:
            marks[pixel] |= SEEN
            first = min(first, pixel - stride - 1)
        vertex = _head(stride, pixel, heading)
        across = ON_COL if heading & 1 else ON_ROW
        pixel, heading, stands, nothing = _next_edge(flat, stride, vertex, heading)
        touches |= nothing
        if stands or marks[vertex] & across:
            vertices[n] = vertex
            n += 1
        if pixel * 4 + heading == edge:
            return n, -1, touches, first
        if marks[pixel] & RIM:
            return n, vertex * 4 + heading, touches, first


@numba.njit(cache=True, nogil=True)
def _walk_all(
    flat: Ints, marks: Marks, stride: int, chains: Longs, vertices: Ints, rings: Longs
) -> tuple[int, int]:
    """Walk the `chains` given by their first edges, then every closed ring that is left; return
    how many vertices and rings there are.
    """
    n = m = 0
    pixel, stop = stride, flat.size - stride
    while True:
        if m < chains.size:
            edge = chains[m]
        else:
            while pixel < stop and (
                flat[pixel] <= 0 or flat[pixel - 1] == flat[pixel] or marks[pixel] & (SEEN | RIM)
            ):
                pixel += 1
            if pixel == stop:
                return n, m
            edge = pixel * 4
            vertices[n] = pixel - stride - 1
            n += 1
        n, end, touches, first = _walk(flat, marks, stride, edge, vertices, n)
        rings[m, 0] = n
        rings[m, 1] = flat[edge >> 2]
        rings[m, 2] = _head(stride, edge >> 2, (edge + 3) & 3) * 4 + (edge & 3)
        rings[m, 3] = end
        rings[m, 4] = touches
        rings[m, 5] = first
        m += 1


def trace_block(padded: Ints, *, cut: bool = False) -> tuple[Ints, Longs]:
    """Walk all boundaries of the parts inside the rim of `padded` (h+2, w+2), each edge once.

    Returns (vertices, rings). Rings have the columns: stop (in vertices), part, start, end,
    touches, first. `end` is -1 for a closed ring: it begins and ends with the tail of its first
    southward edge in scan order (`first`), which is always a corner. Else the row is a chain, the
    piece of a ring between two visits of the rim: `start` and `end` are vertex * 4 + heading of
    its first edge and of the first edge after it. A vertex belongs to the edge that runs into it,
    so chains laid end to end give every vertex once. With `cut` there is also a vertex wherever a
    boundary crosses the line between the block and its rim.
    """
    stride, flat = padded.shape[1], padded.reshape(-1)
    framed = np.full(padded.shape, RIM, np.uint8)
    framed[1:-1, 1:-1] = 0
    if cut:
        framed[[0, -2], :-1] |= ON_ROW
        framed[:-1, [0, -2]] |= ON_COL
    marks = framed.reshape(-1)
    chains = _chain_starts(padded, marks)
    # Each crack has a part on at most two sides, so these hold all edges and all rings.
    across = np.count_nonzero(padded[:, 1:] != padded[:, :-1])
    along = np.count_nonzero(padded[1:] != padded[:-1])
    vertices = np.empty(2 * (across + along) + across + 1, np.int32)
    rings = np.empty((across + len(chains) + 1, 6), np.int64)
    n, m = _walk_all(flat, marks, stride, chains, vertices, rings)
    return vertices[:n].copy(), rings[:m]


def _chain_starts(padded: Ints, marks: Marks) -> Longs:
    """Return the edges (pixel * 4 + heading) inside whose predecessor belongs to a rim pixel."""
    stride, flat = padded.shape[1], padded.reshape(-1)
    number = np.arange(flat.size).reshape(padded.shape)[1:-1, 1:-1]
    border = np.unique(np.concatenate([number[0], number[-1], number[:, 0], number[:, -1]]))
    border = border[flat[border] > 0]
    found = [np.zeros(0, np.int64)]
    for heading, right_of in enumerate((-1, stride, 1, -stride)):
        pixel = border[flat[border + right_of] != flat[border]]
        # north-west pixel of the edge's tail: the head of the pixel's edge one turn before
        tail = pixel - (stride, 1, 0, stride)[heading] - (1, 0, 0, 0)[heading]
        left = tail + (1, 0, stride, stride + 1)[heading]
        right = tail + (0, stride, stride + 1, 1)[heading]
        comes_right = flat[right] == flat[pixel]
        before = np.where(comes_right, right, left)
        comes = (comes_right | (flat[left] == flat[pixel])) & (marks[before] & RIM > 0)
        found.append(pixel[comes] * 4 + heading)
    return np.concatenate(found)


@numba.njit(cache=True, nogil=True)
def outline_sums(coords: Ints, ring_offsets: Longs, feature_rings: Longs, sums: Floats) -> None:
    """Sum up the outlines of features made of pixels; `sums` (n, 6) is filled.

    Feature i has the rings ``feature_rings[i]:feature_rings[i + 1]`` of closed `coords` (row,
    col). Columns: row and col of the centre of its area; length of its outline along columns
    (running north-south) and along rows; row and col of the centre of its outline.
    """
    for i in range(feature_rings.size - 1):
        first = ring_offsets[feature_rings[i]]
        row0, col0 = coords[first, 0], coords[first, 1]
        area = row_moment = col_moment = south = east = outline_row = outline_col = 0.0
        for ring in range(feature_rings[i], feature_rings[i + 1]):
            r, c = 0.0, 0.0
            for k in range(ring_offsets[ring], ring_offsets[ring + 1]):
                r2, c2 = float(coords[k, 0] - row0), float(coords[k, 1] - col0)
                if k > ring_offsets[ring]:
                    length = abs(r2 - r) + abs(c2 - c)
                    south += abs(r2 - r)
                    east += abs(c2 - c)
                    outline_row += length * (r + r2)
                    outline_col += length * (c + c2)
                    # strips between the row axis and each north-south edge (Green's theorem)
                    area += c * (r2 - r)
                    col_moment += c * c * (r2 - r)
                    row_moment += c * (r2 - r) * (r + r2)
                r, c = r2, c2
        sums[i, 0] = row0 + row_moment / (2 * area)
        sums[i, 1] = col0 + col_moment / (2 * area)
        sums[i, 2], sums[i, 3] = south, east
        sums[i, 4] = row0 + outline_row / (2 * (south + east))
        sums[i, 5] = col0 + outline_col / (2 * (south + east))


@numba.njit(cache=True, nogil=True)
def write_wkb(
    coord_bytes: Marks,
    ring_offsets: Longs,
    polygon_offsets: Longs,
    multi_offsets: Longs,
    wkb: Marks,
) -> None:
    """Write little-endian WKB MultiPolygons one behind the other into `wkb`; 16 bytes a vertex."""
    at, ring, polygon, multi = 0, 0, 3, 6  # the types of WKB; a ring has none
    for i in range(multi_offsets.size - 1):
        at = _wkb_head(wkb, at, multi, multi_offsets[i + 1] - multi_offsets[i])
        for p in range(multi_offsets[i], multi_offsets[i + 1]):
            at = _wkb_head(wkb, at, polygon, polygon_offsets[p + 1] - polygon_offsets[p])
            for r in range(polygon_offsets[p], polygon_offsets[p + 1]):
                at = _wkb_head(wkb, at, ring, ring_offsets[r + 1] - ring_offsets[r])
                for k in range(16 * ring_offsets[r], 16 * ring_offsets[r + 1]):
                    wkb[at] = coord_bytes[k]
                    at += 1


@numba.njit(cache=True, nogil=True)
def _wkb_head(wkb: Marks, at: int, kind: int, count: int) -> int:
    """Write a count, and before it (unless `kind` is 0) the byte order and the geometry's type."""
    if kind > 0:
        for k in range(5):
            wkb[at + k] = 0
        wkb[at] = 1  # little-endian
        wkb[at + 1] = kind
        at += 5
    for shift in range(4):
        wkb[at + shift] = (count >> (8 * shift)) & 255
    return at + 4


@numba.njit(cache=True, nogil=True)
def merge_labels(
    pixels: tuple[Marks, Ints],
    has_id: Marks,
    of_class: Ints,
    of_instance: tuple[int, int],
    labels: Ints,
) -> None:
    """Fill flat `labels` from flat `pixels` = (class, instance).

    a + b * id where there is an instance ((a, b) = `of_instance`) of a class that `has_id`, else
    the entry of the pixel's class in `of_class`.
    """
    semantic, instance = pixels
    offset, factor = of_instance
    for i in range(labels.size):
        if instance[i] > 0 and has_id[semantic[i]]:
            labels[i] = offset + factor * instance[i]
        else:
            labels[i] = of_class[semantic[i]]
