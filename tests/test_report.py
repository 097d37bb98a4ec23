"""The report of a map: one page, complete, escaped, with nothing to fetch; and in a browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import rasterio
from pixel_oracle import PixelOracle, spell
from scenes import make_truth

from geopanoptic.errors import ConfigError, SceneError
from geopanoptic.export import ExportSettings, export
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.panoptic_map import PanopticMap, report_of
from geopanoptic.predict import Execution, PredictSettings, Products, run
from geopanoptic.raster import LabelWriter, publish_cog, read_panels
from geopanoptic.report.charts import histogram, stacked_bar
from geopanoptic.report.map_page import ClassRow, MapPage, map_page


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    scene = spell(make_truth("blobs", (200, 230), seed=4), folder / "scene.tif")
    products = Products.to([folder / "town.panoptic"])
    run(str(scene), PixelOracle(), products, PredictSettings(core=64), Execution())
    return folder / "town.panoptic"


class Loads(HTMLParser):
    """Collect what a page would fetch, and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "object"), tag
        for name, value in attrs:
            if name in ("src", "href", "action", "srcset", "xlink:href"):
                self.fetched.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(html: str) -> Loads:
    parser = Loads()
    parser.feed(html)
    parser.close()
    return parser


def test_a_map_comes_with_a_report_that_fetches_nothing(town: Path) -> None:
    html = (town / "report.html").read_text()
    page = parsed(html)
    assert page.fetched
    assert all(uri.startswith("data:image/") for uri in page.fetched)
    assert not re.search(r"url\(|@import|https?:", html)
    text = " ".join(page.text)
    for word in ("town", "building", "vehicle", "Run record", "How well the tiles fit", "scene"):
        assert word in text


def test_the_figures_are_those_of_the_map(town: Path) -> None:
    html = (town / "report.html").read_text()
    panoptic = PanopticMap.open(town)
    for name, count in panoptic.info.counts["things_by_class"].items():
        row = re.search(rf"</i>{name}(.*?)(?:<tr>|</table>)", html).group(1)  # type: ignore[union-attr]
        cells = re.findall(r"<td>([^<]*)", row)
        assert cells[3] == f"{count:,}"
        own = panoptic.segments.query("class_name == @name")
        share = own["area_px"].sum() / (200 * 230)
        assert cells[1] == f"{100 * share:.1f} %"
    record = re.search(r"<pre>(.*?)</pre>", html, re.DOTALL).group(1)  # type: ignore[union-attr]
    run = json.loads(record.replace("&quot;", '"').replace("&#x27;", "'"))
    assert run["model"] == panoptic.info.run["model"]


def test_pictures_lie_over_each_other(town: Path, tmp_path: Path) -> None:
    html = (town / "report.html").read_text()
    sizes = set()
    for uri in parsed(html).fetched:
        kind, _, data = uri.partition(";base64,")
        picture = tmp_path / f"p.{kind[11:]}"
        picture.write_bytes(base64.b64decode(data))
        with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(picture) as image:
            sizes.add(image.shape)
    assert sizes == {(200, 230)}


def test_a_small_picture_shows_the_map_pixel_for_pixel(town: Path) -> None:
    panoptic = PanopticMap.open(town)
    classes, ids = panoptic.read(Window.whole(panoptic.georef.shape))
    panels = read_panels(panoptic.read, panoptic.georef.shape)
    np.testing.assert_array_equal(panels.classes, classes)
    np.testing.assert_array_equal(panels.ids, ids)


