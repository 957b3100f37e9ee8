"""What is to be imported, of either kind: its parts, how they are read, and what decides the result."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgesea.audio.framing import Framing
from edgesea.errors import EdgeseaError
from edgesea.table.building import Skipped
from edgesea.table.importing.framing import find_reference
from edgesea.table.importing.pairs import find_pairs, read_pair
from edgesea.table.importing.pieces import EmbeddedPiece
from edgesea.table.importing.shards import SLICE_ROWS, Layout, cut_slices, find_shards, read_slice, shards_digest
from edgesea.table.manifest import ClipEntry, cut_parts
from edgesea.table.pieces import Rates


@dataclass(frozen=True)
class Job:
    """Everything that is known before the first clip is read.

    Attributes
    ----------
    size : int
        Dimensions of the embeddings.
    plan : dict
        Of the table's plan what depends on the kind: framing, level, input, manifest_sha256.
    parts : list of list
        The sources of each part.
    read : callable
        Reads one of them, as `edgesea.table.building.write_parts` wants it.
    clips : int
        How many clips these are.
    unit : str
        What a source is.
    depth : int
        Pieces of one source that may wait.
    """

    size: int
    plan: dict[str, Any]
    parts: list[list[Any]]
    read: Callable[[Any], Iterator[tuple[ClipEntry, EmbeddedPiece] | Skipped]]
    clips: int
    unit: str
    depth: int


def shards_job(
    paths: Sequence[Path], root: Path, layout: Layout, window: float | None, part_clips: int, max_skipped: float
) -> Job:
    """The import of HDF5 shards; see `edgesea.table.importing.import_table`.

    Raises
    ------
    EdgeseaError
        If too many shards cannot be used, they do not fit together, or their rows do not last a window.
    """
    shards = find_shards(paths, root, layout, max_skipped)
    good = next(shard for shard in shards if not shard.reason)
    seconds = good.samples / layout.audio_rate
    if window is not None and round(window * layout.audio_rate) != good.samples:
        raise EdgeseaError(
            f"{good.path}: rows of {good.samples} samples last {seconds:g} s at audio_rate={layout.audio_rate}, "
            f"not window={window:g} s"
        )
    framing = Framing(seconds, seconds, center=False)
    framing.at(layout.sample_rate)
    return Job(
        size=good.size,
        plan={
            "framing": asdict(framing),
            "level": _level("level" in layout.columns, None),
            "input": {"kind": "shards", **asdict(layout)},
            "manifest_sha256": shards_digest(shards, layout),
        },
        parts=cut_slices(shards, part_clips),
        read=partial(read_slice, layout=layout),
        clips=sum(max(1, shard.rows) for shard in shards),
        unit="slice",
        depth=SLICE_ROWS,
    )


def pairs_job(
    entries: Sequence[ClipEntry],
    found: Sequence[Path],
    root: Path,
    *,
    suffix: str,
    window: float,
    hop: float | None,
    center: bool | None,
    sample_rate: int,
    level_rate: float,
    part_clips: int,
) -> Job:
    """The import of audio files with embeddings beside them; see `edgesea.table.importing.import_table`.

    Parameters
    ----------
    entries : sequence of ClipEntry
        The audio files.
    found : sequence of Path
        The files with embeddings below `root`, where those without audio are to be listed.
    root : Path
        What their names are relative to.
    suffix, window, hop, center, sample_rate, level_rate, part_clips
        Options of `import_table`.

    Raises
    ------
    EdgeseaError
        If no embeddings can be read, or nothing tells their hop.
    """
    pairs = find_pairs(entries, suffix, found, root)
    reference = find_reference(pairs.embeddings, window, hop, center)
    reference.framing.at(sample_rate)
    parts = cut_parts(pairs.entries, part_clips)
    measured = any(entry.level for entry in entries)
    rates = Rates(reference.framing, sample_rate, None, level_rate, measured)
    return Job(
        size=reference.size,
        plan={
            "framing": asdict(reference.framing),
            "level": _level(measured, level_rate),
            "input": {"kind": "embeddings beside audio", "suffix": suffix, "hop": hop, "center": center},
            "manifest_sha256": pairs.digest(),
        },
        parts=parts,
        read=partial(read_pair, embeddings=pairs.embeddings, rates=rates, reference=reference),
        clips=len(pairs.entries),
        unit="clip",
        depth=2,
    )


def _level(measured: bool, rate: float | None) -> dict[str, Any]:
    return {"unit": "dB SPL" if measured else "dB(A) re full scale", "rate": rate}
