import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from edgesea.demo.city import make_city
from edgesea.demo.taxonomy import ANNOTATION_COLUMNS, CONTEXT_COLUMNS
from edgesea.errors import EdgeseaError
from edgesea.tasks.annotations import Annotations, read_annotations, read_ground_truth
from edgesea.tasks.taxonomy import Taxonomy, read_taxonomy

TEXT = "coarse: {1: engine, 2: dog}\nfine:\n  1: {1: small, 2: large, X: unsure}\n  2: {1: bark}\n"
COARSE = ["split", "audio_filename", "annotator_id", "1_engine_presence", "2_dog_presence"]
FINE = ["1-1_small", "1-2_large", "1-X_unsure", "2-1_bark"]


@pytest.fixture
def taxonomy(tmp_path: Path) -> Taxonomy:
    (tmp_path / "taxonomy.yaml").write_text(TEXT)
    return read_taxonomy(tmp_path / "taxonomy.yaml")


def table(
    folder: Path, *rows: Sequence[object], columns: Sequence[str] = COARSE, name: str = "annotations.csv"
) -> Path:
    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def coarse(read: Annotations) -> dict[str, list[int]]:
    return dict(zip(read.clips.tolist(), read.coarse.tolist(), strict=True))


def directly(rows: list[dict[str, str]], taxonomy: Taxonomy) -> dict[str, dict[str, object]]:
    """What the rules say, clip by clip and tag by tag."""
    result: dict[str, dict[str, object]] = {}
    for clip in {row["audio_filename"] for row in rows}:
        own = [row for row in rows if row["audio_filename"] == clip]
        volunteers = [row for row in own if int(row["annotator_id"]) > 0]
        agreed = [row for row in own if row["annotator_id"] == "0"]

        def vote(tag: str, voters: list[dict[str, str]] = agreed or volunteers) -> int:
            said = [row[f"{tag}_presence"] for row in voters if row[f"{tag}_presence"] != "-1"]
            return int("1" in said) if said else -1

        def side(tag: str, voters: list[dict[str, str]] = volunteers) -> tuple[int, int]:
            heard = [row.get(f"{tag}_proximity") for row in voters]
            return int(heard.count("near") > heard.count("far")), int(heard.count("far") > heard.count("near"))

        result[clip] = {
            "split": own[0]["split"],
            "verified": bool(agreed),
            "coarse": [vote(tag) for tag in taxonomy.coarse],
            "fine": [vote(tag) for tag in taxonomy.fine],
            "proximity": [side(tag) for tag in taxonomy.complete],
        }
    return result


def check(read: Annotations, wanted: Mapping[str, Mapping[str, object]]) -> None:
    assert read.clips.tolist() == sorted(wanted)
    assert read.proximity is not None
    for index, clip in enumerate(read.clips):
        found = {
            "split": read.splits[index],
            "verified": read.verified[index],
            "coarse": read.coarse[index].tolist(),
            "fine": read.fine[index].tolist(),
            "proximity": [tuple(pair) for pair in read.proximity[index].tolist()],
        }
        assert found == wanted[clip]


@pytest.mark.parametrize("seed", range(8))
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
    assert {-1, 0, 1} <= {label for clip in wanted.values() for label in clip["fine"]}  # type: ignore[attr-defined]
    check(read_annotations(path, taxonomy), wanted)


def test_a_synthetic_city_is_read_by_the_rules(tmp_path: Path) -> None:
    city = make_city(tmp_path, sensors=3, days=2, clips_per_day=4, seconds=1, sample_rate=8000, progress=False)
    taxonomy = read_taxonomy(tmp_path / "dcase-ust-taxonomy.yaml")
    read = read_annotations(city.annotations, taxonomy)
    with city.annotations.open(newline="") as file:
        rows = list(csv.DictReader(file))
    check(read, directly(rows, taxonomy))
    own = {row["audio_filename"]: row for row in rows}
    assert read.sensors is not None
    assert read.sensors.tolist() == [own[clip]["sensor_id"] for clip in read.clips]
    assert read.context is not None
    columns = ("latitude", "longitude", "hour", "day", "week")
    assert read.context.tolist() == [[float(own[clip][name]) for name in columns] for clip in read.clips]
    # Where the team agreed on a fine tag, its coarse tag is present too.
    below = np.zeros((len(read), 8), int)
    np.maximum.at(below, (slice(None), taxonomy.parent), read.fine)
    assert (below == read.coarse).all()


