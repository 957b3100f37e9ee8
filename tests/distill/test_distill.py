import csv
import json
import shutil
import signal
import sys
import tempfile

import numpy as np
import pytest
from conftest import TINY, kill_when, write_noise
from safetensors.numpy import load_file
from stored import embeddings_of

import edgesea
from edgesea import cli
from edgesea.artifact import atomic_path
from edgesea.distill import distill
from edgesea.distill.module import Distiller
from edgesea.errors import EdgeseaError
from edgesea.extract import extract
from edgesea.models.cost import sizes
from edgesea.reduction import load_reduction, reduce
from edgesea.reduction.pca import PCA
from edgesea.table.reader import Table


@pytest.fixture
def train(small_table, small_reduction, tmp_path, monkeypatch):
    """Train a student in `tmp_path`."""
    # Checkpoints must not pass through the folder of temporary files, where Lightning's own writer puts them.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "does not exist"))

    def run(name="s", **options):
        return distill(small_table, small_reduction, tmp_path / name, **{**TINY, **options})

    return run


@pytest.fixture
def words(small_table, small_reduction, tmp_path):
    """The same as words of a command."""

    def make(name, **options):
        named = [f"--{name}={value}" for name, value in {**TINY, **options}.items()]
        return ["distill", str(small_table), str(small_reduction), str(tmp_path / name), *named]

    return make


def epochs_done(folder):
    path = folder / "metrics.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def history(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def same(first, second):
    def content(folder):
        results = {**json.loads((folder / "results.json").read_text()), "student": "", "speed": {}}
        return results, *((folder / name).read_bytes() for name in ("model.safetensors", "metrics.csv"))

    return content(first) == content(second)


def test_the_plateau_schedule_lowers_the_rate_after_five_epochs_without_improvement(small_student):
    rows = history(small_student)
    assert [row["epoch"] for row in rows] == list(range(1, 19))
    assert rows[-1]["train_mse"] < rows[0]["train_mse"] / 2
    rates = [row["lr"] for row in rows]
    assert sorted(set(rates), reverse=True) == pytest.approx([0.03, 0.003])
    best = min(range(14), key=lambda i: rows[i]["val_mse"])
    assert rates.index(rates[-1]) == best + 7  # the epoch after the sixth in a row that was no better


def test_the_results_are_those_of_the_saved_student_on_the_validation_windows(
    small_student, small_table, small_reduction
):
    results = json.loads((small_student / "results.json").read_text())
    table, phi = Table(small_table), load_reduction(small_reduction)
    student = edgesea.load_student(small_student, engine="torch")
    places = [(chunk, chunk.select("validate")) for chunk in table.chunks()]
    audio = np.concatenate([np.multiply(*table.audio(chunk, rows)) for chunk, rows in places])
    y = student.embed(audio).astype(np.float64)
    t = phi.transform(embeddings_of(table, "validate")).astype(np.float64)
    assert len(t) == 20
    assert results["mse"] == pytest.approx(np.square(t - y).mean(), rel=1e-5)
    assert results["r2"] == pytest.approx(1 - np.square(t - y).sum() / np.square(t - t.mean(0)).sum(), rel=1e-5)
    assert sizes(student.config).items() <= results.items()
    assert results["epochs"] == 18


def test_the_student_is_that_of_the_best_epoch_unless_asked_otherwise(train, tmp_path):
    best, last = train("best", epochs=10), train("last", epochs=10, keep="last")
    rows = history(tmp_path / "best")
    assert rows == history(tmp_path / "last")
    assert min(rows, key=lambda row: row["val_mse"]) is not rows[-1]
    assert best["mse"] == pytest.approx(min(row["val_mse"] for row in rows), rel=1e-6)
    assert last["mse"] == pytest.approx(rows[-1]["val_mse"], rel=1e-6)


def test_one_cycle_rises_falls_and_keeps_the_last_epoch(train, tmp_path):
    result = train(epochs=10, schedule="onecycle")
    rows = history(tmp_path / "s")
    rates = [row["lr"] for row in rows]
    peak = rates.index(max(rates))
    assert 1 <= peak <= 4  # 30 % of ten epochs
    assert rates == sorted(rates[:peak]) + sorted(rates[peak:], reverse=True)
    assert 0.03 >= max(rates) > 1000 * rates[-1]
    assert result["mse"] == pytest.approx(rows[-1]["val_mse"], rel=1e-6)


def test_bfloat16_training_is_validated_in_single_precision(train, tmp_path):
    result = train(precision="bf16-mixed", epochs=3, save_every=2)
    assert result["mse"] == pytest.approx(min(row["val_mse"] for row in history(tmp_path / "s")), rel=1e-6)
    arrays = load_file(tmp_path / "s" / "model.safetensors").values()
    assert {array.dtype for array in arrays} <= {np.dtype("float32"), np.dtype("int64")}
    names = sorted(path.name for path in (tmp_path / "s" / "checkpoints").iterdir())
    assert names == ["best.ckpt", "epoch-0002.ckpt", "last.ckpt"]


