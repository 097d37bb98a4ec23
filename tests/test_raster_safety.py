"""Damaged, hostile and enormous rasters: an error that says what to do, never zeros or bombs."""

from __future__ import annotations

import http.server
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasters import UTM, noise, write_raster

from geopanoptic.errors import SceneError
from geopanoptic.grid import Window
from geopanoptic.raster import ReadRequest, Scene, WorkingScene, gdal_environment, gdal_settings

ASIDE = '<SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename>'


def vrt(path: Path, body: str, size: int = 64, band: str = "") -> Path:
    path.write_text(
        f'<VRTDataset rasterXSize="{size}" rasterYSize="{size}"><SRS>EPSG:26910</SRS>'
        f"<GeoTransform>500000, 0.3, 0, 5200000, 0, -0.3</GeoTransform>"
        f'<VRTRasterBand dataType="Byte" band="1"{band}>{body}</VRTRasterBand></VRTDataset>'
    )
    return path


def source(name: object, *, relative: int = 1, rect: tuple[int, int, int] = (0, 0, 64)) -> str:
    row, col, size = rect
    return (
        f'<SimpleSource><SourceFilename relativeToVRT="{relative}">{name}</SourceFilename>'
        f'<SourceBand>1</SourceBand><SrcRect xOff="0" yOff="0" xSize="{size}" ySize="{size}"/>'
        f'<DstRect xOff="{col}" yOff="{row}" xSize="{size}" ySize="{size}"/></SimpleSource>'
    )


def test_an_honest_vrt_beside_its_files_is_read(tmp_path: Path) -> None:
    array = noise(1, 64, 64)
    write_raster(tmp_path / "a.tif", array)
    scene = Scene.open(vrt(tmp_path / "m.vrt", source("a.tif")))
    assert np.array_equal(scene.read(Window.whole((64, 64)))[0], array)
    assert [Path(m["uri"]).name for m in scene.fingerprint()["members"]] == ["m.vrt", "a.tif"]


def test_a_vrt_called_tif_is_judged_as_a_vrt(tmp_path: Path) -> None:
    path = vrt(tmp_path / "innocent.tif", source("/etc/passwd", relative=0))
    with pytest.raises(SceneError, match="outside its own folder"):
        Scene.open(path)


RAW_BAND = (
    "<SourceFilename relativetoVRT='0'>/etc/passwd</SourceFilename><ImageOffset>0</ImageOffset>"
    "<PixelOffset>1</PixelOffset><LineOffset>64</LineOffset>"
)
PYTHON = (
    "<PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>"
    "<PixelFunctionCode><![CDATA[\nimport os\n]]></PixelFunctionCode>"
)
ATTACKS = {
    "a raw band of any file": (RAW_BAND, ' subClass="VRTRawRasterBand"'),
    "a python pixel function": (PYTHON, ' subClass="VRTDerivedRasterBand"'),
    "an address": (source("http://127.0.0.1:9/x.tif", relative=0), ""),
    "an address by curl": (source("/vsicurl/http://127.0.0.1:9/x.tif", relative=0), ""),
    "a file outside": (source("../../../../etc/hostname"), ""),
    "another driver": (source("NETCDF:a.tif:x"), ""),
    "a nested vrt in the name": (source("&lt;VRTDataset/&gt;"), ""),
    "a nested vrt as elements": (ASIDE.format(name="<VRTDataset/>") + "</SimpleSource>", ""),
    "a kernel filter": (source("a.tif").replace("SimpleSource", "KernelFilteredSource"), ""),
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a)
def test_a_hostile_vrt_is_refused_and_says_how_to_go_on(tmp_path: Path, attack: str) -> None:
    write_raster(tmp_path / "a.tif", noise(1, 64, 64))
    body, band = ATTACKS[attack]
    with pytest.raises(SceneError, match="gdal_translate"):
        Scene.open(vrt(tmp_path / "m.vrt", body, band=band))


def test_a_member_that_is_itself_hostile_is_refused(tmp_path: Path) -> None:
    vrt(tmp_path / "inner.tif", RAW_BAND, band=' subClass="VRTRawRasterBand"')
    with pytest.raises(SceneError, match=r"inner.tif.*VRTRawRasterBand"):
        Scene.open(vrt(tmp_path / "m.vrt", source("inner.tif")))
    (tmp_path / "secret.tif").write_text("root:x:0:0")
    with pytest.raises(SceneError, match="not a raster"):
        Scene.open(vrt(tmp_path / "n.vrt", source("secret.tif")))


def test_a_link_out_of_the_folder_is_followed_before_judging(tmp_path: Path) -> None:
    write_raster(tmp_path / "far.tif", noise(1, 64, 64))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tif").symlink_to(tmp_path / "far.tif")
    with pytest.raises(SceneError, match="outside its own folder"):
        Scene.open(vrt(tmp_path / "in" / "m.vrt", source("a.tif")))
    assert Scene.open(tmp_path / "in" / "m.vrt", trust_vrt=True).band_count == 1


