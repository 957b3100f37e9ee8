import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from edgesea.errors import EdgeseaError
from edgesea.tasks.annotations import Annotations, Taxonomy, read_annotations, read_ground_truth, read_taxonomy

TEXT = "coarse: {1: engine, 2: dog}\nfine:\n  1: {1: small, 2: large, X: unsure}\n  2: {1: bark}\n"
COARSE = ["split", "audio_filename", "annotator_id", "1_engine_presence", "2_dog_presence"]
FINE = ["1-1_small", "1-2_large", "1-X_unsure", "2-1_bark"]
CONTEXT = ["latitude", "longitude", "hour", "day", "week"]


@pytest.fixture
def taxonomy(tmp_path: Path) -> Taxonomy:
    (tmp_path / "taxonomy.yaml").write_text(TEXT)
    return read_taxonomy(tmp_path / "taxonomy.yaml")


def table(
    folder: Path, *rows: Sequence[object], columns: Sequence[str] = COARSE, name: str = "annotations.csv"
) -> Path:
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return folder / name


def coarse(read: Annotations) -> dict[str, list[int]]:
    return dict(zip(read.clips.tolist(), read.coarse.tolist(), strict=True))


def refused(call: Any, *words: object) -> None:
    with pytest.raises(EdgeseaError) as caught:
        call()
    assert [str(word) for word in words if str(word) not in str(caught.value)] == [], caught.value


def directly(rows: list[dict[str, str]], taxonomy: Taxonomy) -> dict[str, list[Any]]:
    """What the rules say, clip by clip and tag by tag."""
    result: dict[str, list[Any]] = {}
    for clip in {row["audio_filename"] for row in rows}:
        own = [row for row in rows if row["audio_filename"] == clip]
        volunteers = [row for row in own if int(row["annotator_id"]) > 0]
        agreed = [row for row in own if row["annotator_id"] == "0"]

        def vote(tag: str, voters: list[dict[str, str]] = agreed or volunteers) -> int:
            votes = [row[f"{tag}_presence"] for row in voters if row[f"{tag}_presence"] != "-1"]
            return int("1" in votes) if votes else -1

        def side(tag: str, voters: list[dict[str, str]] = volunteers) -> list[int]:
            heard = [row.get(f"{tag}_proximity") for row in voters]
            near, far = heard.count("near"), heard.count("far")
            return [int(near > far), int(far > near)]

        labels = [[vote(tag) for tag in tags] for tags in (taxonomy.coarse, taxonomy.fine)]
        result[clip] = [own[0]["split"], bool(agreed), *labels, [side(tag) for tag in taxonomy.complete]]
    return result


@pytest.mark.parametrize("seed", range(4))
def test_votes_and_proximities_are_those_of_the_rules(tmp_path: Path, taxonomy: Taxonomy, seed: int) -> None:
    rng = np.random.default_rng(seed)
    presence = [f"{tag}_presence" for tag in (*FINE, *taxonomy.coarse)]
    proximity = [f"{tag}_proximity" for tag in FINE]
    columns = ["split", "audio_filename", "annotator_id", *presence, *proximity]
    rows = []
    for clip in rng.integers(0, 60, 220):
        values = rng.choice([-1, 0, 1], len(presence), p=[0.5, 0.3, 0.2])
        sides = rng.choice(["near", "far", "notsure", "-1"], len(proximity), p=[0.3, 0.3, 0.1, 0.3])
        annotator = rng.choice([0, *range(-3, 0), *range(1, 9)])
        rows.append([("train", "validate", "test")[clip % 3], f"{clip}.wav", annotator, *values, *sides])
    path = table(tmp_path, *rows, columns=columns)
    with path.open(newline="") as file:
        wanted = directly(list(csv.DictReader(file)), taxonomy)
    assert {-1, 0, 1} <= {label for clip in wanted.values() for label in clip[3]}
    read = read_annotations(path, taxonomy)
    assert read.clips.tolist() == sorted(wanted)
    assert read.proximity is not None
    for index, clip in enumerate(read.clips):
        arrays = read.splits, read.verified, read.coarse, read.fine, read.proximity
        assert [array[index].tolist() for array in arrays] == wanted[clip]


