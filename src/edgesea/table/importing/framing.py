"""How the windows of existing embeddings were framed: what timestamps tell, and what all files must agree in."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.framing import FINEST, Framing
from edgesea.errors import EdgeseaError
from edgesea.table.importing.arrays import STAMP_TOLERANCE, EmbeddingFile


@dataclass(frozen=True)
class Reference:
    """What all embeddings must agree with.

    Attributes
    ----------
    framing : Framing
        Windows and hop in seconds.
    size : int
        Dimensions.
    clip : str
        The clip that `size` is from: the first whose embeddings can be read.
    first : float
        First timestamp in seconds.
    stamped : bool
        Whether every file must have timestamps, because nothing else tells its hop.
    guessed : bool
        Whether nothing told that clips are centred.
    """

    framing: Framing
    size: int
    clip: str
    first: float
    stamped: bool
    guessed: bool

    def check(self, file: EmbeddingFile) -> None:
        """Raise EdgeseaError if a file does not agree."""
        name, stamps = file.path.name, file.timestamps
        if file.size != self.size:
            raise EdgeseaError(f"{name}: {file.size} dimensions, where those of {self.clip} have {self.size}")
        if stamps is None:
            if self.stamped:
                raise EdgeseaError(f"{name}: no timestamps tell its hop; give it as hop")
            return
        expected = self.first + self.framing.timestamps(len(stamps))
        if not np.allclose(stamps, expected, rtol=1e-6, atol=STAMP_TOLERANCE):
            raise EdgeseaError(f"{name}: timestamps {_brief(stamps)}, where other files have {_brief(expected)}")


def _brief(stamps: NDArray[np.float64]) -> str:
    return ", ".join(f"{stamp:.6g}" for stamp in stamps[:3]) + (" ... s" if len(stamps) > 3 else " s")


def find_reference(
    embeddings: Mapping[str, Path | str], window: float, hop: float | None, center: bool | None
) -> Reference:
    """Settle framing and size from the first files that tell them.

    Parameters
    ----------
    embeddings : mapping of str to (Path or str)
        For each clip the file with its embeddings, or why there is none.
    window : float
        Length of a window in seconds.
    hop : float, optional
        Seconds between windows; default: as the timestamps tell.
    center : bool, optional
        Whether half a window of zeros preceded the audio; default: as the timestamps tell, else yes.

    Raises
    ------
    EdgeseaError
        If no embeddings can be read, the options do not agree with the timestamps, or nothing tells the hop.
    """
    readable: tuple[str, int] | None = None
    stamped: tuple[Path, NDArray[np.float64]] | None = None
    problem = ""
    for clip, path in embeddings.items():
        if isinstance(path, str) or (readable and path.suffix != ".npz"):
            continue
        try:
            with EmbeddingFile(path) as file:
                readable = readable or (clip, file.size)
                stamps = file.timestamps
        except EdgeseaError as error:
            problem = problem or str(error).replace(path.name, str(path), 1)
            continue
        if stamps is not None and (stamped is None or len(stamps) > 1):
            stamped = path, stamps
            if len(stamps) > 1 or hop is not None:
                break
    if readable is None:
        raise EdgeseaError(f"no embeddings can be read (first: {problem})")
    found = hop if stamped is None or len(stamped[1]) < 2 else _agreed_hop(*stamped, hop)
    if found is None:
        raise EdgeseaError(f"hop: needed in seconds, because no timestamps tell it (as those of {readable[0]})")
    first = 0.0 if stamped is None else _first_stamp(*stamped, window, center)
    centered = center is not False and first == 0.0
    guessed = center is None and first == 0.0
    return Reference(Framing(window, found, centered), readable[1], readable[0], first, hop is None, guessed)


def _agreed_hop(path: Path, stamps: NDArray[np.float64], hop: float | None) -> float:
    found = _spacing(stamps)
    if hop is not None and abs(found - hop) > 1e-6 * hop:
        raise EdgeseaError(f"{path}: timestamps every {found:g} s, where hop is {hop:g} s; leave hop out")
    return found if hop is None else hop


def _spacing(stamps: NDArray[np.float64]) -> float:
    """Seconds between timestamps: the round number or the fraction that these may be multiples of, else their mean.

    Single precision leaves the mean of all spacings uncertain by 1e-7 of it, so it takes 1/30 for another number.
    """
    mean = float(stamps[-1] - stamps[0]) / (len(stamps) - 1)
    if not math.isfinite(mean):
        return mean  # which no framing accepts
    with np.errstate(over="ignore"):
        precision = 2.0**-22 if np.array_equal(stamps, stamps.astype(np.float32)) else 1e-9
    candidates = round(mean, 6), float(Fraction(mean).limit_denominator(FINEST))
    return next((value for value in candidates if abs(value - mean) <= precision * mean), mean)


def _first_stamp(path: Path, stamps: NDArray[np.float64], window: float, center: bool | None) -> float:
    """0 or half a window.

    Timestamps that begin at 0 are the middles of centred windows or the starts of others: openl3 writes both so. Those
    that begin at half a window are the middles of windows that are not centred.
    """
    first = float(stamps[0])
    if abs(first) <= STAMP_TOLERANCE:
        return 0.0
    if abs(first - window / 2) <= STAMP_TOLERANCE and not center:
        return window / 2
    raise EdgeseaError(
        f"{path}: timestamps begin at {first:g} s; understood are 0, and without center half a window ({window / 2:g} "
        f"s); is window={window:g} right?"
    )
