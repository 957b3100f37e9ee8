"""What every model, teacher or student, offers; and the digests and shapes of weights, all without torch."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.logmel_numpy import FrontEnd
from edgesea.errors import EdgeseaError

Float32 = NDArray[np.float32]
COUNTER = "num_batches_tracked"  # torch keeps one with each batch normalisation; it is not a weight


@runtime_checkable
class EmbeddingModel(Protocol):
    """A teacher or a student."""

    id: str  # name under which it was loaded
    sample_rate: int  # Hz
    window: float | None  # length in seconds of the windows it accepts; None: any
    embedding_size: int  # dimensions D
    digest: str  # sha256 of its weights; "" if it has none

    def embed(self, windows: Float32) -> Float32: ...  # windows (B, W) in [-1, 1] -> embeddings (B, D)


@runtime_checkable
class LogMelModel(EmbeddingModel, Protocol):
    """A model that also takes spectrograms: ``embed`` is ``embed_log_mel`` of ``front_end``."""

    front_end: FrontEnd

    def embed_log_mel(self, log_mel: Float32) -> Float32: ...  # spectrograms (B, bands, frames) -> embeddings (B, D)


def window_of(model: EmbeddingModel) -> float:
    """Length in seconds of a model's windows; 1 s for one that accepts any."""
    return model.window or 1.0


def check_windows(model: EmbeddingModel, windows: NDArray[np.floating]) -> None:
    """Raise EdgeseaError unless `windows` is a (B, W) array of the length that `model` accepts."""
    if windows.ndim != 2:
        raise EdgeseaError(f"{model.id}: windows must have shape (B, W), not {windows.shape}")
    length = None if model.window is None else round(model.window * model.sample_rate)
    if length not in (None, windows.shape[1]):
        raise EdgeseaError(f"{model.id}: windows must have {length} samples ({model.window} s), not {windows.shape[1]}")


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_shapes(
    given: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], source: Path | str
) -> None:
    """Raise EdgeseaError unless the arrays of `source` have exactly the names and shapes that a model expects."""
    problems = []
    for name in sorted(expected.keys() | given.keys()):
        found, wanted = given.get(name, "missing"), expected.get(name, "none")
        if found != wanted and not (found == "missing" and name.endswith(COUNTER)):
            problems.append(f"{name} has shape {found} instead of {wanted}")
    if problems:
        more = f"; and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise EdgeseaError(f"{source}: these are the weights of another model: {'; '.join(problems[:4])}{more}")
