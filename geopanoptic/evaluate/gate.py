"""Compare an evaluation with an earlier one and with least values: for continuous integration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geopanoptic.errors import ConfigError, nearest_name

_SHOWN = ("pq", "sq", "rq", "pq_dagger", "miou", "oa", "f1", "ap")
_RULE = re.compile(r"([^=]+)=(baseline)?\s*([-+]?\s*[0-9.]+)?")


@dataclass(frozen=True, slots=True)
class Gate:
    """`baseline`: an earlier result, or None. `rules`: (figure, of the baseline?, value)."""

    baseline: Mapping[str, Any] | None
    rules: tuple[tuple[str, bool, float], ...]

    @classmethod
    def read(cls, baseline: Path | None, rules: Iterable[str]) -> Gate:
        """Read OLD.json and rules like 'pq=0.45' or 'building.f1=baseline-0.01'.

        Raises ConfigError for a file that is no evaluation or a rule that cannot be read.
        """
        old = None
        if baseline is not None:
            try:
                old = json.loads(baseline.read_text(encoding="utf-8"))
                old["all"], old["per_class"]
            except (OSError, ValueError, KeyError, TypeError) as why:
                raise ConfigError(f"--baseline {baseline} is no evaluation: {why!r}") from why
        read = []
        for text in rules:
            found = _RULE.fullmatch(text.strip())
            if found is None or (found[2] is None and found[3] is None):
                raise ConfigError(
                    f"--fail-below {text}: write a figure and its least, like pq=0.45"
                )
            if found[2] and old is None:
                raise ConfigError(f"--fail-below {text} needs --baseline OLD.json")
            value = float((found[3] or "0").replace(" ", ""))
            read.append((found[1].strip(), found[2] is not None, value))
        return cls(old, tuple(read))

    def broken(self, result: Mapping[str, Any]) -> list[str]:
        """Return a sentence for each rule that does not hold; an undefined figure breaks it."""
        out = []
        for name, relative, value in self.rules:
            got = figure(result, name)
            least = value
            if relative:
                old = figure(self.baseline or {}, name)
                least = value + (0.0 if old is None else old)
            if got is None:
                out.append(f"{name} is undefined, asked for at least {least:.4f}")
            elif got < least:
                out.append(f"{name} is {got:.4f}, less than {least:.4f}")
        return out

    def differences(self, result: Mapping[str, Any]) -> list[str]:
        """Return a line for each main figure that the baseline has too."""
        if self.baseline is None:
            return []
        lines = ["against the baseline:"]
        for name in _SHOWN:
            new, old = figure(result, name, strict=False), figure(self.baseline, name, strict=False)
            if new is not None and old is not None:
                lines.append(f"  {name:<10} {old:.4f} -> {new:.4f}  ({new - old:+.4f})")
        return lines


def figure(result: Mapping[str, Any], name: str, strict: bool = True) -> float | None:
    """Look up a figure: 'pq' (of all), 'things.pq', 'building.f1', 'boundary.pq', 'miou', 'f1'.

    Raises ConfigError for a name that is not there (unless not `strict`).
    """
    group, _, key = name.rpartition(".")
    per_class = result.get("per_class", {})
    if not group:
        places = [result, result.get("all", {}), result.get("f1", {}), result.get("ap", {})]
    elif group == "boundary":
        places = [result.get("boundary", {}).get("all", {})]
    else:
        places = [per_class.get(group), result.get(group)]
    for place in places:
        if isinstance(place, Mapping) and key in place:
            value = place[key]
            if value is None or isinstance(value, int | float):
                return value
    if not strict:
        return None
    known = ["pq", "sq", "rq", "pq_dagger", "miou", "oa", "f1", "ap"]
    known += [f"{c}.pq" for c in per_class] + ["things.pq", "stuff.pq", "boundary.pq"]
    known += [f"series.{k}" for k in ("scot", "vpq", "stq") if k in result.get("series", {})]
    raise ConfigError(
        f"this evaluation has no figure '{name}'{nearest_name(name, known)}; "
        f"for example {', '.join(known[:6])} or CLASS.f1"
    )
