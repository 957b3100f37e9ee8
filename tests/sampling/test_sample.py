from pathlib import Path

import numpy as np
import pytest

from edgesea.errors import EdgeseaError
from edgesea.sampling import sample
from edgesea.sampling.subset import Subset
from edgesea.table.reader import Table


def frames_of(table: Table, subset: Subset) -> list[tuple[str, str, str]]:
    """Sensor, day and split of each window chosen."""
    found = []
    for chunk in table.chunks():
        rows = subset.window[subset.part == chunk.part] - chunk.first_window
        for clip in chunk.clip[rows[(rows >= 0) & (rows < len(chunk.clip))]]:
            found.append((chunk.sensors[clip], chunk.times[clip][:10], chunk.splits[clip]))
    return found


def test_only_training_windows_are_chosen_equally_from_each_sensor_and_day(small_table: Path, tmp_path: Path) -> None:
    result = sample(small_table, tmp_path / "s.parquet", size=24, seed=3)
    assert result == {"subset": str(tmp_path / "s.parquet"), "windows": 24, "candidates": 60, "frames": 6}
    subset = Subset.load(tmp_path / "s.parquet")
    frames = frames_of(Table(small_table), subset)
    assert len(frames) == 24
    assert {split for *_, split in frames} == {"train"}
    # Sensor s2 trained on one clip of each day (5 windows), the others on two or more: everyone gives four.
    assert sorted(frames.count(frame) for frame in set(frames)) == [4] * 6
    assert len(set(zip(subset.part.tolist(), subset.window.tolist(), strict=True))) == 24


def test_the_seed_alone_decides(small_table: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        sample(small_table, tmp_path / name, size=10, seed=seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    first, other = Subset.load(tmp_path / "a"), Subset.load(tmp_path / "c")
    assert not (np.array_equal(first.part, other.part) and np.array_equal(first.window, other.window))


def test_a_size_larger_than_the_table_takes_all(small_table: Path, tmp_path: Path) -> None:
    assert sample(small_table, tmp_path / "s", size=10**6)["windows"] == 60
    assert sample(small_table, tmp_path / "s", size=10**6, split="all")["windows"] == 90


@pytest.mark.parametrize(("split", "expected"), [("validate", 20), ("test", 10)])
def test_another_split_can_be_chosen(small_table: Path, tmp_path: Path, split: str, expected: int) -> None:
    assert sample(small_table, tmp_path / "s", split=split)["candidates"] == expected  # type: ignore[arg-type]
    assert {frame[2] for frame in frames_of(Table(small_table), Subset.load(tmp_path / "s"))} == {split}


def test_the_subset_records_its_options_and_table(small_table: Path, tmp_path: Path) -> None:
    sample(small_table, tmp_path / "s", size=5, frame="none", seed=9)
    info = Subset.load(tmp_path / "s").info
    assert {key: info[key] for key in ("method", "size", "frame", "split", "seed", "candidates")} == {
        "method": "random",
        "size": 5,
        "frame": "none",
        "split": "train",
        "seed": 9,
        "candidates": 60,
    }


def test_errors_name_the_remedy(small_table: Path, train_only_table: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeseaError, match="no table here; make one: edgesea extract"):
        sample(tmp_path / "nothing", tmp_path / "s")
    with pytest.raises(EdgeseaError, match="size must be at least 1, not 0"):
        sample(small_table, tmp_path / "s", size=0)
    with pytest.raises(EdgeseaError, match=r"no windows in split 'validate'; it has \{'train': "):
        sample(train_only_table, tmp_path / "s", split="validate")
    assert not (tmp_path / "s").exists()
