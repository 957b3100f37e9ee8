"""Students as .tflite files, written from their description: without torch, TensorFlow, or a converter.

An axis is reversed where a convolution with stride 2 goes over an even number of bands or frames: TensorFlow pads such
an axis at its end, torch at its beginning. So nothing has to be padded by an operator of its own, whose result may be
larger than everything else that a device must hold.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError, needs
from edgesea.export.quantize import Float32, Quantized, QuantizedStudent, Scale
from edgesea.models.graph import INPUT, OUTPUT, folded, scale_and_shift
from edgesea.models.litert import AXES, METADATA
from edgesea.models.student_config import Arrays, Convolution, StudentConfig, convolutions, feature_maps

# Operators: the type of their options, and their version for int8
OPERATORS = {
    "CONV_2D": ("Conv2DOptions", 3),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", 3),
    "ADD": ("AddOptions", 2),
    "MAX_POOL_2D": ("Pool2DOptions", 2),
    "AVERAGE_POOL_2D": ("Pool2DOptions", 2),
    "CONCATENATION": ("ConcatenationOptions", 2),
    "DEQUANTIZE": ("DequantizeOptions", 2),
    "MUL": ("MulOptions", 1),
    "RESHAPE": ("ReshapeOptions", 1),
}


class Weights(NamedTuple):
    """Of a convolution or of the head: in float32, or in int8 with the scales."""

    kernel: NDArray[Any]  # (outputs, inputs of a group, bands, frames), or (D, inputs)
    bias: NDArray[Any]
    scale: Float32 | None = None  # (outputs,)
    made: Scale | None = None

    @classmethod
    def of(cls, layer: Quantized) -> "Weights":
        return cls(layer.weight, layer.bias, layer.weight_scale, layer.made)


def quantized_tflite(student: QuantizedStudent, about: dict[str, Any]) -> bytes:
    """A student in int8; what its metadata says is `about` and what a program needs to run it."""
    layers = [(one.layer, Weights.of(one), one.total) for one in student.convolutions]
    head = None if student.head is None else Weights.of(student.head)
    return _tflite(student.config, (student.gain, student.offset), student.input, layers, head, student.units, about)


def float_tflite(config: StudentConfig, arrays: Arrays, about: dict[str, Any]) -> bytes:
    """A student in float32."""
    norm = [float(value[0]) for value in scale_and_shift(arrays, "input_norm")]
    layers = [(layer, Weights(kernel, bias), None) for layer, kernel, bias in folded(config, arrays)]
    linear = None
    if config.head == "linear":
        weight, bias = (arrays[f"head.linear.{key}"].astype(np.float32) for key in ("weight", "bias"))
        linear = Weights(weight, bias)
    return _tflite(config, norm, None, layers, linear, None, about)


@needs("ai_edge_litert", "export")
def _tflite(
    config: StudentConfig,
    input_norm: Sequence[float],
    given: Scale | None,
    layers: Sequence[tuple[Convolution, Weights, Scale | None]],
    linear: Weights | None,
    units: Float32 | None,
    about: dict[str, Any],
) -> bytes:
    reverse = reversed_axes(config)
    axes = tuple(3 - AXES.index(axis) for axis in reverse)  # of a kernel
    file = _File()
    now = file.tensor(INPUT, (config.frames(), config.n_mels, 1), given)
    inputs: list[int] = []  # what goes into each convolution
    for (layer, weights, total), (_, (bands, frames)) in zip(layers, feature_maps(config), strict=True):
        now = file.pool("MAX_POOL_2D", now, (2, 2)) if layer.pool else now
        inputs.append(now)
        layer = layer._replace(relu=layer.relu or len(inputs) == len(layers))  # the last one's belongs to the head
        kernel = np.flip(weights.kernel, axes).transpose(0, 3, 2, 1)
        now = file.convolve(now, layer, weights._replace(kernel=kernel), (frames, bands))
        if layer.residual:
            now = file.add("ADD", [inputs[-layer.residual], now], file.sizes[now], total)
    last, (*whole, channels) = now, file.sizes[now]
    now = file.pool("MAX_POOL_2D", last, whole)
    if linear is not None:
        both = [now, file.pool("AVERAGE_POOL_2D", last, whole)]
        now = file.add("CONCATENATION", both, (1, 1, 2 * channels), file.scales[last], {"axis": 3})
        # A convolution: kernels of fully connected layers, but for the newest, take one channel's scale for all
        layer = Convolution("head.linear", "", 2 * channels, config.embedding_size, kernel=1, relu=False)
        now = file.convolve(now, layer, linear._replace(kernel=linear.kernel[:, None, None]), (1, 1))
    if given is not None:
        now = file.add("DEQUANTIZE", [now], file.sizes[now])
    if units is not None and (units != 1).any():
        now = file.add("MUL", [now, file.constant("units", units)], file.sizes[now])
    shape = np.array([-1, config.embedding_size], np.int32)
    size = (config.embedding_size,)
    file.add("RESHAPE", [now, file.constant("shape", shape)], size, None, {"newShape": shape}, OUTPUT)
    facts = {"model": "edgesea.student", **about, "int8": given is not None, "reversed": reverse}
    facts |= dict(zip(("gain", "offset"), input_norm, strict=True))
    return file.content({**facts, "architecture": config.stored(), "front_end": asdict(config.front_end())})


def reversed_axes(config: StudentConfig) -> list[str]:
    """Which of `AXES` run from the last to the first; EdgeseaError for a convolution with another padding."""
    even = set()
    for layer, (given, _) in zip(convolutions(config), feature_maps(config), strict=True):
        if layer.stride > 2 or layer.kernel % 2 == 0:
            found = f"{layer.name}: a {layer.kernel}x{layer.kernel} convolution with stride {layer.stride}"
            raise EdgeseaError(f"{found} cannot be exported; use kernels of odd size, and strides 1 and 2")
        if layer.stride == 2:
            even |= {axis for axis, size in zip(("bands", "frames"), given, strict=True) if size % 2 == 0}
    return [axis for axis in AXES if axis in even]


def others_than_int8(content: bytes) -> dict[str, list[str]]:
    """The tensors of a .tflite file that are not in int8: their names by their type."""
    from ai_edge_litert.schema_py_generated import Model, TensorType

    types = {number: name.lower() for name, number in vars(TensorType).items() if isinstance(number, int)}
    graph, found = Model.GetRootAs(content).Subgraphs(0), dict[str, list[str]]()
    for index in range(graph.TensorsLength()):
        if (kind := types[graph.Tensors(index).Type()]) != "int8":
            found.setdefault(kind, []).append(graph.Tensors(index).Name().decode())
    return found


class _File:
    """Tensors and operators of a .tflite file."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated

        self.schema: Any = schema_py_generated
        self.sizes: list[tuple[int, ...]] = []  # of tensors: (frames, bands, channels), or (D,)
        self.scales: list[Scale | None] = []
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: list[tuple[str, int]] = []
        self._buffers = [self.schema.BufferT()]

    def tensor(self, name: str, size: Sequence[int], scale: Scale | None = None) -> int:
        """A tensor for any number of windows, which is in int8 if it has a scale."""
        found = {} if scale is None else {"scale": [scale.scale], "zeroPoint": [scale.zero]}
        made = self._tensor(name, (1, *size), "float32" if scale is None else "int8", found)
        self._tensors[made].shapeSignature = [-1, *size]
        self.sizes[made], self.scales[made] = tuple(size), scale
        return made

    def constant(self, name: str, values: NDArray[Any], scale: Float32 | None = None, axis: int = 0) -> int:
        """A tensor with values, which are integers with a scale for each channel, along an axis, or not."""
        found: dict[str, Any] = {}
        if scale is not None:
            found = {"scale": scale, "zeroPoint": np.zeros(len(scale), np.int64), "quantizedDimension": axis}
        made = self._tensor(name, values.shape, values.dtype.name, found)
        self._tensors[made].buffer = self._buffer(np.ascontiguousarray(values).tobytes())
        return made

    def convolve(self, given: int, layer: Convolution, weights: Weights, size: Sequence[int]) -> int:
        """A convolution by a kernel (outputs, frames, bands, inputs of a group), and its ReLU."""
        bias_scale, scale = None, self.scales[given]
        if weights.scale is not None and scale is not None:
            bias_scale = weights.scale * np.float32(scale.scale)
        depthwise = layer.groups > 1
        kernel = weights.kernel.transpose(3, 1, 2, 0) if depthwise else weights.kernel
        inputs = [given, self.constant(f"{layer.name}.weight", kernel, weights.scale, 3 if depthwise else 0)]
        inputs.append(self.constant(f"{layer.name}.bias", weights.bias, bias_scale))
        options = {f"stride{way}": layer.stride for way in "HW"} | {f"dilation{way}Factor": 1 for way in "HW"}
        options |= {"padding": self.schema.Padding.SAME} | ({"depthMultiplier": 1} if depthwise else {})
        options |= {"fusedActivationFunction": self.schema.ActivationFunctionType.RELU} if layer.relu else {}
        code = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        return self.add(code, inputs, (*size, layer.outputs), weights.made, options, layer.name)

    def pool(self, code: str, given: int, window: Sequence[int]) -> int:
        """A pool over windows that do not overlap; what is left at the end is left out."""
        height, width, channels = self.sizes[given]
        options = {"padding": self.schema.Padding.VALID, "filterHeight": window[0], "filterWidth": window[1]}
        options |= {"strideH": window[0], "strideW": window[1]}
        size = height // window[0], width // window[1], channels
        return self.add(code, [given], size, self.scales[given], options)

    def add(
        self,
        code: str,
        inputs: list[int],
        size: Sequence[int],
        scale: Scale | None = None,
        options: dict[str, Any] = {},  # noqa: B006
        name: str = "",
    ) -> int:
        """An operator, and the tensor of its result."""
        made = self.tensor(name or f"{code.lower()}{len(self._operators)}", size, scale)
        kind, version = OPERATORS[code]
        key = code, version if self.scales[inputs[0]] else 1
        self._codes += [] if key in self._codes else [key]
        found = {"inputs": inputs, "outputs": [made], "opcodeIndex": self._codes.index(key)}
        found |= {"builtinOptions": self._made(f"{kind}T", options)}
        found |= {"builtinOptionsType": getattr(self.schema.BuiltinOptions, kind)}
        self._operators.append(self._made("OperatorT", found))
        return made

    def content(self, facts: dict[str, Any]) -> bytes:
        """The file, from the first tensor to the last, with facts in its metadata."""
        codes = []
        for code, version in self._codes:
            number = getattr(self.schema.BuiltinOperator, code)  # all are below 127
            found = {"builtinCode": number, "deprecatedBuiltinCode": number, "version": version}
            codes.append(self._made("OperatorCodeT", found))
        ends = {"inputs": [0], "outputs": [len(self._tensors) - 1]}
        graph = self._made("SubGraphT", {"tensors": self._tensors, "operators": self._operators, **ends})
        text = json.dumps(facts, allow_nan=False).encode()
        metadata = [self._made("MetadataT", {"name": METADATA, "buffer": self._buffer(text)})]
        parts = {"operatorCodes": codes, "subgraphs": [graph], "buffers": self._buffers, "metadata": metadata}
        model = self._made("ModelT", {"version": 3, "description": "edgesea student", **parts})
        builder = _builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _tensor(self, name: str, shape: Sequence[int], dtype: str, quantization: dict[str, Any]) -> int:
        found = {"name": name, "shape": [*shape], "type": getattr(self.schema.TensorType, dtype.upper())}
        found["quantization"] = self._made("QuantizationParametersT", quantization) if quantization else None
        self._tensors.append(self._made("TensorT", found))
        self.sizes.append(tuple(shape))
        self.scales.append(None)
        return len(self._tensors) - 1

    def _buffer(self, content: bytes) -> int:
        self._buffers.append(self._made("BufferT", {"data": np.frombuffer(content, np.uint8)}))
        return len(self._buffers) - 1

    def _made(self, kind: str, values: dict[str, Any]) -> Any:
        made = getattr(self.schema, kind)()
        for name, value in values.items():
            setattr(made, name, value)
        return made


def _builder() -> Any:
    """A builder that writes each vector once (those of zeros are many), and contents of tensors at multiples of 16."""
    from flatbuffers import Builder

    class Once(Builder):  # type: ignore[misc]
        def CreateNumpyVector(self, values: NDArray[Any]) -> Any:  # noqa: N802
            key = values.dtype.str, values.tobytes()
            if key not in known:
                if values.dtype == np.uint8:
                    self.Prep(16, values.size)
                known[key] = super().CreateNumpyVector(values)
            return known[key]

    known: dict[tuple[str, bytes], Any] = {}
    return Once(1 << 20)
