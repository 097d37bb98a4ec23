"""Other forms of a model: an exported graph, and what it takes to compute in 8 bits.

Ranges are measured on pixels of scenes by ONNX Runtime. How far 8 bits agree with 32 is measured
on chips that the ranges were not, and stands in the card beside them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import CheckpointError
from geopanoptic.models.card import ModelCard
from geopanoptic.models.checkpoint import KEY, read_header, read_tensors, save_model
from geopanoptic.models.engines import Engine, lacking, version_of
from geopanoptic.models.engines.int8 import open_eight_bit
from geopanoptic.models.engines.precision import EightBit
from geopanoptic.models.engines.runners import exported, open_runner
from geopanoptic.models.engines.segmenter import GraphSegmenter
from geopanoptic.models.onnx_file import embed_card
from geopanoptic.models.segmenter import Segmenter
from geopanoptic.models.sources import source_of

_CALIBRATED_PX = 384
_LOOKED_AT = 200_000  # numbers of one tensor and chip
_CUT = 1e-4

Chips = Sequence[npt.NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How tiles in 8 bits compare with those in 32: share of equal classes, PQ of things.

    `things_pq`: the things in 32 bits as truth, matched at IoU above 0.5.
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


def write_ir(graph: bytes, card: ModelCard, out: Path) -> None:
    """Write an exported graph as OpenVINO's two files, `out` (.xml) and its weights (.bin) beside.

    The card stands in the runtime information under `geopanoptic`. Raises CheckpointError without
    OpenVINO.
    """
    if why := lacking("openvino"):
        raise CheckpointError(f"an OpenVINO model needs OpenVINO: {why}")
    from geopanoptic.models.engines.runners import silent_openvino

    openvino = silent_openvino()
    model = openvino.Core().read_model(graph, b"")
    model.set_rt_info(json.dumps(card.to_json()), [KEY])
    openvino.save_model(model, out, compress_to_fp16=False)


def with_ranges(path: Path, chips: Chips, out: Path) -> tuple[ModelCard, EightBit]:
    """Write a dense model again to `out`, with what its card needs for 8 bits; return both.

    `chips`: at least two of (band, h, w) uint8, h and w multiples of 32: on the even ones the
    ranges are measured, on the odd ones 8 bits are compared with 32. The weights stay as they are.
    """
    if len(chips) < 2:
        raise CheckpointError(f"{len(chips)} chips are too few to calibrate and compare on; give 2")
    for name in ("onnx", "onnxruntime"):
        if why := lacking(name):
            raise CheckpointError(f"ranges are measured by onnxruntime: {why}")
    engine = "openvino" if lacking("openvino") is None else "onnxruntime"
    header = read_header(path)
    tensors = read_tensors(path, header)
    card = save_model(out, tensors, replace(header.card, int8={}))
    graph = exported(out, card)
    found = EightBit(card.sha256, measured_ranges(graph.make(), chips[::2]), 0.0, 0.0, 0)
    trial = replace(card, int8=found.to_json())
    exact, small = (Engine(engine, version_of(engine), p) for p in ("fp32", "int8"))
    original = GraphSegmenter(card, open_runner(graph, exact, 1))
    twin = GraphSegmenter(trial, open_eight_bit(graph, trial, small, 1))
    same = agreement(original, twin, chips[1::2])
    found = replace(
        found,
        class_agreement=round(same.classes, 5),
        things_pq=round(same.things_pq, 4),
        chips=same.chips,
    )
    return save_model(out, tensors, replace(card, int8=found.to_json())), found


def measured_ranges(graph: bytes, chips: Chips) -> dict[str, tuple[float, float]]:
    """Return the range of what every convolution reads on chips, without the rarest numbers.

    Of each chip a ten-thousandth is cut off at both ends, where it only makes the steps coarser.
    """
    import onnx
    import onnxruntime

    from geopanoptic.models.engines.qdq import convolutions

    model = onnx.load_from_string(graph)
    read = {name: node.input[0] for name, node in convolutions(model).items()}
    known = {v.name for v in (*model.graph.input, *model.graph.output)}
    wanted = list(dict.fromkeys(read.values()))
    for name in wanted:
        if name not in known:
            kind = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            model.graph.output.append(kind)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: dict[str, tuple[float, float]] = {}
    for chip in chips:
        # parts of a chip, because all that is read is held at once
        part = chip[None, :, :_CALIBRATED_PX, :_CALIBRATED_PX].astype(np.float32)
        for name, values in zip(wanted, session.run(wanted, {"chips": part}), strict=True):
            some = values.ravel()[:: max(1, values.size // _LOOKED_AT)]
            ends = np.quantile(some, (_CUT, 1 - _CUT))
            low, high = found.get(name, (np.inf, -np.inf))
            found[name] = (min(low, float(ends[0])), max(high, float(ends[1])))
    return {name: found[tensor] for name, tensor in read.items()}


def agreement(original: Segmenter, twin: Segmenter, chips: Chips) -> Agreement:
    """Compare what two models make of chips (band, h, w), all of whose pixels count."""
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
