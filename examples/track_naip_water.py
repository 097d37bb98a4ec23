# %% [markdown]
# # Water bodies of a prairie over ten dates
#
# Ten NAIP images (2009 to 2020, 5 m, bands red, green, blue, near infrared) of pothole wetlands.
# The images are not on one grid: their corners differ by up to 3 m and one row, and their
# georeferences by 2 m and more. Ponds fill, dry, run together and fall apart.
#
#     python examples/track_naip_water.py FOLDER_OF_IMAGES OUTPUT_FOLDER
#
# A pixel is water where NDWI = (green - NIR) / (green + NIR) > 0.05; connected pixels are one
# body, and less than 20 of them are none. Any segmenter would do: what follows needs a class and an
# id of every pixel, and no more.

# %%
from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

from geopanoptic import LabelSchema, Scene, track
from geopanoptic.grid import Window
from geopanoptic.panoptic_map import MapInfo, write_map_json
from geopanoptic.raster import LabelWriter
from geopanoptic.schema import ClassSpec
from geopanoptic.track import TrackOutputs, TrackSettings

images, out = Path(sys.argv[1]), Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
SCHEMA = LabelSchema(
    (ClassSpec(1, "water", "thing", "#2b83ba"), ClassSpec(2, "land", "stuff", "#d8b98a"))
)
LEAST_PX = 20


# %% [markdown]
# ## From an image to a panoptic map
#
# A map directory needs three files: `map.json` (classes and date), `semantic.tif` (class of every
# pixel, 0 = nodata) and `instances.tif` (id of every thing's pixel). The rest is derived.


# %%
def segment(image: Path, date: str) -> Path:
    """Write the panoptic map of one image; return its folder."""
    scene = Scene.open(image)
    bands, valid = scene.read(Window.whole(scene.georef.shape), (2, 4))
    green, nir = bands.astype(float)
    ndwi = (green - nir) / np.maximum(green + nir, 1)
    bodies, _ = ndimage.label((ndwi > 0.05) & valid)
    small = np.bincount(bodies.ravel()) < LEAST_PX
    bodies[small[bodies]] = 0
    classes = np.where(bodies > 0, 1, 2).astype(np.uint8)
    classes[~valid] = 0
    folder = out / f"{date}.panoptic"
    write_map_json(folder, MapInfo(SCHEMA, date))
    for name, labels in (("semantic", classes), ("instances", bodies.astype(np.int32))):
        with LabelWriter(folder / f"{name}.tif", scene.georef, str(labels.dtype)) as writer:
            writer.write(Window.whole(labels.shape), labels)
    return folder


maps, dated_images = [], []
for image in sorted(images.glob("*.tif")):
    year, month, day = re.search(r"(\d{4})(\d{2})(\d{2})\.tif$", image.name).groups()
    date = f"{year}-{month}-{day}"
    maps.append((date, segment(image, date)))
    dated_images.append((date, str(image)))

# %% [markdown]
# ## Follow the bodies
#
# Every date is registered to the first one, by the images: shores move with the water, fields and
# roads do not. Then every body is compared with those of the dates
# before. A body that dries for one date and is back at the next keeps its id. Of those that run
# together the one that brings most keeps its id.
#
# The command line does the same:
#
#     geopanoptic track --glob 'OUTPUT_FOLDER/*.panoptic' --out tracks.gpkg --rasters tracks \
#         --register-image 2009-08-18=m_..._20090818.tif \
#         --register-image 2010-06-29=m_..._20100629.tif ...

# %%
settings = TrackSettings(images=tuple(dated_images))
outputs = TrackOutputs(out / "tracks.gpkg", rasters=out / "rasters", overwrite=True)
found = track(maps, outputs, settings)
print(f"{found['tracks']} tracks of {found['objects']} bodies, {found['confirmed']} confirmed")
print("date        bodies       ha   new  gone  splits  mergers  moved by (m)")
for row in found["timeline"]:
    registered = found["registration"].get(row["date"])
    moved = registered["applied"]["m"] if registered else (0.0, 0.0)
    print(
        f"{row['date']}  {row['count']:6d} {row['area_m2'] / 1e4:8.1f} {row['added']:5d} "
        f"{row['removed']:5d} {row['split']:7d} {row['merged']:8d}  "
        f"{moved[0]:+.2f} {moved[1]:+.2f}"
    )

# %% [markdown]
# ## What to look at
#
# Open `tracks.gpkg` in QGIS: `observations` plays with the temporal controller at once, coloured by
# what became of each body since the date before. `tracks` has one row per body: when it was first
# and last seen, between which dates it came and went, how it grew, whom it came from.
#
# The longest lived, and the one that changed most:

# %%
lives = found.tracked.lives
longest = int(np.argmax(lives.n_seen))
swing = int(np.argmax(lives.area_max - lives.area_min))
print(f"track {longest + 1} was seen at {lives.n_seen[longest]} dates")
print(
    f"track {swing + 1} varied between {lives.area_min[swing] / 1e4:.1f} and "
    f"{lives.area_max[swing] / 1e4:.1f} ha"
)

# %% [markdown]
# How often did the ground change between land and water? The table of trajectories counts every
# pixel of the common grid; `rasters/n_changes.tif` shows where.

# %%
table = zip(found.trajectories["trajectory"], found.trajectories["share"], strict=True)
for name, share in list(table)[:6]:
    print(f"{100 * share:5.1f} %  {name}")
