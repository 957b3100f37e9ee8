from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesea.reduction.rows import Windows, draw, in_split, in_subset, outside
from edgesea.sampling import sample
from edgesea.sampling.subset import Subset
from edgesea.table.reader import Table

Rows = NDArray[np.float32]


class CountingTable(Table):
    """Remembers which chunks' embeddings were read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.read: list[tuple[int, int]] = []

    def embeddings(self, part: int, group: int) -> NDArray[np.floating]:
        self.read.append((part, group))
        return super().embeddings(part, group)


@pytest.fixture
def table(small_table: Path) -> CountingTable:
    return CountingTable(small_table)


@pytest.fixture
def subset(small_table: Path, tmp_path: Path) -> Subset:
    sample(small_table, tmp_path / "s", size=20, seed=3)
    return Subset.load(tmp_path / "s")


def positions(rows: Rows, table: Table) -> list[int]:
    """Where rows stand among all windows of the table."""
    known = {row.tobytes(): i for i, row in enumerate(np.concatenate(list(table.iter_embeddings(None))))}
    assert len(known) == 90
    return [known[row.tobytes()] for row in rows]


def chosen_positions(subset: Subset, table: Table) -> list[int]:
    """The same for a subset, by counting the windows of the parts before."""
    sizes = np.zeros(table.parts, np.int64)
    for part, group in table.chunk_ids():
        sizes[part] += len(table.chunk(part, group).clip)
    return (np.concatenate([[0], np.cumsum(sizes)])[subset.part] + subset.window).tolist()


def test_a_subset_is_iterated_again_and_again_reading_only_its_chunks(table: CountingTable, subset: Subset) -> None:
    windows = Windows(table, in_subset(subset))
    assert table.read == []
    first, second = (np.concatenate(list(windows)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32
    assert len(windows) == len(first) == 20
    held = set(table.read)
    assert len(table.read) == 2 * len(held) < 2 * len(list(table.chunk_ids()))
    assert positions(first, table) == chosen_positions(subset, table)


def test_a_split_and_what_is_outside_of_the_subset(table: CountingTable, subset: Subset) -> None:
    train = np.concatenate(list(table.iter_embeddings("train")))
    np.testing.assert_array_equal(np.concatenate(list(Windows(table, in_split("train")))), train)
    rest = positions(np.concatenate(list(Windows(table, outside("train", in_subset(subset))))), table)
    assert sorted(rest + chosen_positions(subset, table)) == positions(train, table)
    assert len(Windows(table, outside("validate", in_subset(subset)))) == 20
    assert len(Windows(table, outside("train", in_split("train")))) == 0


def test_a_draw_is_uniform_without_repetition_and_reads_each_chunk_at_most_once(table: CountingTable) -> None:
    train, validate = Windows(table, in_split("train")), Windows(table, in_split("validate"))
    counts = np.zeros(90)
    for seed in range(200):
        table.read.clear()
        one, other = draw([(train, 15), (validate, 5)], seed)
        assert len(table.read) == len(set(table.read))
        where = positions(np.concatenate([one, other]), table)
        assert where[:15] == sorted(set(where[:15]))
        counts[where] += 1
    inside, beside = positions(np.concatenate(list(train)), table), positions(np.concatenate(list(validate)), table)
    assert counts.sum() == counts[inside].sum() + counts[beside].sum()
    for members in (inside, beside):  # each is drawn in a quarter of the draws
        assert abs(counts[members] - 50).max() < 4.5 * np.sqrt(200 / 4 * 3 / 4)


def test_a_draw_of_more_than_there_are_takes_all(table: CountingTable) -> None:
    train, none = Windows(table, in_split("train")), Windows(table, in_split("nothing"))
    everything, nothing = draw([(train, 1000), (none, 5)], 0)
    np.testing.assert_array_equal(everything, np.concatenate(list(train)))
    assert nothing.shape == (0, 512)
