"""``import``: a table from embeddings that exist already, without a teacher."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgesea.artifact import walk
from edgesea.errors import EdgeseaError
from edgesea.table.manifest import read_manifest
from edgesea.table.pieces import check_rate

if TYPE_CHECKING:
    from edgesea.table.importing.shards import Layout

log = logging.getLogger(__name__)

SHARD_ENDINGS = (".h5", ".hdf5")


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

    Killed or failed, it resumes at the first missing part when it is started again with the same options. What cannot
    be used is listed in ``skipped.csv`` with the reason.

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
        Rate in Hz of the audio in shards, which do not tell it.
    audio_key : str
        Shards' data set of audio: int16, or floating-point numbers in [-1, 1].
    embedding_key : str
        Shards' data set of embeddings.
    suffix : str
        What follows the audio file's name and an underscore in that of its embeddings: emb for x_emb.npz.
    window : float, optional
        Length of a window in seconds; default: 1, or that of the rows of a shard.
    hop : float, optional
        Seconds between windows, where no timestamps tell it (.npy).
    center : bool, optional
        Whether half a window of zeros preceded each audio file; default: yes, as in openl3, unless timestamps begin at
        half a window.
    root : Path, optional
        Folder that the manifest's paths are relative to; default: the manifest's own.
    columns : dict, optional
        The manifest's own names of its columns, as {path: filename}; or shards' data sets with one value for each row,
        as {sensor: sensor_id, time: timestamp, level: spl, split: split, label: class}. Times given as numbers are
        seconds since 1970 in UTC; `edgesea sample` has the option time_zone for them.
    validate : float or str
        Which clips without a split validate: a share (chosen by a hash of the clip's name; subfolders `train` and
        `validate` go first) or a condition on the manifest, or on a data set of the shards, as fold=5.
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
    _check_positive(part_clips=part_clips, workers=workers, level_rate=level_rate)
    check_rate("sample_rate", sample_rate)
    _check_positive(window=window, hop=hop)
    if not 0 <= max_skipped <= 1:
        raise EdgeseaError(f"max_skipped must lie between 0 and 1, not {max_skipped}")
    from edgesea.table.building import finish_table, write_parts
    from edgesea.table.claiming import claim_table
    from edgesea.table.importing.jobs import Job, pairs_job, shards_job
    from edgesea.table.importing.pieces import PieceCollector

    place, folder = Path(source), Path(out)
    shards, embeddings = _look(place, suffix)
    job: Job
    if shards:
        _refuse("HDF5 shards, in which a row is a window", hop=hop, center=center, suffix=suffix or None, root=root)
        layout = _layout(audio_key, embedding_key, audio_rate, sample_rate, columns, validate)
        job = shards_job(shards, place if place.is_dir() else place.parent, layout, window, part_clips, max_skipped)
    else:
        _refuse("audio files, which tell their own rate", audio_rate=audio_rate)
        entries = read_manifest(place, root and Path(root), columns, validate)
        job = pairs_job(
            entries,
            embeddings,
            place,
            suffix=suffix,
            window=1.0 if window is None else window,
            hop=hop,
            center=center,
            sample_rate=sample_rate,
            level_rate=level_rate,
            part_clips=part_clips,
        )
    plan = {
        "teacher": {"id": teacher, "sha256": None, "sample_rate": None, "embedding_size": job.size},
        "sample_rate": sample_rate,
        "dtype": dtype,
        "parts": len(job.parts),
        "part_clips": part_clips,
        **job.plan,
    }
    claim_table(folder, plan)
    written = write_parts(
        folder,
        plan,
        job.parts,
        job.read,
        lambda writer: PieceCollector(writer, dtype, teacher),
        workers=workers,
        task="import",
        unit=job.unit,
        depth=job.depth,
    )
    if written.clipped:
        log.warning("%d samples beyond full scale were clipped", written.clipped)
    speed = {"clipped": written.clipped, "windows_per_second": written.windows / written.seconds}
    return {**finish_table(folder, plan, job.clips, max_skipped), **speed}


def _check_positive(**options: float | None) -> None:
    for name, value in options.items():
        if value is not None and not value > 0:
            raise EdgeseaError(f"{name} must be positive, not {value}")


def _refuse(kind: str, **options: Any) -> None:
    """Refuse options that mean nothing for the kind of input."""
    for name, value in options.items():
        if value is not None:
            raise EdgeseaError(f"{name}={value} is of no use for {kind}; leave it out")


def _look(source: Path, suffix: str) -> tuple[list[Path], list[Path]]:
    """The shards of a source, and the files with embeddings in a folder; only one kind may be there."""
    from edgesea.table.importing.pairs import endings

    wanted = endings(suffix)
    if not source.exists():
        raise EdgeseaError(f"{source}: no such file or folder")
    if not source.is_dir():
        if source.suffix.lower() not in (*SHARD_ENDINGS, ".csv", ".parquet"):
            raise EdgeseaError(f"{source}: neither a folder, nor a shard (.h5, .hdf5), nor a manifest (.csv, .parquet)")
        return [source] if source.suffix.lower() in SHARD_ENDINGS else [], []
    files = [path for path in walk(source) if not path.name.startswith(".")]
    shards = sorted(path for path in files if path.suffix.lower() in SHARD_ENDINGS)
    embeddings = sorted(path for path in files if path.name.endswith(wanted))
    if shards and embeddings:
        raise EdgeseaError(
            f"{source}: holds both HDF5 shards ({shards[0].relative_to(source)}) and embeddings beside audio "
            f"({embeddings[0].relative_to(source)}); move one kind to a folder of its own and import each"
        )
    if not shards and not embeddings:
        raise EdgeseaError(
            f"{source}: neither HDF5 shards ({' '.join(SHARD_ENDINGS)}) nor embeddings (x{' x'.join(wanted)}); "
            "to embed audio: edgesea extract"
        )
    return shards, embeddings


def _layout(
    audio_key: str,
    embedding_key: str,
    audio_rate: int | None,
    sample_rate: int,
    columns: dict[str, str] | None,
    validate: float | str,
) -> "Layout":
    from edgesea.table.importing.rows import ROW_COLUMNS
    from edgesea.table.importing.shards import Layout

    if audio_rate is None:
        raise EdgeseaError("audio_rate: needed in Hz, because HDF5 shards do not tell the rate of their audio")
    check_rate("audio_rate", audio_rate)
    unknown = sorted(set(columns or {}) - set(ROW_COLUMNS))
    if unknown:
        raise EdgeseaError(f"columns: unknown {', '.join(unknown)}; known for shards: {', '.join(ROW_COLUMNS)}")
    return Layout(audio_key, embedding_key, audio_rate, sample_rate, dict(columns or {}), validate)
