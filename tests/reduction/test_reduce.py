import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA as SklearnPCA  # noqa: N811
from sklearn.preprocessing import StandardScaler

from edgesea.errors import EdgeseaError
from edgesea.extract import extract
from edgesea.reduction import load_reduction, reduce
from edgesea.sampling import sample
from edgesea.sampling.subset import Subset
from edgesea.table.reader import Table


def test_all_training_windows_by_default(small_table: Path, tmp_path: Path) -> None:
    result = reduce(small_table, tmp_path / "phi", size=5)
    rows = np.concatenate(list(Table(small_table).iter_embeddings("train"))).astype(np.float64)
    scaler = StandardScaler().fit(rows)
    reference = SklearnPCA(5, svd_solver="full").fit(scaler.transform(rows))
    expected, actual = reference.transform(scaler.transform(rows)), load_reduction(tmp_path / "phi").transform(rows)
    sign = np.sign((expected * actual).sum(0))
    np.testing.assert_allclose(actual * sign, expected, atol=1e-5 * np.abs(expected).max())
    assert result["windows"] == 60
    assert (result["input_size"], result["output_size"], result["whiten"]) == (512, 5, False)
    assert result["explained_variance"] == pytest.approx(reference.explained_variance_ratio_.sum(), rel=1e-6)
    validation = scaler.transform(np.concatenate(list(Table(small_table).iter_embeddings("validate"))))
    kept = np.square(validation @ reference.components_.T).sum() / np.square(validation).sum()
    assert result["explained_variance_validate"] == pytest.approx(kept, rel=1e-5)


def test_a_subset_alone_is_fitted_on(small_table: Path, tmp_path: Path) -> None:
    sample(small_table, tmp_path / "s", size=30, seed=4)
    result = reduce(small_table, tmp_path / "phi", subset=tmp_path / "s", size=3)
    assert result["windows"] == 30
    subset, table = Subset.load(tmp_path / "s"), Table(small_table)
    parts = {
        part: np.concatenate([table.embeddings(part, group) for p, group in table.chunk_ids() if p == part])
        for part in range(table.parts)
    }
    rows = np.stack([parts[part][window] for part, window in zip(subset.part, subset.window, strict=True)])
    phi = load_reduction(tmp_path / "phi")
    np.testing.assert_allclose(phi.mean, rows.astype(np.float64).mean(0), rtol=1e-10, atol=1e-12)  # type: ignore[attr-defined]


def test_it_records_where_it_comes_from(small_table: Path, tmp_path: Path) -> None:
    sample(small_table, tmp_path / "s", size=30)
    reduce(small_table, tmp_path / "phi", subset=tmp_path / "s", size=3)
    info = json.loads((tmp_path / "phi" / "reduction.json").read_text())
    assert info["provenance"]["teacher"]["id"] == "spectral"
    assert info["provenance"]["subset"] == Subset.load(tmp_path / "s").info
    assert info["provenance"]["versions"]["edgesea"]
    assert len(info["explained_variance_ratio"]) == 512


def test_a_float16_table_without_validation_windows(train_only_table: Path, tmp_path: Path) -> None:
    result = reduce(train_only_table, tmp_path / "phi", size=2)
    assert result["windows"] == 6
    assert result["explained_variance_validate"] is None


def test_a_subset_of_another_table_is_refused(small_table: Path, train_only_table: Path, tmp_path: Path) -> None:
    sample(train_only_table, tmp_path / "s")
    with pytest.raises(EdgeseaError, match="was chosen from another table than"):
        reduce(small_table, tmp_path / "phi", subset=tmp_path / "s", size=2)
    # The same clips cut into other windows are another table, too.
    again = tmp_path / "again"
    extract(train_only_table.parent / "audio", again, validate=0.0, hop=0.5, workers=1)
    with pytest.raises(EdgeseaError, match="was chosen from another table than"):
        reduce(again, tmp_path / "phi", subset=tmp_path / "s", size=2)
    assert not (tmp_path / "phi").exists()


def test_missing_input_names_the_command_that_makes_it(small_table: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeseaError, match="make one: edgesea extract"):
        reduce(tmp_path, tmp_path / "phi")
    with pytest.raises(EdgeseaError, match="make one: edgesea sample"):
        reduce(small_table, tmp_path / "phi", subset=tmp_path / "none.parquet")
    with pytest.raises(EdgeseaError, match="make one: edgesea reduce"):
        load_reduction(tmp_path / "none")


def test_damaged_reductions_are_refused_by_name(small_table: Path, small_reduction: Path, tmp_path: Path) -> None:
    arrays = (small_reduction / "reduction.safetensors").read_bytes()
    info = json.loads((small_reduction / "reduction.json").read_text())

    def refuses(arrays: bytes, info: object, message: str) -> None:
        (tmp_path / "reduction.safetensors").write_bytes(arrays)
        (tmp_path / "reduction.json").write_text(json.dumps(info))
        with pytest.raises(EdgeseaError, match=message):
            load_reduction(tmp_path)

    refuses(arrays[:-100], info, r"reduction\.safetensors: cannot be read")
    refuses(b"", info, r"reduction\.safetensors: cannot be read")
    refuses(arrays, {**info, "method": "magic"}, "unknown method 'magic'; known: pca")
    refuses(arrays, {key: info[key] for key in info if key != "whiten"}, "do not fit together .'whiten'")
    refuses(arrays, {**info, "output_size": 9}, r"do not fit together .components \(4, 512\)")
    refuses(arrays, [1], r"reduction\.json: unknown method None")