def test_vrts_that_contain_each_other_and_entity_bombs_end(tmp_path: Path) -> None:
    vrt(tmp_path / "a.vrt", source("b.vrt"))
    vrt(tmp_path / "b.vrt", source("a.vrt"))
    with pytest.raises(SceneError, match="deeper"):
        Scene.open(tmp_path / "a.vrt")
    bomb = tmp_path / "bomb.vrt"
    bomb.write_text('<VRTDataset><!DOCTYPE x [<!ENTITY a "aaaa">]></VRTDataset>')
    with pytest.raises(SceneError, match="entities"):
        Scene.open(bomb)
    (tmp_path / "cut.vrt").write_text("<VRTDataset rasterXSize='3'><VRTRas")
    with pytest.raises(SceneError, match="damaged XML"):
        Scene.open(tmp_path / "cut.vrt")


def mosaic_with(tmp_path: Path, name: str) -> Path:
    """A VRT of 3 x 3 files of 512 px; the one in the middle is `name`."""
    for k in range(9):
        options = {"tiled": True, "compress": "deflate"}
        write_raster(tmp_path / f"{k}.tif", noise(1, 512, 512, seed=k), **options)
    names = [name if k == 4 else f"{k}.tif" for k in range(9)]
    body = "".join(
        source(n, rect=(512 * (k // 3), 512 * (k % 3), 512)) for k, n in enumerate(names)
    )
    return vrt(tmp_path / "m.vrt", body, size=1536)


def test_a_corrupt_member_of_a_vrt_raises_and_never_reads_as_zeros(tmp_path: Path) -> None:
    """GDAL 3.10 reads big windows of a VRT by threads and loses their errors; one thread raises."""
    path = mosaic_with(tmp_path, "4.tif")
    scene = Scene.open(path)
    bytes_of = bytearray((tmp_path / "4.tif").read_bytes())
    middle = len(bytes_of) // 2
    bytes_of[middle : middle + 5000] = os.urandom(5000)
    (tmp_path / "4.tif").write_bytes(bytes_of)
    with pytest.raises(SceneError, match=r"m\.vrt' cannot be read at rows 0:1536"):
        scene.read(Window(0, 0, 1536, 1536))
    corner, valid = scene.read(Window(0, 0, 400, 400))
    assert corner.min() > 0, "what is healthy is still read after the error"
    assert valid.all()


def test_a_missing_member_is_named(tmp_path: Path) -> None:
    path = mosaic_with(tmp_path, "4.tif")
    (tmp_path / "4.tif").unlink()
    with pytest.raises(SceneError, match=r"member that is not there.*4\.tif"):
        Scene.open(path)


def test_a_truncated_file_is_told_from_its_block_table(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(3, 500, 500), tiled=True, compress="deflate")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(SceneError, match=rf"truncated.*{len(whole) * 2 // 3} bytes.*again"):
        Scene.open(path)


def test_a_damaged_block_raises_in_every_window_that_meets_it_and_no_other(tmp_path: Path) -> None:
    options = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    path = write_raster(tmp_path / "a.tif", noise(1, 256, 256), **options)
    with rasterio.open(path) as dataset:
        place = int(dataset.get_tag_item("BLOCK_OFFSET_2_1", "TIFF", bidx=1))
        size = int(dataset.get_tag_item("BLOCK_SIZE_2_1", "TIFF", bidx=1))
    damaged = bytearray(path.read_bytes())
    damaged[place : place + size] = bytes(size)
    path.write_bytes(damaged)
    scene = Scene.open(path)
    for _ in range(2):
        with pytest.raises(SceneError, match=r"rows 0:256, cols 0:256.*copy or download"):
            scene.read(Window(0, 0, 256, 256))
        assert scene.read(Window(0, 0, 64, 256))[0].min() > 0
    with pytest.raises(SceneError):
        WorkingScene.plan(scene, ReadRequest((1,), gsd_m=0.5)).read(Window(0, 0, 150, 150))


def tiff_claiming(path: Path, width: int, height: int, tile: int) -> Path:
    """A TIFF of 200 bytes whose header claims a size."""
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (277, 3, 1, 1), (322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 1, 8), (325, 4, 1, 8),
    ]  # fmt: skip
    body = struct.pack("<2sHI", b"II", 42, 16) + bytes(8) + struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        body += struct.pack("<HHII", tag, kind, count, value)
    path.write_bytes(body + bytes(4))
    return path


@pytest.mark.parametrize(
    "width, height, tile, message",
    [
        (2**31 - 1, 2**31 - 1, 2**30, "pixels"),
        (65_536, 65_536, 65_536, r"4096 MiB.*TILED=YES"),
        (1_100_000, 1_100_000, 512, r"1100000 x 1100000"),
        (0, 0, 16, "cannot be opened"),
    ],
)
def test_absurd_dimensions_are_refused_before_any_pixel_is_read(
    tmp_path: Path, width: int, height: int, tile: int, message: str
) -> None:
    with pytest.raises(SceneError, match=message):
        Scene.open(tiff_claiming(tmp_path / "bomb.tif", width, height, tile))


def test_settings_are_the_same_as_options_and_as_environment() -> None:
    options = gdal_settings()
    assert options["VRT_NUM_THREADS"] == options["GDAL_NUM_THREADS"] == 1
    assert options["GTIFF_IGNORE_READ_ERRORS"] == "NO"
    assert options.pop("GDAL_CACHEMAX") == 64 * 2**20, "rasterio takes bytes,"
    assert gdal_environment()["GDAL_CACHEMAX"] == "64", "GDAL megabytes"
    assert options.pop("CPL_VSIL_CURL_ALLOWED_EXTENSIONS") == ".none"
    assert gdal_environment().items() >= {(k, str(v)) for k, v in options.items()}
    assert "WMS" in gdal_environment()["GDAL_SKIP"].split()
    remote = gdal_settings(remote=True)
    assert remote["GDAL_DISABLE_READDIR_ON_OPEN"] == "EMPTY_DIR"
    assert "CPL_VSIL_CURL_ALLOWED_EXTENSIONS" not in remote


def test_a_block_read_twice_is_decoded_once(tmp_path: Path) -> None:
    """rasterio.Env takes the cache size in bytes where GDAL takes megabytes."""
    path = write_raster(tmp_path / "a.tif", noise(1, 512, 512), tiled=True, compress="deflate")
    scene = Scene.open(path)
    first, _ = scene.read(Window.whole((512, 512)))
    path.write_bytes(bytes(path.stat().st_size))  # what is not in the cache is lost
    assert np.array_equal(scene.read(Window.whole((512, 512)))[0], first)


@pytest.mark.parametrize("suffix", [".msk", ".ovr"])
def test_a_vrt_that_poses_as_the_mask_of_a_scene_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write_raster(tmp_path / "a.tif", noise(1, 64, 64))
    vrt(tmp_path / f"a.tif{suffix}", RAW_BAND, band=' subClass="VRTRawRasterBand"')
    with pytest.raises(SceneError, match=r"is no TIFF; move it away"):
        Scene.open(path)
    with pytest.raises(SceneError, match=r"is no TIFF; move it away"):
        Scene.open(vrt(tmp_path / "m.vrt", source("a.tif")))


def test_a_scene_is_read_over_http(tmp_path: Path) -> None:
    """From a server on this machine that answers ranges, as object stores do."""
    array = noise(3, 300, 300)
    write_raster(tmp_path / "a.tif", array, tiled=True, blockxsize=64, blockysize=64)
    (tmp_path / "a.tif").rename(tmp_path / "s.tif")
    served = (tmp_path / "s.tif").read_bytes()
    asked: list[str] = []

    class Ranges(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            asked.append(self.path)
            first, last = 0, len(served) - 1
            span = self.headers.get("Range")
            if span:
                low, high = span.removeprefix("bytes=").split("-")
                first, last = int(low), min(int(high or last), last)
            self.send_response(206 if span else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(last - first + 1))
            if span:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(served)}")
            self.end_headers()
            if body:
                self.wfile.write(served[first : last + 1])

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        scene = Scene.open(f"http://127.0.0.1:{server.server_port}/s.tif")
        pixels, _ = scene.read(Window(10, 20, 100, 110))
        scene.close()
        server.shutdown()
    assert np.array_equal(pixels, array[:, 10:110, 20:130])
    assert set(asked) == {"/s.tif"}, "no neighbour of the file is asked for"
    assert scene.fingerprint()["members"][0]["size"] is None


def test_a_remote_vrt_is_refused_without_asking_the_network() -> None:
    with pytest.raises(SceneError, match="remote VRT"):
        Scene.open("https://example.invalid/a.vrt")


def test_an_unreachable_address_is_a_scene_error() -> None:
    code = (
        "from geopanoptic.raster import Scene\n"
        "from geopanoptic.errors import SceneError\n"
        "try: Scene.open('http://127.0.0.1:9/a.tif')\n"
        "except SceneError as why: print(why)\n"
    )
    env = os.environ | {"GDAL_HTTP_MAX_RETRY": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert "cannot be opened" in done.stdout, done.stderr


def test_a_worker_forked_from_a_reader_opens_its_own_handle(tmp_path: Path) -> None:
    array = noise(1, 128, 128)
    scene = Scene.open(write_raster(tmp_path / "a.tif", array, transform=UTM))
    scene.read(Window(0, 0, 8, 8))
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
        pid = os.fork()
    if pid == 0:
        same = np.array_equal(scene.read(Window.whole((128, 128)))[0], array)
        os._exit(0 if same else 1)
    assert os.waitpid(pid, 0)[1] == 0
