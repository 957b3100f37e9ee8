"""``import``: a table from embeddings that exist already, without a teacher."""

import logging
from pathlib import Path
from typing import Any, Literal

from edgesea.artifact import walk
from edgesea.audio.io import checked_count, checked_rate
from edgesea.errors import EdgeseaError
from edgesea.table.manifest import read_manifest

log = logging.getLogger(__name__)
SHARDS = (".h5", ".hdf5")


def import_table(
    source: Path,
    out: Path,
    *,
    teacher: str = "imported",
    audio_rate: int | None = None,
    audio_key: str = "audio",
    embedding_key: str = "l3_embedding",
    suffix: str = "",
    window: float | None = None,
    hop: float | None = None,
    center: bool | None = None,
    root: Path | None = None,
    columns: dict[str, str] | None = None,
    validate: float | str = 0.1,
    sample_rate: int = 8000,
    level_rate: float = 1.0,
    dtype: Literal["float16", "float32"] = "float16",
    part_clips: int = 1024,
    workers: int = 2,
    max_skipped: float = 0.5,
) -> dict[str, Any]:
    """Make a table from audio and embeddings that exist already: HDF5 shards, or files of embeddings beside the audio.

    A shard (.h5, .hdf5) has data sets of audio (N, samples) and of embeddings (N, D); each row becomes a clip of one
    window. Files of embeddings are x.npz (`embedding` and `timestamps`, as openl3, edgel3 and `edgesea embed` write
    them), x.npy or x.npy.gz (windows, dimensions) beside x.wav.

    Started again with the same options, it resumes at the first missing part. What cannot be used is listed in
    ``skipped.csv`` with the reason.

    Parameters
    ----------
    source : Path
        Folder of shards, or of audio files with their embeddings; or a manifest of audio files (.csv or .parquet, as of
        `edgesea extract`).
    out : Path
        Folder of the table.
    teacher : str
        Id of the model that made the embeddings, for the record: openl3/env-mel256-512 ...
    audio_rate : int, optional
        Rate in Hz of the audio in shards, which do not record it.
    audio_key : str
        Shards' data set of audio: int16, or floating-point numbers in [-1, 1].
    embedding_key : str
        Shards' data set of embeddings.
    suffix : str
        What follows the audio file's name and an underscore in that of its embeddings: emb for x_emb.npz.
    window : float, optional
        Length of a window in seconds; default: 1, or that of the rows of a shard.
    hop : float, optional
        Seconds between windows, where there are no timestamps (.npy).
    center : bool, optional
        Whether half a window of zeros preceded each audio file; default: yes, as in openl3, unless timestamps begin at
        half a window.
    root : Path, optional
        Folder that the manifest's paths are relative to; default: the manifest's own.
    columns : dict, optional
        The manifest's own names of its columns, e.g. {path: filename}; or shards' data sets with one value for each
        row, e.g. {sensor: sensor_id, time: timestamp, level: spl, split: split, label: class}. Times given as numbers
        are seconds since 1970 in UTC; `edgesea sample` has the option time_zone for them.
    validate : float or str
        Which clips without a split validate: a share (chosen by a hash of the clip's name; subfolders `train` and
        `validate` go first) or a condition on the manifest, or on a data set of the shards, e.g. fold=5.
    sample_rate : int
        Rate in Hz of the stored audio: the student's.
    level_rate : float
        Readings per second of the manifest's `level` lists.
    dtype : {"float16", "float32"}
        How embeddings are stored.
    part_clips : int
        Clips in a part: what a killed import loses at most.
    workers : int
        Threads that read ahead.
    max_skipped : float
        Largest share of clips, and of shards, that may be skipped; a shard that is lost as a whole counts as one clip.

    Returns
    -------
    dict
        clips, windows, skipped; clipped samples and windows_per_second of this call.

    Raises
    ------
    EdgeseaError
        If the source or the options are unusable, `out` holds another table, or too much had to be skipped.
    """
    checked_count("part_clips", part_clips)
    checked_count("workers", workers)
    checked_rate("sample_rate", sample_rate)
    for name, value in (("window", window), ("hop", hop), ("level_rate", level_rate)):
        if value is not None and not value > 0:
            raise EdgeseaError(f"{name} must be positive, not {value}")
    if not 0 <= max_skipped <= 1:
        raise EdgeseaError(f"max_skipped must lie between 0 and 1, not {max_skipped}")
    from edgesea.embed.engine import embed_sources
    from edgesea.table.pairs import endings, pairs_job
    from edgesea.table.shards import Layout, shards_job
    from edgesea.table.writer import TableWriter

    place = Path(source)
    shards, embeddings = (_find(place, wanted) for wanted in (SHARDS, endings(suffix)))
    if shards and embeddings:
        raise EdgeseaError(
            f"{place}: holds both HDF5 shards ({shards[0].relative_to(place)}) and embeddings beside audio "
            f"({embeddings[0].relative_to(place)}); move one kind to a folder of its own and import each"
        )
    if shards:
        for option, given in (("hop", hop), ("center", center), ("suffix", suffix or None), ("root", root)):
            if given is not None:
                raise EdgeseaError(f"{option}={given} is of no use for HDF5 shards, whose rows are windows; omit it")
        if audio_rate is None:
            raise EdgeseaError("audio_rate: needed in Hz, because HDF5 shards do not record the rate of their audio")
        checked_rate("audio_rate", audio_rate)
        layout = Layout(audio_key, embedding_key, audio_rate, sample_rate, dict(columns or {}), validate)
        job = shards_job(shards, place if place.is_dir() else place.parent, layout, window, part_clips, max_skipped)
    else:
        if audio_rate is not None:
            raise EdgeseaError(f"audio_rate={audio_rate} is of no use for audio files, which record theirs; omit it")
        if place.is_dir() and not embeddings:
            raise EdgeseaError(
                f"{place}: neither HDF5 shards ({' '.join(SHARDS)}) nor embeddings (x{' x'.join(endings(suffix))}); "
                "to embed audio: edgesea extract"
            )
        entries = read_manifest(place, root and Path(root), columns, validate)
        framing = window or 1.0, hop, center
        job = pairs_job(entries, embeddings, place, suffix, framing, sample_rate, level_rate, part_clips)
    plan = {
        "teacher": {"id": teacher, "sha256": None, "sample_rate": None, "embedding_size": job.size},
        "sample_rate": sample_rate,
        "dtype": dtype,
        "parts": len(job.parts),
        "part_clips": part_clips,
        **job.plan,
    }
    table = TableWriter(Path(out), plan, "import")
    for part, sources in table.missing(job.parts):
        with table.part(part) as writer:
            for result in embed_sources(None, sources, job.read, batch_size=1, workers=workers, depth=job.depth):
                table.store(writer, result)
    if table.clipped:
        log.warning("%d samples beyond full scale were clipped", table.clipped)
    speed = {"clipped": table.clipped, "windows_per_second": table.speed}
    return {**table.finish(job.clips, max_skipped), **speed}


def _find(source: Path, endings: tuple[str, ...]) -> list[Path]:
    """The files of a kind below a folder, or a file of it."""
    paths = (path for path in walk(source) if not path.name.startswith(".")) if source.is_dir() else (source,)
    return sorted(path for path in paths if path.name.lower().endswith(endings))
