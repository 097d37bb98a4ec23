"""What a VRT may contain before GDAL is allowed to open it.

A VRT is a program: it can name any URL or file of the machine (a raw band reads /etc/passwd) and
run Python. So its text is read by us first, and only plain mosaics of plain files beside it pass.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from geopanoptic.errors import SceneError

_MAX_BYTES = 64 * 2**20
_MAX_DEPTH = 4
_SOURCES = ("SimpleSource", "ComplexSource")
_TAGS = {
    "VRTDataset", "SRS", "GeoTransform", "Metadata", "MDI", "GCPList", "GCP", "BlockXSize",
    "BlockYSize", "OverviewList", "MaskBand", "VRTRasterBand", "NoDataValue", "HideNoDataValue",
    "ColorInterp", "ColorTable", "Entry", "CategoryNames", "Category", "Description", "UnitType",
    "Offset", "Scale", "Histograms", "HistItem", "HistMin", "HistMax", "BucketCount",
    "IncludeOutOfRange", "Approximate", "HistCounts", "NODATA", "UseMaskBand",
    "GDALRasterAttributeTable", "FieldDefn", "Name", "Type", "Usage", "Row", "F",
    "SimpleSource", "ComplexSource", "SourceFilename", "SourceBand", "SourceProperties", "SrcRect",
    "DstRect", "OpenOptions", "OOI", "ScaleOffset", "ScaleRatio", "LUT", "Exponent", "SrcMin",
    "SrcMax", "DstMin", "DstMax", "Clamp", "ColorTableComponent",
}  # fmt: skip

# First bytes -> GDAL driver. A file is opened with exactly this driver, so an XML text that calls
# itself scene.tif is never parsed by GDAL's VRT or web drivers.
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"II*\0", "GTiff"),
    (b"MM\0*", "GTiff"),
    (b"II+\0", "GTiff"),
    (b"MM\0+", "GTiff"),
    (b"\0\0\0\x0cjP  ", "JP2OpenJPEG"),
    (b"\xff\x4f\xff\x51", "JP2OpenJPEG"),
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"EHFA_HEADER_TAG", "HFA"),
)


def driver_of(path: Path) -> str:
    """Return the GDAL driver for a local file by its first bytes, never by its name.

    Raises SceneError for a missing, empty or unreadable file, a folder, and formats we do not open.
    """
    if not path.exists():
        raise SceneError(f"there is no file '{path}'; check the path and the working directory")
    if path.is_dir():
        raise SceneError(f"'{path}' is a folder; name the raster file in it")
    try:
        head = _head(path)
    except OSError as why:
        raise SceneError(f"'{path}' cannot be read ({why.strerror}); check its rights") from why
    if not head:
        raise SceneError(f"'{path}' is empty (0 bytes); download or copy it again")
    for magic, driver in _MAGIC:
        if head.startswith(magic):
            _check_companions(path)
            return driver
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<VRTDataset"):
        return "VRT"
    raise SceneError(
        f"'{path}' is not a raster geopanoptic reads (GeoTIFF, COG, JPEG2000, VRT, PNG, JPEG, "
        f"Erdas Imagine); convert it first: gdal_translate '{path}' scene.tif"
    )


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def _check_companions(path: Path) -> None:
    """Refuse overviews, masks and side files that are no rasters or name other files.

    GDAL opens them with any driver, so a VRT called scene.tif.msk would do what a VRT may not.
    """
    for suffix in (".ovr", ".OVR", ".msk", ".MSK"):
        beside = path.with_name(path.name + suffix)
        if beside.is_file() and not _head(beside).startswith((b"II", b"MM")):
            raise SceneError(
                f"'{beside}' belongs to '{path.name}' but is no TIFF; move it away and build it "
                f"again: gdaladdo -ro '{path}'"
            )
    beside = path.with_name(path.name + ".aux.xml")
    if beside.is_file() and b"OVERVIEW_FILE" in beside.read_bytes():
        raise SceneError(f"'{beside}' names another file as overviews; remove that entry")


def check_vrt(path: Path, *, depth: int = 0) -> tuple[Path, ...]:
    """Return the member files of a harmless VRT, nested ones included, or raise SceneError.

    Harmless: at most 64 MB of XML without a DTD; only SimpleSource and ComplexSource; every member
    is a plain raster file (or another harmless VRT) in the VRT's own folder or below it.
    """
    if depth > _MAX_DEPTH:
        raise _refused(path, f"nests VRTs deeper than {_MAX_DEPTH}")
    root = _parse(path)
    if root.tag != "VRTDataset":
        raise _refused(path, f"starts with <{root.tag[:40]}>")
    members: dict[Path, None] = {}
    for element in root.iter():
        if element.tag not in _TAGS:
            raise _refused(path, f"contains <{element.tag[:40]}>")
        if "subClass" in element.attrib:
            raise _refused(path, f"has a band or dataset of subclass {element.get('subClass')!r}")
        if element.tag == "SourceFilename":
            member = _member(path, element)
            members[member] = None
            if driver_of(member) == "VRT":
                members |= dict.fromkeys(check_vrt(member, depth=depth + 1))
    return tuple(members)


def _parse(path: Path) -> ElementTree.Element:
    if path.stat().st_size > _MAX_BYTES:
        raise _refused(path, f"is {path.stat().st_size} bytes of XML (at most {_MAX_BYTES})")
    text = path.read_bytes()
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text or b"\0" in text:
        raise _refused(path, "declares a document type or entities, or is not UTF-8")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as why:
        raise SceneError(f"'{path}' is damaged XML ({why}); build it again: gdalbuildvrt") from why


def _member(path: Path, element: ElementTree.Element) -> Path:
    name = (element.text or "").strip()
    if len(element) or not name or name.startswith(("<", "/vsi")) or ":" in name:
        raise _refused(path, f"has a source that is no plain file: {name[:80]!r}")
    folder = path.resolve().parent
    relative = element.get("relativeToVRT", element.get("relativetoVRT", "0")) == "1"
    member = (folder / name if relative else Path(name)).resolve()
    if not member.is_relative_to(folder):
        raise _refused(path, f"names a source outside its own folder: '{member}'")
    if not member.exists():
        raise SceneError(f"'{path}' names a member that is not there: '{member}'; restore the file")
    return member


def _refused(path: Path, why: str) -> SceneError:
    return SceneError(
        f"the VRT '{path}' {why}; geopanoptic opens only plain mosaics of files beside the VRT, "
        f"since a VRT can read any file or address. If you made or trust it, turn it into a "
        f"GeoTIFF first: gdal_translate '{path}' scene.tif"
    )
