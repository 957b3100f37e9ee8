"""Reading torch files and loading weights: names and shapes must fit exactly, and nothing is ever unpickled."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgesea.errors import EdgeseaError
from edgesea.models.weights import check_shapes


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A torch state dict, loaded without unpickling anything but tensors.

    Raises
    ------
    EdgeseaError
        If the file is missing or holds anything else.
    """
    if not path.is_file():
        raise EdgeseaError(f"{path}: no such weight file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged or foreign file, and advises to unpickle it
        raise EdgeseaError(
            f"{path}: not a torch state dict: damaged, of another kind, or with objects that are no tensors, which are "
            "not loaded; give the file that torch.save(model.state_dict(), ...) wrote"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise EdgeseaError(f"{path}: not a state dict (a flat mapping of names to arrays)")
    return state


def load_arrays(module: nn.Module, arrays: Mapping[str, Tensor | NDArray[Any]], source: Path | str) -> None:
    """Load `arrays` into `module` if every name and shape fits.

    Raises
    ------
    EdgeseaError
        Naming the missing, the extra and the misshapen arrays.
    """
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    check_shapes({name: tuple(value.shape) for name, value in arrays.items()}, expected, source)
    module.load_state_dict({name: torch.as_tensor(value) for name, value in arrays.items()}, strict=False)
