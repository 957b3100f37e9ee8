from pathlib import Path

import numpy as np
import pytest
from made_table import write_table

from edgesea.sampling.frame_reader import FrameReader, FrameWindows
from edgesea.sampling.frames import FrameIndex, index_frames
from edgesea.table.reader import Table

DAYS, CLIPS, WINDOWS, SIZE = 6, 5, 7, 3


def mixed_table(folder: Path, order: np.ndarray, per_part: int = 4) -> Table:
    """Clips of six days, of one sensor, in a given order; the embedding tells day, clip and window."""
    clips = []
    for number in order.tolist():
        day, clip = divmod(number, CLIPS)
        embeddings = np.stack([np.full(WINDOWS, day), np.full(WINDOWS, clip), np.arange(WINDOWS)], 1)
        time, levels = f"2020-05-{day + 1:02d}T{clip:02d}:00:00", 100 * day + 10 * clip + np.arange(WINDOWS) / 10
        split = "test" if clip == CLIPS - 1 else "train"
        clips.append({"embeddings": embeddings, "time": time, "sensor": "a", "levels": levels, "split": split})
    return Table(write_table(folder, [clips[i : i + per_part] for i in range(0, len(clips), per_part)]))


def read(table: Table, index: FrameIndex, **options: int) -> tuple[dict[int, FrameWindows], FrameReader]:
    reader = FrameReader(table, index, list(range(len(index.names))), with_embeddings=True, **options)
    found = list(reader)
    assert len({frame for frame, _ in found}) == len(found)
    return dict(found), reader


@pytest.mark.parametrize(("budget", "passes"), [(1 << 30, 1), (3000, 3), (1, 6)])
def test_frames_come_whole_however_mixed_and_however_little_memory(tmp_path: Path, budget: int, passes: int) -> None:
    table = mixed_table(tmp_path, np.random.default_rng(0).permutation(DAYS * CLIPS))
    index = index_frames(table, "train", "day")
    found, reader = read(table, index, budget=budget)
    assert reader.passes == passes
    assert sorted(found) == list(range(DAYS))
    for day, windows in found.items():
        assert windows.embeddings is not None
        # Every training window of that day, each once, in the order of the table.
        assert sorted(map(tuple, windows.embeddings.tolist())) == [
            (day, clip, k) for clip in range(CLIPS - 1) for k in range(WINDOWS)
        ]
        places = list(zip(windows.part.tolist(), windows.window.tolist(), strict=True))
        assert places == sorted(places)
        _, clip, k = windows.embeddings.T
        np.testing.assert_allclose(windows.level, 100 * day + 10 * clip + k / 10, rtol=1e-6)
        np.testing.assert_array_equal(windows.seconds_of_day, 3600 * clip + k)
        # What stands at these places in the table is what was handed out.
        for (part, window), own in zip(places, windows.embeddings, strict=True):
            np.testing.assert_array_equal(table.embeddings(part, 0)[window], own)


def test_a_sorted_table_is_read_once_with_room_for_one_frame(tmp_path: Path) -> None:
    table = mixed_table(tmp_path, np.arange(DAYS * CLIPS), per_part=5)
    _, reader = read(table, index_frames(table, None, "day"), budget=1)
    assert reader.passes == 1


def test_a_pool_is_a_uniform_share_of_a_frame(tmp_path: Path) -> None:
    table = mixed_table(tmp_path, np.random.default_rng(1).permutation(DAYS * CLIPS))
    index = index_frames(table, "train", "none")
    total = DAYS * (CLIPS - 1) * WINDOWS
    assert index.sizes.tolist() == [total]
    counts: dict[tuple[float, ...], int] = {}
    for seed in range(200):
        windows = read(table, index, pool=40, seed=seed)[0][0]
        assert windows.embeddings is not None
        drawn = list(map(tuple, windows.embeddings.tolist()))
        assert len(set(drawn)) == 40
        for each in drawn:
            counts[each] = counts.get(each, 0) + 1
    assert len(counts) == total
    # 200 draws of 40 of 168: 47.6 each, with a standard deviation of 6.
    assert 20 < min(counts.values()) < max(counts.values()) < 75


def test_only_the_frames_asked_for_are_read(tmp_path: Path) -> None:
    table = mixed_table(tmp_path, np.arange(DAYS * CLIPS))
    index = index_frames(table, None, "day")
    reader = FrameReader(table, index, [4, 1], with_embeddings=False)
    found = dict(reader)
    assert sorted(found) == [1, 4]
    assert found[1].embeddings is None
    assert len(found[1]) == CLIPS * WINDOWS
