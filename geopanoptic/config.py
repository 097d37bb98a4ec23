"""Configuration is data: a YAML file becomes a frozen dataclass, or an error that names the key.

One flat (or shallowly nested) frozen dataclass lies beside the tool that it configures. Keys that
the dataclass does not know are refused with the nearest known name; values are checked against the
type hints; the resolved configuration can be written next to the results.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections import Counter
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from geopanoptic.errors import ConfigError, nearest_name

MAX_BYTES = 1_000_000
T = TypeVar("T")


def load_config(path: Path, cls: type[T]) -> T:
    """Read a YAML file into the dataclass `cls`; keys left out take its defaults.

    Raises ConfigError: no such file, more than 1 MB, not YAML, an alias (``*name``: a few hundred
    bytes of them expand to gigabytes), a key twice, an unknown key, or a value of the wrong type.
    """
    return from_mapping(cls, read_yaml(path), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping with text keys. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"the configuration {path} is larger than {MAX_BYTES} bytes")
    try:
        content = yaml.load(raw.decode("utf-8"), Loader=_StrictLoader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"the configuration {path} is not UTF-8 text: {error}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"the configuration {path} is not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"the configuration {path} must be lines of 'key: value'")
    return content


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, without aliases and without silently overwriting a key given twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.YAMLError(f"aliases (*name) are not allowed; write the value out\n{mark}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value if isinstance(key.value, str)]
        twice = next((name for name, n in Counter(names).items() if n > 1), None)
        if twice is not None:
            raise yaml.YAMLError(f"the key {twice!r} is there twice\n{node.start_mark}")
        return super().construct_mapping(node, deep)


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str = "the configuration") -> T:
    """Make the dataclass `cls` from a mapping, checking names and types, also in nested ones.

    `where` names the source in messages. Lists become tuples where the hint says tuple; whole
    numbers are taken for float; text is taken for Path. Raises ConfigError.
    """
    assert dataclasses.is_dataclass(cls), f"{cls} is no dataclass"
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in mapping:
        if key not in fields:
            hint = nearest_name(str(key), fields)
            raise ConfigError(
                f"{where}: unknown key {key!r}{hint}; known keys: {', '.join(sorted(fields))}"
            )
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in mapping:
            raise ConfigError(f"{where}: the key {name!r} is missing and has no default")
    values = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in mapping.items()}
    return cls(**values)


def to_mapping(config: Any) -> dict[str, Any]:
    """Return a configuration as plain values for YAML or JSON; paths become text, tuples lists.

    Law: ``from_mapping(type(c), to_mapping(c)) == c``.
    """
    assert dataclasses.is_dataclass(config), f"{config!r} is no dataclass"
    return {
        field.name: _plain(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.init
    }


def dump_config(config: Any) -> str:
    """Return the resolved configuration as YAML text that `load_config` reads back as equal."""
    # ASCII with escapes: YAML folds some control characters (NEL) that it writes as they are
    return yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _convert(hint: Any, value: Any, name: str) -> Any:
    """Check `value` against a type hint and return it, converted where YAML knows no such type."""
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, name)
    if origin is Literal:
        return _convert_choice(get_args(hint), value, name)
    if origin in (tuple, list, dict):
        return _convert_container(hint, value, name)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        return from_mapping(hint, _expect(dict, value, name), name)
    return _convert_scalar(hint, value, name)


def _convert_scalar(hint: Any, value: Any, name: str) -> Any:
    if hint is float:
        if isinstance(value, str):
            value = _exponent(value)
        if isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if math.isnan(_expect(float, value, name)):
            raise ConfigError(f"{name} must be a number, not nan")
        return value
    if hint is Path:
        return value if isinstance(value, Path) else Path(_expect(str, value, name))
    if hint is type(None):
        return _expect(type(None), value, name)
    return _expect(hint, value, name)


def _exponent(text: str) -> Any:
    # YAML 1.1 reads 1e-4 as text (it wants 1.0e-4): a trap for every learning rate.
    try:
        return float(text)
    except ValueError:
        return text


def _expect(kind: type[T], value: Any, name: str) -> T:
    # bool is a subclass of int; "epochs: yes" is a mistake nevertheless.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{name} must be {_said(kind)}, not {value!r} ({_said(type(value))})")
    return value


def _said(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    words |= {dict: "a mapping", list: "a list", tuple: "a list", type(None): "nothing"}
    return words.get(kind, getattr(kind, "__name__", str(kind)))


def _convert_union(hint: Any, value: Any, name: str) -> Any:
    options = get_args(hint)
    if value is None and type(None) in options:
        return None
    reasons = []
    for option in options:
        if option is type(None):
            continue
        try:
            return _convert(option, value, name)
        except ConfigError as error:
            reasons.append(str(error))
    raise ConfigError(reasons[0] if len(reasons) == 1 else "; or ".join(reasons))


def _convert_choice(choices: tuple[Any, ...], value: Any, name: str) -> Any:
    for choice in choices:
        if value == choice and type(value) is type(choice):
            return value
    shown = ", ".join(map(str, choices))
    hint = nearest_name(str(value), map(str, choices))
    raise ConfigError(f"{name} is {value!r}{hint}; it must be one of: {shown}")


def _convert_container(hint: Any, value: Any, name: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is dict:
        key_hint, value_hint = arguments
        return {
            _convert(key_hint, key, f"a key of {name}"): _convert(value_hint, item, f"{name}.{key}")
            for key, item in _expect(dict, value, name).items()
        }
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{name} must be a list, not {value!r}")
    if origin is list or arguments[-1] is Ellipsis:
        hints = [arguments[0]] * len(value)
    else:
        hints = list(arguments)
        if len(value) != len(hints):
            raise ConfigError(f"{name} must hold {len(hints)} values, not {len(value)}: {value!r}")
    items = [
        _convert(h, item, f"{name}[{i}]")
        for i, (h, item) in enumerate(zip(hints, value, strict=True))
    ]
    return origin(items)
