"""A model that is quick and needs no weights, and what it makes of a file; shared by the tests of streaming."""

from pathlib import Path

import numpy as np

from edgesea.audio.framing import Framing
from edgesea.embed.engine import embed_files
from edgesea.models.foreign import FunctionModel


def moments(windows: np.ndarray) -> np.ndarray:
    """A model that is quick, and tells a window from another that is one sample off."""
    ramp = np.linspace(-1, 1, windows.shape[1], dtype=np.float32)
    return np.stack([windows.mean(1), np.sqrt(np.square(windows).mean(1)), (windows * ramp).mean(1)], 1)


QUICK = FunctionModel("quick", moments, 8000)
BY_NAME = "callable:quick_model:moments@8000"


def of_file(model, path: Path, hop: float = 0.1, center: bool = True) -> np.ndarray:
    (result,) = embed_files(model, [path], Framing(model.window or 1.0, hop, center))
    assert result.embedding is not None, result.error
    return result.embedding
