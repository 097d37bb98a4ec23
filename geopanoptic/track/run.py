"""The tool: dated maps in, tracks.gpkg and rasters out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from geopanoptic import __version__
from geopanoptic.change.sides import MapLike, is_vector_side, open_side
from geopanoptic.errors import (
    ConfigError,
    GeoPanopticError,
    SchemaError,
    StoreError,
    nearest_name,
)
from geopanoptic.panoptic_map import PanopticMap
from geopanoptic.store import atomic_outputs, check_output, check_outputs
from geopanoptic.track.dates import DatedMap, in_time_order, iso_date
from geopanoptic.track.identity import name_tracks
from geopanoptic.track.life import Outlook, lives_of
from geopanoptic.track.links import link_series
from geopanoptic.track.opening import Frame, Opened, open_date
from geopanoptic.track.package import Series, Stored, read_package, write_package
from geopanoptic.track.pixels import CLASS_RASTERS, Stack, follow_classes, write_track_ids
from geopanoptic.track.settings import TrackSettings
from geopanoptic.track.tables import Rows, Tracked, timeline_rows
from geopanoptic.track.views import DateView
from geopanoptic.vector.project import write_package_project

Progress = Callable[[str, int, int], None]
PROJECT_LAYERS = {"unseen": False, "observations": True, "tracks": False}


@dataclass(frozen=True)
class TrackOutputs:
    """Files to write.

    `package`: tracks.gpkg, with the QGIS project tracks.qgz beside it (None: nothing is written).
    `append`: a tracks.gpkg whose dates come before the new ones; its ids stay. `rasters`: a folder
    for track_ids_DATE.tif, first_change_date.tif, n_changes.tif and last_class.tif.
    """

    package: Path | None = None
    append: Path | None = None
    rasters: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Tracks:
    """What `track` returns: `report` (plain values), the tracked series, class trajectories."""

    report: dict[str, Any]
    tracked: Tracked = field(repr=False)
    trajectories: Rows | None = field(default=None, repr=False)

    def __getitem__(self, name: str) -> Any:
        return self.report[name]


def track(
    maps: Iterable[DatedMap | tuple[str, MapLike]],
    out: str | Path | TrackOutputs | None = None,
    settings: TrackSettings | None = None,
    *,
    progress: Progress | None = None,
) -> Tracks:
    """Follow the objects of dated maps: one id per object over all dates.

    `maps`: (date, map) pairs; a map is a map directory, 'SEMANTIC.tif,INSTANCES.tif', COCO
    panoptic X.json, an open PanopticMap or a vector file of things; they may differ in CRS, pixel
    size and extent. `out`: tracks.gpkg, or `TrackOutputs`. With `append` the settings are those of
    the file, but for masks and images of the new dates.

    Raises SceneError, SchemaError, StoreError or ConfigError with the cure.
    """
    start = time.monotonic()
    outputs = (
        out if isinstance(out, TrackOutputs) else TrackOutputs(None if out is None else Path(out))
    )
    dated = in_time_order(
        m if isinstance(m, DatedMap) else DatedMap(iso_date(m[0]), m[1]) for m in maps
    )
    told = progress or _silent
    _check(outputs)
    stored = None if outputs.append is None else read_package(outputs.append)
    settings = _settings(settings or TrackSettings(), stored)
    opened, frame = _open(dated, settings, stored, told)
    tracked = track_views([o.view for o in opened], frame.rules, settings)
    if stored is not None:
        _same_ids(tracked, stored, outputs.append)
    trajectories = _pixels(opened, frame, settings, tracked, outputs, told)
    series = Series(opened, tracked, settings, frame.date, frame.rules.tolerance_m, _versions())
    report = _report(series, outputs, time.monotonic() - start)
    if outputs.package is not None:
        overwrite = outputs.overwrite or outputs.package == outputs.append
        project = outputs.package.with_suffix(".qgz")
        with atomic_outputs([outputs.package, project], overwrite) as folder:
            package = folder / outputs.package.name
            report["layers"] = write_package(package, series, trajectories)
            write_package_project(folder / project.name, package, PROJECT_LAYERS, series.crs)
    return Tracks(report, tracked, trajectories)


def track_views(views: Sequence[DateView], rules: Any, settings: TrackSettings) -> Tracked:
    """Track the objects of dates that lie in one frame already: the heart of `track`, no files."""
    found = link_series(views, rules, settings.max_gap)
    identity = name_tracks(views, found.links, rules, settings.split_policy)
    outlook = Outlook(found.forward, found.backward, settings.max_gap)
    lives, sightings = lives_of(views, identity, outlook, settings.confirm)
    return Tracked(tuple(views), found, identity, lives, sightings)


def _silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


def _check(outputs: TrackOutputs) -> None:
    """Refuse outputs that could not be written, before any work."""
    if outputs.package is not None:
        overwrite = outputs.overwrite or outputs.package == outputs.append
        check_output(outputs.package, overwrite, {".gpkg"})
        check_outputs([outputs.package, outputs.package.with_suffix(".qgz")], overwrite)
    if outputs.rasters is not None:
        outputs.rasters.mkdir(parents=True, exist_ok=True)
        named = (outputs.rasters / f"{name}.tif" for name, _, _ in CLASS_RASTERS)
        for path in (*named, *outputs.rasters.glob("track_ids_*.tif")):
            check_output(path, outputs.overwrite or outputs.append is not None)


def _settings(given: TrackSettings, stored: Stored | None) -> TrackSettings:
    if stored is None:
        return given
    old = stored.settings
    return replace(old, masks=(*old.masks, *given.masks), images=(*old.images, *given.images))


def _open(
    dated: Sequence[DatedMap], settings: TrackSettings, stored: Stored | None, told: Progress
) -> tuple[tuple[Opened, ...], Frame]:
    """Open all dates in the frame of the reference; dates read back come first."""
    old: tuple[Opened, ...] = () if stored is None else stored.opened
    known = {o.view.date for o in old}
    for m in dated:
        if m.date in known:
            raise ConfigError(f"{m.date} is in the file already; leave it out, or start anew")
    if old and dated[0].date < max(known):
        raise ConfigError(
            f"{dated[0].date} lies before {max(known)}, the last date of the file: appending never "
            f"changes an id, so new dates must be later; track all dates anew instead"
        )
    frame = _frame(dated, settings, stored)
    opened = [replace(o, map=_reopened(o.source)) for o in old]
    for k, m in enumerate(dated, 1):
        opened.append(open_date(m, frame, settings, told))
        told("dates", k, len(dated))
    _check_classes(opened, settings)
    return tuple(opened), frame


def _check_classes(opened: Sequence[Opened], settings: TrackSettings) -> None:
    """Raise SchemaError for a class asked for that no date knows."""
    if settings.classes is None:
        return
    known = {str(n) for o in opened for n in o.view.objects.class_names}
    known |= {c.name for o in opened if o.map is not None for c in o.map.schema.things}
    for name in settings.classes:
        if name not in known:
            raise SchemaError(
                f"--classes {name}: no date has things of that class{nearest_name(name, known)}; "
                f"they have {', '.join(sorted(known)) or 'none'}"
            )


def _frame(dated: Sequence[DatedMap], settings: TrackSettings, stored: Stored | None) -> Frame:
    if stored is not None:
        view = next(o.view for o in stored.opened if o.view.date == stored.reference)
        source = next(o.source for o in stored.opened if o.view.date == stored.reference)
        rules = replace(settings.rules(0.0), tolerance_m=stored.tolerance_m)
        return Frame(stored.reference, view.objects, _reopened(source), rules)
    wanted = dated[0].date if settings.reference is None else iso_date(settings.reference)
    reference = next((m for m in dated if m.date == wanted), None)
    if reference is None:
        raise ConfigError(
            f"--reference {wanted} is none of the dates {', '.join(m.date for m in dated)}"
        )
    return Frame.of(reference, settings)


def _reopened(source: str) -> PanopticMap | None:
    """Open a map of an earlier run again; None when it has moved or is a vector file."""
    try:
        return None if is_vector_side(source) else open_side(source)
    except GeoPanopticError:
        return None


def _same_ids(tracked: Tracked, stored: Stored, path: Path | None) -> None:
    for date, old, new in zip(tracked.dates, stored.track, tracked.identity.track, strict=False):
        if not np.array_equal(old, new):
            raise StoreError(
                f"--append {path}: the tracks of {date} would change, so the file was edited or "
                f"made by another version; track all dates anew"
            )


def _pixels(
    opened: Sequence[Opened],
    frame: Frame,
    settings: TrackSettings,
    tracked: Tracked,
    outputs: TrackOutputs,
    told: Progress,
) -> Rows | None:
    """Follow the classes of pixels and write the rasters, where all dates have pixels."""
    stack = None if frame.map is None else Stack.of(opened, frame.map, settings)
    if outputs.rasters is not None:
        for o, ids in zip(opened, tracked.identity.track, strict=True):
            if o.map is not None:
                write_track_ids(o, ids, outputs.rasters)
    return None if stack is None else follow_classes(stack, outputs.rasters, told)


def _versions() -> dict[str, Any]:
    return {"software": {"geopanoptic": __version__}}


def _notes(series: Series, outputs: TrackOutputs) -> list[str]:
    """Return what the user should know."""
    notes = [f"{o.view.date}: {note}" for o in series.opened for note in o.notes]
    for o in series.opened:
        if o.left_out:
            notes.append(f"{o.view.date}: {o.left_out} objects lie under its mask and are left out")
        if outputs.rasters is not None and o.map is None:
            notes.append(
                f"{o.view.date}: no rasters of this date, and no class trajectories: {o.source} "
                f"has no pixels, or cannot be opened again"
            )
    return notes


def _report(series: Series, outputs: TrackOutputs, seconds: float) -> dict[str, Any]:
    """Return what happened as plain values."""
    t = series.tracked
    line = timeline_rows(t)
    totals = {
        k: int(np.sum(line[k])) for k in line if k not in ("date", "class", "area_m2", "count")
    }
    return {
        "dates": t.dates,
        "reference": series.reference,
        "objects": len(t.sightings),
        "tracks": len(t.lives),
        "confirmed": int(t.lives.confirmed.sum()),
        **totals,
        "timeline": [
            {
                k: (v.item() if isinstance(v, np.generic) else v)
                for k, v in zip(line, row, strict=True)
            }
            for row in zip(*line.values(), strict=True)
        ],
        "registration": {
            o.view.date: o.registration for o in series.opened if o.registration is not None
        },
        "left_out": {o.view.date: o.left_out for o in series.opened if o.left_out},
        "warnings": _notes(series, outputs),
        "parameters": json.loads(json.dumps(series.settings.to_json())),
        "seconds": round(seconds, 3),
    }
