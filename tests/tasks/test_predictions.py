import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from edgesea.errors import EdgeseaError
from edgesea.tasks.predictions import Level, matching, read_predictions, write_predictions
from edgesea.tasks.rows import read_rows
from edgesea.tasks.taxonomy import Taxonomy, read_taxonomy

TEXT = "coarse: {1: engine, 2: dog}\nfine:\n  1: {1: small, 2: large, X: unsure}\n  2: {1: bark}\n"
HEADER = "audio_filename,1-1_small,1-2_large,1-X_unsure,2-1_bark,1_engine,2_dog"


@pytest.fixture
def taxonomy(tmp_path: Path) -> Taxonomy:
    (tmp_path / "taxonomy.yaml").write_text(TEXT)
    return read_taxonomy(tmp_path / "taxonomy.yaml")


def table(folder: Path, *lines: str, header: str = HEADER) -> Path:
    path = folder / "predictions.csv"
    path.write_text("\n".join((header, *lines)) + "\n", "utf-8", newline="")
    return path


@pytest.mark.parametrize("level", ["coarse", "fine"])
@pytest.mark.parametrize("name", ["predictions_0.csv", "predictions_3.csv"])
def test_published_predictions_are_read_as_another_reader_reads_them(
    shared_data: Path, name: str, level: Level
) -> None:
    taxonomy = read_taxonomy(shared_data / "sonyc_ust" / "dcase-ust-taxonomy.yaml")
    path = shared_data / "sonyc_ust" / name
    clips, scores = read_predictions(path, taxonomy, level)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert clips.tolist() == [row["audio_filename"] for row in rows]
    tags = taxonomy.coarse if level == "coarse" else taxonomy.fine
    assert scores.shape == (538, len(tags))
    assert scores.tolist() == [[float(row[tag]) for tag in tags] for row in rows]


def test_published_predictions_written_again_are_the_same_file(shared_data: Path, tmp_path: Path) -> None:
    # That system made coarse scores of fine ones as we do, and gave incomplete tags 0: all columns must come out alike.
    taxonomy = read_taxonomy(shared_data / "sonyc_ust" / "dcase-ust-taxonomy.yaml")
    path = shared_data / "sonyc_ust" / "predictions_0.csv"
    clips, scores = read_predictions(path, taxonomy, "fine")
    write_predictions(tmp_path / "again.csv", taxonomy, clips, scores[:, ~taxonomy.incomplete], "fine")
    assert (tmp_path / "again.csv").read_text() == path.read_text().replace("\r\n", "\n")


def test_the_coarse_level_can_be_scored_with_published_truth(shared_data: Path) -> None:
    from sklearn.metrics import f1_score

    from edgesea.tasks.annotations import read_ground_truth

    folder = shared_data / "sonyc_ust"
    taxonomy = read_taxonomy(folder / "dcase-ust-taxonomy.yaml")
    truth = read_ground_truth(folder / "validate_ground_truth_coarse.csv", taxonomy)
    clips, scores = read_predictions(folder / "predictions_3.csv", taxonomy, "coarse")
    order = matching(clips, truth.clips, folder / "predictions_3.csv", folder / "validate_ground_truth_coarse.csv")
    published = json.loads((folder / "published_scores_3.json").read_text())["coarse"]["micro_f1"]
    assert f1_score(truth.coarse, scores[order] >= 0.5, average="micro") == pytest.approx(published, abs=1e-12)


@pytest.mark.parametrize("level", ["coarse", "fine"])
def test_scores_are_read_back_to_the_last_bit(tmp_path: Path, taxonomy: Taxonomy, level: Level) -> None:
    rng = np.random.default_rng(0)
    width = 2 if level == "coarse" else 3
    scores = rng.random((300, width)) * 10.0 ** rng.integers(-300, 1, (300, width))
    scores[:7, 0] = 0.0, -0.0, 1.0, 5e-324, np.nextafter(1, 0), 0.1 + 0.2, 1e-3
    clips = [f"clip{n}.wav" for n in rng.permutation(300)]
    write_predictions(tmp_path / "p.csv", taxonomy, clips, scores, level)
    found, values = read_predictions(tmp_path / "p.csv", taxonomy, level)
    assert found.tolist() == clips
    if level == "fine":
        assert not values[:, taxonomy.incomplete].any()
        values = np.ascontiguousarray(values[:, ~taxonomy.incomplete])
    assert values.tobytes() == scores.tobytes()


