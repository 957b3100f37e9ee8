import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_table import write_table

from edgesea.errors import EdgeseaError
from edgesea.sampling import sample, used_options
from edgesea.sampling.dpp import log_det
from edgesea.sampling.methods import METHODS
from edgesea.sampling.similarity import similarity_features
from edgesea.sampling.subset import Subset
from edgesea.table.reader import Table


def frames_of(table: Table, subset: Subset) -> list[tuple[str, str, str]]:
    """Sensor, day and split of each window chosen."""
    found = []
    for chunk in table.chunks():
        rows = subset.window[subset.part == chunk.part] - chunk.first_window
        for clip in chunk.clip[rows[(rows >= 0) & (rows < len(chunk.clip))]]:
            found.append((chunk.sensors[clip], chunk.times[clip][:10], chunk.splits[clip]))
    return found


def rows_of(table: Path, subset: Path) -> list[tuple[float, ...]]:
    """Embeddings of a subset's windows."""
    chosen, source = Subset.load(subset), Table(table)
    parts = [
        np.concatenate([source.embeddings(p, g) for p, g in source.chunk_ids() if p == part])
        for part in range(source.parts)
    ]
    return [tuple(parts[p][w].tolist()) for p, w in zip(chosen.part, chosen.window, strict=True)]


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
            parts.append(
                [
                    {"embeddings": x, "sensor": sensor, "time": f"2020-05-0{day}T{4 * i:02d}:00:00", "levels": levels}
                    for i, (x, levels) in enumerate(zip(rows, np.arange(60.0).reshape(6, 10), strict=True))
                ]
            )
    return write_table(tmp_path_factory.mktemp("network"), parts)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_chooses_training_windows_equally_from_each_sensor_and_day(
    small_table: Path, tmp_path: Path, method: Any
) -> None:
    result = sample(small_table, tmp_path / "s.parquet", method=method, size=24, seed=3)
    expected = {"subset": str(tmp_path / "s.parquet"), "windows": 24, "candidates": 60, "frames": 6}
    assert {key: result[key] for key in expected} == expected
    subset = Subset.load(tmp_path / "s.parquet")
    frames = frames_of(Table(small_table), subset)
    assert len(frames) == 24
    assert {split for *_, split in frames} == {"train"}
    # Sensor s2 trained on one clip of each day (5 windows), the others on two or more: everyone gives four.
    assert sorted(frames.count(frame) for frame in set(frames)) == [4] * 6
    places = list(zip(subset.part.tolist(), subset.window.tolist(), strict=True))
    assert places == sorted(set(places))


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_alone_decides(network: Path, tmp_path: Path, method: Any) -> None:
    for name, seed, workers in (("a", 1, 1), ("b", 1, 3), ("c", 2, 2)):
        sample(network, tmp_path / name, method=method, size=40, seed=seed, workers=workers)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    same = rows_of(network, tmp_path / "a") == rows_of(network, tmp_path / "c")
    assert same == method.endswith("_map")


@pytest.mark.parametrize("method", ["random", "dpp"])
def test_a_frame_is_chosen_from_alike_whatever_else_is_in_the_table(tmp_path: Path, method: Any) -> None:
    rng = np.random.default_rng(5)
    day = [
        {"embeddings": rng.standard_normal((40, 8)), "sensor": "a", "time": "2020-05-02T00:00:00", "levels": range(40)}
    ]
    other = [{"embeddings": rng.standard_normal((30, 8)), "sensor": "a", "time": "2020-05-01T00:00:00"}]
    alone, both = write_table(tmp_path / "alone", [day]), write_table(tmp_path / "both", [other, day])
    sample(alone, tmp_path / "s1", method=method, size=6, seed=7)
    sample(both, tmp_path / "s2", method=method, size=12, seed=7)
    assert set(rows_of(alone, tmp_path / "s1")) < set(rows_of(both, tmp_path / "s2"))


def test_a_size_larger_than_the_table_takes_all(small_table: Path, tmp_path: Path) -> None:
    assert sample(small_table, tmp_path / "s", size=10**6)["windows"] == 60
    assert sample(small_table, tmp_path / "s", size=10**6, split="all", method="dpp")["windows"] == 90


@pytest.mark.parametrize(("split", "expected"), [("validate", 20), ("test", 10)])
def test_another_split_can_be_chosen(small_table: Path, tmp_path: Path, split: str, expected: int) -> None:
    assert sample(small_table, tmp_path / "s", split=split)["candidates"] == expected  # type: ignore[arg-type]
    assert {frame[2] for frame in frames_of(Table(small_table), Subset.load(tmp_path / "s"))} == {split}


