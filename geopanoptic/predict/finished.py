"""What is finished when only the writing of products is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geopanoptic import __version__
from geopanoptic.predict.plan import Plan

if TYPE_CHECKING:
    from geopanoptic.predict.rasters import Rasters
    from geopanoptic.stitch import SeamCounts


@dataclass(frozen=True, slots=True)
class Finished:
    """A map in the work directory: its plan, rasters with table, seams, and the run's facts."""

    plan: Plan
    rasters: Rasters
    seams: SeamCounts
    run: dict[str, Any]


def run_facts(plan: Plan, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what map.json says of the run: versions, settings, grid, scene; plus `facts`."""
    return {
        "geopanoptic": __version__,
        "scene": Path(plan.scene.scene.members[0]).stem,
        "model": plan.card.name,
        "model_version": plan.card.version,
        "model_sha256": plan.card.sha256,
        "engine": plan.engine.to_json(),
        "read": plan.scene.describe(),
        "grid": {
            "core": plan.grid.core,
            "halo": plan.grid.halo,
            "origin": list(plan.grid.origin),
            "tiles": len(plan.grid),
            "join_threshold": plan.join_threshold,
        },
        "settings": {k: v for k, v in plan.fingerprint()["settings"].items() if v is not None},
        **facts,
    }