def test_scores_in_single_precision_are_read_back_exactly(tmp_path: Path, taxonomy: Taxonomy) -> None:
    scores = np.random.default_rng(1).random((20, 2)).astype(np.float32)
    write_predictions(tmp_path / "p.csv", taxonomy, [str(n) for n in range(20)], scores, "coarse")
    values = read_predictions(tmp_path / "p.csv", taxonomy, "coarse")[1]
    assert values.dtype == np.float64
    assert (values == scores).all()


def test_the_other_level_follows_from_the_one_given(tmp_path: Path, taxonomy: Taxonomy) -> None:
    path = tmp_path / "p.csv"
    write_predictions(path, taxonomy, ["a", "b"], np.array([[0.2, 0.7, 0.1], [0.9, 0.3, 0.0]]), "fine")
    assert path.read_text() == f"{HEADER}\na,0.2,0.7,0.0,0.1,0.7,0.1\nb,0.9,0.3,0.0,0.0,0.9,0.0\n"
    write_predictions(path, taxonomy, np.array(["a"]), np.array([[0.25, 1.0]]), "coarse")
    assert path.read_text() == f"{HEADER}\na,0.0,0.0,0.0,0.0,0.25,1.0\n"
    assert list(tmp_path.glob(".*")) == []


def test_what_cannot_be_scores_is_not_written(tmp_path: Path, taxonomy: Taxonomy) -> None:
    path = tmp_path / "p.csv"
    for scores, clips, said in (
        (np.zeros((1, 3)), ["a"], r"must be \(1, 2\).* not \(1, 3\)"),
        (np.zeros((2, 2)), ["a"], r"must be \(1, 2\)"),
        (np.zeros(2), ["a", "b"], r"must be \(2, 2\)"),
        (np.array([[0.5, 1.5]]), ["a"], r"1 do not; the first is 1\.5"),
        (np.array([[0.5, np.nan]]), ["a"], r"the first is nan"),
        (np.array([[-1e-9, np.inf]]), ["a"], r"2 do not; the first is -1e-09"),
        (np.zeros((2, 2)), ["a", "a"], r"one row"),
    ):
        with pytest.raises(EdgeseaError, match=said):
            write_predictions(path, taxonomy, clips, scores, "coarse")
    assert not path.exists()


def test_tables_may_be_written_in_many_ways(tmp_path: Path, taxonomy: Taxonomy) -> None:
    path = tmp_path / "p.csv"
    plain = "note,2_dog,audio_filename,1_engine\nx,1e-3,00123,0\n,-0.0,1e5,1\n7,.5,NA,0.125\n"
    wanted = ["00123", "1e5", "NA"], [[0.0, 1e-3], [1.0, 0.0], [0.125, 0.5]]
    quoted = '"note","2_dog","audio_filename","1_engine"\n"x, y","1e-3","00123","0"\n"","-0.0","1e5","1"\n'
    quoted += '"two\nlines ""and"" quotes",".5","NA","0.125"\n'
    spaced = (
        "note, 2_dog , audio_filename, 1_engine\nx, 1e-3 ,00123 , 0\n\n, -0.0, 1e5, 1\n ,,,\n7 , .5 , NA,\t0.125\n\n"
    )
    for text in (plain, quoted, spaced):
        for content in (text, text.replace("\n", "\r\n"), text.replace("\n", "\r"), text.rstrip("\n")):
            for mark in ("", "\ufeff"):
                path.write_bytes((mark + content).encode())
                clips, scores = read_predictions(path, taxonomy, "coarse")
                assert (clips.tolist(), scores.tolist()) == wanted, content


def test_clips_with_odd_names_are_written_and_read(tmp_path: Path, taxonomy: Taxonomy) -> None:
    clips = ["a,b.wav", 'say "hi".wav', "0012", "1.0", "nan", "é 音.wav", "-1", "true"]
    scores = np.linspace(0, 1, 16).reshape(8, 2)
    write_predictions(tmp_path / "p.csv", taxonomy, clips, scores, "coarse")
    assert read_predictions(tmp_path / "p.csv", taxonomy, "coarse")[0].tolist() == clips


