"""Many workers with a sleeping model: what the coordinator costs, and how busy devices stay.

    python benchmarks/scaling/simulate.py --workers 1 4 16 64 --out benchmarks/results/scaling.json

Each simulated worker has three threads and one "device" (a lock). A region of 16 tiles sleeps as
long as a read, a forward pass under the lock and a decode would take; nothing is computed, so that
one small machine can stand for 64 GPUs. Scheduler, coordinator loop, bounded submission and answers
are the real ones (`geopanoptic.workers` over TCP). All workers live in one other Python process,
the farm, whose CPU time is thus not counted with the coordinator's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from sleeping import TILES, Times, region

from geopanoptic.workers import EngineSpec, open_engine

FARM = """
import sys, asyncio, logging
import dask
logging.disable(logging.INFO)
from distributed import Worker
from geopanoptic.workers.cluster import DASK_SETTINGS
async def main(address, count, threads):
    workers = [Worker(address, nthreads=threads, name=i, memory_limit=0) for i in range(count)]
    await asyncio.gather(*workers)
    await asyncio.gather(*(w.finished() for w in workers))
with dask.config.set(dict(DASK_SETTINGS)):
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


def simulate(count: int, regions_per_worker: int, threads: int, times: Times) -> dict[str, Any]:
    """Run one simulation and return its figures."""
    import dask
    from distributed import LocalCluster

    from geopanoptic.workers.cluster import DASK_SETTINGS

    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with (
        dask.config.set(dict(DASK_SETTINGS)),
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster,
    ):
        address = cluster.scheduler_address
        command = [sys.executable, "-c", FARM, address, str(count), str(threads)]
        farm = subprocess.Popen(command, env=environment)
        try:
            with open_engine(EngineSpec(scheduler=address)) as engine:
                cluster.wait_for_workers(count, timeout=120)
                figures = _measure(engine, count, regions_per_worker, times)
                return figures | {"threads": threads}
        finally:
            farm.terminate()
            farm.wait()


def _measure(engine: Any, count: int, regions: int, times: Times) -> dict[str, Any]:
    records: list[dict[str, Any]] = []
    cpu, began = time.process_time(), time.time()
    failures = engine.run(
        partial(region, times), range(count * regions), lambda _, record: records.append(record)
    )
    wall, cpu = time.time() - began, time.process_time() - cpu
    assert not failures, failures
    busy = sum(r["end"] - r["begin"] for r in records)
    ideal = regions * TILES * times.forward_s
    # Head and tail (first read, last decode) are a matter of the scene's size: leave them out.
    first = sorted(r["begin"] for r in records)[count - 1]
    last = min(
        max(r["end"] for r in records if r["worker"] == w) for w in {r["worker"] for r in records}
    )
    within = sum(max(0.0, min(r["end"], last) - max(r["begin"], first)) for r in records)
    return {
        "workers": count,
        "regions": len(records),
        "wall_s": round(wall, 2),
        "ideal_s": round(ideal, 2),
        "device_busy_whole": round(busy / (count * wall), 3),
        "device_busy_steady": round(within / (count * (last - first)), 3),
        "regions_per_s": round(len(records) / wall, 1),
        "gpx_per_hour": round(sum(r["px"] for r in records) / wall * 3600 / 1e9, 1),
        "coordinator_cpu_ms_per_region": round(1000 * cpu / len(records), 2),
        "coordinator_cores": round(cpu / wall, 3),
        "coordinator_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--regions", type=int, default=32, help="regions per worker")
    parser.add_argument("--threads", type=int, nargs="+", default=[3])
    parser.add_argument("--forward", type=float, default=0.020, help="seconds per tile")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    times = Times(forward_s=given.forward)
    rows = []
    for count, threads in itertools.product(given.workers, given.threads):
        load = os.getloadavg()[0]
        figures = simulate(count, given.regions, threads, times)
        rows.append(figures | {"load_before": round(load, 1)})
        print(json.dumps(rows[-1]), flush=True)
    if given.out:
        machine = f"{os.cpu_count()} cores, {platform.platform()}"
        report = {"machine": machine, "tiles": TILES, "times": asdict(times), "runs": rows}
        given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
