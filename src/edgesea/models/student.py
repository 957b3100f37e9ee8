"""The students: small L3 audio networks with a configurable input representation, filters and head."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgesea.audio.logmel import LogMel
from edgesea.errors import EdgeseaError
from edgesea.models.base import TorchModel
from edgesea.models.l3 import l3_blocks

Head = Literal["linear", "relu_max"]

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
        if self.fmax is not None and not 0 < self.fmax <= self.sample_rate / 2:
            raise EdgeseaError(f"fmax must lie in (0, {self.sample_rate / 2}] Hz, not {self.fmax}")
        smallest = min(self.n_mels, -(-round(self.window * self.sample_rate) // self.hop_length))
        if smallest < 2 ** (len(self.filters) - 1):
            raise EdgeseaError(
                f"the spectrogram ({smallest} on its shorter side) is too small for {len(self.filters) - 1} 2x2 pools"
            )

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


class ReluMax(nn.Module):
    """Maximum of the rectified feature map (B, C, H, W) -> (B, C)."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(features).amax((2, 3))


class LinearHead(nn.Module):
    """Linear layer on the maximum and the mean of the rectified feature map (B, C, H, W) -> (B, D)."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * channels, size)

    def forward(self, features: Tensor) -> Tensor:
        features = torch.relu(features)
        pooled = torch.cat([features.amax((2, 3)), features.mean((2, 3))], 1)
        result: Tensor = self.linear(pooled)
        return result


HEADS: dict[str, Callable[[int, int], nn.Module]] = {"linear": LinearHead, "relu_max": ReluMax}


class Student(TorchModel):
    """A student f_S: windows (B, W) at ``config.sample_rate`` -> embeddings (B, D).

    Log-mel spectrogram, batch normalisation, blocks of two 3x3 convolutions (bias, batch normalisation, ReLU) with 2x2
    max pools between them, and a head that takes the last batch normalisation's output.

    Parameters
    ----------
    config : StudentConfig
        The architecture.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.id = "student"
        self.sample_rate = config.sample_rate
        self.window = config.window
        self.embedding_size = config.embedding_size
        self.log_mel = LogMel(config.sample_rate, config.n_fft, config.hop_length, config.n_mels, config.fmax)
        self.input_norm = nn.BatchNorm2d(1, eps=1e-3)
        self.features = nn.Sequential(*l3_blocks(config.filters)[:-1])  # the last ReLU belongs to the head
        self.head = HEADS[config.head](config.filters[-1], config.embedding_size)
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        self.features.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on CPUs and GPUs

    def forward(self, windows: Tensor) -> Tensor:
        """Embeddings (B, D) of windows (B, W)."""
        return self.embed_spectrogram(self.spectrogram(windows))

    def spectrogram(self, windows: Tensor) -> Tensor:
        """Normalised log-mel spectrograms (B, 1, bands, frames) of windows (B, W)."""
        result: Tensor = self.input_norm(self.log_mel(windows)[:, None])
        return result

    def embed_spectrogram(self, spectrogram: Tensor) -> Tensor:
        """Embeddings (B, D) of what `spectrogram` gives."""
        result: Tensor = self.head(self.features(spectrogram))
        return result

    def keras_order(self) -> list[str]:
        """Names of the modules that hold the weights of a published SEA file, in that file's order."""
        names = [f"features.{i}" for i, m in enumerate(self.features) if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
        return ["input_norm", *names]
