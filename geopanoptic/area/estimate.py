"""The tool `area`: interpreted units in, accuracies and error-adjusted areas out."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geopanoptic.area.census import take_census
from geopanoptic.area.labelled import Labelled, read_labelled
from geopanoptic.area.planes import Kind, default_kind, open_plane
from geopanoptic.area.report import AreaReport, area_page
from geopanoptic.area.sample import RARE
from geopanoptic.errors import ConfigError, SceneError, nearest_name
from geopanoptic.metrics.area import SampleCounts, estimate_area
from geopanoptic.store import atomic_output, check_output

__all__ = ["AreaReport", "EstimateSettings", "estimate_areas"]


@dataclass(frozen=True, slots=True)
class EstimateSettings:
    """What belongs to the interpreted units.

    `strata_from`: a raster, map or change whose pixels are counted for the strata's sizes (None:
    the table in the sample). `strata`: its kind. `sample`: the full sample of a blind copy.
    `reference_field`: the attribute that holds the answers.
    """

    strata_from: str | Path | None = None
    strata: Kind | None = None
    sample: str | Path | None = None
    reference_field: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Sizes:
    """How large the strata and the map's classes are: name -> (pixels, area in m2)."""

    strata: dict[str, tuple[int, float]]
    classes: dict[str, tuple[int, float]]
    metres: bool


def estimate_areas(
    labelled: str | Path,
    settings: EstimateSettings | None = None,
    outs: tuple[Path, ...] = (),
) -> AreaReport:
    """Estimate accuracies and areas from interpreted units, and write `outs` (.json, .html).

    Olofsson 2014 when every stratum is a map class, Stehman 2014 otherwise. Units without an
    answer are left out, and told. Raises SceneError, ConfigError or StoreError with the cure.
    """
    settings = settings or EstimateSettings()
    for out in outs:
        check_output(out, settings.overwrite, {".json", ".html"})
    units = read_labelled(labelled, settings.sample, settings.reference_field)
    sizes, warnings = _sizes(units, settings)
    report = _report(units, sizes, warnings)
    with ExitStack() as stack:
        for out in outs:
            html = out.suffix.lower() == ".html"
            text = area_page(report) if html else json.dumps(report.to_json(), indent=1) + "\n"
            place = stack.enter_context(atomic_output(out, settings.overwrite))
            place.write_text(text, encoding="utf-8")
    return report


def _sizes(units: Labelled, settings: EstimateSettings) -> tuple[Sizes, list[str]]:
    if settings.strata_from is None:
        if not units.strata:
            raise ConfigError(
                f"{units.path} does not say how large its strata are; give the raster, map or "
                f"change that was sampled: --strata-from"
            )
        metres = sum(a for _, a in units.strata.values()) > 0
        return Sizes(units.strata, units.classes, metres), []
    kind = settings.strata or default_kind(settings.strata_from)
    plane = open_plane(settings.strata_from, kind)
    census = take_census(plane, plane)
    counted: dict[str, tuple[int, float]] = {}
    known = set(units.stratum)
    for value, pixels, area in zip(census.pairs[:, 0], census.pixels, census.area, strict=True):
        name = plane.name(int(value))
        if name not in known and str(value) in known:
            name = str(value)
        if name not in known and RARE in known:
            name = RARE
        before = counted.get(name, (0, 0.0))
        counted[name] = before[0] + int(pixels), before[1] + float(area)
    lost = sorted(known - set(counted))
    if lost:
        raise SceneError(
            f"stratum '{lost[0]}' of the sample is not in {plane.path}"
            f"{nearest_name(lost[0], counted)}, which has {', '.join(sorted(counted))}; give what "
            f"was sampled, or --strata classes, transitions or status"
        )
    changed = [n for n, s in units.strata.items() if n in counted and counted[n][0] != s[0]]
    said = [f"strata have other sizes than when they were sampled: {', '.join(changed)}"]
    return Sizes(counted, units.classes, plane.georef.has_metres), said if changed else []


def _report(units: Labelled, sizes: Sizes, warnings: list[str]) -> AreaReport:
    strata = list(sizes.strata)
    seen = {*units.map_class, *units.reference}
    mapped = {**sizes.classes}
    by_class = all(s == m for s, m in zip(units.stratum, units.map_class, strict=True))
    if by_class:
        mapped |= sizes.strata
    classes = [c for c in mapped if c in seen or by_class] + sorted(seen - set(mapped))
    number = {name: k for k, name in enumerate(classes)}
    counts = np.zeros((len(strata), len(classes), len(classes)), np.int64)
    place = {name: k for k, name in enumerate(strata)}
    for s, m, r in zip(units.stratum, units.map_class, units.reference, strict=True):
        counts[place[s], number[m], number[r]] += 1
    sample = SampleCounts(
        counts,
        np.array([sizes.strata[s][0] for s in strata]),
        np.array([sizes.strata[s][1] for s in strata]),
        np.array([number[s] for s in strata]) if by_class else None,
    )
    warnings = warnings + _warnings(sample, strata, classes, set(mapped), units)
    return AreaReport(
        estimator="olofsson2014" if by_class else "stehman2014",
        source=units.path,
        classes=classes,
        strata=strata,
        sample=sample,
        found=estimate_area(sample),
        mapped=mapped,
        metres=sizes.metres,
        warnings=warnings,
    )


def _warnings(
    sample: SampleCounts, strata: list[str], classes: list[str], mapped: set[str], units: Labelled
) -> list[str]:
    said = []
    units_of = sample.counts.sum(axis=(1, 2))
    for name, n, alone in zip(strata, units_of, sample.alone, strict=True):
        if n == 0:
            said.append(f"stratum '{name}' has no interpreted unit: the areas are without it")
        elif alone:
            said.append(f"stratum '{name}' has one unit only: no standard errors with it")
    if mapped:
        said += [
            f"'{name}' was answered but is no class of the map{nearest_name(name, mapped)}"
            for name in classes
            if name not in mapped
        ]
    few = [c for k, c in enumerate(classes) if 0 < sample.counts[:, :, k].sum() < 10]
    if few:
        said.append(f"fewer than 10 units were answered {', '.join(few)}: their figures are loose")
    if units.unanswered:
        said.append(f"{units.unanswered} units have no answer and are left out")
    return said
