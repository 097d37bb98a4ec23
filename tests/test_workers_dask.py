"""The engine on local Dask processes: the same outcomes, and settings that are really in force."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from workers_tasks import fails_on, look_around, square, write_part

from geopanoptic.errors import ConfigError, EngineError, StoreError
from geopanoptic.store import Job
from geopanoptic.workers import Engine, EngineSpec, Tls, open_engine

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with open_engine(EngineSpec(workers=2, cores=4, device="cpu")) as engine:
        yield engine


def digests(job: Job, keys: range) -> list[bytes]:
    return [job.parts("infer").get(key).arrays["semantic"].tobytes() for key in keys]


def test_local_processes_do_what_this_process_does(engine: Engine, tmp_path: Path) -> None:
    keys = range(12)
    with Job.open(tmp_path / "one", {}) as one, Job.open(tmp_path / "two", {}) as two:
        here: dict[int, Any] = {}
        there: dict[int, Any] = {}
        with open_engine(EngineSpec()) as local:
            local.run(partial(write_part, one.ref), keys, here.__setitem__)
        assert engine.run(partial(write_part, two.ref), keys, there.__setitem__) == []
        assert here == there
        assert digests(one, keys) == digests(two, keys)
    assert engine.run(square, [], lambda *_: pytest.fail("nothing was asked for")) == []


def test_errors_mean_the_same_as_in_this_process(engine: Engine) -> None:
    with open_engine(EngineSpec()) as local:
        for how in ("tile", "scene", "bug", "local"):
            done: dict[int, Any] = {}
            task = partial(fails_on, bad=3, how=how)
            assert engine.run(task, range(6), done.__setitem__) == local.run(
                task, range(6), lambda *_: None
            )
            assert sorted(done) == [0, 1, 2, 4, 5]
    with pytest.raises(StoreError, match="3 MB needed"):
        engine.run(partial(fails_on, bad=3, how="store"), range(100), lambda *_: None)
    assert engine.run(square, range(3), lambda *_: None) == []


def test_the_shipped_settings_are_in_force_inside_the_workers(engine: Engine) -> None:
    seen: dict[int, Any] = {}
    engine.run(look_around, range(8), seen.__setitem__)
    for report in seen.values():
        environment = report["environment"]
        assert environment["MALLOC_TRIM_THRESHOLD_"] == "2147483647"
        assert environment["MALLOC_MMAP_THRESHOLD_"] == "1073741824"
        assert environment["MALLOC_TOP_PAD_"] == "67108864"
        assert environment["MALLOC_ARENA_MAX"] == "1"
        # glibc and OpenMP read theirs when the process begins: set later, they mean nothing.
        assert len([n for n in report["born_with"] if n.startswith("MALLOC_")]) == 4
        assert "OMP_NUM_THREADS" in report["born_with"]
        for name in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
            assert environment[f"{name}_NUM_THREADS"] == "2"  # four cores, two processes
        assert environment["VRT_NUM_THREADS"] == "1"
        assert environment["GDAL_NUM_THREADS"] == "1"
        assert environment["GDAL_CACHEMAX"] == "64"
        assert report["pause"] is False
        assert report["spill"] is False
        assert report["target"] is False
        assert report["profile"] is False
        assert report["tick"] == "500ms"
        assert report["interrupt_blocked"]
        assert set(report["addresses"]) == {"127.0.0.1"}
    assert engine.threads_for_compute == 2


def test_this_process_listens_on_the_loopback_interface_only(engine: Engine) -> None:
    import psutil

    listening = [c for c in psutil.Process().net_connections() if c.status == "LISTEN"]
    assert listening
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
    assert 8787 not in {c.laddr.port for c in listening}


def test_the_schedulers_settings_are_in_force(engine: Engine) -> None:
    import dask

    assert dask.config.get("distributed.scheduler.allowed-failures") == 1
    assert dask.config.get("distributed.deploy.lost-worker-timeout") == "1h"
    assert dask.config.get("distributed.scheduler.no-workers-timeout") == "300s"
    client = engine._backend("probe")._client
    scheduler = client.cluster.scheduler
    assert scheduler.allowed_failures == 1
    assert scheduler.no_workers_timeout == 300
    assert "/status" not in str(scheduler.http_application.applications)  # no dashboard
    assert all(not worker.resources for worker in scheduler.workers.values())
    assert {worker.nthreads for worker in scheduler.workers.values()} == {3}


def test_our_own_environment_is_as_before() -> None:
    before = dict(os.environ)
    with open_engine(EngineSpec(workers=1)):
        pass
    assert dict(os.environ) == before


@pytest.mark.slow
@pytest.mark.parametrize("how", ["exit", "segv"])
def test_a_task_that_kills_its_worker_is_set_aside_and_innocents_finish(
    how: str, tmp_path: Path
) -> None:
    done: dict[int, Any] = {}
    with open_engine(EngineSpec(workers=2)) as engine:
        task = partial(fails_on, bad=13, how=how, marks=str(tmp_path))
        (failure,) = engine.run(task, range(60), done.__setitem__)
    assert (failure.key, failure.attempts) == (13, 2)
    assert "the worker process died" in failure.cause
    assert sorted(done) == [key for key in range(60) if key != 13]


@pytest.mark.slow
def test_a_task_that_hangs_costs_its_worker_but_no_other_task() -> None:
    done: dict[int, Any] = {}
    with open_engine(EngineSpec(workers=2, task_s=6.0)) as engine:
        (failure,) = engine.run(partial(fails_on, bad=5, how="hang"), range(30), done.__setitem__)
    assert (failure.key, failure.attempts) == (5, 2)
    assert "not done after 6 s" in failure.cause
    assert sorted(done) == [key for key in range(30) if key != 5]


@pytest.mark.slow
def test_a_cluster_that_has_lost_all_its_workers_for_good_is_revived(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from geopanoptic.workers import remote

    monkeypatch.setattr(remote, "REVIVE_S", 2.0)
    done: dict[int, Any] = {}
    with open_engine(EngineSpec(workers=2)) as engine:
        client = engine._backend("probe")._client

        def lose_all(key: int, _: object) -> None:
            done[key] = True
            if len(done) == 3:  # not the processes, which Dask restarts: their Nannies too
                for nanny in list(client.cluster.workers.values()):
                    client.sync(nanny.close)

        task = partial(fails_on, bad=-1, how="")
        assert engine.run(task, range(60), lose_all) == []
    assert sorted(done) == list(range(60))


@pytest.mark.slow
def test_a_worker_killed_from_outside_costs_nothing(tmp_path: Path) -> None:
    """kill -9 of each worker in turn: all parts are there, and equal to an undisturbed run's."""
    keys = range(24)
    victims: list[int] = []
    with Job.open(tmp_path / "a", {}) as a, Job.open(tmp_path / "b", {}) as b:
        with open_engine(EngineSpec()) as local:
            local.run(partial(write_part, a.ref), keys, lambda *_: None)
        with open_engine(EngineSpec(workers=2)) as engine:
            client = engine._backend("probe")._client

            def kill_sometimes(key: int, _: object) -> None:
                if len(done) in (4, 12):
                    pids = [n.process.pid for n in client.cluster.workers.values() if n.process]
                    victims.append(pids[len(victims) % len(pids)])
                    os.kill(victims[-1], signal.SIGKILL)

            done: dict[int, Any] = {}

            def on_done(key: int, result: dict[str, Any]) -> None:
                done[key] = result
                kill_sometimes(key, result)

            assert engine.run(partial(write_part, b.ref, seconds=0.3), keys, on_done) == []
        assert len(victims) == 2
        assert sorted(done) == list(keys)
        assert digests(a, keys) == digests(b, keys)
        assert not list(b.root.rglob("*.tmp"))


