import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import load_audio, make_esc50, make_student, write_noise

import edgesea
from edgesea.artifact import atomic_path, read_json
from edgesea.errors import EdgeseaError
from edgesea.export import export
from edgesea.export.tags import learn_tags
from edgesea.export.windows import choose_windows
from edgesea.sampling import sample
from edgesea.table.reader import Table


@pytest.fixture(scope="module")
def student(small_table, tmp_path_factory) -> Path:
    """A student that says it was trained on `small_table`."""
    manifest = {"manifest_sha256": Table(small_table).info["manifest_sha256"]}
    return make_student(tmp_path_factory.mktemp("export") / "student", provenance={"table": manifest})


def test_all_formats_embed_as_the_student_does(student, small_table, tmp_path):
    path = write_noise(tmp_path / "a.wav", 4.0, seed=50)
    exact, _ = edgesea.get_embedding(load_audio(path, 8000), 8000, model=student, center=False)
    sample(small_table, tmp_path / "subset.parquet", size=40)
    table = {"calibration": small_table, "subset": tmp_path / "subset.parquet"}
    for options, file in (
        ({"format": "onnx"}, "student.onnx"),
        ({"int8": False}, "student.tflite"),
        (table, "student.tflite"),
    ):
        report = export(str(student), tmp_path / "out", least=0.9, **options)
        assert sorted(one.name for one in (tmp_path / "out").iterdir()) == sorted(["report.json", file])
        assert report == read_json(tmp_path / "out" / "report.json")
        model = f"onnx:{tmp_path}/out/{file}" if file.endswith("onnx") else tmp_path / "out" / file
        found, _ = edgesea.get_embedding(load_audio(path, 8000), 8000, model=model, center=False)
        np.testing.assert_allclose(found, exact, atol=(0.05 if report["int8"] else 1e-5) * np.abs(exact).max())
    assert report["calibrated_on"] == 40
    assert report["checked_on"] == "20 windows: validate"
    assert report["agreement"]["least"] <= report["agreement"]["cosine"] <= 1
    with pytest.raises(EdgeseaError, match=r"out: an export, not a student; name .*out/student\.tflite as the model"):
        edgesea.load_model(tmp_path / "out")
    stream = edgesea.Stream(tmp_path / "out" / "student.tflite", center=False)
    np.testing.assert_array_equal(stream.feed(load_audio(path, 8000))[0][:3], found[:3])


def test_windows_to_check_on_are_not_those_to_calibrate_on(small_table, train_only_table, tmp_path, monkeypatch):
    monkeypatch.setattr("edgesea.export.windows.LEAST", 3)
    assert choose_windows(Table(small_table), None, 7, 8000).check.shape == (7, 8000)
    for most in (3, 512):  # some of a small table are left
        chosen = choose_windows(Table(train_only_table), None, most, 8000)
        assert chosen.held_out.startswith("train")
        rows = {row.tobytes() for row in np.concatenate([chosen.calibrate, chosen.check])}
        assert len(rows) == 6


def test_what_does_not_fit_is_refused(student, small_table, train_only_table, refuses, tmp_path):
    out, wide = tmp_path / "out", make_student(tmp_path / "wide", name="edge-3")
    for options, words in (
        ((), ["calibration: the table that the student was trained on"]),
        (("--format", "onnx", "--int8"), ["exclude each other", "tflite in either"]),
        (("--subset", "x"), ["calibration"]),
        (("--calibration", small_table, "--windows", "1"), ["windows be at least 16", "not 0.99, 1 and 1.0"]),
        (("--calibration", tmp_path), ["no table here", "edgesea extract"]),
        (("--calibration", train_only_table), ["not a table that", "was trained on", "any_table"]),
        (("--calibration", train_only_table, "--any-table"), ["3 windows to calibrate", "16 are needed"]),
        (("--calibration", small_table, "--least", "1"), ["mean-centred cosine", "20 windows", "less than 1.0"]),
    ):
        int8 = () if options else ("--int8",)
        refuses("export", student, out, *options, *int8, words=words)
    refuses("export", wide, out, "--calibration", small_table, words=["8000 Hz", "sample_rate=16000"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.json").write_text('{"files": ["a"]}')
    refuses("export", student, tmp_path / "other", "--format", "onnx", words=["not empty and no export"])
    refuses("export", student, out, "--no-int8", "--hop", "inf", words=["hop in (0, 3600]", "inf"])
    assert not out.exists()


@pytest.mark.parametrize("files", [None, {"../kept": 1}, {"..": 1}, {"": 1}])
def test_a_foreign_report_deletes_nothing(student, refuses, tmp_path, files):
    (out := tmp_path / "out").mkdir()
    (tmp_path / "kept").touch()
    (out / "report.json").write_text(json.dumps({"export": "x", "weights_sha256": "y", "files": files}))
    refuses("export", student, out, "--format", "onnx", words=["not empty and no export"])
    assert (tmp_path / "kept").exists()


def test_an_export_that_was_cut_off_is_made_again(student, small_table, tmp_path, monkeypatch):
    out, written = tmp_path / "out", []

    def cut_off(path: Path):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(path.name)
        return atomic_path(path)

    export(str(student), out, format="onnx")
    (out / "edgesea-host").touch()  # what was made of an export stays
    with monkeypatch.context() as patch:
        patch.setattr("edgesea.export.atomic_path", cut_off)
        with pytest.raises(KeyboardInterrupt):
            export(str(student), out, calibration=small_table, least=0.9, format="c")
    assert {*written, "report.json", "edgesea-host"} == {path.name for path in out.iterdir()}
    assert read_json(out / "report.json")["unfinished"]
    export(str(student), out, int8=False)
    assert {"student.tflite", "report.json", "edgesea-host"} == {path.name for path in out.iterdir()}


def test_a_missing_package_is_named(student, tmp_path, monkeypatch):
    (path := tmp_path / "a.tflite").write_bytes(b"")
    for name in ("ai_edge_litert", "ai_edge_litert.schema_py_generated"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("edgesea.export.find_spec", lambda name: None)
    for function in (lambda: export(str(student), tmp_path / "out", int8=False), lambda: edgesea.load_model(path)):
        with pytest.raises(EdgeseaError, match=r"is not installed; .*edgesea\[export\]"):
            function()
    assert json.dumps(export(str(student), tmp_path / "out", format="onnx"))  # needs none


def test_a_library_in_c_has_the_tags_of_a_task(student, small_table, tmp_path):
    task = make_esc50(tmp_path / "task", 12)
    given = {"calibration": small_table, "least": 0.9, "tags": "esc50", "data": task, "hop": 0.5}
    report = export(str(student), tmp_path / "out", format="c", **given)
    assert {"student.tflite", "edgesea.h", "edgesea_model.c"} < report["files"].keys()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*report["files"], "report.json"}
    assert "#define EDGESEA_TAGS 2\n" in (tmp_path / "out" / "edgesea_model.h").read_text()
    model = edgesea.load_model(tmp_path / "out" / "student.tflite")
    names, weights, bias = learn_tags(model, "esc50", task)
    rows = [model.embed(load_audio(path, 8000)[None, :8000]) for path in sorted((task / "audio").iterdir())]
    found = [names[scores.argmax()] for scores in np.concatenate(rows) @ weights.T + bias]
    assert found == ["noise", "tone"] * 6
    export(str(student), tmp_path / "out", format="onnx")  # nothing of the library is left
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"student.onnx", "report.json"}
