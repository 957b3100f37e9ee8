"""What a task's classifiers see: clips as bags of windows, their targets, and where and when they were recorded."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.artifact import atomic_path, digest, file_state
from edgesea.audio.framing import Framing
from edgesea.cluster import results
from edgesea.models.base import EmbeddingModel
from edgesea.models.engine import Precision

if TYPE_CHECKING:
    from edgesea.embed.engine import AudioEmbedding

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

ONCE = ("soxr", "float32")  # resampler and precision of caches that do not say it
GROUP = 64  # clips that are embedded by one call, which returns their embeddings
CONTEXT = ("latitude", "longitude", "hour", "day", "week")
CODES = (range(24), range(7), range(1, 53))  # values with a one-hot code of hour, day and week


@dataclass(frozen=True)
class Bags:
    """The embeddings of N clips, window by window."""

    rows: Float32  # (windows, D), clip by clip
    counts: NDArray[np.int64]  # (N,) windows of each clip; 0 where it could not be embedded
    context: Float64 | None = None  # (N, 5) the columns of `CONTEXT`: degrees, hour, day (0 is Monday), week (1 ... 53)

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def first(self) -> NDArray[np.int64]:
        """The first row of each clip, (N,)."""
        return np.cumsum(self.counts) - self.counts

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Which clips have windows, (N,)."""
        return self.counts > 0

    @property
    def owner(self) -> NDArray[np.int64]:
        """The clip of each row, (windows,)."""
        return np.repeat(np.arange(len(self)), self.counts)

    def take(self, clips: NDArray[np.integer]) -> "Bags":
        """Some of the clips, by index, in the order given."""
        taken = Bags(self.rows[:0], self.counts[clips], None if self.context is None else self.context[clips])
        rows = np.arange(taken.counts.sum()) + np.repeat(self.first[clips] - taken.first, taken.counts)
        return taken.with_rows(self.rows[rows])

    def with_rows(self, rows: Float32) -> "Bags":
        """The same clips with other embeddings of their windows."""
        return replace(self, rows=rows)

    def means(self) -> Float32:
        """Mean of each clip's rows, (N, D); NaN for a clip without any."""
        means = np.full((len(self), self.rows.shape[1]), np.nan, np.float32)
        totals = np.add.reduceat(self.rows, self.first[self.usable], axis=0, dtype=np.float64)
        means[self.usable] = totals / self.counts[self.usable, None]
        return means

    def averaged(self) -> "Bags":
        """The same clips with one row each, the mean of their windows; still none where there were none."""
        return replace(self, rows=self.means()[self.usable], counts=self.usable.astype(np.int64))


@dataclass(frozen=True)
class Targets:
    """What a tagger is to predict for each of N clips."""

    labels: Float32  # (N, K) 1 where a tag is present, 0 where not
    given: NDArray[np.bool_]  # (N, K) False where it is not known: the loss leaves it out
    sensors: NDArray[np.int64] | None = None  # (N,) number of the sensor, from 0
    proximity: Float32 | None = None  # (N, P, 2) of P tags: (1, 0) most volunteers heard it near, (0, 1) far, or (0, 0)

    def take(self, clips: NDArray[np.integer]) -> "Targets":
        """The targets of some clips, by index."""
        return replace(self, **{name: array[clips] for name, array in vars(self).items() if array is not None})


def context_encoder(train: Float64, standardize: bool) -> Callable[[Float64], Float32]:
    """What encodes the context (N, 5) of clips as (N, 85): coordinates, and one-hot codes of hour, day and week.

    As in the baseline of DCASE 2020 task 5. The mean coordinates of the training clips (M, 5) stand for missing ones;
    missing times, and week 53, are all zeros.
    """
    known = np.ma.masked_invalid(train[:, :2])
    mean, std = known.mean(0).filled(0.0), known.std(0).filled(0.0)
    # 1e-7 degrees are a centimetre: the coordinates of one place differ by rounding, which must not be blown up.
    shift, scale = mean * standardize, np.where((std > 1e-7) & standardize, std, 1.0)

    def encode(context: Float64) -> Float32:
        degrees = np.where(np.isnan(context[:, :2]), mean, context[:, :2])
        codes = [values[:, None] == codes for values, codes in zip(context[:, 2:].T, CODES, strict=True)]
        return np.hstack([(degrees - shift) / scale, *codes]).astype(np.float32)

    return encode


def window_embeddings(
    load: Callable[[], EmbeddingModel],
    paths: Sequence[Path],
    framing: Framing,
    batch_size: int,
    workers: int | None,
    cache: Path | None,
    jobs: int = 1,
    precision: Precision = "float32",
) -> tuple[Bags, dict[Path, str]]:
    """Embed clips, except for those in the cache of an earlier call with the same model, clips and framing.

    Returns all clips, without windows where they could not be embedded, and the reasons. Such clips are tried again by
    every call. `load` gives the model, also where the work is done by `jobs` processes or others (`cluster.results`).
    """
    model = load()
    files = [(path.name, file_state(path)) for path in paths]
    chosen = [value for value in (framing.resampler, precision) if value not in ONCE]
    key = digest([model.id, model.digest, repr(framing.at(model.sample_rate)), files, *chosen])
    stored = None if cache is None else Path(cache) / f"{key[:32]}.npz"
    blocks = [np.zeros((0, model.embedding_size), np.float32)] * len(paths)
    if stored is not None and stored.exists():
        with np.load(stored) as arrays:
            blocks = np.split(arrays["embedding"], np.cumsum(arrays["counts"])[:-1])
    todo = [index for index, block in enumerate(blocks) if not len(block)]
    groups = [([paths[index] for index in todo[first : first + GROUP]],) for first in range(0, len(todo), GROUP)]
    embed = partial(_embed_group, load, (framing, batch_size, workers))
    found = chain.from_iterable(results(embed, groups, jobs))
    bar = tqdm(found, total=len(todo), unit="clip", desc=f"embed {model.id}", disable=None if todo else True)
    failed: dict[Path, str] = {}
    try:
        for number, (index, result) in enumerate(zip(todo, bar, strict=True), 1):
            if result.embedding is None:
                failed[result.path] = result.error
            else:
                blocks[index] = result.embedding
                if stored is not None and number % (len(todo) // 10 + 1) == 0:  # a killed process loses a tenth at most
                    _write_cache(stored, blocks)
    finally:
        if stored is not None and any(len(blocks[index]) for index in todo):
            _write_cache(stored, blocks)
    return Bags(np.concatenate(blocks), np.array([len(block) for block in blocks], np.int64)), failed


def _embed_group(
    load: Callable[[], EmbeddingModel], options: tuple[Framing, int, int | None], paths: list[Path]
) -> "Iterator[AudioEmbedding[Path]]":
    """Embed clips; batches do not reach over the end of the group."""
    from edgesea.embed.engine import embed_files

    return embed_files(load(), paths, *options)


def _write_cache(path: Path, blocks: Sequence[Float32]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, embedding=np.concatenate(blocks), counts=[len(block) for block in blocks])