COORDINATOR = """
import json, sys
from functools import partial
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from workers_tasks import write_part
from geopanoptic.store import Job
from geopanoptic.workers import EngineSpec, open_engine
if __name__ == "__main__":
    with Job.open(Path(sys.argv[1]), {}) as job, open_engine(EngineSpec(workers=2)) as engine:
        def on_done(key, _):
            print(key, flush=True)
        try:
            engine.run(partial(write_part, job.ref, seconds=0.5), range(40), on_done)
        except KeyboardInterrupt:
            print("stopped", flush=True)
            sys.exit(130)
"""


def coordinator(tmp_path: Path) -> subprocess.Popen[str]:
    script = tmp_path / "coordinator.py"
    script.write_text(COORDINATOR)
    return subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "job"), str(HERE)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group of its own, as a terminal gives
        preexec_fn=_hear_ctrl_c,
    )


def _hear_ctrl_c() -> None:
    """A suite that runs in the background of a script inherits a deaf ear for Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def resume_and_compare(tmp_path: Path) -> int:
    """Finish the job in this process; return how many parts were there already."""
    keys = range(40)
    with Job.open(tmp_path / "whole", {}) as whole, Job.open(tmp_path / "job", {}) as job:
        kept = len(list(job.parts("infer").keys()))
        with open_engine(EngineSpec()) as engine:
            for one in (whole, job):
                assert engine.run(partial(write_part, one.ref), keys, lambda *_: None) == []
        assert digests(whole, keys) == digests(job, keys)
        assert not list(job.root.rglob("*.tmp"))
    return kept


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["group", "coordinator"])
def test_killed_outright_a_run_goes_on_where_it_was(tmp_path: Path, whom: str) -> None:
    import psutil

    run = coordinator(tmp_path)
    assert run.stdout is not None
    for _ in range(5):
        assert run.stdout.readline().strip().isdigit()
    workers = psutil.Process(run.pid).children(recursive=True)
    if whom == "group":
        os.killpg(run.pid, signal.SIGKILL)
    else:
        run.kill()
    run.wait()
    run.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=15)
    assert not alive, "orphaned workers"
    assert 5 <= resume_and_compare(tmp_path) < 40


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_stops_cleanly_within_seconds(tmp_path: Path) -> None:
    """A terminal sends it to the workers too; they must not die of it and be started anew."""
    run = coordinator(tmp_path)
    assert run.stdout is not None
    for _ in range(5):
        run.stdout.readline()
    began = time.perf_counter()
    os.killpg(run.pid, signal.SIGINT)
    said = run.communicate(timeout=60)[0].split()
    assert run.returncode == 130
    assert said[-1] == "stopped"
    assert time.perf_counter() - began < 15
    kept = resume_and_compare(tmp_path)
    assert kept >= 5 + len(said) - 1  # all that was reported is there


@pytest.mark.slow
def test_torch_has_its_share_of_the_cores_in_a_worker() -> None:
    seen: dict[int, Any] = {}
    with open_engine(EngineSpec(workers=1, cores=2)) as engine:
        engine.run(_torch_threads, range(2), seen.__setitem__)
    assert {report["threads"] for report in seen.values()} == {2}


def _torch_threads(key: int) -> dict[str, Any]:
    import torch

    return {"threads": torch.get_num_threads()}


@pytest.mark.slow
def test_one_process_per_gpu_sees_its_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    seen: dict[int, Any] = {}
    with open_engine(EngineSpec(device="cuda")) as engine:
        assert engine.processes == 2
        assert engine.device == "cuda"
        engine.run(look_around, range(40), seen.__setitem__)
    by_process: dict[int, set[str]] = {}
    for report in seen.values():
        gpu = report["environment"]["CUDA_VISIBLE_DEVICES"]
        by_process.setdefault(report["pid"], set()).add(gpu)
    assert sorted(map(sorted, by_process.values())) == [["2"], ["5"]]


def start_scheduler(folder: Path, *options: str) -> tuple[subprocess.Popen[bytes], str]:
    """Run a scheduler by Dask's own command, as a user's cluster would."""
    file = folder / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard"]
    command += ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file), *options]
    scheduler = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=cluster_environment())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if file.exists() and file.read_text().strip():
            return scheduler, json.loads(file.read_text())["address"]
        time.sleep(0.1)
    raise AssertionError("the scheduler did not start")


def start_worker(address: str, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-dashboard"]
    command += ["--host", "127.0.0.1", "--nthreads", "3", *options]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=cluster_environment())


def cluster_environment() -> dict[str, str]:
    # Dask unpickles tasks at the scheduler too, so both must find the test's tasks.
    return dict(os.environ) | {"PYTHONPATH": str(HERE)}


@pytest.mark.slow
def test_a_cluster_of_the_users_own_gives_the_same_and_its_loss_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geopanoptic.workers import remote

    monkeypatch.setattr(remote, "RECONNECT_S", 3.0)
    scheduler, address = start_scheduler(tmp_path)
    worker = start_worker(address)
    try:
        with (
            Job.open(tmp_path / "job", {}) as job,
            open_engine(EngineSpec(scheduler=address)) as engine,
        ):
            seen: dict[int, Any] = {}
            engine.run(look_around, range(2), seen.__setitem__)
            assert all(r["environment"]["VRT_NUM_THREADS"] == "1" for r in seen.values())
            done: dict[int, Any] = {}
            engine.run(partial(write_part, job.ref), range(10), done.__setitem__)
            assert len(done) == 10

            def kill_scheduler(key: int, _: object) -> None:
                scheduler.kill()

            task = partial(write_part, job.ref, seconds=0.3)
            with pytest.raises(EngineError, match=r"lost.*run the same command again"):
                engine.run(task, range(200), kill_scheduler)
            assert len(list(job.parts("infer").keys())) >= 10
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()


@pytest.mark.slow
def test_an_encrypted_cluster_is_reached_by_its_certificates_and_not_without(
    tmp_path: Path,
) -> None:
    tls = certificates(tmp_path)
    given = ("--tls-ca-file", str(tls.ca_file), "--tls-cert", str(tls.cert))
    given += ("--tls-key", str(tls.key))
    scheduler, address = start_scheduler(tmp_path, "--protocol", "tls", *given)
    worker = start_worker(address, *given)
    try:
        assert address.startswith("tls://")
        done: dict[int, Any] = {}
        with open_engine(EngineSpec(scheduler=address, tls=tls)) as engine:
            engine.run(square, range(4), done.__setitem__)
        assert len(done) == 4
        with (
            pytest.raises(ConfigError, match="--tls-ca"),
            open_engine(EngineSpec(scheduler=address)),
        ):
            pass
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()


def certificates(folder: Path) -> Tls:
    """Make one self-signed certificate for all sides; skip where there is no openssl."""
    key, certificate = folder / "host.key", folder / "host.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=test", "-keyout", str(key), "-out", str(certificate)]
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make certificates")
    subprocess.run(command, check=True, capture_output=True)
    return Tls(certificate, certificate, key)


@pytest.mark.slow
def test_the_dashboard_is_there_when_asked_for_and_on_the_loopback_interface_only() -> None:
    import psutil

    with open_engine(EngineSpec(workers=1, dashboard=True)) as engine:
        client = engine._backend("probe")._client
        assert client.dashboard_link.startswith("http://127.0.0.1:")
        listening = [c for c in psutil.Process().net_connections() if c.status == "LISTEN"]
        assert {c.laddr.ip for c in listening} == {"127.0.0.1"}


def test_nobody_at_the_schedulers_address_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from geopanoptic.workers import cluster

    monkeypatch.setattr(cluster, "CONNECT_S", 1)
    spec = EngineSpec(scheduler="tcp://127.0.0.1:9")
    with pytest.raises(EngineError, match="no Dask scheduler answers"), open_engine(spec):
        pass
