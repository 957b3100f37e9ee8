import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import make_esc50

from edgesea.audio.framing import Framing
from edgesea.embed.engine import embed_files
from edgesea.errors import EdgeseaError
from edgesea.models import load_model
from edgesea.reduction import load_reduction
from edgesea.tasks.evaluate import evaluate
from edgesea.tasks.features import Bags
from edgesea.tasks.folds import FoldTask
from edgesea.tasks.options import ProbeOptions, TaggingOptions
from edgesea.tasks.score import sonyc_ust_scores


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_esc50(tmp_path_factory.mktemp("task") / "esc50")


def clip_features(data: Path, model: str, reduction: Path | None = None) -> tuple[FoldTask, Bags]:
    """Mean over each clip's windows of its embeddings, reduced one by one."""
    task, network = FoldTask.load("esc50", data), load_model(model)
    blocks = [result.embedding for result in embed_files(network, task.paths, Framing(1.0, 0.5))]
    if reduction is not None:
        phi = load_reduction(reduction)
        blocks = [np.concatenate([phi.transform(row[None]) for row in block]) for block in blocks]  # type: ignore[union-attr]
    means = np.stack([block.mean(0, dtype=np.float64) for block in blocks]).astype(np.float32)  # type: ignore[union-attr]
    return task, Bags(means, np.ones(len(blocks), np.int64))


def test_clips_are_scored_by_the_mean_of_their_windows(data: Path) -> None:
    task, features = clip_features(data, "spectral")
    result = evaluate("esc50", data, "spectral", workers=1)
    assert result["accuracy"] == task.score(features, ProbeOptions(), None, 0)["accuracy"] > 0.9
    low, high = result["confidence"]["accuracy"]
    assert 0.5 < low <= result["accuracy"] <= high <= 1
    wanted = {"task": "esc50", "model": "spectral", "window": 1.0, "hop": 0.5, "embedding_size": 512, "clips": 20}
    assert {**result, **wanted, "failed": {}} == result


def test_reduced_embeddings_are_reduced_by_the_window_and_then_averaged(data: Path, small_reduction: Path) -> None:
    task, features = clip_features(data, "spectral", small_reduction)
    mlp = ProbeOptions("mlp")
    result = evaluate("esc50", data, "spectral", reduction=small_reduction, seed=3, probe=mlp, resamples=9, workers=1)
    expected = task.score(features, mlp, None, 3, resamples=9)
    assert {key: result[key] for key in expected} == expected
    assert result["embedding_size"] == 4


def test_a_student_is_evaluated_by_its_folder(data: Path, small_student: Path) -> None:
    task, features = clip_features(data, str(small_student))
    result = evaluate("esc50", data, str(small_student), workers=1)
    assert result["accuracy"] == task.score(features, ProbeOptions(), None, 0)["accuracy"]
    assert (result["model"], result["embedding_size"]) == (str(small_student), 4)


