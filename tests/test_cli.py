import inspect
import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY

import edgesea
from edgesea import cli
from edgesea.sampling.subset import Subset


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_explains_every_option(command, capsys):
    assert cli.main([command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    stage = cli._load(command)
    explained = inspect.getdoc(stage) or ""
    assert explained.split()[0] in text
    for name in inspect.signature(stage).parameters:
        assert f"--{name.replace('_', '-')}" in text
        assert f"\n{name} : " in explained, f"{command}: {name} has no help"
    assert ("--partition" in text, "--credentials" in text) == (command in cli.SPREAD, command in cli.WATCHED)


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_help_lists_the_commands_with_their_purpose(words, capsys):
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert all(f" {command} " in text for command in cli.COMMANDS)
    assert "Choose the windows of a table" in text


def test_stages_print_their_result(small_table, tmp_path, capsys):
    phi, student = tmp_path / "phi", tmp_path / "student"
    options = "--student sea-64 --filters 4 4 8 8 --n-mels=16 --epochs=1 --epoch_size=16 --batch-size 8"
    for words, name, value in (
        (f"reduce {small_table} {phi} --size=3 --whiten", "output_size", 3),
        (f"distill {small_table} {phi} {student} {options}", "epochs", 1),
    ):
        capsys.readouterr()
        assert cli.main(words.split()) == 0
        assert json.loads(capsys.readouterr().out)[name] == value
    assert edgesea.load_student(student).embedding_size == 3


def test_options_can_come_from_a_file_as_print_config_writes_it(small_table, tmp_path, capsys):
    assert cli.main(["sample", str(small_table), str(tmp_path / "s"), "--size", "7", "--print-config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["size"], config["split"], "cluster" in config, "track" in config) == (7, "train", False, False)
    around = ["--max-jobs", "2", "--time", "1:00", "--track", "csv"]
    (tmp_path / "around.yaml").write_text("cluster: {time: '4:00', cpus: 3}\n")
    assert cli.main(["sample", "t", "s", "--config", str(tmp_path / "around.yaml"), *around, "--print-config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["cluster"], config["track"]) == ({"time": "1:00", "cpus": 3, "max_jobs": 2}, {"track": ["csv"]})
    (tmp_path / "sample.yaml").write_text(yaml.safe_dump({"size": 9, "split": "test"}))
    words = ["sample", "--config", str(tmp_path / "sample.yaml"), str(small_table), str(tmp_path / "s")]
    assert cli.main(words) == 0
    assert len(Subset.load(tmp_path / "s")) == 9
    assert cli.main([*words, "--size=4"]) == 0  # the command line counts more
    assert len(Subset.load(tmp_path / "s")) == 4


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        ("fly", 2, ["fly", "sample"]),
        ("sample", 2, ["table"]),
        ("sample t s --size many", 2, ["size", "many"]),
        ("sample t s --sise 3", 2, ["sise", "--size"]),
        ("sample t s --split some", 2, ["some", "validate"]),
        ("evaluate esc50 d m --probe.classifier=magic", 2, ["magic", "logistic"]),
        ("sample t s --size 1.5", 1, ["size", "1.5"]),
        ("sample t s --config none.yaml", 1, ["none.yaml"]),
        ("sample t s --config bad.yaml", 1, ["bad.yaml", "sise (did you mean size?)"]),
        ("sample none s", 1, ["none", "edgesea extract"]),
        ("reduce none phi", 1, ["none"]),
        ("distill none phi s", 1, ["none"]),
        ("evaluate esc50 none spectral", 1, ["none/meta/esc50.csv"]),
    ],
)
def test_a_wrong_call_ends_with_exit_code_2_and_a_wrong_file_with_1(tmp_path, monkeypatch, refuses, words, code, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("sise: 3")
    refuses(*words.split(), words=named, code=code)


@pytest.mark.parametrize("command", ["extract", "sample"])
@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, ["interrupted", "{again}"]),
        (OSError(28, "No space left on device", "part-1"), 1, ["part-1: No space left on device", "{again}"]),
        (PermissionError(13, "Permission denied", "/root/x"), 1, ["/root/x: Permission denied"]),
        (MemoryError(), 1, ["out of memory"]),
        (BrokenPipeError(), 0, []),
        (ZeroDivisionError(), None, []),  # a bug is not hidden
    ],
)
def test_errors_of_the_system_are_passed_on_without_a_traceback(monkeypatch, refuses, command, error, code, words):
    def stop() -> None:
        """Stop."""
        raise error

    monkeypatch.setattr(cli, "_load", lambda name: stop)
    monkeypatch.setattr(cli.os, "dup2", lambda *files: None)
    monkeypatch.setattr(cli.sys.stdout, "fileno", lambda: 1, raising=False)
    again = {"extract": "it resumes", "sample": "run it again"}[command]
    with nullcontext() if code is not None else pytest.raises(ZeroDivisionError):
        refuses(command, words=[word.format(again=again) for word in words], code=code)


def test_names_of_files_need_not_be_utf_8(noise_folder, random_student, tmp_path, capsys):
    place = tmp_path / os.fsdecode(b"d\xe9")
    noise_folder.rename(place)
    (place / "clip00.wav").rename(place / os.fsdecode(b"\xe9.wav"))
    student, config = shutil.copytree(random_student, place / "student"), place / os.fsdecode(b"\xe9.yaml")
    training = "{student: sea-64, filters: [2, 2, 2, 4], n_mels: 16, epochs: 1, epoch_size: 16, device: cpu}"
    text = b"extract: {source: PLACE/\xe9.csv, validate: fold=1, sample_rate: 8000}\nreduce: {size: 3}\n"
    text += b"distill: " + training.encode()
    config.write_bytes(text.replace(b"PLACE", os.fsencode(place)))
    (place / os.fsdecode(b"\xe9.csv")).write_text("path,fold\nclip01.wav,1\nclip02.wav,0\nclip03.wav,0\n")
    for words, code in (
        (["extract", place, place / "table", "--hop=1"], 0),
        (["extract", place, place / "table", "--hop=2"], 1),
        (["sample", place / "table", place / "subset", "--size=9"], 0),
        (["reduce", place / "table", place / "phi", "--subset", place / "subset", "--size=3"], 0),
        (["embed", place / os.fsdecode(b"\xe9.wav"), "--model", student, "--out", place / "embedded"], 0),
        (["run", config, "--out", place / "run"], 0),
        (["run", place / "run" / "config.yaml", "--out", place / "run", "--dry-run"], 0),
    ):
        capsys.readouterr()
        assert cli.main(list(map(str, words))) == code, capsys.readouterr().err
        out, error = capsys.readouterr()
        out.encode()
        assert "Traceback" not in error
    assert {*json.loads(out).values()} == {str(place / "run"), "up to date"}


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("a.wav b.wav -t 0.5 -x l3 -ab 32 -o out", {"hop": 0.5, "suffix": "l3", "batch_size": 32, "out": Path("out")}),
        ("a.wav b.wav -t0.5 -xl3 -oout -nq", {"hop": 0.5, "suffix": "l3", "center": False, "quiet": True}),
        ("--hop-size 0.5 --batch-size 8 a.wav b.wav", {"hop": 0.5, "batch_size": 8}),
        ("--hop=0.5 --batch_size=8 a.wav b.wav", {"hop": 0.5, "batch_size": 8}),
        ("a.wav b.wav --no-centering -ow", {"center": False, "overwrite": True}),
        ("a.wav b.wav --overwrite=false --center=true", {"overwrite": False, "center": True}),
        ("--audio-hop-size=1 -- a.wav b.wav", {"hop": 1.0}),
    ],
)
def test_options_of_embed_have_the_names_of_edgel3_too(words, options):
    _, bound, _ = cli._app(["embed"], cli.Attempt()).parse_args(
        ["embed", *words.split()], exit_on_error=False, print_error=False
    )
    first = next(iter(bound.arguments.values()))
    assert list(first) == [Path("a.wav"), Path("b.wav")]
    assert {name: bound.arguments[name] for name in options} == options


