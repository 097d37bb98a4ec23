"""The work directory on an object store: the laws of the folder, without renames and locks."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from pixel_oracle import PixelOracle, spell
from scenes import make_truth
from slow_oracle import SlowOracle
from test_workers_dask import start_scheduler, start_worker

from geopanoptic.errors import StoreError
from geopanoptic.predict import Execution, PredictSettings, Products, run
from geopanoptic.store import Job, ObjectJob, ObjectParts, lease, objects, open_job
from geopanoptic.workers import EngineSpec

HERE = Path(__file__).parent
BUCKET = "geopanoptic-test"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Run an S3 server on the loopback interface; the environment says how to reach it."""
    pytest.importorskip("s3fs", reason="needs s3fs: pip install 'geopanoptic[dev]'")
    pytest.importorskip("moto", reason="needs moto[server]: pip install 'geopanoptic[dev]'")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    given = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    fs, _ = objects.file_system(f"s3://{BUCKET}")
    fs.mkdir(BUCKET)
    yield f"s3://{BUCKET}"
    objects.file_system.cache_clear()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    server.stop()


@pytest.fixture
def root(server: str, request: pytest.FixtureRequest) -> str:
    return f"{server}/{request.node.name}-{time.monotonic_ns()}"


def parts_of(root: str) -> ObjectParts:
    return ObjectParts(root, "infer", "f" * 32)


def object_bytes(parts: ObjectParts, key: int) -> bytes:
    data: bytes = parts._fs.cat_file(parts.path(key))
    return data


def test_what_was_put_is_got_and_the_first_writer_wins(root: str) -> None:
    parts = parts_of(root)
    labels = np.arange(1_000_000, dtype=np.int32).reshape(1000, 1000)
    assert not parts.has(7)
    assert parts.put(7, {"labels": labels, "none": np.zeros(0, bool)}, {"tiles": [7]})
    before = object_bytes(parts, 7)
    assert not parts.put(7, {"labels": labels + 1}, {})
    assert object_bytes(parts, 7) == before
    assert parts.has(7)
    assert parts.meta(7) == {"tiles": [7]}
    assert np.array_equal(parts.get(7, ["labels"]).arrays["labels"], labels)
    assert parts.get(7).arrays["none"].dtype == bool
    assert parts.put(300, {}, {})
    assert list(parts.keys()) == [7, 300]
    parts.verify(7)
    parts.discard(7)
    parts.discard(7)
    assert list(parts.keys()) == [300]
    with pytest.raises(StoreError, match="is not there; run the same command again"):
        parts.get(7)


def test_a_damaged_object_is_noticed_and_replaced(root: str) -> None:
    parts = parts_of(root)
    parts.put(1, {"a": np.arange(100)}, {})
    whole = object_bytes(parts, 1)
    for cut in (0, 5, len(whole) - 1):
        parts._fs.pipe_file(parts.path(1), whole[:cut])
        assert not parts.has(1)
        assert parts.put(1, {"a": np.arange(100)}, {})
        assert parts.has(1)
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    parts._fs.pipe_file(parts.path(1), bytes(flipped))
    with pytest.raises(StoreError, match="fails its checksum"):
        parts.verify(1)


