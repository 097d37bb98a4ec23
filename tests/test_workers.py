"""The engine in this process: outcomes, retries, what stops a run, and how it stops."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from workers_tasks import fails_on, square, write_part

from geopanoptic.errors import CheckpointError, ConfigError, EngineError, StoreError
from geopanoptic.store import Job
from geopanoptic.workers import Engine, EngineSpec, Failure, open_engine
from geopanoptic.workers import loop as loop_module
from geopanoptic.workers import spec as spec_module
from geopanoptic.workers.cluster import refuse_open_scheduler


@pytest.fixture
def engine() -> Iterator[Engine]:
    with open_engine(EngineSpec(threads=3)) as engine:
        yield engine


def attempts(marks: Path, key: int) -> int:
    return len(list(marks.glob(f"{key}-*")))


def test_every_key_is_done_once_and_said_once(engine: Engine) -> None:
    said: list[tuple[int, int]] = []
    assert engine.run(square, range(200), lambda k, r: said.append((k, r["square"]))) == []
    assert sorted(said) == [(k, k * k) for k in range(200)]


def test_no_keys_are_no_work(engine: Engine) -> None:
    assert engine.run(square, [], lambda *_: pytest.fail("nothing was asked for")) == []


def test_keys_are_taken_only_as_there_is_room(engine: Engine) -> None:
    """A plan of a million regions costs nothing: it is an iterator that is never listed."""
    taken = itertools.count()
    ahead: list[int] = []
    done = itertools.count(1)

    def keys() -> Iterator[int]:
        for key in range(300):
            next(taken)
            yield key

    engine.run(square, keys(), lambda *_: ahead.append(int(repr(taken)[6:-1]) - next(done)))
    assert max(ahead) <= engine.spec.threads_per_process(gpu=False) + 1 == 4


@pytest.mark.parametrize(
    ("how", "cause"),
    [("tile", "64 values are not finite"), ("scene", "block 3 cannot be read")],
)
def test_a_bad_tile_fails_alone_and_at_once(
    engine: Engine, tmp_path: Path, how: str, cause: str
) -> None:
    done: dict[int, Any] = {}
    task = partial(fails_on, bad=3, how=how, marks=str(tmp_path))
    (failure,) = engine.run(task, range(8), done.__setitem__)
    assert (failure.key, failure.cause, failure.attempts) == (3, cause, 1)
    assert sorted(done) == [0, 1, 2, 4, 5, 6, 7]
    assert attempts(tmp_path, 3) == 1


@pytest.mark.parametrize("how", ["bug", "local"])
def test_the_unexpected_is_tried_again_alone_then_given_up(
    engine: Engine, tmp_path: Path, how: str
) -> None:
    done: dict[int, Any] = {}
    task = partial(fails_on, bad=3, how=how, marks=str(tmp_path))
    (failure,) = engine.run(task, range(8), done.__setitem__)
    assert (failure.key, failure.attempts) == (3, 2)
    assert failure.error in failure.cause
    assert sorted(done) == [0, 1, 2, 4, 5, 6, 7]
    # The second attempt began after all the others had.
    begun = sorted(tmp_path.iterdir(), key=lambda mark: int(mark.name.split("-")[1]))
    assert begun[-1].name.startswith("3-")
    assert attempts(tmp_path, 3) == 2


def test_what_goes_well_at_the_second_attempt_is_no_failure(engine: Engine) -> None:
    seen: set[int] = set()

    def task(key: int) -> dict[str, Any]:
        if key % 5 == 0 and key not in seen:
            seen.add(key)
            raise MemoryError
        return {}

    done: dict[int, Any] = {}
    assert engine.run(task, range(20), done.__setitem__) == []
    assert sorted(done) == list(range(20))


@pytest.mark.parametrize(("how", "kind"), [("store", StoreError), ("model", CheckpointError)])
def test_what_concerns_the_whole_run_ends_it(
    engine: Engine, how: str, kind: type[Exception]
) -> None:
    done: dict[int, Any] = {}
    with pytest.raises(kind, match=r"no space left|damaged"):
        engine.run(partial(fails_on, bad=3, how=how), range(1000), done.__setitem__)
    assert len(done) < 20
    assert engine.run(square, range(5), done.__setitem__) == []  # the engine itself is well


def test_an_error_in_the_callers_own_code_ends_the_run(engine: Engine) -> None:
    def refuse(key: int, _: object) -> None:
        raise RuntimeError(f"no room for {key}")

    with pytest.raises(RuntimeError, match="no room"):
        engine.run(square, range(1000), refuse)


def test_when_everything_fails_the_rest_is_not_tried(engine: Engine) -> None:
    tried: list[int] = []

    def broken(key: int) -> dict[str, Any]:
        tried.append(key)
        raise AttributeError("no such thing")

    with pytest.raises(EngineError, match=r"first 8 tasks all failed.*no such thing"):
        engine.run(broken, range(10_000), lambda *_: None)
    assert len(tried) < 20


def test_a_result_that_exists_although_its_answer_went_wrong_counts(engine: Engine) -> None:
    done: dict[int, Any] = {}
    failures = engine.run(
        partial(fails_on, bad=3, how="bug"),
        range(5),
        done.__setitem__,
        found=lambda key: {"found": key},
    )
    assert failures == []
    assert done[3] == {"found": 3}


def test_nothing_finishing_for_long_is_said_not_waited_for() -> None:
    release = threading.Event()

    def hangs(key: int) -> dict[str, Any]:
        if key == 7:
            release.wait(20)
        return {}

    timer = threading.Timer(3.0, release.set)  # so that the thread does not outlive the test
    timer.start()
    done: dict[int, Any] = {}
    with open_engine(EngineSpec(stall_s=0.6)) as engine, pytest.raises(EngineError) as error:
        engine.run(hangs, range(50), done.__setitem__)
    timer.join()
    assert "nothing has finished for" in str(error.value)
    assert "run the same command again" in str(error.value)
    assert len(done) == 49


def test_a_task_that_hangs_is_ended_tried_alone_and_given_up() -> None:
    release, tries = threading.Event(), []

    def hangs(key: int) -> dict[str, Any]:
        if key == 3:
            tries.append(len(done))
            release.wait(30)
        time.sleep(0.05)
        return {}

    done: dict[int, Any] = {}
    with open_engine(EngineSpec(threads=2, task_s=1.0)) as engine:
        (failure,) = engine.run(hangs, range(40), done.__setitem__)
        release.set()
    assert (failure.key, failure.attempts) == (3, 2)
    assert "not done after 1 s" in failure.cause
    assert sorted(done) == [key for key in range(40) if key != 3]
    assert tries[1] == 39  # the second try came after all others


def test_a_task_that_hangs_once_is_no_failure() -> None:
    release, tries = threading.Event(), []

    def hangs_once(key: int) -> dict[str, Any]:
        if key == 3 and not tries:
            tries.append(key)
            release.wait(30)
        return {"key": key}

    done: dict[int, Any] = {}
    with open_engine(EngineSpec(threads=2, task_s=1.0)) as engine:
        assert engine.run(hangs_once, range(20), done.__setitem__) == []
        release.set()
    assert sorted(done) == list(range(20))


def test_threads_overlap(engine: Engine) -> None:
    began = time.perf_counter()
    engine.run(lambda _: time.sleep(0.1) or {}, range(9), lambda *_: None)  # type: ignore[func-returns-value]
    assert time.perf_counter() - began < 0.75  # 0.3 s in three threads, 0.9 s in one


def test_parts_written_by_one_run_are_taken_over_by_the_next(
    engine: Engine, tmp_path: Path
) -> None:
    with Job.open(tmp_path / "job", {}) as job:
        first: dict[int, Any] = {}
        engine.run(partial(write_part, job.ref), range(5), first.__setitem__)
        second: dict[int, Any] = {}
        engine.run(partial(write_part, job.ref), range(9), second.__setitem__)
    assert [first[k]["cached"] for k in range(5)] == [False] * 5
    assert [second[k]["cached"] for k in range(9)] == [True] * 5 + [False] * 4


INTERRUPTED = """
import logging, signal, sys, time
from geopanoptic.workers import EngineSpec, open_engine
logging.basicConfig(stream=sys.stdout, format="%(message)s")
stubborn = sys.argv[1] == "twice"
done = []
def task(key):
    sys.stdout.write(f"begun {key}\\n")  # one write: three threads do it at once
    sys.stdout.flush()
    time.sleep(20 if stubborn else 3)  # longer than any delay of a busy machine
    return {}