def test_the_real_columns_are_read(shared_data: Path) -> None:
    folder = shared_data / "sonyc_ust"
    taxonomy = read_taxonomy(folder / "dcase-ust-taxonomy.yaml")
    read = read_annotations(folder / "annotations_eval.csv", taxonomy)
    assert len(read) == len(set(read.clips.tolist())) == 669
    assert read.clips.tolist() == sorted(read.clips.tolist())
    assert read.verified.all()
    assert (read.coarse == -1).all()
    assert (read.fine == -1).all()
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
    with (folder / "validate_ground_truth_coarse.csv").open(newline="") as file:
        rows = {row["audio_filename"]: row for row in csv.DictReader(file)}
    assert read.clips.tolist() == sorted(rows)
    assert read.coarse.tolist() == [
        [int(rows[clip][f"{tag}_presence"]) for tag in taxonomy.coarse] for clip in read.clips
    ]
    assert (read.fine == -1).all()
    assert read.verified.all()
    assert set(read.splits.tolist()) == {"validate"}
    assert (read.sensors, read.proximity, read.context) == (None, None, None)


def test_the_layout_of_the_first_version_is_read(shared_data: Path, tmp_path: Path) -> None:
    # The first version has no places and times; its sensors may be left out too.
    taxonomy = read_taxonomy(shared_data / "sonyc_ust" / "dcase-ust-taxonomy.yaml")
    kept = [name for name in ANNOTATION_COLUMNS if name not in CONTEXT_COLUMNS[4:]]
    row = {name: -1 if name.endswith("_proximity") else 0 for name in kept}
    row |= {"split": "train", "sensor_id": 7, "audio_filename": "a.wav", "annotator_id": 12, "8_dog_presence": 1}
    for columns in (kept, [name for name in kept if name != "sensor_id"]):
        read = read_annotations(table(tmp_path, [row[name] for name in columns], columns=columns), taxonomy)
        assert read.coarse.tolist() == [[0] * 7 + [1]]
        assert not read.fine.any()
        assert read.context is None
        assert (None if read.sensors is None else read.sensors.tolist()) == (["7"] if "sensor_id" in columns else None)


def test_one_volunteer_is_enough(tmp_path: Path, taxonomy: Taxonomy) -> None:
    rows = [("train", "b", 12, 0, 0), ("train", "a", 12, 0, 0), ("train", "a", 7, 1, 0), ("train", "a", 9, 0, -1)]
    read = read_annotations(table(tmp_path, *rows), taxonomy)
    assert coarse(read) == {"a": [1, 0], "b": [0, 0]}
    assert read.verified.tolist() == [False, False]


def test_the_verified_annotation_wins(tmp_path: Path, taxonomy: Taxonomy) -> None:
    # Also where it does not say: the volunteers are not asked again.
    rows = [("test", "a", 3, 1, 1), ("test", "a", 0, 0, 1), ("test", "a", 5, 1, 0), ("test", "b", 0, -1, 1)]
    read = read_annotations(table(tmp_path, *rows, ("test", "b", 4, 1, 0)), taxonomy)
    assert coarse(read) == {"a": [0, 1], "b": [-1, 1]}
    assert read.verified.tolist() == [True, True]


def test_single_team_members_are_ignored(tmp_path: Path, taxonomy: Taxonomy) -> None:
    rows = [("train", "a", -1, 1, 1), ("train", "a", 4, 0, 1), ("train", "only_team", -2, 1, 1)]
    read = read_annotations(table(tmp_path, *rows), taxonomy)
    assert coarse(read) == {"a": [0, 1], "only_team": [-1, -1]}
    assert not read.verified.any()


def test_proximities_are_those_of_volunteers_also_in_verified_clips(tmp_path: Path, taxonomy: Taxonomy) -> None:
    columns = [*COARSE, "1-1_small_proximity", "1-2_large_proximity", "2-1_bark_proximity"]
    rows = [
        ("train", "a", 1, 1, 1, "near", "near", "notsure"),
        ("train", "a", 2, 1, 1, "near", "far", " far "),
        ("train", "a", 3, 1, 1, "far", -1, ""),
        ("train", "a", 0, 1, 1, "far", "far", "near"),
        ("train", "a", -4, 1, 1, "far", "far", "near"),
    ]
    read = read_annotations(table(tmp_path, *rows, columns=columns), taxonomy)
    assert read.proximity is not None
    assert read.proximity.tolist() == [[[1, 0], [0, 0], [0, 1]]]
    with pytest.raises(EdgeseaError, match=r"annotations\.csv: no column 2-1_bark_proximity"):
        read_annotations(table(tmp_path, *(row[:-1] for row in rows), columns=columns[:-1]), taxonomy)


