"""Classes: unique, thing or stuff, and mistakes named with the nearest right name."""

from __future__ import annotations

import pytest

from geopanoptic.errors import SchemaError
from geopanoptic.schema import ClassSpec, LabelSchema


def test_the_json_of_a_schema_makes_the_same_schema() -> None:
    schema = LabelSchema.default()
    assert LabelSchema.from_json(schema.to_json()) == schema


def test_every_class_is_a_thing_or_stuff_but_not_both() -> None:
    schema = LabelSchema.default()
    assert {c.id for c in schema.things} | {c.id for c in schema.stuff} == set(schema.ids)
    assert not {c.id for c in schema.things} & {c.id for c in schema.stuff}
    assert schema.is_thing(1)
    assert not any(map(schema.is_thing, (0, 3, 99, 255)))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"id": 0}, "1..254"),
        ({"id": 255}, "1..254"),
        ({"name": ""}, "printable"),
        ({"name": "a\x00b"}, "printable"),
        ({"kind": "object"}, "thing or stuff"),
        ({"color": "red"}, "#rrggbb"),
    ],
)
def test_a_class_that_cannot_be_is_refused(change: dict[str, object], word: str) -> None:
    row = {"id": 1, "name": "a", "kind": "thing", "color": "#000000"} | change
    with pytest.raises(SchemaError, match=word):
        LabelSchema.from_json([row])


def test_ids_and_names_are_used_once() -> None:
    a = ClassSpec(1, "a", "thing", "#000000")
    with pytest.raises(SchemaError, match="id 1"):
        LabelSchema((a, ClassSpec(1, "b", "stuff", "#000000")))
    with pytest.raises(SchemaError, match="name a"):
        LabelSchema((a, ClassSpec(2, "a", "stuff", "#000000")))


def test_an_unknown_name_is_answered_with_the_nearest_known_one() -> None:
    with pytest.raises(SchemaError, match="did you mean 'building'"):
        LabelSchema.default().by_name("bilding")
    with pytest.raises(SchemaError, match="42"):
        LabelSchema.default().by_id(42)