def test_the_real_columns_are_read(shared_data: Path) -> None:
    folder = shared_data / "sonyc_ust"
    taxonomy = read_taxonomy(folder / "dcase-ust-taxonomy.yaml")
    read = read_annotations(folder / "annotations_eval.csv", taxonomy)
    assert len(read.clips) == len(set(read.clips.tolist())) == 669
    assert read.verified.all()
    assert (read.coarse == -1).all()
    assert (read.coarse.shape, read.fine.shape) == ((669, 8), (669, 29))
    assert (read.coarse.dtype, read.fine.dtype) == (np.int8, np.int8)
    assert read.proximity is not None
    assert (read.proximity.shape, read.proximity.dtype, read.proximity.any()) == ((669, 23, 2), np.float32, False)
    first = read.clips.tolist().index("00_026884.wav")
    assert read.context is not None
    assert read.context[first].tolist() == [40.72951, -73.99388, 8, 4, 43]
    assert read.sensors is not None
    assert read.sensors[first] == "0"


def test_the_published_ground_truth_is_read(shared_data: Path) -> None:
    folder = shared_data / "sonyc_ust"
    taxonomy = read_taxonomy(folder / "dcase-ust-taxonomy.yaml")
    read = read_ground_truth(folder / "validate_ground_truth_coarse.csv", taxonomy)
    rows = pd.read_csv(folder / "validate_ground_truth_coarse.csv").sort_values("audio_filename")
    assert read.clips.tolist() == rows["audio_filename"].tolist()
    assert np.array_equal(read.coarse, rows[[f"{tag}_presence" for tag in taxonomy.coarse]])
    assert (read.fine == -1).all()
    assert read.verified.all()
    assert set(read.splits.tolist()) == {"validate"}
    assert (read.sensors, read.proximity, read.context) == (None, None, None)


def test_fine_tags_and_context_alone_are_read(tmp_path: Path, taxonomy: Taxonomy) -> None:
    columns = [*COARSE[:3], *(f"{tag}_presence" for tag in FINE), *CONTEXT]
    rows = [("train", "b", 1, 1, 0, 0, 1, 40.5, -73.25, 23, 6, 53), ("train", "a", 1, 0, 0, 1, 0, "", " ", 0, 0, 1)]
    path = table(tmp_path, *rows, columns=columns)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b",1,", b", 1.0,"))  # as a spreadsheet writes it
    read = read_annotations(path, taxonomy)
    assert (read.coarse.tolist(), read.fine.tolist()) == ([[-1, -1]] * 2, [[0, 0, 1, 0], [1, 0, 0, 1]])
    np.testing.assert_array_equal(read.context, [[np.nan, np.nan, 0, 0, 1], [40.5, -73.25, 23, 6, 53]])
    some = read.take(np.array([False, True]))
    assert (some.clips.tolist(), some.fine.tolist(), some.sensors) == (["b"], [[1, 0, 0, 1]], None)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("split", ["training", ""]),
        ("audio_filename", [""]),
        ("annotator_id", ["me", "", "1.5", "nan", "inf", "1e30"]),
        ("2_dog_presence", ["2", "", "yes", "0.5", "nan", "True", "-2"]),
        ("latitude", ["4072951", "north"]),
        ("longitude", ["-181"]),
        ("hour", ["24", "noon", "nan", "inf"]),
        ("day", ["7"]),
        ("week", ["0", "late"]),
    ],
)
def test_bad_values_are_named(tmp_path: Path, taxonomy: Taxonomy, name: str, values: list[str]) -> None:
    columns = [*COARSE, *CONTEXT]
    good = dict(zip(columns, ["train", "a.wav", 1, 1, 0, "40.7", "-74", "23", "6", "53"], strict=True))
    for value in values:
        path = table(tmp_path, good.values(), (good | {name: value}).values(), good.values(), columns=columns)  # type: ignore[arg-type]
        refused(lambda path=path: read_annotations(path, taxonomy), f"{path}: line 3, {name}: '{value}'")


def test_a_clip_has_one_split_and_one_sensor(tmp_path: Path, taxonomy: Taxonomy) -> None:
    rows = [("train", "a", 1, 1, 0), ("test", "b", 1, 1, 0), ("validate", "a", 2, 1, 0)]
    refused(lambda: read_annotations(table(tmp_path, *rows), taxonomy), "annotations.csv: line 4, split: 'validate'")
    sensors = table(tmp_path, (*rows[0], "00"), (*rows[1], 1), (*rows[0], 0), columns=[*COARSE, "sensor_id"])
    refused(lambda: read_annotations(sensors, taxonomy), "annotations.csv: line 4, sensor_id: '0'")


