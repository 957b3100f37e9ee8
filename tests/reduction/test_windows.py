import numpy as np
import pytest
from numpy.typing import NDArray
from stored import embeddings_of

from edgesea.errors import EdgeseaError
from edgesea.reduction.windows import find_windows
from edgesea.sampling import sample
from edgesea.sampling.subset import Subset
from edgesea.table.reader import Table


def positions(rows: NDArray[np.float32], table: Table) -> list[int]:
    """Where rows stand among all windows of the table."""
    known = {row.tobytes(): i for i, row in enumerate(embeddings_of(table))}
    return [known[row.tobytes()] for row in rows]


def test_the_windows_of_a_subset_and_the_others(small_table, tmp_path, monkeypatch):
    sample(small_table, tmp_path / "s", size=20, seed=3)
    table, subset = Table(small_table), Subset.load(tmp_path / "s")
    read, embeddings = [], table.embeddings
    monkeypatch.setattr(table, "embeddings", lambda *chunk: read.append(chunk) or embeddings(*chunk))
    windows = find_windows(table, subset)
    first, second = (np.concatenate(list(windows["fitted"])) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (first.dtype, len(windows["fitted"]), len(first)) == (np.float32, 20, 20)
    assert len(read) == 2 * len(set(read)) < 2 * len(list(table.chunks()))  # chunks without such windows are not read
    sizes = np.zeros(table.parts + 1, np.int64)
    for chunk in table.chunks():
        sizes[chunk.part + 1] += len(chunk.clip)
    chosen = (np.cumsum(sizes)[subset.part] + subset.window).tolist()
    assert positions(first, table) == chosen
    rest = positions(np.concatenate(list(windows["train"])), table)
    everything = find_windows(table)
    assert sorted(rest + chosen) == positions(np.concatenate(list(everything["fitted"])), table)
    assert (len(windows["validate"]), len(everything["validate"]), len(everything["train"])) == (20, 20, 0)


def test_a_draw_is_uniform_without_repetition(small_table):
    table, draws = Table(small_table), 100
    train = find_windows(table)["fitted"]
    everything = train.draw(1000, np.random.default_rng(0))
    np.testing.assert_array_equal(everything, np.concatenate(list(train)))
    place, counts = {row.tobytes(): i for i, row in enumerate(everything)}, np.zeros(60)
    for seed in range(draws):
        where = [place[row.tobytes()] for row in train.draw(15, np.random.default_rng(seed))]
        assert where == sorted(set(where))
        counts[where] += 1
    assert counts.sum() == 15 * draws
    assert abs(counts - draws / 4).max() < 4.5 * np.sqrt(draws / 4 * 3 / 4)


def test_nan_is_refused(small_table, monkeypatch):
    train = find_windows(Table(small_table))["fitted"]
    monkeypatch.setattr(Table, "embeddings", lambda *_: np.full((90, 512), np.nan, np.float16))
    with pytest.raises(EdgeseaError, match=small_table.name):
        list(train)
