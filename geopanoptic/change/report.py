"""The JSON object of a comparison: everything the page, the tables and --json say."""

from __future__ import annotations

from typing import Any

import numpy as np

from geopanoptic.change.compare import Compared, Pixels
from geopanoptic.change.counting import reasons
from geopanoptic.change.objects import STATUSES
from geopanoptic.change.patches import PatchTotals
from geopanoptic.change.registration import registration_json
from geopanoptic.change.summary import class_summary, matrix, transitions
from geopanoptic.georef import GeoRef
from geopanoptic.schema import VOID

FORMAT, VERSION = "geopanoptic-change", 1


def make_report(compared: Compared) -> dict[str, Any]:
    """Return the report; what only pixels tell is null for vector files."""
    pixels = compared.pixels
    report: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    for k, side in enumerate(("before", "after")):
        report[side] = {"name": compared.names[k], "date": compared.dates[k]}
    if pixels is not None:
        for side, panoptic in (("before", pixels.maps.before), ("after", pixels.maps.after)):
            report[side] |= _grid_json(panoptic.georef)
    report["years"] = compared.years
    report["grid"] = None if pixels is None else _grid_json(compared.grid)
    report["registration"] = registration_json(
        compared.registration, compared.grid, compared.max_shift_m
    )
    report["objects"] = _objects(compared)
    report |= {"common": None, "not_comparable": None, "classes": None, "transitions": None}
    report |= {"matrix_px": None, "matrix_m2": None, "class_summary": None, "patches": None}
    if pixels is not None:
        report |= _land_cover(compared, pixels)
    report["warnings"] = list(compared.warnings)
    report["parameters"] = compared.settings.to_json() | {
        "tolerance_m": compared.rules.tolerance_m,
        "max_shift_m": compared.max_shift_m,
        "crs": _crs_name(compared.before.crs),
    }
    report["versions"] = versions()
    return report


def add_patches(report: dict[str, Any], totals: PatchTotals) -> None:
    """Enter what the tracing of patches has added up."""
    report["patches"] = {
        "count": totals.count, "pixels": totals.pixels, "area_m2": totals.area_m2
    }  # fmt: skip


def _land_cover(compared: Compared, pixels: Pixels) -> dict[str, Any]:
    schema, counts = pixels.maps.classes.schema, pixels.counts
    rows = transitions(counts, schema)
    total = compared.grid.shape[0] * compared.grid.shape[1]
    by_reason: dict[str, Any] = dict(reasons(counts))
    by_reason["before"]["void"] = int(counts.pixels[VOID].sum())
    by_reason["after"]["void"] = int(counts.pixels[:, VOID].sum())
    by_reason["before"]["beyond_common"] = pixels.common.beyond_before
    by_reason["after"]["beyond_common"] = pixels.common.beyond_after
    return {
        "common": {
            "px": counts.common_px,
            "m2": counts.common_m2,
            "ha": counts.common_m2 / 1e4,
            "share_of_grid": counts.common_px / total,
        },
        "not_comparable": by_reason,
        "classes": schema.to_json(),
        "from_to_code": {"factor": pixels.pair.factor, "dtype": pixels.pair.code_dtype},
        "transitions": rows,
        "matrix_px": matrix(rows, schema, "pixels"),
        "matrix_m2": matrix(rows, schema, "area_m2"),
        "class_summary": class_summary(counts, schema, compared.years),
    }


def _objects(compared: Compared) -> dict[str, Any]:
    events = compared.events
    status, small = events.status, events.columns["below_mmu"].astype(bool)
    one, two = events.columns["class_before"], events.columns["class_after"]
    names = np.array([b if b is not None else a for b, a in zip(one, two, strict=True)], object)
    by_class = {
        str(name): {s: int(((status == s) & (names == name) & ~small).sum()) for s in STATUSES}
        for name in sorted({str(n) for n in names})
    }
    area = {}
    for s in STATUSES:
        rows = (status == s) & ~small
        area[s] = {
            "before_m2": _sum(events.columns["area_before_m2"][rows]),
            "after_m2": _sum(events.columns["area_after_m2"][rows]),
        }
    return {
        "n_before": len(compared.before),
        "n_after": len(compared.after),
        "n_events": len(events),
        "counts": events.counts(),
        "counts_below_mmu": {
            s: int(((status == s) & small).sum()) for s in STATUSES
        },
        "by_class": by_class,
        "area_by_status": area,
        "gained_m2": _sum(events.columns["gained_m2"][~small]),
        "lost_m2": _sum(events.columns["lost_m2"][~small]),
        "partly_observed": int(events.columns["partly_observed"].astype(bool).sum()),
    }  # fmt: skip


def _sum(values: Any) -> float:
    return float(np.nansum(np.asarray(values, float))) if len(values) else 0.0


def _grid_json(georef: GeoRef) -> dict[str, Any]:
    return {
        "crs": _crs_name(georef.crs),
        "shape": list(georef.shape),
        "px": georef.shape[0] * georef.shape[1],
        "transform": list(georef.transform)[:6],
        "gsd_m": georef.gsd_m,
    }


def _crs_name(crs: str | None) -> str | None:
    if crs is None:
        return None
    import pyproj

    found = pyproj.CRS.from_wkt(crs)
    authority = found.to_authority()
    return ":".join(authority) if authority else found.name


def versions() -> dict[str, str]:
    """Return the versions that made a result."""
    import pyproj
    import shapely

    from geopanoptic import __version__

    return {
        "geopanoptic": __version__,
        "numpy": np.__version__,
        "shapely": shapely.__version__,
        "geos": ".".join(map(str, shapely.geos_version)),
        "pyproj": pyproj.__version__,
        "proj": pyproj.proj_version_str,
    }
