"""``search``: the clips of a table that sound like a recording."""

import logging
from contextlib import suppress
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from edgesea.artifact import atomic_path, check_file, read_json
from edgesea.audio.io import checked_count, find_audio
from edgesea.errors import EdgeseaError
from edgesea.models import is_teacher, load_model
from edgesea.models.base import EmbeddingModel, file_digest
from edgesea.models.student_files import CONFIG_FILE
from edgesea.reduction.base import ARRAYS_FILE, Reduction

if TYPE_CHECKING:
    from edgesea.table.reader import Chunk, Table

log = logging.getLogger(__name__)
FOLDER = "search"  # of the index, in that of the table
ENDINGS = (".csv", ".parquet")
COLUMNS = ["query", "rank", "cosine", "clip", "start", "sensor", "time", "label", "query_start"]


def search(
    table: Path,
    query: list[Path],
    *,
    top: int = 10,
    windows: bool = False,
    start: float = 0.0,
    end: float | None = None,
    reduction: Path | None = None,
    model: str | None = None,
    weights: Path | None = None,
    out: Path | None = None,
    index: Path | None = None,
    device: str = "auto",
) -> pd.DataFrame:
    """Find the clips of a table that sound like a recording.

    The recording is cut as the table is, and embedded by its teacher. To each window of the recording, the nearest one
    of a clip counts; the mean of these cosines ranks the clips. All are compared. The first search writes an index, a
    copy of the table's embeddings, that later ones read.

    Parameters
    ----------
    table : Path
        Folder of a table.
    query : list of Path
        Recordings, and folders of them.
    top : int
        How many clips are listed for each recording.
    windows : bool
        List windows instead of clips, by their cosine to the nearest window of the recording.
    start : float
        Where in a recording to begin, in seconds.
    end : float, optional
        Where in a recording to end, in seconds; default: at its end.
    reduction : Path, optional
        Search among reduced embeddings, which make a smaller index.
    model : str, optional
        What embeds the recording; default: the table's teacher. A student needs the reduction that it was trained on:
        its embeddings of the recording are compared with the reduced ones of the table.
    weights : Path, optional
        The teacher's weight file; default: the published one, downloaded and verified.
    out : Path, optional
        Also write the result, to a .csv or .parquet file.
    index : Path, optional
        Folder for indexes; default: search, in the folder of the table.
    device : str
        Where the model runs: auto, cpu, cuda, mps.

    Returns
    -------
    DataFrame
        For each recording (`query`), from the best on: `rank`, `cosine`, `clip`, `start` in s of its nearest window and
        `query_start` of the window of the recording that this is nearest to; `sensor`, `label`, and `time` at which the
        window starts, None where unknown.

    EdgeseaError: table, model or reduction are missing or do not belong together, no index can be written, or none of
    the recordings can be used.
    """
    checked_count("top", top)
    if not 0 <= start < (np.inf if end is None else end):
        raise EdgeseaError(f"start and end must be seconds, 0 <= start < end, not {start} and {end}")
    if out is not None:
        check_file(Path(out))
        if Path(out).suffix not in ENDINGS:
            raise EdgeseaError(f"{out}: unknown ending; choose {' or '.join(ENDINGS)}")
    from edgesea.embed.engine import embed_files
    from edgesea.nearest.index import Index
    from edgesea.reduction.windows import load_reduction_of
    from edgesea.table.reader import Table

    source = Table(table)
    given = [Path(path) for path in ([query] if isinstance(query, str | Path) else query)]
    paths = [path for one in given for path in (find_audio(one) if one.is_dir() else [one])]
    phi = None if reduction is None else load_reduction_of(reduction, source)
    network = _load(source, model, weights, device, reduction, phi)
    embeddings = Index(source, Path(index or source.path / FOLDER), reduction, phi)
    read = lru_cache(64)(source.chunk)
    rows, failed = list[dict[str, Any]](), list[str]()
    span = start, np.inf if end is None else end
    for path, vectors, error, warnings in embed_files(network, paths, source.framing, span=span):
        if vectors is not None:
            vectors = phi.transform(vectors) if phi and is_teacher(network.id) else vectors
            usable = np.flatnonzero(vectors.any(1))
        if vectors is None or not len(usable):
            failed.append(f"{path}: {error or 'all its embeddings are zero, which are near to nothing'}")
            continue
        for warning in warnings:
            log.warning("%s: %s", path, warning)
        name = str(path).encode("utf-8", "backslashreplace").decode()
        framing = source.framing.at(network.sample_rate)
        for rank, hit in enumerate(embeddings.search(vectors[usable], top, windows), 1):
            begin = start + framing.start(int(usable[hit.vector])) / network.sample_rate
            found = {"query": name, "rank": rank, "cosine": hit.cosine, "query_start": round(begin, 6)}
            part, group, first = embeddings.place(hit.row)
            rows.append({**found, **_describe(read(part, group), hit.row - first, source.sample_rate)})
    if len(failed) == len(paths):
        raise EdgeseaError(f"none of {len(paths)} recordings can be used: {'; '.join(failed[:3])}")
    for problem in failed:
        log.error("%s", problem)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame.attrs["failed"] = failed
    if out is not None:
        with atomic_path(Path(out)) as temporary:
            csv = Path(out).suffix == ".csv"
            temporary.write_bytes(frame.to_csv(index=False).encode() if csv else frame.to_parquet(index=False))
    return frame


