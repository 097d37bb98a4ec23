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

from pathlib import Path

import numpy as np
import pytest
from pixel_oracle import SPELLED

from geopanoptic.errors import StoreError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.raster import LabelWriter


def test_a_label_raster_on_a_full_disk_says_so(small_disk: Path) -> None:
    georef = GeoRef("EPSG:32633", SPELLED, (1024, 1024))
    noise = np.random.default_rng(0).integers(1, 255, (1024, 1024)).astype(np.uint8)
    path = small_disk / "labels.tif"
    whole = Window(0, 0, 1024, 1024)
    said = pytest.raises(StoreError, match="could not be written")
    with said, LabelWriter(path, georef, "uint8") as writer:
        writer.write(whole, noise)
    assert not path.exists()
