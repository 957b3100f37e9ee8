import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.decomposition import PCA as SklearnPCA  # noqa: N811
from sklearn.preprocessing import StandardScaler

from edgesea.errors import EdgeseaError
from edgesea.extract import extract
from edgesea.reduction import OPTIONS, load_reduction, reduce
from edgesea.reduction.kept import kept
from edgesea.reduction.rows import Windows, in_subset
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


METHODS: dict[str, dict[str, Any]] = {  # umap: see test_umap.py
    "pca": {"size": 3, "whiten": True},
    "kernel_pca": {"size": 3, "gamma": 0.001, "landmarks": 25, "seed": 4},
    "random_projection": {"size": 3, "seed": 4},
    "identity": {},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_recorded_and_loaded(small_table: Path, tmp_path: Path, method: str) -> None:
    result = reduce(small_table, tmp_path / "phi", method=method, **METHODS[method])  # type: ignore[arg-type]
    info = json.loads((tmp_path / "phi" / "reduction.json").read_text())
    phi, size = load_reduction(tmp_path / "phi"), METHODS[method].get("size", 512)
    assert (phi.method, phi.input_size, phi.output_size, phi.windows) == (method, 512, size, 60)
    options = {name: info[name] for name in OPTIONS[method] if name in info}
    assert options.items() >= {k: v for k, v in METHODS[method].items() if k != "size"}.items()
    unused = {name for names in OPTIONS.values() for name in names} - set(OPTIONS[method])
    assert not unused & (info.keys() | result.keys())
    assert result["kept"] == info["kept"]
    rows = np.concatenate(list(Table(small_table).iter_embeddings("validate")))
    assert phi.transform(rows).shape == (20, size)


@pytest.mark.parametrize("method", METHODS)
def test_options_that_a_method_does_not_use_do_not_matter(small_table: Path, tmp_path: Path, method: str) -> None:
    other: dict[str, Any] = {"size": 4, "whiten": True, "kernel": "poly", "gamma": -1.0, "degree": 0, "coef0": -2.0}
    other |= {"landmarks": 0, "n_neighbors": 0, "min_dist": 7.0, "metric": "magic", "references": -1}
    unused = {name: value for name, value in other.items() if name not in OPTIONS[method]}
    reduce(small_table, tmp_path / "a", method=method, **METHODS[method])  # type: ignore[arg-type]
    reduce(small_table, tmp_path / "b", method=method, **METHODS[method], **unused)  # type: ignore[arg-type]
    for name in ("reduction.json", "reduction.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_it_is_judged_by_validation_windows_outside_the_subset(small_table: Path, tmp_path: Path) -> None:
    sample(small_table, tmp_path / "s", size=30)
    result = reduce(small_table, tmp_path / "phi", subset=tmp_path / "s", method="random_projection", size=6, seed=2)
    table, phi, subset = Table(small_table), load_reduction(tmp_path / "phi"), Subset.load(tmp_path / "s")
    inside = np.concatenate(list(Windows(table, in_subset(subset))))
    expected = kept(phi, inside, np.concatenate(list(table.iter_embeddings("validate"))), seed=2)
    assert result["kept"] == {"split": "validate", "fitted_windows": 30, **expected}
    assert result["kept"]["windows"] == 20
    assert result["explained_variance_validate"] is None  # of pca only; what a fitted linear map recovers is in kept
    assert result["explained_variance"] is None


def test_without_validation_windows_it_is_judged_by_training_windows_left_over(
    train_only_table: Path, tmp_path: Path
) -> None:
    sample(train_only_table, tmp_path / "s", size=4)
    result = reduce(train_only_table, tmp_path / "phi", subset=tmp_path / "s", size=2)
    assert (result["kept"]["split"], result["kept"]["fitted_windows"], result["kept"]["windows"]) == ("train", 4, 2)
    assert result["explained_variance_validate"] is None
    assert reduce(train_only_table, tmp_path / "psi", size=2)["kept"] is None
    assert json.loads((tmp_path / "psi" / "reduction.json").read_text())["kept"] is None


def test_the_number_of_windows_it_is_judged_by_is_bounded(
    small_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesea.reduction.INSIDE", 33)
    monkeypatch.setattr("edgesea.reduction.OUTSIDE", 11)
    found = [reduce(small_table, tmp_path / "phi", size=2, seed=seed)["kept"] for seed in (0, 0, 1)]
    assert all((each["fitted_windows"], each["windows"]) == (33, 11) for each in found)
    assert found[0] == found[1] != found[2]


def test_reductions_of_earlier_versions_are_read(small_reduction: Path, tmp_path: Path) -> None:
    info = json.loads((small_reduction / "reduction.json").read_text())
    names = ("method", "input_size", "output_size", "whiten", "windows", "explained_variance")
    old = {name: info[name] for name in (*names, "explained_variance_ratio", "provenance")}
    (tmp_path / "reduction.json").write_text(json.dumps(old))
    (tmp_path / "reduction.safetensors").write_bytes((small_reduction / "reduction.safetensors").read_bytes())
    rows = np.random.default_rng(0).standard_normal((5, 512)).astype(np.float32)
    one, other = load_reduction(tmp_path), load_reduction(small_reduction)
    np.testing.assert_array_equal(one.transform(rows), other.transform(rows))
    assert one.report() == other.report()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "unknown method 'magic'; known: pca, kernel_pca, umap, random_projection, identity"),
        ({"seed": -1}, r"seed must lie in 0 ... 4294967295, not -1"),
        ({"size": 513}, r"pca: size must lie in 1 ... 512 \(the embedding's\), not 513"),
        ({"method": "kernel_pca", "gamma": -1.0}, "kernel_pca: gamma must be above 0, not -1.0"),
        ({"method": "umap", "n_neighbors": 1}, "umap: n_neighbors must be at least 2"),
    ],
)
def test_impossible_options_are_refused(
    small_table: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(EdgeseaError, match=message):
        reduce(small_table, tmp_path / "phi", **options)
    assert not (tmp_path / "phi").exists()


def test_a_subset_of_another_table_is_refused(small_table: Path, train_only_table: Path, tmp_path: Path) -> None:
    sample(train_only_table, tmp_path / "s")
    with pytest.raises(EdgeseaError, match=r"was chosen from another table than .*; choose again: edgesea sample"):
        reduce(small_table, tmp_path / "phi", subset=tmp_path / "s", size=2)
    # The same clips cut into other windows are another table, too.
    again = tmp_path / "again"
    extract(train_only_table.parent / "audio", again, validate=0.0, hop=0.5, workers=1)
    with pytest.raises(EdgeseaError, match=r"was chosen from another table than .*; choose again: edgesea sample"):
        reduce(again, tmp_path / "phi", subset=tmp_path / "s", size=2)
    assert not (tmp_path / "phi").exists()


def test_the_variance_explained_on_validation_windows_leaves_out_those_fitted_on(
    small_table: Path, tmp_path: Path
) -> None:
    sample(small_table, tmp_path / "s", size=70, split="all", stratum="none")
    result = reduce(small_table, tmp_path / "phi", subset=tmp_path / "s", size=5)
    table, subset, phi = Table(small_table), Subset.load(tmp_path / "s"), load_reduction(tmp_path / "phi")
    fitted = set(zip(subset.part.tolist(), subset.window.tolist(), strict=True))
    others = []
    for chunk in table.chunks():
        rows = [r for r in chunk.select("validate") if (chunk.part, chunk.first_window + int(r)) not in fitted]
        others.append(table.embeddings(chunk.part, chunk.group)[rows])
    rows = np.concatenate(others).astype(np.float64)
    assert 0 < len(rows) < 20
    rows = (rows - phi.mean) / phi.scale  # type: ignore[attr-defined]
    share = np.square(rows @ phi.components.T).sum() / np.square(rows).sum()  # type: ignore[attr-defined]
    assert result["explained_variance_validate"] == pytest.approx(share, rel=1e-6)
    sample(small_table, tmp_path / "all", size=90, split="all", stratum="none")
    result = reduce(small_table, tmp_path / "psi", subset=tmp_path / "all", size=5)
    assert result["explained_variance_validate"] is None


def test_identity_explains_all(small_table: Path, train_only_table: Path, tmp_path: Path) -> None:
    sample(small_table, tmp_path / "s", size=10)
    result = reduce(small_table, tmp_path / "phi", subset=tmp_path / "s", method="identity")
    assert result["explained_variance_validate"] == 1.0
    assert reduce(train_only_table, tmp_path / "psi", method="identity")["explained_variance_validate"] is None


def test_folders_of_other_things_are_refused_before_the_work(
    small_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesea.reduction.pca.PCA.fit", lambda *_: pytest.fail("it was fitted"))
    (tmp_path / "note").write_text("precious")
    before = sorted(small_table.iterdir())
    monkeypatch.chdir(tmp_path)
    for out, message in (
        (tmp_path / "note", "note: a file, where a folder is needed"),
        (tmp_path / "note" / "x", "note: a file, where a folder is needed"),
        (small_table, "table: not empty and no reduction; choose another folder"),
        (Path(), r"^\.: not empty and no reduction"),
    ):
        with pytest.raises(EdgeseaError, match=message):
            reduce(small_table, out, size=2)
    assert sorted(small_table.iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


def test_an_earlier_reduction_is_replaced_also_half_of_one(small_table: Path, tmp_path: Path) -> None:
    reduce(small_table, tmp_path / "phi", size=2)
    (tmp_path / "phi" / "report.html").touch()
    reduce(small_table, tmp_path / "phi", size=3)
    assert load_reduction(tmp_path / "phi").output_size == 3
    for name in ("reduction.json", "report.html"):  # killed before it was written
        (tmp_path / "phi" / name).unlink()
    reduce(small_table, tmp_path / "phi", size=4)
    assert load_reduction(tmp_path / "phi").output_size == 4


def test_what_is_no_subset_is_refused_in_words(small_table: Path, tmp_path: Path) -> None:
    part = small_table / "windows" / "part-00000.parquet"
    for subset in (part, small_table, small_table / "table.json"):
        with pytest.raises(EdgeseaError, match=subset.name + ": not a subset"):
            reduce(small_table, tmp_path / "phi", subset=subset, size=2)


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
    refuses(arrays, {**info, "method": ["pca"]}, r"reduction\.json: unknown method \['pca'\]")


@pytest.mark.parametrize("method", [name for name in METHODS if name != "identity"])
def test_damage_is_noticed_in_every_method(small_table: Path, tmp_path: Path, method: str) -> None:
    reduce(small_table, tmp_path, method=method, **METHODS[method])  # type: ignore[arg-type]
    arrays = load_file(tmp_path / "reduction.safetensors")
    text = (tmp_path / "reduction.json").read_text()
    for name, array in arrays.items():
        save_file({key: value for key, value in arrays.items() if key != name}, tmp_path / "reduction.safetensors")
        with pytest.raises(EdgeseaError, match=f"do not fit together .*{name}.*; reduce again"):
            load_reduction(tmp_path)
        save_file({**arrays, name: array[None]}, tmp_path / "reduction.safetensors")
        with pytest.raises(EdgeseaError, match=rf"do not fit together .{name} \(1, .*; reduce again"):
            load_reduction(tmp_path)
    save_file(arrays, tmp_path / "reduction.safetensors")
    needed = {"input_size", "output_size", "windows"} | {name for name in OPTIONS[method] if name != "size"}
    for name in needed & json.loads(text).keys():
        (tmp_path / "reduction.json").write_text(
            json.dumps({key: value for key, value in json.loads(text).items() if key != name})
        )
        with pytest.raises(EdgeseaError, match=f"do not fit together .'{name}'"):
            load_reduction(tmp_path)
