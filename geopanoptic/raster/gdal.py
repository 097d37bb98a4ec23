"""GDAL kept on a short lead: its settings, its handles, and its errors.

Every read and write of this room happens inside `gdal_env()`. Handles are one per (process, thread,
file), never shared and never pickled; a handle that failed once is thrown away.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from geopanoptic.errors import SceneError
from geopanoptic.quiet import ignored

_MAX_HANDLES = 24  # per thread; a mosaic of ten thousand files must not exhaust file descriptors

_CACHE_MB = 64
# The size of GDAL's cache is one number for all threads, and a thread that leaves `gdal_env` sets
# it back to what the process began with: 5 % of the machine's memory, if not for this line.
os.environ.setdefault("GDAL_CACHEMAX", str(_CACHE_MB))

_SETTINGS: dict[str, str | int] = {
    # Correctness: in GDAL 3.10 a VRT read by helper threads loses their errors, and a corrupt
    # member comes back as zeros (GDAL issue 11904). One thread raises.
    "VRT_NUM_THREADS": 1,
    "GDAL_NUM_THREADS": 1,
    "GTIFF_IGNORE_READ_ERRORS": "NO",
    # Per process; the default is 5 % of the machine's memory for each of them. In bytes: GDAL's own
    # variable takes megabytes, but rasterio.Env hands its number on as bytes, and a cache of 64
    # bytes decodes every block again for every window.
    "GDAL_CACHEMAX": _CACHE_MB * 2**20,
    # No .aux.xml beside somebody's imagery, no code out of a VRT.
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MAX_RETRY": 5,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "GDAL_HTTP_TIMEOUT": 60,
    "GDAL_HTTP_CONNECTTIMEOUT": 20,
}

# Listing the folder finds .msk, .ovr and .tfw files beside a local scene, which belong to it; on an
# object store it costs a request per thousand neighbours and such files are not used there.
_REMOTE: dict[str, str | int] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "VSI_CACHE": "TRUE",
}


# A local scene has no business on the network, whatever a file beside it may name.
_LOCAL: dict[str, str | int] = {"CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".none"}

# Drivers that are nothing but network clients; GDAL reads this list from the environment only,
# when a process loads it.
_SKIP = (
    "HTTP WMS WCS WMTS WFS OAPIF OGCAPI CSW STACIT STACTA PLMOSAIC PLSCENES EEDA EEDAI DAAS NGW "
    "AMIGOCLOUD CARTO ELASTIC"
)


def gdal_settings(*, remote: bool = False, pam: bool = False) -> dict[str, str | int]:
    """Return the GDAL options to use as ``rasterio.Env(**gdal_settings())``.

    `remote` adds those for object stores, else the network is closed; `pam` lets GDAL read the
    .aux.xml file of a scene that keeps its georeference or nodata value there (and of our own
    label rasters).
    """
    settings = _SETTINGS | (_REMOTE if remote else _LOCAL)
    if pam:
        settings["GDAL_PAM_ENABLED"] = "YES"
    return settings


def gdal_environment() -> dict[str, str]:
    """Return the same options as environment variables, for worker processes.

    They must be in a worker's environment before it opens its first file. Drivers that only speak
    to web services are left out of such a process altogether.
    """
    settings = {key: str(value) for key, value in _SETTINGS.items()}
    return settings | {"GDAL_CACHEMAX": str(_CACHE_MB), "GDAL_SKIP": _SKIP}


@contextmanager
def gdal_env(*, remote: bool = False, pam: bool = False) -> Iterator[None]:
    """Run a block under our GDAL settings."""
    with rasterio.Env(**gdal_settings(remote=remote, pam=pam)):
        yield


def is_remote(uri: str) -> bool:
    """Tell whether a path is read over a network."""
    return uri.startswith(("/vsicurl", "/vsis3", "/vsigs", "/vsiaz", "/vsiadls")) or (
        "://" in uri and not uri.startswith(("file://", "zip://", "tar://"))
    )


def explain(why: BaseException) -> str:
    """Return the innermost message of a GDAL error: rasterio hides it in a chain of causes."""
    inner = why
    while inner.__cause__ is not None:
        inner = inner.__cause__
    return " ".join(str(inner).split()) or type(inner).__name__


@contextmanager
def scene_errors(what: str, cure: str) -> Iterator[None]:
    """Turn every error of GDAL, rasterio and the file system into a SceneError with its cure."""
    try:
        yield
    except (RasterioError, CPLE_BaseError, OSError, ValueError) as why:
        raise SceneError(f"{what}: {explain(why)}; {cure}") from why
    except MemoryError as why:
        raise SceneError(f"{what}: not enough memory; {cure}") from why


@contextmanager
def no_place_is_fine() -> Iterator[None]:
    """Silence rasterio's warning about rasters that lie nowhere on the ground."""
    with ignored(NotGeoreferencedWarning):
        yield


def open_raster(uri: str, driver: str | None, **options: Any) -> Any:
    """Open a raster for reading on a handle of its own."""
    with no_place_is_fine():
        return rasterio.open(uri, driver=driver, sharing=False, **options)


class _Handles(threading.local):
    """Open files of one thread, least recently used first."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.open: OrderedDict[object, Any] = OrderedDict()


_handles = _Handles()


@contextmanager
def handle(key: object, opener: Callable[[], Any]) -> Iterator[Any]:
    """Lend this thread's own handle for `key`, opened by `opener` when there is none.

    After an error the handle is closed and forgotten: GDAL may keep a half-read block in it.
    """
    if _handles.pid != os.getpid():  # a forked child must not use (or close) its parent's handles
        _handles.__init__()  # type: ignore[misc]
    dataset = _handles.open.pop(key, None) or opener()
    try:
        yield dataset
    except BaseException:
        _close(dataset)
        raise
    _handles.open[key] = dataset
    while len(_handles.open) > _MAX_HANDLES:
        _close(_handles.open.popitem(last=False)[1])


def close_handle(key: object) -> None:
    """Close this thread's handle for `key`, if it has one."""
    if _handles.pid == os.getpid():
        _close(_handles.open.pop(key, None))


def _close(dataset: Any) -> None:
    if dataset is not None:
        with suppress(Exception):
            dataset.close()
