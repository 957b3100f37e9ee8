from pathlib import Path

import numpy as np
import pytest

from edgesea.errors import EdgeseaError
from edgesea.reduction import load_reduction
from edgesea.reduction.identity import Identity


def test_nothing_changes(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32) * 1e3
    phi = Identity()
    phi.fit([rows[:20], rows[20:]])
    phi.save(tmp_path, {})
    for each in (phi, load_reduction(tmp_path)):
        np.testing.assert_array_equal(each.transform(rows), rows)
        half = rows.astype(np.float16)
        np.testing.assert_array_equal(each.transform(half), half.astype(np.float32))
        assert each.transform(half).dtype == np.float32
        assert (each.method, each.input_size, each.output_size, each.windows) == ("identity", 7, 7, 50)
    assert (tmp_path / "reduction.safetensors").stat().st_size < 100


def test_what_is_unusable_is_refused() -> None:
    phi = Identity()
    with pytest.raises(EdgeseaError, match="there are no windows"):
        phi.fit([])
    with pytest.raises(EdgeseaError, match="NaN or Inf"):
        phi.fit([np.array([[1, np.nan]], np.float32)])
    phi.fit([np.ones((1, 2), np.float32)])
    with pytest.raises(EdgeseaError, match=r"must have shape \(b, 2\)"):
        phi.transform(np.ones((1, 3), np.float32))
