"""From what the user names to dated maps in time order: DATE=MAP, STAC items, file patterns."""

from __future__ import annotations

import datetime as dt
import glob
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from geopanoptic.change.sides import MapLike, date_of
from geopanoptic.errors import ConfigError, SceneError

_YEAR = re.compile(r"(?<!\d)((?:19|20)\d\d)(?:[-_](0[1-9]|1[0-2]))?(?!\d)")
_WHOLE = re.compile(r"(\d{4})(?:-(\d{2}))?")


@dataclass(frozen=True)
class DatedMap:
    """A map (or vector file of things) and when its scene was taken, ISO 8601."""

    date: str
    map: MapLike


def read_pair(text: str) -> DatedMap:
    """Read 'DATE=MAP'; the date is ISO 8601, a year or a month stand for their first day."""
    date, sign, path = text.partition("=")
    if not sign or not path:
        raise ConfigError(f"{text}: write DATE=MAP, like 2024-05-01=town.panoptic")
    return DatedMap(iso_date(date), path)


def iso_date(text: str) -> str:
    """Return an ISO date; ConfigError for text that is none."""
    text = text.strip()
    whole = _WHOLE.fullmatch(text)
    if whole:
        text = f"{whole[1]}-{whole[2] or '01'}-01"
    try:
        when = dt.datetime.fromisoformat(text)
    except ValueError as why:
        raise ConfigError(f"date '{text}' is not ISO 8601; write 2024-05-01") from why
    if when.tzinfo is not None:
        when = when.astimezone(dt.UTC).replace(tzinfo=None)
    midnight = (when.hour, when.minute, when.second, when.microsecond) == (0, 0, 0, 0)
    return when.date().isoformat() if midnight else when.isoformat()


def in_time_order(dated: Iterable[DatedMap]) -> tuple[DatedMap, ...]:
    """Sort by date; ConfigError when two maps have one date or there is none."""
    found = sorted(dated, key=lambda m: dt.datetime.fromisoformat(m.date))
    if not found:
        raise ConfigError("there is nothing to track: name maps as DATE=MAP, --glob or --stac")
    for a, b in pairwise(found):
        if a.date == b.date:
            raise ConfigError(
                f"two maps have the date {a.date}: {_named(a)} and {_named(b)}; a series has one "
                f"map per date (merge them, or give the times of day)"
            )
    return tuple(found)


def _named(dated: DatedMap) -> str:
    return getattr(dated.map, "name", None) or str(dated.map)


def from_glob(pattern: str) -> list[DatedMap]:
    """Find maps by a pattern; their dates are those of map.json, else those in their names.

    Of NAME.tif with NAME.instances.tif beside it both are taken together. Raises SceneError when
    nothing is found or a date is missing.
    """
    paths = [p for p in sorted(glob.glob(pattern)) if not p.endswith(".instances.tif")]  # noqa: PTH207
    if not paths:
        raise SceneError(f"--glob {pattern}: no file has such a name")
    return [DatedMap(_date_in(p), _with_instances(Path(p))) for p in paths]


def _with_instances(path: Path) -> str:
    beside = path.with_suffix(".instances.tif")
    return f"{path},{beside}" if path.suffix == ".tif" and beside.exists() else str(path)


def _date_in(path: str) -> str:
    known = date_of(path, None, "--glob")
    if known is not None:
        return iso_date(known)
    found = _YEAR.search(Path(path).name)
    if found is None:
        raise SceneError(
            f"{path} has no date: neither in its map.json nor in its name (like 2024-05-01 or "
            f"20240501); name it as DATE={path}"
        )
    return iso_date(f"{found[1]}-{found[2] or '01'}")


def from_stac(path: Path) -> list[DatedMap]:
    """Read the maps of STAC items: an item, an ItemCollection or a list of items as JSON.

    An item's map is the directory with map.json beside its assets, else its assets `semantic` and
    `instances`, else its one vector asset. Hrefs are relative to the file, or to the item's self
    link. Raises SceneError for a file that holds none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as why:
        raise SceneError(f"--stac {path} cannot be read as JSON: {why}") from why
    items = data if isinstance(data, list) else data.get("features", [data])
    items = [i for i in items if isinstance(i, dict) and "assets" in i]
    if not items:
        raise SceneError(f"--stac {path} holds no STAC item with assets")
    return [DatedMap(_item_date(path, item), _item_map(path, item)) for item in items]


def _item_date(path: Path, item: dict[str, Any]) -> str:
    properties = item.get("properties", {})
    when = properties.get("datetime") or properties.get("start_datetime")
    if not when:
        raise SceneError(f"--stac {path}: item {item.get('id')} has no datetime")
    return iso_date(str(when))


def _item_map(path: Path, item: dict[str, Any]) -> str:
    base = path.parent
    for link in item.get("links", []):
        if link.get("rel") == "self" and _local(link.get("href", "")):
            base = _resolved(base, link["href"]).parent
    assets = {name: _resolved(base, a["href"]) for name, a in item["assets"].items() if "href" in a}
    semantic = assets.get("semantic")
    if semantic is not None:
        if (semantic.parent / "map.json").exists():
            return str(semantic.parent)
        return f"{semantic},{assets['instances']}" if "instances" in assets else str(semantic)
    vector = [p for p in assets.values() if p.suffix in (".gpkg", ".geojson", ".fgb", ".parquet")]
    if len(vector) == 1:
        return str(vector[0])
    raise SceneError(
        f"--stac {path}: item {item.get('id')} has neither an asset 'semantic' nor one vector "
        f"asset; it has {', '.join(item['assets'])}"
    )


def _local(href: str) -> bool:
    return urlparse(href).scheme in ("", "file")


def _resolved(base: Path, href: str) -> Path:
    if not _local(href):
        raise SceneError(f"STAC asset {href} is not a local file; fetch it first")
    parsed = urlparse(href)
    return base / (unquote(parsed.path) if parsed.scheme == "file" else href)


def file_of(files: Sequence[tuple[str, str]], date: str) -> str | None:
    """Return the file (mask, image) of a date, or None."""
    return next((file for when, file in files if iso_date(when) == date), None)