with open_engine(EngineSpec(threads=3)) as engine:
    try:
        engine.run(task, range(1000), lambda key, _: done.append(key))
    except KeyboardInterrupt:
        print(f"stopped {len(done)}", flush=True)
        sys.exit(130)
"""


def _hear_ctrl_c() -> None:
    """A suite that runs in the background of a script inherits a deaf ear for Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("times", ["once", "twice"])
def test_ctrl_c_lets_running_tasks_finish_and_a_second_one_does_not(times: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, times]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, preexec_fn=_hear_ctrl_c
    ) as run:
        assert run.stdout is not None
        first = [run.stdout.readline() for _ in range(3)]
        began = time.perf_counter()
        run.send_signal(signal.SIGINT)
        assert run.stdout.readline().startswith("stopping")  # the second must not merge with it
        if times == "twice":
            run.send_signal(signal.SIGINT)
        rest = run.communicate(timeout=60)[0].split("\n")
    assert all(line.startswith("begun") for line in first)
    assert run.returncode == 130
    assert time.perf_counter() - began < 10
    # Once: the three that ran have finished; those that waited have not begun.
    assert rest[-2] == ("stopped 3" if times == "once" else "stopped 0")
    assert not [line for line in rest if line.startswith("begun")]


def test_importing_the_room_and_running_in_process_load_neither_dask_nor_torch() -> None:
    code = (
        "import sys; from geopanoptic.workers import EngineSpec, open_engine\n"
        "with open_engine(EngineSpec()) as e: e.run(lambda k: {}, range(3), lambda *a: None)\n"
        "print({'dask', 'distributed', 'torch', 'rasterio', 'numba'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_processes_times_threads_never_exceed_the_cores(cores: int, processes: int) -> None:
    spec = EngineSpec(workers=processes, cores=cores)
    threads = spec.cores_per_process(processes)
    assert threads >= 1
    assert threads * processes <= cores or threads == 1


def test_threads_follow_the_device_and_the_cores() -> None:
    assert [EngineSpec(cores=n).threads_per_process(gpu=False) for n in (1, 2, 3, 64)] == [
        2,
        2,
        3,
        3,
    ]
    assert EngineSpec(cores=1).threads_per_process(gpu=True) == 9
    assert EngineSpec(threads=1).threads_per_process(gpu=True) == 1


def test_memory_is_shared_out_among_the_processes() -> None:
    assert EngineSpec(max_ram=4_000).ram_per_process(4) == 1_000
    assert EngineSpec().ram_per_process(2) == spec_module.available_ram() // 2


def test_a_container_limits_cores_and_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spec_module, "CGROUP", tmp_path)
    alone = spec_module.available_cores()
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert spec_module.available_cores() == alone
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    assert spec_module.available_cores() == 1
    assert spec_module.available_ram() == 1_000_000


