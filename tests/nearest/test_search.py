"""``search`` finds the clip that a recording is, by the teacher, by reduced embeddings and by a student."""

from pathlib import Path

import pandas as pd
import pytest
import soundfile
from conftest import make_student, write_noise

import edgesea
from edgesea import cli
from edgesea.reduction import reduce


@pytest.fixture
def audio(small_table: Path) -> Path:
    return small_table.parent / "audio"


@pytest.fixture
def search(small_table: Path, tmp_path: Path):
    """`edgesea.search` in `small_table`, which gets no index of its own."""
    return lambda query, **options: edgesea.search(small_table, query, index=tmp_path / "index", **options)


def test_a_recording_finds_itself(search, audio):
    found = search([audio / "clip04.wav", audio / "clip13.wav"], top=3)
    assert found["rank"].tolist() == [1, 2, 3] * 2
    best = found.iloc[3]
    assert (best["query"], best["clip"], best["sensor"]) == (str(audio / "clip13.wav"), "audio/clip13.wav", "s1")
    assert best["cosine"] == pytest.approx(1, abs=1e-6)
    assert best["start"] == best["query_start"]
    assert best["time"] == f"2020-05-02T12:00:0{best['start']:.3f}"
    assert found.groupby("query")["cosine"].is_monotonic_decreasing.all()
    windows = search(audio / "clip13.wav", top=5, windows=True)
    assert windows["clip"].unique().tolist() == ["audio/clip13.wav"]
    assert sorted(windows["start"]) == [0.0, 0.5, 1.0, 1.5, 2.0]


def test_a_part_of_a_recording_is_searched_alone(search, audio, tmp_path):
    samples, rate = soundfile.read(audio / "clip05.wav", dtype="float32")
    soundfile.write(tmp_path / "cut.wav", samples[rate : 2 * rate], rate, "FLOAT")
    part, cut = search(audio / "clip05.wav", start=1.0, end=2.0), search(tmp_path / "cut.wav")
    assert part.iloc[0][["clip", "start", "query_start"]].tolist() == ["audio/clip05.wav", 1.0, 1.0]
    pd.testing.assert_frame_equal(part[["clip", "cosine"]], cut[["clip", "cosine"]])


def test_a_student_is_compared_with_the_reduction_it_was_trained_on(
    search, audio, small_student, small_reduction, tmp_path, refuses, small_table
):
    reduced = search(audio / "clip02.wav", reduction=small_reduction)
    assert reduced["clip"][0] == "audio/clip02.wav"
    assert reduced["cosine"][0] == pytest.approx(1, abs=1e-5)
    by_student = search(audio / "clip02.wav", reduction=small_reduction, model=str(small_student))
    assert len(by_student) == 10
    assert by_student["cosine"][0] < 1
    reduce(small_table, tmp_path / "other", size=4)
    command = ["search", small_table, audio / "clip02.wav", "--index", tmp_path, "--model", small_student]
    refuses(*command, words=[small_student, "no reduction is given"])
    refuses(*command, "--reduction", tmp_path / "other", words=[small_student, "not trained on", tmp_path / "other"])


def test_the_command_prints_and_writes_what_it_finds(small_table, tmp_path, capsys):
    query = write_noise(tmp_path / "bird <b>ü</b>.wav", seed=4)
    command = ["search", str(small_table), str(query), "--index", str(tmp_path / "index"), "--top", "2", "--out"]
    assert cli.main([*command, str(tmp_path / "found.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["rank", "cosine", "clip", "start", "(s)", "sensor", "time", "in", "query", "(s)"]
    assert len(lines) == 3
    assert lines[1].split()[:3] == ["1", "1.0000", "audio/clip04.wav"]
    assert cli.main([*command, str(tmp_path / "found.parquet")]) == 0
    csv, parquet = pd.read_csv(tmp_path / "found.csv"), pd.read_parquet(tmp_path / "found.parquet")
    pd.testing.assert_frame_equal(csv.drop(columns="label"), parquet.drop(columns="label"), check_dtype=False)
    (tmp_path / "text.wav").write_text("no audio")
    assert cli.main([*command[:3], str(tmp_path / "text.wav"), *command[3:], str(tmp_path / "found.csv")]) == 1
    assert len(pd.read_csv(tmp_path / "found.csv")) == 2  # the other one was searched


def test_what_cannot_be_searched_is_refused(small_table, small_reduction, tmp_path, audio, refuses):
    query, index = audio / "clip00.wav", ["--index", tmp_path / "index"]
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "file").touch()
    large = make_student(tmp_path / "student")
    refuses("search", tmp_path, query, words=[tmp_path, "no table"])
    refuses("search", small_table, tmp_path / "none.wav", *index, words=[tmp_path / "none.wav"])
    refuses("search", small_table, tmp_path / "text.wav", *index, words=[tmp_path / "text.wav", "cannot be decoded"])
    refuses("search", small_table, query, "--top", "0", words=["top", "0"])
    refuses("search", small_table, query, "--start", "2", "--end", "1", words=["start", "2", "1"])
    refuses("search", small_table, query, *index, "--start", "60", words=[query, "3.000 s", "60"])
    refuses("search", small_table, query, "--out", tmp_path / "x.txt", words=[tmp_path / "x.txt", ".csv", ".parquet"])
    refuses("search", small_table, query, "--index", tmp_path / "file", words=[tmp_path / "file", "index"])
    refuses("search", small_table, query, "--reduction", tmp_path, words=[tmp_path, "not a reduction"])
    options = ["--model", large, "--reduction", small_reduction]
    refuses("search", small_table, query, *options, words=[large, "5 dimensions", "4"])
