from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from conftest import cut_windows, load_audio, peak_memory, write_noise
from stored import embeddings_of

from edgesea.audio.logmel_numpy import OverlappingLogMel
from edgesea.distill.data import ShuffledWindows, WindowSource, batch_sizes, ordered_windows
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
    return ShuffledWindows([source], [8], epoch_size, seed, buffer_bytes=buffer * source.window_bytes)


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
    assert batch_sizes([source], 1000, None, [1], 1) == [60]  # a larger batch


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


@pytest.mark.parametrize("rate", [8000, 11025])
def test_windows_of_a_lower_rate_begin_when_those_of_the_table_do(tmp_path, rate):
    """In a long clip, which has several rows, at a rate and a hop for which no number of samples is whole."""

    def wave(time):
        return 0.5 * np.sin(2 * np.pi * (20 + 5 * time) * time)

    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", wave(np.arange(20 * 16000) / 16000), 16000)
    extract(tmp_path / "audio", tmp_path / "table", validate=0.0, hop=0.0799, center=True, workers=1)
    table = Table(tmp_path / "table")
    chunks = list(table.chunks())
    for chunk in chunks:
        rows = chunk.select(None)[:-20]  # the last reach over the end
        pcm, scales = table.audio(chunk, rows, rate)
        time = chunk.start[rows, None] / 16000 + np.arange(rate) / rate
        inside = time > 0.01
        off = np.abs(pcm * scales - wave(time))[inside]
        assert pcm.shape == (len(rows), rate)
        # But for a millisecond at the ends of a row, where the filter sees zeros.
        assert np.quantile(off, 0.999) < 0.5 * 2 * np.pi * 220 / rate  # the sine's slope, times a sample
    assert sum(len(chunk.offsets) for chunk in chunks) > 3


@pytest.mark.parametrize(("student", "device"), [("sea-64", "cpu"), ("sea-64", "cuda"), ("edge-10", "cpu")])
def test_spectrograms_of_a_lower_rate_are_close_to_those_of_the_recording(shared_data, tmp_path, student, device):
    audio = tmp_path / "audio"
    audio.mkdir()
    for path in sorted((shared_data / "esc10" / "audio").glob("*.ogg"))[::100]:
        (audio / path.name).symlink_to(path)
    extract(audio, tmp_path / "table", validate=0.0, hop=0.25, workers=1)
    table, identity = Table(tmp_path / "table"), SimpleNamespace(output_size=512, transform=lambda rows: rows)
    settings = StudentConfig.named(student, sample_rate=8000).front_end()
    source = WindowSource(table, identity, "train", settings, device)
    loaded = zip(*(source.load(*place[:2]) for place in source.chunks), strict=True)
    found, front_end = [np.concatenate(arrays) for arrays in loaded], OverlappingLogMel(settings)
    wanted = [cut_windows(table.framing.at(8000), load_audio(path, 8000)) for path in sorted(audio.iterdir())]
    wanted = front_end(np.concatenate(wanted)).transpose(0, 2, 1)
    got = found[0] if device == "cpu" else front_end(found[0] * found[1]).transpose(0, 2, 1)
    off = np.abs(got - wanted)
    assert (len(off), found[-1].dtype) == (72, np.float16)
    assert np.median(off) < 0.005  # dB
    assert off.mean() < 0.1  # more where a recording is silent but for the rounding to 16 bits


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
        extract(folder / "audio", folder / "table", validate=0.0, workers=1, part_clips=8, hop=0.25, sample_rate=8000)
    first_four = SimpleNamespace(output_size=4, transform=lambda x: x[:, :4].astype(np.float32))
    return WindowSource(Table(folder / "table"), first_four, "train")


def assert_same(ranks, accumulate, whole):
    """That pieces of several processes are together the whole batches, in the same order."""
    for index, batch in enumerate(whole):
        for each, wanted in enumerate(batch):
            pieces = [
                torch.stack([share[index * accumulate + piece][each] for share in ranks], 1).flatten(0, 1)
                for piece in range(accumulate)
            ]
            assert torch.equal(torch.cat(pieces), wanted)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(("lanes", "world"), [(1, 1), (1, 3), (4, 1), (4, 2), (4, 3), (4, 4)])
