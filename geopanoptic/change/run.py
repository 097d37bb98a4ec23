"""The tool: two dates in; objects, land cover and files out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geopanoptic.change.compare import Compared, compare_maps, compare_objects
from geopanoptic.change.objects import Events, ObjectSet
from geopanoptic.change.outputs import Files, staged
from geopanoptic.change.publish import write_files
from geopanoptic.change.settings import ChangeSettings
from geopanoptic.change.sides import MapLike, is_vector_side
from geopanoptic.workers.malloc import tune_malloc
from geopanoptic.workers.spec import available_cores

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Running:
    """How a comparison is carried out; none of it changes a figure.

    `threads` that read and count (None: the cores there are, at most 4). `images`: rasters of both
    dates behind the report's swipe. `progress(stage, done, total)`.
    """

    threads: int | None = None
    images: tuple[str | None, str | None] = (None, None)
    progress: Progress | None = None

    def told(self, stage: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, total)

    @property
    def workers(self) -> int:
        return self.threads or min(available_cores(), 4)


@dataclass(frozen=True)
class Comparison:
    """What `change` returns. `report` is the JSON object of report.json; `files` by name.

    `events` with the objects of both dates (in one CRS, the after ones where their map has them).
    """

    report: dict[str, Any]
    files: dict[str, Path]
    events: Events = field(repr=False)
    before: ObjectSet = field(repr=False)
    after: ObjectSet = field(repr=False)

    def __getitem__(self, name: str) -> Any:
        return self.report[name]

    @property
    def has_changed(self) -> bool:
        """Tell whether anything that counts has changed: an object's status, or a patch."""
        counts = self.report["objects"]["counts"]
        same = ("unchanged", "unobserved")
        patches = self.report["patches"]
        return any(n for s, n in counts.items() if s not in same) or bool(
            patches and patches["count"]["changed"]
        )


def change(
    before: MapLike,
    after: MapLike,
    out: str | Path | None = None,
    settings: ChangeSettings | None = None,
    *,
    overwrite: bool = False,
    running: Running | None = None,
) -> Comparison:
    """Compare two dates: what became of every object, and which class became which.

    `before`, `after`: a map directory, 'SEMANTIC.tif,INSTANCES.tif', a class raster, COCO panoptic
    X.json, an open PanopticMap; or a vector file, then only objects are compared. They may differ
    in CRS, pixel size and extent. `out`: changes.gpkg; rasters, tables and reports go beside it
    (None: in a new temporary folder). Files that exist are replaced only with `overwrite`.

    Raises SceneError, SchemaError, StoreError or ConfigError with the cure, before the work where
    that can be known.
    """
    settings, running = settings or ChangeSettings(), running or Running()
    start = time.monotonic()
    tune_malloc()  # threads take and give back arrays of many sizes: else their heaps only grow
    only_objects = is_vector_side(before) or is_vector_side(after)
    if out is None:
        out = Path(tempfile.mkdtemp(prefix="geopanoptic-change-")) / "changes.gpkg"
    files = Files(Path(out))
    files.check(not only_objects, overwrite)
    if only_objects:
        compared: Compared = compare_objects(before, after, settings)
        with staged(files, False, overwrite) as (made, _):
            report = write_files(compared, made, running.images, start, running.told)
    else:
        with staged(files, True, overwrite) as (made, work):
            compared = compare_maps(before, after, settings, (work, running.workers), running.told)
            report = write_files(compared, made, running.images, start, running.told)
    named = {p.name: p for p in files.all(not only_objects)}
    return Comparison(report, named, compared.events, compared.before, compared.after)
