# %% [markdown]
# # A river that cuts off an oxbow, and a forest that shrinks
#
# Eight Landsat composites (1985 to 2020, every five years, about 90 m, bands SWIR 1, near infrared,
# red, green) of the Ucayali near Pucallpa, Peru, in degrees (EPSG:4326). The river meanders and
# cuts off a bend: one body of water becomes two. West of it forest is cleared for a growing town.
#
#     python examples/track_landsat_river.py FOLDER_OF_IMAGES OUTPUT_FOLDER
#
# A pixel is water where NDWI = (green - NIR) / (green + NIR) > 0; connected water (also over
# corners) is one body. Of the rest, green land (NDVI > 0.6) that is dark in the shortwave infrared
# is forest: Otsu's threshold, of each date by itself, because the composites are not calibrated to
# each other. All else is open land.

# %%
from __future__ import annotations

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
    (
        ClassSpec(1, "water", "thing", "#2b83ba"),
        ClassSpec(2, "forest", "stuff", "#1b7837"),
        ClassSpec(3, "open land", "stuff", "#d8b98a"),
    )
)
LEAST_PX = 20


# %%
def otsu(values: np.ndarray) -> float:
    """Return the threshold that parts values into two groups of least variance (Otsu 1979)."""
    count, edges = np.histogram(values, 256)
    centre = (edges[:-1] + edges[1:]) / 2
    weight, mass = np.cumsum(count), np.cumsum(count * centre)
    between = (mass[-1] * weight - mass * weight[-1]) ** 2
    return float(centre[np.argmax(between / np.maximum(weight * (weight[-1] - weight), 1))])


def segment(image: Path) -> Path:
    """Write the panoptic map of one image; return its folder."""
    scene = Scene.open(image)
    bands, valid = scene.read(Window.whole(scene.georef.shape), (1, 2, 3, 4))
    swir, nir, red, green = bands.astype(float)
    water = ((green - nir) / np.maximum(green + nir, 1) > 0) & valid
    bodies, _ = ndimage.label(water, np.ones((3, 3)))
    small = np.bincount(bodies.ravel()) < LEAST_PX
    bodies[small[bodies]] = 0
    leaves = ((nir - red) / np.maximum(nir + red, 1) > 0.6) & ~water
    smooth = ndimage.uniform_filter(swir, 3)
    classes = np.where(leaves & (smooth < otsu(smooth[leaves & valid])), 2, 3).astype(np.uint8)
    classes[bodies > 0] = 1
    classes[~valid] = 0
    folder = out / f"{image.stem}.panoptic"
    write_map_json(folder, MapInfo(SCHEMA, f"{image.stem}-07-01"))
    for name, labels in (("semantic", classes), ("instances", bodies.astype(np.int32))):
        with LabelWriter(folder / f"{name}.tif", scene.georef, str(labels.dtype)) as writer:
            writer.write(Window.whole(labels.shape), labels)
    return folder


maps = [(f"{image.stem}-07-01", segment(image)) for image in sorted(images.glob("*.tif"))]

# %% [markdown]
# ## Follow the water
#
# The river moves by its own width in five years, so bodies are linked when they share a third of
# the smaller one. The composites lie on one grid: nothing has to be registered, and the river's
# banks would be a bad thing to register by.

# %%
outputs = TrackOutputs(out / "tracks.gpkg", rasters=out / "rasters", overwrite=True)
found = track(maps, outputs, TrackSettings(register="none", link=0.33))
print("date        waters      km2   new  gone  splits  mergers")
for row in found["timeline"]:
    print(
        f"{row['date']}  {row['count']:6d} {row['area_m2'] / 1e6:8.1f} {row['added']:5d} "
        f"{row['removed']:5d} {row['split']:7d} {row['merged']:8d}"
    )

# %% [markdown]
# ## The oxbow
#
# A cut-off is a split: the river keeps its id, the oxbow gets one of its own and knows its parent.
# The river is the largest body; the largest part that ever came off it:

# %%
identity, lives, dates = found.tracked.identity, found.tracked.lives, found["dates"]
river = int(np.argmax(lives.area_max)) + 1
parents, children = identity.ends()
came_off = (identity.kind == "split") & ~identity.kept & (parents == river)
oxbow = int(np.argmax(np.where(came_off, identity.links.overlap_m2, 0)))
print(
    f"between {dates[identity.links.e[oxbow]]} and {dates[identity.links.d[oxbow]]} track "
    f"{children[oxbow]} came off the river (track {river}): "
    f"{identity.links.overlap_m2[oxbow] / 1e6:.2f} km2"
)
print(f"it was seen at {lives.n_seen[children[oxbow] - 1]} of {len(dates)} dates")

# %% [markdown]
# ## The forest
#
# Forest is stuff: it has no ids, but every pixel has a history. `rasters/first_change_date.tif`
# says when a pixel first was something else than before, `n_changes.tif` how often, and the table
# counts the ways:

# %%
names = found.trajectories["trajectory"]
area = dict(zip(names, found.trajectories["area_m2"], strict=True))
lost = sum(
    m2 for name, m2 in area.items() if name.startswith("forest") and name.endswith("open land")
)
print(f"forest in 1985, open land in 2020: {lost / 1e6:.0f} km2")
for name, m2 in sorted(area.items(), key=lambda item: -item[1])[:6]:
    print(f"{m2 / 1e6:8.1f} km2  {name}")
