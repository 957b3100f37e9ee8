"""The commands of README and docs run as they stand, each in a copy of a folder that has what they name."""

import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import write_noise
from test_docs import PAGES, of_edgesea, shell_commands

from edgesea import cli
from edgesea.demo.city import make_city

# What else the commands with these words need, and where they are tried instead
ELSEWHERE = {
    "examples/": "hours; with less in test_examples.py",
    "edgesea select": "hours; with less in test_select.py",
    "edgesea submit": "SLURM; slurm/, submit/",
    "edgesea status": "SLURM; slurm/, submit/",
    "edgesea cancel": "SLURM; slurm/, submit/",
    "--cluster slurm": "SLURM; slurm/",
    "tcp://": "a scheduler; cluster/",
    "--devices": "GPUs; distill/test_ranks.py",
    "--batch-size 1024": "srun or torchrun; distill/test_ranks.py",
    "edgesea data ": "the network",
    "embed recordings --hop": "the network: a published student",
    "--track sheets": "the network; tracking/",
    "efficientat/": "the network",
    "edgel3/": "the network",
    "edgesea demo": "demo/, and `make demo`",
}
SHORT = ["--extract.mixtures", "200", "--distill.epochs", "1", "--reduce.size", "8", "--sample.size", "50"]


def needs(command):
    """Why a command is not run here."""
    text = " ".join(["edgesea", *command])
    return next((why for words, why in ELSEWHERE.items() if words in text), None)


COMMANDS = [
    (path.stem, command)
    for path in PAGES
    if path.stem != "start"  # runs as it stands in test_docs.py
    for _, words in shell_commands(path)
    if (command := of_edgesea(words)) is not None
]


def test_all_that_is_tried_elsewhere_is_there():
    used = {why for _, command in [*COMMANDS, ("start", ["demo"])] if (why := needs(command))}
    assert used == {*ELSEWHERE.values()}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, shared_data):
    """A folder with recordings, a run, data sets and what else pages name."""
    folder = tmp_path_factory.mktemp("workshop")
    city = make_city(folder / "SONYC-UST", sensors=2, days=1, clips_per_day=6, seconds=4.0, annotated=1.0)
    shutil.copytree(city / "audio", folder / "recordings")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["run", "recordings", "--out", "runs/mine", *SHORT]) == 0
        evaluate = ["evaluate", "sonyc_ust", "SONYC-UST", "spectral", "--tagging.num_epochs", "1"]
        assert cli.main([*evaluate, "--resamples", "0", "--predictions", "predictions.csv"]) == 0
    for name, made in {"TABLE": "table", "REDUCTION": "reduction", "TRAINED": "student"}.items():
        shutil.copytree(folder / "runs" / "mine" / made, folder / name)
    for name in ("bird.wav", "street.wav", "queries/one.wav"):
        write_noise(folder / name, 3.0, 16000)
    soundfile.write(folder / "day.wav", np.random.default_rng(0).normal(0, 0.1, 3610 * 8000), 8000)
    names = sorted(path.name for path in (folder / "recordings").iterdir())
    lines = [f"recordings/{name},here,{place % 2}" for place, name in enumerate(names)]
    (folder / "clips.csv").write_text("\n".join(["file,site,unit", *lines]) + "\n")
    (folder / "experiment.yaml").write_text((folder / "runs" / "mine" / "experiment.yaml").read_text())
    (folder / "path" / "to").mkdir(parents=True)
    (folder / "path" / "to" / "sonyc_ust").symlink_to(folder / "SONYC-UST")
    (folder / "ESC-50").symlink_to(shared_data / "esc10")
    metadata, audio = (folder / "UrbanSound8K" / name for name in ("metadata/UrbanSound8K.csv", "audio"))
    metadata.parent.mkdir(parents=True)
    audio.mkdir()
    rows = csv.reader((shared_data / "urbansound8k" / "metadata" / "UrbanSound8K.csv").read_text().splitlines())
    head, *rows = rows
    fold = head.index("fold")
    rows = [[*row[:fold], {"2": "10"}.get(row[fold], row[fold]), *row[fold + 1 :]] for row in rows]
    with metadata.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    for here, there in {"fold1": "fold1", "fold10": "fold2"}.items():
        (audio / here).symlink_to(shared_data / "urbansound8k" / "audio" / there)
    return folder


RUN = [
    pytest.param(name, command, id=f"{name}: {' '.join(command)}") for name, command in COMMANDS if not needs(command)
]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), RUN)
def test_it_runs(page, command, workshop, tmp_path, monkeypatch, capsys):
    here = tmp_path / "here"
    shutil.copytree(workshop, here, symlinks=True)
    if page == "export":
        (here / "TRAINED").rename(here / "STUDENT")
    if command[0] == "export" and "STUDENT8" in command:
        (here / "STUDENT").rename(here / "STUDENT8")
    if command[0] == "import":  # what another program left beside the recordings
        monkeypatch.chdir(here)
        assert cli.main(["embed", "recordings", "runs/mine/student", "--hop", "0.5"]) == 0
    (here / "pcm").write_bytes(np.random.default_rng(0).normal(0, 3000, 96000).astype("<i2").tobytes())
    monkeypatch.chdir(here)
    with Path("pcm").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert cli.main(command) == 0, capsys.readouterr().err
