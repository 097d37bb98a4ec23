"""An 8-bit graph: a float one whose convolutions read rounded numbers. Needs onnx, nothing else.

What a convolution reads is rounded to 256 steps of its range, its weights to 255 steps per output
channel (QDQ nodes; Jacob et al. 2018, Krishnamoorthi 2018); engines then multiply in integers. All
else stays in floats. Nothing is rounded but what convolutions read: OpenVINO 2026.4 gives wrong
answers where a tensor that is rounded for a convolution enters a concatenation rounded alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Range = tuple[float, float]

_LEAST_STEP = 1e-8


def convolutions(model: Any) -> dict[str, Any]:
    """Return the convolutions of a parsed graph whose weights are constants, by those's name."""
    constants = {t.name for t in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type == "Conv" and n.input[1] in constants]
    return {n.input[1].removesuffix(".weight"): n for n in nodes}


def eight_bit_graph(graph: bytes, ranges: Mapping[str, Range]) -> bytes:
    """Return the graph with the convolutions of `ranges` in 8 bits.

    `ranges`: of what each reads, (low, high), by the names of `convolutions`. Raises ValueError
    when the graph has no convolution of such a name.
    """
    model = onnx.load_from_string(graph)
    found = convolutions(model)
    unknown = sorted(set(ranges) - set(found))
    if unknown:
        raise ValueError(f"the graph has no convolution '{unknown[0]}' ({len(unknown)} lacking)")
    weights = {t.name: t for t in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    chosen = {found[name].output[0]: name for name in ranges}
    nodes: list[Any] = []
    for node in list(model.graph.node):
        name = chosen.get(node.output[0])
        if name is not None:
            before, constants = _rounded_input(node, makers, name, ranges[name])
            more, others = _rounded_weights(node, weights[node.input[1]], name)
            nodes += [*before, *more]
            model.graph.initializer.extend([*constants, *others])
        nodes.append(node)
    _replace_nodes(model, nodes)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def _rounded_input(
    conv: Any, makers: Mapping[str, Any], name: str, found: Range
) -> tuple[list[Any], list[Any]]:
    """Let a convolution read rounded numbers; zeros padded before it are padded after rounding."""
    low, high = min(found[0], 0.0), max(found[1], 0.0)  # zero is exact: paddings are zeros
    step = max((high - low) / 255, _LEAST_STEP)
    scale, zero, rounded, read = (f"{name}.{s}" for s in ("step", "zero", "rounded", "read"))
    constants = [
        numpy_helper.from_array(np.array(step, np.float32), scale),
        numpy_helper.from_array(np.array(round(-low / step), np.uint8), zero),
    ]
    pad: Any = makers.get(conv.input[0])
    padded = pad is not None and pad.op_type == "Pad"
    nodes = [
        helper.make_node("QuantizeLinear", [(pad if padded else conv).input[0], scale, zero],
                         [rounded], f"{name}.round"),
        helper.make_node("DequantizeLinear", [rounded, scale, zero], [read], f"{name}.unround"),
    ]  # fmt: skip
    if padded:
        again = onnx.NodeProto()
        again.CopyFrom(pad)
        again.name, again.input[0], again.output[0] = f"{name}.pad", read, f"{name}.padded"
        nodes.append(again)
        read = again.output[0]
    conv.input[0] = read
    return nodes, constants


def _rounded_weights(conv: Any, tensor: Any, name: str) -> tuple[list[Any], list[Any]]:
    values = numpy_helper.to_array(tensor)
    largest = np.abs(values).max(axis=tuple(range(1, values.ndim)))
    step = np.maximum(largest / 127, _LEAST_STEP).astype(np.float32)
    whole = np.rint(values / step.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
    parts = {"int8": whole, "steps": step, "zeros": np.zeros(len(step), np.int8)}
    names = [f"{name}.weight.{part}" for part in parts]
    constants = [numpy_helper.from_array(v, n) for n, v in zip(names, parts.values(), strict=True)]
    conv.input[1] = f"{name}.weight.read"
    node = helper.make_node(
        "DequantizeLinear", names, [conv.input[1]], f"{name}.weight.unround", axis=0
    )
    return [node], constants


def _replace_nodes(model: Any, nodes: list[Any]) -> None:
    """Put nodes into the graph, without paddings and weights that nobody reads any more."""
    graph = model.graph
    read = {name for node in nodes for name in node.input} | {v.name for v in graph.output}
    kept = [n for n in nodes if n.op_type != "Pad" or set(n.output) & read]
    constants = [t for t in graph.initializer if t.name in read]
    for field, values in ((graph.node, kept), (graph.initializer, constants)):
        copies = [type(v)() for v in values]
        for copy, value in zip(copies, values, strict=True):
            copy.CopyFrom(value)
        del field[:]
        field.extend(copies)
