"""A cluster for real: three hosts (network namespaces), encrypted; one of them dies meanwhile."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from geopanoptic.workers import EngineSpec, Tls

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

TESTS = Path(__file__).parent.parent
BRIDGE, NETWORK = "gptest0", "10.77.31"


def command(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@dataclass
class Hosts:
    """Three namespaces on one bridge; the coordinator stays outside, on the bridge itself."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def address(self, number: int) -> str:
        return f"{NETWORK}.{number}"

    def __enter__(self) -> Hosts:
        try:
            command("ip", "link", "add", BRIDGE, "type", "bridge")
            command("ip", "addr", "add", f"{self.address(1)}/24", "dev", BRIDGE)
            command("ip", "link", "set", BRIDGE, "up")
            for number in (2, 3, 4):
                self._add(number)
        except (RuntimeError, FileNotFoundError) as error:
            self.__exit__()
            pytest.skip(f"cannot make network namespaces here: {error}")
        return self

    def _add(self, number: int) -> None:
        name, here, there = f"gphost{number}", f"gpv{number}", f"gpw{number}"
        command("ip", "netns", "add", name)
        command("ip", "link", "add", here, "type", "veth", "peer", "name", there)
        command("ip", "link", "set", here, "master", BRIDGE, "up")
        command("ip", "link", "set", there, "netns", name)
        inside = ("ip", "netns", "exec", name)
        command(*inside, "ip", "addr", "add", f"{self.address(number)}/24", "dev", there)
        command(*inside, "ip", "link", "set", there, "up")
        command(*inside, "ip", "link", "set", "lo", "up")

    def start(self, number: int, module: str, *options: str) -> None:
        files = ("--tls-ca-file", "ca.pem", "--tls-cert", "host.pem", "--tls-key", "host.key")
        words = ["ip", "netns", "exec", f"gphost{number}", sys.executable, "-m", module]
        words += [*files, "--no-dashboard", "--host", self.address(number), *options]
        environment = os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
        with (self.folder / f"{number}.log").open("wb") as log:
            self.processes[str(number)] = subprocess.Popen(
                words, cwd=self.folder, env=environment, stdout=log, stderr=log
            )

    def cut_off(self, number: int) -> None:
        """Take the network away: the host neither dies nor answers."""
        command("ip", "link", "set", f"gpv{number}", "down")

    def kill(self, number: int) -> None:
        self.processes[str(number)].kill()

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        for number in (2, 3, 4):
            # A namespace gives its link back some time after its end: too late for the next test.
            subprocess.run(["ip", "link", "del", f"gpv{number}"], capture_output=True)
            subprocess.run(["ip", "netns", "del", f"gphost{number}"], capture_output=True)
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)


def make_certificates(folder: Path) -> Tls:
    """Make a certificate authority of our own and one certificate for all hosts."""
    openssl = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    ca = (*openssl, "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem")
    host = (
        *openssl, "-subj", "/CN=test host", "-keyout", "host.key", "-out", "host.pem",
        "-CA", "ca.pem", "-CAkey", "ca.key",
    )  # fmt: skip
    for words in (ca, host):
        made = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
    return Tls(folder / "ca.pem", folder / "host.pem", folder / "host.key")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if os.geteuid() != 0:
        pytest.skip("only root may make network namespaces")
    with Hosts(tmp_path) as hosts:
        yield hosts


def hashes(folder: Path) -> dict[str, str]:
    names = ("semantic.tif", "instances.tif", "segments.parquet")
    return {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}


@pytest.mark.parametrize("blow", ["kill", "cut_off"])
def test_a_host_that_dies_amid_the_run_changes_no_byte(hosts: Hosts, blow: str) -> None:
    from pixel_oracle import spell
    from scenes import make_truth
    from slow_oracle import SlowOracle

    from geopanoptic.predict import Execution, PredictSettings, Products, run

    folder = hosts.folder
    tls = make_certificates(folder)
    scene = str(spell(make_truth("row houses", (150, 170), seed=5), folder / "scene.tif"))
    settings = PredictSettings(core=40, halo=3)
    alone, together = folder / "alone.panoptic", folder / "together.panoptic"
    run(scene, SlowOracle(), Products.to([alone]), settings, Execution())

    scheduler = f"tls://{hosts.address(2)}:8786"
    hosts.start(2, "distributed.cli.dask_scheduler", "--port", "8786")
    for number in (3, 4):
        hosts.start(number, "distributed.cli.dask_worker", scheduler, "--no-nanny")
    struck: list[tuple[str, int]] = []

    def strike(stage: str, done: int, total: int) -> None:
        if stage == "infer" and not struck:
            struck.append((stage, done))
            getattr(hosts, blow)(3)

    time.sleep(2)
    engine = EngineSpec(scheduler=scheduler, tls=tls)
    execution: Any = Execution(engine=engine, progress=strike)
    run(scene, SlowOracle(seconds=0.3), Products.to([together]), settings, execution)
    assert struck
    assert hashes(together) == hashes(alone)


def test_a_stranger_without_a_certificate_is_not_let_in(hosts: Hosts) -> None:
    from distributed import Client

    make_certificates(hosts.folder)
    hosts.start(2, "distributed.cli.dask_scheduler", "--port", "8786")
    time.sleep(5)
    with pytest.raises((OSError, TimeoutError, RuntimeError)):
        Client(f"tcp://{hosts.address(2)}:8786", timeout=5, set_as_default=False)
