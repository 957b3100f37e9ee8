"""The integers of a student in int8, by the definition of TensorFlow Lite's reference kernels."""

import numpy as np
import torch
from torch.nn import functional

from edgesea.export.quantize import Quantized, QuantizedStudent, Scale


def scaled(values: np.ndarray, factor: np.ndarray | float) -> np.ndarray:
    """MultiplyByQuantizedMultiplier: a product with 31 bits of the factor, rounded, then shifted, and rounded again."""
    mantissa, shift = np.frexp(factor)
    mantissa, shift = np.rint(mantissa * 2.0**31).astype(np.int64), shift.astype(np.int64)
    mantissa, shift = np.where(mantissa == 2**31, 2**30, mantissa), np.where(mantissa == 2**31, shift + 1, shift)
    product = (values.astype(np.int64) << np.maximum(shift, 0)) * mantissa
    product += np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    high = np.sign(product) * (np.abs(product) >> 31)  # C's division, towards zero
    right = np.maximum(-shift, 0)
    mask = (np.int64(1) << right) - 1
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0))


def requantized(sums: np.ndarray, layer: Quantized) -> np.ndarray:
    """Sums (B, outputs, ...) as int8 values."""
    factors = layer.multipliers.reshape(-1, *[1] * (sums.ndim - 2))
    return np.clip(scaled(sums, factors) + layer.made.zero, layer.least, 127)


def added(one: np.ndarray, scale: Scale, other: np.ndarray, of_other: Scale, total: Scale) -> np.ndarray:
    twice = 2.0 * max(scale.scale, of_other.scale)
    parts = ((one, scale), (other, of_other))
    terms = [scaled((values - own.zero).astype(np.int64) << 20, own.scale / twice) for values, own in parts]
    return np.clip(scaled(sum(terms), twice / ((1 << 20) * total.scale)) + total.zero, -128, 127)


def embed(student: QuantizedStudent, log_mel: np.ndarray) -> np.ndarray:
    """Embeddings (B, D) as integers, of spectrograms (B, bands, frames) in dB."""
    now = student.input.quantize(student.gain * log_mel + student.offset).astype(np.int64)[:, None]
    inputs = []
    for one in student.convolutions:
        layer = one.layer
        if layer.pool:
            now = functional.max_pool2d(torch.from_numpy(now.astype(float)), 2).numpy().astype(np.int64)
        inputs.append((now, one.given))
        parts = (now - one.given.zero).astype(float), one.weight.astype(float), one.bias.astype(float)
        sums = functional.conv2d(*map(torch.from_numpy, parts), layer.stride, layer.kernel // 2, 1, layer.groups)
        now = requantized(sums.numpy(), one)  # whole numbers below 2^53
        if one.total is not None:
            now = added(*inputs[-layer.residual], now, one.made, one.total)
    most = now.max((2, 3))
    if student.head is None:
        return most
    total, count = now.sum((2, 3)), now[0, 0].size
    mean = np.sign(total) * ((np.abs(total) + count // 2) // count)
    values = np.concatenate([most, mean], 1) - student.head.given.zero
    return requantized(values @ student.head.weight.astype(np.int64).T + student.head.bias, student.head)
