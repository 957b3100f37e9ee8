"""What fixes a student's architecture, and what follows from it: names and shapes of its arrays, size, cost."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any, Literal, NamedTuple

from numpy.typing import NDArray

from edgesea.audio.mel import LogMelSettings
from edgesea.errors import EdgeseaError
from edgesea.models.base import COUNTER

Arrays = dict[str, NDArray[Any]]  # of a student, with torch's names and axes
Head = Literal["linear", "relu_max"]
HEADS = ["linear", "relu_max"]  # an experiment may append others

# Filters of the published students, which are named by their number of dimensions
FILTERS: dict[str, tuple[int, ...]] = {
    "sea-512": (64, 128, 256, 512),
    "sea-256": (32, 64, 128, 256),
    "sea-128": (32, 64, 128, 128),
    "sea-64": (32, 64, 128, 64),
}


class Stage(NamedTuple):
    """Inverted residual blocks of the same size, the first of which may have a stride."""

    channels: int
    expansion: int  # channels inside a block, for each that comes in
    blocks: int
    stride: int
    kernel: int = 3


# First and last filters, and stages, of the students for microcontrollers, which are named by the millions of
# multiplications that a window takes
EDGE: dict[str, tuple[tuple[int, int], tuple[Stage, ...]]] = {
    "edge-3": ((8, 192), (Stage(12, 3, 1, 2), Stage(24, 3, 3, 2), Stage(40, 4, 3, 2))),
    "edge-10": ((16, 256), (Stage(16, 1, 1, 1), Stage(24, 3, 2, 2), Stage(40, 3, 3, 2), Stage(72, 4, 3, 2))),
    "edge-25": ((24, 256), (Stage(24, 1, 1, 1), Stage(32, 4, 2, 2), Stage(56, 4, 3, 2), Stage(88, 4, 3, 2))),
}


@dataclass(frozen=True)
class StudentConfig:
    """Everything that fixes a student's architecture; stored in its checkpoint.

    Without `stages` it is one of the L3 family (sea-64 ...): blocks of two 3x3 convolutions, with ``filters`` channels
    each and 2x2 max pools in between; its spectrograms are relative to the window's maximum. With stages, it is one for
    microcontrollers (edge-10 ...): a 3x3 convolution with stride 2 and ``filters[0]`` channels, inverted residual
    blocks, and a 1x1 convolution with ``filters[1]``; a frame of its spectrograms does not depend on the others.

    Head ``linear`` is a linear layer on the maximum and the mean of the last feature map. ``relu_max`` is the maximum
    of the last feature map after its ReLU, as in the published SEA students (its outputs cannot be negative).
    """

    embedding_size: int = 64
    filters: tuple[int, ...] = FILTERS["sea-64"]
    head: Head = "linear"
    sample_rate: int = 8000  # Hz
    n_mels: int = 64
    n_fft: int = 1024  # samples
    hop_length: int = 160  # samples
    fmax: float | None = None  # upper edge of the mel bands in Hz; None: half the sample rate
    window: float = 1.0  # s
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple(self.filters))  # lists, if they come from JSON
        object.__setattr__(self, "stages", tuple(Stage(*stage) for stage in self.stages))
        if self.head not in HEADS:
            raise EdgeseaError(f"unknown head {self.head!r}; known: {', '.join(HEADS)}")
        if self.head == "relu_max" and self.filters[-1] != self.embedding_size:
            sizes = f"{self.filters[-1]} dimensions, as many as the last filters, not {self.embedding_size}"
            raise EdgeseaError(f"head relu_max gives {sizes}; choose head=linear or other filters")
        if min(self.embedding_size, *self.filters, *(min(stage) for stage in self.stages)) < 1:
            sizes = f"{self.embedding_size}, {self.filters}{f', {self.stages}' if self.stages else ''}"
            raise EdgeseaError(f"embedding_size, filters and stages must be positive: {sizes}")
        if self.stages and len(self.filters) != 2:
            raise EdgeseaError(f"filters of a student with stages are those of the first and last, not {self.filters}")
        shape, least = (self.n_mels, self.frames()), 1 if self.stages else 2 ** (len(self.filters) - 1)
        if min(shape) < least:
            raise EdgeseaError(f"the spectrogram of {shape} bands and frames is too small; {least} of each are needed")

    def front_end(self) -> LogMelSettings:
        settings = LogMelSettings(self.sample_rate, self.n_fft, self.hop_length, self.n_mels, self.fmax)
        return replace(settings, levels="absolute", padding="none") if self.stages else settings

    def frames(self) -> int:
        return self.front_end().layout(round(self.window * self.sample_rate))[0]

    def stored(self) -> dict[str, Any]:
        """What a checkpoint stores; of the L3 family no stages, of which earlier versions know nothing."""
        return {name: value for name, value in asdict(self).items() if value != ()}

    def name(self) -> str:
        """By which `named` knows it: edge-10, sea-64 ...; of others the filters."""
        known = [name for name in EDGE if EDGE[name] == (self.filters, self.stages)]
        known += [name for name in FILTERS if (FILTERS[name], ()) == (self.filters, self.stages)]
        return known[0] if known else f"filters {'-'.join(map(str, self.filters))}"

    @classmethod
    def named(cls, name: str, **changes: Any) -> "StudentConfig":
        """The configuration of a student, with changes; None means no change."""
        changes = {key: value for key, value in changes.items() if value is not None}
        if name in FILTERS:
            return replace(cls(embedding_size=FILTERS[name][-1], filters=FILTERS[name]), **changes)
        if name not in EDGE:
            raise EdgeseaError(f"unknown student {name!r}; known: {', '.join([*EDGE, *FILTERS])}")
        filters, stages = EDGE[name]
        rate = changes.setdefault("sample_rate", 16000)
        frames = {"n_fft": 2 ** round(0.032 * rate - 1).bit_length(), "hop_length": rate // 100}
        return cls(**{"filters": filters, "stages": stages, **frames, **changes})

    @classmethod
    def trained(
        cls, size: int, window: float, rate: int, *, student: str, sample_rate: int | None, **options: Any
    ) -> "StudentConfig":
        """What `distill` trains with its options on a table with windows at a rate, for embeddings of a size."""
        names = ("head", "filters", "n_mels", "n_fft", "hop_length", "fmax")
        changes = {name: options[name] for name in names}
        sample_rate = sample_rate or min(cls.named(student).sample_rate, rate)
        return cls.named(student, embedding_size=size, window=window, sample_rate=sample_rate, **changes)


class Convolution(NamedTuple):
    """A convolution of a student with its batch normalisation."""

    name: str  # of its arrays
    norm: str  # of those of its batch normalisation
    inputs: int  # channels
    outputs: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    bias: bool = False
    relu: bool = True  # behind it; not behind a projection, nor the last, whose ReLU belongs to the head
    pool: bool = False  # 2x2 max pool before it
    residual: int = 0  # convolutions of a block that ends here, if what goes into the block is added to what comes out


def convolutions(config: StudentConfig) -> list[Convolution]:
    """A student's convolutions in their order; with the head, they are the whole network."""
    found = list(_edge_convolutions(config) if config.stages else _l3_convolutions(config))
    return [*found[:-1], found[-1]._replace(relu=False)]