def test_incomplete_tags_may_be_left_out_and_then_score_zero(
    tmp_path: Path, taxonomy: Taxonomy, caplog: pytest.LogCaptureFixture
) -> None:
    path = table(tmp_path, "a,0.1,0.2,0.3", header="audio_filename,2-1_bark,1-2_large,1-1_small")
    with caplog.at_level(logging.WARNING, "edgesea"):
        scores = read_predictions(path, taxonomy, "fine")[1]
    assert scores.tolist() == [[0.3, 0.2, 0.0, 0.1]]
    assert "predictions.csv: no column 1-X_unsure" in caplog.text
    caplog.clear()
    path = table(tmp_path, "a,0.1,0.2,0.3,0.4", header="audio_filename,2-1_bark,1-X_unsure,1-2_large,1-1_small")
    assert read_predictions(path, taxonomy, "fine")[1].tolist() == [[0.4, 0.3, 0.2, 0.1]]
    assert not caplog.records


def test_only_the_level_that_is_read_matters(tmp_path: Path, taxonomy: Taxonomy) -> None:
    path = table(tmp_path, "a,none,2,,-1,0.5,0.25")
    assert read_predictions(path, taxonomy, "coarse")[1].tolist() == [[0.5, 0.25]]
    with pytest.raises(
        EdgeseaError, match=r"line 2, 1-1_small: 'none'; line 2, 1-2_large: '2'; line 2, 1-X_unsure: ''"
    ):
        read_predictions(path, taxonomy, "fine")


@pytest.mark.parametrize(
    "value", ["x", "", "nan", "NaN", "inf", "-inf", "1.0000001", "-1e-9", "0_1", "True", "0,5", "0x1"]
)
def test_values_that_are_no_probability_are_named(tmp_path: Path, taxonomy: Taxonomy, value: str) -> None:
    path = table(tmp_path, "a,0.5,0.5", f'b,0.5,"{value}"', "c,0,1", header="audio_filename,1_engine,2_dog")
    with pytest.raises(
        EdgeseaError, match=rf"predictions\.csv: line 3, 2_dog: '{value}'; it must be a number from 0 to 1"
    ):
        read_predictions(path, taxonomy, "coarse")


def test_of_many_wrong_values_a_few_are_named(tmp_path: Path, taxonomy: Taxonomy) -> None:
    path = table(tmp_path, *(f"{n},7,0" for n in range(9)), header="audio_filename,1_engine,2_dog")
    with pytest.raises(EdgeseaError, match=r"line 6, 1_engine: '7'; 4 more; it must be"):
        read_predictions(path, taxonomy, "coarse")


def test_lines_are_counted_as_an_editor_does(tmp_path: Path, taxonomy: Taxonomy) -> None:
    path = table(tmp_path, 'a,"x\ny\nz",0,0', "", "b,,0,0", "c,,9,0", header="audio_filename,note,1_engine,2_dog")
    with pytest.raises(EdgeseaError, match=r"line 7, 1_engine: '9'"):
        read_predictions(path, taxonomy, "coarse")
    assert path.read_text().split("\n")[7 - 1].startswith("c,")


def test_columns_that_are_missing_or_unknown_are_named(tmp_path: Path, taxonomy: Taxonomy) -> None:
    for header, level, said in (
        ("audio_filename,1_engine,note", "coarse", r"no column 2_dog; it has audio_filename, 1_engine, note"),
        ("clip,1_engine,2_dog", "coarse", r"no column audio_filename"),
        ("audio_filename,1_engine,2_dog", "fine", r"no column 1-1_small, 1-2_large, 2-1_bark; it"),
        ("audio_filename,1_engine,2_cat", "coarse", r"tags that the taxonomy does not have: 2_cat"),
        ("audio_filename,1_engine_presence,2_dog", "coarse", r"does not have: 1_engine_presence"),
        ("audio_filename,1_engine,1_engine", "coarse", r"column 1_engine is there twice"),
        ("audio_filename;1_engine;2_dog", "coarse", r"there are 1 columns, but line 2 has 3 values"),
    ):
        path = table(tmp_path, "a,0,0", header=header)
        with pytest.raises(EdgeseaError, match=rf"predictions\.csv: .*{said}"):
            read_predictions(path, taxonomy, level)


