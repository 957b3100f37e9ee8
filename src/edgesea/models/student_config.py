"""What fixes a student's architecture, and what follows from it: names and shapes of its arrays, size, cost."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

from edgesea.audio.mel import LogMelSettings
from edgesea.errors import EdgeseaError
from edgesea.models.base import COUNTER

Head = Literal["linear", "relu_max"]
HEADS = ["linear", "relu_max"]  # an experiment may append others

# Filters of the published students, which are named by their number of dimensions
FILTERS: dict[str, tuple[int, ...]] = {
    "sea-512": (64, 128, 256, 512),
    "sea-256": (32, 64, 128, 256),
    "sea-128": (32, 64, 128, 128),
    "sea-64": (32, 64, 128, 64),
}


@dataclass(frozen=True)
class StudentConfig:
    """Everything that fixes a student's architecture; stored in its checkpoint.

    Head ``linear`` is a linear layer on the maximum and the mean of the last feature map. ``relu_max`` is the maximum
    of the last feature map after its ReLU, as in the published SEA students (its outputs cannot be negative).
    """

    embedding_size: int = 64
    filters: tuple[int, ...] = FILTERS["sea-64"]  # of each block of two 3x3 convolutions; 2x2 max pools between blocks
    head: Head = "linear"
    sample_rate: int = 8000  # Hz
    n_mels: int = 64
    n_fft: int = 1024  # samples
    hop_length: int = 160  # samples
    fmax: float | None = None  # upper edge of the mel bands in Hz; None: half the sample rate
    window: float = 1.0  # s

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple(self.filters))  # a list, if they come from JSON
        if self.head not in HEADS:
            raise EdgeseaError(f"unknown head {self.head!r}; known: {', '.join(HEADS)}")
        if self.head == "relu_max" and self.filters[-1] != self.embedding_size:
            sizes = f"{self.filters[-1]} dimensions, as many as the last filters, not {self.embedding_size}"
            raise EdgeseaError(f"head relu_max gives {sizes}; choose head=linear or other filters")
        if min(self.embedding_size, *self.filters) < 1:
            raise EdgeseaError(f"embedding_size and filters must be positive: {self.embedding_size}, {self.filters}")
        shape, pools = (self.n_mels, self.frames()), len(self.filters) - 1
        if min(shape) < 2**pools:
            raise EdgeseaError(f"the spectrogram of {shape} bands and frames is too small for {pools} 2x2 pools")

    def front_end(self) -> LogMelSettings:
        return LogMelSettings(self.sample_rate, self.n_fft, self.hop_length, self.n_mels, self.fmax)

    def frames(self) -> int:
        return self.front_end().layout(round(self.window * self.sample_rate))[0]

    @classmethod
    def named(cls, name: str, **changes: Any) -> "StudentConfig":
        """The configuration of a published student, with changes; None means no change."""
        if name not in FILTERS:
            raise EdgeseaError(f"unknown student {name!r}; known: {', '.join(FILTERS)}")
        config = cls(embedding_size=FILTERS[name][-1], filters=FILTERS[name])
        return replace(config, **{key: value for key, value in changes.items() if value is not None})


def convolutions(config: StudentConfig) -> list[tuple[str, str, int, int]]:
    """Of each convolution: its name, that of its batch normalisation, and the channels in and out; two make a block."""
    found = []
    channels = 1
    for block, outputs in enumerate(config.filters):
        for index in (7 * block, 7 * block + 3):  # convolution, normalisation and ReLU, twice, and the max pool
            found.append((f"features.{index}", f"features.{index + 1}", channels, outputs))
            channels = outputs
    return found


def array_shapes(config: StudentConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays of a student's checkpoint, as in the state dict of the network in torch."""

    def norm_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
        keys = ("weight", "bias", "running_mean", "running_var")
        return {**{f"{name}.{key}": (channels,) for key in keys}, f"{name}.{COUNTER}": ()}

    shapes = norm_shapes("input_norm", 1)
    for name, norm, inputs, outputs in convolutions(config):
        shapes |= {f"{name}.weight": (outputs, inputs, 3, 3), f"{name}.bias": (outputs,), **norm_shapes(norm, outputs)}
    if config.head == "linear":
        size = config.embedding_size
        shapes |= {"head.linear.weight": (size, 2 * config.filters[-1]), "head.linear.bias": (size,)}
    return shapes


def parameter_count(config: StudentConfig) -> int:
    """Number of trainable parameters of a student: running statistics do not count."""
    shapes = array_shapes(config).items()
    return sum(prod(shape) for name, shape in shapes if not name.endswith(("running_mean", "running_var", COUNTER)))


def macs(config: StudentConfig) -> int:
    """Multiplications (with addition) that the convolutions and the head take for one window, without the front end."""
    total = 2 * config.filters[-1] * config.embedding_size if config.head == "linear" else 0
    for index, (_, _, inputs, outputs) in enumerate(convolutions(config)):
        pooled = 2 ** (index // 2)
        total += 9 * inputs * outputs * (config.n_mels // pooled) * (config.frames() // pooled)
    return total