def test_a_student_for_microcontrollers_resumes(train, tmp_path):
    options = {"student": "edge-3", "filters": [4, 8], "epochs": 2, "gain": 6.0}
    for name in ("whole", "resumed"):
        train(name, **options)
    for name in ("results.json", "model.safetensors"):
        (tmp_path / "resumed" / name).unlink()
    train("resumed", **options)
    assert same(tmp_path / "whole", tmp_path / "resumed")
    config = edgesea.load_student(tmp_path / "whole", engine="torch").config
    assert (config.sample_rate, config.n_fft, config.hop_length) == (8000, 256, 80)  # the table's, and 32 and 10 ms


def test_the_student_is_the_average_of_the_weights_without_the_projector(train, tmp_path, monkeypatch):
    seen = []

    def watch(hook):
        def watched(self, *batch):
            original(self, *batch)
            seen.append({name: value.double().clone() for name, value in self.student.state_dict().items()})

        original = getattr(Distiller, hook)
        monkeypatch.setattr(Distiller, hook, watched)

    watch("on_train_start")
    watch("on_train_batch_end")
    result = train(epochs=2, ema=0.2, projector=6, keep="last")
    average, saved = seen[0], load_file(tmp_path / "s" / "model.safetensors")
    for number, weights in enumerate(seen[1:], 1):
        rate = max(0.8, 9 / (9 + number))
        average = {name: value + rate * (weights[name] - value) for name, value in average.items()}
    assert saved.keys() == average.keys()
    for name in [name for name in saved if "num_batches" not in name]:
        assert saved[name] == pytest.approx(average[name].numpy(), rel=1e-4, abs=1e-6)
    assert result["projector"] == 6
    assert "behind the projector" in (tmp_path / "s" / "README.md").read_text()
    assert result["mse"] == pytest.approx(history(tmp_path / "s")[-1]["val_mse"], rel=1e-6)


def test_a_finished_folder_is_returned_as_it_is(small_table, small_reduction, small_student):
    before = {path: path.stat().st_mtime_ns for path in small_student.rglob("*")}
    result = distill(small_table, small_reduction, small_student, **TINY)
    assert result == json.loads((small_student / "results.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in small_student.rglob("*")} == before


@pytest.mark.parametrize(("lr", "schedule"), [(1e6, "onecycle"), (1e20, "plateau")])
def test_diverging_training_says_so(train, tmp_path, lr, schedule):
    with pytest.raises(EdgeseaError, match=r"epoch \d.*lr"):
        train(epochs=2, lr=lr, schedule=schedule)
    assert not (tmp_path / "s" / "results.json").exists()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("lr", 0.01, ["training.lr", 0.03, 0.01]),
        ("seed", 7, ["training.seed", 0, 7]),
        ("n_mels", 20, ["architecture.n_mels", 16, 20]),
        ("batch_size", 0, ["batch_size", 0]),
        ("epochs", 0, ["epochs", 0]),
        ("epoch_size", 0, ["epoch_size", 0]),
        ("lr", -1, ["lr", -1]),
        ("devices", 0, ["devices", 0]),
        ("mask", 1.5, ["mask", 1.5]),
        ("gain", 6.0, ["gain", 6.0, "sea-64"]),
        ("head", "relu_max", [8, 4, "head=linear"]),
        ("student", "edge-3", ["first and last", "(4, 4, 8, 8)"]),
        ("sample_rate", 16000, ["sample_rate=16000", 8000]),
    ],
)
def test_bad_input(small_table, small_reduction, small_student, refuses, option, value, words):
    before = (small_student / "model.safetensors").read_bytes()
    options = [f"--{name}={given}" for name, given in {**TINY, option: value}.items()]
    refuses("distill", small_table, small_reduction, small_student, *options, words=words)
    assert (small_student / "model.safetensors").read_bytes() == before


def test_input_that_does_not_fit_together(
    small_table, small_reduction, small_student, train_only_table, tmp_path, refuses
):
    options = [f"--{name}={value}" for name, value in TINY.items()]
    pca = PCA(2)
    pca.fit([np.random.default_rng(0).standard_normal((9, 24)).astype(np.float32)])
    pca.save(tmp_path / "other", {})
    refuses("distill", small_table, tmp_path / "other", tmp_path / "s", words=["other", 24, 512])
    refuses("distill", train_only_table, small_reduction, tmp_path / "s", words=[train_only_table, "validate"])
    assert not (tmp_path / "s").exists()
    reduce(small_table, tmp_path / "phi", size=4, whiten=False)
    refuses("distill", small_table, tmp_path / "phi", small_student, *options, words=["reduction.whiten", True, False])


def test_a_student_of_two_tables(train, small_table, train_only_table, tmp_path):
    options = {"epochs": 3, "also": [train_only_table], "shares": [0.25]}
    train("s", **options)
    train("t", **options)
    assert same(tmp_path / "s", tmp_path / "t")
    assert json.loads((tmp_path / "s" / "plan.json").read_text())["also"]["batch"] == [6, 2]
    for change in ({"also": [small_table]}, {"shares": [0.5]}):
        with pytest.raises(EdgeseaError, match="also"):
            train("s", **{**options, **change})


