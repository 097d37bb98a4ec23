"""Measure the engines on one thread: the default model's forward pass, CPU seconds and Mpx/s.

    python benchmarks/engines.py SCENE [--windows 768 1280] [--sweeps 2] [--out FILE.json]

CPU seconds of this thread's process, not wall seconds, so that a busy machine disturbs less (it
still does, through shared caches and memory). `torch eager` is the network as published: batch
norms apart, contiguous tensors; `torch` is what geopanoptic runs. Every engine takes the same real
windows in a process of its own, after one to warm up; engines take turns, and of each the fastest
sweep counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 2
EAGER = "torch eager"
# engine and precision; 8 bits only where the model's card has ranges
JOBS = [
    (EAGER, "fp32"), ("torch", "fp32"), ("openvino", "fp32"), ("onnxruntime", "fp32"),
    ("openvino", "int8"), ("onnxruntime", "int8"),
]  # fmt: skip


def measure(engine: str, precision: str, model: str, windows: list[np.ndarray]) -> dict[str, Any]:
    from geopanoptic.models import choose_engine, load_model, read_card
    from geopanoptic.workers.malloc import tune_malloc

    tune_malloc()
    start = time.process_time()
    if engine == EAGER:
        run = eager(model)
        name = f"{EAGER}, fp32"
    else:
        name = str(choose_engine(read_card(model), engine, precision=precision))
        run = load_model(model, threads=1, engine=engine, precision=precision).forward
    found: dict[str, Any] = {"engine": name, "load_cpu_s": round(time.process_time() - start, 2)}
    for window in windows:
        run(window)
        seconds = []
        for _ in range(ROUNDS):
            start = time.process_time()
            run(window)
            seconds.append(time.process_time() - start)
        found[f"cpu_s_{window.shape[2]}_px"] = round(min(seconds), 4)
    return found


def eager(model: str) -> Any:
    """Return the forward pass of the network as it was trained: nothing folded, NCHW."""
    import torch

    from geopanoptic.models.checkpoint import model_path, read_header, read_tensors
    from geopanoptic.models.fields import FieldLayout
    from geopanoptic.models.torch_segmenter import fill, network_of

    torch.set_num_threads(1)
    path = model_path(model)
    header = read_header(path)
    net = network_of(header.card)
    fill(net, read_tensors(path, header), str(path))
    net = net.eval().to(memory_format=torch.contiguous_format)
    layout = FieldLayout.of(header.card)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (header.card.mean, header.card.std))

    def run(chips: np.ndarray) -> Any:
        with torch.inference_mode():
            return layout(net((torch.from_numpy(chips).float() - mean) / std))

    return run


def main() -> None:
    from geopanoptic.models import DEFAULT_MODEL

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--windows", type=int, nargs="+", default=[768, 1280])
    parser.add_argument("--sweeps", type=int, default=2)
    parser.add_argument("--only", nargs=2, help="internal: measure this engine and print JSON")
    parser.add_argument("--out", default="benchmarks/results/engines.json")
    args = parser.parse_args()
    if args.only:
        with np.load(args.scene) as kept:
            windows = [kept[str(px)] for px in args.windows]
        print(json.dumps(measure(*args.only, args.model, windows)))
        return
    from geopanoptic.models import read_card
    from geopanoptic.predict.sample_chips import sample_chips

    load = os.getloadavg()[0]
    jobs = [job for job in JOBS if job[1] != "int8" or read_card(args.model).int8]
    with tempfile.TemporaryDirectory() as folder:
        chips = Path(folder) / "chips.npz"
        np.savez(
            chips, **{str(p): sample_chips(args.scene, args.model, 2, p)[:1] for p in args.windows}
        )
        sweeps = [[one_process(chips, args, job) for job in jobs] for _ in range(args.sweeps)]
    rows = [best(of_one) for of_one in zip(*sweeps, strict=True)]
    for px in args.windows:
        for row in rows:
            row[f"mpx_per_cpu_s_{px}_px"] = round(px * px / 1e6 / row[f"cpu_s_{px}_px"], 2)
            row[f"times_eager_{px}_px"] = round(
                rows[0][f"cpu_s_{px}_px"] / row[f"cpu_s_{px}_px"], 2
            )
    vnni = "avx512_vnni" in Path("/proc/cpuinfo").read_text()
    result = {
        "model": args.model,
        "sha256": read_card(args.model).sha256,
        "rows": rows,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}"
        + (", AVX-512 VNNI without AMX or bf16" if vnni else ""),
        "sweeps": args.sweeps,
        "load_before": round(load, 1),
        "date": datetime.now(UTC).date().isoformat(),
    }
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


def one_process(chips: Path, args: argparse.Namespace, job: tuple[str, str]) -> dict[str, Any]:
    command = [sys.executable, __file__, str(chips), "--only", *job, "--model", args.model]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--windows", *map(str, args.windows)],
        check=True, capture_output=True, text=True, env=env,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(found, flush=True)
    return found


def best(of_one: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """Return the least of every figure of one engine's sweeps."""
    return {
        key: value if isinstance(value, str) else min(found[key] for found in of_one)
        for key, value in of_one[0].items()
    }


if __name__ == "__main__":
    main()
