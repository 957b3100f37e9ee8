import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import make_esc50

from edgesea.audio.windows import Framing
from edgesea.errors import EdgeseaError
from edgesea.evaluate import evaluate
from edgesea.models.inference import embed_files, load_model
from edgesea.reduction import load_reduction
from edgesea.tasks.esc50 import Esc50


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_esc50(tmp_path_factory.mktemp("task") / "esc50")


def clip_features(data: Path, model: str, reduction: Path | None = None) -> tuple[Esc50, np.ndarray]:
    """Mean over each clip's windows of its embeddings, reduced one by one."""
    task, network = Esc50.load(data), load_model(model)
    blocks = [result.embedding for result in embed_files(network, task.paths, Framing(1.0, 0.5))]
    if reduction is not None:
        phi = load_reduction(reduction)
        blocks = [np.concatenate([phi.transform(row[None]) for row in block]) for block in blocks]  # type: ignore[union-attr]
    return task, np.stack([block.mean(0, dtype=np.float64) for block in blocks])  # type: ignore[union-attr]


def test_clips_are_scored_by_the_mean_of_their_windows(data: Path) -> None:
    task, features = clip_features(data, "spectral")
    result = evaluate("esc50", data, "spectral", workers=1)
    assert result["accuracy"] == task.score(features, np.ones(20, bool), "logistic", None, 0)["accuracy"] > 0.9
    assert {
        key: result[key] for key in ("task", "model", "classifier", "hop", "embedding_size", "clips", "failed")
    } == {
        "task": "esc50",
        "model": "spectral",
        "classifier": "logistic",
        "hop": 0.5,
        "embedding_size": 512,
        "clips": 20,
        "failed": {},
    }


def test_reduced_embeddings_are_reduced_by_the_window_and_then_averaged(data: Path, small_reduction: Path) -> None:
    task, features = clip_features(data, "spectral", small_reduction)
    result = evaluate("esc50", data, "spectral", reduction=small_reduction, seed=3, classifier="mlp", workers=1)
    expected = task.score(features.astype(np.float32), np.ones(20, bool), "mlp", None, 3)
    assert {key: result[key] for key in expected} == expected
    assert result["embedding_size"] == 4


def test_a_student_is_evaluated_by_its_folder(data: Path, small_student: Path) -> None:
    task, features = clip_features(data, str(small_student))
    result = evaluate("esc50", data, str(small_student), workers=1)
    assert result["accuracy"] == task.score(features, np.ones(20, bool), "logistic", None, 0)["accuracy"]
    assert (result["model"], result["embedding_size"]) == (str(small_student), 4)


def test_tags_are_scored_on_the_verified_validation_clips(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "ust"
    shutil.copytree(data, copy)
    (copy / "dcase-ust-taxonomy.yaml").write_text("coarse: {1: engine, 2: music}\n")
    rows = ["split,audio_filename,annotator_id,1_engine_presence,2_music_presence"]
    for index in range(20):  # noises are engines, tones are music
        split, annotator = ("train", 5) if index < 12 else ("validate", 0)
        rows.append(f"{split},{index:02d}.wav,{annotator},{1 - index % 2},{index % 2}")
    (copy / "annotations.csv").write_text("\n".join(rows) + "\n")
    result = evaluate("sonyc_ust", copy, "spectral", workers=1)
    assert (result["classifier"], result["train_clips"], result["clips"]) == ("mlp", 12, 8)
    assert result["micro_f1"] == 1.0
    assert sorted(result["class_auprc"]) == ["1_engine", "2_music"]


def test_the_results_file_says_what_is_returned(data: Path, tmp_path: Path) -> None:
    result = evaluate("esc50", data, "spectral", out=tmp_path / "new" / "scores.json", folds=[2], workers=1)
    assert json.loads((tmp_path / "new" / "scores.json").read_text()) == result
    assert list(result["accuracy_by_fold"]) == ["2"]


def test_cached_embeddings_are_used_without_decoding(data: Path, tmp_path: Path) -> None:
    copy, cache = tmp_path / "copy", tmp_path / "cache"
    shutil.copytree(data, copy)
    first = evaluate("esc50", copy, "spectral", cache=cache, workers=1)
    (stored,) = cache.iterdir()
    written = stored.stat().st_mtime_ns
    for path in (copy / "audio").iterdir():  # the audio is gone, but its size and time are the same
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert evaluate("esc50", copy, "spectral", cache=cache, workers=1) == first
    assert [path.stat().st_mtime_ns for path in cache.iterdir()] == [written]
    # Another classifier and another reduction share the embeddings; changed clips and another hop do not.
    assert evaluate("esc50", copy, "spectral", cache=cache, classifier="mlp", workers=1)["accuracy"] > 0.9
    with pytest.raises(EdgeseaError, match="no clip could be embedded"):
        evaluate("esc50", copy, "spectral", cache=cache, hop=0.25, workers=1)
    for path in (copy / "audio").iterdir():
        path.touch()
    with pytest.raises(EdgeseaError, match="no clip could be embedded"):
        evaluate("esc50", copy, "spectral", cache=cache, workers=1)


def test_failed_clips_are_listed_and_count_as_wrong(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    (copy / "audio" / "03.wav").write_bytes(b"no audio")
    (copy / "audio" / "04.wav").unlink()
    for _ in range(2):  # computed, then cached
        result = evaluate("esc50", copy, "spectral", cache=tmp_path / "cache", workers=1)
        assert sorted(result["failed"]) == ["03.wav", "04.wav"]
        assert result["clips"] == 20
        assert result["accuracy"] <= 18 / 20


def test_input_that_does_not_fit_is_refused(data: Path, small_reduction: Path, small_student: Path) -> None:
    with pytest.raises(EdgeseaError, match=r"esc50\.csv: no such file"):
        evaluate("esc50", data / "nothing", "spectral")
    with pytest.raises(EdgeseaError, match=r"folds \[9\] do not exist"):
        evaluate("esc50", data, "spectral", folds=[9], workers=1)
    with pytest.raises(EdgeseaError, match=r"embeddings must have shape \(b, 512\), not \(40, 4\)"):
        evaluate("esc50", data, str(small_student), reduction=small_reduction, workers=1)
    with pytest.raises(EdgeseaError, match="no-such-model"):
        evaluate("esc50", data, "no-such-model")
