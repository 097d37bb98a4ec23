"""The measure of how much tiling shows: nothing for an exact model, something for a bad one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pixel_oracle import PixelOracle, spell
from scenes import make_truth

from geopanoptic.errors import SceneError
from geopanoptic.predict import PredictSettings, seam_report, seams


def test_tiling_of_an_exact_model_does_not_show(tmp_path: Path) -> None:
    truth = make_truth("parcels", (150, 170), seed=2)
    scene = spell(truth, tmp_path / "scene.tif")
    report = seam_report(str(scene), PixelOracle(), PredictSettings(core=64, halo=8))
    assert report["tiles"] > 4
    for key in ("phase_shift", "untiled"):
        assert {name: q["pq"] for name, q in report[key].items()} == {"building": 1, "vehicle": 1}
    near = report["near_seam"]
    assert near["objects_near"] + near["objects_away"] == truth.n
    assert near["missed_near"] == 0
    assert near["reference"] == "untiled"


@dataclass(frozen=True)
class BlindAtTheRim(PixelOracle):
    """Sees no thing within 12 px of the end of what it is shown: a halo of 8 is too small."""

    def decode(self, fields: Any, valid: Any) -> Any:
        pixels = fields["pixels"].copy()
        seen = np.zeros(valid.shape, bool)
        seen[12:-12, 12:-12] = True
        pixels[:2, ~seen] = 0
        return super().decode({"pixels": pixels}, valid)


def test_a_model_that_is_blind_at_the_rim_is_found_out(tmp_path: Path) -> None:
    truth = make_truth("parcels", (150, 170), seed=2)
    scene = spell(truth, tmp_path / "scene.tif")
    report = seam_report(str(scene), BlindAtTheRim(), PredictSettings(core=64, halo=8))
    assert report["phase_shift"]["building"]["pq"] < 0.9
    assert report["near_seam"]["ratio"] is None or report["near_seam"]["ratio"] > 1.1
    assert report["near_seam"]["missed_near"] > 0.1


def test_a_scene_that_does_not_fit_in_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seams, "LARGEST_PX", 1000)
    scene = spell(make_truth("blobs", (50, 50), seed=2), tmp_path / "scene.tif")
    with pytest.raises(SceneError, match="cut out a part"):
        seam_report(str(scene), PixelOracle())
