"""Weight files without torch: their digests, and whether their arrays are those of a model."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from edgesea.errors import EdgeseaError

COUNTER = "num_batches_tracked"


def file_digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_shapes(
    given: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], source: Path | str
) -> None:
    """Make sure that arrays have exactly the names and shapes that a model expects.

    The counters of batches that torch keeps beside its batch normalisations are no weights and may be missing.

    Raises
    ------
    EdgeseaError
        Naming the missing, the extra and the misshapen arrays of `source`.
    """
    optional = {name for name in expected if name.endswith(COUNTER)}
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
