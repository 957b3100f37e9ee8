"""What models written in torch share: `embed`, the convolutions of the L3 family, and loading weights safely."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgesea.models.base import Float32, check_shapes, check_windows, file_digest


class TorchModel(nn.Module):
    """An `EmbeddingModel` whose ``forward`` maps windows (B, W) to embeddings (B, D)."""

    id: str = ""
    sample_rate: int
    window: float | None
    embedding_size: int
    digest: str = ""

    def embed(self, windows: Float32) -> Float32:
        """Embeddings (B, D) float32 of windows (B, W) in [-1, 1], computed on the device that holds the weights."""
        windows = np.require(windows, np.float32, ["C", "W"])  # torch takes no read-only arrays
        check_windows(self, windows)
        self.eval()
        if not len(windows):
            return np.zeros((0, self.embedding_size), np.float32)
        with torch.inference_mode():
            result: Tensor = self(torch.from_numpy(windows).to(self._device()))
        return result.float().cpu().numpy()

    def _device(self) -> torch.device:
        return next(self.buffers()).device


Model = TypeVar("Model", bound=TorchModel)


def l3_blocks(filters: Sequence[int]) -> list[nn.Module]:
    """Blocks of two 3x3 'same' convolutions, each with bias, batch normalisation and ReLU; 2x2 max pools between them.

    From one channel to ``filters[-1]``: this stack is what OpenL3 and the students share.
    """
    layers: list[nn.Module] = []
    channels = 1
    for block, outputs in enumerate(filters):
        if block:
            layers.append(nn.MaxPool2d(2))
        for _ in range(2):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU()]
            channels = outputs
    return layers


def load_arrays(model: Model, arrays: Mapping[str, Tensor | NDArray[Any]], path: Path) -> Model:
    """Give `model` the arrays of a file, and its digest; EdgeseaError unless every name and shape fits."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    check_shapes({name: tuple(value.shape) for name, value in arrays.items()}, expected, path)
    model.load_state_dict({name: torch.as_tensor(value) for name, value in arrays.items()}, strict=False)
    model.digest = file_digest(path)
    return model
