"""Change and track decide by one rule when objects of two dates are one."""

from __future__ import annotations

from dataclasses import fields

import pytest

from geopanoptic.change.settings import ChangeSettings, LinkSettings
from geopanoptic.cli.change import change
from geopanoptic.cli.track import track
from geopanoptic.errors import ConfigError
from geopanoptic.track import TrackSettings


def test_the_same_thresholds_are_the_same_rules() -> None:
    given = {"iou": 0.7, "ratio": 1.5, "link": 0.4, "compatible": (("building", "shed"),)}
    wanted = ChangeSettings(**given).rules(0.3)
    assert (wanted.iou, wanted.ratio, wanted.link, wanted.tolerance_m) == (0.7, 1.5, 0.4, 1.0)
    assert TrackSettings(**given).rules(0.3) == wanted
    assert TrackSettings(**given).change().rules(0.3) == wanted


def test_both_commands_have_an_option_for_every_shared_setting_with_its_default() -> None:
    shared = {f.name: f.default for f in fields(LinkSettings)}
    for command in (change, track):
        options = {p.name: p for p in command.params}
        assert shared.keys() <= options.keys()
        for name, default in shared.items():
            if isinstance(default, str | float):
                assert options[name].default == default


@pytest.mark.parametrize("kind", [ChangeSettings, TrackSettings])
@pytest.mark.parametrize(
    "wrong", [{"link_rule": "lins"}, {"max_shift_m": -1.0}, {"tolerance_m": -0.5}, {"iou": 2.0}]
)
def test_values_that_make_no_rule_are_refused(kind: type, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        kind(**wrong)
