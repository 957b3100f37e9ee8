"""Networks as ONNX graphs, from log-mel spectrograms to embeddings, written without torch."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.mel import DYNAMIC_RANGE, FLOOR, LogMelSettings
from edgesea.models.student_config import Arrays, Convolution, StudentConfig, convolutions

Float32 = NDArray[np.float32]
EPSILON = 1e-3  # of all batch normalisations of students
OPSET, IR_VERSION = 17, 8  # old enough for every onnxruntime since 1.15
AUDIO, INPUT, OUTPUT = "audio", "log_mel", "embedding"
FLOAT, DOUBLE = 1, 11  # onnx.TensorProto.FLOAT and DOUBLE


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
                self._constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
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

    def log_mel(self, settings: LogMelSettings, samples: int) -> None:
        """The spectrogram `INPUT` of windows `AUDIO` (B, samples); see `audio.logmel.LogMel`."""
        dtype = np.float32 if settings.levels == "absolute" else np.float64
        floor, filters = np.array(FLOOR, dtype), settings.filters()
        _, *around = settings.layout(samples)
        now = self.add("Cast", AUDIO, to=FLOAT if dtype == np.float32 else DOUBLE)
        if any(around):
            now = self.add("Pad", now, np.array([0, around[0], 0, around[1]]))
        step, length = np.array(settings.hop_length), np.array(settings.n_fft)
        now = self.add("Unsqueeze", now, np.array([2]))
        now = self.add("STFT", now, step, settings.hann().astype(dtype), length, onesided=1)
        now = self.add("ReduceSumSquare", now, axes=[3], keepdims=0)  # (B, frames, bins)
        if filters is not None:
            now = self.add("MatMul", now, filters.T.astype(dtype))
        now = self.add("Sqrt", now) if settings.levels == "sea" else now
        now = self.add("Mul", self.add("Log", self.add("Max", now, floor)), np.array(10.0 / np.log(10.0), dtype))
        if settings.levels != "absolute":
            now = self.add("Sub", now, self.add("ReduceMax", now, axes=[1, 2]))
            now = self.add("Max", now, np.array(-DYNAMIC_RANGE, dtype))
        self.add("Cast", self.add("Transpose", now, perm=[0, 2, 1]), to=FLOAT, result=INPUT)

    def model(
        self, bands: int, frames: int | str, size: int, also: Sequence[str] = (), audio: Sequence[int] = ()
    ) -> bytes:
        """The model, whose last node has the result `OUTPUT`, and which gives other results `also`.

        It takes spectrograms, or windows of so many samples of `audio`.
        """
        from onnx import TensorProto, helper

        name, shape = (AUDIO, audio) if audio else (INPUT, (bands, frames))
        given = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", *shape])
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


def student_graph(config: StudentConfig, arrays: Arrays, every: bool = False, audio: bool = False) -> bytes:
    """The network of a student; with its front end, if it is to take `audio`.

    With `every` it also gives what `export.quantize` measures: the normalised spectrogram, and behind each convolution
    its result, with the addition if it has one, without the last ReLU; then the means (B, channels) of what goes into
    each convolution.
    """
    graph = Graph()
    samples = [round(config.window * config.sample_rate)] if audio else []
    if samples:
        graph.log_mel(config.front_end(), *samples)
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
    also = [*results, *(graph.add("ReduceMean", one, axes=[2, 3], keepdims=0) for one in given)] if every else []
    return graph.model(config.n_mels, config.frames(), config.embedding_size, also, samples)


def scale_and_shift(arrays: Arrays, norm: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    weight, bias, mean, variance = (
        np.asarray(arrays[f"{norm}.{key}"], np.float64) for key in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / np.sqrt(variance + EPSILON)
    return scale, bias - scale * mean
