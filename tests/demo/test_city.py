"""The synthetic city on disk."""

import csv
import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from edgesea.demo.city import City, make_city
from edgesea.demo.taxonomy import ANNOTATION_COLUMNS, COARSE, COARSE_PRESENCE, FINE_PRESENCE, coarse_of
from edgesea.errors import EdgeseaError

SMALL = {"sensors": 3, "days": 2, "clips_per_day": 4, "seconds": 2.5, "sample_rate": 8000, "annotated": 0.5}


def make(folder: Path, **changes: float) -> City:
    return make_city(folder, **{**SMALL, **changes}, progress=False)  # type: ignore[arg-type]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    return make(tmp_path_factory.mktemp("city"))


def test_audio_is_mono_16_bit_unclipped_and_complete(city: City) -> None:
    manifest = rows_of(city.manifest)
    assert len(manifest) == 24
    assert sorted(path.name for path in city.audio.iterdir()) == sorted(Path(row["path"]).name for row in manifest)
    for row in manifest:
        info = soundfile.info(city.folder / row["path"])
        assert (info.channels, info.subtype, info.samplerate, info.frames) == (1, "PCM_16", 8000, 20000)
        audio, _ = soundfile.read(city.folder / row["path"])
        assert 0.002 < np.abs(audio).max() <= 0.9


def test_levels_are_the_signal_plus_one_offset_per_sensor(city: City) -> None:
    offsets: dict[str, list[float]] = {}
    for row in rows_of(city.manifest):
        audio, _ = soundfile.read(city.folder / row["path"])
        level = json.loads(row["level"])
        parts = [audio[:8000], audio[8000:16000], audio[16000:]]
        measured = [20 * np.log10(np.sqrt(np.mean(part**2))) for part in parts]
        offsets.setdefault(row["sensor"], []).extend(np.subtract(level, measured).tolist())
    assert all(np.ptp(found) < 0.011 for found in offsets.values())  # levels are rounded to 0.01 dB
    assert len({round(found[0], 1) for found in offsets.values()}) == 3


def test_manifest_times_are_in_order_and_splits_are_known(city: City) -> None:
    manifest = rows_of(city.manifest)
    assert list(manifest[0]) == ["path", "sensor", "time", "split", "level"]
    for sensor in ("0", "1", "2"):
        times = [datetime.fromisoformat(row["time"]) for row in manifest if row["sensor"] == sensor]
        assert times == sorted(times)
        assert {time.date().isoformat() for time in times} == {"2019-06-05", "2019-06-06"}
    assert {row["split"] for row in manifest} == {"train", "validate"}


def test_labelled_clips_are_split_by_sensor(city: City) -> None:
    manifest = {Path(row["path"]).name: row for row in rows_of(city.manifest)}
    annotations = rows_of(city.annotations)
    assert {(row["sensor_id"], row["split"]) for row in annotations} == {
        ("0", "train"),
        ("1", "train"),
        ("2", "validate"),
    }
    assert all(manifest[row["audio_filename"]]["split"] == row["split"] for row in annotations)
    assert len({row["audio_filename"] for row in annotations}) == pytest.approx(12, abs=2)


def test_annotations_have_the_layout_and_the_place(city: City) -> None:
    manifest = {Path(row["path"]).name: row for row in rows_of(city.manifest)}
    annotations = rows_of(city.annotations)
    assert tuple(annotations[0]) == ANNOTATION_COLUMNS
    places = {
        (row["sensor_id"], row["borough"], row["block"], row["latitude"], row["longitude"]) for row in annotations
    }
    assert len(places) == 3
    for row in annotations:
        time = datetime.fromisoformat(manifest[row["audio_filename"]]["time"])
        assert [int(row[name]) for name in ("year", "week", "day", "hour")] == [2019, 23, time.weekday(), time.hour]
        assert 40.6 < float(row["latitude"]) < 40.8
        assert -74.1 < float(row["longitude"]) < -73.9


