"""Classes of a panoptic map: which there are, which can be counted, and how they are drawn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from geopanoptic.errors import SchemaError, nearest_name

Kind = Literal["thing", "stuff"]

NODATA = 0
VOID = 255

_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True, slots=True)
class ClassSpec:
    """One row of the schema: `id` 1..254, a `name`, `kind` thing or stuff, `color` as '#rrggbb'.

    Raises SchemaError for an id outside 1..254, an empty or unprintable name, another kind, or a
    colour that is not '#rrggbb'.
    """

    id: int
    name: str
    kind: Kind
    color: str

    def __post_init__(self) -> None:
        if not isinstance(self.id, int) or not 1 <= self.id <= 254:
            raise SchemaError(f"class id {self.id!r} is not a whole number in 1..254")
        if not self.name or not self.name.isprintable() or len(self.name) > 63:
            raise SchemaError(f"class name {self.name!r} must be 1..63 printable characters")
        if self.kind not in ("thing", "stuff"):
            raise SchemaError(f"class '{self.name}' has kind {self.kind!r}; use thing or stuff")
        if not _COLOR.fullmatch(self.color):
            raise SchemaError(f"class '{self.name}' has colour {self.color!r}; write '#rrggbb'")

    @property
    def is_thing(self) -> bool:
        return self.kind == "thing"

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The colour as three numbers 0..255."""
        return int(self.color[1:3], 16), int(self.color[3:5], 16), int(self.color[5:7], 16)

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "kind": self.kind, "color": self.color}


@dataclass(frozen=True, slots=True)
class LabelSchema:
    """The classes of a map, sorted by id.

    Laws: ids and names are unique; every class is a thing or stuff; void (255) and nodata (0) are
    no classes. Raises SchemaError otherwise.
    """

    classes: tuple[ClassSpec, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(sorted(self.classes, key=lambda c: c.id)))
        for what, values in (("id", [str(c.id) for c in self.classes]), ("name", self.names)):
            twice = sorted({v for v in values if list(values).count(v) > 1})
            if twice:
                raise SchemaError(f"class {what} {', '.join(twice)} is used more than once")

    @classmethod
    def default(cls) -> LabelSchema:
        """Return the classes of the bundled models."""
        return cls(
            (
                ClassSpec(1, "building", "thing", "#d1495b"),
                ClassSpec(2, "vehicle", "thing", "#edae49"),
                ClassSpec(3, "tree", "stuff", "#1b7837"),
                ClassSpec(4, "grass", "stuff", "#a6d96a"),
                ClassSpec(5, "road", "stuff", "#8d99ae"),
                ClassSpec(6, "bare", "stuff", "#d8b98a"),
                ClassSpec(7, "water", "stuff", "#2b83ba"),
            )
        )

    @classmethod
    def from_json(cls, rows: Sequence[Mapping[str, Any]]) -> LabelSchema:
        """Make a schema from the `classes` list of a map.json or model card."""
        try:
            return cls(
                tuple(ClassSpec(int(r["id"]), r["name"], r["kind"], r["color"]) for r in rows)
            )
        except (KeyError, TypeError, ValueError) as why:
            raise SchemaError(f"a class needs id, name, kind and color; {why!r} is wrong") from why

    def to_json(self) -> list[dict[str, Any]]:
        """Return the list of classes as plain dictionaries."""
        return [c.to_json() for c in self.classes]

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def things(self) -> tuple[ClassSpec, ...]:
        return tuple(c for c in self.classes if c.is_thing)

    @property
    def stuff(self) -> tuple[ClassSpec, ...]:
        return tuple(c for c in self.classes if not c.is_thing)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(c.id for c in self.classes)

    def by_id(self, class_id: int) -> ClassSpec:
        """Return the class with this id; SchemaError when there is none."""
        for c in self.classes:
            if c.id == class_id:
                return c
        raise SchemaError(f"no class has id {class_id}; the ids are {list(self.ids)}")

    def by_name(self, name: str) -> ClassSpec:
        """Return the class with this name; SchemaError names the nearest known one."""
        for c in self.classes:
            if c.name == name:
                return c
        raise SchemaError(
            f"no class is called '{name}'{nearest_name(name, self.names)}; "
            f"the classes are {', '.join(self.names)}"
        )

    def is_thing(self, class_id: int) -> bool:
        """Tell whether a class id is a thing; void, nodata and unknown ids are not."""
        return any(c.id == class_id and c.is_thing for c in self.classes)

    def subset(self, names: Iterable[str]) -> LabelSchema:
        """Return the schema of the named classes only."""
        return LabelSchema(tuple(self.by_name(n) for n in names))