@pytest.mark.parametrize(
    ("device", "visible", "meant"),
    [
        ("cpu", "0,1", []),
        ("auto", "", []),
        ("auto", "0", ["0"]),
        ("cuda", "2, 3", ["2", "3"]),
        ("cuda:1", "2,3", ["3"]),
        ("cuda:0", "MIG-abc", ["MIG-abc"]),
    ],
)
def test_devices_mean_the_gpus_that_are_visible(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str, meant: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert spec_module.chosen_gpus(device) == meant


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cuda", "no CUDA device is visible; use --device cpu"),
        ("cuda:0", "no CUDA device is visible"),
        ("gpu", "none of: auto, cpu, cuda"),
        ("cuda:x", "none of: auto, cpu, cuda"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, said: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match=said), open_engine(EngineSpec(device=device)):
        pass


@pytest.mark.parametrize("wrong", [{"workers": -1}, {"threads": 0}, {"cores": -3}])
def test_senseless_numbers_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be >= 0"):
        EngineSpec(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "fine"),
    [
        ("tcp://127.0.0.1:8786", True),
        ("127.0.0.1:8786", True),
        ("tcp://[::1]:8786", True),
        ("tcp://localhost:8786", True),
        ("tls://10.1.2.3:8786", True),
        ("tcp://10.1.2.3:8786", False),
        ("10.1.2.3:8786", False),
        ("ucx://10.1.2.3:8786", False),
        ("ws://10.1.2.3:8786", False),
        ("tcp://0.0.0.0:8786", False),
    ],
)
def test_an_open_scheduler_on_the_network_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str, fine: bool
) -> None:
    if fine:
        refuse_open_scheduler(address, EngineSpec())
    else:
        with pytest.raises(ConfigError, match=r"not encrypted.*tls://.*--insecure"):
            refuse_open_scheduler(address, EngineSpec())
    refuse_open_scheduler(address, EngineSpec(insecure=True))
    monkeypatch.setenv("GEOPANOPTIC_INSECURE_CLUSTER", "1")
    refuse_open_scheduler(address, EngineSpec())


