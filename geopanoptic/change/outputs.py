"""The files of a comparison: all of them appear together, or none."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from geopanoptic.errors import ConfigError
from geopanoptic.store import atomic_output, check_output
from geopanoptic.vector import LayerSpec, Style

_RASTER_SIDES = (".tif", ".tif.aux.xml", ".qml", ".csv")


@dataclass(frozen=True, slots=True)
class Files:
    """Names of everything that goes beside `changes.gpkg`.

    For another name than changes.gpkg the reports carry it too, so that several comparisons can
    share a folder: town.gpkg comes with town.tif, town_status.tif, town_report.html ...
    """

    gpkg: Path

    def _beside(self, name: str) -> Path:
        stem = self.gpkg.stem
        return self.gpkg.with_name(name if stem == "changes" else f"{stem}_{name}")

    @property
    def codes(self) -> Path:
        return self.gpkg.with_suffix(".tif")

    @property
    def status(self) -> Path:
        return self.gpkg.with_name(f"{self.gpkg.stem}_status.tif")

    @property
    def transitions(self) -> Path:
        return self._beside("transitions.csv")

    @property
    def json(self) -> Path:
        return self._beside("report.json")

    @property
    def html(self) -> Path:
        return self._beside("report.html")

    def sides(self, tif: Path) -> list[Path]:
        """Return a raster and the files that explain it."""
        return [tif.with_name(tif.stem + suffix) for suffix in _RASTER_SIDES]

    def all(self, rasters: bool) -> list[Path]:
        """Return every file that is written, the GeoPackage last: it is the one waited for."""
        found = [self.json, self.html]
        if rasters:
            found += [*self.sides(self.codes), *self.sides(self.status), self.transitions]
        return [*found, self.gpkg]

    def check_name(self) -> None:
        """Refuse another suffix than .gpkg."""
        if self.gpkg.suffix.lower() != ".gpkg":
            raise ConfigError(
                f"--out {self.gpkg}: changes are written as a GeoPackage with rasters and reports "
                f"beside it; use {self.gpkg.with_suffix('.gpkg')}"
            )

    def check(self, rasters: bool, overwrite: bool) -> None:
        """Refuse outputs that could not be written, before any work."""
        self.check_name()
        for path in self.all(rasters):
            check_output(path, overwrite)


@contextmanager
def staged(files: Files, rasters: bool, overwrite: bool) -> Iterator[tuple[Files, Path]]:
    """Yield the same names in hidden folders, and a working folder; publish all on success.

    Files lie in folders of their own until then, so `place` moves what was made to where it waits.
    """
    with ExitStack() as stack:
        # left in reverse order: the GeoPackage, entered first, gets its name last
        waiting = {
            path.name: stack.enter_context(atomic_output(path, overwrite))
            for path in reversed(files.all(rasters))
        }
        work = waiting[files.gpkg.name].parent / "work"
        work.mkdir()
        made = Files(work / files.gpkg.name)
        yield made, work
        for path in made.all(rasters):
            path.replace(waiting[path.name])


def write_transitions(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the transitions as CSV; numbers with all their digits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        names = list(rows[0]) if rows else ["from_id", "from_class", "to_id", "to_class"]
        out = csv.DictWriter(file, names, lineterminator="\n")
        out.writeheader()
        out.writerows(rows)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write the report as JSON without NaN."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def table_layer(
    name: str, rows: Sequence[dict[str, Any]]
) -> tuple[LayerSpec, list[pa.RecordBatch]]:
    """Return rows as an attribute table: int, float, bool and text columns, None as null."""
    keys = list(rows[0]) if rows else ["note"]
    columns = {}
    for key in keys:
        values = [row[key] for row in rows]
        known = next((v for v in values if v is not None), None)
        kind = (
            pa.bool_() if isinstance(known, bool)
            else pa.int64() if isinstance(known, int)
            else pa.string() if isinstance(known, str)
            else pa.float64()
        )  # fmt: skip
        columns[key] = pa.array(values, kind)
    batch = pa.RecordBatch.from_pydict(columns)
    return LayerSpec.of_batch(name, batch.schema), [batch]


def parameter_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return settings, versions, offset and inputs as rows (name, value) for the GeoPackage."""
    rows: dict[str, Any] = {f"{side}.{k}": v for side in ("before", "after")
                            for k, v in report[side].items()}  # fmt: skip
    rows |= report["parameters"] | {f"version.{k}": v for k, v in report["versions"].items()}
    rows["registration"] = report["registration"]
    rows["warnings"] = report["warnings"]
    return [
        {"name": k, "value": v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)}
        for k, v in rows.items()
    ]


def patch_style(names: Sequence[tuple[str, str]]) -> Style:
    """Draw patches by the class they became."""
    return Style("to_class", tuple((name, name, colour) for name, colour in names))