def test_missing_columns_and_unknown_tags_are_named(tmp_path: Path, taxonomy: Taxonomy) -> None:
    row = ("train", "a", 1, 1, 0)
    for at, missing in enumerate(COARSE):
        path = table(tmp_path, row[:at] + row[at + 1 :], columns=COARSE[:at] + COARSE[at + 1 :])
        refused(lambda path=path: read_annotations(path, taxonomy), path, missing)
    for unknown in ("3_cat_presence", "1-3_huge_presence", "2-X_howl_presence"):
        path = table(tmp_path, (*row, 1), columns=[*COARSE, unknown])
        refused(lambda path=path: read_annotations(path, taxonomy), path, unknown)
    for missing, columns in (("1-X_unsure", FINE[:2]), ("2-1_bark_proximity", ["1-1_small_proximity"])):
        names = [name if "_p" in name else f"{name}_presence" for name in columns]
        path = table(tmp_path, (*row, *[0] * len(names)), columns=[*COARSE, *names])
        refused(lambda path=path: read_annotations(path, taxonomy), path, missing)


def test_other_splits_name_clips_or_sensors(tmp_path: Path, taxonomy: Taxonomy) -> None:
    path = table(
        tmp_path, *((name, 1, 1, 0, name) for name in ("a", "b", "c", "010")), columns=[*COARSE[1:], "sensor_id"]
    )
    rows = [("validate", "010"), ("train", "c"), ("test", "a"), ("train", "c")]
    for key in ("audio_filename", "sensor_id"):  # the table's own splits need not be there
        splits = table(tmp_path, *rows, columns=["split", key], name="splits.csv")
        assert read_annotations(path, taxonomy, splits).splits.tolist() == ["validate", "test", "", "train"]
        for row, value in ((("train", "z"), "z"), (("eval", "b"), "eval"), (("test", "c"), "test")):
            bad = table(tmp_path, *rows, row, columns=["split", key], name="bad.csv")
            refused(lambda bad=bad: read_annotations(path, taxonomy, bad), f"{bad}: line 6", value)
    refused(lambda: read_annotations(table(tmp_path, ("train", "a", 1, 1, 0)), taxonomy, splits), splits, "sensor_id")
    bad = table(tmp_path, ("train", "a"), columns=["split", "file"], name="bad.csv")
    refused(lambda: read_annotations(path, taxonomy, bad), bad, "split, file")


def test_ground_truth_is_the_verified_clips_of_the_split(tmp_path: Path, taxonomy: Taxonomy) -> None:
    rows = [
        *[("validate", "d", 0, 1, 0), ("validate", "b", 0, 0, 1), ("validate", "b", 4, 1, 0)],
        *[("validate", "a", 4, 1, 1), ("test", "c", 0, 1, 1), ("train", "e", 3, 1, 1)],
    ]
    path = table(tmp_path, *rows)
    assert coarse(read_ground_truth(path, taxonomy)) == {"b": [0, 1], "d": [1, 0]}
    assert coarse(read_ground_truth(path, taxonomy, "test")) == {"c": [1, 1]}
    for split in ("train", "eval"):
        refused(lambda split=split: read_ground_truth(path, taxonomy, split), path, split)


def test_ground_truth_may_be_one_row_a_clip(tmp_path: Path, taxonomy: Taxonomy) -> None:
    rows, columns = [("validate", "b", 1, 0), ("test", "c", 0, 1)], [COARSE[0], COARSE[1], *COARSE[3:]]
    read = read_ground_truth(table(tmp_path, *(row[1:] for row in rows), columns=columns[1:]), taxonomy, "test")
    assert (coarse(read), set(read.splits.tolist())) == ({"b": [1, 0], "c": [0, 1]}, {"test"})
    assert coarse(read_ground_truth(table(tmp_path, *rows, columns=columns), taxonomy)) == {"b": [1, 0]}
    path = table(tmp_path, *rows, rows[0], columns=columns)
    refused(lambda: read_ground_truth(path, taxonomy), path, "line 2", "line 4", "'b'")


def test_fine_tags_belong_to_the_number_of_a_coarse_tag_not_to_its_place(tmp_path: Path) -> None:
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
def test_what_is_not_a_taxonomy_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.yaml").write_text(text)
    for path in (tmp_path / "t.yaml", tmp_path / "none.yaml"):
        refused(lambda path=path: read_taxonomy(path), path)
