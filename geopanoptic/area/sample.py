"""The tool `sample`: a map or a change in, pixels to interpret out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic import __version__
from geopanoptic.area.census import Census, Drawn, draw_pixels, take_census
from geopanoptic.area.layers import SamplePoints, write_blind, write_sample
from geopanoptic.area.planes import Kind, Plane, default_kind, open_plane
from geopanoptic.errors import ConfigError, SceneError, nearest_name
from geopanoptic.metrics.area import allocate, sample_size
from geopanoptic.panoptic_map import grid_difference
from geopanoptic.store import atomic_outputs, check_output, check_outputs

RARE = "rare"  # the stratum that takes what is smaller than `rare`


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """How to draw.

    `strata`: 'classes' of a map, 'transitions' or 'status' of a change (None: what the input has).
    `label`: what the interpreter answers, of the same kinds (None: the strata). `se`: wanted
    standard error of the overall accuracy; `units` overrides the number that follows from it.
    `accuracy`: the accuracy expected of each stratum, by name, '' for the others.
    `least`: units in every stratum. `rare`: strata below this share of the area are put together.
    """

    strata: Kind | None = None
    label: Kind | None = None
    se: float = 0.01
    units: int | None = None
    accuracy: Mapping[str, float] = field(default_factory=lambda: {"": 0.8})
    least: int = 50
    rare: float = 0.0
    seed: int = 1
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.least < 2:
            raise ConfigError(
                f"--min-per-stratum {self.least}: two units at least, or a stratum has no variance"
            )
        if self.units is not None and self.units < 1:
            raise ConfigError(f"--n {self.units} must be at least 1")
        if not 0 <= self.rare < 1:
            raise ConfigError(f"--rare {self.rare} must be a share of the area, like 0.001")


@dataclass(frozen=True)
class SampleReport:
    """What was drawn: the `paths` written and, per stratum, name, pixels, area and units."""

    paths: tuple[Path, Path]
    strata: list[dict[str, Any]]
    wanted: int
    warnings: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "outputs": [str(p) for p in self.paths],
            "n": sum(s["units"] for s in self.strata),
            "n_for_se": self.wanted,
            "strata": self.strata,
            "warnings": self.warnings,
        }


def draw_sample(
    source: str | Path, out: str | Path, settings: SampleSettings | None = None
) -> SampleReport:
    """Draw a stratified random sample of pixels and write it, with a blind copy for interpreters.

    `source`: a change NAME.gpkg (with its rasters beside it), a panoptic map, or a label raster.
    Writes `out` (a .gpkg: layers sample, pixels, tables strata, map_classes, design) and
    OUT_blind.gpkg, which knows neither stratum nor map class. Same seed, same sample, whatever the
    machine. Law: pixels of a stratum are drawn without replacement, every m2 equally likely.

    Raises SceneError, ConfigError or StoreError, each with the cure.
    """
    settings, final = settings or SampleSettings(), Path(out)
    blind = final.with_name(f"{final.stem}_blind{final.suffix}")
    check_output(final, settings.overwrite, {".gpkg"})
    check_outputs([final, blind], settings.overwrite)
    strata, classes = _planes(source, settings)
    census = take_census(strata, classes)
    plan = _plan(census, strata, settings)
    rng = np.random.default_rng(settings.seed)
    drawn = draw_pixels(census, plan.stratum_of, plan.units, (strata, classes), rng)
    points = _points(drawn, census, plan, (strata, classes), rng)
    with atomic_outputs([final, blind], settings.overwrite) as folder:
        write_sample(folder / final.name, points, _facts(source, settings, plan))
        write_blind(folder / blind.name, points)
    return SampleReport((final, blind), plan.rows(), plan.wanted, plan.warnings())


def _planes(source: str | Path, settings: SampleSettings) -> tuple[Plane, Plane]:
    kind = settings.strata or default_kind(source)
    strata = open_plane(source, kind)
    if settings.label in (None, kind):
        return strata, strata
    classes = open_plane(source, settings.label)
    difference = grid_difference(strata.georef, classes.georef)
    if difference:
        raise SceneError(f"{strata.path} and {classes.path} lie on different grids: {difference}")
    return strata, classes


@dataclass(frozen=True)
class Plan:
    """The strata and how many units each gets; `stratum_of` (pairs,) numbers them."""

    names: list[str]
    stratum_of: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.int64]
    area: npt.NDArray[np.float64]
    units: npt.NDArray[np.int64]
    wanted: int
    least: int

    def rows(self) -> list[dict[str, Any]]:
        share = self.area / self.area.sum()
        return [
            {
                "stratum": name,
                "pixels": int(self.pixels[k]),
                "area_m2": float(self.area[k]),
                "share": float(share[k]),
                "units": int(self.units[k]),
            }
            for k, name in enumerate(self.names)
        ]

    def warnings(self) -> list[str]:
        said = []
        total = int(self.units.sum())
        if total > self.wanted:
            said.append(
                f"{total} units instead of {self.wanted}: {len(self.names)} strata get at least "
                f"{self.least} each; --rare 0.001 would put the smallest together"
            )
        small = [n for n, u in zip(self.names, self.units, strict=True) if u < self.least]
        if small:
            said.append(f"fewer than {self.least} pixels in all: {', '.join(small)}")
        return said


def _plan(census: Census, strata: Plane, settings: SampleSettings) -> Plan:
    """Name the strata and divide the units among them."""
    values = np.unique(census.pairs[:, 0])
    of = np.searchsorted(values, census.pairs[:, 0])
    area = np.bincount(of, census.area).astype(float)
    names = [strata.name(int(v)) for v in values]
    small = area < settings.rare * area.sum()
    if small.sum() > 1:
        kept = np.flatnonzero(~small)
        number = np.full(len(values), len(kept), np.int64)
        number[kept] = np.arange(len(kept))
        of, names = number[of], [names[k] for k in kept] + [RARE]
    area = np.bincount(of, census.area).astype(float)
    pixels = np.rint(np.bincount(of, census.pixels)).astype(np.int64)
    share = area / area.sum()
    wanted = settings.units or sample_size(share, _expected(names, settings), settings.se)
    units = allocate(wanted, share, settings.least, pixels)
    return Plan(names, of, pixels, area, units, wanted, settings.least)


def _expected(names: list[str], settings: SampleSettings) -> list[float]:
    for name in settings.accuracy:
        if name and name not in names:
            raise ConfigError(
                f"--expected-accuracy names '{name}', which is no stratum"
                f"{nearest_name(name, names)}; the strata are {', '.join(names)}"
            )
    return [settings.accuracy.get(n, settings.accuracy.get("", 0.8)) for n in names]


def _points(
    drawn: Drawn,
    census: Census,
    plan: Plan,
    planes: tuple[Plane, Plane],
    rng: np.random.Generator,
) -> SamplePoints:
    """Number the units in random order, so that neither order nor number tells the stratum."""
    strata, classes = planes
    order = rng.permutation(len(drawn.row))
    pair = drawn.pair[order]
    labels = [classes.name(int(v)) for v in census.pairs[pair, 1]]
    totals: dict[str, list[float]] = {}
    for value, pixels, area in zip(census.pairs[:, 1], census.pixels, census.area, strict=True):
        row = totals.setdefault(classes.name(int(value)), [0, 0.0])
        row[0] += int(pixels)
        row[1] += float(area)
    return SamplePoints(
        georef=strata.georef,
        row=drawn.row[order],
        col=drawn.col[order],
        stratum=[plan.names[h] for h in plan.stratum_of[pair].tolist()],
        map_class=labels,
        choices=sorted(set(classes.names.values()) - {"nodata", "void"} | set(totals)),
        strata=plan.rows(),
        classes=[
            {"map_class": name, "pixels": int(p), "area_m2": a} for name, (p, a) in totals.items()
        ],
    )


def _facts(source: str | Path, settings: SampleSettings, plan: Plan) -> dict[str, Any]:
    return {
        "geopanoptic": __version__,
        "source": Path(source).name,
        "n_for_se": plan.wanted,
        **{k: v for k, v in asdict(settings).items() if k != "overwrite" and v is not None},
    }
