import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, TINY, write_noise
from jsonargparse import ArgumentParser, capture_parser

import edgesea
from edgesea import cli
from edgesea.artifact import write_json
from edgesea.sampling.subset import Subset

COMMANDS = (
    "extract", "sample", "reduce", "distill", "embed", "stream", "evaluate", "score", "run", "report",
    "select", "tables", "demo",
)  # fmt: skip


@pytest.fixture(scope="module")
def parsers() -> dict[str, ArgumentParser]:
    found = capture_parser(lambda: cli.main(["demo"]))
    return dict(found._subcommands_action._name_parser_map)


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said on stderr; stdout is empty, and there is no traceback."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def test_every_stage_has_a_command(parsers: dict[str, ArgumentParser]) -> None:
    assert set(COMMANDS) <= set(parsers)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_and_explains_every_option(
    parsers: dict[str, ArgumentParser], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    explained = {action.dest: action.help for action in parsers[command]._actions}
    for name in inspect.signature(cli._commands()[command]).parameters:
        assert explained[name], f"{command}: {name} has no help"
        words = " ".join(explained[name].replace("%%", "%").split()[:3])
        assert words.replace(" ", "") in text.replace(" ", "")  # argparse breaks lines at hyphens
    first = (inspect.getdoc(cli._commands()[command]) or "").partition(".")[0]
    assert first.split()[0] in text


def test_help_lists_the_commands_with_their_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "Choose the windows of a table" in text
    assert all(f"    {command} " in text for command in COMMANDS)


def test_stages_run_one_after_the_other(small_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def result(*words: object) -> dict[str, Any]:
        capsys.readouterr()
        assert cli.main([str(word) for word in words]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert isinstance(printed, dict)
        return printed

    subset, phi, student = tmp_path / "s.parquet", tmp_path / "phi", tmp_path / "student"
    assert result("sample", small_table, subset, "--size", 12)["windows"] == 12
    assert result("reduce", small_table, phi, "--subset", subset, "--size=3", "--whiten", "true")["output_size"] == 3
    options = [word for name, value in {**TINY, "epochs": 1}.items() for word in (f"--{name}", value)]
    assert result("distill", small_table, phi, student, *options)["epochs"] == 1
    audio = small_table.parent / "audio"
    assert result("embed", audio, student, "--out", tmp_path / "npz", "--hop", 1.0)["files"] == 18
    assert edgesea.load_student(student).embedding_size == 3


def test_options_can_come_from_a_file_that_print_config_writes(
    small_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["sample", str(small_table), str(tmp_path / "s"), "--size", "7", "--print_config"])
    assert end.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["size"] == 7
    assert config["split"] == "train"
    (tmp_path / "sample.yaml").write_text(yaml.safe_dump({"size": 9, "split": "test"}))
    words = ["sample", "--config", str(tmp_path / "sample.yaml"), str(small_table), str(tmp_path / "s")]
    assert cli.main(words) == 0
    assert len(Subset.load(tmp_path / "s")) == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample", "{}/none", "{}/s"], "edgesea: error: {}/none: no table here; make one: edgesea extract"),
        (["reduce", "{}/none", "{}/phi"], "edgesea: error: {}/none: no table here"),
        (["distill", "{}/none", "{}/phi", "{}/s"], "edgesea: error: {}/none: no table here"),
        (["extract", "{}/none", "{}/t"], "edgesea: error: {}/none: no such file or folder"),
        (["extract", "{}", "{}/t"], "edgesea: error: {}: no audio file found"),
        (["extract", "{}", "{}/t", "--teacher", "magic"], "edgesea: error: "),
        (["embed", "[{}/none]", "spectral"], "edgesea: error: {}/none: no such file or folder"),
        (["evaluate", "esc50", "{}/none", "spectral"], "edgesea: error: {}/none/meta/esc50.csv: no such file"),
        (["run", "{}/none.yaml"], "edgesea: error: {}/none.yaml: No such file"),
        (["report", "{}/none"], "edgesea: error: {}/none"),
    ],
)
def test_errors_go_to_stderr_with_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert cli.main([word.format(tmp_path) for word in words]) == 1
    assert message.format(tmp_path) in failure(capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "sample"),
        (["fly"], "sample"),
        (["sample"], "table"),
        (["sample", "t", "s", "--size", "many"], "size"),
        (["sample", "t", "s", "--sise", "3"], "sise"),
        (["sample", "t", "s", "--split", "some"], "validate"),
    ],
)
def test_a_wrong_call_is_explained_with_exit_code_2(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert message in failure(capsys)


def interrupting_command(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `edgesea stop` raise an error, as any stage may at any time."""

    def stop() -> None:
        """Stop."""
        raise error

    monkeypatch.setattr(cli, "_commands", lambda: dict.fromkeys(("stop", "sample", "extract"), stop))


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted; run it again"),
        (
            OSError(28, "No space left on device", "part-00001"),
            1,
            "part-00001: No space left on device; free some space",
        ),
        (PermissionError(13, "Permission denied", "/root/x"), 1, "edgesea: error: /root/x: Permission denied"),
        (MemoryError(), 1, "out of memory; choose smaller"),
    ],
)
def test_what_the_system_says_is_passed_on_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    message: str,
) -> None:
    interrupting_command(monkeypatch, error)
    assert cli.main(["stop"]) == code
    assert message in failure(capsys)


@pytest.mark.parametrize(
    ("command", "again"), [("extract", "the same command goes on from here"), ("sample", "run it again")]
)
def test_only_what_goes_on_is_said_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, again: str
) -> None:
    interrupting_command(monkeypatch, KeyboardInterrupt())
    assert cli.main([command]) == 130
    assert failure(capsys) == f"edgesea: interrupted; {again}\n"
    interrupting_command(monkeypatch, OSError(28, "No space left on device", "a"))
    assert cli.main([command]) == 1
    assert failure(capsys) == f"edgesea: error: a: No space left on device; free some space, then {again}\n"


def test_lists_of_files_need_no_brackets() -> None:
    assert cli._normalised(["tables", "--out", "x", "runs/a", "runs/b"]) == [
        "tables", '["runs/a", "runs/b"]', "--out", "x",
    ]  # fmt: skip
    assert cli._normalised(["tables", "--out=x", "runs/a"]) == ["tables", '["runs/a"]', "--out=x"]
    for left in (["embed", "[a.wav]"], ["embed"], ["embed", "--help"], ["run", "a", "--out", "b"], []):
        assert cli._normalised(left) == left


def test_the_last_word_of_embed_may_be_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_noise(Path("a.wav"))
    Path("recordings").mkdir()
    write_json(Path("student/config.json"), {"model": "edgesea.student"})
    Path("sea.h5.gz").touch()
    both = ["embed", '["a.wav", "b c.wav"]', "--hop", "1", "--model", "spectral"]
    assert cli._normalised(["embed", "a.wav", "b c.wav", "spectral", "--hop", "1"]) == both
    assert cli._normalised(["embed", "--hop", "1", "a.wav", "b c.wav", "spectral"]) == both
    assert cli._normalised(["embed", "[a.wav]", "spectral"]) == ["embed", "[a.wav]", "--model", "spectral"]
    for model in ("student", "sea.h5.gz", "owner/name", "edgel3/sea-64", "onnx:a.onnx@8000"):
        expected = ["embed", '["a.wav", "recordings"]', "--model", model]
        assert cli._normalised(["embed", "a.wav", "recordings", model]) == expected
    for last in ("a.wav", "gone.wav", "recordings"):  # the model is the default one
        assert cli._normalised(["embed", "recordings", last]) == ["embed", json.dumps(["recordings", last])]
    for alone in ("gone", "student", "edgel3/sea-64"):
        assert cli._normalised(["embed", alone]) == ["embed", json.dumps([alone])]
    Path("[odd]").mkdir()
    assert cli._normalised(["embed", "[odd]", "spectral"]) == ["embed", '["[odd]"]', "--model", "spectral"]
    named = ["embed", '["a.wav", "odd"]', "--model=spectral"]
    assert cli._normalised(["embed", "a.wav", "odd", "--model=spectral"]) == named


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("-t0.5 -x=l3 -ab32 -oout a.wav", "--hop=0.5 --suffix=l3 --batch_size=32 --out=out a.wav"),
        ("-t 0.5 -n -ow a.wav -q", "--hop 0.5 --center=false --overwrite=true a.wav --quiet=true"),
        ("-q true --overwrite false --recursive", "--quiet=true true --overwrite=false --recursive=true"),
        ("-ow=false a.wav -q=True --recursive=False", "--overwrite=false a.wav --quiet=true --recursive=false"),
        ("--quiet True --stdin -- -q", "--quiet=true --stdin=true -- -q"),
        (
            "-nqt0.5 --batch-size 8 -qoout a.wav",
            "--center=false --quiet=true --hop=0.5 --batch_size 8 --quiet=true --out=out a.wav",
        ),
        ("--audio-hop-size=1 -- -a.wav -q", "--hop=1 -- -a.wav -q"),
    ],
)
def test_options_are_written_as_in_edgel3(given: str, expected: str) -> None:
    assert cli._translated(["embed", *given.split()]) == ["embed", *expected.split()]


def test_options_that_choose_a_model_elsewhere_are_answered(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["embed", "a.wav", "--input-repr", "mel256"]) == 1
    assert failure(capsys).startswith(
        "edgesea: error: --input-repr: here a model is named as a whole, after the recordi"
    )


def test_files_may_be_named_like_options() -> None:
    assert cli._normalised(["embed", "--hop", "1", "--", "-a.wav", "b.wav"]) == [
        "embed", '["-a.wav", "b.wav"]', "--hop", "1",
    ]  # fmt: skip


def test_predictions_are_scored_and_models_are_evaluated() -> None:
    assert cli._normalised(["evaluate", "--data", "d", "a.CSV"]) == ["score", "a.CSV", "--data", "d"]
    for left in (
        ["evaluate", "esc50", "data", "model", "--out", "a.csv"],
        ["evaluate", "--predictions", "p.csv", "sonyc_ust", "data", "model"],
        ["evaluate", "--config", "a.yaml"],
    ):
        assert cli._normalised(left) == left


def test_standard_input_is_another_command() -> None:
    for words in ("embed model --stdin --sample_rate 8000", "embed --stdin model -q --sample_rate 8000"):
        found = cli._normalised(cli._translated(words.split()))
        assert found == ["stream", "--model", "model", "--sample_rate", "8000"]
    assert cli._normalised(["embed", "--stdin=true", "--out", "a"]) == ["stream", "--out", "a"]  # the default model
    found = cli._normalised(cli._translated(["stream", "model", "-t0.5", "--overwrite", "-o", "a.npz"]))
    assert found == ["stream", "--model", "model", "--hop=0.5", "--overwrite=true", "--out", "a.npz"]


def test_embedding_goes_on_unless_all_is_to_be_overwritten() -> None:
    assert cli._again(["embed", "[a.wav]", "spectral"]) == "the same command goes on from here"
    assert cli._again(["embed", "[a.wav]", "spectral", "--overwrite=true"]) == "run it again"
    assert cli._again(["embed", "[a.wav]", "--overwrite=false"]) == "the same command goes on from here"


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupting_command(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["stop"])


def test_the_process_ends_with_the_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgesea.cli", "sample", str(tmp_path), "s"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY / "src")}
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"edgesea: error: {tmp_path}: no table here; make one: edgesea extract\n"


BLOCK = """
import sys
for name in {missing}:
    sys.modules[name] = None
from edgesea import cli
sys.exit(cli.main({words}))
"""


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (["pyarrow", "pyarrow.parquet"], ["sample", "t", "s"]),
        (["sklearn"], ["evaluate", "esc50", "data", "spectral"]),
    ],
)
def test_a_missing_library_names_the_extra_that_installs_it(
    missing: list[str], words: list[str], tmp_path: Path
) -> None:
    code = BLOCK.format(missing=missing, words=words)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert (
        done.stderr == f"edgesea: error: {missing[0]} is not installed; it comes with: pip install 'edgesea[train]'\n"
    )
