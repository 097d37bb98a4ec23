"""Bring the classes of both maps together, by name."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from geopanoptic.errors import ConfigError, SchemaError
from geopanoptic.metrics import ClassCode
from geopanoptic.panoptic_map import PanopticMap
from geopanoptic.schema import NODATA, VOID, ClassSpec

VOID_WORDS = ("", "void", "ignore", "-")


@dataclass(frozen=True, slots=True)
class CommonClass:
    """A class of the evaluation."""

    name: str
    is_thing: bool
    color: str


@dataclass(frozen=True, slots=True)
class CommonClasses:
    """The classes that both maps are judged by, numbered 1..n; `background` is n + 1 or None.

    Background takes the pixels that a map of things alone (polygons) says nothing of, and the
    other map's classes that it cannot judge.
    """

    classes: tuple[CommonClass, ...]
    background: int | None
    truth: ClassCode
    pred: ClassCode

    @property
    def count(self) -> int:
        """Number of codes the counts are made with, background included."""
        return self.background or len(self.classes)

    @property
    def things(self) -> frozenset[int]:
        return frozenset(k for k, c in enumerate(self.classes, 1) if c.is_thing)

    @property
    def numbers(self) -> range:
        return range(1, len(self.classes) + 1)

    def name(self, number: int) -> str:
        """Return the name of a class number; 'void' and 'background' for 0 and n + 1."""
        if number == 0:
            return "void"
        return "background" if number == self.background else self.classes[number - 1].name


@dataclass(frozen=True, slots=True)
class ClassChoice:
    """`renamed`: truth class name (or id) -> name, '' for void. `void`: names not judged."""

    renamed: dict[str, str]
    void: tuple[str, ...]
    keep_stuff: bool

    @classmethod
    def read(cls, class_map: str | None, void: tuple[str, ...], keep_stuff: bool) -> ClassChoice:
        """Read the CSV `from,to` (with or without that header); ConfigError when it is not."""
        if class_map is None:
            return cls({}, void, keep_stuff)
        try:
            rows = list(csv.reader(Path(class_map).read_text(encoding="utf-8-sig").splitlines()))
        except OSError as why:
            raise ConfigError(f"cannot read --class-map {class_map}: {why}") from why
        rows = [[cell.strip() for cell in row] for row in rows if any(row)]
        if rows and rows[0][:2] == ["from", "to"]:
            rows = rows[1:]
        bad = next((row for row in rows if len(row) < 2), None)
        if bad is not None or not rows:
            raise ConfigError(
                f"--class-map {class_map}: each line is 'truth class,class of the prediction' "
                f"(an empty second part means void); got {bad or 'nothing'}"
            )
        return cls({row[0]: row[1] for row in rows}, void, keep_stuff)

    def truth_name(self, spec: ClassSpec) -> str | None:
        """Return the name a truth class is judged by, None when it is void."""
        name = self.renamed.get(spec.name, self.renamed.get(str(spec.id), spec.name))
        if name.lower() in VOID_WORDS or name in self.void or spec.name in self.void:
            return None
        return name


def common_classes(truth: PanopticMap, pred: PanopticMap, choice: ClassChoice) -> CommonClasses:
    """Unite the classes of both maps by name: the truth's in order, then the prediction's own.

    When one map holds things only (polygons), only its kinds of things are judged.
    Raises SchemaError when a name is a thing in one map and stuff in the other, or a class to
    be void is unknown.
    """
    named = {c.id: choice.truth_name(c) for c in truth.schema.classes}
    _check_void(truth, pred, choice)
    found: dict[str, CommonClass] = {}
    loose = truth.loose_kinds or pred.loose_kinds
    for spec in truth.schema.classes:
        name = named[spec.id]
        if name is not None:
            _unite(found, CommonClass(name, spec.is_thing, spec.color), loose, truth.name)
    for spec in pred.schema.classes:
        _unite(found, CommonClass(spec.name, spec.is_thing, spec.color), loose, pred.name)
    judged = list(found.values())
    things_only = truth.things_only or pred.things_only
    if things_only:
        known = {n for n in named.values() if n is not None} if truth.things_only else set(found)
        judged = [c for c in judged if c.is_thing and c.name in known]
    number = {c.name: k for k, c in enumerate(judged, 1)}
    background = len(judged) + 1 if things_only else None
    if len(judged) > 253:
        raise SchemaError(f"both maps together have {len(judged)} classes, more than 253")
    keeps = {c.name for c in judged if c.is_thing or choice.keep_stuff}
    codes = []
    for panoptic, names in ((truth, named), (pred, {c.id: c.name for c in pred.schema.classes})):
        to = {
            value: 0 if name is None else number.get(name, background or 0)
            for value, name in names.items()
        }
        with_id = [value for value, name in names.items() if name in keeps]
        void = [NODATA] if panoptic.things_only else [NODATA, VOID]
        if panoptic.things_only:
            to[VOID] = background or 0
        codes.append(ClassCode.of(to, with_id, void))
    return CommonClasses(tuple(judged), background, codes[0], codes[1])


def _unite(found: dict[str, CommonClass], new: CommonClass, loose: bool, where: str) -> None:
    old = found.setdefault(new.name, new)
    if old.is_thing == new.is_thing:
        return
    if not loose:
        kinds = ("a thing", "stuff") if old.is_thing else ("stuff", "a thing")
        raise SchemaError(
            f"class '{new.name}' is {kinds[1]} in {where} but {kinds[0]} in the other map; the "
            f"maps must agree on what can be counted"
        )
    found[new.name] = CommonClass(old.name, True, old.color)


def _check_void(truth: PanopticMap, pred: PanopticMap, choice: ClassChoice) -> None:
    known = {*truth.schema.names, *pred.schema.names, *choice.renamed.values()}
    for name in choice.void:
        if name not in known:
            raise SchemaError(
                f"--void-class {name}: no class is called that; the truth has "
                f"{', '.join(truth.schema.names)}"
            )
    for name in choice.renamed:
        if name not in truth.schema.names and name not in {str(i) for i in truth.schema.ids}:
            raise SchemaError(
                f"--class-map names the truth class '{name}', which {truth.name} does not have; "
                f"it has {', '.join(truth.schema.names)}"
            )