def test_a_table_may_have_one_level_only(tmp_path: Path, taxonomy: Taxonomy) -> None:
    read = read_annotations(table(tmp_path, ("train", "a", 1, 1, 0)), taxonomy)
    assert (read.coarse.tolist(), read.fine.tolist()) == ([[1, 0]], [[-1] * 4])
    columns = [*COARSE[:3], *(f"{tag}_presence" for tag in FINE)]
    read = read_annotations(table(tmp_path, ("train", "a", 1, 1, 0, 0, 1), columns=columns), taxonomy)
    assert (read.coarse.tolist(), read.fine.tolist()) == ([[-1, -1]], [[1, 0, 0, 1]])
    with pytest.raises(EdgeseaError, match=r"annotations\.csv: no column of a tag, as 1_engine_presence"):
        read_annotations(table(tmp_path, ("train", "a", 1), columns=COARSE[:3]), taxonomy)


def test_context_is_empty_where_the_table_is(tmp_path: Path, taxonomy: Taxonomy) -> None:
    columns = [*COARSE, "week", "day", "hour", "latitude", "longitude"]
    rows = [("train", "b", 1, 1, 0, 53, 6, 23, 40.5, -73.25), ("train", "a", 1, 1, 0, 1, 0, 0, "", " ")]
    read = read_annotations(table(tmp_path, *rows, columns=columns), taxonomy)
    np.testing.assert_array_equal(read.context, [[np.nan, np.nan, 0, 0, 1], [40.5, -73.25, 23, 6, 53]])
    for value in ("noon", "nan", "inf"):
        bad = table(tmp_path, rows[0], ("train", "a", 1, 1, 0, 1, 0, value, 0, 0), columns=columns)
        with pytest.raises(EdgeseaError, match=rf"line 3, hour: '{value}'; it must be a number, or empty"):
            read_annotations(bad, taxonomy)


def test_numbers_may_be_written_as_pandas_writes_them(tmp_path: Path, taxonomy: Taxonomy) -> None:
    rows = [("train", "0012", "1.0", "1.0", "-1.0"), ("train", "NA", " 0", "0 ", "1")]
    path = table(tmp_path, *rows, columns=[" split", "audio_filename ", *COARSE[2:]])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    read = read_annotations(path, taxonomy)
    assert coarse(read) == {"0012": [1, -1], "NA": [0, 1]}
    assert read.verified.tolist() == [False, True]


@pytest.mark.parametrize("value", ["2", "", "yes", "0.5", "nan", "True", "-2"])
def test_values_other_than_presences_are_named(tmp_path: Path, taxonomy: Taxonomy, value: str) -> None:
    path = table(tmp_path, ("train", "a", 1, 1, 0), ("train", "b", 1, 1, value), ("train", "c", 1, 1, 0))
    with pytest.raises(
        EdgeseaError, match=rf"annotations\.csv: line 3, 2_dog_presence: '{value}'; it must be -1 \(not"
    ):
        read_annotations(path, taxonomy)


@pytest.mark.parametrize("value", ["me", "", "1.5", "nan", "inf", "1e30"])
def test_annotators_must_be_integers(tmp_path: Path, taxonomy: Taxonomy, value: str) -> None:
    path = table(tmp_path, ("train", "a", 1, 1, 0), ("train", "a", value, 1, 0))
    with pytest.raises(EdgeseaError, match=rf"line 3, annotator_id: '{value}'; it must be an integer"):
        read_annotations(path, taxonomy)


def test_a_clip_has_one_split_and_one_sensor(tmp_path: Path, taxonomy: Taxonomy) -> None:
    rows = [("train", "a", 1, 1, 0), ("test", "b", 1, 1, 0), ("validate", "a", 2, 1, 0), ("validate", "a", -2, 1, 0)]
    with pytest.raises(EdgeseaError, match=r"each must have one split, but a has 'train' and 'validate'$"):
        read_annotations(table(tmp_path, *rows), taxonomy)
    sensors = [(*rows[0], "00"), (*rows[1], "1"), (*rows[0], "0")]
    with pytest.raises(EdgeseaError, match=r"each must have one sensor_id, but a has '00' and '0'$"):
        read_annotations(table(tmp_path, *sensors, columns=[*COARSE, "sensor_id"]), taxonomy)
    with pytest.raises(EdgeseaError, match=r"line 2, split: 'training'; it must be one of train, validate, test"):
        read_annotations(table(tmp_path, ("training", "a", 1, 1, 0)), taxonomy)


