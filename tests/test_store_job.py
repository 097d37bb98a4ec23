"""The work directory: one set of inputs, one run at a time, nothing of anybody else's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geopanoptic.errors import StoreError
from geopanoptic.store import Job
from geopanoptic.store.job import differences

INPUTS: dict[str, Any] = {
    "format": 1,
    "scene": {"path": "a.tif", "size": 100, "shape": [10, 20]},
    "model": {"sha256": "a" * 64, "name": "dense"},
    "tiling": {"core": 1024, "halo": 64},
}


def changed(**paths: Any) -> dict[str, Any]:
    inputs: dict[str, Any] = json.loads(json.dumps(INPUTS))
    for path, value in paths.items():
        section, key = path.split("__")
        inputs[section][key] = value
    return inputs


def test_a_second_run_of_the_same_inputs_goes_on(tmp_path: Path) -> None:
    with Job.open(tmp_path / "job", INPUTS) as job:
        assert not job.resumed
        job.parts("infer").put(3, {}, {"n": 1})
        job.file("resolved.yaml").write_text("a: 1")
    with Job.open(tmp_path / "job", INPUTS) as job:
        assert job.resumed
        assert job.parts("infer").meta(3) == {"n": 1}
        assert job.file("resolved.yaml").read_text() == "a: 1"


def test_the_order_of_keys_and_tuples_make_no_difference(tmp_path: Path) -> None:
    with Job.open(tmp_path / "job", INPUTS) as job:
        first = job.fingerprint
    turned = dict(reversed(INPUTS.items())) | {"scene": INPUTS["scene"] | {"shape": (10, 20)}}
    with Job.open(tmp_path / "job", turned) as job:
        assert job.fingerprint == first


def test_other_inputs_are_refused_and_each_difference_is_named(tmp_path: Path) -> None:
    with Job.open(tmp_path / "job", INPUTS) as job:
        job.parts("infer").put(3, {}, {})
    other = changed(model__sha256="b" * 64, tiling__halo=32, tiling__origin=[0, 0])
    with pytest.raises(StoreError) as error:
        Job.open(tmp_path / "job", other)
    message = str(error.value)
    assert 'model.sha256: "aaaa' in message
    assert "tiling.halo: 64, now 32" in message
    assert "tiling.origin: not there, now [0, 0]" in message
    assert "scene" not in message.split("What differs")[1]
    assert "--fresh" in message
    assert "--work-dir" in message
    with Job.open(tmp_path / "job", INPUTS) as job:  # and the refusal harmed nothing
        assert job.parts("infer").has(3)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_there_are_differences_just_when_the_canonical_texts_differ(a: Any, b: Any) -> None:
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (not list(differences(a, b))) == same
    assert not list(differences(a, a))


def test_a_flag_and_a_number_are_different_also_within_a_list() -> None:
    assert list(differences({"bands": [1]}, {"bands": [True]})) == ["bands: [1], now [true]"]


def test_fresh_forgets_the_parts_and_takes_the_new_inputs(tmp_path: Path) -> None:
    root = tmp_path / "job"
    with Job.open(root, INPUTS) as job:
        job.parts("infer").put(3, {}, {})
        job.file("x").touch()
    with Job.open(root, changed(tiling__halo=1), fresh=True) as job:
        assert not job.resumed
        assert not job.parts("infer").has(3)
        assert not job.file("x").exists()
    with Job.open(root, changed(tiling__halo=1)) as job:
        assert job.resumed


def test_fresh_leaves_what_is_not_ours(tmp_path: Path) -> None:
    root = tmp_path / "job"
    with Job.open(root, INPUTS):
        (root / "notes.txt").write_text("mine")
    with Job.open(root, INPUTS, fresh=True):
        assert (root / "notes.txt").read_text() == "mine"


def test_a_folder_of_other_things_is_refused_also_with_fresh(tmp_path: Path) -> None:
    (tmp_path / "thesis.odt").touch()
    for fresh in (False, True):
        with pytest.raises(StoreError, match=r"holds 'thesis.odt'.*choose an empty"):
            Job.open(tmp_path, INPUTS, fresh=fresh)
    with pytest.raises(StoreError, match="is a file"):
        Job.open(tmp_path / "thesis.odt", INPUTS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.odt"]


def test_a_second_run_at_the_same_time_is_refused_with_host_and_process(tmp_path: Path) -> None:
    with Job.open(tmp_path / "job", INPUTS):
        code = (
            "import json, sys; from pathlib import Path; from geopanoptic.store import Job\n"
            "try: Job.open(Path(sys.argv[1]), json.loads(sys.argv[2]))\n"
            "except Exception as e: print(type(e).__name__, e)"
        )
        said = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "job"), json.dumps(INPUTS)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    assert said.startswith("StoreError")
    assert f"process {os.getpid()} on " in said
    assert "--work-dir" in said
    Job.open(tmp_path / "job", INPUTS).close()


def test_a_killed_run_leaves_no_lock_and_no_litter(tmp_path: Path) -> None:
    code = (
        "import json, sys, time; from pathlib import Path; from geopanoptic.store import Job\n"
        "job = Job.open(Path(sys.argv[1]), json.loads(sys.argv[2]))\n"
        "job.parts('infer').put(1, {}, {})\n"
        "(job.root / 'parts/infer/01/.00000001.part.host-1-0.tmp').write_bytes(b'half')\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "job"), json.dumps(INPUTS)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    with Job.open(tmp_path / "job", INPUTS) as job:
        assert list(job.parts("infer").keys()) == [1]
        assert not list(job.root.rglob("*.tmp"))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": "other"}', '{"format": "geopanoptic-job"}']
)
def test_a_damaged_manifest_is_refused_and_fresh_mends_it(tmp_path: Path, content: str) -> None:
    root = tmp_path / "job"
    Job.open(root, INPUTS).close()
    (root / "job.json").write_text(content)
    with pytest.raises(StoreError, match=r"damaged or no job.*--fresh"):
        Job.open(root, INPUTS)
    Job.open(root, INPUTS, fresh=True).close()
    Job.open(root, INPUTS).close()


def test_a_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "job"
    Job.open(root, INPUTS).close()
    content = json.loads((root / "job.json").read_text()) | {"version": 99}
    (root / "job.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match="version 99"):
        Job.open(root, INPUTS)


def test_a_failed_opening_lets_go_of_the_lock(tmp_path: Path) -> None:
    root = tmp_path / "job"
    Job.open(root, INPUTS).close()
    for _ in range(3):
        with pytest.raises(StoreError, match="other inputs"):
            Job.open(root, changed(tiling__halo=1))
    Job.open(root, INPUTS).close()


def test_remove_takes_all_of_ours_away(tmp_path: Path) -> None:
    root = tmp_path / "job"
    job = Job.open(root, INPUTS)
    job.parts("infer").put(1, {}, {})
    job.remove()
    assert not root.exists()


def test_the_directory_and_the_parts_are_for_the_owner_alone(tmp_path: Path) -> None:
    with Job.open(tmp_path / "job", INPUTS) as job:
        job.parts("infer").put(1, {}, {})
        modes = {p.stat().st_mode & 0o077 for p in (job.root, job.parts("infer").path(1))}
    assert modes == {0}


def test_a_million_parts_are_spread_over_folders(tmp_path: Path) -> None:
    with Job.open(tmp_path / "job", INPUTS) as job:
        folders = {job.parts("infer").path(key).parent for key in range(5000)}
    assert len(folders) == 256


@pytest.mark.slow
def test_resume_reads_twenty_thousand_headers_in_seconds(tmp_path: Path) -> None:
    with Job.open(tmp_path / "job", INPUTS) as job:
        store = job.parts("infer")
        store.put(0, {}, {})
        template = store.path(0).read_bytes()
        for key in range(1, 20_000):
            path = store.path(key)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(template)
        began = time.process_time()
        assert list(store.keys()) == [0]  # the copies say that they are part 0
        assert time.process_time() - began < 10
