import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from edgesea.errors import EdgeseaError
from edgesea.tasks.bootstrap import confidence_intervals


@pytest.mark.parametrize(("level", "least", "most"), [(0.95, 0.9, 0.98), (0.5, 0.42, 0.58)])
def test_intervals_cover_the_true_value_as_often_as_they_claim(level: float, least: float, most: float) -> None:
    """Accuracy on 100 clips, of a classifier that is right with probability 0.7, in 300 experiments."""
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(300):
        correct = rng.random(100) < 0.7

        def score(clips: NDArray[np.int64], correct: NDArray[np.bool_] = correct) -> dict[str, float | None]:
            return {"accuracy": float(correct[clips].mean())}

        found = confidence_intervals(score, 100, 200, level, seed)
        low, high = found["accuracy"]
        covered += low <= 0.7 <= high
    assert least < covered / 300 < most


def test_an_interval_is_that_of_scipy() -> None:
    """Of the mean of 200 skewed values; two sets of 4000 resamples differ by chance only."""
    values = np.random.default_rng(1).exponential(size=200)
    found = confidence_intervals(lambda clips: {"mean": float(values[clips].mean())}, 200, 4000, 0.9)["mean"]
    expected = stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, n_resamples=4000, method="percentile", random_state=0
    ).confidence_interval
    assert found == pytest.approx(tuple(expected), abs=0.01)
    assert found[0] < values.mean() < found[1]


def test_the_seed_decides() -> None:
    values = np.random.default_rng(2).random(50)

    def score(clips: NDArray[np.int64]) -> dict[str, float | None]:
        return {"mean": float(values[clips].mean())}

    assert confidence_intervals(score, 50, 100, seed=3) == confidence_intervals(score, 50, 100, seed=3)
    assert confidence_intervals(score, 50, 100, seed=3) != confidence_intervals(score, 50, 100, seed=4)


def test_as_many_clips_are_drawn_with_replacement() -> None:
    drawn: list[NDArray[np.int64]] = []

    def score(clips: NDArray[np.int64]) -> dict[str, float | None]:
        drawn.append(clips)
        return {}

    assert confidence_intervals(score, 40, 500) == {}
    every = np.array(drawn)
    assert every.shape == (500, 40)
    assert every.min() == 0
    assert every.max() == 39
    distinct = np.mean([len(set(row)) for row in every.tolist()]) / 40
    assert distinct == pytest.approx(1 - (1 - 1 / 40) ** 40, abs=0.01)


def test_clips_of_one_group_are_drawn_together() -> None:
    """Ten recordings of eight equal clips say no more than ten clips."""
    truth = np.repeat(np.random.default_rng(1).random(10) < 0.5, 8)
    groups = np.repeat([f"r{number}" for number in range(10)], 8)
    drawn: list[NDArray[np.int64]] = []

    def score(clips: NDArray[np.int64]) -> dict[str, float]:
        drawn.append(clips)
        return {"share": float(truth[clips].mean())}

    together = confidence_intervals(score, 80, 500, groups=groups)["share"]
    for clips in drawn:
        assert (np.bincount(clips, minlength=80).reshape(10, 8).std(1) == 0).all()
        assert len(clips) == 80
    alone = confidence_intervals(score, 80, 500)["share"]
    few = confidence_intervals(lambda clips: {"share": float(truth[::8][clips].mean())}, 10, 500)["share"]
    assert together[1] - together[0] == pytest.approx(few[1] - few[0], abs=0.11)
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


@pytest.mark.parametrize("absent", [None, float("nan")])
def test_resamples_without_a_score_are_left_out_for_it_alone(absent: float | None) -> None:
    """The score exists where clip 0 was drawn; its values are then 1 to 3, or how often it was drawn."""

    def score(clips: NDArray[np.int64]) -> dict[str, float | None]:
        times = float((clips == 0).sum())
        return {"times": times or absent, "all": times, "never": absent}

    found = confidence_intervals(score, 10, 1000)
    assert found["times"][0] == 1.0
    assert found["all"][0] == 0.0
    assert "never" not in found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clips": 0}, "at least 1 clip and 1 resample are needed, not 0 and 1000"),
        ({"clips": 5, "resamples": 0}, "at least 1 clip and 1 resample are needed, not 5 and 0"),
        ({"clips": 5, "level": 1.0}, "level must lie between 0 and 1, not 1.0"),
        ({"clips": 5, "level": 95}, "level must lie between 0 and 1, not 95"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(EdgeseaError, match=message):
        confidence_intervals(lambda clips: {"score": 0.0}, **options)