def _l3_convolutions(config: StudentConfig) -> Iterator[Convolution]:
    channels = 1
    for block, outputs in enumerate(config.filters):
        for index in (7 * block, 7 * block + 3):  # convolution, normalisation and ReLU, twice, and the max pool
            names, pool = (f"features.{index}", f"features.{index + 1}"), bool(block) and index == 7 * block
            yield Convolution(*names, channels, outputs, bias=True, pool=pool)
            channels = outputs


def _edge_convolutions(config: StudentConfig) -> Iterator[Convolution]:
    def layer(name: str, *sizes: Any, **more: Any) -> Convolution:
        return Convolution(f"features.{name}.0", f"features.{name}.1", *sizes, **more)

    channels, last = config.filters
    yield layer("0", 1, channels, 3, 2)
    index = 1
    for outputs, expansion, blocks, stride, kernel in config.stages:
        for step in (stride, *[1] * (blocks - 1)):
            inside, expands = channels * expansion, expansion > 1
            if expands:
                yield layer(f"{index}.block.0", channels, inside, 1)
            yield layer(f"{index}.block.{0 + expands}", inside, inside, kernel, step, inside)
            residual = (2 + expands) * (step == 1 and channels == outputs)
            yield layer(f"{index}.block.{1 + expands}", inside, outputs, 1, relu=False, residual=residual)
            channels, index = outputs, index + 1
    yield layer(f"{index}", channels, last, 1)


def feature_maps(config: StudentConfig) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Bands and frames of what goes into each convolution (behind its pool), and of what comes out."""
    sizes, now = [], (config.n_mels, config.frames())
    for layer in convolutions(config):
        given = (now[0] // 2, now[1] // 2) if layer.pool else now
        now = (-(-given[0] // layer.stride), -(-given[1] // layer.stride))
        sizes.append((given, now))
    return sizes


def array_shapes(config: StudentConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays of a student's checkpoint, as in the state dict of the network in torch."""

    def norm_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
        keys = ("weight", "bias", "running_mean", "running_var")
        return {**{f"{name}.{key}": (channels,) for key in keys}, f"{name}.{COUNTER}": ()}

    shapes = norm_shapes("input_norm", 1)
    for name, norm, inputs, outputs, kernel, _, groups, bias, *_ in convolutions(config):
        shapes |= {f"{name}.weight": (outputs, inputs // groups, kernel, kernel), **norm_shapes(norm, outputs)}
        shapes |= {f"{name}.bias": (outputs,)} if bias else {}
    if config.head == "linear":
        size = config.embedding_size
        shapes |= {"head.linear.weight": (size, 2 * config.filters[-1]), "head.linear.bias": (size,)}
    return shapes


def parameter_count(config: StudentConfig) -> int:
    """Number of trainable parameters of a student: running statistics do not count."""
    shapes = array_shapes(config).items()
    return sum(prod(shape) for name, shape in shapes if not name.endswith(("running_mean", "running_var", COUNTER)))
