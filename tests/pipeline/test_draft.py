"""`run` of recordings alone."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from conftest import write_noise

import edgesea
from edgesea import cli
from edgesea.pipeline import estimate, read_config, read_stamps
from edgesea.pipeline.draft import Amount, choose_teacher, suggested
from edgesea.table.manifest import read_manifest

NOWHERE = "http://127.0.0.1:9"
TINY = {
    "extract": {"mixtures": 20, "workers": 1, "sample_rate": 8000},
    "distill": {"student": "sea-64", "filters": [2, 2, 2, 4], "n_mels": 16, "epochs": 1, "epoch_size": 32},
    "export": {"format": "onnx"},
}


def test_options_come_from_how_much_audio_there_is(noise_folder, tmp_path):
    spectral = {"extract": {"teacher": "spectral"}}
    given, amount = suggested(noise_folder, spectral, False, False)
    assert (amount.clips, round(amount.seconds)) == (12, 42)
    assert (given["extract"]["hop"], given["extract"]["mixtures"], given["reduce"]["size"]) == (0.25, 20000, 32)
    assert suggested(noise_folder, spectral, True, False)[0]["distill"]["epochs"] == 3
    for name in "ab":  # of which one trains, so that nothing can be mixed, and one validates
        write_noise(tmp_path / "two" / f"{name}.wav", 30)
    assert suggested(tmp_path / "two", spectral, False, False)[0]["extract"]["mixtures"] == 0
    (tmp_path / "year").mkdir()
    for index in range(3):  # as announced
        soundfile.write(tmp_path / "year" / f"{index}.wav", np.zeros(500 * 3600 * 9, np.int16), 500, "PCM_U8")
    given, amount = suggested(tmp_path / "year", spectral, False, False)
    assert (given["extract"]["hop"], given["reduce"]["size"], given["distill"]["epochs"]) == (1.0, 64, 30)


def test_the_teacher_is_one_whose_weights_are_there_or_can_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGESEA_CACHE", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", NOWHERE)
    assert choose_teacher(False)[0] == "efficientat/mn04"
    teacher, why = choose_teacher(True)
    assert (teacher, str(tmp_path / "mn04_as_mAP_432.pt") in why) == ("spectral", True)
    (tmp_path / "mn10_as_mAP_471.pt").touch()
    assert choose_teacher(True)[0] == "efficientat/mn10"


def test_recordings_alone_become_a_run_whose_experiment_can_be_edited(
    noise_folder, tmp_path, capsys, monkeypatch, caplog
):
    monkeypatch.setattr(estimate, "WORTH", {"extract": 1, "distill": 1})
    caplog.set_level("INFO")
    out = tmp_path / 'my "$HOME" run'
    made = edgesea.run(noise_folder, out=out, teacher="spectral", **TINY)
    assert [name for name in made if name in TINY] == ["extract", "distill", "export"]
    assert (made["extract"]["clips"], made["extract"]["mixtures"]) == (12, 20)
    assert "on this computer" in caplog.text
    assert (out / "report.html").is_file()
    text = (out / "experiment.yaml").read_text("utf-8")
    assert "# evaluate:" in text
    assert read_config(out / "experiment.yaml")[0] == read_config(out / "config.yaml")[0]
    before = read_stamps(out)
    assert cli.main(["run", str(noise_folder), "--out", str(out)]) == 0
    assert "experiment.yaml" in capsys.readouterr().out
    assert read_stamps(out) == before
    (out / "experiment.yaml").write_text(text.replace("  size: 32", "  size: 8"), "utf-8")
    for source in (out, out / "experiment.yaml"):
        found = edgesea.run(source, dry_run=True)
        assert (found["dry_run"], found["extract"]) == (str(out), "up to date")
        assert found["reduce"].startswith("redo: size: 32 there, 8 here")
    assert edgesea.run(out, dry_run=True, reduce={"size": "32"})["distill"] == "up to date"
    write_noise(noise_folder / "new.wav", seed=99)
    shutil.copy(out / "experiment.yaml", noise_folder)  # which does not make a run of it
    assert "clips: 12 there, 13 here" in edgesea.run(noise_folder, out=out, dry_run=True)["extract"]


def test_a_run_below_its_recordings_and_a_manifest(noise_folder, monkeypatch, capsys):
    monkeypatch.chdir(noise_folder)
    options = ["--teacher=spectral", "--extract.mixtures=0", "--extract.columns", "{path: file, label: kind}"]
    names = sorted(path.name for path in noise_folder.glob("*.wav"))
    Path("list.csv").write_text("file,kind\n" + "".join(f"{name},a\n" for name in names))
    shutil.copy(names[0], "other.wav")
    assert cli.main(["run", "list.csv", *options, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["dry_run"] == "runs/list"
    Path("list.csv.gz").write_bytes(gzip.compress(Path("list.csv").read_bytes()))
    assert cli.main(["run", "list.csv.gz", *options, "--dry-run"]) == 0
    assert cli.main(["run", "list.csv", *options, "--stage", "extract"]) == 0
    written = yaml.safe_load(Path("runs/list/experiment.yaml").read_text())
    assert written["extract"]["columns"] == {"path": "file", "label": "kind"}
    assert written["extract"]["source"] == str(noise_folder / "list.csv")
    assert cli.main(["run", ".", "--out=runs/mine", "--teacher=spectral", "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("files", "words", "named"),
    [
        ((), (), ["no audio file found"]),
        ((0.3, 0.2), (), ["2 recording(s)", "0.5 seconds", "64 windows"]),
        ((30,), (), ["1 recording(s)", "none validates", "ffmpeg"]),
        ((b"RIFF", b""), (), ["2 of 2", "0.wav"]),
        ((30, 30), ("--distill.epoch=3",), ["distill", "epoch", "epochs"]),
        ((30, 30), ("--teacher=spectrl",), ["spectrl"]),
        ((30, 30), ("--weights=a/x.pt",), ["a/x.pt", "teacher"]),
        ((30, 30), ("--extract.columns={a",), ["{a", "YAML"]),
        ((30, 30), ("--out={here}",), ["not empty"]),
        ((30, 30), ("--out={here}/0.wav/run",), ["0.wav"]),
    ],
)
def test_bad_input(tmp_path, refuses, monkeypatch, files, words, named):
    monkeypatch.setenv("EDGESEA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HTTPS_PROXY", NOWHERE)
    here = tmp_path / "here"
    here.mkdir()
    for index, content in enumerate(files):
        if isinstance(content, bytes):
            (here / f"{index}.wav").write_bytes(content)
        else:
            write_noise(here / f"{index}.wav", content)
    out = () if any("--out" in word for word in words) else (f"--out={tmp_path / 'run'}",)
    refuses("run", here, *out, *(word.replace("{here}", str(here)) for word in words), words=named)
    assert not (tmp_path / "run").exists()


def test_a_run_of_other_recordings_and_a_single_one_are_refused(noise_folder, tmp_path, refuses):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "experiment.yaml").write_text("extract: {source: elsewhere}\n")
    refuses("run", noise_folder, f"--out={tmp_path / 'run'}", words=["elsewhere", noise_folder])
    refuses("run", noise_folder / "clip00.wav", words=["clip00.wav", "folder"])


def test_lengths_are_those_of_what_can_be_decoded(noise_folder):
    (noise_folder / "a.wav").write_bytes(b"no audio")
    amount = Amount.of(read_manifest(noise_folder))
    assert (amount.clips, round(amount.seconds)) == (12, 42)
