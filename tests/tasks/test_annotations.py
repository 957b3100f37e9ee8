import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesea.errors import EdgeseaError
from edgesea.tasks.annotations import Taxonomy, read_annotations, read_ground_truth, read_taxonomy

TEXT = "coarse: {1: engine, 2: dog}\nfine:\n  1: {1: small, 2: large, X: unsure}\n  2: {1: bark}\n"
COARSE = ["split", "audio_filename", "annotator_id", "1_engine_presence", "2_dog_presence"]
FINE = ["1-1_small", "1-2_large", "1-X_unsure", "2-1_bark"]
CONTEXT = ["latitude", "longitude", "hour", "day", "week"]


@pytest.fixture
def taxonomy(tmp_path: Path) -> Taxonomy:
    (tmp_path / "taxonomy.yaml").write_text(TEXT)
    return read_taxonomy(tmp_path / "taxonomy.yaml")


def table(folder: Path, *rows: Sequence[object], columns: Sequence[str] = COARSE, name: str = "t.csv") -> Path:
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return folder / name


def refused(call: Any, *arguments: Any, words: Sequence[object]) -> None:
    with pytest.raises(EdgeseaError) as caught:
        call(*arguments)
    assert [str(word) for word in words if str(word) not in str(caught.value)] == [], caught.value


def directly(rows: list[dict[str, str]], taxonomy: Taxonomy) -> dict[str, list[Any]]:
    """What the rules say, clip by clip and tag by tag."""
    result: dict[str, list[Any]] = {}
    for clip in {row["audio_filename"] for row in rows}:
        own = [row for row in rows if row["audio_filename"] == clip]
        volunteers = [row for row in own if int(row["annotator_id"]) > 0]
        agreed = [row for row in own if row["annotator_id"] == "0"]

        def vote(tag: str, voters: list[dict[str, str]] = agreed or volunteers) -> int:
            votes = {row[f"{tag}_presence"] for row in voters} - {"-1"}
            return int("1" in votes) if votes else -1

        def side(tag: str, voters: list[dict[str, str]] = volunteers) -> list[int]:
            heard = [row.get(f"{tag}_proximity") for row in voters]
            near, far = heard.count("near"), heard.count("far")
            return [int(near > far), int(far > near)]

        labels = [[vote(tag) for tag in tags] for tags in (taxonomy.coarse, taxonomy.fine)]
        result[clip] = [own[0]["split"], bool(agreed), *labels, [side(tag) for tag in taxonomy.complete]]
    return result


@pytest.mark.parametrize("seed", range(4))
def test_votes_and_proximities_are_those_of_the_rules(tmp_path, taxonomy, seed):
    rng = np.random.default_rng(seed)
    presence = [f"{tag}_presence" for tag in (*FINE, *taxonomy.coarse)]
    proximity = [f"{tag}_proximity" for tag in FINE]
    columns, rows = ["split", "audio_filename", "annotator_id", *presence, *proximity], []
    for clip in rng.integers(0, 60, 220):
        values = rng.choice([-1, 0, 1], len(presence), p=[0.5, 0.3, 0.2])
        sides = rng.choice(["near", "far", "notsure", "-1"], len(proximity), p=[0.3, 0.3, 0.1, 0.3])
        annotator = rng.choice([0, *range(-3, 0), *range(1, 9)])
        rows.append([("train", "validate", "test")[clip % 3], f"{clip}.wav", annotator, *values, *sides])
    path = table(tmp_path, *rows, columns=columns)
    with path.open(newline="") as file:
        wanted = directly(list(csv.DictReader(file)), taxonomy)
    read = read_annotations(path, taxonomy)
    assert read.proximity is not None
    arrays = read.splits, read.verified, read.coarse, read.fine, read.proximity
    found = [[array[index].tolist() for array in arrays] for index in range(len(read.clips))]
    assert dict(zip(read.clips.tolist(), found, strict=True)) == wanted
    assert read.clips.tolist() == sorted(wanted)


def test_fine_tags_and_context_alone_are_read(tmp_path, taxonomy):
    columns = [*COARSE[:3], *(f"{tag}_presence" for tag in FINE), *CONTEXT]
    rows = [("train", "b", 1, 1, 0, 0, 1, 40.5, -73.25, 23, 6, 53), ("train", "a", 1, 0, 0, 1, 0, "", " ", 0, 0, 1)]
    path = table(tmp_path, *rows, columns=columns)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b",1,", b", 1.0,"))  # as a spreadsheet writes it
    read = read_annotations(path, taxonomy)
    assert (read.coarse.tolist(), read.fine.tolist()) == ([[-1, -1]] * 2, [[0, 0, 1, 0], [1, 0, 0, 1]])
    np.testing.assert_array_equal(read.context, [[np.nan, np.nan, 0, 0, 1], [40.5, -73.25, 23, 6, 53]])


