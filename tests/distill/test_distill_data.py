from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import peak_memory, write_noise

from edgesea.distill.data import ShuffledWindows, WindowSource, ordered_windows
from edgesea.extract import extract
from edgesea.reduction import load_reduction
from edgesea.table.reader import Table


@pytest.fixture(scope="module")
def source(small_table, small_reduction):
    return WindowSource(Table(small_table), load_reduction(small_reduction), "train")


@pytest.fixture(scope="module")
def places(source):
    """The position among the training windows of each window, by its audio."""
    audio = np.concatenate([np.multiply(*source.load(part, group)[:2]) for part, group, _ in source.chunks])
    found = {row.tobytes(): index for index, row in enumerate(audio)}
    assert len(found) == source.windows == 60
    return found


def order(batches, places):
    """Positions of the windows that come, in order."""
    return [places[row.numpy().tobytes()] for audio, _ in batches for row in audio]


def shuffled(source, epoch_size=None, seed=5, buffer=14):
    """Batches of eight from buffers of so many windows (14: about five buffers a pass)."""
    windows = ShuffledWindows(source, 8, epoch_size, seed)
    windows.buffer_windows = buffer
    return windows


@pytest.mark.parametrize("buffer", [1, 14, 30, 1000])
def test_an_epoch_has_every_window_once_but_for_the_incomplete_batch(source, places, buffer):
    windows = shuffled(source, buffer=buffer)
    seen: set[int] = set()
    for epoch in range(6):
        batches = list(windows.epoch(epoch))
        assert [len(audio) for audio, _ in batches] == [8] * 7 == [8] * len(windows.epoch(epoch))
        positions = order(batches, places)
        assert len(set(positions)) == 56
        seen |= set(positions)
    assert len(seen) == 60  # it is not always the same four that are left out
    assert [len(audio) for audio, _ in ShuffledWindows(source, 1000, None, 0).epoch(0)] == [60]  # a larger batch


def test_targets_stay_with_their_audio(source, places):
    targets = source.phi.transform(np.concatenate(list(source.table.iter_embeddings("train"))))
    for audio, found in shuffled(source).epoch(3):
        np.testing.assert_allclose(found, targets[order([(audio, found)], places)], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("buffer", [14, 1000])
def test_the_order_is_a_function_of_seed_and_epoch_alone(source, places, buffer):
    def epochs(seed, wanted):
        windows = shuffled(source, seed=seed, buffer=buffer)
        return [order(windows.epoch(epoch), places) for epoch in wanted]

    first, second, third = epochs(1, [0, 1, 2])
    assert first != second != third != first
    assert epochs(1, [2, 0]) == [third, first]
    assert epochs(2, [0]) != [first]
    assert first != sorted(first)


@pytest.mark.parametrize("size", [8, 24, 64, 120])
def test_an_epoch_begins_where_the_last_one_ended(source, places, size):
    passes = [position for epoch in range(5) for position in order(shuffled(source).epoch(epoch), places)]
    windows = shuffled(source, size)
    assert len(windows.epoch(0)) == size // 8
    count = len(passes) // size
    got = [position for epoch in range(count) for position in order(windows.epoch(epoch), places)]
    assert got == passes[: count * size]


@pytest.mark.parametrize("epoch", [0, 2])
def test_processes_share_each_batch(source, places, epoch):
    whole = [order([batch], places) for batch in ShuffledWindows(source, 12, 36, 3).epoch(epoch)]
    ranks = [list(ShuffledWindows(source, 4, 36, 3, rank, 3).epoch(epoch)) for rank in range(3)]
    assert len(whole) == 3
    for index, batch in enumerate(whole):
        shares = [order([batches[index]], places) for batches in ranks]
        assert [len(share) for share in shares] == [4, 4, 4]
        assert sorted(chain.from_iterable(shares)) == sorted(batch)


def test_no_more_is_read_than_needed(source, monkeypatch):
    loads = []
    monkeypatch.setattr(source, "load", lambda *place: loads.append(place) or WindowSource.load(source, *place))
    windows = ShuffledWindows(source, 8, None, 0)
    for epoch in range(3):
        list(windows.epoch(epoch))
    assert len(loads) == len(source.chunks)  # a table that fits in the buffer is read once
    loads.clear()
    list(shuffled(source, 8).epoch(6))  # the seventh and last batch of the first pass
    assert 0 < len(loads) < len(source.chunks) / 2


def test_memory_is_bounded_by_the_buffer(tmp_path, monkeypatch):
    write_noise(tmp_path / "audio" / "long.wav", 300.0)
    monkeypatch.setattr("edgesea.table.writer.FLUSH_BYTES", 1)
    extract(tmp_path / "audio", tmp_path / "table", validate=0.0, workers=1)  # 599 windows in chunks of 64
    table = Table(tmp_path / "table")

    first_four = SimpleNamespace(output_size=4, transform=lambda x: x[:, :4].astype(np.float32))
    source = WindowSource(table, first_four, "train")
    assert [count for *_, count in source.chunks] == [64] * 9 + [23]
    windows = shuffled(source, buffer=130)
    sum(1 for _ in windows.epoch(0))
    batches, held = peak_memory(lambda: sum(1 for _ in windows.epoch(1)))
    assert batches == 74
    peak = held / source.window_bytes
    assert peak < 130 + 64 + 3 * 8 + 20, f"{peak:.0f} windows in memory"  # buffer, chunk being read, batches, overlaps


@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_sees_every_window_once_in_order(small_table, small_reduction, world):
    source = WindowSource(Table(small_table), load_reduction(small_reduction), "validate")
    wanted = []
    for part, group, _ in source.chunks:
        pcm, scales, targets = source.load(part, group)
        wanted += [(x.tobytes(), y.tobytes()) for x, y in zip(pcm * scales, targets, strict=True)]
    rows = []
    for rank in range(world):
        batches = ordered_windows(source, 4, rank, world)
        got = list(batches)
        assert len(got) == len(batches)
        assert max(len(x) for x, _ in got) <= 4
        rows += [(x.numpy().tobytes(), y.numpy().tobytes()) for batch in got for x, y in zip(*batch, strict=True)]
    assert (rows == wanted) if world == 1 else (sorted(rows) == sorted(wanted))