def test_a_large_map_is_seen_through_its_overviews(tmp_path: Path) -> None:
    shape = (2300, 3100)
    labels = np.kron(np.arange(1, 24 * 31 + 1).reshape(24, 31), np.ones((100, 100), np.int32))
    labels = labels[: shape[0], : shape[1]].astype(np.int32)
    paths = []
    for name, values in (("s", (labels % 5 + 1).astype(np.uint8)), ("i", labels)):
        tiled = tmp_path / f"{name}.tiled.tif"
        with LabelWriter(tiled, GeoRef.of_pixels(shape), str(values.dtype)) as writer:
            writer.write(Window.whole(shape), values)
        publish_cog(tiled, tmp_path / f"{name}.tif", overviews="nearest")
        paths.append(tmp_path / f"{name}.tif")

    def never(window: Window):
        raise AssertionError("the full rasters are read")

    panels = read_panels(never, shape, (paths[0], paths[1]))
    assert max(panels.ids.shape) == 1024
    rows = (np.arange(panels.ids.shape[0]) + 0.5) * shape[0] / panels.ids.shape[0]
    cols = (np.arange(1024) + 0.5) * shape[1] / 1024
    same = panels.ids == labels[rows.astype(int)[:, None], cols.astype(int)]
    assert same.mean() > 0.97  # but for pixels on borders
    assert (panels.classes == panels.ids % 5 + 1).mean() > 0.97


def test_names_cannot_break_the_page() -> None:
    evil = "<script>alert(1)</script>&'\""
    row = ClassRow(evil, "thing", "#ff0000", 1.0, 1.0, 3, 5.0, 0.5, (1, 2), (3,))
    page = MapPage(evil, [(evil, evil)], "ha", 1.0, [row], 0.0, made=[(evil, evil)],
                   record={evil: evil}, notes=[evil])  # fmt: skip
    html = map_page(page)
    assert "<script" not in html
    parsed(html)


def test_charts_of_nothing_are_no_error() -> None:
    assert "<rect" not in histogram([], [], "#000000", "none")
    assert "<rect" not in histogram([0, 0], [(0, "0")], "#000000", "none")
    assert "<i" not in stacked_bar([("a", 0.0, "#000000")])


def test_export_writes_the_report_with_the_scene_it_finds(town: Path, tmp_path: Path) -> None:
    out = export(town, tmp_path / "r.html")
    assert "image/jpeg" in out.read_text()
    moved = tmp_path / "alone.panoptic"
    shutil.copytree(town, moved)
    info = json.loads((moved / "map.json").read_text())
    info["run"]["read"]["uri"] = "gone.tif"
    (moved / "map.json").write_text(json.dumps(info))
    bare = export(moved, tmp_path / "b.html").read_text()
    assert "image/jpeg" not in bare
    assert ">objects</span>" in bare
    shown = export(moved, tmp_path / "s.html", ExportSettings(scene=str(town.parent / "scene.tif")))
    assert "image/jpeg" in shown.read_text()
    other = spell(make_truth("blobs", (90, 90), seed=1), tmp_path / "other.tif")
    with pytest.raises(SceneError, match="other ground"):
        export(moved, tmp_path / "o.html", ExportSettings(scene=str(other)))
    with pytest.raises(ConfigError, match=r"\.html for a report"):
        export(moved, tmp_path / "o.pdf")


def test_a_scene_that_is_lost_costs_only_its_picture(town: Path) -> None:
    class Lost:
        georef = GeoRef.of_pixels((200, 230))
        bands = (1, 2, 3)

        @property
        def scene(self):
            raise SceneError("the disk is gone")

    html = report_of(PanopticMap.open(town), "town", Lost())  # type: ignore[arg-type]
    assert "The scene is not shown: the disk is gone" in html


@pytest.mark.browser
def test_a_browser_shows_the_report(town: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium; apt install chromium")
    shot = tmp_path / "shot.png"
    made = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         "--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND",
         "--window-size=1200,1600", f"--screenshot={shot}", (town / "report.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert shot.exists(), made.stderr
    assert "CONSOLE" not in made.stderr, made.stderr
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(shot) as image:
        pixels = image.read((1, 2, 3))
    assert pixels.shape == (3, 1600, 1200)
    # the swipe is drawn: its two halves are as colourful as the scene and the map
    for half in (pixels[:, 350:900, 120:560], pixels[:, 350:900, 640:1080]):
        colours = np.unique(half.reshape(3, -1), axis=1)
        assert colours.shape[1] > 4
        assert (half != 255).mean() > 0.5
