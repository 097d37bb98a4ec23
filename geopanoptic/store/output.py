"""Publishing results: nothing half-written ever stands under a final name."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from geopanoptic.errors import StoreError
from geopanoptic.store import disk
from geopanoptic.store.parts import temporary_name

MAP_MARK = "map.json"  # contracts.md section 1: what makes a folder a map that may be replaced


def check_output(final: Path, overwrite: bool, suffixes: Collection[str] | None = None) -> None:
    """Refuse an output that could not be published, before any work is done for it.

    `suffixes` (with their dots) are the ones allowed, when the caller knows them.
    Raises StoreError: exists, its folder is missing or not writable, or a suffix nobody writes.
    """
    if suffixes is not None and final.suffix.lower() not in suffixes:
        known = ", ".join(sorted(suffixes))
        raise StoreError(
            f"cannot write {final}: no format has the suffix {final.suffix!r}; use {known}"
        )
    if _present(final) and not overwrite:
        raise StoreError(f"{final} exists; use --overwrite to replace it, or another --out")
    if final.is_dir() and any(final.iterdir()) and not (final / MAP_MARK).exists():
        raise StoreError(
            f"will not overwrite the folder {final}: it holds other things than a map (no "
            f"{MAP_MARK}); choose another --out"
        )
    parent = final.absolute().parent
    if not parent.is_dir():
        raise StoreError(f"cannot write {final}: there is no folder {parent}; make it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise StoreError(f"cannot write {final}: the folder {parent} is not writable for you")


def check_outputs(finals: Sequence[Path], overwrite: bool) -> bool:
    """Do as `check_output` for files that belong together; tell whether all may be replaced.

    Without the first of them, which is published last, the others may be what a run of this host
    left that died between their renames; then they are in nobody's way.
    """
    main, *others = (final.absolute() for final in finals)
    check_output(main, overwrite)
    replaced = overwrite or (not _present(main) and any(_dead(main)))
    for other in others:
        check_output(other, replaced)
    return replaced


def check_space(path: Path, need_bytes: int) -> None:
    """Raise StoreError, with both numbers, when `need_bytes` are not free where `path` lies."""
    free = disk.free_bytes(path)
    if free < need_bytes:
        raise StoreError(
            f"not enough space for {path}: about {disk.megabytes(need_bytes)} needed, "
            f"{disk.megabytes(free)} free; free some, or choose another disk"
        )


@contextmanager
def atomic_output(final: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a path of the same name in a hidden folder beside `final`; publish it on success.

    The caller makes a file or a directory at that path, checks it, and leaves the block. It is
    then flushed to the device and renamed. When the block raises, all of it is removed and
    what stood under `final` before is untouched. Law: at any instant `final` is the old output,
    or the new one whole, or (a directory being replaced) for one rename's time nothing.

    Raises StoreError when `final` exists and `overwrite` is False, when nothing was written, or
    when the disk does not take it; also for the caller's own OSError of a full disk.
    """
    check_output(final, overwrite)
    final = final.absolute()
    with disk.store_errors(final, "preparing"):
        _sweep_dead(final)
        staging = final.with_name(temporary_name(final.name))
        disk.make_directory(staging)
    try:
        with _in_final_terms(staging, final), disk.full_disk_errors(final, "writing"):
            yield staging / final.name
        with disk.store_errors(final, "publishing"):
            _publish(staging / final.name, final, overwrite)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def atomic_outputs(
    finals: Sequence[Path], overwrite: bool = False, sides: Sequence[Path] = ()
) -> Iterator[Path]:
    """Do as `atomic_output` for files of one folder that belong together; the first is the main.

    Yields a hidden folder: the caller makes them in it, under their own names. They are published
    when the block ends, the first one last, so that whoever waits for it finds all; when one
    cannot be published, those before it that are new are taken back. A file other than the first
    may be left out. `sides` (styles) replace what stands there unasked.
    """
    main, *others = (final.absolute() for final in finals)
    assert all(path.parent == main.parent for path in others), "files of one folder"
    replaced = check_outputs(finals, overwrite)
    new: dict[Path, int] = {}
    try:
        with atomic_output(main, overwrite) as made:
            yield made.parent
            if not _present(made):
                return
            with disk.store_errors(main, "publishing"):
                for path in (*map(Path.absolute, sides), *others):
                    piece = made.with_name(path.name)
                    if not _present(piece):
                        continue
                    if not _present(path):
                        new[path] = piece.stat().st_ino
                    _publish(piece, path, replaced or path not in others)
    except BaseException:
        for path, inode in new.items():
            _take_back(path, inode)
        raise


@contextmanager
def _in_final_terms(staging: Path, final: Path) -> Iterator[None]:
    """Let errors name the place that the user knows, not the hidden one."""
    try:
        yield
    except StoreError as error:
        said = str(error)
        if str(staging) not in said:
            raise
        raise StoreError(said.replace(str(staging), str(final.parent))) from error


def _publish(made: Path, final: Path, overwrite: bool) -> None:
    if not _present(made):
        raise StoreError(f"nothing was written for {final}: the writer failed without saying so")
    _flush(made)
    if _present(final) and not overwrite:
        raise _appeared(final)
    if made.is_dir() or final.is_dir():
        _publish_directory(made, final)
    elif overwrite:
        disk.replace(made, final)
    else:
        _publish_new(made, final)


def _publish_new(made: Path, final: Path) -> None:
    inode = made.stat().st_ino
    try:
        if not disk.link_new(made, final):
            raise _appeared(final)
    except OSError:
        # The name may be there already, and only its flush have failed: an error leaves none.
        _take_back(final, inode)
        raise


def _publish_directory(made: Path, final: Path) -> None:
    # The old one rests in the staging folder, which goes when the block ends; its name tells a
    # later run (`_sweep_dead`) whose it was, should this process die between the two renames.
    aside = made.with_name(made.name + ".old")
    if _present(final):
        final.rename(aside)
    try:
        disk.replace(made, final)
    except BaseException:
        if _present(aside):
            aside.rename(final)
        raise


def _appeared(final: Path) -> StoreError:
    return StoreError(
        f"{final} has appeared while this run was working, perhaps from another run; use "
        "--overwrite to replace it, or another --out (finished work is kept)"
    )


def _take_back(final: Path, inode: int) -> None:
    """Remove what stands under a final name if it is ours; another run's has another inode."""
    with suppress(OSError):
        if final.lstat().st_ino == inode:
            shutil.rmtree(final) if final.is_dir() else final.unlink()


def _present(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _flush(made: Path) -> None:
    if made.is_dir():
        for folder, _, names in os.walk(made):
            for name in names:
                disk.fsync_path(Path(folder) / name)
            disk.fsync_path(Path(folder))
    else:
        disk.fsync_path(made)


def _dead(final: Path) -> Iterator[Path]:
    """Yield the hidden folders that killed runs on this host left beside `final`."""
    host = re.escape(socket.gethostname().split(".")[0][:32])
    mine = re.compile(re.escape(f".{final.name}.") + host + r"-(\d+)-\d+\.tmp")
    for path in final.parent.iterdir():
        match = mine.fullmatch(path.name)
        if match and not disk.process_lives(int(match[1])):
            yield path


def _sweep_dead(final: Path) -> None:
    """Remove what killed runs on this host left beside `final`; put a set-aside output back."""
    for path in list(_dead(final)):
        aside = path / (final.name + ".old")
        if _present(aside) and not _present(final):
            aside.rename(final)
        shutil.rmtree(path, ignore_errors=True)
