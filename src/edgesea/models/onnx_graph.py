"""The network of a student as an ONNX graph, built from its arrays without torch."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.models.config import StudentConfig, convolutions

Arrays = Mapping[str, NDArray[Any]]
EPSILON = 1e-3  # of all batch normalisations
OPSET, IR_VERSION = 17, 8  # old enough for every onnxruntime since 1.15
INPUT, OUTPUT = "log_mel", "embedding"


class _Graph:
    """Nodes and constants in the making; each node has one result, which is named by a number."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        kept = value if value.dtype == np.int64 else value.astype(np.float32)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(kept), name))
        return name

    def add(self, kind: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        from onnx import helper

        result = result or f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [result], **attributes))
        return result


def _scale_and_shift(arrays: Arrays, norm: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A batch normalisation as ``scale * x + shift``."""
    weight, bias, mean, variance = (
        np.asarray(arrays[f"{norm}.{key}"], np.float64) for key in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / np.sqrt(variance + EPSILON)
    return scale, bias - scale * mean


def _relu_max(graph: _Graph, features: str, arrays: Arrays) -> str:
    return graph.add("Flatten", graph.add("GlobalMaxPool", features), result=OUTPUT)


def _linear(graph: _Graph, features: str, arrays: Arrays) -> str:
    pooled = [graph.add("Flatten", graph.add(kind, features)) for kind in ("GlobalMaxPool", "GlobalAveragePool")]
    names = [graph.constant(f"head.linear.{key}", arrays[f"head.linear.{key}"]) for key in ("weight", "bias")]
    return graph.add("Gemm", graph.add("Concat", *pooled, axis=1), *names, transB=1, result=OUTPUT)


HEADS: dict[str, Callable[[_Graph, str, Arrays], str]] = {"relu_max": _relu_max, "linear": _linear}


def student_graph(config: StudentConfig, arrays: Arrays) -> bytes:
    """The network of a student from its log-mel spectrograms to its embeddings.

    Parameters
    ----------
    config : StudentConfig
        The architecture; its head must be one of `HEADS`.
    arrays : mapping of str to ndarray
        Its weights, with the names and shapes of `config.array_shapes`.

    Returns
    -------
    bytes
        An ONNX model: ``log_mel`` (B, bands, frames) float32 in dB -> ``embedding`` (B, D) float32, for any B. Batch
        normalisations are folded into the convolutions before them, in double precision.
    """
    from onnx import TensorProto, helper

    graph = _Graph()
    # Not folded into the first convolution: its padding is zeros after this normalisation, not before.
    scale, shift = _scale_and_shift(arrays, "input_norm")
    axis = graph.constant("channel", np.array([1], np.int64))
    now = graph.add("Unsqueeze", INPUT, axis)
    now = graph.add("Mul", now, graph.constant("input_norm.scale", scale.reshape(1, 1, 1, 1)))
    now = graph.add("Add", now, graph.constant("input_norm.shift", shift.reshape(1, 1, 1, 1)))
    for index, (name, norm, _, _) in enumerate(convolutions(config)):
        if index and index % 2 == 0:
            now = graph.add("MaxPool", now, kernel_shape=[2, 2], strides=[2, 2])
        scale, shift = _scale_and_shift(arrays, norm)
        kernel = np.asarray(arrays[f"{name}.weight"], np.float64) * scale[:, None, None, None]
        bias = np.asarray(arrays[f"{name}.bias"], np.float64) * scale + shift
        names = [graph.constant(f"{name}.weight", kernel), graph.constant(f"{name}.bias", bias)]
        now = graph.add("Relu", graph.add("Conv", now, *names, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    HEADS[config.head](graph, now, arrays)
    given = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["B", config.n_mels, config.frames()])
    wanted = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["B", config.embedding_size])
    made = helper.make_graph(graph.nodes, "student", [given], [wanted], graph.constants)
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="edgesea"
    )
    return bytes(model.SerializeToString())
