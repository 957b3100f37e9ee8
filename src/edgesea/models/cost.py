"""What a network takes for a window, counted on its ONNX graph (see `graph`), with normalisations folded in."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Any, get_args

import numpy as np

from edgesea.models.graph import student_graph
from edgesea.models.student_config import Head, StudentConfig, array_shapes, parameter_count

IN_PLACE = ("Relu", "HardSwish", "Sigmoid", "Add", "Mul", "Unsqueeze", "Flatten")  # may overwrite what they take
BY_CHANNEL = 9  # bytes in int8 of each output channel beside its weights: bias, multiplier and shift
# Instructions of the C engine for a multiplication, that of a depthwise convolution, a value that is made, and a
# multiplication of the front end, with all around it; fitted to what QEMU counts on a Cortex-M7, within 2 %
INSTRUCTIONS = {"product": 1.25, "depthwise": 2.1, "value": 30.0, "front_end": 5.7}


@dataclass(frozen=True)
class Layer:
    """An operator of a network, with the activation behind it."""

    operator: str
    made: tuple[int, ...]  # channels, bands, frames
    live: int  # values in memory meanwhile: what it takes, what it makes, and what waits for later
    weights: int = 0
    biases: int = 0
    macs: int = 0
    instructions: int = 0  # of the C engine, or if it were one of its operators


def sizes(config: StudentConfig) -> dict[str, int]:
    """What of a student decides which device can run it: parameters, and `totals`."""
    return {"parameters": parameter_count(config), **totals(student_layers(config))}


def totals(layers: Sequence[Layer]) -> dict[str, int]:
    """Multiplications of a network, bytes of its weights, and of its feature maps in int8.

    `activation_bytes` are those of all maps that are in memory at a time, if layers are computed one after the other.
    """
    weights, biases = sum(layer.weights for layer in layers), sum(layer.biases for layer in layers)
    return {
        "macs": sum(layer.macs for layer in layers),
        "flash_float32": 4 * (weights + biases),
        "flash_int8": weights + BY_CHANNEL * biases,
        "activation_bytes": max(layer.live for layer in layers),
        "largest_activation": max(prod(layer.made) for layer in layers),
    }


@cache
def student_layers(config: StudentConfig) -> list[Layer]:
    """The operators of a student; a head of an experiment counts as a linear one."""
    config = config if config.head in get_args(Head) else replace(config, head="linear")
    arrays = {name: np.zeros(shape, np.float32) for name, shape in array_shapes(config).items()}
    return trace(student_graph(config, arrays))


def trace(graph: bytes, frames: int = 0) -> list[Layer]:
    """The operators of a graph for one window, each computed as a whole and after the other.

    `frames` is their number, if the graph leaves it open.
    """
    import onnx

    model = onnx.load_from_string(graph)
    for dimension in model.graph.input[0].type.tensor_type.shape.dim:
        if dimension.dim_param:
            dimension.dim_value = {"B": 1}.get(dimension.dim_param, frames)
    found = onnx.shape_inference.infer_shapes(model).graph
    constants = {item.name: tuple(item.dims) for item in found.initializer}
    known = [*found.input, *found.value_info, *found.output]
    shapes = {item.name: tuple(size.dim_value for size in item.type.tensor_type.shape.dim)[1:] for item in known}
    uses = Counter(name for node in found.node for name in node.input)
    start = found.input[0].name
    place, held, layers = {start: start}, {start: prod(shapes[start])}, []  # buffers of results; values of buffers
    for node in found.node:
        (result,), given = node.output, [name for name in node.input if name not in constants]
        uses.subtract(given)
        over = {place[name] for name in given if not uses[name]}  # buffers that nobody needs any more
        size = prod(shapes[result])
        same = [name for name in over if node.op_type in IN_PLACE and held[name] == size]
        place[result] = same[0] if same else result
        held[place[result]] = size
        live = sum(held.values())
        for name in over - {place[result]}:
            del held[name]
        weights = [constants[name] for name in node.input if name in constants]
        counts, operator = (0, 0, 0, 0), _operator(node, weights)
        if node.op_type in ("Conv", "Gemm"):
            macs = prod(weights[0][1:]) * size
            instructions = INSTRUCTIONS["depthwise" if "depthwise" in operator else "product"] * macs
            counts = (prod(weights[0]), prod(weights[1]), macs, round(instructions + INSTRUCTIONS["value"] * size))
        layers.append(Layer(operator, shapes[result], live, *counts))
    return layers


def _operator(node: Any, weights: list[tuple[int, ...]]) -> str:
    """What an operator is called in tables: Conv 3x3 /2 depthwise."""
    from onnx.helper import get_attribute_value

    known = {item.name: get_attribute_value(item) for item in node.attribute}
    size = weights[0][2:] if node.op_type == "Conv" else known.get("kernel_shape", ())
    step = known.get("strides", [1])[0] if node.op_type == "Conv" else 1
    words = [node.op_type, "x".join(map(str, size)), f"/{step}" * (step > 1), "depthwise" * (known.get("group", 1) > 1)]
    return " ".join(filter(None, words))