def test_a_part_that_is_asked_for_again_is_fetched_whole_once(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(root)
    arrays = {f"labels/{tile}": np.random.default_rng(tile).random(100_000) for tile in range(8)}
    parts.put(1, arrays, {})
    asked: list[str] = []
    real = parts._fs.cat_file
    monkeypatch.setattr(parts._fs, "cat_file", lambda path: asked.append(path) or real(path))
    for name, array in arrays.items():
        assert np.array_equal(parts.get(1, [name]).arrays[name], array)
    assert asked == [parts.path(1)]
    monkeypatch.setattr(objects, "KEPT_BYTES", 10)
    parts.put(2, arrays, {})
    for key in (2, 2, 1):
        parts.get(key, [])
    assert list(objects._kept._whole) == [parts.path(1)]  # the latest stays, whatever its size
    parts.discard(1)
    parts.discard(2)
    assert not objects._kept._whole
    assert not parts.has(1)


def test_a_part_of_another_job_is_not_there(root: str) -> None:
    parts_of(root).put(1, {}, {})
    other = ObjectParts(root, "infer", "e" * 32)
    assert not other.has(1)
    with pytest.raises(StoreError, match="belongs to another job"):
        other.get(1)


def opened(root: str, tmp_path: Path, fingerprint: dict[str, Any] | None = None) -> Any:
    return open_job(root, fingerprint or {"scene": "a"}, files=tmp_path / "files")


def test_a_second_run_is_refused_while_the_first_lives_and_goes_on_after_it(
    root: str, tmp_path: Path
) -> None:
    with opened(root, tmp_path) as job:
        assert isinstance(job, ObjectJob)
        assert not job.resumed
        job.parts("infer").put(3, {}, {})
        with pytest.raises(StoreError, match=rf"in use by another run \(process {os.getpid()} on"):
            opened(root, tmp_path)
    with opened(root, tmp_path) as job:
        assert job.resumed
        assert list(job.parts("infer").keys()) == [3]
        job.remove()
    fs, path = objects.file_system(root)
    assert fs.find(path) == []


def test_other_inputs_and_other_peoples_objects_are_refused(root: str, tmp_path: Path) -> None:
    with opened(root, tmp_path):
        pass
    with pytest.raises(StoreError, match=r'scene: "a", now "b"'):
        opened(root, tmp_path, {"scene": "b"})
    with opened(root, tmp_path) as job:  # the refusal left no lease
        job.remove()
    fs, path = objects.file_system(root)
    fs.pipe_file(f"{path}/thesis.tex", b"mine")
    with pytest.raises(StoreError, match=r"holds 'thesis.tex'"):
        opened(root, tmp_path)


def test_a_bucket_that_is_not_there_is_said(server: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"bucket does not exist.*make the bucket first"):
        opened("s3://no-such-bucket/job", tmp_path)


def test_fresh_forgets_what_was_there(root: str, tmp_path: Path) -> None:
    with opened(root, tmp_path) as job:
        job.parts("infer").put(3, {}, {})
    with open_job(root, {"scene": "b"}, files=tmp_path / "files", fresh=True) as job:
        assert not job.resumed
        assert list(job.parts("infer").keys()) == []


def write_lease(root: str, **said: Any) -> str:
    fs, path = objects.file_system(root)
    fs.pipe_file(
        f"{path}/lock/000001", json.dumps({"since": "then", "token": "t", **said}).encode()
    )
    return path


def test_a_silent_lease_is_taken_over_and_its_old_holder_notices(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    old = opened(root, tmp_path)
    fs, path = objects.file_system(root)
    monkeypatch.setattr(lease, "process_lives", lambda pid: False)  # the machine was asleep
    with opened(root, tmp_path) as new:
        assert fs.find(f"{path}/lock") == [f"{path}/lock/000002"]
        deadline = time.monotonic() + 10
        while not old.lease.lost and time.monotonic() < deadline:
            time.sleep(0.05)
        assert old.lease.lost
        with pytest.raises(StoreError, match="another run has taken over"):
            old.remove()
        old.close()
        new.lease.check()
    assert fs.find(f"{path}/lock") == []


def test_on_another_host_silence_decides(root: str, tmp_path: Path) -> None:
    write_lease(root, host="elsewhere", pid=os.getpid(), beat=time.time() - 60)
    with pytest.raises(StoreError, match="on elsewhere, since then; its lease runs out 300 s"):
        opened(root, tmp_path)
    write_lease(root, host="elsewhere", pid=os.getpid(), beat=time.time() - 301)
    with opened(root, tmp_path):
        pass


def test_the_lease_is_renewed(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    with opened(root, tmp_path) as job:
        fs = job.lease._fs
        first = json.loads(fs.cat_file(job.lease._path))["beat"]
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if json.loads(fs.cat_file(job.lease._path))["beat"] > first:
                return
            time.sleep(0.05)
    pytest.fail("no beat within ten seconds")


def test_of_two_takers_one_wins(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fs, path = objects.file_system(root)
    first = lease.Lease.take(fs, path)
    assert isinstance(first, lease.Lease)
    # the second has looked before the first one's put
    monkeypatch.setattr(lease, "_highest", lambda fs, root: (0, {}))
    second = lease.Lease.take(fs, path)
    assert isinstance(second, str)
    assert f"process {os.getpid()}" in second
    first.release()


def test_workers_get_a_small_handle(root: str, tmp_path: Path) -> None:
    with opened(root, tmp_path) as job:
        assert len(pickle.dumps(job.ref)) < 500
        job.parts("infer").put(1, {}, {"n": 1})
        assert pickle.loads(pickle.dumps(job.ref)).parts("infer").meta(1) == {"n": 1}
        assert job.ref.files_folder().is_dir()
    assert not (tmp_path / "files").exists()


def test_without_the_package_the_cure_is_said() -> None:
    asked = textwrap.dedent("""
        import sys
        sys.modules["s3fs"] = None  # what Python does for a package that is not installed
        from geopanoptic.errors import StoreError
        from geopanoptic.store import ObjectParts
        try:
            ObjectParts("s3://bucket/job", "infer", "f").has(1)
        except StoreError as error:
            print(error)
    """)
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert "pip install 'geopanoptic[s3]', on all hosts" in said.stdout
    with pytest.raises(StoreError, match="unknown kind of address"):
        objects.file_system("nonsense://bucket/job")


def test_a_store_that_does_not_answer_is_said_and_is_no_missing_part(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    fs = s3fs.S3FileSystem(
        endpoint_url="http://127.0.0.1:9",
        config_kwargs={"retries": {"max_attempts": 1}, "connect_timeout": 1},
        skip_instance_cache=True,
    )
    fs.retries = 1
    monkeypatch.setattr(objects, "file_system", lambda root: (fs, "bucket/job"))
    for ask in (parts_of("s3://bucket/job").has, lambda k: parts_of("s3://b").put(k, {}, {})):
        with pytest.raises(StoreError, match="check address, credentials and network"):
            ask(1)


def test_a_folder_and_a_file_address_are_what_they_were(tmp_path: Path) -> None:
    for place in (tmp_path / "a", str(tmp_path / "b"), f"file://{tmp_path}/c"):
        with open_job(place, {}, files=tmp_path / "unused") as job:
            assert isinstance(job, Job)
            assert job.root.is_dir()
    assert not (tmp_path / "unused").exists()


SETTINGS = PredictSettings(core=40, halo=3)
RUN = """
import sys
sys.path.insert(0, {here!r})
from pixel_oracle import PixelOracle
from geopanoptic.predict import Execution, PredictSettings, Products, run
from geopanoptic.workers import EngineSpec
if __name__ == "__main__":
    run({scene!r}, PixelOracle(), Products.to([{out!r}]), PredictSettings(core=40, halo=3),
        Execution(engine=EngineSpec(workers={workers}, threads=1), work_dir={root!r}))
"""


def script(folder: Path, **values: Any) -> list[str]:
    path = folder / "run.py"
    path.write_text(textwrap.dedent(RUN.format(here=str(HERE), **values)))
    return [sys.executable, str(path)]


@pytest.fixture
def scene(tmp_path: Path) -> str:
    return str(spell(make_truth("row houses", (90, 100), seed=5), tmp_path / "scene.tif"))


def bytes_of(folder: Path) -> list[bytes]:
    return [(folder / f"{name}.tif").read_bytes() for name in ("semantic", "instances")]


@pytest.fixture
def wanted(scene: str, tmp_path: Path) -> list[bytes]:
    out = tmp_path / "here.panoptic"
    run(scene, PixelOracle(), Products.to([out]), SETTINGS, Execution())
    return bytes_of(out)


def test_the_main_job_makes_the_same_bytes_with_its_parts_on_an_object_store(
    root: str, scene: str, wanted: list[bytes], tmp_path: Path
) -> None:
    out = tmp_path / "there.panoptic"
    run(scene, PixelOracle(), Products.to([out]), SETTINGS, Execution(work_dir=root))
    assert bytes_of(out) == wanted
    assert not list(tmp_path.glob("*.gpfiles"))
    with pytest.raises(StoreError, match="exists"):
        run(scene, PixelOracle(), Products.to([out]), SETTINGS, Execution(work_dir=root))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("nth", [2, 9, 20, 30])
def test_killed_at_its_nth_put_the_main_job_goes_on_to_the_same_bytes(
    nth: int, root: str, scene: str, wanted: list[bytes], tmp_path: Path
) -> None:
    out = tmp_path / "there.panoptic"
    command = script(tmp_path, scene=scene, out=str(out), root=root, workers=0)
    killed = subprocess.run(
        command, env=os.environ | {"GEOPANOPTIC_FAULT": f"put:KILL@{nth}"}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    fs, path = objects.file_system(root)
    kept = {name: fs.info(name)["LastModified"] for name in fs.find(f"{path}/parts")}
    subprocess.run(command, check=True)
    assert bytes_of(out) == wanted
    now = {name: fs.info(name)["LastModified"] for name in fs.find(f"{path}/parts")}
    assert kept.items() <= now.items(), "a finished part was made anew"
    assert fs.find(f"{path}/lock") == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_worker_processes_share_an_object_store(
    root: str, scene: str, wanted: list[bytes], tmp_path: Path
) -> None:
    out = tmp_path / "there.panoptic"
    subprocess.run(script(tmp_path, scene=scene, out=str(out), root=root, workers=2), check=True)
    assert bytes_of(out) == wanted


@contextmanager
def cluster(how: str, folder: Path) -> Iterator[tuple[EngineSpec, Callable[[], psutil.Process]]]:
    """Yield an engine with two worker processes, and a function that finds one of them."""
    if how == "local":

        def find() -> psutil.Process:
            ours = psutil.Process().children(recursive=True)
            return next(p for p in ours if "spawn_main" in " ".join(p.cmdline()))

        yield EngineSpec(workers=2), find
        return
    scheduler, address = start_scheduler(folder)
    workers = [start_worker(address, "--no-nanny") for _ in range(2)]
    try:
        yield EngineSpec(scheduler=address), lambda: psutil.Process(workers[0].pid)
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", ["local", "address"])
def test_a_worker_that_dies_amid_a_run_on_an_object_store_changes_no_byte(
    how: str, root: str, scene: str, wanted: list[bytes], tmp_path: Path
) -> None:
    out, struck = tmp_path / "there.panoptic", []
    with cluster(how, tmp_path) as (engine, find):

        def strike(stage: str, done: int, total: int) -> None:
            if stage == "infer" and not struck:
                struck.append(find())
                struck[0].kill()

        execution = Execution(engine=engine, work_dir=root, progress=strike)
        run(scene, SlowOracle(seconds=0.3), Products.to([out]), SETTINGS, execution)
    assert struck
    assert bytes_of(out) == wanted
    fs, path = objects.file_system(root)
    assert fs.find(f"{path}/lock") == []
