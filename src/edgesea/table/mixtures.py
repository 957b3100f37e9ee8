"""Mixtures: clips of one window each, made of windows of training clips; teacher and student hear the same."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.framing import Framing, SampleFraming
from edgesea.audio.framing import Piece as AudioPiece
from edgesea.audio.io import AudioFile, Truncated
from edgesea.audio.level import a_weighted_level
from edgesea.audio.resampling import Resampler
from edgesea.embed.engine import PIECE, UNUSABLE, cut_rows, embed_sources
from edgesea.errors import EdgeseaError
from edgesea.models.base import EmbeddingModel
from edgesea.table.clips import ClipEntry, Manifest, Piece, to_pcm

Float32 = NDArray[np.float32]
BLOCK_CLIPS, LEAST, MOST = 16, 4, 16  # clips that are decoded for a block, and mixtures of it for each
EXCERPT = 16.0  # seconds of a clip that are heard at once, but two windows at least
RECIPE: dict[str, Any] = {  # of a mixture; recorded with the table
    "shares": [0.2, 0.5, 0.3],  # of mixtures of one, two, three windows
    "snr": [0.0, 12.0],  # dB of the first window over each other
    "speed": [0.7, 1.4],  # at which two of three clips are played
    "gain": [-10.0, 4.0],  # dB of the whole, or less, so that it does not exceed full scale
}
SILENT, MOST_BOOST = 1e-6, 10.0**1.5  # power of a window that sets no level; amplification of a window at most


class Block(NamedTuple):
    """Mixtures of the same few clips, which are decoded once."""

    clip: str  # name of the first mixture
    numbers: range  # of the mixtures
    entries: Manifest
    seed: int
    path: str = ""


def cut_mixtures(entries: Manifest, count: int, part_clips: int, seed: int) -> list[list[Block]]:
    """The parts of a table of `count` mixtures: blocks of clips, of which none comes again before all have come."""
    if len(entries) < 2:
        raise EdgeseaError(f"mixtures are made of at least two clips of the split train, not of {len(entries)}")
    size = BLOCK_CLIPS * min(MOST, max(LEAST, -(-count // len(entries))))  # the most of which all clips are used
    starts, in_part = range(0, count, size), max(1, part_clips // BLOCK_CLIPS)
    rounds = range(-(-len(starts) * BLOCK_CLIPS // len(entries)))
    drawn = np.concatenate([np.random.default_rng((seed, number)).permutation(len(entries)) for number in rounds])
    blocks = [
        Block(_name(first), range(first, min(first + size, count)), entries[np.unique(clips)], seed)
        for first, clips in zip(starts, np.resize(drawn, (len(starts), BLOCK_CLIPS)), strict=True)
    ]
    return [blocks[first : first + in_part] for first in range(0, len(blocks), in_part)]


def _name(number: int) -> str:
    return f"mixture-{number:07d}"


def embed_mixtures(
    load: Callable[[], EmbeddingModel], options: dict[str, Any], batches: dict[str, Any], blocks: Iterator[Block]
) -> Iterator[Any]:
    """Embed the mixtures of some blocks, as `embed_sources` does; then come the clips that could not be used."""
    model, failed, last = load(), dict[str, str](), None
    read = partial(_mixtures, model=model, failed=failed, **options)
    for result in embed_sources(model, blocks, read, depth=PIECE, **batches):
        yield result
        last = result[0]
    if last is None:
        named = "".join(f" (first: {clip}: {failed[clip]})" for clip in sorted(failed)[:1])
        raise EdgeseaError(f"mixtures need two training clips that can be used{named}; repair them or choose others")
    yield from ((last, item, None) for item in failed.items())


def _mixtures(
    block: Block,
    framing: Framing,
    sample_rate: int,
    truncated: Truncated,
    model: EmbeddingModel,
    failed: dict[str, str],
) -> Iterator[tuple[Piece, Float32]]:
    """The mixtures of a block and the rows that the model takes of them; clips that cannot be used join `failed`."""
    rng, rates, heard = np.random.default_rng((block.seed, block.numbers[0], 1)), (sample_rate, model.sample_rate), []
    for entry in block.entries:
        try:
            heard.append(_heard(entry, framing, rates, truncated, rng))
        except UNUSABLE as error:
            failed[entry.clip] = (str(error) or repr(error)).removeprefix(f"{entry.path}: ")
    sizes = [(framing.at(rate).window, rate // math.gcd(*rates)) for rate in rates]
    side_by_side, starts = SampleFraming(sizes[1][0], sizes[1][0], 0), np.zeros(1, np.int64)
    for first in range(0, len(block.numbers) if len(heard) > 1 else 0, PIECE):
        numbers = block.numbers[first : first + PIECE]
        pairs = [_mix(heard, sizes, rng) for _ in numbers]
        windows = np.stack([of_teacher for _, of_teacher in pairs])
        rows = cut_rows(model, AudioPiece(0, len(windows), windows.ravel()), side_by_side)
        levels = a_weighted_level(windows, rates[1])
        for number, (audio, _), row, level in zip(numbers, pairs, rows, levels, strict=True):
            pcm, scale = to_pcm(audio)
            entry = ClipEntry(_name(number), "", split="train")
            yield Piece(entry, 0, pcm, starts, level[None], scale), row[None]


def _heard(
    entry: ClipEntry, framing: Framing, rates: Sequence[int], truncated: Truncated, rng: np.random.Generator
) -> list[Float32]:
    """A clip, or an excerpt of a long one, at each rate."""
    with AudioFile(entry.path, truncated) as file:
        most = round(max(EXCERPT, 2 * framing.window) * file.sample_rate)
        begin = int(rng.integers(max(0, file.frames - most) + 1))
        samples = np.concatenate([*file.chunks(begin, begin + most)])
        slowest, fastest = RECIPE["speed"]
        speed = 1.0 if rng.random() < 1 / 3 else slowest * (fastest / slowest) ** rng.random()
        played = round(file.sample_rate * speed)
        return [Resampler(played, rate, framing.resampler).feed(samples, last=True) for rate in rates]


def _mix(
    heard: Sequence[Sequence[Float32]], sizes: Sequence[tuple[int, int]], rng: np.random.Generator
) -> list[Float32]:
    """Random windows of one to three clips, mixed at random levels: the same at each rate.

    `sizes` are, at each rate, the samples of a window, and of the steps at which both have a sample.
    """
    chosen = rng.permutation(len(heard))[: 1 + rng.choice(3, p=RECIPE["shares"])]
    parts = [np.zeros((len(chosen), window), np.float32) for window, _ in sizes]
    for row, clip in enumerate(heard[number] for number in chosen):
        last = min((len(audio) - window) // step for audio, (window, step) in zip(clip, sizes, strict=True))
        place = int(rng.integers(max(0, last) + 1))
        for windows, audio, (window, step) in zip(parts, clip, sizes, strict=True):
            some = audio[place * step :][:window]
            windows[row, : len(some)] = some
    power = np.maximum(np.square(parts[-1]).mean(1), np.finfo(np.float32).tiny)
    loud = power > SILENT
    first = int(loud.argmax() if loud.any() else power.argmax())
    low, high = RECIPE["snr"]
    weights = np.sqrt(power[first] / power) * 10 ** (-rng.uniform(low, high, len(power)) / 20)
    weights[first] = 1.0
    weights = np.minimum(weights, MOST_BOOST).astype(np.float32)
    mixed = [np.einsum("i,ij->j", weights, windows) for windows in parts]
    peak = max(float(np.abs(audio).max()) for audio in mixed)
    gain = min(10 ** (rng.uniform(*RECIPE["gain"]) / 20), 1 / max(peak, 1e-9))
    return [audio * np.float32(gain) for audio in mixed]
