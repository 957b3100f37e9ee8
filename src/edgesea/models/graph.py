"""Networks as ONNX graphs, from log-mel spectrograms to embeddings, written without torch."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.models.student_config import Convolution, StudentConfig, convolutions
from edgesea.models.student_files import Arrays

Float32 = NDArray[np.float32]
EPSILON = 1e-3  # of all batch normalisations of students
OPSET, IR_VERSION = 17, 8  # old enough for every onnxruntime since 1.15
INPUT, OUTPUT = "log_mel", "embedding"


class Graph:
    """An ONNX model: ``log_mel`` (B, bands, frames) float32 -> ``embedding`` (B, D) float32, for any B."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def add(self, kind: str, *inputs: str | NDArray[Any], result: str = "", **attributes: Any) -> str:
        """A node with the name of its result; arrays among its inputs become constants."""
        from onnx import helper, numpy_helper

        names = []
        for value in inputs:
            if not isinstance(value, str):
                name = f"constant{len(self._constants)}"
                self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
                value = name
            names.append(value)
        result = result or f"{kind.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, names, [result], **attributes))
        return result

    def channel(self) -> str:
        """The input with a dimension for channels."""
        return self.add("Unsqueeze", INPUT, np.array([1]))

    def scaled(self, scale: NDArray[Any], shift: NDArray[Any]) -> str:
        """The input times `scale` plus `shift`: what a normalisation of it does."""
        product = self.add("Mul", self.channel(), scale.astype(np.float32))
        return self.add("Add", product, shift.astype(np.float32))

    def model(self, bands: int, frames: int | str, size: int, also: Sequence[str] = ()) -> bytes:
        """The model, whose last node has the result `OUTPUT`, and which gives other results `also`."""
        from onnx import TensorProto, helper

        given = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["B", bands, frames])
        wanted = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["B", size])
        others = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in also]
        made = helper.make_graph(self._nodes, "network", [given], [wanted, *others], self._constants)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(made, opset_imports=opset, ir_version=IR_VERSION, producer_name="edgesea")
        return bytes(model.SerializeToString())


def folded(config: StudentConfig, arrays: Arrays) -> Iterator[tuple[Convolution, Float32, Float32]]:
    """Each convolution of a student with its kernel (outputs, inputs, k, k) and bias, normalisations folded in."""
    for layer in convolutions(config):
        scale, shift = scale_and_shift(arrays, layer.norm)  # in double precision
        kernel = (arrays[f"{layer.name}.weight"] * scale[:, None, None, None]).astype(np.float32)
        yield layer, kernel, (arrays.get(f"{layer.name}.bias", 0.0) * scale + shift).astype(np.float32)


def student_graph(config: StudentConfig, arrays: Arrays, every: bool = False) -> bytes:
    """The network of a student.

    With `every` it also gives what `export.quantize` measures: the normalised spectrogram, and behind each convolution
    its result, with the addition if it has one, without the last ReLU.
    """
    graph = Graph()
    # Not folded into the first convolution: its padding is zeros after this normalisation, not before.
    now = graph.scaled(*scale_and_shift(arrays, "input_norm"))
    given, results = [], [now]  # what goes into each convolution
    for layer, kernel, bias in folded(config, arrays):
        if layer.pool:
            now = graph.add("MaxPool", now, kernel_shape=[2, 2], strides=[2, 2])
        given.append(now)
        strides, pads = [layer.stride] * 2, [layer.kernel // 2] * 4
        now = graph.add("Conv", now, kernel, bias, strides=strides, pads=pads, group=layer.groups)
        if layer.residual:
            results.append(now)
            now = graph.add("Add", given[-layer.residual], now)
        if layer.relu:
            now = graph.add("Relu", now)
        results.append(now)
    now = graph.add("Relu", now)
    if config.head == "relu_max":
        graph.add("Flatten", graph.add("GlobalMaxPool", now), result=OUTPUT)
    else:
        pooled = [graph.add("Flatten", graph.add(kind, now)) for kind in ("GlobalMaxPool", "GlobalAveragePool")]
        weight, bias = (arrays[f"head.linear.{key}"].astype(np.float32) for key in ("weight", "bias"))
        graph.add("Gemm", graph.add("Concat", *pooled, axis=1), weight, bias, transB=1, result=OUTPUT)
    return graph.model(config.n_mels, config.frames(), config.embedding_size, results if every else ())


def scale_and_shift(arrays: Arrays, norm: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    weight, bias, mean, variance = (
        np.asarray(arrays[f"{norm}.{key}"], np.float64) for key in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / np.sqrt(variance + EPSILON)
    return scale, bias - scale * mean