def test_missing_files_columns_and_unknown_tags_are_named(tmp_path: Path, taxonomy: Taxonomy) -> None:
    with pytest.raises(EdgeseaError, match=r"none\.csv: no such file"):
        read_annotations(tmp_path / "none.csv", taxonomy)
    row = ("train", "a", 1, 1, 0)
    for missing in COARSE:
        at = COARSE.index(missing)
        path = table(tmp_path, row[:at] + row[at + 1 :], columns=COARSE[:at] + COARSE[at + 1 :])
        with pytest.raises(EdgeseaError, match=rf"annotations\.csv: no column {missing}; it has"):
            read_annotations(path, taxonomy)
    for unknown in ("3_cat_presence", "1-3_huge_presence", "2-X_howl_presence"):
        path = table(tmp_path, (*row, 1), columns=[*COARSE, unknown])
        with pytest.raises(EdgeseaError, match=rf"annotations\.csv: tags that the taxonomy does not have: {unknown}"):
            read_annotations(path, taxonomy)
    fine = [*COARSE, *(f"{tag}_presence" for tag in FINE if tag != "1-X_unsure")]
    with pytest.raises(EdgeseaError, match=r"no column 1-X_unsure_presence"):
        read_annotations(table(tmp_path, (*row, 0, 0, 0), columns=fine), taxonomy)
    (tmp_path / "sound.csv").write_bytes(bytes(range(256)))
    with pytest.raises(EdgeseaError, match=r"sound\.csv: not a CSV table"):
        read_annotations(tmp_path / "sound.csv", taxonomy)


def test_other_splits_may_name_clips(tmp_path: Path, taxonomy: Taxonomy) -> None:
    rows = [("train", name, 1, 1, 0) for name in ("a", "b", "c", "010")]
    path = table(tmp_path, *rows)
    splits = table(
        tmp_path,
        ("validate", "010"),
        ("train", "c"),
        ("test", "a"),
        ("train", "c"),
        columns=["split", "audio_filename"],
        name="splits.csv",
    )
    assert read_annotations(path, taxonomy, splits).splits.tolist() == ["validate", "test", "", "train"]
    # The table's own splits are not looked at, and need not be there.
    path = table(tmp_path, *(row[1:] for row in rows), columns=COARSE[1:])
    assert read_annotations(path, taxonomy, splits).splits.tolist() == ["validate", "test", "", "train"]


def test_other_splits_may_name_sensors(tmp_path: Path, taxonomy: Taxonomy) -> None:
    path = table(
        tmp_path,
        *(("train", f"{sensor}_{n}", 1, 1, 0, sensor) for sensor in (0, 1, 2) for n in (0, 1)),
        columns=[*COARSE, "sensor_id"],
    )
    splits = table(tmp_path, (2, "train"), (0, "test"), columns=["sensor_id", "split"], name="splits.csv")
    assert read_annotations(path, taxonomy, splits).splits.tolist() == ["test", "test", "", "", "train", "train"]
    with pytest.raises(EdgeseaError, match=r"splits\.csv: gives splits by sensor_id, which .*annotations\.csv lacks"):
        read_annotations(table(tmp_path, ("train", "a", 1, 1, 0)), taxonomy, splits)


def test_other_splits_must_fit_the_annotations(tmp_path: Path, taxonomy: Taxonomy) -> None:
    path = table(tmp_path, ("train", "a", 1, 1, 0, 5), ("train", "b", 1, 1, 0, 6), columns=[*COARSE, "sensor_id"])
    for columns, rows, said in (
        (["split", "audio_filename"], [("train", "a"), ("test", "z")], "audio_filename that .* does not have: z"),
        (["split", "sensor_id"], [("train", 7), ("test", 5)], "sensor_id that .* does not have: 7"),
        (["split", "audio_filename"], [("train", "a"), ("eval", "b")], "line 3, split: 'eval'; it must be one of"),
        (["split", "audio_filename"], [("train", "a"), ("test", "a")], "one split, but a has 'train' and 'test'"),
        (["split", "file"], [("train", "a")], "no column audio_filename or sensor_id; it has split, file"),
        (["sensor_id"], [(5,)], "no column split"),
    ):
        splits = table(tmp_path, *rows, columns=columns, name="splits.csv")
        with pytest.raises(EdgeseaError, match=rf"splits\.csv: .*{said}"):
            read_annotations(path, taxonomy, splits)
    with pytest.raises(EdgeseaError, match=r"none\.csv: no such file"):
        read_annotations(path, taxonomy, tmp_path / "none.csv")


