"""A student in int8, as TensorFlow Lite defines it: real = scale * (q - zero), weights symmetric and by channel.

Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference", CVPR 2018.
What is rounded how is the specification of https://ai.google.dev/edge/litert/conversion/tensorflow/quantization.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.models.graph import INPUT, folded, scale_and_shift, student_graph
from edgesea.models.student_config import Arrays, Convolution, StudentConfig, convolutions

Float32 = NDArray[np.float32]
Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
VALUES = 1 << 20  # of each feature map that its scale is chosen by
LEAST_CHANNEL = 1 / 64  # of a map's largest one, to which smaller ones are not made equal
CLIPS = np.geomspace(1.0, 0.2, 25)  # shares of the largest value at which to cut


class Scale(NamedTuple):
    """Of an int8 tensor: real = scale * (q - zero)."""

    scale: float
    zero: int

    def quantize(self, values: NDArray[np.floating]) -> Int8:
        """The nearest int8 values."""
        return np.asarray(np.clip(np.rint(values / self.scale) + self.zero, -128, 127), np.int8)

    def real(self, values: Int8) -> Float32:
        """What int8 values stand for."""
        return (np.float32(self.scale) * (values.astype(np.int32) - self.zero)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A layer with weights in int8: a convolution, or the linear layer of the head.

    ``q_out = zero_out + M * (sum((q_in - zero_in) * weight) + bias)``, rounded and clipped to ``least ... 127``, with
    ``M = scale_in * weight_scale / scale_out`` for each output channel.
    """

    weight: Int8  # (outputs, inputs of a group, k, k), or (D, 2 C)
    bias: Int32  # (outputs,)
    weight_scale: Float32  # (outputs,)
    given: Scale
    made: Scale
    least: int = -128  # zero_out behind a ReLU

    @property
    def multipliers(self) -> NDArray[np.float64]:
        """M, (outputs,)."""
        return np.float64(self.given.scale) * self.weight_scale.astype(np.float64) / np.float64(self.made.scale)


@dataclass(frozen=True, kw_only=True)
class QuantizedConvolution(Quantized):
    """A convolution of the description, which pads with `zero_in`."""

    layer: Convolution
    total: Scale | None = None  # of the sum, where what goes into the block is added


@dataclass(frozen=True)
class QuantizedStudent:
    """A student in int8: from spectrograms to embeddings, by integers alone.

    Spectrograms in dB become ``input.quantize(gain * dB + offset)``. Behind the last convolution: the maximum and the
    (rounded) mean of each channel, in this order, and the linear layer; or of head relu_max the maximum alone. The
    embedding is ``units * scale * (q - zero)`` of what comes out.
    """

    config: StudentConfig
    arrays: Arrays  # what was quantized: the student's, with equal channels
    gain: float
    offset: float
    input: Scale
    convolutions: tuple[QuantizedConvolution, ...]
    head: Quantized | None
    units: Float32  # (D,) of the embedding's dimensions

    @property
    def output(self) -> Scale:
        return self.convolutions[-1].made if self.head is None else self.head.made


def quantize(config: StudentConfig, arrays: Arrays, spectrograms: Sequence[Float32]) -> QuantizedStudent:
    """Quantize a student, with scales by what it makes of batches of log-mel spectrograms (B, bands, frames) in dB."""
    arrays = equalized(config, arrays, spectrograms)
    values, means, embeddings, _ = _measure(config, arrays, spectrograms)
    gain, offset = (float(value[0]) for value in scale_and_shift(arrays, "input_norm"))
    measured = iter(values)
    first = now = best_scale(next(measured), False)
    layers: list[QuantizedConvolution] = []
    into: list[Scale] = []
    spread = embeddings.std(0)
    if spread.max() < 1e-5 * np.abs(embeddings).max():
        raise EdgeseaError("all windows to calibrate on have the same embedding, as silence has; give other recordings")
    units = np.maximum(spread, max(0.01 * spread.max(), 1e-6))  # so that one scale serves all dimensions
    units = units.astype(np.float32)
    for layer, kernel, bias in folded(config, arrays):
        into.append(now)
        is_last = len(into) == len(convolutions(config))
        relu = layer.relu or is_last
        if is_last and config.head == "relu_max":
            kernel, bias = kernel / units[:, None, None, None], bias / units
            made = best_scale((embeddings / units).ravel(), relu)
        else:
            made = best_scale(next(measured), relu)
        total = best_scale(next(measured), relu) if layer.residual else None
        parts = _integers(kernel, bias, now, made, relu, means[len(layers)])
        layers.append(QuantizedConvolution(**parts, layer=layer, total=total))
        now = total or made
    if config.head == "relu_max":
        return QuantizedStudent(config, arrays, gain, offset, first, tuple(layers), None, units)
    weight, bias = (arrays[f"head.linear.{key}"] for key in ("weight", "bias"))
    made = best_scale((embeddings / units).ravel(), False)
    parts = _integers(weight / units[:, None], bias / units, now, made, False)
    return QuantizedStudent(config, arrays, gain, offset, first, tuple(layers), Quantized(**parts), units)


