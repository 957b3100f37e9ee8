"""What every model, teacher or student, offers: ``sample_rate``, ``embedding_size`` and ``embed``."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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


def check_windows(model: EmbeddingModel, windows: NDArray[np.floating]) -> None:
    """Raise EdgeseaError unless `windows` is a (B, W) array of the length that `model` accepts."""
    if windows.ndim != 2:
        raise EdgeseaError(f"{model.id}: windows must have shape (B, W), not {windows.shape}")
    if model.window is not None and windows.shape[1] != round(model.window * model.sample_rate):
        raise EdgeseaError(
            f"{model.id}: windows must have {round(model.window * model.sample_rate)} samples "
            f"({model.window} s at {model.sample_rate} Hz), not {windows.shape[1]}"
        )


class TorchModel(nn.Module):
    """Base of the models written in torch: ``forward`` maps windows (B, W) to embeddings (B, D)."""

    id: str = ""
    sample_rate: int
    window: float | None
    embedding_size: int
    digest: str = ""

    def embed(self, windows: Float32) -> Float32:
        """Embeddings of a batch of windows, computed on the device that holds the weights.

        Parameters
        ----------
        windows : ndarray, (B, W) float
            Audio in [-1, 1] at ``sample_rate``.

        Returns
        -------
        ndarray, (B, D) float32

        Raises
        ------
        EdgeseaError
            If the shape is not (B, W) with the W of the model.
        """
        windows = np.require(windows, np.float32, ["C", "W"])  # torch takes no read-only arrays
        check_windows(self, windows)
        self.eval()
        tensors = [*self.parameters(), *self.buffers()]
        device = tensors[0].device if tensors else torch.device("cpu")
        with torch.inference_mode():
            result: Tensor = self(torch.from_numpy(windows).to(device))
        return result.float().cpu().numpy()
