"""What the C engine holds in RAM, from the architecture alone: of feature maps a few rows, and the spectrogram.

A row is one frame of a feature map, bands x channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

from edgesea.audio.mel import LogMelSettings
from edgesea.models.student_config import Convolution, StudentConfig, convolutions, feature_maps


class Ring(NamedTuple):
    """The last rows of its input that a convolution holds."""

    place: int  # in the arena
    rows: int


def buffers(config: StudentConfig) -> tuple[list[Ring], dict[str, int]]:
    """The ring of each convolution, and the sizes of the engine's arrays, named as in C (`network.c`)."""
    layers, rings, arena, border, scratch, taps = convolutions(config), list[Ring](), 0, 0, 0, 0
    for index, (layer, (given, made)) in enumerate(zip(layers, feature_maps(config), strict=True)):
        rings.append(Ring(arena, _held(layers, index)))
        row = (given[0] + layer.kernel // 2 * 2) * layer.inputs
        arena += -(-rings[-1].rows * row // 4) * 4
        border = max(border, row if layer.kernel > 1 else 1)
        taps = max(taps, 0 if layer.groups > 1 else -(-(layer.kernel**2) * layer.inputs // 4) * 4)
        if index == len(layers) - 1 or layers[index + 1].pool:
            scratch = max(scratch, made[0] * layer.outputs)
    channels = layers[-1].outputs
    sizes = {"ARENA": arena + 4, "BORDER": border, "SCRATCH": scratch, "TAPS": max(taps, -(-channels // 2) * 4)}
    sizes |= {"LAYERS": len(layers), "CHANNELS": channels, "TAPS_OF_HEAD": 2 * channels + 4}
    sizes["OUTPUTS"] = max(config.embedding_size, *(layer.outputs for layer in layers)) + 1
    return rings, {**sizes, "KERNEL": max(layer.kernel for layer in layers)}


def _held(layers: Sequence[Convolution], index: int) -> int:
    """Rows of its input that a layer holds: those under its kernel, and of a block those that are added later."""
    for end in range(index, len(layers)):
        size = layers[end].residual
        if size and end + 1 - size == index:
            late = sum(other.kernel // 2 for other in layers[index : end + 1])
            return max(layers[index].kernel, 1 + late)
    return layers[index].kernel


def network_bytes(config: StudentConfig) -> int:
    """Bytes of the network's static arrays."""
    _, sizes = buffers(config)
    once = sizes["ARENA"] + sizes["BORDER"] + sizes["SCRATCH"] + sizes["TAPS_OF_HEAD"]
    return once + 6 * sizes["TAPS"] + 8 * sizes["OUTPUTS"] + 4 * (sizes["CHANNELS"] + sizes["LAYERS"])


def ring_size(settings: LogMelSettings, samples: int, hop: int) -> int:
    """What is held of a window and a hop (samples): frames, or samples where levels are relative to the window's."""
    frames = settings.layout(samples)[0]
    return frames + hop // settings.hop_length if settings.levels == "absolute" else samples + hop


def front_end_bytes(settings: LogMelSettings, samples: int, hop: int) -> int:
    """Bytes of the front end's static arrays: that ring, the spectrogram of a window, a frame, and its spectrum."""
    ring = ring_size(settings, samples, hop)
    if settings.levels == "absolute":
        held = ring * settings.bands  # the spectrogram itself
    else:
        held = 2 * ring + 4 * settings.layout(samples)[0] * settings.bands
    return held + 6 * settings.n_fft