def log_volume(table: Path, subset: Path) -> float:
    """Log determinant of the cosine similarities of a subset, the sum over days."""
    rows, days = np.array(rows_of(table, subset)), Subset.load(subset).part
    return sum(log_det(similarity_features(rows[days == part]), ridge=1e-6) for part in np.unique(days))


def test_k_dpps_are_far_from_uniform_and_greedy_ones_further(network: Path, tmp_path: Path) -> None:
    volumes: dict[str, list[float]] = {}
    for method in ("random", "dpp_div", "dpp_div_map"):
        for seed in range(12):
            sample(network, tmp_path / "s", method=method, size=32, seed=seed)  # type: ignore[arg-type]
            volumes.setdefault(method, []).append(log_volume(network, tmp_path / "s"))
    assert min(volumes["dpp_div"]) > max(volumes["random"]) + 20
    assert np.mean(volumes["dpp_div_map"]) > max(volumes["dpp_div"])


@pytest.mark.parametrize(("method", "louder"), [("random", False), ("spl", True), ("dpp", True)])
def test_methods_with_levels_prefer_loud_windows(network: Path, tmp_path: Path, method: Any, louder: bool) -> None:
    # In each two-hour slot there is one clip of ten windows, so that ranks do not depend on the time of day.
    found = []
    for seed in range(10):
        sample(network, tmp_path / "s", method=method, size=40, seed=seed)
        chosen = Subset.load(tmp_path / "s")
        found += (chosen.window % 10).tolist()
    # A draw from 0 ... 9 has the mean 4.5 and the standard deviation 2.9 / sqrt(400) = 0.14.
    assert (np.mean(found) > 5.0) == louder
    assert louder or abs(np.mean(found) - 4.5) < 0.6


def test_the_greedy_choice_with_levels_is_louder_than_without(network: Path, tmp_path: Path) -> None:
    mean = {}
    for method in ("dpp_map", "dpp_div_map"):
        sample(network, tmp_path / "s", method=method, size=40)  # type: ignore[arg-type]
        mean[method] = np.mean(Subset.load(tmp_path / "s").window % 10)
    assert mean["dpp_map"] > mean["dpp_div_map"] + 0.5


def test_the_subset_records_its_options(network: Path, tmp_path: Path) -> None:
    result = sample(network, tmp_path / "s", method="dpp", size=8, frame="month", time_zone="Europe/Berlin", seed=9)
    info = Subset.load(tmp_path / "s").info
    expected = {"method": "dpp", "size": 8, "frame": "month", "time_zone": "Europe/Berlin", "split": "train", "seed": 9}
    expected |= {"similarity": "cosine", "ridge": 1e-6, "pool": 20000, "candidates": 240}
    assert {key: info[key] for key in expected} == expected
    assert result["frames"] == 2
    assert result["mean_core"] == info["mean_core"] > 0.99
    sample(network, tmp_path / "s", size=8)
    assert not {"similarity", "ridge", "pool", "mean_core"} & Subset.load(tmp_path / "s").info.keys()
    assert "gamma" not in info
    sample(network, tmp_path / "s", size=8, method="dpp", similarity="rbf", gamma=2.0)
    assert Subset.load(tmp_path / "s").info["gamma"] == 2.0


def test_options_that_a_method_does_not_use_do_not_count() -> None:
    given = {"size": 5, "similarity": "rbf", "gamma": 1.0, "ridge": 0.0, "clusters": 3, "pool": 9, "sensors": None}
    assert used_options({"method": "random", **given}) == {"method": "random", "size": 5}
    assert used_options({"method": "kmeans", **given}) == {"method": "kmeans", "size": 5, "clusters": 3, "pool": 9}
    dpp = {"method": "dpp", "size": 5, "similarity": "rbf", "gamma": 1.0, "ridge": 0.0, "pool": 9}
    assert used_options({"method": "dpp", **given}) == dpp
    assert "gamma" not in used_options({"method": "dpp", **given, "similarity": "cosine"})


