"""How well are buildings found at other pixel sizes, and with mirror images averaged?

    python benchmarks/model_gsd.py DATA [--model NAME] [--out FILE.json]

The same places and scores as `model_quality.py` (buildings at IoU > 0.5, compared at the scene's
own pixels), which reads all at 0.3 m: Kampala, taken at 0.15 m, and the southern half of Kitsap,
taken at 0.3 m. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from model_places import TEST, Counts, match_regions, run_predict

from geopanoptic.models import DEFAULT_MODEL, read_card

SIZES_M = (0.2, 0.22, 0.26, 0.3, 0.35)


def measured(data: Path, model: str, gsd_m: float, tta: Literal["none", "flips"]) -> dict[str, Any]:
    """Score the test places at one working GSD, each region and all of them together."""
    regions: dict[str, Counts] = {}
    with tempfile.TemporaryDirectory() as folder:
        for place in TEST:
            scene, truth = place.read(data, Path(folder) / "place.tif")
            semantic, instances, _ = run_predict(scene, model, gsd_m, tta)
            counts = match_regions(truth, np.where(semantic == 1, instances, 0))
            regions[place.region] = regions.get(place.region, Counts()) + counts
    pooled = sum(regions.values(), Counts())
    return {name: counts.report() for name, counts in (regions | {"pooled": pooled}).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder of the labelled scenes")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="bundled name or model file")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    given = parser.parse_args()
    found = {f"{gsd_m} m": measured(given.data, given.model, gsd_m, "none") for gsd_m in SIZES_M}
    found["0.3 m, flips"] = measured(given.data, given.model, 0.3, "flips")
    regions = list(next(iter(found.values())))
    print("| read at | " + " | ".join(f"{r}: F1 (precision, recall), PQ" for r in regions) + " |")
    print("|---" * (1 + len(regions)) + "|")
    for name, scores in found.items():
        cells = [
            f"{s['f1']:.3f} ({s['precision']:.2f}, {s['recall']:.2f}), {s['pq']:.3f}"
            for s in scores.values()
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    if given.out:
        card = read_card(given.model)
        about = {"model": card.name, "sha256": card.sha256}
        date = datetime.now(UTC).date().isoformat()
        given.out.write_text(json.dumps(about | {"date": date, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
