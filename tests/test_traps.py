"""The seven traps of Dask and GDAL that make a run lie or hang, and where each is tested.

1. zeros where a member of a VRT is corrupt: test_raster_safety (a corrupt member raises)
2. a full disk that nobody reports: here, for every writer; test_raster_cog (a copy cut short)
3. malloc under a Nanny: test_workers_dask (settings in force), test_workers (blocks used again)
4. `resources` restrictions: test_workers_dask (the scheduler's settings)
5. three hangs: workers lost for good, workers paused for ever, Ctrl-C to the process group:
   test_workers_dask (a task that kills its worker; a cluster that lost all; settings; Ctrl-C)
6. the dashboard on all interfaces: test_workers_dask (loopback only, with and without dashboard)
7. a VRT that reads /etc/passwd or the network: test_raster_safety (hostile VRTs)
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from pixel_oracle import SPELLED, PixelOracle, spell
from scenes import make_truth

from geopanoptic.errors import StoreError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.panoptic_map import check_map
from geopanoptic.predict import Execution, PredictSettings, Products, run
from geopanoptic.raster import LabelWriter

SETTINGS = PredictSettings(core=40, halo=3)


def resized(place: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={max(size, 4096)}", str(place)], check=True)


def test_a_label_raster_on_a_full_disk_says_so(small_disk: Path) -> None:
    georef = GeoRef("EPSG:32633", SPELLED, (1024, 1024))
    noise = np.random.default_rng(0).integers(1, 255, (1024, 1024)).astype(np.uint8)
    path = small_disk / "labels.tif"
    whole = Window(0, 0, 1024, 1024)
    said = pytest.raises(StoreError, match="could not be written")
    with said, LabelWriter(path, georef, "uint8") as writer:
        writer.write(whole, noise)
    assert not path.exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["map.panoptic", "things.gpkg", "things.parquet", "things.fgb",
                                  "map.tif"])  # fmt: skip
def test_whatever_the_disk_has_room_for_an_output_is_whole_or_not_there(
    name: str, small_disk: Path, tmp_path: Path
) -> None:
    """The disk grows from nothing until the output fits; the work directory is elsewhere."""
    scene = str(spell(make_truth("row houses", (90, 100), seed=5), tmp_path / "scene.tif"))
    execution = Execution(work_dir=tmp_path / "work")
    out = small_disk / name
    said: list[str] = []
    for size in range(8192, 4_000_000, 36_864):
        resized(small_disk, size)
        try:
            run(scene, PixelOracle(), Products.to([out]), SETTINGS, execution)
        except StoreError as error:
            said.append(str(error))
            assert not out.exists(), f"with {size} bytes"
            continue
        break
    else:
        pytest.fail("it never fitted")
    assert said
    assert all("free" in text or "written" in text or "space" in text for text in said), said
    reference = tmp_path / name
    run(scene, PixelOracle(), Products.to([reference]), SETTINGS, execution)
    if out.is_dir():
        assert check_map(out) == []
        out, reference = out / "semantic.tif", reference / "semantic.tif"
    if out.suffix == ".tif":
        assert out.read_bytes() == reference.read_bytes()
    else:
        import geopandas

        def things(path: Path) -> int:
            if path.suffix == ".parquet":
                return len(geopandas.read_parquet(path))
            return len(geopandas.read_file(path, layer=0))

        assert things(out) == things(reference) > 0
    assert not [p for p in small_disk.rglob("*") if ".tmp" in p.name]
