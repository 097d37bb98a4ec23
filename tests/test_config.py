"""Configuration: YAML to a frozen dataclass, or an error that names the key and the cure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geopanoptic.config import MAX_BYTES, dump_config, from_mapping, load_config, to_mapping
from geopanoptic.errors import ConfigError


@dataclass(frozen=True)
class Optimiser:
    rate: float = 1e-3
    name: Literal["adamw", "sgd"] = "adamw"


@dataclass(frozen=True)
class Recipe:
    scenes: tuple[Path, ...]
    epochs: int = 10
    augment: bool = True
    size: tuple[int, int] = (512, 512)
    note: str | None = None
    weights: dict[str, float] = field(default_factory=dict)
    optimiser: Optimiser = Optimiser()


recipes = st.builds(
    Recipe,
    scenes=st.lists(st.text(min_size=1).map(Path), max_size=3).map(tuple),
    epochs=st.integers(),
    augment=st.booleans(),
    size=st.tuples(st.integers(), st.integers()),
    note=st.none() | st.text(),
    weights=st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=3),
    optimiser=st.builds(
        Optimiser, rate=st.floats(allow_nan=False), name=st.sampled_from(["adamw", "sgd"])
    ),
)


def load(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, Recipe)


@given(recipes)
def test_a_configuration_survives_its_own_mapping(recipe: Recipe) -> None:
    assert from_mapping(Recipe, to_mapping(recipe)) == recipe


@given(recipe=recipes)
def test_the_resolved_copy_reads_back_as_equal(
    recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "resolved.yaml"
    path.write_text(dump_config(recipe), encoding="utf-8")
    assert load_config(path, Recipe) == recipe


@pytest.mark.parametrize(
    "odd", ["\x85", "a\x85b", "\u2028", "\ufeff", " ", "1e3", "yes", "é", "- a: b"]
)
def test_odd_texts_read_back_as_equal(tmp_path: Path, odd: str) -> None:
    recipe = Recipe(scenes=(), note=odd, weights={odd: 1.0})
    assert load(tmp_path, dump_config(recipe)) == recipe


def test_values_take_the_types_of_the_dataclass(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        "scenes: [a.tif, b.tif]\nsize: [256, 128]\noptimiser: {rate: 1e-4}\nweights: {tree: 2}\n",
    )
    assert recipe.scenes == (Path("a.tif"), Path("b.tif"))
    assert recipe.size == (256, 128)
    assert recipe.optimiser.rate == pytest.approx(1e-4)
    assert isinstance(recipe.weights["tree"], float)
    assert recipe.epochs == 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scenes: []\nepoch: 3", "unknown key 'epoch' (did you mean 'epochs'?)"),
        ("scenes: []\noptimiser: {rat: 3}", "unknown key 'rat' (did you mean 'rate'?)"),
        ("epochs: 3", "the key 'scenes' is missing"),
        ("scenes: []\nepochs: many", "epochs must be a whole number, not 'many' (text)"),
        ("scenes: []\nepochs: yes", "epochs must be a whole number, not True"),
        ("scenes: []\nepochs: 2.5", "epochs must be a whole number, not 2.5"),
        ("scenes: []\naugment: 1", "augment must be true or false, not 1"),
        ("scenes: []\nsize: [1, 2, 3]", "size must hold 2 values, not 3"),
        ("scenes: a.tif", "scenes must be a list, not 'a.tif'"),
        ("scenes: [1]", "scenes[0] must be text, not 1"),
        ("scenes: []\nnote: 3", "note must be text, not 3"),
        ("scenes: []\noptimiser: {name: adam}", "did you mean 'adamw'?"),
        ("scenes: []\noptimiser: {rate: .nan}", "rate must be a number, not nan"),
        ("scenes: []\noptimiser: fast", "optimiser must be a mapping, not 'fast'"),
        ("scenes: []\nepochs: 1\nepochs: 2", "the key 'epochs' is there twice"),
        ("scenes: &a []\nweights: *a", "aliases (*name) are not allowed"),
        ("scenes: [", "not valid YAML"),
        ("- 1\n- 2", "must be lines of 'key: value'"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert said in str(error.value)
    assert "recipe.yaml" in str(error.value)


def test_a_file_that_is_missing_too_large_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "none.yaml", Recipe)
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load_config(big, Recipe)
    big.write_bytes(b"note: \xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(big, Recipe)


def test_a_bomb_of_aliases_is_refused_before_it_expands(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(ConfigError, match="aliases"):
        load(tmp_path, "\n".join(lines))


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load(tmp_path, "note: " + "[" * 20_000)


def test_an_empty_file_means_all_defaults(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("")
    assert load_config(path, Optimiser) == Optimiser()
