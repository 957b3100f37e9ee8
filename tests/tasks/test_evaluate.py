import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from conftest import make_esc50
from test_sonyc_ust import write_tags

from edgesea.audio.framing import Framing
from edgesea.embed.engine import embed_files
from edgesea.errors import EdgeseaError
from edgesea.models import load_model
from edgesea.reduction import load_reduction
from edgesea.tasks.evaluate import evaluate
from edgesea.tasks.features import Bags
from edgesea.tasks.folds import FoldTask
from edgesea.tasks.options import ProbeOptions, TaggingOptions
from edgesea.tasks.score import score


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_esc50(tmp_path_factory.mktemp("task") / "esc50")


@pytest.mark.parametrize("system", ["teacher", "reduced", "student"])
def test_clips_are_scored_by_the_mean_of_their_windows(data, small_reduction, small_student, tmp_path, system):
    model, out = str(small_student) if system == "student" else "spectral", tmp_path / "new" / "scores.json"
    reduction, probe = (small_reduction, ProbeOptions("mlp")) if system == "reduced" else (None, ProbeOptions())
    options = {"reduction": reduction, "probe": probe, "seed": 3, "resamples": 9, "workers": 1}
    result = evaluate("esc50", data, model, out=out, **options)
    task, transform = FoldTask.load("esc50", data), load_reduction(reduction).transform if reduction else np.asarray
    windows = (transform(file.embedding) for file in embed_files(load_model(model), task.paths, Framing(1.0, 0.5)))
    means = [rows.mean(0, dtype=np.float64) for rows in windows]
    bags = Bags(np.stack(means).astype(np.float32), np.ones(20, np.int64))
    assert result | task.score(bags, probe, None, 3, 9) == result
    wanted = {"task": "esc50", "model": model, "window": 1.0, "hop": 0.5, "clips": 20, "probe": asdict(probe)}
    assert result | wanted | {"embedding_size": 512 if system == "teacher" else 4, "skipped": 0} == result
    assert json.loads(out.read_text()) == json.loads(json.dumps(result))
    assert result["accuracy"] > 0.9 or system != "teacher"


@pytest.fixture(scope="module")
def tagged(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same clips with tags."""
    return write_tags(Path(shutil.copytree(data, tmp_path_factory.mktemp("tagged") / "ust")))


def test_tags_are_scored_on_the_verified_validation_clips(tagged, tmp_path):
    options, written = TaggingOptions(label_mode="fine", members=1, patience=0), tmp_path / "predictions.csv"
    result = evaluate("sonyc_ust", tagged, "spectral", tagging=options, predictions=written, resamples=20, workers=1)
    assert (result["tagging"]["label_mode"], result["train_clips"], result["clips"]) == ("fine", 12, 8)
    assert (result["micro_f1"], result["confidence"]["micro_f1"]) == (1.0, [1.0, 1.0])
    assert result | score(written, data=tagged, resamples=20)["fine"] == result


def test_embeddings_are_cached_by_model_clips_and_framing(data, tmp_path):
    copy, cache = tmp_path / "copy", tmp_path / "cache"
    shutil.copytree(data, copy)
    for hop, probe, files in ((0.5, "logistic", 1), (0.5, "mlp", 1), (0.25, "mlp", 2)):
        found = evaluate("esc50", copy, "spectral", cache=cache, hop=hop, probe=ProbeOptions(probe), workers=1)
        assert found == evaluate("esc50", copy, "spectral", hop=hop, probe=ProbeOptions(probe), workers=1)
        assert len(list(cache.iterdir())) == files


def test_bad_input(data, tagged, tmp_path, small_reduction, small_student, refuses):
    esc, ust = ("esc50", data), ("sonyc_ust", tagged)
    for task, model, options, words in (
        (("esc50", data / "nothing"), "spectral", [], [data / "nothing" / "meta" / "esc50.csv", "audio/"]),
        (("sonyc_ust", data), "spectral", [], [data / "annotations.csv", "dcase-ust-taxonomy.yaml"]),
        (ust, "spectral", ["--seed=-1"], ["seed", -1]),
        (ust, "spectral", [f"--seed={2**32 - 4}"], ["seed", 2**32 - 4]),
        (ust, "spectral", ["--tagging.context=true"], ["context", "latitude"]),
        (ust, "spectral", ["--tagging.proximity_factor=true"], ["proximity_factor", "_proximity"]),
        (ust, "spectral", ["--probe.classifier=svm"], ["probe", "tagging"]),
        (ust, "spectral", ["--folds=1"], ["folds", "split"]),
        (ust, "spectral", [f"--out={tmp_path}"], [tmp_path]),
        (ust, "spectral", [f"--predictions={tmp_path}"], [tmp_path]),
        (esc, "spectral", ["--predictions=p.csv"], ["predictions", "esc50"]),
        (esc, "spectral", ["--tagging.members=1"], ["tagging", "probe"]),
        (esc, "spectral", ["--resamples=-1"], ["resamples", -1]),
        (ust, "spectral", ["--tagging.l2_reg=nan"], ["tagging", "l2_reg", "nan"]),
        (ust, "spectral", ["--tagging.pca_components=0"], ["pca_components", 0]),
        (ust, "spectral", ["--tagging.thresh_type=percentile_100"], ["thresh_type", "percentile_100"]),
        (ust, "spectral", ["--tagging.oversample=mlsmote", "--tagging.sensor_factor=true"], ["oversample", "factors"]),
        (esc, "spectral", ["--probe.hidden_layer_size=0"], ["hidden_layer_size", 0]),
        (esc, "spectral", ["--folds=9"], ["folds", 9]),
        (esc, "no-such-model", [], ["no-such-model"]),
        (esc, small_student, ["--window=1.5"], [small_student, 1.5]),
        (esc, small_student, [f"--reduction={small_reduction}"], ["512", "4"]),
    ):
        refuses("evaluate", *task, model, *options, words=words)
    with pytest.raises(EdgeseaError, match="optimizer"):
        TaggingOptions(optimizer="sgd")
