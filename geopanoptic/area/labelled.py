"""Read interpreted units: a sample, its blind copy, or anybody's table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geopanoptic.errors import SceneError, nearest_name

_REFERENCE = ("reference", "reference_class", "ref", "ref_class")
_MAP = ("map_class", "map", "class_name", "mapped")
_STRATUM = ("stratum", "strata")
_ID = "sample_id"


@dataclass(frozen=True)
class Labelled:
    """Units with an answer: equally long lists `stratum`, `map_class`, `reference`.

    `strata`, `classes`: name -> (pixels, area in m2), empty where the file does not say.
    """

    path: str
    stratum: list[str]
    map_class: list[str]
    reference: list[str]
    strata: dict[str, tuple[int, float]]
    classes: dict[str, tuple[int, float]]
    unanswered: int


def read_labelled(
    path: str | Path, sample: str | Path | None, reference_field: str | None
) -> Labelled:
    """Read the units of a GeoPackage, CSV or other table that GDAL reads.

    A blind copy is joined with its sample by `sample_id`: `sample`, else NAME.gpkg beside
    NAME_blind.gpkg. Strata without a column are the map classes. SceneError says what is missing.
    """
    file = Path(path)
    table = _table(file, "sample")
    answer = _field(table, (reference_field,) if reference_field else _REFERENCE)
    if answer is None:
        wanted = reference_field or "reference"
        raise SceneError(
            f"{path} has no attribute '{wanted}'{nearest_name(wanted, table)} with the "
            f"interpreter's answer; it has {', '.join(table)}; name it with --reference-field"
        )
    full = Path(sample) if sample is not None else _full_of(file)
    if _field(table, _MAP) is None:
        table = _joined(file, table, full)
    elif sample is None and not _has(file, "strata"):
        full = file
    mapped, stratum = _field(table, _MAP), _field(table, _STRATUM)
    if mapped is None:
        raise SceneError(f"{path} has no attribute 'map_class'; it has {', '.join(table)}")
    rows = list(
        zip(table[stratum or mapped], table[mapped], (_text(v) for v in table[answer]), strict=True)
    )
    kept = [(str(s), str(m), r) for s, m, r in rows if r]
    if not kept:
        raise SceneError(f"{path}: none of {len(rows)} units has an answer in '{answer}' yet")
    source = full if full is not None and _has(full, "strata") else file
    strata, classes, answers = (list(column) for column in zip(*kept, strict=True))
    return Labelled(
        str(path),
        strata,
        classes,
        answers,
        strata=_sizes(source, "strata", "stratum"),
        classes=_sizes(source, "map_classes", "map_class"),
        unanswered=len(rows) - len(kept),
    )


def _text(value: Any) -> str:
    """Return an answer as text; '' for none (null, NaN, blanks)."""
    if value is None or value != value:
        return ""
    number = isinstance(value, float) and value.is_integer()
    return (str(int(value)) if number else str(value)).strip()


def _table(path: Path, layer: str) -> dict[str, list[Any]]:
    """Return the columns of a layer (or of the file's only one) without geometry."""
    import pyogrio

    if not path.exists():
        raise SceneError(f"there is no file {path}")
    try:
        chosen = layer if _has(path, layer) else None
        frame = pyogrio.read_dataframe(path, layer=chosen, read_geometry=False)
    except Exception as why:  # pyogrio raises its own errors and plain ValueErrors alike
        raise SceneError(f"cannot read the units in {path}: {why}") from why
    return {str(name): frame[name].tolist() for name in frame.columns}


def _has(path: Path, layer: str) -> bool:
    import pyogrio

    try:
        return layer in [str(row[0]) for row in pyogrio.list_layers(path)]
    except pyogrio.errors.DataSourceError:
        return False


def _field(table: dict[str, Any], names: tuple[str, ...]) -> str | None:
    return next((n for n in names if n in table), None)


def _full_of(path: Path) -> Path | None:
    """Return the sample that a file named NAME_blind... was copied from, when it lies beside."""
    head, mark, _ = path.stem.partition("_blind")
    full = path.with_name(f"{head}.gpkg")
    return full if mark and full.exists() else None


def _joined(path: Path, table: dict[str, list[Any]], full: Path | None) -> dict[str, list[Any]]:
    if _ID not in table or full is None:
        raise SceneError(
            f"{path} does not say what the map has at its units; it is a blind copy, so give the "
            f"sample it was made from: --sample SAMPLE.gpkg"
        )
    secret = _table(full, "sample")
    if not {_ID, "stratum", "map_class"} <= set(secret):
        raise SceneError(f"{full} is no sample of `geopanoptic sample`: it has {', '.join(secret)}")
    place = {int(v): k for k, v in enumerate(secret[_ID])}
    try:
        rows = [place[int(v)] for v in table[_ID]]
    except KeyError as why:
        raise SceneError(f"unit {why} of {path} is not in {full}: not its blind copy") from why
    return table | {name: [secret[name][k] for k in rows] for name in ("stratum", "map_class")}


def _sizes(path: Path, layer: str, key: str) -> dict[str, tuple[int, float]]:
    if not _has(path, layer):
        return {}
    table = _table(path, layer)
    return {
        str(n): (int(p), float(a))
        for n, p, a in zip(table[key], table["pixels"], table["area_m2"], strict=True)
    }
