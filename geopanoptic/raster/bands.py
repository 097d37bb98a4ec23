"""Which bands of a scene a model looks at: by number, or by the names on its card."""

from __future__ import annotations

from collections.abc import Sequence

from geopanoptic.errors import SceneError, nearest_name

# Other names of the same colours. Sentinel-2's two-digit numbers are unambiguous; "B4" alone is
# not (red for Sentinel-2 and Landsat 8, near infrared for Landsat 5), so it is not here.
_ALIASES = {
    "r": "red", "g": "green", "b": "blue", "n": "nir", "near infrared": "nir",
    "near_infrared": "nir", "near-infrared": "nir", "infrared": "nir", "ir": "nir",
    "b02": "blue", "b03": "green", "b04": "red", "b08": "nir", "pan": "panchromatic",
}  # fmt: skip


def select_bands(
    wanted: Sequence[int | str], names: Sequence[str], uri: object
) -> tuple[tuple[int, ...], str | None]:
    """Return (band numbers from 1, a note or None) for numbers or names.

    Names match the scene's band names (case and common synonyms aside). A scene that names none of
    its bands gets its first ones in order, with a note. Raises SceneError with what there is.
    """
    if all(isinstance(w, int) for w in wanted):
        numbers = tuple(int(w) for w in wanted)
        wrong = [n for n in numbers if not 1 <= n <= len(names)]
        if wrong or not numbers:
            raise SceneError(
                f"'{uri}' has {_count(names)} (an alpha band is no data band), so there is no band "
                f"{', '.join(map(str, wrong)) or '(none given)'}; choose others with --bands"
            )
        return numbers, None
    asked = [str(w) for w in wanted]
    if len(names) < len(asked):
        numbers_hint = ",".join(["1"] * len(asked))
        raise SceneError(
            f"'{uri}' has {_count(names)} and the model looks at {len(asked)} "
            f"({', '.join(asked)}); use a scene with these bands, or repeat one: "
            f"--bands {numbers_hint}"
        )
    known = [_plain(n) for n in names]
    if not any(known):
        note = (
            f"the scene does not name its bands; bands 1 to {len(asked)} are taken as "
            f"{', '.join(asked)} (choose others with --bands)"
        )
        return tuple(range(1, len(asked) + 1)), note
    missing = [a for a in asked if _plain(a) not in known]
    if missing:
        raise SceneError(
            f"'{uri}' has no band called {', '.join(missing)}"
            f"{nearest_name(missing[0], [n for n in names if n])}; its bands are "
            f"{', '.join(f'{i} ({n or chr(63)})' for i, n in enumerate(names, 1))}; "
            f"give their numbers with --bands"
        )
    return tuple(known.index(_plain(a)) + 1 for a in asked), None


def _plain(name: str) -> str:
    text = name.strip().lower()
    return _ALIASES.get(text, text)


def _count(names: Sequence[str]) -> str:
    return "1 band" if len(names) == 1 else f"{len(names)} bands"