def test_processes_share_each_batch_and_the_reading(many, lanes, world, accumulate, monkeypatch):
    opened: set[str] = set()
    monkeypatch.setattr("edgesea.table.reader.arrow_file", lambda path: opened.add(path.name) or arrow_file(path))

    def batches(rank, world, accumulate):
        many.table = Table(many.table.path)  # which has no file open
        opened.clear()
        size = (13 if lanes == 4 else 1000) * many.window_bytes
        windows = ShuffledWindows([many], [24], 72, 3, rank, world, accumulate, size)
        assert len(windows.tables[0].lanes) == lanes
        pieces = list(windows.epoch(2))
        assert len(pieces) == len(windows.epoch(2)) == 3 * accumulate
        for left, right in zip(pieces[accumulate:], windows.epoch(2, first=1), strict=True):
            assert torch.equal(left[0], right[0])
        return pieces, set(opened)

    whole, every = batches(0, 1, 1)
    ranks, files = zip(*(batches(rank, world, accumulate) for rank in range(world)), strict=True)
    assert_same(ranks, accumulate, whole)
    assert len(every) == 8
    shared = len(every) if lanes == 1 or world == 3 else len(every) // world  # 3: every lane has windows for each
    assert [len(share) for share in files] == [shared] * world


def test_lanes_leave_out_few_windows(many):
    windows = ShuffledWindows([many], [24], None, 3, buffer_bytes=13 * many.window_bytes)
    assert sorted(lane.windows for lane in windows.tables[0].lanes) == [45, 48, 48, 48]
    rows = [row.numpy().tobytes() for audio, *_ in windows.epoch(5) for row in audio]
    assert len(rows) == len(set(rows)) == 168


@pytest.mark.parametrize(
    ("size", "shares", "pieces", "expected"),
    [
        (64, None, 1, [49, 15]),
        (64, None, 4, [48, 16]),
        (64, [0.5], 4, [32, 32]),
        (64, [0.001], 4, [60, 4]),
        (256, None, 256, "many.*256 of"),
        (8, [0.95], 1, [1, 7]),  # the first has some, whatever is rounded
        (189, [0.5], 1, "small.*94 .* 60"),
    ],
)
def test_shares_of_a_batch(many, source, size, shares, pieces, expected):
    if isinstance(expected, list):
        assert batch_sizes([many, source], size, shares, [1, 1], pieces) == expected
        return
    with pytest.raises(EdgeseaError, match=expected):
        batch_sizes([many, source], size, shares, [1, 1], pieces)


@pytest.mark.parametrize(("world", "accumulate"), [(1, 2), (2, 1), (4, 2)])
def test_every_batch_has_its_share_of_each_table(many, source, world, accumulate):
    def batches(rank, world, accumulate, epochs=range(1)):
        size = 25 * many.window_bytes  # of which the smaller table has a half, and the larger one lanes
        windows = ShuffledWindows([many, source], [16, 8], None, 3, rank, world, accumulate, size)
        assert (len(windows.tables[0].lanes), len(windows.tables[1].lanes)) == (4, 1)
        assert windows.batches == (176 + 56) // 24
        found = [piece for epoch in epochs for piece in windows.epoch(epoch)]
        for left, right in zip(found[-accumulate:], windows.epoch(epochs[-1], windows.batches - 1), strict=True):
            assert torch.equal(left[0], right[0])
        return found

    assert_same([batches(rank, world, accumulate) for rank in range(world)], 1, batches(0, 1, accumulate))
    first, second = (
        {row.tobytes() for place in table.chunks for row in table.load(*place[:2])[0]} for table in (many, source)
    )
    rows = [[row.numpy().tobytes() for row in audio] for audio, *_ in batches(0, 1, accumulate, range(2))]
    part = 16 // accumulate
    assert all(first.issuperset(row[:part]) and second.issuperset(row[part:]) for row in rows)
    # Each has its passes, of eleven and of seven batches.
    assert len({name for row in rows[: 11 * accumulate] for name in row[:part]}) == 176
    for begin in (0, 7 * accumulate):
        assert len({name for row in rows[begin:][: 7 * accumulate] for name in row[part:]}) == 56


def test_no_more_is_read_than_needed(source, monkeypatch):
    loads = []
    monkeypatch.setattr(source, "load", lambda *place: loads.append(place) or WindowSource.load(source, *place))
    windows = ShuffledWindows([source], [8], None, 0)
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