def test_verified_rows_agree_with_the_recipe(city: City) -> None:
    tags: dict[str, set[str]] = {}
    for row in rows_of(city.recipe):
        tags.setdefault(row["audio_filename"], set()).add(row["tag"])
    verified = [row for row in rows_of(city.annotations) if row["annotator_id"] == "0"]
    assert len(verified) == len({row["audio_filename"] for row in rows_of(city.annotations) if row["sensor_id"] == "2"})
    for row in verified:
        truth = tags.get(row["audio_filename"], set())
        assert {code for code, column in FINE_PRESENCE.items() if row[column] == "1"} == truth
        coarse = {code for code, column in COARSE_PRESENCE.items() if row[column] == "1"}
        assert coarse == {coarse_of(code) for code in truth}


def test_recipe_events_lie_in_their_clips(city: City) -> None:
    names = {path.name for path in city.audio.iterdir()}
    recipe = rows_of(city.recipe)
    assert recipe
    for row in recipe:
        assert row["audio_filename"] in names
        assert row["coarse"] == COARSE[coarse_of(row["source"])]
        assert 0.0 <= float(row["onset"]) < float(row["onset"]) + float(row["duration"]) <= 2.5001


def test_taxonomy_parses(city: City) -> None:
    parsed = yaml.safe_load(city.taxonomy.read_text())
    assert parsed["fine"][5][3] == "siren"
    assert parsed["fine"][1]["X"] == "engine-of-uncertain-size"


def test_config_is_written(city: City) -> None:
    config = json.loads(city.config.read_text())
    assert {name: config[name] for name in SMALL} == SMALL
    assert config["seed"] == 0
    assert "numpy" in config["versions"]


def test_same_seed_same_bytes_other_seed_other_city(city: City, tmp_path: Path) -> None:
    again = make(tmp_path / "again")
    names = sorted(path.relative_to(city.folder) for path in city.folder.rglob("*") if path.is_file())
    assert len(names) == 24 + 5
    for name in names:
        assert (again.folder / name).read_bytes() == (city.folder / name).read_bytes(), name
    other = make(tmp_path / "other", sensors=2, days=1, seed=1)
    assert not any(path.read_bytes() == (city.audio / path.name).read_bytes() for path in other.audio.iterdir())


def test_more_days_and_sensors_keep_the_other_recordings(city: City, tmp_path: Path) -> None:
    small = make(tmp_path, sensors=2, days=1, annotated=1.0)
    assert len(list(small.audio.iterdir())) == 8
    for path in small.audio.iterdir():
        assert path.read_bytes() == (city.audio / path.name).read_bytes()


def test_all_or_nothing_labelled(tmp_path: Path) -> None:
    everything = make(tmp_path / "all", days=1, clips_per_day=2, annotated=1.0)
    assert len({row["audio_filename"] for row in rows_of(everything.annotations)}) == 6
    nothing = make(tmp_path / "none", days=1, clips_per_day=2, annotated=0.0)
    assert rows_of(nothing.annotations) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("sensors", 1), ("days", 0), ("seconds", 0.5), ("seconds", float("nan")), ("annotated", 1.5), ("seed", -1)],
)
def test_arguments_out_of_range_are_refused_by_name(name: str, value: float, tmp_path: Path) -> None:
    with pytest.raises(EdgeseaError, match=name):
        make(tmp_path, **{name: value})


def test_foreign_audio_is_refused(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "mine.wav").touch()
    with pytest.raises(EdgeseaError, match=r"mine\.wav"):
        make(tmp_path)


def test_interrupted_city_is_made_again(city: City, tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "00_000000.wav").write_bytes(b"half of a")
    again = make(tmp_path, sensors=2, days=1)
    assert (again.audio / "00_000000.wav").read_bytes() == (city.audio / "00_000000.wav").read_bytes()
