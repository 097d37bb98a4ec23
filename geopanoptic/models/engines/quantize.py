"""An 8-bit twin of a model: its graph with integer convolutions, calibrated on pixels of a scene.

Static quantisation with QDQ nodes, per channel (Jacob et al. 2018), by ONNX Runtime's tools;
OpenVINO runs the same graph. A twin is a model file of its own, chosen by nobody but the user: how
far it agrees with the original is measured on chips that it was not calibrated on, and stands in
its card.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import CheckpointError
from geopanoptic.models.card import ModelCard
from geopanoptic.models.checkpoint import read_header
from geopanoptic.models.engines import usable_engine
from geopanoptic.models.engines.runners import GraphSource, exported, open_runner
from geopanoptic.models.onnx_file import OnnxSegmenter, embed_card
from geopanoptic.models.sources import Place, source_of

Chips = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a twin's tiles compare with the original's: share of equal classes, PQ of things.

    `things_pq`: the original's things as truth, matched at IoU above 0.5.
    """

    classes: float
    things_pq: float
    chips: int


def exported_model(path: Path) -> tuple[bytes, ModelCard]:
    """Return a dense model file as an ONNX file with its card inside, and that card."""
    card = source_of(path).check()
    if card.architecture != "dense":
        raise CheckpointError(
            f"the architecture '{card.architecture}' cannot be exported; dense models can"
        )
    return embed_card(exported(path, card).make(), card)


def quantized_model(path: Path, chips: Chips) -> tuple[bytes, ModelCard, Agreement]:
    """Return the 8-bit twin of a dense model, its card, and how far it agrees.

    `chips` (n, band, h, w) uint8, n >= 2, h and w multiples of 32: the even ones calibrate, the
    odd ones are compared. The head keeps its precision.
    """
    if len(chips) < 2:
        raise CheckpointError(f"{len(chips)} chips are too few to calibrate and compare on; give 2")
    data, card = exported_model(path)
    small = _quantized(data, chips[::2])
    twin, small_card = embed_card(small, replace(card, name=f"{card.name}-int8"))
    original = source_of(path).load(Place(usable_engine("onnxruntime")))
    run = open_runner(GraphSource(f"onnx-{small_card.sha256[:32]}", lambda: twin),
                      usable_engine("onnxruntime"), 1)  # fmt: skip
    found = _agreement(original, OnnxSegmenter(small_card, run), chips[1::2])
    told = {
        "what": "8-bit twin against its original, on chips that it was not calibrated on",
        "class_agreement": round(found.classes, 5),
        "things_pq": round(found.things_pq, 4),
        "chips": found.chips,
        "original_sha256": read_header(path).card.sha256,
    }
    final = replace(small_card, metrics=(*small_card.metrics, told))
    return (*embed_card(small, final), found)


def _quantized(graph: bytes, chips: Chips) -> bytes:
    try:
        import onnx
        from onnxruntime.quantization import (
            CalibrationDataReader,
            QuantFormat,
            QuantType,
            quantize_static,
        )
    except ImportError as why:
        raise CheckpointError(
            f"8-bit models need onnx and onnxruntime ({why}): pip install 'geopanoptic[cpu]'"
        ) from why

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._chips: Iterator[Any] = ({"chips": c[None].astype(np.float32)} for c in chips)

        def get_next(self) -> Any:
            return next(self._chips, None)

    head = [n.name for n in onnx.load_from_string(graph).graph.node if n.op_type == "Conv"][-1]
    with tempfile.TemporaryDirectory(prefix="geopanoptic-") as folder:
        source, out = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(graph)
        quantize_static(
            str(source), str(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv"], nodes_to_exclude=[head],
        )  # fmt: skip
        return out.read_bytes()


def _agreement(original: Any, twin: Any, chips: Chips) -> Agreement:
    same, hits, quality, sizes = 0.0, 0, 0.0, 0
    for chip in chips:
        valid = np.ones(chip.shape[1:], bool)
        tiles = [m.segment(chip[None], valid[None])[0] for m in (original, twin)]
        one, other = (np.where(t.instance > 0, t.class_of[t.instance], t.stuff) for t in tiles)
        same += float((one == other).mean())
        ious = _matches(tiles[0].instance, tiles[1].instance)
        hits, quality = hits + len(ious), quality + float(sum(ious))
        sizes += sum(len(t.class_of) - 1 for t in tiles)
    # PQ = sum of IoU / (TP + FP/2 + FN/2), and TP + FP/2 + FN/2 is half the number of all things
    pq = quality / (sizes / 2) if sizes else 1.0
    return Agreement(same / len(chips), pq, len(chips))


def _matches(one: npt.NDArray[np.int32], other: npt.NDArray[np.int32]) -> list[float]:
    from geopanoptic.contingency import Contingency

    table = Contingency.of(one.astype(np.int64), other.astype(np.int64))
    areas = np.bincount(one.ravel()), np.bincount(other.ravel())
    rows = zip(table.a, table.b, table.pixels, strict=True)
    ious = [n / (areas[0][a] + areas[1][b] - n) for a, b, n in rows if a > 0 and b > 0]
    return [float(iou) for iou in ious if iou > 0.5]