def test_bad_values_and_columns_are_named(tmp_path, taxonomy):
    columns = [*COARSE, *CONTEXT, "sensor_id"]
    good = dict(zip(columns, ["train", "a.wav", "1", "1", "0", "40.7", "-74", "23", "6", "53", "0"], strict=True))
    for name, values in {
        "split": ["training", "", "test"],  # other rows of the clip are of the split train
        "audio_filename": [""],
        "annotator_id": ["me", "", "1.5", "NA", "inf", "1e30"],
        "2_dog_presence": ["2", "", "yes", "0.5", "NA", "True", "-2"],
        **{"latitude": ["4072951", "north"], "longitude": ["-181"], "hour": ["24", "noon", "NA", "inf"]},
        **{"day": ["7"], "week": ["0", "late"], "sensor_id": ["00"]},
    }.items():
        for value in values:
            path = table(tmp_path, *([*row.values()] for row in (good, good | {name: value}, good)), columns=columns)
            refused(read_annotations, path, taxonomy, words=[f"{path}: line 3, {name}: '{value}'"])
    cases = [([*COARSE[:at], *COARSE[at + 1 :]], name) for at, name in enumerate(COARSE)]
    cases += [([*COARSE, name], name) for name in ("3_cat_presence", "1-3_huge_presence", "2-X_howl_presence")]
    cases.append(([*COARSE, "1-1_small_presence", "1-2_large_presence"], "1-X_unsure_presence"))
    cases.append(([*COARSE, "1-1_small_proximity"], "2-1_bark_proximity"))
    for columns, word in cases:
        path = table(tmp_path, [good.get(name, 0) for name in columns], columns=columns)
        refused(read_annotations, path, taxonomy, words=[path, word])


def test_other_splits_name_clips_or_sensors(tmp_path, taxonomy):
    clips = ((name, 1, 1, 0, name) for name in ("a", "b", "c", "010"))
    path = table(tmp_path, *clips, columns=[*COARSE[1:], "sensor_id"])  # it has no splits of its own
    rows = [("validate", "010"), ("train", "c"), ("test", "a"), ("train", "c")]
    for key in ("audio_filename", "sensor_id"):
        splits = table(tmp_path, *rows, columns=["split", key], name="splits.csv")
        assert read_annotations(path, taxonomy, splits).splits.tolist() == ["validate", "test", "", "train"]
        for row, value in ((("train", "z"), "z"), (("eval", "b"), "eval"), (("test", "c"), "test")):
            bad = table(tmp_path, *rows, row, columns=["split", key], name="bad.csv")
            refused(read_annotations, path, taxonomy, bad, words=[f"{bad}: line 6", value])
    path = table(tmp_path, ("train", "a", 1, 1, 0))
    refused(read_annotations, path, taxonomy, splits, words=[splits, "sensor_id"])
    bad = table(tmp_path, ("train", "a"), columns=["split", "file"], name="bad.csv")
    refused(read_annotations, path, taxonomy, bad, words=[bad, "split, file"])


def test_ground_truth_is_the_verified_clips_of_the_split(tmp_path, taxonomy):
    def coarse(path: Path, split: str = "validate") -> dict[str, list[int]]:
        read = read_ground_truth(path, taxonomy, split)
        return dict(zip(read.clips.tolist(), read.coarse.tolist(), strict=True))

    verified = [("validate", "d", 0, 1, 0), ("validate", "b", 0, 0, 1), ("test", "c", 0, 1, 1)]
    path = table(tmp_path, *verified, ("validate", "b", 4, 1, 0), ("validate", "a", 4, 1, 1), ("train", "e", 3, 1, 1))
    assert coarse(path) == {"b": [0, 1], "d": [1, 0]}
    assert coarse(path, "test") == {"c": [1, 1]}
    for split in ("train", "eval"):
        refused(read_ground_truth, path, taxonomy, split, words=[path, split])
    # Without annotators, each row is a verified clip.
    rows, columns = [(*row[:2], *row[3:]) for row in verified], [*COARSE[:2], *COARSE[3:]]
    assert coarse(table(tmp_path, *rows, columns=columns)) == {"b": [0, 1], "d": [1, 0]}
    path = table(tmp_path, *(row[1:] for row in rows), columns=columns[1:])
    assert coarse(path, "test") == {"b": [0, 1], "c": [1, 1], "d": [1, 0]}
    path = table(tmp_path, *rows, rows[0], columns=columns)
    refused(read_ground_truth, path, taxonomy, words=[path, "line 2", "line 5", "'d'"])


def test_fine_tags_belong_to_the_number_of_a_coarse_tag_not_to_its_place(tmp_path):
    (tmp_path / "t.yaml").write_text("fine: {7: {X: unsure, 2: shout}, 3: {1: hit}}\ncoarse: {3: impact, 7: voice}\n")
    taxonomy = read_taxonomy(tmp_path / "t.yaml")
    assert (taxonomy.coarse, taxonomy.names) == (("3_impact", "7_voice"), ("impact", "voice"))
    assert (taxonomy.fine, taxonomy.parent.tolist()) == (("7-X_unsure", "7-2_shout", "3-1_hit"), [1, 1, 0])
    assert (taxonomy.incomplete.tolist(), taxonomy.complete) == ([True, False, False], ("7-2_shout", "3-1_hit"))


@pytest.mark.parametrize(
    "text",
    [
        *("", "just words", "a: [", "coarse: {1: a}", "coarse: {1: a}\nfine: {}"),
        *("coarse: [a]\nfine: {1: {1: b}}", "coarse: {1: a}\nfine: {1: [b]}"),
        "coarse: {1: a, 2: c}\nfine: {1: {1: b}}",  # no fine tag below the second
        "coarse: {1: a}\nfine: {1: {1: b}, 2: {1: c}}",  # no coarse tag above the second
        "coarse: {1: a, 2: a}\nfine: {1: {1: b}, 2: {1: c}}",  # two coarse tags of one name
        "coarse: {1: a}\nfine: {1: {1: b}, '1': {1: b}}",
    ],
)
def test_what_is_not_a_taxonomy_is_refused_by_name(tmp_path, text):
    (tmp_path / "t.yaml").write_text(text)
    for path in (tmp_path / "t.yaml", tmp_path / "none.yaml"):
        refused(read_taxonomy, path, words=[path])
