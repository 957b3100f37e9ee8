from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.reduction.windows import Windows, in_subset, outside
from edgesea.sampling import sample
from edgesea.sampling.subset import Subset
from edgesea.table.reader import Chunk, Table


def training(chunk: Chunk) -> NDArray[np.int64]:
    return chunk.select("train")


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


def positions(rows: NDArray[np.float32], table: Table) -> list[int]:
    """Where rows stand among all windows of the table."""
    known = {row.tobytes(): i for i, row in enumerate(np.concatenate(list(table.iter_embeddings(None))))}
    assert len(known) == 90
    return [known[row.tobytes()] for row in rows]


def chosen_positions(subset: Subset, table: Table) -> list[int]:
    """The same for a subset, by counting the windows of the parts before."""
    sizes = np.zeros(table.parts, np.int64)
    for chunk in table.chunks():
        sizes[chunk.part] += len(chunk.clip)
    return (np.concatenate([[0], np.cumsum(sizes)])[subset.part] + subset.window).tolist()


def test_a_subset_is_iterated_again_and_again_reading_only_its_chunks(table: CountingTable, subset: Subset) -> None:
    windows = Windows(table, in_subset(subset))
    assert table.read == []
    first, second = (np.concatenate(list(windows)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (first.dtype, len(windows), len(first)) == (np.float32, 20, 20)
    assert len(table.read) == 2 * len(set(table.read)) < 2 * len(list(table.chunks()))
    assert positions(first, table) == chosen_positions(subset, table)


def test_a_split_and_what_is_outside_of_the_subset(table: CountingTable, subset: Subset) -> None:
    train = np.concatenate(list(table.iter_embeddings("train")))
    np.testing.assert_array_equal(np.concatenate(list(Windows(table, training))), train)
    rest = positions(np.concatenate(list(Windows(table, outside("train", in_subset(subset))))), table)
    assert sorted(rest + chosen_positions(subset, table)) == positions(train, table)
    assert len(Windows(table, outside("validate", in_subset(subset)))) == 20
    assert len(Windows(table, outside("train", training))) == 0


def test_a_draw_is_uniform_without_repetition_and_reads_each_chunk_at_most_once(table: CountingTable) -> None:
    train, draws = Windows(table, training), 200
    counts = np.zeros(90)
    for seed in range(draws):
        table.read.clear()
        drawn = train.draw(15, np.random.default_rng(seed))
        assert len(table.read) == len(set(table.read))
        where = positions(drawn, table)
        assert where == sorted(set(where))
        counts[where] += 1
    inside = positions(np.concatenate(list(train)), table)
    assert counts.sum() == counts[inside].sum() == 15 * draws
    assert abs(counts[inside] - draws / 4).max() < 4.5 * np.sqrt(draws / 4 * 3 / 4)


def test_a_draw_of_more_than_there_are_takes_all_and_nan_is_refused(
    table: CountingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, rng = Windows(table, training), np.random.default_rng(0)
    np.testing.assert_array_equal(train.draw(1000, rng), np.concatenate(list(train)))
    assert Windows(table, lambda chunk: chunk.select("nothing")).draw(5, rng).shape == (0, 512)
    monkeypatch.setattr(Table, "embeddings", lambda *_: np.full((90, 512), np.nan, np.float16))
    with pytest.raises(EdgeseaError, match=table.path.name):
        list(train)