def test_ground_truth_is_the_verified_clips_of_the_split(tmp_path: Path, taxonomy: Taxonomy) -> None:
    rows = [
        ("validate", "d", 0, 1, 0),
        ("validate", "b", 0, 0, 1),
        ("validate", "b", 4, 1, 0),
        ("validate", "a", 4, 1, 1),
        ("test", "c", 0, 1, 1),
        ("train", "e", 3, 1, 1),
    ]
    path = table(tmp_path, *rows)
    assert coarse(read_ground_truth(path, taxonomy)) == {"b": [0, 1], "d": [1, 0]}
    assert coarse(read_ground_truth(path, taxonomy, "test")) == {"c": [1, 1]}
    said = r"no verified clip in the split train; verified clips: train 0, validate 2, test 1"
    with pytest.raises(EdgeseaError, match=said):
        read_ground_truth(path, taxonomy, "train")
    with pytest.raises(EdgeseaError, match="split must be one of train, validate, test, not 'eval'"):
        read_ground_truth(path, taxonomy, "eval")


def test_ground_truth_may_be_one_row_a_clip(tmp_path: Path, taxonomy: Taxonomy) -> None:
    rows = [("validate", "b", 1, 0), ("test", "c", 0, 1), ("validate", "a", 1, 1)]
    columns = [COARSE[0], COARSE[1], *COARSE[3:]]
    read = read_ground_truth(table(tmp_path, *(row[1:] for row in rows), columns=columns[1:]), taxonomy, "test")
    assert coarse(read) == {"a": [1, 1], "b": [1, 0], "c": [0, 1]}
    assert set(read.splits.tolist()) == {"test"}
    assert read.verified.all()
    assert coarse(read_ground_truth(table(tmp_path, *rows, columns=columns), taxonomy)) == {"a": [1, 1], "b": [1, 0]}
    with pytest.raises(EdgeseaError, match=r"a clip must have one row: b in lines 2 and 5"):
        read_ground_truth(table(tmp_path, *rows, rows[0], columns=columns), taxonomy)


def test_some_clips_can_be_taken(tmp_path: Path, taxonomy: Taxonomy) -> None:
    columns = [*COARSE, "sensor_id", "week", "day", "hour", "latitude", "longitude"]
    columns += [f"{tag}_proximity" for tag in FINE]
    rows = [("train", f"{n}", n % 2, 1, n % 2, n, n + 1, n, n, n, n, *["near"] * 4) for n in range(6)]
    read = read_annotations(table(tmp_path, *rows, columns=columns), taxonomy)
    for chosen in (np.array([4, 1]), np.array([False, True, False, False, True, False])):
        some = read.take(chosen)
        wanted = ["4", "1"] if chosen.dtype != bool else ["1", "4"]
        assert some.clips.tolist() == wanted
        assert some.sensors is not None
        assert some.sensors.tolist() == wanted
        assert some.context is not None
        assert some.context[:, 2].tolist() == [float(name) for name in wanted]
        assert some.coarse[:, 1].tolist() == [int(name) % 2 for name in wanted]
        assert some.verified.tolist() == [int(name) % 2 == 0 for name in wanted]
        assert some.proximity is not None
        assert some.proximity[:, 0, 0].tolist() == [int(name) % 2 for name in wanted]
        assert len(some) == len(some.splits) == len(some.fine) == 2


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("latitude", "4072951", "from -90 to 90"),
        ("longitude", "-181", "from -180 to 180"),
        ("hour", "24", "from 0 to 23"),
        ("day", "7", "from 0 to 6"),
        ("week", "0", "from 1 to 53"),
        ("week", "late", "a number, or empty"),
    ],
)
def test_times_and_places_that_there_are_not_are_refused(
    tmp_path: Path, taxonomy: Taxonomy, name: str, value: str, wanted: str
) -> None:
    context = {"latitude": "40.7", "longitude": "-74", "hour": "23", "day": "6", "week": "53"}
    columns = [*COARSE, *context]
    good = ["train", "a.wav", 1, 1, 0, *context.values()]
    bad = ["train", "b.wav", 1, 1, 0, *(context | {name: value}).values()]
    empty = ["train", "c.wav", 1, 1, 0, *[""] * 5]
    read = read_annotations(table(tmp_path, good, empty, columns=columns), taxonomy)
    assert read.context is not None
    assert read.context[0].tolist() == [40.7, -74, 23, 6, 53]
    assert np.isnan(read.context[1]).all()
    with pytest.raises(EdgeseaError, match=f"line 3, {name}: '{value}'; it must be {wanted}"):
        read_annotations(table(tmp_path, good, bad, columns=columns), taxonomy)
