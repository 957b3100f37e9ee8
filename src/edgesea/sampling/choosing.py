"""Going through the frames of a table and choosing from each."""

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from edgesea.errors import EdgeseaError
from edgesea.parallel import prefetch
from edgesea.sampling.frame_reader import FrameReader, FrameWindows
from edgesea.sampling.frames import FrameIndex, Int64, frame_rng, quotas
from edgesea.sampling.methods import Choice, MethodSpec
from edgesea.table.reader import Table

log = logging.getLogger(__name__)

LEAST_CHOICE = 4  # windows considered for each that is chosen, at least


class Chosen(NamedTuple):
    """Windows chosen, sorted by their place in the table.

    Attributes
    ----------
    part, window : ndarray, (k,) int64
        Where they stand.
    frames : int
        Frames that gave any.
    mean_core : float or None
        Of k-DPPs: which share is chosen by similarity on average (see `Choice`), where there was a choice.
    """

    part: Int64
    window: Int64
    frames: int
    mean_core: float | None


def choose_windows(
    table: Table, index: FrameIndex, size: int, spec: MethodSpec, options: Mapping[str, Any], workers: int
) -> Chosen:
    """Choose equally many windows from each frame of a table.

    Parameters
    ----------
    table : Table
        The table.
    index : FrameIndex
        Its frames.
    size : int
        How many windows in all; all there are, if fewer.
    spec : MethodSpec
        The method.
    options : mapping
        ``seed``, and those that the method uses.
    workers : int
        Frames worked on at once.

    Raises
    ------
    EdgeseaError
        If a frame lacks what the method needs, by the name of the frame.
    """
    frames = int((index.sizes > 0).sum())
    if size < frames:
        log.warning("%d windows of %d frames: only %d frames, drawn at random, give one each", size, frames, size)
    rng = frame_rng(options["seed"], ("", ""), "quotas")
    shares = quotas(index.sizes, min(size, int(index.sizes.sum())), rng)
    reader = _reader(table, index, shares, spec, options)
    parts, windows, core, judged = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0.0, 0
    for found, choice in _choices(reader, index, shares, spec, options, workers):
        parts.append(found.part[choice.rows])
        windows.append(found.window[choice.rows])
        if choice.core is not None:
            core, judged = core + choice.core, judged + len(choice.rows)
    if reader.passes > 1:
        log.info("frames are mixed up in the table: it was read %d times to keep memory low", reader.passes)
    if core < judged / 2:
        log.warning(
            "only %.0f of %d windows are chosen by similarity on average, the others uniformly: the ridge %g is too "
            "large for these embeddings, or many are duplicates",
            core,
            judged,
            options["ridge"],
        )
    part, window = np.concatenate(parts), np.concatenate(windows)
    order = np.lexsort((window, part))
    return Chosen(part[order], window[order], int((shares > 0).sum()), core / judged if judged else None)


def _reader(
    table: Table, index: FrameIndex, shares: Int64, spec: MethodSpec, options: Mapping[str, Any]
) -> FrameReader:
    """Reader of the frames that something is chosen from."""
    wanted = [frame for frame, share in enumerate(shares.tolist()) if share]
    # From few more windows than are to be chosen, every method would choose nearly as if at random.
    limit = max(options["pool"], LEAST_CHOICE * int(shares.max())) if "pool" in options else None
    large = [frame for frame in wanted if limit is not None and index.sizes[frame] > limit]
    if large:
        log.warning(
            "%d of %d frames have more than %d windows (the largest %d): of each, only so many, drawn uniformly, are "
            "considered; raise pool, or take shorter frames, to consider more",
            len(large),
            len(wanted),
            limit,
            index.sizes.max(),
        )
    return FrameReader(table, index, wanted, with_embeddings=spec.embeddings, pool=limit, seed=options["seed"])


def _choices(
    reader: FrameReader,
    index: FrameIndex,
    shares: Int64,
    spec: MethodSpec,
    options: Mapping[str, Any],
    workers: int,
) -> Iterator[tuple[FrameWindows, Choice]]:
    """Choose in each frame, in threads, while the table is read on; in the order in which frames are completed."""
    own = {name: options.get(name) for name in spec.options if name != "pool"}

    def choose(frame: int, windows: FrameWindows) -> Choice:
        k = int(shares[frame])
        if k == len(windows):
            return Choice(np.arange(k))
        try:
            _check_finite(windows)
            return spec.choose(windows, k, frame_rng(options["seed"], index.names[frame], "choose"), **own)
        except EdgeseaError as error:
            name = ", ".join(part for part in index.names[frame] if part) or "all windows"
            raise EdgeseaError(f"frame {name}: {error}") from error

    count = int(np.count_nonzero(shares))
    # Threads of their own for each frame, rather than all for one frame's matrices, unless there is only one frame.
    limit = threadpool_limits(1) if min(workers, count) > 1 else threadpool_limits()
    total = int(index.sizes[shares > 0].sum())
    bar = tqdm(total=total, unit="window", unit_scale=True, desc="sample", disable=None)
    waiting: deque[tuple[int, FrameWindows, Future[Choice]]] = deque()
    frames = prefetch([lambda: reader], workers=1)
    with limit, bar, ThreadPoolExecutor(workers, thread_name_prefix="edgesea-sample") as executor:
        try:
            for frame, windows in next(frames):
                waiting.append((frame, windows, executor.submit(choose, frame, windows)))
                while len(waiting) > workers:
                    done, found, result = waiting.popleft()
                    yield found, result.result()
                    bar.update(int(index.sizes[done]))
            while waiting:
                done, found, result = waiting.popleft()
                yield found, result.result()
                bar.update(int(index.sizes[done]))
        finally:
            reader.stop()
            for *_, result in waiting:
                result.cancel()
            frames.close()  # type: ignore[attr-defined]


def _check_finite(windows: FrameWindows) -> None:
    if windows.embeddings is None:
        return
    bad = np.flatnonzero(~np.isfinite(windows.embeddings).all(1))
    if len(bad):
        raise EdgeseaError(
            f"{len(bad)} of {len(windows)} windows have embeddings with NaN or Inf, the first is window "
            f"{windows.window[bad[0]]} of part {windows.part[bad[0]]}; make the table again without its clip"
        )
