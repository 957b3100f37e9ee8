"""The tags of SONYC-UST and their two levels, read from the data set's taxonomy."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError

INCOMPLETE = "X"  # the fine id of a tag whose coarse class is certain and whose fine one is not


@dataclass(frozen=True)
class Taxonomy:
    """Coarse tags and the fine tags below them.

    Attributes
    ----------
    coarse : tuple of str
        The C coarse tags, as ``1_engine``.
    fine : tuple of str
        The F fine tags, as ``1-1_small-sounding-engine``; the incomplete ones too, as ``1-X_engine-of-uncertain-size``.
    parent : ndarray, (F,) int
        The coarse tag of each fine tag, as its index.
    incomplete : ndarray of bool, (F,)
        Whether a fine tag only says that its coarse class is certain.
    """

    coarse: tuple[str, ...]
    fine: tuple[str, ...]
    parent: NDArray[np.int64]
    incomplete: NDArray[np.bool_]

    @property
    def names(self) -> tuple[str, ...]:
        """The coarse tags without their numbers, as ``engine``: what scores are named by."""
        return tuple(tag.partition("_")[2] for tag in self.coarse)

    @property
    def complete(self) -> tuple[str, ...]:
        """The fine tags that are not incomplete: what a classifier learns."""
        return tuple(tag for tag, without in zip(self.fine, self.incomplete, strict=True) if not without)

    def every_score(self, scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores of all fine tags, (N, F), and of the coarse ones, (N, C), from those of the complete fine tags.

        Incomplete tags get 0, coarse ones the highest score of their fine tags.
        """
        fine = np.zeros((len(scores), len(self.fine)))
        fine[:, ~self.incomplete] = scores
        return fine, np.stack([fine[:, self.parent == tag].max(1) for tag in range(len(self.coarse))], 1)


def read_taxonomy(path: Path) -> Taxonomy:
    """Read ``dcase-ust-taxonomy.yaml``.

    Raises
    ------
    EdgeseaError
        If it cannot be read, or is not a taxonomy of SONYC-UST.
    """
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
        coarse = {str(number): f"{number}_{name}" for number, name in content["coarse"].items()}
        rows = [
            (f"{number}-{own}_{name}", list(coarse).index(str(number)), str(own) == INCOMPLETE)
            for number, tags in content["fine"].items()
            for own, name in tags.items()
        ]
        names = [*content["coarse"].values(), *(name for tags in content["fine"].values() for name in tags.values())]
    except OSError as error:
        raise EdgeseaError(f"{path}: {error.strerror or error}; SONYC-UST has it beside its annotations") from error
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise EdgeseaError(f"{path}: not the taxonomy of SONYC-UST: {error}") from error
    fine, parents, incomplete = zip(*rows, strict=True) if rows else ((), (), ())
    if not coarse or set(parents) != set(range(len(coarse))):
        raise EdgeseaError(f"{path}: not the taxonomy of SONYC-UST: each coarse tag needs fine tags")
    taxonomy = Taxonomy(tuple(coarse.values()), fine, np.array(parents, np.int64), np.array(incomplete, bool))
    # Scores are stored by name: of two coarse tags of one name, one would be lost.
    if not all(isinstance(name, str) for name in names) or any(map(_repeats, (taxonomy.names, fine))):
        raise EdgeseaError(f"{path}: not the taxonomy of SONYC-UST: the names of tags must be words, all different")
    return taxonomy


def _repeats(names: tuple[str, ...]) -> bool:
    return len(set(names)) < len(names)


def check_tag_columns(path: Path, columns: Iterable[str], taxonomy: Taxonomy, suffix: str = "") -> None:
    """Make sure that all columns of tags, as ``1_engine`` or ``1-X_...`` with `suffix`, are of tags in the taxonomy.

    Raises
    ------
    EdgeseaError
        If not: scores or labels of another taxonomy would be left out unnoticed.
    """
    known = {tag + suffix for tag in (*taxonomy.coarse, *taxonomy.fine)}
    tag = re.compile(rf"\d+(-[\dX]+)?_.+{suffix}")
    if unknown := [name for name in columns if tag.fullmatch(name) and name not in known]:
        raise EdgeseaError(
            f"{path}: tags that the taxonomy does not have: {', '.join(unknown)}; is it of this data set?"
        )
