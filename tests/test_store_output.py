"""Outputs: under a final name stands the old one or the new one whole, never a half."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from geopanoptic.errors import StoreError
from geopanoptic.store import (
    atomic_output,
    atomic_outputs,
    check_output,
    check_outputs,
    check_space,
    disk,
)

SUFFIXES = {".gpkg", ".tif", ".panoptic"}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def make_map(path: Path, text: str) -> None:
    path.mkdir()
    (path / "map.json").write_text(text)
    (path / "inner").mkdir()
    (path / "inner" / "a.tif").write_text(text)


def test_a_file_appears_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    final = tmp_path / "a.gpkg"
    with atomic_output(final) as path:
        assert path.name == final.name  # writers derive layer names and formats from it
        path.write_text("new")
        assert not final.exists()
    assert final.read_text() == "new"
    assert names(tmp_path) == ["a.gpkg"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_error_leaves_what_stood_there_and_no_litter(tmp_path: Path, overwrite: bool) -> None:
    final = tmp_path / "a.gpkg"
    if overwrite:
        final.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_output(final, overwrite) as path:  # noqa: PT012
        path.write_text("half")
        path.with_name("a.gpkg-journal").write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == (["a.gpkg"] if overwrite else [])
    assert not overwrite or final.read_text() == "old"


def test_an_existing_output_needs_overwrite(tmp_path: Path) -> None:
    final = tmp_path / "a.gpkg"
    final.write_text("old")
    with pytest.raises(StoreError, match=r"a\.gpkg exists; use --overwrite"):
        check_output(final, overwrite=False)
    with pytest.raises(StoreError, match="--overwrite"), atomic_output(final) as path:
        path.write_text("new")
    assert final.read_text() == "old"
    with atomic_output(final, overwrite=True) as path:
        path.write_text("new")
    assert final.read_text() == "new"


def test_an_output_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    final = tmp_path / "a.gpkg"
    with pytest.raises(StoreError, match="has appeared"), atomic_output(final) as path:  # noqa: PT012
        path.write_text("new")
        final.write_text("another run's")
    assert final.read_text() == "another run's"
    assert names(tmp_path) == ["a.gpkg"]


@pytest.mark.parametrize("old", [False, True])
def test_a_directory_is_published_by_one_rename(tmp_path: Path, old: bool) -> None:
    final = tmp_path / "town.panoptic"
    if old:
        make_map(final, "old")
    with atomic_output(final, overwrite=old) as path:
        make_map(path, "new")
        assert not final.exists() or (final / "map.json").read_text() == "old"
    assert (final / "inner" / "a.tif").read_text() == "new"
    assert names(tmp_path) == ["town.panoptic"]


def test_a_folder_that_is_no_map_is_never_overwritten(tmp_path: Path) -> None:
    final = tmp_path / "photos"
    final.mkdir()
    (final / "cat.jpg").touch()
    with pytest.raises(StoreError, match=r"will not overwrite the folder.*map\.json"):
        check_output(final, overwrite=True)
    with pytest.raises(StoreError), atomic_output(final, overwrite=True) as path:
        make_map(path, "new")
    assert names(final) == ["cat.jpg"]


def test_a_block_that_wrote_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing was written"), atomic_output(tmp_path / "a.tif"):
        pass
    assert names(tmp_path) == []


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no folder"):
        check_output(tmp_path / "none" / "a.gpkg", overwrite=False, suffixes=SUFFIXES)
    with pytest.raises(StoreError, match=r"suffix '\.shp'; use \.gpkg, \.panoptic, \.tif"):
        check_output(tmp_path / "a.shp", overwrite=False, suffixes=SUFFIXES)
    check_output(tmp_path / "A.GPKG", overwrite=False, suffixes=SUFFIXES)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused_before_the_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="not writable"):
        check_output(tmp_path / "a.gpkg", overwrite=False)
    tmp_path.chmod(0o700)


def test_a_read_only_folder_is_said_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StoreError, match="not writable for you"):
        check_output(tmp_path / "a.gpkg", overwrite=False)


def test_too_little_space_is_said_with_both_numbers(tmp_path: Path) -> None:
    check_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(StoreError, match=r"about 1000000\.00 GB needed, [\d.]+ [GM]B free"):
        check_space(tmp_path, 10**15)


def test_a_disk_that_fills_up_while_the_caller_writes_is_said_with_the_cure(tmp_path: Path) -> None:
    final = tmp_path / "a.html"
    with (  # in the terms of the final place, also where the error names the hidden one
        pytest.raises(
            StoreError, match=r"writing .*/a\.html: No space left .* free; free some space"
        ),
        atomic_output(final),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(StoreError) as caught, atomic_output(final) as path:
        raise StoreError(f"cannot write {path}: it is full")
    assert str(caught.value) == f"cannot write {final}: it is full"
    with pytest.raises(FileNotFoundError), atomic_output(final):
        (tmp_path / "none").read_text()
    assert names(tmp_path) == []


def test_files_that_belong_together_appear_together(tmp_path: Path) -> None:
    main, other, style = (tmp_path / name for name in ("a.tif", "a.ids.tif", "a.qml"))
    style.write_text("old")
    with atomic_outputs([main, other], sides=[style]) as folder:
        for path in (main, other, style):
            (folder / path.name).write_text(path.name)
        assert names(tmp_path)[1:] == ["a.qml"]
        assert style.read_text() == "old"
    assert names(tmp_path) == ["a.ids.tif", "a.qml", "a.tif"]
    assert style.read_text() == "a.qml"
    with pytest.raises(StoreError, match=r"a\.tif exists"), atomic_outputs([main]):
        pass
    main.unlink()
    with pytest.raises(StoreError, match=r"a\.ids\.tif exists"), atomic_outputs([main, other]):
        pass
    with pytest.raises(KeyError), atomic_outputs([main, other], overwrite=True) as folder:  # noqa: PT012
        (folder / "a.ids.tif").write_text("new")
        raise KeyError
    assert other.read_text() == "a.ids.tif"
    with pytest.raises(StoreError, match="nothing was written"), atomic_outputs([main]):
        pass
    with atomic_outputs([main, other], overwrite=True) as folder:  # the others may be left out
        (folder / "a.tif").write_text("1")
    assert names(tmp_path) == ["a.ids.tif", "a.qml", "a.tif"]


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5, 6])
def test_of_files_that_belong_together_none_stays_when_one_cannot_be_published(
    nth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, other, style = (tmp_path / name for name in ("a.tif", "a.ids.tif", "a.qml"))
    seen = 0
    real = disk.fsync_path

    def publish() -> None:
        with atomic_outputs([main, other], sides=[style]) as folder:
            for path in (main, other, style):
                (folder / path.name).write_text(path.name)

    def failing(path: Path) -> None:  # each file is flushed, then its name
        nonlocal seen
        seen += 1
        if seen == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path)

    with monkeypatch.context() as patched:
        patched.setattr(disk, "fsync_path", failing)
        with pytest.raises(StoreError, match="No space left"):
            publish()
    assert seen == nth
    assert names(tmp_path) == []
    publish()
    assert names(tmp_path) == ["a.ids.tif", "a.qml", "a.tif"]


def test_what_another_run_published_meanwhile_is_not_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, other = tmp_path / "a.tif", tmp_path / "a.ids.tif"
    real = disk.link_new

    def late(made: Path, final: Path) -> bool:
        final.write_text("theirs")
        return real(made, final)

    monkeypatch.setattr(disk, "link_new", late)
    with pytest.raises(StoreError, match="has appeared"), atomic_outputs([main, other]) as folder:  # noqa: PT012
        for path in (main, other):
            (folder / path.name).write_text("ours")
    assert names(tmp_path) == ["a.ids.tif"]
    assert other.read_text() == "theirs"


KILLED = """
import os, signal, sys
from pathlib import Path
from geopanoptic.store import atomic_output, disk
from geopanoptic.store import output
final = Path(sys.argv[1])
if sys.argv[2] == "between":
    output.disk.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with atomic_output(final, overwrite=True) as path:
    path.mkdir()
    (path / "map.json").write_text("new")
    if sys.argv[2] == "writing":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("when", ["writing", "between"])
