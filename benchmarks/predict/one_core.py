"""How much faster does one core map a scene with `--engine auto` than with eager torch in fp32?

    python benchmarks/predict/one_core.py SCENE [--model NAME] [--core 0] [--rounds 2] [--out FILE]

The main job from file to GeoPackage, by processes that are pinned to one core: with the engine that
`auto` takes; with our torch engine in fp32, which folds batch normalisation into the convolutions
and computes channels-last; and with torch as it comes, without either. They take turns; the least
CPU and wall seconds of each are told, start and end of the process included. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RUN = """
import sys, torch
scene, model, engine, out = sys.argv[1:]
if engine == "eager":
    engine, torch.channels_last = "torch", torch.contiguous_format
    from geopanoptic.models import torch_segmenter
    torch_segmenter.fold_batch_norm = lambda net, bands: net
words = ["predict", scene, "--model", model, "--out", out, "--overwrite", "--engine", engine]
sys.argv = ["geopanoptic", *words, "--precision", "fp32"]
from geopanoptic.cli.main import entry
entry()
"""


def mapped(engine: str, given: argparse.Namespace, out: Path) -> dict[str, float]:
    """Map the scene in a process on the one core; return its CPU and wall seconds."""
    if engine == "auto":  # as a user does, without the import of torch
        words = [sys.executable, "-m", "geopanoptic.cli.main", "predict", given.scene, "--model"]
        words += [given.model, "--out", str(out), "--overwrite"]
    else:
        words = [sys.executable, "-c", RUN, given.scene, given.model, engine, str(out)]
    before, start = os.times(), time.perf_counter()
    subprocess.run(words, check=True, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return {"cpu_s": round(cpu, 1), "wall_s": round(wall, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scene")
    parser.add_argument("--model", default="landcover-v3")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    os.sched_setaffinity(0, {given.core})  # children inherit it
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "map.gpkg"
        mapped("auto", given, out)  # the graph is exported and compiled once
        for _ in range(given.rounds):
            for engine in ("auto", "torch", "eager"):
                new = mapped(engine, given, out)
                old = found.get(engine, new)
                found[engine] = {k: min(old[k], new[k]) for k in new}
    result = {
        "scene": Path(given.scene).name,
        "model": given.model,
        "seconds": found,
        "auto_to": {
            engine: {k: round(found[engine][k] / found["auto"][k], 2) for k in ("cpu_s", "wall_s")}
            for engine in ("torch", "eager")
        },
        "load": round(os.getloadavg()[0], 1),
        "date": datetime.now(UTC).date().isoformat(),
    }
    print(json.dumps(result, indent=1))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
