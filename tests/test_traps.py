"""The seven traps of Dask and GDAL that make a run lie or hang, and where each is tested.

1. zeros where a member of a VRT is corrupt: test_raster_safety (a corrupt member raises)
2. a full disk that nobody reports: here, faults/test_full_disk (every format of every command),
   test_raster_cog (a copy cut short)
3. malloc under a Nanny: test_workers_dask (settings in force), test_workers (blocks used again)
4. `resources` restrictions: test_workers_dask (the scheduler's settings)
5. three hangs: workers lost for good, workers paused for ever, Ctrl-C to the process group:
   test_workers_dask (a task that kills its worker; a cluster that lost all; settings; Ctrl-C)
6. the dashboard on all interfaces: test_workers_dask (loopback only, with and without dashboard)
7. a VRT that reads /etc/passwd or the network: test_raster_safety (hostile VRTs)
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pixel_oracle import SPELLED, PixelOracle, spell
from scenes import make_truth

from geopanoptic.errors import StoreError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.predict import Execution, PredictSettings, Products, run
from geopanoptic.raster import LabelWriter
from geopanoptic.vector import LayerSpec, geopackage


def test_a_label_raster_on_a_full_disk_says_so(small_disk: Path) -> None:
    georef = GeoRef("EPSG:32633", SPELLED, (1024, 1024))
    noise = np.random.default_rng(0).integers(1, 255, (1024, 1024)).astype(np.uint8)
    path = small_disk / "labels.tif"
    whole = Window(0, 0, 1024, 1024)
    said = pytest.raises(StoreError, match="could not be written")
    with said, LabelWriter(path, georef, "uint8") as writer:
        writer.write(whole, noise)
    assert not path.exists()


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ("DELETE FROM rtree_things_geom", "geometries but 0 in its index"),
        ("DELETE FROM things WHERE fid = 1", "were written"),
    ],
)
def test_what_gdal_lost_of_a_geopackage_without_a_word_is_noticed_before_it_has_its_name(
    loss: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a nearly full disk it leaves the index out (0 of 11 tables) and reports nothing."""
    write_layer = geopackage._write_layer

    def lossy(path: Path, spec: LayerSpec, *rest: Any) -> int:
        rows = write_layer(path, spec, *rest)
        if spec.name == "things":
            assert rows > 1
            # without its triggers, which need functions that only GDAL has
            with closing(sqlite3.connect(path)) as db, db:
                triggers = db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
                for (name,) in triggers.fetchall():
                    db.execute(f'DROP TRIGGER "{name}"')
                db.execute(loss)
        return rows

    monkeypatch.setattr(geopackage, "_write_layer", lossy)
    scene = spell(make_truth("blobs", (60, 70), seed=4), tmp_path / "scene.tif")
    out = tmp_path / "out" / "things.gpkg"
    out.parent.mkdir()
    with pytest.raises(StoreError, match=said):
        run(
            str(scene), PixelOracle(), Products.to([out]), PredictSettings(),
            Execution(work_dir=tmp_path / "work"),
        )  # fmt: skip
    assert list(out.parent.iterdir()) == []