def test_the_next_run_tidies_up_after_a_killed_one(tmp_path: Path, when: str) -> None:
    final = tmp_path / "town.panoptic"
    make_map(final, "old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(final), when], check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(KeyError), atomic_output(final, overwrite=True):  # noqa: PT012
        assert (final / "map.json").read_text() == "old"  # brought back, where it was set aside
        raise KeyError
    assert names(tmp_path) == ["town.panoptic"]


BETWEEN = """
import os, signal, sys
from pathlib import Path
from geopanoptic.store import atomic_outputs, disk
folder = Path(sys.argv[1])
os.environ[disk.FAULT_VARIABLE] = "link:KILL@2"
with atomic_outputs([folder / "a.tif", folder / "a.ids.tif"]) as made:
    (made / "a.tif").write_text("1")
    (made / "a.ids.tif").write_text("1")
"""


def test_half_a_pair_that_a_killed_run_left_is_in_nobodys_way(tmp_path: Path) -> None:
    pair = [tmp_path / "a.tif", tmp_path / "a.ids.tif"]
    killed = subprocess.run([sys.executable, "-c", BETWEEN, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert pair[1].exists()
    assert not pair[0].exists()
    check_outputs(pair, overwrite=False)
    with atomic_outputs(pair) as folder:
        for path in pair:
            (folder / path.name).write_text("2")
    assert [path.read_text() for path in pair] == ["2", "2"]
    assert names(tmp_path) == ["a.ids.tif", "a.tif"]
    pair[0].unlink()  # without a killed run it is the user's
    with pytest.raises(StoreError, match=r"a\.ids\.tif exists"):
        check_outputs(pair, overwrite=False)


def test_the_litter_of_a_run_that_lives_is_left_alone(tmp_path: Path) -> None:
    final = tmp_path / "a.tif"
    with atomic_output(final) as first:
        first.write_text("1")
        with atomic_output(final) as second:
            second.write_text("2")
            assert first.exists()
        final.unlink()
    assert final.read_text() == "1"
