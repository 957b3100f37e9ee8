"""A student in int8 as C: tables beside a small engine, and a program that runs them on a chip or in an emulator.

The engine (`firmware/`) computes the network row by row. A row is one frame of a feature map, bands x channels; of its
input, a convolution holds as many rows as its kernel is high (`rows`).
"""

from collections.abc import Iterable, Iterator, Sequence
from math import frexp
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.mel import DYNAMIC_RANGE, FLOOR
from edgesea.errors import EdgeseaError
from edgesea.export.quantize import Quantized, QuantizedConvolution, QuantizedStudent, Scale
from edgesea.export.rows import buffers, front_end_bytes, network_bytes, ring_size
from edgesea.models.student_config import StudentConfig, feature_maps

Tags = tuple[Sequence[str], NDArray[np.floating], NDArray[np.floating]]  # names, weights (K, D), bias (K,)
DECADE = 10 * np.log10(2)  # dB of a factor of two in power


class Fixed(NamedTuple):
    """A factor as TensorFlow Lite multiplies by it: multiplier / 2^31 / 2^shift."""

    multiplier: int
    shift: int


def fixed(factor: float) -> Fixed:
    """The nearest such number; 0 if the factor is below 2^-32."""
    share, exponent = frexp(factor)
    multiplier = int(share * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, exponent = 2**30, exponent + 1
    return Fixed(0, 0) if exponent < -31 else Fixed(multiplier, -exponent)


def hop_of(config: StudentConfig, hop: float) -> tuple[int, int]:
    """Samples of which a hop is a multiple, and of a hop in seconds; EdgeseaError if the C front end cannot do it."""
    settings, rate = config.front_end(), config.sample_rate
    if settings.n_fft < 8 or settings.n_fft & (settings.n_fft - 1):
        raise EdgeseaError(f"the C front end needs frames of a power of two of samples, not n_fft={settings.n_fft}")
    if settings.hop_length > settings.n_fft:
        raise EdgeseaError(f"the C front end needs frames that overlap: hop_length={settings.hop_length} is too large")
    unit, samples = 1 if settings.levels == "sea" else settings.hop_length, round(hop * rate)
    if samples % unit or not samples or abs(hop * rate - samples) > 1e-8 * samples:  # nine digits, as shown
        near = max(1, round(samples / unit)) * unit / rate
        rule = f"hop must be a multiple of {unit / rate:g} s, the hop of this student's frames, such as {near:.9g}"
        raise EdgeseaError(f"{rule}, not {hop}")
    return unit, samples


def c_library(
    student: QuantizedStudent, head: Tags | None = None, hop: float = 1.0
) -> tuple[dict[str, bytes], dict[str, int]]:
    """A student as C: its tables, the engine's sources and a Makefile.

    Parameters
    ----------
    student : QuantizedStudent
    head : (names, weights, bias), optional
        A linear layer on the embedding, (K, D) and (K,): its outputs are scores of the K tags.
    hop : float
        Seconds between windows, if the program does not choose others. The rings hold a window and a hop more, so that
        the network has as long for a window.

    Returns
    -------
    files : dict
        Contents by their names.
    sizes : dict
        Bytes, as far as they are known without a compiler: ``flash`` of the tables, ``ram`` of what is static in the
        engine, without stack.
    """
    tables, ram = _tables(student, head, hop)
    source = "".join(table.text for table in tables.constants)
    header = f"#ifndef EDGESEA_MODEL_H\n#define EDGESEA_MODEL_H\n\n{_macros(tables.macros)}\n#endif\n"
    source = f'#include "edgesea.h"\n#include "frontend.h"\n#include "network.h"\n\n{source}'
    engine = {path.name: path.read_bytes() for path in sorted(Path(__file__).with_name("firmware").iterdir())}
    written = {"edgesea_model.c": source.encode(), "edgesea_model.h": header.encode()}
    return {**engine, **written}, {"flash": sum(table.bytes for table in tables.constants), "ram": ram}


class Table(NamedTuple):
    """A constant in C."""

    text: str
    bytes: int


class Tables(NamedTuple):
    macros: dict[str, Any]
    constants: list[Table]


C_TYPES = {"int8": "int8_t", "float32": "float"}


def _array(name: str, values: NDArray[Any], static: bool = True) -> Table:
    values = values.ravel()
    kind = C_TYPES[values.dtype.name]
    shown = [str(value) for value in values] if kind == "int8_t" else [_float(value) for value in values]
    aligned = "EDGESEA_ALIGNED " if kind == "int8_t" else ""
    text = f"{aligned}{'static ' * static}const {kind} {name}[{len(values)}] = {{\n{_lines(shown)}}};\n\n"
    return Table(text, values.nbytes)


def _float(value: float) -> str:
    return f"{np.float32(value):.9e}f"


def _lines(values: Iterable[str]) -> str:
    lines, line = [], ""
    for value in values:
        if len(line) + len(value) > 116:
            lines.append(f"    {line.rstrip()}\n")
            line = ""
        line += f"{value}, "
    return "".join([*lines, f"    {line.rstrip()}\n"])


def _macros(macros: dict[str, Any]) -> str:
    return "".join(f"#define EDGESEA_{name} {value}\n" for name, value in macros.items())


def _tables(student: QuantizedStudent, head: Tags | None, hop: float) -> tuple[Tables, int]:
    config, settings = student.config, student.config.front_end()
    samples, rate = round(config.window * config.sample_rate), config.sample_rate
    unit, hop_samples = hop_of(config, hop)
    relative, frames = settings.levels == "sea", config.frames()
    layers, held = _layers(student)
    scale = 0.5 * DECADE if relative else DECADE  # of the sea students, levels are those of the root
    cosine = np.cos(2 * np.pi * np.arange(settings.n_fft) / settings.n_fft)
    mel, bands = _filters(settings.filters())
    macros: dict[str, Any] = {
        "RATE": rate,
        "SAMPLES": samples,
        "HOP": f"{hop_samples}u",
        "HOP_STEP": f"{unit}u",
        "RING": f"{ring_size(settings, samples, hop_samples)}u",
        "DIMENSIONS": config.embedding_size,
        "TAGS": len(head[0]) if head else 0,
        "FFT": settings.n_fft,
        "FRAME_HOP": settings.hop_length,
        "FRAMES": frames,
        "BANDS": config.n_mels,
        "BEFORE": settings.layout(samples)[1],
        "RELATIVE": int(relative),
        "RANGE": _float(DYNAMIC_RANGE),
        "FLOOR": _float(FLOOR**2 if relative else FLOOR),
        "DECADE": _float(scale),
        "MEL": len(mel),
        "INPUT_FACTOR": _float(student.gain / student.input.scale),
        "INPUT_OFFSET": f"({_float(student.offset / student.input.scale + student.input.zero)})",
        "OUTPUT_SCALE": _float(student.output.scale),
        "OUTPUT_ZERO": f"({student.output.zero})",
        **held,
    }
    constants = [
        _array("edgesea_cosine", cosine.astype(np.float32), static=False),
        _array("edgesea_mel", mel, static=False),
        bands,
        *layers,
        _array("edgesea_units", student.units, static=False),
        *(_tags(*head, config.embedding_size) if head else ()),
    ]
    return Tables(macros, constants), network_bytes(config) + front_end_bytes(settings, samples, hop_samples)


def _tags(
    names: Sequence[str], weights: NDArray[np.floating], bias: NDArray[np.floating], size: int
) -> Iterator[Table]:
    if (np.shape(weights), np.shape(bias)) != ((len(names), size), (len(names),)):
        shapes = f"weights {np.shape(weights)} and bias {np.shape(bias)}"
        raise EdgeseaError(f"a head with {len(names)} tags on {size} dimensions cannot have {shapes}")
    yield _array("edgesea_tag_weights", np.asarray(weights, np.float32), static=False)
    yield _array("edgesea_tag_bias", np.asarray(bias, np.float32), static=False)
    quoted = (f'"{_escaped(name)}"' for name in names)
    size = sum(5 + len(name.encode()) for name in names)
    yield Table(f"const char *const edgesea_tags[{len(names)}] = {{\n{_lines(quoted)}}};\n\n", size)


def _escaped(name: str) -> str:
    """Bytes beyond ASCII as three octal digits, which no digit behind them can lengthen."""
    return "".join(chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in name.encode())


def _filters(filters: NDArray[np.float64] | None) -> tuple[NDArray[np.float32], Table]:
    """The weights of mel filters other than zero, and where each begins."""
    assert filters is not None
    weights, bands = [], []
    for band in filters.astype(np.float32):
        used = np.flatnonzero(band > 1e-6 * band.max(initial=0))
        first, last = (used[0], used[-1] + 1) if len(used) else (0, 0)
        weights.append(band[first:last])
        bands.append(f"{{{first}, {last - first}}}")
    table = f"const edgesea_band edgesea_bands[{len(bands)}] = {{\n{_lines(bands)}}};\n\n"
    return np.concatenate(weights), Table(table, 4 * len(bands))


def _layers(student: QuantizedStudent) -> tuple[list[Table], dict[str, int]]:
    """The tables of all layers and the sizes of what the engine holds."""
    layers, tables, rows = student.convolutions, [], []
    rings, sizes = buffers(student.config)
    into: list[Scale] = []
    for index, (layer, (given, made)) in enumerate(zip(layers, feature_maps(student.config), strict=True)):
        kind, now = layer.layer, layers[index - 1].total or layers[index - 1].made if index else student.input
        into.append(now)
        depthwise = kind.groups > 1
        addition = f"&addition{index}" if layer.total else "0"
        if layer.total:
            tables.append(_addition(index, into[index + 1 - kind.residual], layer))
        tables += _weights(f"{index}", layer, layer.weight.transpose(0, 3, 2, 1), depthwise)
        ring, shape = rings[index], (*given, kind.outputs, *made)
        numbers = [ring.place, kind.inputs, *shape, kind.kernel, kind.stride, int(depthwise), int(kind.pool)]
        numbers += [ring.rows, max(kind.residual - 1, 0), now.zero, layer.made.zero]
        rows.append(_layer(f"{index}", addition, numbers))
    text = f"const edgesea_layer edgesea_layers[{len(rows)}] = {{\n" + "".join(f"    {row},\n" for row in rows)
    tables.append(Table(text + "};\n\n", 44 * len(rows)))
    channels, head = layers[-1].layer.outputs, student.head
    if head is None:
        tables.append(Table("const edgesea_layer edgesea_head = {0};\n\n", 44))
    else:
        tables += _weights("head", head, head.weight[:, None, None], False)
        numbers = [0, 2 * channels, 1, 1, len(head.bias), 1, 1, 1, 1, 0, 0, 1, 0]
        last = _layer("head", "0", [*numbers, head.given.zero, head.made.zero])
        tables.append(Table(f"const edgesea_layer edgesea_head = {last};\n\n", 44))
    return tables, sizes


def _layer(name: str, addition: str, numbers: Sequence[int]) -> str:
    return f"{{weights_{name}, factors_{name}, shifts_{name}, {addition}, {', '.join(map(str, numbers))}}}"


def _weights(name: str, layer: Quantized, kernel: NDArray[np.int8], depthwise: bool) -> Iterator[Table]:
    """Weights (outputs, rows, columns, inputs) in the order of the engine, and what it makes of their sums."""
    outputs = len(kernel)
    flat = kernel.reshape(outputs, -1)
    bias = layer.bias.astype(np.int64) - layer.given.zero * flat.sum(1, dtype=np.int64)
    if layer.least != -128:
        raise EdgeseaError(f"layer {name} has a ReLU at {layer.least}, where C needs it at -128, the least number")
    factors = [fixed(float(factor)) for factor in layer.multipliers]
    largest = np.abs(bias) + 128 * np.abs(flat.astype(np.int64)).sum(1)
    if (largest * 2.0 ** np.array([max(-factor.shift, 0) for factor in factors])).max() >= 2**30:  # which is doubled
        raise EdgeseaError(f"sums of layer {name} do not fit into 31 bits; calibrate with louder windows")
    packed = flat.T
    if not depthwise:
        padded = np.zeros((outputs + outputs % 2, -(-flat.shape[1] // 4) * 4), np.int8)
        padded[:outputs, : flat.shape[1]] = flat
        packed = padded.reshape(len(padded) // 2, 2, -1, 4).transpose(0, 2, 1, 3).reshape(padded.shape)
        factors += [Fixed(0, 0)] * (outputs % 2)
        bias = np.append(bias, [0] * (outputs % 2))
    yield _array(f"weights_{name}", np.ascontiguousarray(packed))
    yield _array(f"shifts_{name}", np.array([factor.shift for factor in factors], np.int8))
    pairs = _lines(f"{{{2 * start}, {factor.multiplier}}}" for start, factor in zip(bias, factors, strict=True))
    yield Table(f"static const edgesea_factor factors_{name}[{len(factors)}] = {{\n{pairs}}};\n\n", 8 * len(factors))


def _addition(index: int, block: Scale, layer: QuantizedConvolution) -> Table:
    """TensorFlow Lite's ADD: both terms in 1 / 2^20 of twice the larger scale."""
    assert layer.total
    twice = 2 * max(block.scale, layer.made.scale)
    factors = block.scale / twice, layer.made.scale / twice, twice / (2**20 * layer.total.scale)
    scales = block, layer.made, layer.total
    shown = (
        f"{{{number.multiplier}, {number.shift}, {scale.zero}}}"
        for number, scale in zip(map(fixed, factors), scales, strict=True)
    )
    return Table(f"static const edgesea_addition addition{index} = {{{', '.join(shown)}}};\n\n", 24)
