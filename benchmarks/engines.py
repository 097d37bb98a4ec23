"""Measure the engines on one thread: the default model's forward pass, CPU seconds and Mpx/s.

    python benchmarks/engines.py SCENE [--twin TWIN.onnx] [--window 1280] [--out FILE.json]

CPU seconds of this thread's process, not wall seconds, so that a busy machine disturbs less (it
still does, through shared caches and memory). `torch eager` is the network as published: batch
norms apart, contiguous tensors; `torch` is what geopanoptic runs. Every engine takes the same real
windows in a process of its own, after one window to warm up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 2


def measure(engine: str, model: str, chips: np.ndarray) -> dict[str, Any]:
    from geopanoptic.models import choose_engine, load_model, read_card
    from geopanoptic.workers.malloc import tune_malloc

    tune_malloc()
    start = time.process_time()
    if engine == "torch eager":
        run = eager(model)
        name = "torch eager, fp32"
    else:
        name = str(choose_engine(read_card(model), engine))
        run = load_model(model, threads=1, engine=engine).forward
    load_s = time.process_time() - start
    run(chips[:1])
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for chip in chips:
            run(chip[None])
        seconds.append((time.process_time() - start) / len(chips))
    px = chips.shape[2] * chips.shape[3]
    return {
        "engine": name,
        "load_cpu_s": round(load_s, 2),
        "cpu_s_per_window": [round(s, 3) for s in seconds],
        "mpx_per_cpu_s": round(px / 1e6 / min(seconds), 3),
    }


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
    parser.add_argument("--twin", help="8-bit twin, measured on openvino and onnxruntime")
    parser.add_argument("--window", type=int, default=1280)
    parser.add_argument("--only", help="internal: measure this engine and print JSON")
    parser.add_argument("--out", default="benchmarks/results/engines.json")
    args = parser.parse_args()
    if args.only:
        chips = np.load(args.scene)
        print(json.dumps(measure(args.only, args.model, chips)))
        return
    from geopanoptic.predict.sample_chips import sample_chips

    load = os.getloadavg()[0]
    chips = sample_chips(args.scene, args.model, 2, args.window)
    np.save("/tmp/engines_chips.npy", chips)
    jobs = [(e, args.model) for e in ("torch eager", "torch", "openvino", "onnxruntime")]
    jobs += [(e, args.twin) for e in ("openvino", "onnxruntime") if args.twin]
    rows = []
    for engine, model in jobs:
        command = [sys.executable, __file__, "/tmp/engines_chips.npy", "--only", engine]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, "--model", model], check=True, capture_output=True, text=True, env=env
        )
        rows.append({"model": Path(model).stem, **json.loads(done.stdout.splitlines()[-1])})
        print(rows[-1])
    base = rows[0]["mpx_per_cpu_s"]
    for row in rows:
        row["times_eager"] = round(row["mpx_per_cpu_s"] / base, 2)
    result = {
        "window_px": list(chips.shape[2:]),
        "rows": rows,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, AVX-512 VNNI without AMX or bf16"
        if "avx512_vnni" in Path("/proc/cpuinfo").read_text()
        else platform.machine(),
        "load_before": load,
        "date": datetime.now(UTC).date().isoformat(),
    }
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
