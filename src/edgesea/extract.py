"""``extract``: an audio folder or a manifest becomes a table of clips, windows and teacher embeddings."""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgesea.artifact import PLAN_FILE, read_json
from edgesea.audio.framing import Framing
from edgesea.audio.io import Truncated
from edgesea.audio.resampling import Resampling, checked_resampling
from edgesea.cluster import results
from edgesea.errors import EdgeseaError
from edgesea.models import has_network, resolve_device
from edgesea.models.engine import Engine, Precision, low_precision
from edgesea.table.clips import check_options, clip_pieces, cut_parts
from edgesea.table.manifest import manifest_digest, read_manifest, sha256
from edgesea.table.mixtures import RECIPE, cut_mixtures, embed_mixtures
from edgesea.table.reader import MIXTURES, parts_done

if TYPE_CHECKING:
    from edgesea.models.base import EmbeddingModel

log = logging.getLogger(__name__)
FULL_SCALE = "dB(A) re full scale"
CHECKED, ENOUGH = 32, 0.999  # windows by which a precision is chosen, and the cosine that it must reach


def extract(
    source: Path,
    out: Path,
    *,
    teacher: str = "spectral",
    weights: Path | None = None,
    root: Path | None = None,
    columns: dict[str, str] | None = None,
    validate: float | str = 0.1,
    sample_rate: int = 16000,
    window: float = 1.0,
    hop: float = 0.5,
    center: bool = False,
    mixtures: int = 0,
    seed: int = 0,
    resampler: Resampling = "soxr",
    level_rate: float = 1.0,
    dtype: Literal["float16", "float32"] = "float16",
    part_clips: int = 128,
    batch_size: int = 64,
    workers: int | None = None,
    device: str = "auto",
    engine: Engine = "auto",
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto",
    max_skipped: float = 0.5,
    truncated: Truncated = "skip",
) -> dict[str, Any]:
    """Embed the windows of all clips with a teacher and store them, with the audio, as a table.

    Started again with the same options, it resumes at the first missing part. Clips that cannot be used are listed in
    ``skipped.csv`` with the reason.

    Parameters
    ----------
    source : Path
        Folder of recordings; a manifest (CSV or Parquet) with a column `path` and any of `sensor`, `time` (ISO 8601),
        `split` (train, validate, test), `level` (dB SPL: a number or a list), `label`; or the folder of ESC-50,
        UrbanSound8K or SONYC-UST as published.
    out : Path
        Folder of the table.
    teacher : str
        Teacher model: spectral, efficientat/mn04 ... mn40, openl3/env-mel256-512 ..., hear:MODULE, onnx:FILE,
        callable:MODULE:FUNCTION@RATE.
    weights : Path, optional
        The teacher's weight file; default: the published one, downloaded and verified.
    root : Path, optional
        Folder that the manifest's paths are relative to; default: the manifest's own.
    columns : dict, optional
        The manifest's own names of its columns, e.g. {path: filename}; or what they are made of, e.g. {path:
        "fold{fold}/{slice_file_name}"}; "" leaves one out.
    validate : float or str
        Which clips without a split validate: a share (chosen by a hash of the clip's name; subfolders `train` and
        `validate` go first; of a published data set, whole folds) or a condition on the manifest, e.g. fold=5.
    sample_rate : int
        Rate in Hz of the stored audio: the highest that a student can have.
    window : float
        Length of a window in seconds.
    hop : float
        Distance between the starts of two windows in seconds.
    center : bool
        Precede each clip by half a window of zeros.
    mixtures : int
        Also store so many mixtures of one to three windows of different training clips, at random places (whatever
        `hop`), speeds and levels, as a table in the folder `mixtures` of this one: `distill` trains on both. Every clip
        is used equally often; of one that is longer than 16 s, excerpts are read.
    seed : int
        Of the mixtures.
    resampler : {"soxr", "resampy"}
        What brings recordings to the rates of student and teacher; resampy (edgesea[compat]) as edgel3 and openl3 do.
    level_rate : float
        Readings per second of the manifest's `level` lists.
    dtype : {"float16", "float32"}
        How embeddings are stored.
    part_clips : int
        Clips in a part: what a killed extraction loses at most.
    batch_size : int
        Windows that the teacher embeds at once.
    workers : int, optional
        Threads that decode ahead; default: OMP_NUM_THREADS, or one for each processor, but 8 at most.
    device : str
        Where the teacher runs: auto, cpu, cuda, cuda:1, mps.
    engine : {"auto", "torch", "onnx", "openvino"}
        What computes the teacher's network: onnx or openvino (edgesea[openvino]) on the CPU, torch anywhere. auto:
        torch on a GPU; else openvino, if it is installed, or onnx.
    precision : {"auto", "float32", "float16", "bfloat16"}
        In which it is computed. auto: a lower one than float32, where the hardware has it, if the embeddings of some of
        the clips are nearly the same in both (cosine above 0.999 after subtracting the mean). A table that is resumed
        keeps its engine and precision.
    max_skipped : float
        Largest share of clips that may be skipped.
    truncated : {"skip", "use"}
        What becomes of recordings that end, or are damaged, before the end that they announce: they are skipped, or
        what is there is used.

    Returns
    -------
    dict
        clips, windows, skipped, mixtures; windows_per_second and hours_per_hour of this call.

    Raises
    ------
    EdgeseaError
        If the source, the options or the teacher's weights are unusable, `out` holds another table, or too many clips
        had to be skipped.
    """
    counts = {"part_clips": part_clips, "batch_size": batch_size, "workers": 1 if workers is None else workers}
    check_options(sample_rate, level_rate, max_skipped, **counts)
    if min(mixtures, seed) < 0:
        raise EdgeseaError(f"mixtures and seed must be at least 0, not {mixtures} and {seed}")
    from edgesea.models import load_teacher, shared_model
    from edgesea.table.writer import write_table

    framing = Framing(window, hop, center, checked_resampling(resampler))
    framing.at(sample_rate)
    entries = read_manifest(Path(source), root and Path(root), columns, validate)
    blocks: list[Any] = []
    if mixtures:
        mixed = entries[entries.columns["split"] == "train"]
        blocks = cut_mixtures(mixed, mixtures, part_clips, seed)
    weights = weights and Path(weights)
    read = partial(clip_pieces, framing=framing, sample_rate=sample_rate, truncated=truncated)
    done = parts_done(Path(out))  # then the plan of the table says by what it was made
    made = read_json(Path(out, PLAN_FILE))["teacher"] if done and done[0] else {}
    if made or not has_network(teacher):
        engine = made.get("engine", "torch") if engine == "auto" else engine
        precision = made.get("precision", "float32") if precision == "auto" else precision
    given, exact = (load_teacher, teacher, weights, device), "float32" if precision == "auto" else precision
    model, load, jobs = shared_model(*given, engine, exact)
    if model.window is not None and round(model.window * model.sample_rate) != round(window * model.sample_rate):
        raise EdgeseaError(f"teacher {teacher} embeds windows of {model.window} s, not {window} s")
    framing.at(model.sample_rate)
    if "auto" in (engine, precision):
        choose, every = partial(_choose, load, given, precision, read), -(-len(entries) // CHECKED)
        ((engine, precision),) = results(choose, [(entries[::every],)], jobs)
        model, load, jobs = shared_model(*given, engine, precision)
    parts = cut_parts(entries, part_clips)
    rate = level_rate if any(entries.columns["level"]) else None  # of measured levels
    made_by = {"id": model.id, "sha256": model.digest, "sample_rate": model.sample_rate}
    about = {**made_by, "embedding_size": model.embedding_size}
    if (engine, precision) != ("torch", "float32"):  # as tables were made before there was a choice
        about |= {"engine": engine, "precision": precision}
    level = {"unit": "dB SPL" if rate else FULL_SCALE, "rate": level_rate}
    cut = {"parts": len(parts), "part_clips": part_clips, "batch_size": batch_size}
    stored = {"sample_rate": sample_rate, "framing": framing.plan(), "dtype": dtype, **cut, "level": level}
    plan: dict[str, Any] = {"teacher": about, **stored, "manifest_sha256": manifest_digest(entries)}
    if truncated != "skip":  # a key that tables do not have which were made before there was a choice
        plan["truncated"] = truncated
    batches = {"batch_size": batch_size, "workers": workers}
    embed = partial(_embed, load, partial(read, teacher_rate=model.sample_rate, level_rate=rate), batches)
    result = write_table(Path(out), plan, parts, embed, len(entries), max_skipped, "extract", jobs)
    if mixtures:
        alone = Framing(window, window, False, resampler)
        made_of = sha256([manifest_digest(mixed), f"{mixtures} mixtures, seed {seed}"])  # by which students know them
        plan |= {"framing": alone.plan(), "parts": len(blocks), "level": {"unit": FULL_SCALE, "rate": level_rate}}
        plan |= {"manifest_sha256": made_of, "mixtures": {"count": mixtures, "seed": seed, **RECIPE}}
        embed = partial(embed_mixtures, load, {**read.keywords, "framing": alone}, batches)
        write_table(Path(out, MIXTURES), plan, blocks, embed, len(mixed), max_skipped, "mix", jobs)
        result["mixtures"] = mixtures
    if speed := result["windows_per_second"]:
        log.info("%.1f windows/s, %.1f hours of audio per hour", speed, speed * hop)
    return {**result, "hours_per_hour": speed * hop}


def _embed(
    load: Callable[[], "EmbeddingModel"], read: Callable[..., Any], options: dict[str, Any], sources: Iterator[Any]
) -> Iterator[Any]:
    """Embed clips with a teacher."""
    from edgesea.embed.engine import embed_sources

    model = load()
    return embed_sources(model, sources, partial(read, model=model), **options)


def _choose(
    load: Callable[[], "EmbeddingModel"], given: Any, precision: Any, read: Any, entries: list[Any]
) -> tuple[Engine, Precision]:
    """What `auto` stands for where the table is made: the engine, and the precision, by a window of each entry."""
    from edgesea.embed.engine import UNUSABLE

    load_teacher, *words, device = given
    exact, windows = load(), []
    engine: Engine = getattr(exact, "engine", "torch")
    low = low_precision(engine, resolve_device(device)) if precision == "auto" else None
    if low is None:
        return engine, "float32" if precision == "auto" else precision
    for entry in entries:
        with suppress(*UNUSABLE):  # reported when its turn comes
            _, rows = next(read(entry, teacher_rate=exact.sample_rate, level_rate=None))
            windows.append(rows[len(rows) // 2])
    if not windows:
        return engine, "float32"
    rows = np.stack(windows)
    pair = exact.embed(rows), load_teacher(*words, device, engine, low).embed(rows)
    one, other = (embeddings - pair[0].mean(0) for embeddings in pair)
    with np.errstate(invalid="ignore"):
        cosine = np.vdot(one, other) / np.sqrt(np.vdot(one, one) * np.vdot(other, other))  # NaN if all are the same
    chosen: Precision = low if cosine > ENOUGH else "float32"
    found = f"{low} and float32 of {len(rows)} windows have a mean-centred cosine of {cosine:.5f}"
    log.info("precision %s: %s", chosen, found)
    return engine, chosen
