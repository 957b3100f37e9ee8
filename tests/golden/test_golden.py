"""What every stage makes of a few clips, compared with what it made when the goldens were written.

``EDGESEA_GOLDEN=write`` writes them anew; ``EDGESEA_GOLDEN=exact`` compares bit by bit, on the machine that wrote them.
Elsewhere, whole numbers must be equal and others nearly so: the last bits differ from one processor to the next.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from safetensors.numpy import load_file

import edgesea
from edgesea import cli
from edgesea.artifact import read_json
from edgesea.distill import distill
from edgesea.extract import extract
from edgesea.reduction import load_reduction, reduce
from edgesea.sampling import sample

FILE = Path(__file__).with_name("golden.npz")
MODE = os.environ.get("EDGESEA_GOLDEN", "near")
RATES = (8000, 16000, 44100, 8000, 8000, 16000, 8000, 22050)
EXTRACT: dict[str, Any] = {"sample_rate": 8000, "hop": 0.25, "part_clips": 3, "dtype": "float32"}
SUBSETS = ("random", "spl", "dpp", "dpp_div", "kmeans")
REDUCTIONS = {"pca": {"whiten": True}, "kernel_pca": {}, "random_projection": {}, "identity": {}}


def check(name: str, tolerance: float = 1e-5, **arrays: np.ndarray) -> None:
    """Compare arrays with the golden ones, or write them."""
    flat = {f"{name}/{key}": np.asarray(value) for key, value in arrays.items()}
    if MODE == "write":
        before = dict(np.load(FILE)) if FILE.exists() else {}
        np.savez_compressed(FILE, **dict(sorted((before | flat).items())))  # type: ignore[arg-type]
        return
    with np.load(FILE) as golden:
        assert {key for key in golden if key.startswith(f"{name}/")} == set(flat)
        for key, value in flat.items():
            if MODE == "exact" or value.dtype.kind not in "fc":
                np.testing.assert_array_equal(value, golden[key], key)
            else:
                largest = float(np.abs(golden[key]).max(initial=0))
                np.testing.assert_allclose(value, golden[key], tolerance, tolerance * largest, err_msg=key)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips at four rates, of three sensors on two days."""
    folder = tmp_path_factory.mktemp("golden")
    rows = ["path,sensor,time,split,level"]
    (folder / "audio").mkdir()
    for index, rate in enumerate(RATES):
        rng = np.random.default_rng(index)
        time = np.arange(round((2 + index % 3) * rate)) / rate
        tone = np.sin(2 * np.pi * (200 + 300 * index) * time) * (1 + np.sin(2 * np.pi * (1 + index) * time))
        samples = 0.1 * tone[:, None] + 0.05 * rng.standard_normal((len(time), 1 + index % 2))
        soundfile.write(folder / "audio" / f"{index}.wav", samples, rate)
        day, split = 1 + index // 4, "validate" if index in (2, 5) else "train"
        rows.append(f"audio/{index}.wav,s{index % 3},2020-05-0{day}T12:00:00,{split},{60 + index}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def table(folder: Path) -> Path:
    extract(folder / "manifest.csv", folder / "table", **EXTRACT, workers=1)
    return folder / "table"


@pytest.fixture(scope="module")
def student(folder: Path, table: Path) -> Path:
    """A student after two epochs."""
    reduce(table, folder / "phi", size=4, whiten=True)
    sizes: dict[str, Any] = {"student": "sea-64", "filters": [4, 4, 8, 8], "n_mels": 16, "precision": "32-true"}
    recipe: dict[str, Any] = {"schedule": "plateau", "lr": 1e-3, "mask": 0.0}
    distill(table, folder / "phi", folder / "student", **sizes, **recipe, epochs=2, epoch_size=32, batch_size=8)
    return folder / "student"


def parts(table: Path, kind: str) -> list[Path]:
    return sorted((table / kind).glob("part-*.parquet"))


def test_table(table: Path) -> None:
    clips = [row for path in parts(table, "clips") for row in pq.read_table(path).to_pylist()]
    windows = [pq.read_table(path) for path in parts(table, "windows")]
    check(
        "table",
        names=np.array([row["clip"] for row in clips]),
        offset=np.array([row["offset"] for row in clips]),
        samples=np.array([len(row["pcm"]) for row in clips]),
        clip=np.concatenate([part["clip"].to_numpy() for part in windows]),
        start=np.concatenate([part["start"].to_numpy() for part in windows]),
        level=np.concatenate([part["level"].to_numpy() for part in windows]),
        embedding=np.concatenate([np.stack(part["embedding"].to_numpy()) for part in windows])[:, ::8],
        loudness=np.array(
            [row["scale"] * np.abs(np.frombuffer(row["pcm"], "<i2").astype(float)).mean() for row in clips]
        ),
    )


@pytest.mark.parametrize("workers", [2, 4])
def test_parts_have_the_same_bytes_with_any_number_of_workers(folder: Path, table: Path, workers: int) -> None:
    other = folder / f"table{workers}"
    extract(folder / "manifest.csv", other, **EXTRACT, workers=workers)
    for kind in ("clips", "windows"):
        assert [path.read_bytes() for path in parts(other, kind)] == [path.read_bytes() for path in parts(table, kind)]


@pytest.mark.parametrize("method", SUBSETS)
def test_subset(folder: Path, table: Path, method: str) -> None:
    sample(table, folder / f"{method}.parquet", method=method, size=18, seed=3)  # type: ignore[arg-type]
    rows = pq.read_table(folder / f"{method}.parquet")
    check(f"subset {method}", part=rows["part"].to_numpy(), window=rows["window"].to_numpy())


@pytest.mark.parametrize("method", REDUCTIONS)
def test_reduction(folder: Path, table: Path, method: str) -> None:
    out = folder / method
    size = 512 if method == "identity" else 6
    reduce(table, out, method=method, size=size, seed=1, **REDUCTIONS[method])  # type: ignore[arg-type]
    arrays = load_file(out / "reduction.safetensors") if method != "identity" else {}
    embeddings = np.stack(pq.read_table(parts(table, "windows")[0])["embedding"].to_numpy())[:7]
    reduced = load_reduction(out).transform(embeddings.astype(np.float32))
    shown = {name: value.reshape(len(value), -1)[:, ::8] if value.ndim > 1 else value for name, value in arrays.items()}
    check(f"reduction {method}", 1e-4, reduced=reduced[:, :8], **shown)


def test_student(student: Path) -> None:
    windows = np.random.default_rng(0).standard_normal((3, 8000)).astype(np.float32)
    weights = load_file(student / "model.safetensors")
    first = weights[min(name for name in weights if weights[name].ndim == 4)]
    check("student", 1e-3, embedding=edgesea.load_student(student).embed(windows), first=first)


def test_npz_of_embed(folder: Path, student: Path) -> None:
    edgesea.process_file(folder / "audio" / "2.wav", output_dir=folder / "npz", model=student, hop_size=0.1)
    with np.load(folder / "npz" / "2.npz") as found:
        check("npz", 1e-3, embedding=found["embedding"], timestamps=found["timestamps"])


@pytest.mark.parametrize("ties", ["threshold", "published"])
def test_published_scores(shared_data: Path, tmp_path: Path, ties: str) -> None:
    for name in ("predictions_0.csv", "predictions_3.csv"):
        data, out = shared_data / "sonyc_ust", tmp_path / f"{name}.json"
        truth = data / "validate_ground_truth_coarse.csv"
        cli.main(["score", str(data / name), f"--data={truth}", f"--ties={ties}", "--resamples=0", f"--out={out}"])
        scores = read_json(out)["coarse"]
        values = [scores[key] for key in ("micro_auprc", "macro_auprc", "micro_f1", "lwlrap")]
        classes = scores["class_auprc"]
        check(f"scores {name} {ties}", 1e-12, values=values, classes=[classes[key] for key in sorted(classes)])