def run_python(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(REPOSITORY / "src"), "PATH": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, **options)


def test_the_module_is_the_command(tmp_path):
    done = run_python("-m", "edgesea", "sample", str(tmp_path), "s", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"edgesea: error: {tmp_path}: ")


HERE = """
import edgesea.cli, edgesea.pipeline, edgesea.select, edgesea.embed.files
from edgesea.cluster import results
assert list(results(divmod, [(7, 2)])) == [(3, 1)]
"""


@pytest.mark.parametrize(
    ("code", "libraries"),
    [
        ("import edgesea", ["torch", "numpy", "cyclopts"]),
        ("import edgesea.tracking.sheets, edgesea.tracking.tracker", ["mlflow", "wandb", "gspread", "lightning"]),
        (HERE, ["dask", "distributed", "dask_jobqueue"]),
    ],
)
def test_nothing_is_imported_before_it_is_used(code, libraries):
    done = run_python("-c", f"{code}\nimport sys; print([name for name in {libraries} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [
        ("pyarrow", "sample t s", "train"),
        ("sklearn", "evaluate esc50 d spectral", "train"),
        ("mlflow", "distill t r s --track mlflow", "track"),
        ("gspread", "track test --sheet x", "track"),
    ],
)
def test_a_missing_library_names_the_extra_that_installs_it(missing, command, extra, tmp_path):
    code = f"import sys; sys.modules[{missing!r}] = None; from edgesea import cli; sys.exit(cli.main(sys.argv[1:]))"
    done = run_python("-c", code, *command.split(), cwd=tmp_path)
    assert done.returncode == 1
    assert all(word in done.stderr for word in (missing, f"edgesea[{extra}]"))
    assert not [*tmp_path.iterdir()]
    assert "Traceback" not in done.stderr
    assert run_python("-c", code, "--help", cwd=tmp_path).returncode == 0
