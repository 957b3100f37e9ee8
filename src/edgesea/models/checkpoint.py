"""Reading and checking weights: names and shapes must fit exactly, and nothing is ever unpickled."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from edgesea.errors import EdgeseaError


def file_digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def load_arrays(module: nn.Module, arrays: Mapping[str, Tensor], source: Path | str) -> None:
    """Load `arrays` into `module` if every name and shape fits.

    Raises
    ------
    EdgeseaError
        Naming the missing, the extra and the misshapen arrays.
    """
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in arrays.items()}
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    problems = [f"missing {name} {expected[name]}" for name in sorted(expected.keys() - given.keys() - optional)]
    problems += [f"unexpected {name} {given[name]}" for name in sorted(given.keys() - expected.keys())]
    problems += [
        f"{name} has shape {given[name]} instead of {expected[name]}"
        for name in sorted(expected.keys() & given.keys())
        if given[name] != expected[name]
    ]
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise EdgeseaError(f"{source}: these are the weights of another model: {shown}")
    module.load_state_dict(dict(arrays), strict=False)
