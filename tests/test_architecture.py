"""The house keeps its shape: layers, the public door, budgets, light imports, one vocabulary."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import geopanoptic

PACKAGE = Path(geopanoptic.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# A room's layer; imports run downwards, or sideways between the pure or file rooms listed below.
LAYERS = {
    0: {"errors", "config", "grid", "georef", "schema", "quiet"},
    1: {"contingency", "segments"},
    2: {"stitch", "polygons", "metrics", "matching"},
    3: {"models", "raster", "vector", "store", "report"},
    4: {"workers", "dataset", "panoptic_map"},
    5: {"predict", "train", "evaluate", "export", "change", "track", "area"},
    6: {"cli"},
}
LAYER_OF = {room: layer for layer, rooms in LAYERS.items() for room in rooms}
# In layers 0 and 1 the vocabulary may build on itself; tools of layer 5 do not call each
# other, but for what is named here.
SAME_LAYER = {
    ("config", "errors"), ("grid", "errors"), ("georef", "errors"), ("georef", "grid"),
    ("schema", "errors"),
    ("metrics", "matching"), ("dataset", "panoptic_map"),
    ("raster", "store"), ("vector", "store"),
    ("train", "predict"),  # a training is judged by the tool that its model is for
    ("track", "change"),  # a series is a chain of changes; never the other way round
}  # fmt: skip
HEAVY = {"torch", "dask", "distributed", "rasterio", "segmentation_models_pytorch", "timm"}


def room_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE).parts
    return inside[0].removesuffix(".py")


def imports_of(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Yield (dotted module, whether it runs when the module is imported) of all imports."""
    at_import = {id(node) for node in ast.walk(tree)}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            at_import -= {id(n) for n in ast.walk(function) if n is not function}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, id(node) in at_import
            if node.module == "geopanoptic":
                yield from ((f"geopanoptic.{a.name}", id(node) in at_import) for a in node.names)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downwards(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    assert room in LAYER_OF, f"room '{room}' has no layer; give it one in architecture and here"
    for module, _ in imports_of(parsed(path)):
        parts = module.split(".")
        if parts[0] != "geopanoptic" or len(parts) < 2 or parts[1] == room:
            continue
        if parts[1] == "__version__":
            continue
        other = parts[1]
        assert other in LAYER_OF, f"{path.name} imports {module}, a room without a layer"
        below = LAYER_OF[other] < LAYER_OF[room]
        assert below or (room, other) in SAME_LAYER, f"{room} imports {other}, not below it"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_lower_layers_know_neither_torch_nor_dask_nor_rasterio(path: Path) -> None:
    room = room_of(path)
    heavy = HEAVY if LAYER_OF.get(room, 9) <= 2 else set()
    if room == "models":
        heavy = {"rasterio", "dask", "distributed"}
    if room in {"raster", "vector", "store"}:
        heavy = {"torch", "dask", "distributed", "segmentation_models_pytorch", "timm"}
    for module, _ in imports_of(parsed(path)):
        assert module.split(".")[0] not in heavy, f"{room} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_and_functions_stay_within_their_budgets(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 400, f"{len(lines)} lines: make it a folder of the same name"
    is_command = room_of(path) == "cli"  # a command's parameters are its options
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"
            args = node.args
            count = len(args.posonlyargs) + len(args.args) + len(args.kwonlyargs)
            count -= bool(args.args and args.args[0].arg in ("self", "cls"))
            assert is_command or count <= 6, f"{node.name} has {count} parameters: a missing noun"


def test_no_room_is_called_utils_or_common() -> None:
    names = {p.stem for p in MODULES} | {p.parent.name for p in MODULES}
    assert not names & {"utils", "util", "common", "helpers", "misc", "core", "base"}


def test_every_public_name_is_there_and_documented() -> None:
    for name in geopanoptic.__all__:
        thing = getattr(geopanoptic, name)
        assert name == "__version__" or (thing.__doc__ or "").strip(), f"{name} has no docstring"
    assert len(geopanoptic.__all__) <= 22, "the public door is small"
    with pytest.raises(AttributeError, match="predikt"):
        _ = geopanoptic.predikt


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize("code", ["import geopanoptic", "import geopanoptic.cli.main"])
def test_import_is_light(code: str) -> None:
    loaded = run_python(f"{code}\nimport sys; print(' '.join(sys.modules))").split()
    heavy = (HEAVY | {"numpy", "pandas", "geopandas", "shapely", "numba", "pyproj"}) & set(loaded)
    assert not heavy, f"{code} loads {sorted(heavy)}"


@pytest.mark.parametrize("code", ["import geopanoptic", "from geopanoptic.cli.main import cli"])
def test_import_takes_less_than_half_a_second(code: str) -> None:
    # The best of five: the machine may be busy, and a start-up only ever gets slower by that.
    timed = "import time; t = time.perf_counter(); " + code + "; print(time.perf_counter() - t)"
    assert min(float(run_python(timed)) for _ in range(5)) < 0.5


def test_help_takes_less_than_half_a_second() -> None:
    code = (
        "import time, sys; t = time.perf_counter()\n"
        "from geopanoptic.cli.main import cli\n"
        "try: cli.main(['--help'], standalone_mode=True)\n"
        "except SystemExit: print(time.perf_counter() - t)"
    )
    assert min(float(run_python(code).split()[-1]) for _ in range(5)) < 0.5
