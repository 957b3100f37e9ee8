import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_table import write_table

from edgesea.errors import EdgeseaError
from edgesea.sampling import sample
from edgesea.sampling.methods import METHODS
from edgesea.sampling.subset import Subset
from edgesea.table.reader import Table


def chosen(table: Path, subset: Path) -> list[tuple[Any, ...]]:
    """Sensor, day, split and embedding of each window of a subset."""
    source, found, result = Table(table), Subset.load(subset), []
    for chunk in source.chunks():
        rows = found.window[found.part == chunk.part] - chunk.first_window
        embeddings = source.embeddings(chunk.part, chunk.group).tolist()
        for row in rows[(rows >= 0) & (rows < len(chunk.clip))]:
            clip = chunk.clip[row]
            result.append((chunk.sensors[clip], chunk.times[clip][:10], chunk.splits[clip], tuple(embeddings[row])))
    return result


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sensors, two days each, 60 windows a day in six clips, 50 of which are nearly equal; levels rise."""
    rng = np.random.default_rng(0)
    parts = []
    for sensor in "ab":
        for day in (1, 2):
            common, rare = rng.standard_normal((1, 16)), 2 * rng.standard_normal((10, 16))
            rows = np.concatenate([common + 0.05 * rng.standard_normal((50, 16)), rare])
            rows = rows[rng.permutation(60)].reshape(6, 10, 16)
            times = [f"2020-05-0{day}T{4 * i:02d}:00:00" for i in range(6)]
            clips = zip(rows, times, np.arange(60.0).reshape(6, 10), strict=True)
            parts.append([{"embeddings": x, "sensor": sensor, "time": t, "levels": levels} for x, t, levels in clips])
    return write_table(tmp_path_factory.mktemp("network"), parts)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_chooses_training_windows_equally_from_each_sensor_and_day(small_table, tmp_path, method):
    result = sample(small_table, tmp_path / "s", method=method, size=24, seed=3)
    assert (result["windows"], result["candidates"], result["strata"]) == (24, 60, 6)
    windows = chosen(small_table, tmp_path / "s")
    assert len(set(windows)) == 24
    strata = [(sensor, day) for sensor, day, split, _ in windows if split == "train"]
    # Sensor s2 trained on one clip of each day (5 windows), the others on two or more: everyone gives four.
    assert sorted(map(strata.count, set(strata))) == [4] * 6
    assert sample(small_table, tmp_path / "all", method=method, size=10**6, split="all")["windows"] == 90


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_alone_decides(network, tmp_path, method):
    for name, seed, workers in (("a", 1, 1), ("b", 1, 3), ("c", 2, 2)):
        sample(network, tmp_path / name, method=method, size=40, seed=seed, workers=workers)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    same = chosen(network, tmp_path / "a") == chosen(network, tmp_path / "c")
    assert same == method.endswith("_map")


@pytest.mark.parametrize("method", ["random", "dpp"])
def test_a_stratum_is_chosen_from_alike_whatever_else_is_in_the_table(tmp_path, method):
    rng = np.random.default_rng(5)
    day = [{"embeddings": rng.standard_normal((40, 8)), "sensor": "a", "time": "2020-05-02"}]
    other = [{"embeddings": rng.standard_normal((30, 8)), "sensor": "a", "time": "2020-05-01"}]
    alone, both = write_table(tmp_path / "alone", [day]), write_table(tmp_path / "both", [other, day])
    sample(alone, tmp_path / "s1", method=method, size=6, seed=7)
    sample(both, tmp_path / "s2", method=method, size=12, seed=7)
    assert set(chosen(alone, tmp_path / "s1")) < set(chosen(both, tmp_path / "s2"))


def log_volume(table: Path, subset: Path) -> float:
    """Log determinant of the cosine similarities of a subset with eight windows a day, the sum over days."""
    rows = np.array([x for *_, x in chosen(table, subset)]).reshape(-1, 8, 16)
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    return float(np.linalg.slogdet(rows @ rows.transpose(0, 2, 1) + 1e-6 * np.eye(8))[1].sum())


def test_k_dpps_are_far_from_uniform_and_greedy_ones_further(network, tmp_path):
    volumes: dict[str, list[float]] = {}
    for method in ("random", "dpp_div", "dpp_div_map"):
        for seed in range(12):
            sample(network, tmp_path / "s", method=method, size=32, seed=seed)
            volumes.setdefault(method, []).append(log_volume(network, tmp_path / "s"))
    assert min(volumes["dpp_div"]) > max(volumes["random"]) + 20
    assert np.mean(volumes["dpp_div_map"]) > max(volumes["dpp_div"])


@pytest.mark.parametrize(("method", "louder"), [("random", False), ("spl", True), ("dpp", True)])
def test_methods_with_levels_prefer_loud_windows(network, tmp_path, method, louder):
    # In each two-hour slot there is one clip of ten windows, so that ranks do not depend on the time of day.
    found = []
    for seed in range(10):
        sample(network, tmp_path / "s", method=method, size=40, seed=seed)
        found += (Subset.load(tmp_path / "s").window % 10).tolist()
    # A draw from 0 ... 9 has the mean 4.5 and the standard deviation 2.9 / sqrt(400) = 0.14.
    assert (np.mean(found) > 5.0) if louder else abs(np.mean(found) - 4.5) < 0.5


def test_the_subset_records_its_options(network, tmp_path):
    result = sample(network, tmp_path / "s", method="dpp", size=8, stratum="month", time_zone="Europe/Berlin", seed=9)
    info = Subset.load(tmp_path / "s").info
    # These names are on disk since the first version.
    expected = {"method": "dpp", "size": 8, "frame": "month", "time_zone": "Europe/Berlin", "split": "train", "seed": 9}
    expected |= {"similarity": "cosine", "ridge": 1e-6, "pool": 20000, "candidates": 240, "frames": 2}
    assert {key: info[key] for key in expected} == expected
    assert result["strata"] == 2
    assert result["similarity_share"] == info["mean_core"] > 0.99
    sample(network, tmp_path / "s", size=8)
    assert not {"similarity", "ridge", "pool", "mean_core"} & Subset.load(tmp_path / "s").info.keys()


def test_fewer_windows_than_strata_come_from_random_strata(network, tmp_path, caplog):
    found = set()
    for seed in range(20):
        assert sample(network, tmp_path / "s", size=2, seed=seed)["strata"] == 2
        found |= set(Subset.load(tmp_path / "s").part.tolist())
    assert found == {0, 1, 2, 3}
    assert "2 windows of 4 strata" in caplog.text


@pytest.mark.parametrize(
    ("size", "options", "least", "logged"),
    [
        (40, {"ridge": 100.0}, 0.0, "the ridge 100"),
        (160, {}, 0.9, "3 random groups"),  # 40 of 60 a day, in 16 dimensions
        (16, {"max_candidates": 20}, 0.9, "4 of 4 strata have more than 20 windows"),
        (40, {"max_candidates": 20}, 0.9, "4 of 4 strata have more than 40 windows"),  # four times those chosen
    ],
)
def test_what_limits_a_k_dpp_is_reported(network, tmp_path, caplog, size, options, least, logged):
    caplog.set_level(logging.INFO)
    result = sample(network, tmp_path / "s", method="dpp_div", size=size, **options)
    assert least <= result["similarity_share"] <= (1.0 if least else 0.3)
    assert logged in caplog.text
    assert Subset.load(tmp_path / "s").part.tolist() == np.repeat(range(4), size // 4).tolist()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rows", [np.zeros((9, 4)), np.ones((9, 4)), np.repeat(np.eye(4)[:3], 3, axis=0)])
def test_equal_embeddings_do_not_stop_a_method(tmp_path, method, rows):
    table = write_table(tmp_path / "t", [[{"embeddings": rows}]])
    result = sample(table, tmp_path / "s", method=method, size=4)
    assert result["windows"] == 4
    if method == "dpp_div":  # as many by similarity as differ, the others uniformly
        assert result["similarity_share"] * 4 == pytest.approx(len(np.unique(rows[rows.any(1)], axis=0)), abs=0.2)


@pytest.mark.parametrize(
    ("method", "clip", "named"),
    [
        ("dpp_div", {"embeddings": np.ones((9, 4))}, ["stratum a7, 2020-05-01", "k = 3", "rank 1"]),  # with ridge 0
        ("kmeans", {"embeddings": np.where(np.arange(9)[:, None] == 3, np.nan, 1.0)}, ["a7", "1 of 9", "window 3 of"]),
        ("dpp", {"embeddings": np.eye(9), "levels": np.full(9, np.nan)}, ["a7, 2020-05-01", "9 of 9", "random"]),
    ],
)
def test_windows_that_a_method_cannot_choose_from(tmp_path, method, clip, named):
    days = [[{"sensor": "a7", "time": f"2020-05-{day:02d}T10:00:00", **clip}] for day in range(1, 15)]
    table = write_table(tmp_path / "t", days)
    with pytest.raises(EdgeseaError) as error:
        sample(table, tmp_path / "s", method=method, size=42, ridge=0.0)
    assert [word for word in named if word not in str(error.value)] == []
    assert not (tmp_path / "s").exists()
    assert sample(table, tmp_path / "s", method="random", size=42)["windows"] == 42


@pytest.mark.parametrize(
    ("time", "options", "warnings"),
    [
        (None, {}, []),  # a folder of recordings without sensors and times is nothing to be warned of
        ("2020-05-01T10:00+00:00", {}, ["times are in UTC"]),
        ("2020-05-01T10:00+00:00", {"time_zone": "Europe/Berlin"}, []),
        ("2020-05-01T10:00+00:00", {"stratum": "none"}, []),
        ("2020-05-01T10:00", {}, []),
        ("2020-05-01T10:00", {"time_zone": "Europe/Berlin"}, ["time_zone changes nothing"]),
        ("2020-05-01T10:00", {"method": "spl", "split": "all"}, ["no sensor", "one time of day", "6 of 12"]),
    ],
)
def test_what_is_not_known_is_reported(tmp_path, caplog, time, options, warnings):
    x = np.random.default_rng(0).standard_normal((6, 4))
    clips = [{"embeddings": x, "time": time}]
    if "split" in options:
        clips = [{"embeddings": x, "time": time, "sensor": "a"}, {"embeddings": x, "split": "test"}]
    sample(write_table(tmp_path / "t", [clips]), tmp_path / "s", size=4, **options)
    found = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [text for text in warnings if text not in "".join(found)] == []
    assert bool(found) == bool(warnings)


def test_sensors_can_be_chosen_by_their_positions(network, tmp_path):
    (tmp_path / "p.csv").write_text("sensor,latitude,longitude\na,40.7,-74.0\nb,40.8,-73.9\nunused,1,2\n")
    result = sample(network, tmp_path / "s", size=20, sensors=1, positions=tmp_path / "p.csv")
    assert result["sensors"] in (["a"], ["b"])
    assert (result["windows"], result["candidates"], result["strata"]) == (20, 120, 2)
    assert {sensor for sensor, *_ in chosen(network, tmp_path / "s")} == set(result["sensors"])
    assert Subset.load(tmp_path / "s").info["sensors"] == result["sensors"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size=0"], ["size", 0]),
        (["--method=kmeans", "--max_candidates=0"], ["max_candidates", 0]),
        (["--method=kmeans", "--clusters=0"], ["clusters", 0]),
        (["--method=dpp", "--ridge=-1"], ["ridge", -1]),
        (["--workers=0"], ["workers", 0]),
        (["--seed=-1"], ["seed", -1]),
        (["--split=validate"], ["train_only", "validate", "'train': 6"]),
        (["--sensors=1"], ["sensors", "positions"]),
        (["--time_zone=Mars/Crater"], ["Mars/Crater", "Europe/Berlin"]),
    ],
)
def test_bad_input(train_only_table, tmp_path, refuses, options, words):
    refuses("sample", train_only_table, tmp_path / "s", *options, words=words)
    assert not (tmp_path / "s").exists()


def test_nothing_else_is_overwritten(small_table, tmp_path, refuses):
    note = tmp_path / "note.txt"
    note.write_text("mine")
    part = small_table / "clips" / "part-00000.parquet"
    before = part.read_bytes()
    for out, name in ((note, note), (note / "s", note), (part, part.name), (tmp_path, tmp_path)):
        refuses("sample", small_table, out, words=[name])
    assert (note.read_text(), part.read_bytes()) == ("mine", before)
    for size in (3, 4):  # another subset is replaced
        assert sample(small_table, tmp_path / "s", size=size)["windows"] == size


def test_other_files_are_not_taken_for_a_subset(tmp_path):
    pq.write_table(pa.table({"part": [0], "window": [0]}), tmp_path / "parquet")
    pq.write_table(pa.table({"x": [0]}).replace_schema_metadata({b"edgesea": b"{}"}), tmp_path / "columns")
    (tmp_path / "text").write_text("part,window\n0,0\n")
    for path in (tmp_path, *(tmp_path / name for name in ("parquet", "columns", "text", "nothing"))):
        with pytest.raises(EdgeseaError, match=path.name):
            Subset.load(path)
