"""Where the bottleneck lies from 1 to 64 GPUs: arithmetic on measured costs, printed as a table.

    python benchmarks/scaling/throughput.py [--tiles-per-s 50] [--k 4]

Costs per tile of 1024 px (RGB, uint8) and their sources are in `Costs`; change them to yours.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

TILE = 1024


@dataclass(frozen=True)
class Costs:
    """CPU milliseconds and bytes, each measured on one x86 core (see docs/scaling.md)."""

    read_ms: float = 12.1  # one windowed read of 4 x 4 tiles, deflate
    decode_ms: float = 47.0  # bundled model's decoder, compiled
    label_ms: float = 4.0  # stitcher's labels of the tile
    part_ms: float = 2.0  # part file, zstd-1 and fsync
    finish_ms: float = 85.0  # seams, ids and core pixels: bremerton.tif, 500 things per Mpx
    coordinator_ms: float = 3.5  # per region: scheduler, submission, answer (simulate.py)
    source_bytes: float = 2.05 * TILE**2  # compressed
    write_s_per_gpx: float = 310.0  # one process writing both label COGs, 268 Mpx synthetic
    halo: int = 64
    block: int = 512  # internal tiling of the source


def read_amplification(costs: Costs, k: int) -> float:
    """Bytes read per byte needed: a region's window is grown by the halo, to whole blocks."""
    side = k * TILE
    blocks = -(-(side + costs.halo) // costs.block) + -(-costs.halo // costs.block)
    return (blocks * costs.block / side) ** 2


def row(costs: Costs, gpus: int, rate: float, k: int) -> list[str]:
    """Return one line of the table: what so many GPUs ask of everything else."""
    tiles_s = gpus * rate
    regions_s = tiles_s / k**2
    per_tile = costs.read_ms + costs.decode_ms + costs.label_ms + costs.part_ms + costs.finish_ms
    read = tiles_s * costs.source_bytes * read_amplification(costs, k) / 1e6
    infer_s = 1e9 / TILE**2 / tiles_s
    return [
        f"{gpus}",
        f"{tiles_s:.0f}",
        f"{tiles_s * TILE**2 / 1e9 * 3600:.0f}",
        f"{read:.0f}",
        f"{tiles_s * per_tile / 1000:.1f}",
        f"{regions_s:.1f}",
        f"{100 * regions_s * costs.coordinator_ms / 1000:.0f} %",
        f"{infer_s:.1f}",
        "writer" if costs.write_s_per_gpx > infer_s else "devices",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles-per-s", type=float, default=50.0, help="of one GPU")
    parser.add_argument("--k", type=int, default=4, help="a region is k x k tiles")
    given = parser.parse_args()
    heads = ["GPUs", "tiles/s", "Gpx/h", "read MB/s", "cores", "regions/s", "coordinator"]
    heads += ["inference s/Gpx", "slowest"]
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for gpus in (1, 2, 4, 8, 16, 32, 64):
        print("| " + " | ".join(row(Costs(), gpus, given.tiles_per_s, given.k)) + " |")


if __name__ == "__main__":
    main()
