"""What fixes a student's architecture, without torch."""

from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any, Literal

from edgesea.audio.mel import LogMelSettings
from edgesea.errors import EdgeseaError
from edgesea.models.weights import COUNTER

Head = Literal["linear", "relu_max"]
HEADS = ["linear", "relu_max"]  # an experiment may append its own

FILTERS: dict[str, tuple[int, ...]] = {
    "sea-512": (64, 128, 256, 512),
    "sea-256": (32, 64, 128, 256),
    "sea-128": (32, 64, 128, 128),
    "sea-64": (32, 64, 128, 64),
}


@dataclass(frozen=True)
class StudentConfig:
    """Everything that fixes a student's architecture; stored in its checkpoint.

    Attributes
    ----------
    embedding_size : int
        Number of dimensions of the embedding.
    filters : tuple of int
        Filters of each block of two 3x3 convolutions; a 2x2 max pool stands between two blocks.
    head : {"linear", "relu_max"}
        ``linear``: a linear layer on the maximum and the mean of the last feature map. ``relu_max``: the maximum of the
        last feature map after its ReLU, as in the published SEA students (its outputs cannot be negative).
    sample_rate, n_fft, hop_length : int
        Rate in Hz; FFT length and hop in samples.
    n_mels : int
        Number of mel bands.
    fmax : float or None
        Upper edge of the mel bands in Hz; None: half the sample rate.
    window : float
        Length of a window in seconds.
    """

    embedding_size: int = 64
    filters: tuple[int, ...] = FILTERS["sea-64"]
    head: Head = "linear"
    sample_rate: int = 8000
    n_mels: int = 64
    n_fft: int = 1024
    hop_length: int = 160
    fmax: float | None = None
    window: float = 1.0

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise EdgeseaError(f"unknown head {self.head!r}; known: {', '.join(HEADS)}")
        if self.head == "relu_max" and self.filters[-1] != self.embedding_size:
            raise EdgeseaError(
                f"head relu_max gives as many dimensions as the last block has filters ({self.filters[-1]}), "
                f"not {self.embedding_size}; choose head=linear or other filters"
            )
        if min(self.embedding_size, self.n_mels, self.n_fft, self.hop_length, self.sample_rate, *self.filters) < 1:
            raise EdgeseaError(f"all sizes of a student must be positive: {self}")
        smallest = min(self.n_mels, self.frames())
        if smallest < 2 ** (len(self.filters) - 1):
            raise EdgeseaError(
                f"the spectrogram ({smallest} on its shorter side) is too small for {len(self.filters) - 1} 2x2 pools"
            )

    def front_end(self) -> LogMelSettings:
        """The log-mel spectrogram that its network takes."""
        return LogMelSettings(self.sample_rate, self.n_fft, self.hop_length, self.n_mels, self.fmax)

    def frames(self) -> int:
        """Number of frames of the spectrogram of a window."""
        return self.front_end().frames(round(self.window * self.sample_rate))

    @classmethod
    def named(cls, name: str, **changes: Any) -> "StudentConfig":
        """The configuration of ``sea-512``, ``sea-256``, ``sea-128`` or ``sea-64``, with changes.

        Raises
        ------
        EdgeseaError
            If the name is unknown or the changes do not fit together.
        """
        if name not in FILTERS:
            raise EdgeseaError(f"unknown student {name!r}; known: {', '.join(FILTERS)}")
        config = cls(embedding_size=FILTERS[name][-1], filters=FILTERS[name])
        return replace(config, **{key: value for key, value in changes.items() if value is not None})

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping; ``StudentConfig.from_dict`` reads it back."""
        return {**asdict(self), "filters": list(self.filters)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "StudentConfig":
        """Inverse of `to_dict`; unknown or missing keys raise EdgeseaError."""
        try:
            return cls(**{**values, "filters": tuple(values["filters"])})
        except (KeyError, TypeError) as error:
            raise EdgeseaError(f"not a student's configuration: {error}") from error


def convolutions(config: StudentConfig) -> list[tuple[str, str, int, int]]:
    """The convolutions of a student in order.

    Returns
    -------
    list of (convolution, normalisation, inputs, outputs)
        Names of a convolution and of the batch normalisation after it, as in a checkpoint, and numbers of channels. Two
        of them make a block.
    """
    found = []
    index, channels = 0, 1
    for block, outputs in enumerate(config.filters):
        index += 1 if block else 0  # the max pool
        for _ in range(2):
            found.append((f"features.{index}", f"features.{index + 1}", channels, outputs))
            index += 3  # and the ReLU
            channels = outputs
    return found


def keras_order(config: StudentConfig) -> list[str]:
    """Names of the layers that hold the weights of a published SEA file, in that file's order."""
    return ["input_norm", *(name for layers in convolutions(config) for name in layers[:2])]


def parameter_count(config: StudentConfig) -> int:
    """Number of trainable parameters of a student: running statistics do not count."""
    shapes = array_shapes(config).items()
    return sum(prod(shape) for name, shape in shapes if not name.endswith(("running_mean", "running_var", COUNTER)))


def array_shapes(config: StudentConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays of a student's checkpoint."""
    norms = {"input_norm": 1}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, norm, inputs, outputs in convolutions(config):
        shapes |= {f"{name}.weight": (outputs, inputs, 3, 3), f"{name}.bias": (outputs,)}
        norms[norm] = outputs
    for name, channels in norms.items():
        shapes |= {f"{name}.{key}": (channels,) for key in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{name}.{COUNTER}"] = ()
    if config.head == "linear":
        size = config.embedding_size
        shapes |= {"head.linear.weight": (size, 2 * config.filters[-1]), "head.linear.bias": (size,)}
    return shapes