def test_an_encrypted_cluster_without_certificates_says_which_are_missing() -> None:
    spec = EngineSpec(scheduler="tls://127.0.0.1:9")
    said = r"needs certificates.*--tls-ca.*CA_FILE"
    with pytest.raises(ConfigError, match=said), open_engine(spec):
        pass


@pytest.mark.parametrize("address", ["tls://127.0.0.1:9", "tcp://127.0.0.1:9", "nonsense://h:9"])
def test_a_refused_connection_leaves_no_client_to_close_itself_later(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Collected while the next client starts, it would wait for a lock that its own thread holds.
    from distributed import Client

    from geopanoptic.workers import cluster

    monkeypatch.setattr(cluster, "CONNECT_S", 1)
    gc.collect()
    before = {thread.ident for thread in threading.enumerate() if thread.name == "IO loop"}
    with (
        pytest.raises((ConfigError, EngineError)),
        open_engine(EngineSpec(scheduler=address, insecure=True)),
    ):
        pass
    after = {thread.ident for thread in threading.enumerate() if thread.name == "IO loop"}
    clients = [thing for thing in gc.get_objects() if type(thing) is Client]
    assert all(client.status in ("closed", "running") for client in clients)
    assert after <= before


FAULTS = """
import resource, sys, threading
import numpy as np
from geopanoptic.workers import EngineSpec, open_engine
def network():
    for _ in range(10):
        a, b = np.ones(4_000_000), np.ones(5_000_000)  # 32 and 40 MB, as a network's layers
        a.sum(), b.sum()
def layers(key):
    network()  # the first touch of memory always faults, by how much depends on huge pages
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    network()
    return {"faults": resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before}
if sys.argv[1] == "plain":
    print(layers(0)["faults"])
else:
    with open_engine(EngineSpec(threads=1)) as engine:
        engine.run(layers, [0], lambda _, r: print(r["faults"]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc only")
def test_large_blocks_are_used_again_instead_of_being_mapped_anew() -> None:
    def faults(how: str) -> int:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
        return int(subprocess.check_output([sys.executable, "-c", FAULTS, how], env=clean))

    assert faults("engine") < faults("plain") / 4


HELD = """
import sys
import psutil
import numpy as np
from geopanoptic.workers import settle_malloc
from geopanoptic.workers.malloc import tune_malloc
assert not settle_malloc()  # nothing to undo
assert tune_malloc()
if sys.argv[1] == "settled":
    assert settle_malloc()
    assert not settle_malloc()
before, small = psutil.Process().memory_info().rss, []
for _ in range(20):
    blocks = [np.ones(2**20) for _ in range(5)]  # 8 MB each
    small.append(np.ones(2**14))  # what stays lies above the gap they leave
    del blocks
print((psutil.Process().memory_info().rss - before) // 2**20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc only")
def test_after_the_network_large_blocks_are_given_back_at_once() -> None:
    def held_mb(how: str) -> int:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
        return int(subprocess.check_output([sys.executable, "-c", HELD, how], env=clean))

    assert held_mb("settled") < 16 < held_mb("tuned")


def test_a_heap_is_trimmed_earlier_where_less_memory_is_allowed() -> None:
    from geopanoptic.workers import trim_heap
    from geopanoptic.workers.malloc import HEAP_VARIABLE

    with open_engine(EngineSpec(max_ram=10_000_000)):
        assert os.environ[HEAP_VARIABLE] == "8000000"
        assert trim_heap(10**15)  # this process holds more than eight megabytes
    assert HEAP_VARIABLE not in os.environ
    assert not trim_heap(10**15)


def test_failures_are_plain_values() -> None:
    assert Failure(1, "why", 2, "lost") == Failure(1, "why", 2, "lost")
    assert loop_module.ATTEMPTS == 2
