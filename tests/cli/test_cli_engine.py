"""The options that say where work runs mean what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from geopanoptic.cli.options import engine_options, engine_spec
from geopanoptic.errors import ConfigError
from geopanoptic.workers import EngineSpec, Tls


def spec_of(*words: str) -> EngineSpec:
    found: list[EngineSpec] = []

    @click.command()
    @engine_options
    def command(**options: Any) -> None:
        found.append(engine_spec(options))

    result = CliRunner().invoke(command, words)
    if result.exception:
        raise result.exception
    return found[0]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    made = [tmp_path / name for name in ("ca.pem", "host.pem", "host.key")]
    for path in made:
        path.touch()
    return made


def test_nothing_is_asked_for_by_default() -> None:
    assert spec_of() == EngineSpec(device="auto")
    assert not spec_of("--workers", "2").dashboard


def test_certificates_reach_the_engine(files: list[Path]) -> None:
    ca, cert, key = map(str, files)
    words = ("--scheduler", "tls://h:1", "--tls-ca", ca, "--tls-cert", cert, "--tls-key", key)
    assert spec_of(*words).tls == Tls(*files)


def test_half_a_set_of_certificates_and_certificates_for_nothing_are_refused(
    files: list[Path],
) -> None:
    ca, cert, key = map(str, files)
    with pytest.raises(ConfigError, match="name all three"):
        spec_of("--scheduler", "tls://h:1", "--tls-ca", ca)
    for scheduler in (("--scheduler", "tcp://h:1"), ("--workers", "2")):
        with pytest.raises(ConfigError, match="write tls://host:8786"):
            spec_of(*scheduler, "--tls-ca", ca, "--tls-cert", cert, "--tls-key", key)


def test_a_missing_certificate_is_a_mistake_of_usage(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        spec_of("--scheduler", "tls://h:1", "--tls-ca", str(tmp_path / "nothing.pem"))
    assert left.value.code == 2


def test_insecure_and_dashboard_are_said_aloud() -> None:
    assert spec_of("--scheduler", "tcp://10.0.0.1:8786", "--insecure").insecure
    assert spec_of("--workers", "1", "--dashboard").dashboard
    for words in (("--dashboard",), ("--dashboard", "--scheduler", "tls://h:1")):
        with pytest.raises(ConfigError, match="--dashboard shows the processes of --workers"):
            spec_of(*words)