def test_mixtures_of_a_table_train_with_it(train, small_table, small_reduction, train_only_table, tmp_path):
    train("s", epochs=1, also=[train_only_table])
    table = shutil.copytree(small_table, tmp_path / "table")
    shutil.copytree(train_only_table, table / "mixtures")
    distill(table, small_reduction, tmp_path / "t", **{**TINY, "epochs": 1})
    assert same(tmp_path / "s", tmp_path / "t")


@pytest.mark.parametrize(
    ("made", "options", "words"),
    [
        ({}, ["--shares=0.5", "--shares=0.2"], ["shares", 0.2]),
        ({}, ["--shares=1.0"], ["shares", 1.0]),
        ({}, ["--shares=0.9"], ["other", "7 of its 3"]),
        ({"window": 0.5}, [], ["other: window 0.5, not 1.0"]),
        ({"sample_rate": 4000}, [], ["other", 4000, 8000]),
        (
            {"teacher": "callable:quick_model:moments@8000"},
            [],
            ["other: teacher callable:quick_model:moments@8000, not spectral"],
        ),
    ],
)
def test_further_tables_that_do_not_fit(small_table, small_reduction, tmp_path, refuses, made, options, words):
    write_noise(tmp_path / "audio" / "a.wav", 3.0)
    extract(tmp_path / "audio", tmp_path / "other", validate=0.0, hop=1.0, workers=1, **made)
    tiny = [f"--{name}={value}" for name, value in TINY.items()]
    command = ["distill", small_table, small_reduction, tmp_path / "s", "--also", tmp_path / "other"]
    refuses(*command, *options, *tiny, words=words)
    assert not (tmp_path / "s").exists()


# Plateau: five epochs have passed without improvement at epoch 14; killed at 11 the count must survive.
@pytest.mark.parametrize(
    ("sent", "status", "schedule", "epoch", "mask"),
    [
        (signal.SIGKILL, -signal.SIGKILL, "plateau", 11, 0.0),
        (signal.SIGKILL, -signal.SIGKILL, "onecycle", 4, 0.2),
        (signal.SIGINT, 130, "plateau", 2, 0.0),
    ],
)
def test_a_killed_training_ends_as_if_it_had_not_been_killed(
    train, words, small_student, tmp_path, sent, status, schedule, epoch, mask
):
    expected, killed = small_student if schedule == "plateau" else tmp_path / "uninterrupted", tmp_path / "killed"
    if expected != small_student:
        train("uninterrupted", schedule=schedule, mask=mask)
    command = words("killed", schedule=schedule, mask=mask)
    found = kill_when([sys.executable, "-m", "edgesea", *command], lambda: epochs_done(killed) >= epoch, sent)
    assert found == status
    assert epoch <= epochs_done(killed) < 18
    assert not (killed / "results.json").exists()
    assert cli.main(command) == 0
    assert same(killed, expected)


class Killed(BaseException):
    """Stands for the end of the process at one exact point."""


@pytest.mark.parametrize("epoch", [1, 5])
def test_killed_between_the_two_checkpoints_of_an_epoch(train, small_student, tmp_path, epoch, monkeypatch):
    """While ``last.ckpt`` is half written, that of the epoch before is still there (after epoch 1: best.ckpt)."""
    out, written = tmp_path / "s", 0

    def interrupted_write(path):
        nonlocal written
        written += path.name == "last.ckpt"
        if written == epoch:
            path.with_name(f".{path.name}.123.tmp").write_bytes(b"half a checkpoint")
            raise Killed
        return atomic_path(path)

    with monkeypatch.context() as patch:
        patch.setattr("edgesea.distill.trainer.atomic_path", interrupted_write)
        with pytest.raises(Killed):
            train("s")
    assert (out / "checkpoints" / "last.ckpt").exists() == (epoch > 1)
    assert (out / "checkpoints" / "best.ckpt").exists()
    train("s")
    assert same(out, small_student)


@pytest.mark.parametrize("remains", [0, 5000])
def test_a_damaged_last_checkpoint_falls_back_to_the_best(train, tmp_path, remains, caplog):
    for name in ("expected", "damaged"):
        train(name, epochs=4)
    damaged = tmp_path / "damaged"
    (damaged / "results.json").unlink()
    last = damaged / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:remains])
    train("damaged", epochs=4)
    assert "last.ckpt: cannot be read" in caplog.text
    assert same(damaged, tmp_path / "expected")


def test_killed_after_early_stopping_it_does_not_train_another_epoch(train, tmp_path):
    for name in ("expected", "killed"):
        result = train(name, patience=3, keep="last")
    losses = [row["val_mse"] for row in history(tmp_path / "expected")]
    assert result["epochs"] == len(losses) == losses.index(min(losses)) + 4 < 18
    killed = tmp_path / "killed"
    for name in ("results.json", "model.safetensors", "config.json"):
        (killed / name).unlink()
    train("killed", patience=3, keep="last")
    assert same(killed, tmp_path / "expected")