def equalized(config: StudentConfig, arrays: Arrays, spectrograms: Sequence[Float32]) -> Arrays:
    """The same network, with channels of one size where they go into a depthwise convolution and nowhere else.

    It divides the channels of the convolution before, and multiplies those of the depthwise one. Weights have a scale
    for each channel on both sides, so they lose nothing, and the map, which has one for all, gains (cross-layer
    equalization, Nagel et al., as below). Sizes are the largest values that batches of spectrograms give.
    """
    layers, largest, arrays = convolutions(config), _measure(config, arrays, spectrograms)[3], dict(arrays)
    added = {place + 1 - layer.residual for place, layer in enumerate(layers) if layer.residual}
    for place, layer in enumerate(layers):
        before = layers[place - 1]
        if layer.groups > 1 and before.relu and place not in added:
            sizes = largest[place + sum(bool(one.residual) for one in layers[: place - 1])]
            factor = np.maximum(sizes / sizes.max(), LEAST_CHANNEL) if sizes.max() > 0 else np.ones_like(sizes)
            for name in (f"{before.norm}.weight", f"{before.norm}.bias"):
                arrays[name] = arrays[name] / factor
            arrays[f"{layer.name}.weight"] = arrays[f"{layer.name}.weight"] * factor[:, None, None, None]
    return arrays


def _integers(
    kernel: NDArray[np.floating],
    bias: NDArray[np.floating],
    given: Scale,
    made: Scale,
    relu: bool,
    means: NDArray[np.floating] | None = None,
) -> dict[str, Any]:
    """Weights (outputs, inputs of a group, ...) and biases as integers.

    Given the means of the inputs, what the rounding of weights adds to the mean of an output is taken from its bias
    (Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019).
    """
    largest = np.abs(kernel).reshape(len(kernel), -1).max(1)
    least = np.abs(bias) / (given.scale * 2.0**28)  # so that a bias fits beside weights that are nearly zero
    scale = np.maximum(np.maximum(largest / 127.0, least), 1e-9).astype(np.float32)
    by_output = scale.reshape(-1, *[1] * (kernel.ndim - 1))
    weight = np.rint(kernel / by_output)
    if means is not None:
        added = (weight * by_output - kernel).reshape(*kernel.shape[:2], -1).sum(2)
        bias = bias - (added * means.reshape(-1, kernel.shape[1])).sum(1)
    steps = np.rint(bias / (scale.astype(np.float64) * given.scale))
    return {
        "weight": weight.astype(np.int8),
        "bias": steps.astype(np.int32),
        "weight_scale": scale,
        "given": given,
        "made": made,
        "least": made.zero if relu else -128,
    }


def _measure(
    config: StudentConfig, arrays: Arrays, spectrograms: Sequence[Float32]
) -> tuple[list[Float32], list[Float32], Float32, list[Float32]]:
    """Of what `student_graph` gives with `every`: values, means by channel, embeddings, and the largest by channel."""
    import onnxruntime

    session = onnxruntime.InferenceSession(student_graph(config, arrays, every=True))
    embeddings, found, means, largest = [], list[list[Float32]](), [], []
    for batch in spectrograms:
        embedding, *maps = session.run(None, {INPUT: batch})
        embeddings.append(embedding)
        means.append(maps[-len(convolutions(config)) :])
        found = found or [[] for _ in maps[: -len(means[0])]]
        largest.append([values.max((0, 2, 3)) for values in maps[: len(found)]])
        for values, some in zip(maps, found, strict=False):
            step = -(-values.size * len(spectrograms) // VALUES) | 1  # odd, so that it meets all bands and frames
            some += [values.ravel()[::step], np.array([values.min(), values.max()])]
    by_layer = [np.concatenate(batches).mean(0) for batches in zip(*means, strict=True)]
    peaks = [np.maximum.reduce(batches) for batches in zip(*largest, strict=True)]
    return [np.concatenate(some) for some in found], by_layer, np.concatenate(embeddings), peaks


def best_scale(values: Float32, relu: bool) -> Scale:
    """The scale with the least squared error of values, of which it may cut the largest."""
    if not np.isfinite(values).all():
        raise EdgeseaError("the student's feature maps are not all finite, so int8 has no scale; train it again")
    values = np.maximum(values, 0) if relu else values
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    best, least = Scale(1.0, 0), np.inf
    for share in CLIPS:
        scale = max((high - low) * share / 255.0, 1e-9)
        zero = int(np.clip(np.rint(-128 - low * share / scale), -128, 127))
        tried = Scale(float(np.float32(scale)), zero)
        error = float(np.square(tried.real(tried.quantize(values)) - values, dtype=np.float64).mean())
        if error < least:
            best, least = tried, error
    return best
