"""Parts: what was put is got, whole; what is damaged is known; the first writer wins."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geopanoptic.errors import StoreError
from geopanoptic.store import Job, PartStore
from geopanoptic.store.disk import FAULT_VARIABLE

DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
)
ARRAYS = DTYPES.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def store(tmp_path: Path) -> PartStore:
    return PartStore(tmp_path, "infer", "f" * 32)


def example_arrays() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "semantic": rng.integers(0, 4, (50, 40)).astype(np.uint8),
        "instance": rng.integers(0, 2**31, (50, 40)).astype(np.int32),
        "empty": np.zeros((0, 4), np.float32),
    }


@given(
    arrays=st.dictionaries(st.text(), ARRAYS, max_size=4),
    meta=st.dictionaries(st.text(), JSON, max_size=3),
    key=st.integers(0, 10**12),
)
def test_what_was_put_is_got(
    arrays: dict[str, Any],
    meta: dict[str, Any],
    key: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    store = PartStore(tmp_path_factory.getbasetemp() / "round", "infer", "f" * 32)
    store.discard(key)
    assert store.put(key, arrays, meta)
    part = store.get(key)
    assert part.meta == meta == store.meta(key)
    assert list(part.arrays) == list(arrays)
    for name, array in arrays.items():
        assert part.arrays[name].shape == array.shape
        assert part.arrays[name].dtype == array.dtype.newbyteorder("<")
        np.testing.assert_array_equal(part.arrays[name], array)


def test_only_the_named_arrays_are_read(store: PartStore) -> None:
    store.put(5, example_arrays(), {})
    assert list(store.get(5, ["instance"]).arrays) == ["instance"]
    with pytest.raises(KeyError, match="has no 'sem'"):
        store.get(5, ["sem"])


@pytest.mark.parametrize("bad", [np.array(["a"]), np.array([None]), np.array(["2024"], "M8[Y]")])
def test_arrays_that_are_no_plain_numbers_are_refused(store: PartStore, bad: Any) -> None:
    with pytest.raises(TypeError, match="plain numbers"):
        store.put(1, {"x": bad}, {})
    assert not store.has(1)


def test_every_flipped_bit_is_noticed(store: PartStore) -> None:
    store.put(7, example_arrays(), {"n": 1})
    path = store.path(7)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    places = {*range(40), len(whole) - 1, *rng.integers(0, len(whole), 300).tolist()}
    for place in sorted(places):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"damaged|another job"):
            store.get(7)


def test_every_truncation_is_noticed_from_the_header_alone(store: PartStore) -> None:
    store.put(7, example_arrays(), {"n": 1})
    path = store.path(7)
    whole = path.read_bytes()
    for length in {0, 1, 11, 12, 40, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:length])
        assert not store.has(7)
        with pytest.raises(StoreError, match=r"damaged.*(bytes|checksum).*run the same command"):
            store.meta(7)
    path.write_bytes(whole + b"\0")
    assert not store.has(7)


def test_a_damaged_part_is_replaced_and_a_whole_one_never(store: PartStore) -> None:
    assert store.put(3, {"x": np.arange(3)}, {"turn": 1})
    assert not store.put(3, {"x": np.arange(3)}, {"turn": 2})
    assert store.meta(3) == {"turn": 1}
    path = store.path(3)
    path.write_bytes(path.read_bytes()[:-1])
    assert store.put(3, {"x": np.arange(3)}, {"turn": 3})
    assert store.meta(3) == {"turn": 3}


def test_keys_lists_whole_parts_of_this_job_in_order(store: PartStore) -> None:
    for key in (300, 2, 44, 1):
        store.put(key, {}, {})
    PartStore(store.root, "infer", "0" * 32).put(9, {}, {})
    store.path(44).write_bytes(b"GPP1")
    assert list(store.keys()) == [1, 2, 300]
    assert not store.has(9)
    store.discard(2)
    store.discard(2)
    assert list(store.keys()) == [1, 300]
    assert list(PartStore(store.root, "seam", store.fingerprint).keys()) == []


def test_a_part_moved_to_another_key_kind_or_job_is_refused(store: PartStore) -> None:
    store.put(1, {}, {})
    store.path(2).parent.mkdir()
    store.path(2).write_bytes(store.path(1).read_bytes())
    with pytest.raises(StoreError, match="belongs to another job"):
        store.get(2)
    with pytest.raises(StoreError, match="is not there"):
        store.get(4)


def test_no_temporary_files_stay(store: PartStore) -> None:
    for _ in range(2):
        store.put(1, example_arrays(), {})
    assert [p.name for p in store.root.rglob("*") if p.is_file()] == ["00000001.part"]


RACE = """
import sys, time
import numpy as np
from pathlib import Path
from geopanoptic.store import PartStore
store = PartStore(Path(sys.argv[1]), "infer", "f" * 32)
me = int(sys.argv[2])
time.sleep(max(0.0, float(sys.argv[3]) - time.time()))
print(sum(store.put(key, {"who": np.full(1000, me)}, {"who": me}) for key in range(60)))
"""


def test_among_racing_processes_exactly_one_wins_each_part(tmp_path: Path) -> None:
    import time

    begin = str(time.time() + 2.0)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path), str(i), begin],
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(4)
    ]
    wins = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    assert sum(wins) == 60
    store = PartStore(tmp_path, "infer", "f" * 32)
    owners = [store.get(key) for key in range(60)]
    assert all((part.arrays["who"] == part.meta["who"]).all() for part in owners)
    assert [sum(p.meta["who"] == i for p in owners) for i in range(4)] == wins


def test_a_writer_whose_temporary_file_was_swept_writes_it_again(
    store: PartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geopanoptic.store import disk

    link, swept = disk.link_new, []

    def sweep_first(temporary: Path, final: Path) -> bool:
        if not swept:
            swept.append(temporary)
            temporary.unlink()
        return link(temporary, final)

    monkeypatch.setattr(disk, "link_new", sweep_first)
    assert store.put(1, {}, {"n": 1})
    assert swept
    assert store.has(1)


def test_without_hard_links_the_first_writer_wins_too(
    store: PartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    assert store.put(1, {}, {"turn": 1})
    assert not store.put(1, {}, {"turn": 2})
    assert store.meta(1) == {"turn": 1}


@pytest.mark.parametrize("operation", ["mkdir", "open", "write", "fsync", "link"])
def test_a_full_disk_is_said_with_numbers_and_leaves_nothing(
    store: PartStore, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    from geopanoptic.store import disk

    monkeypatch.setattr(disk, "_seen", 0)
    monkeypatch.setenv(FAULT_VARIABLE, f"{operation}:ENOSPC@1")
    with pytest.raises(StoreError, match=r"No space left.* free, .* needed.*run the same command"):
        store.put(1, example_arrays(), {})
    assert not [p for p in store.root.rglob("*") if p.is_file()]
    monkeypatch.delenv(FAULT_VARIABLE)
    assert store.put(1, example_arrays(), {})


def test_a_really_full_disk_keeps_what_was_finished(small_disk: Path) -> None:
    store = PartStore(small_disk, "infer", "f" * 32)
    noise = np.random.default_rng(0).integers(0, 256, 20_000).astype(np.uint8)
    finished = 0
    with pytest.raises(StoreError, match=r"free.*0\.02|20.*needed|needed"):  # noqa: PT012
        for key in range(10):
            store.put(key, {"noise": noise}, {})
            finished += 1
    assert 1 <= finished < 5
    assert list(store.keys()) == list(range(finished))
    assert not list(small_disk.rglob("*.tmp"))
    store.discard(0)
    assert store.put(finished, {"noise": noise}, {})


def test_the_reference_for_workers_is_small_and_needs_no_lock(tmp_path: Path) -> None:
    with Job.open(tmp_path / "job", {"scene": "a"}) as job:
        packed = pickle.dumps(job.ref)
        assert len(packed) < 400
        code = (
            "import pickle, sys; ref = pickle.loads(bytes.fromhex(sys.argv[1])); "
            "print(ref.parts('infer').put(4, {}, {'from': 'worker'}))"
        )
        said = subprocess.run(
            [sys.executable, "-c", code, packed.hex()], capture_output=True, text=True, check=True
        )
        assert said.stdout.strip() == "True"
        assert job.parts("infer").meta(4) == {"from": "worker"}


def test_the_format_is_the_documented_one(store: PartStore) -> None:
    """Read a part with nothing but the standard library and a zstd decoder."""
    import struct
    import zlib

    from numcodecs.zstd import Zstd

    store.put(1, {"x": np.arange(5, dtype=np.int32)}, {"a": 1})
    raw = store.path(1).read_bytes()
    magic, length, crc = struct.unpack("<4sII", raw[:12])
    header = json.loads(raw[12 : 12 + length])
    assert magic == b"GPP1"
    assert zlib.crc32(raw[12 : 12 + length]) == crc
    section = header["sections"]["x"]
    begin = 12 + length + section["offset"]
    packed = raw[begin : begin + section["length"]]
    assert zlib.crc32(packed) == section["crc32"]
    assert np.frombuffer(Zstd().decode(packed), section["dtype"]).tolist() == [0, 1, 2, 3, 4]