@pytest.fixture(scope="module")
def tagged(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same clips with tags: noises are engines, tones are music; the last eight are verified."""
    copy = tmp_path_factory.mktemp("tagged") / "ust"
    shutil.copytree(data, copy)
    (copy / "dcase-ust-taxonomy.yaml").write_text(
        "fine: {1: {1: small, X: unsure}, 2: {1: drum}}\ncoarse: {1: engine, 2: music}\n"
    )
    tags = ["1-1_small", "1-X_unsure", "2-1_drum", "1_engine", "2_music"]
    rows = ["split,audio_filename,annotator_id," + ",".join(f"{tag}_presence" for tag in tags)]
    for index in range(20):
        split, annotator = ("train", 5) if index < 12 else ("validate", 0)
        engine, music = 1 - index % 2, index % 2
        rows.append(f"{split},{index:02d}.wav,{annotator},{engine},0,{music},{engine},{music}")
    (copy / "annotations.csv").write_text("\n".join(rows) + "\n")
    return copy


@pytest.mark.parametrize("mode", ["coarse", "fine"])
def test_tags_are_scored_on_the_verified_validation_clips(tagged: Path, tmp_path: Path, mode: str) -> None:
    options = TaggingOptions(label_mode=mode, members=1, patience=0)  # type: ignore[arg-type]
    written = tmp_path / "predictions.csv"
    result = evaluate("sonyc_ust", tagged, "spectral", tagging=options, predictions=written, resamples=20, workers=1)
    assert (result["tagging"]["label_mode"], result["train_clips"], result["clips"]) == (mode, 12, 8)
    assert result["micro_f1"] == 1.0
    assert result["confidence"]["micro_f1"] == [1.0, 1.0]
    assert sorted(result["class_auprc"]) == ["engine", "music"]
    official = sonyc_ust_scores(written, tagged / "annotations.csv", tagged / "dcase-ust-taxonomy.yaml", mode)  # type: ignore[arg-type]
    assert {**result, **official} == result | {"lwlrap": official["lwlrap"]}


def test_the_results_file_says_what_is_returned(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "scores.json"
    result = evaluate("esc50", data, "spectral", out=out, folds=[2], window=1.5, hop=1.5, workers=1)
    assert (result["window"], result["clips"]) == (1.5, 10)
    assert json.loads(out.read_text()) == json.loads(json.dumps(result))
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
    assert evaluate("esc50", copy, "spectral", cache=cache, probe=ProbeOptions("mlp"), workers=1)["accuracy"] > 0.9
    with pytest.raises(EdgeseaError, match="no clip could be embedded"):
        evaluate("esc50", copy, "spectral", cache=cache, hop=0.25, workers=1)
    for path in (copy / "audio").iterdir():
        path.touch()
    with pytest.raises(EdgeseaError, match="no clip could be embedded"):
        evaluate("esc50", copy, "spectral", cache=cache, workers=1)


def test_bad_input(
    data: Path, tagged: Path, tmp_path: Path, refuses: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesea.tasks.features.window_embeddings", None)  # all of it is found before
    for task, folder, options, words in (
        ("esc50", data / "nothing", [], ["esc50.csv"]),
        ("sonyc_ust", data, [], ["dcase-ust-taxonomy.yaml"]),
        ("sonyc_ust", tagged, ["--seed=-1"], ["seed", -1]),
        ("sonyc_ust", tagged, [f"--seed={2**32 - 4}"], ["seed", 2**32 - 4]),
        ("sonyc_ust", tagged, ["--tagging.context=true"], ["latitude"]),
        ("sonyc_ust", tagged, ["--probe.classifier=svm"], ["probe", "tagging"]),
        ("sonyc_ust", tagged, [f"--out={tmp_path}"], [tmp_path]),
        ("sonyc_ust", tagged, [f"--predictions={tmp_path}"], [tmp_path]),
        ("esc50", data, ["--predictions=p.csv"], ["predictions", "esc50"]),
        ("esc50", data, ["--tagging.members=1"], ["tagging", "probe"]),
        ("esc50", data, ["--resamples=-1"], ["resamples", -1]),
    ):
        refuses("evaluate", task, folder, "spectral", *options, words=words)
    for task, folder, folds, word in (("esc50", data, [9], "9"), ("sonyc_ust", tagged, [1], "split")):
        with pytest.raises(EdgeseaError, match=word):
            evaluate(task, folder, "spectral", folds=folds)  # type: ignore[arg-type]


def test_models_that_do_not_fit_are_refused(
    data: Path, small_reduction: Path, small_student: Path, refuses: Callable[..., None]
) -> None:
    refuses("evaluate", "esc50", data, "no-such-model", words=["no-such-model"])
    refuses("evaluate", "esc50", data, small_student, "--window=1.5", words=[small_student, 1.5])
    refuses("evaluate", "esc50", data, small_student, f"--reduction={small_reduction}", words=["512", "4"])
