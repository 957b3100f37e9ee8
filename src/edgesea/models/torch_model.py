"""Base of the models written in torch."""

import numpy as np
import torch
from torch import Tensor, nn

from edgesea.models.base import Float32, check_windows


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
        if not len(windows):
            return np.zeros((0, self.embedding_size), np.float32)
        tensors = [*self.parameters(), *self.buffers()]
        device = tensors[0].device if tensors else torch.device("cpu")
        with torch.inference_mode():
            result: Tensor = self(torch.from_numpy(windows).to(device))
        return result.float().cpu().numpy()
