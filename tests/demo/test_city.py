"""The synthetic city on disk."""

import json

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml

from edgesea.demo.city import COARSE, FINE, annotate, make_city, tag_columns
from edgesea.demo.sounds import RATE
from edgesea.errors import EdgeseaError

SMALL = {"sensors": 3, "days": 2, "clips_per_day": 4, "seconds": 2.5, "annotated": 0.5}


def make(folder, **changes):
    return make_city(folder, **{**SMALL, **changes})


def presence(rows, tags):
    return rows[[f"{code}_{name}_presence" for code, name in tags.items()]].set_axis(list(tags), axis=1)


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return make(tmp_path_factory.mktemp("city"))


def test_audio_is_mono_16_bit_unclipped_and_has_its_levels(city):
    manifest = pd.read_csv(city / "manifest.csv")
    assert list(manifest) == ["path", "sensor", "time", "split", "level"]
    assert sorted(f"audio/{path.name}" for path in (city / "audio").iterdir()) == sorted(manifest.path)
    offsets: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for row in manifest.itertuples():
        audio, rate = soundfile.read(city / str(row.path), dtype="float64")
        assert (rate, audio.shape) == (RATE, (40000,))
        assert soundfile.info(city / str(row.path)).subtype == "PCM_16"
        assert 0.002 < np.abs(audio).max() <= 0.9
        measured = [20 * np.log10(np.sqrt(np.mean(part**2))) for part in np.split(audio, [RATE, 2 * RATE])]
        offsets[int(str(row.sensor))] += np.subtract(json.loads(str(row.level)), measured).tolist()
    assert all(np.ptp(found) < 0.03 for found in offsets.values())  # one for each sensor
    assert len({round(found[0], 1) for found in offsets.values()}) == 3


def test_times_are_in_order_and_labelled_clips_are_split_by_sensor(city):
    manifest = pd.read_csv(city / "manifest.csv", parse_dates=["time"])
    for _, rows in manifest.groupby("sensor"):
        assert rows.time.is_monotonic_increasing
        assert set(rows.time.dt.date.astype(str)) == {"2019-06-05", "2019-06-06"}
    annotations = pd.read_csv(city / "annotations.csv")
    splits = set(zip(annotations.sensor_id, annotations.split, strict=True))
    assert splits == {(0, "train"), (1, "train"), (2, "validate")}
    assert 6 <= annotations.audio_filename.nunique() <= 18
    times = dict(zip(manifest.path, manifest.time, strict=True))
    for row in annotations.itertuples():
        time = times[f"audio/{row.audio_filename}"]
        assert (row.year, row.week, row.day, row.hour) == (2019, 23, time.weekday(), time.hour)
        assert 40.6 < float(str(row.latitude)) < 40.8
        assert -74.1 < float(str(row.longitude)) < -73.9


def test_taxonomy_and_columns_are_those_of_sonyc_ust(city, shared_data):
    folder = shared_data / "sonyc_ust"
    headers = [list(pd.read_csv(path, nrows=0)) for path in (city / "annotations.csv", folder / "annotations_eval.csv")]
    assert headers[0] == headers[1]
    taxonomies = [yaml.safe_load((path / "dcase-ust-taxonomy.yaml").read_text()) for path in (city, folder)]
    assert taxonomies[0] == taxonomies[1]


def test_annotations_agree_with_themselves(city):
    rows = pd.read_csv(city / "annotations.csv")
    fine, coarse = presence(rows, FINE), presence(rows, COARSE)
    for code in COARSE:
        assert (coarse[code] == fine[[tag for tag in FINE if tag[0] == code]].max(axis=1)).all()
    for code, name in FINE.items():
        known = rows[f"{code}_{name}_proximity"].astype(str) != "-1"
        assert (known == (fine[code] == 1) & (rows.annotator_id > 0)).all()
    annotators = rows.groupby("audio_filename").annotator_id.agg(list)
    verified = rows.groupby("audio_filename").split.first() == "validate"
    assert all(sum(number > 0 for number in found) == 3 for found in annotators)
    assert ((annotators.map(min) == 0) == verified).all()


def test_volunteers_err_in_about_a_tenth():
    rng, heard = np.random.default_rng(0), {"1-2": "near", "5-X": "far"}
    rows = pd.DataFrame([tag_columns(annotate(heard, rng)) for _ in range(1000)])
    coarse = presence(rows, COARSE).mean()
    assert 0.85 < coarse["1"] < 0.93
    assert 0 < coarse["8"] < 0.02
    assert 0.75 < presence(rows, FINE)["1-2"].mean() < 0.9
    counts = rows["1-2_medium-sounding-engine_proximity"].value_counts()
    assert set(counts.index) == {"near", "notsure", "-1"}
    assert 0.05 < counts["notsure"] / 1000 < 0.15


def test_same_seed_same_bytes_other_seed_other_city(city, tmp_path):
    again = make(tmp_path / "again")
    names = sorted(path.relative_to(city) for path in city.rglob("*") if path.is_file())
    assert len(names) == 24 + 4
    for name in names:
        assert (again / name).read_bytes() == (city / name).read_bytes(), name
    other = make(tmp_path / "other", sensors=2, days=1, seed=1)
    small = make(tmp_path / "small", sensors=2, days=1, annotated=1.0)  # more days or labels keep the recordings
    assert pd.read_csv(small / "annotations.csv").audio_filename.nunique() == len(list(small.rglob("*.wav"))) == 8
    for folder, equal in ((other, False), (small, True)):
        for path in folder.rglob("*.wav"):
            assert (path.read_bytes() == (city / "audio" / path.name).read_bytes()) is equal


def test_a_city_is_completed_and_another_one_is_not_replaced(city, tmp_path):
    made = make(tmp_path, sensors=2, days=1)
    for name in ("manifest.csv", "audio/00_000000.wav"):
        (made / name).write_bytes(b"half of a")
    with pytest.raises(EdgeseaError, match="seed"):
        make(tmp_path, sensors=2, days=1, seed=1)
    (made / "manifest.csv").unlink()  # it was killed
    make(tmp_path, sensors=2, days=1)
    assert (made / "audio/00_000000.wav").read_bytes() == (city / "audio/00_000000.wav").read_bytes()
