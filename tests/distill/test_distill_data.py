from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import peak_memory, write_noise
from stored import embeddings_of

from edgesea.distill.data import ShuffledWindows, WindowSource, ordered_windows
from edgesea.errors import EdgeseaError
from edgesea.extract import extract
from edgesea.models.student_config import StudentConfig
from edgesea.models.student_torch import Student
from edgesea.reduction import load_reduction
from edgesea.table.reader import Table, arrow_file


@pytest.fixture(scope="module")
def source(small_table, small_reduction):
    return WindowSource(Table(small_table), load_reduction(small_reduction), "train")


@pytest.fixture(scope="module")
def places(source):
    """The position among the training windows of each window, by its audio."""
    audio = np.concatenate([source.load(part, group)[0] for part, group, _ in source.chunks])
    found = {row.tobytes(): index for index, row in enumerate(audio)}
    assert len(found) == source.windows == 60
    return found


def order(batches, places):
    """Positions of the windows that come, in order."""
    return [places[row.numpy().tobytes()] for audio, *_ in batches for row in audio]


def shuffled(source, epoch_size=None, seed=5, buffer=14):
    """Batches of eight from buffers of so many windows (14: about five buffers a pass)."""
    return ShuffledWindows(source, 8, epoch_size, seed, buffer_bytes=buffer * source.window_bytes)


@pytest.mark.parametrize("buffer", [1, 14, 30, 1000])
def test_an_epoch_has_every_window_once_but_for_the_incomplete_batch(source, places, buffer):
    windows = shuffled(source, buffer=buffer)
    seen: set[int] = set()
    for epoch in range(6):
        batches = list(windows.epoch(epoch))
        assert [len(audio) for audio, *_ in batches] == [8] * 7 == [8] * len(windows.epoch(epoch))
        positions = order(batches, places)
        assert len(set(positions)) == 56
        seen |= set(positions)
    assert len(seen) == 60  # it is not always the same four that are left out
    assert [len(audio) for audio, *_ in ShuffledWindows(source, 1000, None, 0).epoch(0)] == [60]  # a larger batch


def test_targets_stay_with_their_audio(source, places):
    targets = source.phi.transform(embeddings_of(source.table, "train"))
    for audio, _, found in shuffled(source).epoch(3):
        np.testing.assert_allclose(found, targets[order([(audio, found)], places)], rtol=1e-6, atol=1e-6)


def test_spectrograms_are_those_that_the_student_computes(source):
    student = Student(StudentConfig(n_mels=16))
    phi, settings = source.phi, student.config.front_end()
    ready, stored = (WindowSource(source.table, phi, "train", settings, device) for device in ("cpu", "cuda"))
    for (log_mel, targets), (pcm, scales, same) in zip(
        shuffled(ready).epoch(1), shuffled(stored).epoch(1), strict=True
    ):
        assert torch.equal(targets, same)
        torch.testing.assert_close(log_mel.transpose(1, 2), student.log_mel(pcm * scales), rtol=0, atol=1e-5)


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


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A source of 63 chunks of three windows in eight parts."""
    folder = tmp_path_factory.mktemp("many")
    for index in range(63):
        write_noise(folder / "audio" / f"{index:02d}.wav", 1.5, seed=index)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgesea.table.writer.FLUSH_BYTES", 1)
        extract(folder / "audio", folder / "table", validate=0.0, workers=1, part_clips=8, hop=0.25)
    first_four = SimpleNamespace(output_size=4, transform=lambda x: x[:, :4].astype(np.float32))
    return WindowSource(Table(folder / "table"), first_four, "train")


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(("lanes", "world"), [(1, 1), (1, 3), (4, 1), (4, 2), (4, 3), (4, 4)])
def test_processes_share_each_batch_and_the_reading(many, lanes, world, accumulate, monkeypatch):
    opened: set[str] = set()
    monkeypatch.setattr("edgesea.table.reader.arrow_file", lambda path: opened.add(path.name) or arrow_file(path))

    def batches(rank, world, accumulate):
        many.table = Table(many.table.path)  # which has no file open
        opened.clear()
        size = (13 if lanes == 4 else 1000) * many.window_bytes
        windows = ShuffledWindows(many, 24, 72, 3, rank, world, accumulate, size)
        assert len(windows.lanes) == lanes
        pieces = list(windows.epoch(2))
        assert len(pieces) == len(windows.epoch(2)) == 3 * accumulate
        for left, right in zip(pieces[accumulate:], windows.epoch(2, first=1), strict=True):
            assert torch.equal(left[0], right[0])
        return pieces, set(opened)

    whole, every = batches(0, 1, 1)
    ranks, files = zip(*(batches(rank, world, accumulate) for rank in range(world)), strict=True)
    for index, batch in enumerate(whole):
        for each, wanted in enumerate(batch):
            pieces = [
                torch.stack([share[index * accumulate + piece][each] for share in ranks], 1).flatten(0, 1)
                for piece in range(accumulate)
            ]
            assert torch.equal(torch.cat(pieces), wanted)  # in the same order
    assert len(every) == 8
    shared = len(every) if lanes == 1 or world == 3 else len(every) // world  # 3: every lane has windows for each
    assert [len(share) for share in files] == [shared] * world


def test_lanes_leave_out_few_windows(many):
    windows = ShuffledWindows(many, 24, None, 3, buffer_bytes=13 * many.window_bytes)
    assert sorted(lane.windows for lane in windows.lanes) == [45, 48, 48, 48]
    rows = [row.numpy().tobytes() for audio, *_ in windows.epoch(5) for row in audio]
    assert len(rows) == len(set(rows)) == 168


def test_too_few_windows_for_the_processes(many):
    with pytest.raises(EdgeseaError, match="189"):
        ShuffledWindows(many, 256, None, 0, world=128, accumulate=2)


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


@pytest.mark.parametrize("world", [1, 2, 9])
def test_validation_sees_every_window_once_in_order(small_table, small_reduction, world):
    source = WindowSource(Table(small_table), load_reduction(small_reduction), "validate")
    wanted = []
    for part, group, _ in source.chunks:
        pcm, _, targets = source.load(part, group)
        wanted += [(x.tobytes(), y.tobytes()) for x, y in zip(pcm, targets, strict=True)]
    rows = []
    for rank in range(world):
        batches = ordered_windows(source, 4, rank, world)
        got = list(batches)
        assert len(got) == len(batches) == len(ordered_windows(source, 4, 0, world))  # some may be empty
        assert max(len(batch[-1]) for batch in got) <= 4
        rows += [
            (x.numpy().tobytes(), y.numpy().tobytes()) for b in got if len(b[0]) for x, _, y in zip(*b, strict=True)
        ]
    assert (rows == wanted) if world == 1 else (sorted(rows) == sorted(wanted))