def test_a_large_ridge_makes_the_choice_uniform_and_says_so(
    network: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert sample(network, tmp_path / "s", method="dpp_div", size=40, ridge=100.0)["mean_core"] < 0.3
    assert "of 40 windows are chosen by similarity on average, the others uniformly: the ridge 100" in caplog.text
    # Kernels of one dimension leave nothing to choose by.
    found = sample(network, tmp_path / "s", method="dpp_div", size=40, similarity="rbf", gamma=1e-300)
    assert found["mean_core"] == pytest.approx(0.1, abs=0.01)


def test_where_nothing_is_chosen_there_is_no_core(network: Path, tmp_path: Path) -> None:
    result = sample(network, tmp_path / "s", method="dpp", size=240)
    assert result["windows"] == 240
    assert "mean_core" not in result


def test_fewer_windows_than_frames_come_from_random_frames(
    network: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = set()
    for seed in range(20):
        result = sample(network, tmp_path / "s", size=2, seed=seed)
        assert (result["windows"], result["frames"]) == (2, 2)
        found |= set(Subset.load(tmp_path / "s").part.tolist())
    assert found == {0, 1, 2, 3}
    assert "2 windows of 4 frames: only 2 frames, drawn at random, give one each" in caplog.text


def test_more_windows_than_dimensions_are_chosen_in_random_groups(
    network: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    result = sample(network, tmp_path / "s", method="dpp_div", size=160)  # 40 of 60 a day, in 16 dimensions
    assert result["windows"] == 160
    assert result["mean_core"] > 0.9
    assert "40 of 60 windows are to be chosen by similarities of 16 dimensions: done in 3 random groups" in caplog.text
    assert Subset.load(tmp_path / "s").part.tolist() == np.repeat(np.arange(4), 40).tolist()


def test_a_large_frame_is_thinned_first(network: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sample(network, tmp_path / "s", method="dpp_div", size=16, pool=20)
    assert "4 of 4 frames have more than 20 windows (the largest 60)" in caplog.text
    assert len(Subset.load(tmp_path / "s")) == 16
    # Ten of each frame: no fewer than forty are considered.
    sample(network, tmp_path / "s", method="dpp_div", size=40, pool=20)
    assert "4 of 4 frames have more than 40 windows (the largest 60)" in caplog.text
    caplog.clear()
    sample(network, tmp_path / "s", method="spl", size=16, pool=20)  # which needs no embeddings, and so no pool
    assert "considered" not in caplog.text


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rows", [np.zeros((9, 4)), np.ones((9, 4)), np.repeat(np.eye(4)[:3], 3, axis=0)])
def test_equal_embeddings_do_not_stop_a_method(tmp_path: Path, method: Any, rows: np.ndarray) -> None:
    table = write_table(tmp_path / "t", [[{"embeddings": rows}]])
    result = sample(table, tmp_path / "s", method=method, size=4)
    assert result["windows"] == 4
    if method == "dpp_div":  # as many by similarity as differ, the others uniformly
        assert result["mean_core"] * 4 == pytest.approx(len(np.unique(rows[rows.any(1)], axis=0)), abs=0.2)


def test_without_a_ridge_equal_embeddings_are_an_error_that_names_the_frame(tmp_path: Path) -> None:
    clip = {"embeddings": np.ones((9, 4)), "sensor": "a7", "time": "2020-05-01T10:00:00"}
    table = write_table(tmp_path / "t", [[clip]])
    with pytest.raises(EdgeseaError, match=r"frame a7, 2020-05-01: cannot choose k = 3 windows without a ridge"):
        sample(table, tmp_path / "s", method="dpp_div", size=3, ridge=0.0)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("method", ["dpp_div", "kmeans"])
def test_embeddings_that_are_no_numbers_are_an_error_that_names_the_frame(tmp_path: Path, method: Any) -> None:
    rows = np.ones((9, 4))
    rows[3, 2] = np.nan
    table = write_table(tmp_path / "t", [[{"embeddings": rows}]])
    with pytest.raises(
        EdgeseaError, match=r"frame all windows: 1 of 9 windows .* NaN or Inf, the first is window 3 of"
    ):
        sample(table, tmp_path / "s", method=method, size=3)
    assert sample(table, tmp_path / "s", method="random", size=3)["windows"] == 3


@pytest.mark.parametrize("method", ["spl", "dpp", "dpp_map"])
def test_levels_and_times_that_are_not_known(tmp_path: Path, method: Any, caplog: pytest.LogCaptureFixture) -> None:
    x = np.random.default_rng(0).standard_normal((6, 4))
    untimed = [{"embeddings": x}, {"embeddings": x + 1, "time": "2020-05-01T10:00:00"}]
    sample(write_table(tmp_path / "untimed", [untimed]), tmp_path / "s", method=method, size=4, frame="none")
    assert "6 of 12 windows have no time: their levels are ranked among each other" in caplog.text
    levelless = write_table(tmp_path / "levelless", [[{"embeddings": x, "levels": np.full(6, np.nan)}]])
    with pytest.raises(EdgeseaError, match=r"6 of 6 windows have no level, which this method needs; choose random"):
        sample(levelless, tmp_path / "s", method=method, size=4)


def test_windows_without_sensor_or_time_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x = np.zeros((6, 4))
    clips = [{"embeddings": x, "sensor": "a", "time": "2020-05-01T10:00:00"}, {"embeddings": x}]
    assert sample(write_table(tmp_path / "t", [clips]), tmp_path / "s", size=4)["frames"] == 2
    assert "some windows have no sensor; they count as one sensor's" in caplog.text
    assert "6 of 12 windows have no time: those of a sensor count as one day" in caplog.text
    caplog.clear()
    sample(write_table(tmp_path / "u", [[{"embeddings": x}]]), tmp_path / "s", size=4)
    # A folder of recordings without any of this is nothing to be warned of.
    assert {record.levelname for record in caplog.records} <= {"INFO"}


def test_times_in_utc_and_time_zones_without_effect_are_pointed_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x = np.zeros((6, 4))
    utc = write_table(tmp_path / "utc", [[{"embeddings": x, "time": "2020-05-01T10:00:00+00:00"}]])
    local = write_table(tmp_path / "local", [[{"embeddings": x, "time": "2020-05-01T10:00:00"}]])
    sample(local, tmp_path / "s", size=2)
    sample(utc, tmp_path / "s", size=2, time_zone="Europe/Berlin")
    sample(utc, tmp_path / "s", size=2, frame="none")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    sample(utc, tmp_path / "s", size=2)
    assert "times are in UTC, and so are days and hours; give time_zone" in caplog.text
    sample(local, tmp_path / "s", size=2, time_zone="Europe/Berlin")
    assert "no time in it has an offset from UTC, so that time_zone changes nothing" in caplog.text


def test_nothing_else_is_overwritten(small_table: Path, tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("mine")
    part = small_table / "clips" / "part-00000.parquet"
    before = part.read_bytes()
    for out in (note, part):
        with pytest.raises(EdgeseaError, match="holds something that is no subset; choose another name, or delete it"):
            sample(small_table, out)
    assert (note.read_text(), part.read_bytes()) == ("mine", before)
    for place in (tmp_path, note / "s", Path(), small_table / "table.json" / "a" / "b"):
        with pytest.raises(EdgeseaError, match="choose another name"):
            sample(small_table, place)
    sample(small_table, tmp_path / "s", size=3)
    assert sample(small_table, tmp_path / "s", size=4)["windows"] == 4


def test_an_error_in_one_frame_ends_the_reading(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = []
    for day in range(1, 29):
        x = rng.standard_normal((8, 4))
        x[0, 0] = np.nan if day == 1 else 0.0
        parts.append([{"embeddings": x, "time": f"2020-05-{day:02d}T00:00:00"}])
    table = write_table(tmp_path / "t", parts)
    with pytest.raises(EdgeseaError, match=r"frame 2020-05-01: 1 of 8 windows"):
        sample(table, tmp_path / "s", method="dpp_div", size=28)


def test_sensors_can_be_chosen_by_their_positions(network: Path, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("sensor,latitude,longitude\na,40.7,-74.0\nb,40.8,-73.9\nunused,1,2\n")
    result = sample(network, tmp_path / "s", size=20, sensors=1, positions=tmp_path / "p.csv")
    assert result["sensors"] in (["a"], ["b"])
    assert (result["windows"], result["candidates"], result["frames"]) == (20, 120, 2)
    own = (0, 1) if result["sensors"] == ["a"] else (2, 3)
    assert set(Subset.load(tmp_path / "s").part.tolist()) == set(own)
    assert Subset.load(tmp_path / "s").info["sensors"] == result["sensors"]
    with pytest.raises(EdgeseaError, match="to choose sensors, give their positions"):
        sample(network, tmp_path / "s", sensors=1)


def test_errors_name_the_remedy(small_table: Path, train_only_table: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeseaError, match="no table here; make one: edgesea extract"):
        sample(tmp_path / "nothing", tmp_path / "s")
    for name in ("size", "pool", "workers", "clusters"):
        with pytest.raises(EdgeseaError, match=f"{name} must be at least 1, not 0"):
            sample(small_table, tmp_path / "s", method="kmeans", **{name: 0})  # type: ignore[arg-type]
    with pytest.raises(EdgeseaError, match="seed must be at least 0, not -1"):
        sample(small_table, tmp_path / "s", seed=-1)
    with pytest.raises(EdgeseaError, match=r"no windows in split 'validate'; it has \{'train': "):
        sample(train_only_table, tmp_path / "s", split="validate")
    with pytest.raises(EdgeseaError, match="unknown method 'magic'; choose from random, spl"):
        sample(small_table, tmp_path / "s", method="magic")  # type: ignore[arg-type]
    with pytest.raises(EdgeseaError, match="ridge must be at least 0, not -1"):
        sample(small_table, tmp_path / "s", method="dpp", size=10, ridge=-1)
    assert not (tmp_path / "s").exists()
