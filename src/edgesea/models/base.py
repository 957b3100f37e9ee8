"""What every model, teacher or student, offers: ``sample_rate``, ``embedding_size`` and ``embed``."""

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.logmel_numpy import OverlappingLogMel
from edgesea.errors import EdgeseaError

Float32 = NDArray[np.float32]


@runtime_checkable
class EmbeddingModel(Protocol):
    """A teacher or a student.

    Attributes
    ----------
    id : str
        Name under which it was loaded.
    sample_rate : int
        Rate in Hz at which it expects its windows.
    window : float or None
        Length in seconds of the windows it accepts; None if any.
    embedding_size : int
        Number of dimensions D of its embeddings.
    digest : str
        sha256 of its weights ("" if it has none).
    """

    id: str
    sample_rate: int
    window: float | None
    embedding_size: int
    digest: str

    def embed(self, windows: Float32) -> Float32:
        """Embeddings (B, D) float32 of windows (B, W) float32 in [-1, 1]."""
        ...


@runtime_checkable
class LogMelModel(EmbeddingModel, Protocol):
    """A model, any student, whose embeddings may also be computed from spectrograms that share frames.

    ``model.embed(windows)`` and ``model.embed_log_mel(model.front_end(windows))`` are the same.
    """

    @property
    def front_end(self) -> OverlappingLogMel | None:
        """The front end in numpy; None: let `embed` do all the work, because its device is faster at that."""
        ...

    def embed_log_mel(self, log_mel: Float32) -> Float32:
        """Embeddings (B, D) float32 of log-mel spectrograms (B, bands, frames) float32."""
        ...


def window_of(model: EmbeddingModel) -> float:
    """Length in seconds of a model's windows; 1 s for one that accepts any."""
    return model.window or 1.0


def check_windows(model: EmbeddingModel, windows: NDArray[np.floating]) -> None:
    """Raise EdgeseaError unless `windows` is a (B, W) array of the length that `model` accepts."""
    if windows.ndim != 2:
        raise EdgeseaError(f"{model.id}: windows must have shape (B, W), not {windows.shape}")
    if model.window is not None and windows.shape[1] != round(model.window * model.sample_rate):
        raise EdgeseaError(
            f"{model.id}: windows must have {round(model.window * model.sample_rate)} samples "
            f"({model.window} s at {model.sample_rate} Hz), not {windows.shape[1]}"
        )