def as_text(frame: pd.DataFrame) -> str:
    """The result of a search for a terminal, without the columns of which nothing is known."""
    shown = frame.dropna(axis=1, how="all").drop(columns=["query"] * (frame["query"].nunique() == 1))
    for name in {"query", "clip"} & {*shown}:
        shown[name] = shown[name].str.ljust(shown[name].str.len().max())
    shown = shown.rename(columns={"start": "start (s)", "query_start": "in query (s)"})
    digits = dict.fromkeys(("start (s)", "in query (s)"), "{:.2f}".format) | {"cosine": "{:.4f}".format}
    return str(shown.to_string(index=False, justify="left", formatters=digits))


def _load(
    table: "Table", model: str | None, weights: Path | None, device: str, reduction: Path | None, phi: Reduction | None
) -> EmbeddingModel:
    """What embeds the recordings; EdgeseaError unless its embeddings can be compared with those of the table."""
    teacher, size = table.info["teacher"], table.embedding_size
    if not (model or is_teacher(teacher["id"])):
        raise EdgeseaError(f"{table.path}: made by {teacher['id']!r}, which cannot be loaded; name it as model")
    network = load_model(model or teacher["id"], weights, device)
    if network.window not in (None, table.framing.window):
        windows = f"windows of {table.framing.window} s, but {network.id} takes {network.window} s"
        raise EdgeseaError(f"{table.path}: {windows}; choose another model")
    made = teacher["sha256"]  # None of tables that were imported
    if is_teacher(network.id):
        if made and network.digest != made:
            text = f"embeddings of {teacher['id']} with weights {made[:12]}, not of {weights or network.id}"
            raise EdgeseaError(f"{table.path}: {text} ({network.digest[:12]}); name these weights")
    elif reduction:
        size, config = phi.output_size if phi else size, Path(str(model), CONFIG_FILE)
        trained = (read_json(config).get("provenance") or {}).get("reduction") if config.is_file() else None
        if not trained:
            log.warning("%s: does not say which reduction it was trained on; by another one, it finds chance", model)
        elif trained.get("sha256") != file_digest(Path(reduction, ARRAYS_FILE)):
            raise EdgeseaError(f"{model}: was not trained on {reduction}; name the reduction that it was trained on")
    elif made is not None:
        raise EdgeseaError(f"{model}: a student, but no reduction is given; name the one that it was trained on")
    if network.embedding_size != size:
        raise EdgeseaError(f"{network.id}: gives {network.embedding_size} dimensions, but {size} are searched")
    return network


def _describe(chunk: "Chunk", window: int, rate: int) -> dict[str, Any]:
    """Clip, start in s, sensor, time and label of a window."""
    clip, start = chunk.clip[window], int(chunk.start[window]) / rate
    if time := chunk.times[clip]:
        with suppress(ValueError, OverflowError):
            time = (datetime.fromisoformat(time) + timedelta(seconds=start)).isoformat(timespec="milliseconds")
    about = {"sensor": chunk.sensors[clip], "time": time, "label": chunk.labels[clip]}
    return {"clip": chunk.names[clip], "start": round(start, 6), **about}