def test_rows_of_other_lengths_are_refused(tmp_path: Path, taxonomy: Taxonomy) -> None:
    # Either might be a value that is missing, or one too many: which of them cannot be known.
    for line in ("b,0", "b,0,0,1", "b,0,0,"):
        path = table(tmp_path, "a,0,0", line, header="audio_filename,1_engine,2_dog")
        with pytest.raises(EdgeseaError, match=rf"3 columns, but line 3 has {line.count(',') + 1} values"):
            read_predictions(path, taxonomy, "coarse")


def test_clips_with_two_rows_are_named_with_their_lines(tmp_path: Path, taxonomy: Taxonomy) -> None:
    path = table(tmp_path, "b,0,0", "a,0,0", "b,0,0", "b ,1,0", header="audio_filename,1_engine,2_dog")
    with pytest.raises(EdgeseaError, match=r"b in lines 2 and 4; b in lines 2 and 5"):
        read_predictions(path, taxonomy, "coarse")
    path = table(tmp_path, "b,0,0", " ,0,0", header="audio_filename,1_engine,2_dog")
    with pytest.raises(EdgeseaError, match=r"line 3, audio_filename: ''; it must be the name of a clip"):
        read_predictions(path, taxonomy, "coarse")


def test_files_that_are_no_table_are_named(tmp_path: Path, taxonomy: Taxonomy) -> None:
    path = tmp_path / "predictions.csv"
    with pytest.raises(EdgeseaError, match=r"predictions\.csv: no such file"):
        read_predictions(path, taxonomy, "coarse")
    with pytest.raises(EdgeseaError, match=r"Is a directory"):
        read_predictions(tmp_path, taxonomy, "coarse")
    for content, said in (
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (HEADER.encode(), "no rows in it"),
        (HEADER.encode("utf-16"), "not a CSV table in UTF-8"),
        (b"audio_filename,1_engine,2_dog\ncaf\xe9,0,0\n", "not a CSV table in UTF-8"),
        (b'audio_filename,1_engine,2_dog\n"a,0,0\n', "not a CSV table"),
    ):
        path.write_bytes(content)
        with pytest.raises(EdgeseaError, match=rf"predictions\.csv: {said}"):
            read_predictions(path, taxonomy, "coarse")


def test_matching_finds_each_true_clip_among_those_predicted() -> None:
    rng = np.random.default_rng(0)
    clips = np.array([f"{n}.wav" for n in range(200)])
    for _ in range(5):
        predicted, true = rng.permutation(clips), rng.permutation(clips)
        indices = matching(predicted, true, Path("p.csv"), Path("t.csv"))
        assert predicted[indices].tolist() == true.tolist()


def test_clips_that_are_missing_or_too_many_are_counted_and_named() -> None:
    clips = np.array([f"{n:02d}" for n in range(20)])
    paths = Path("p.csv"), Path("t.csv")
    with pytest.raises(
        EdgeseaError,
        match=r"p\.csv: 7 of the 20 clips to be judged of t\.csv are missing: 13, 14, 15, 16, 17 and 2 more;",
    ):
        matching(clips[:13], clips, *paths)
    with pytest.raises(EdgeseaError, match=r"p\.csv: 1 clips are not among those to be judged of t\.csv: 19;"):
        matching(clips, clips[:19], *paths)
    with pytest.raises(
        EdgeseaError, match=r"are missing: 00; 2 clips are not among those to be judged of t\.csv: 18, 19;"
    ):
        matching(clips[1:], clips[:18], *paths)


def test_a_table_keeps_text_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,value\n007, 1 \n1e5,NA\n")
    rows = read_rows(tmp_path / "t.csv")
    assert rows.text("id").tolist() == ["007", "1e5"]
    assert rows.text("value").tolist() == ["1", "NA"]
    assert rows.lines.tolist() == [2, 3]
    np.testing.assert_array_equal(rows.numbers(["value", "id"]), [[1, 7], [np.nan, 1e5]])
