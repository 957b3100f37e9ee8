from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgesea.errors import EdgeseaError
from edgesea.sampling.subset import Subset, table_key


def test_a_saved_subset_loads_unchanged(tmp_path: Path) -> None:
    saved = Subset(np.array([0, 0, 3]), np.array([1, 5, 2**40]), {"method": "random", "größe": [1, None]})
    saved.save(tmp_path / "new" / "subset.parquet")
    loaded = Subset.load(tmp_path / "new" / "subset.parquet")
    assert len(loaded) == 3
    assert loaded.info == saved.info
    for name in ("part", "window"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
        assert getattr(loaded, name).dtype == np.int64
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["subset.parquet"]


def test_a_missing_subset_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(EdgeseaError, match=r"gone\.parquet: no such subset; make one: edgesea sample"):
        Subset.load(tmp_path / "gone.parquet")


@pytest.mark.parametrize("kind", ["parquet", "text", "columns", "folder"])
def test_other_files_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "other.parquet"
    if kind == "parquet":
        pq.write_table(pa.table({"part": [0], "window": [0]}), path)
    elif kind == "columns":
        pq.write_table(pa.table({"x": [0]}).replace_schema_metadata({b"edgesea": b"{}"}), path)
    elif kind == "text":
        path.write_text("part,window\n0,0\n")
    else:
        path.mkdir()
    with pytest.raises(EdgeseaError, match=r"other\.parquet: not a subset"):
        Subset.load(path)


def test_the_key_of_a_table_tells_its_windows_and_teacher() -> None:
    info = {
        "manifest_sha256": "a",
        "teacher": {"id": "spectral"},
        "sample_rate": 8000,
        "framing": {"hop": 0.5},
        "dtype": "float16",
        "part_clips": 128,
        "windows": 7,
    }
    changed = [{"framing": {"hop": 0.25}}, {"teacher": {"id": "x"}}, {"manifest_sha256": "b"}, {"part_clips": 1}]
    assert len({table_key({**info, **change}) for change in [{}, *changed]}) == 5
    assert table_key({**info, "versions": {}}) == table_key(info)
