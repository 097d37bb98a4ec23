"""Where the bottleneck lies from 1 to 64 GPUs: arithmetic on measured costs, printed as a table.

    python benchmarks/scaling/throughput.py COSTS.json [--tiles-per-s 50] [--k 4]

COSTS.json is what `stage_costs.py` measured on a scene and machine of yours.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

TILE = 1024


@dataclass(frozen=True)
class Costs:
    """CPU milliseconds of one core and bytes, per tile of 1024 px (see `stage_costs.py`)."""

    read_ms: float
    decode_ms: float
    finish_ms: float
    write_rasters_s_per_gpx: float
    write_polygons_s_per_gpx: float
    source_bytes_per_tile: float
    coordinator_ms: float = 3.5  # per region: scheduler, submission, answer (simulate.py)
    halo: int = 128
    block: int = 512  # internal tiling of the source

    @classmethod
    def of(cls, path: Path) -> Costs:
        known = json.loads(path.read_text())
        return cls(**{k: known[k] for k in cls.__annotations__ if k in known})


def read_amplification(costs: Costs, k: int) -> float:
    """Bytes read per byte needed: a region's window is grown by the halo, to whole blocks."""
    side = k * TILE
    blocks = -(-(side + costs.halo) // costs.block) + -(-costs.halo // costs.block)
    return (blocks * costs.block / side) ** 2


def row(costs: Costs, gpus: int, rate: float, k: int) -> list[str]:
    """Return one line of the table: what so many GPUs ask of everything else."""
    tiles_s = gpus * rate
    regions_s = tiles_s / k**2
    read = tiles_s * costs.source_bytes_per_tile * read_amplification(costs, k) / 1e6
    infer_s = 1e9 / TILE**2 / tiles_s
    beside = costs.read_ms + costs.decode_ms
    return [
        f"{gpus}",
        f"{tiles_s:.0f}",
        f"{tiles_s * TILE**2 / 1e9 * 3600:.0f}",
        f"{read:.0f}",
        f"{tiles_s * beside / 1000:.1f}",
        f"{tiles_s * costs.finish_ms / 1000:.1f}",
        f"{regions_s:.1f}",
        f"{100 * regions_s * costs.coordinator_ms / 1000:.0f} %",
        f"{infer_s:.1f}",
        f"{costs.write_rasters_s_per_gpx / infer_s:.0f} x",
        f"{costs.write_polygons_s_per_gpx / infer_s:.0f} x",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("costs", type=Path)
    parser.add_argument("--tiles-per-s", type=float, default=50.0, help="of one GPU")
    parser.add_argument("--k", type=int, default=4, help="a region is k x k tiles")
    given = parser.parse_args()
    costs = Costs.of(given.costs)
    heads = [
        "GPUs",
        "tiles/s",
        "Gpx/h",
        "read MB/s",
        "cores beside",
        "cores to finish",
        "regions/s",
    ]
    heads += ["coordinator", "inference s/Gpx", "writing rasters", "writing polygons"]
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for gpus in (1, 2, 4, 8, 16, 32, 64):
        print("| " + " | ".join(row(costs, gpus, given.tiles_per_s, given.k)) + " |")


if __name__ == "__main__":
    main()
