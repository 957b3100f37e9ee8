import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from edgesea.demo.city import make_city
from edgesea.errors import EdgeseaError
from edgesea.tasks.oversampling import Synthetic, imbalance_ratios, imbalance_threshold, label_set_smote, mlsmote

Bool = NDArray[np.bool_]
Floats = NDArray[np.float64]
METHODS: list[Callable[..., Synthetic]] = [mlsmote, label_set_smote]


def matrix(*rows: str) -> Bool:
    """Labels from rows like ``1.1``."""
    return np.array([[letter == "1" for letter in row] for row in rows])


def line(clips: int) -> Floats:
    """Features whose neighbours are those nearest in order: clips further on lie further apart."""
    return np.arange(clips, dtype=np.float64)[:, None] ** 1.01


def run(method: Callable[..., Synthetic], labels: Bool, features: Floats | None = None, **options: Any) -> Synthetic:
    seed = options.pop("seed", 0)
    return method(
        line(len(labels)) if features is None else features, labels, rng=np.random.default_rng(seed), **options
    )


def mean_ratio(labels: NDArray[Any]) -> float:
    """MeanIR, tag by tag."""
    counts = [int(column.sum()) for column in labels.T if column.any()]
    return float(np.mean([max(counts) / count for count in counts]))


# ----------------------------------------------------------------- ratios and thresholds


def test_imbalance_ratio_is_the_largest_count_by_the_own_one() -> None:
    np.testing.assert_array_equal(imbalance_ratios(np.array([12, 3, 0, 8])), [1.0, 4.0, np.nan, 1.5])
    assert np.isnan(imbalance_ratios(np.zeros(2))).all()
    assert imbalance_ratios(np.zeros(0)).shape == (0,)


def test_thresholds_are_the_mean_or_a_percentile_of_the_tags_that_occur() -> None:
    ratios = np.array([1.0, np.nan, 2.0, 3.0, 10.0])
    assert imbalance_threshold(ratios, "mean") == 4.0
    assert imbalance_threshold(ratios, "percentile_50") == 2.5
    assert imbalance_threshold(ratios, "percentile_25") == pytest.approx(1.75)  # between ranks 0 and 1 at 3/4
    assert imbalance_threshold(np.array([np.nan]), "mean") == np.inf


@pytest.mark.parametrize("threshold", ["median", "percentile_", "percentile_0", "percentile_100", "percentile_1.5", ""])
@pytest.mark.parametrize("method", METHODS)
def test_other_thresholds_are_refused(method: Callable[..., Synthetic], threshold: str) -> None:
    with pytest.raises(EdgeseaError, match="threshold must be mean or percentile_1"):
        run(method, matrix("1", "0"), threshold=threshold)


# ----------------------------------------------------------------- MLSMOTE by hand


def test_only_tags_above_the_threshold_get_clips() -> None:
    # counts 8, 4, 2: ratios 1, 2, 4, mean 7/3: only the last is rare, until 8 / count <= 7/3, at a count of 4
    labels = matrix("11.", "11.", "11.", "11.", "1.1", "1..", "1..", "1..", "..1")
    made = run(mlsmote, labels)
    # its two clips are seeds once each, and neighbours of each other
    assert sorted(zip(made.seed.tolist(), made.neighbor.tolist(), strict=True)) == [(4, 8), (8, 4)]
    np.testing.assert_array_equal(made.labels, [[1, 0, 1], [1, 0, 1]])  # half of the two have the first tag


def test_further_iterations_go_on_until_the_ratio_is_at_the_threshold() -> None:
    labels = matrix(*["1.."] * 40, *[".1."] * 40, *["..1"] * 2)  # ratios 1, 1, 20, mean 7.3; 40/6 is below, 40/5 not
    made = [run(mlsmote, labels, iterations=iterations) for iterations in (1, 2, 3)]
    assert [len(some) for some in made] == [2, 4, 4]
    assert sorted(made[1].seed.tolist()) == [80, 80, 81, 81]
    made = [run(label_set_smote, labels, iterations=iterations) for iterations in (1, 2, 3)]
    assert [len(some) for some in made] == [2, 4, 4]


def test_adding_stops_as_soon_as_the_ratio_is_at_the_threshold() -> None:
    # counts 9 and 3: ratios 1 and 3, mean 2: 9/4 is above, 9/5 is not
    labels = matrix(*["1."] * 9, *[".1"] * 3)
    made = run(mlsmote, labels)
    np.testing.assert_array_equal(made.labels, [[0, 1], [0, 1]])
    # counts 8 and 2: ratios 1 and 4, mean 2.5: 8/3 is above, 8/4 is not
    assert len(run(mlsmote, matrix(*["1."] * 8, *[".1"] * 2))) == 2
    # counts 12, 4, 3 at the median, ratios 1, 3, 4: 3 is not above 3, 12/3 = 4 is, 12/4 is no more
    made = run(mlsmote, matrix(*["1.."] * 12, *[".1."] * 4, *["..1"] * 3), threshold="percentile_50")
    np.testing.assert_array_equal(made.labels, [[0, 0, 1]])


def test_a_tag_without_a_clip_or_with_one_gets_nothing_but_the_second_counts_for_the_threshold() -> None:
    labels = matrix(*["1..."] * 6, *[".1.."] * 3, "..1.")
    # ratios 1, 2, 6: mean 3, so the second tag is not rare; without the third it would be
    assert len(run(mlsmote, labels)) == 0
    made = run(mlsmote, labels[:9])
    np.testing.assert_array_equal(made.labels, [[0, 1, 0, 0]])  # 6/4 = (1 + 2) / 2


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_those_of_half_of_seed_and_neighbours(seed: int) -> None:
    # the last tag is rare; of the clips that have it (8 to 11) the first to fourth tag is had by 1, 2, 3 and 4
    labels = matrix(*["1111."] * 8, "11111", ".1111", "..111", "...11")
    made = run(mlsmote, labels, seed=seed, threshold="percentile_75")
    assert len(made) == 4
    np.testing.assert_array_equal(made.labels, np.tile([0, 1, 1, 1, 1], (len(made), 1)))
    # with one neighbour, clips 8 and 9 have each other (half of two), and clip 11 has clip 10
    made = run(mlsmote, labels, seed=seed, threshold="percentile_75", neighbors=1)
    expected = {8: [1, 1, 1, 1, 1], 9: [1, 1, 1, 1, 1], 10: [0, 1, 1, 1, 1], 11: [0, 0, 1, 1, 1]}
    assert made.labels.tolist() == [expected[clip] for clip in made.seed.tolist()]


def test_neighbours_are_the_nearest_clips_with_the_tag() -> None:
    labels = matrix(*["1."] * 40, *[".1"] * 12)
    features = np.concatenate(
        [np.full((40, 1), 5.1), 10.0 * np.arange(12)[:, None] ** 1.1]
    )  # the first would be nearer
    made = run(mlsmote, labels, features, threshold="percentile_1", neighbors=2)
    assert set(made.seed.tolist()) == set(range(40, 52))
    pairs = set(zip((made.seed - 40).tolist(), (made.neighbor - 40).tolist(), strict=True))
    assert pairs <= {(0, 1), (0, 2), (11, 10), (11, 9)} | {(i, j) for i in range(1, 11) for j in (i - 1, i + 1)}
    many = run(mlsmote, labels, features, threshold="percentile_1", neighbors=2, iterations=2)
    chosen = {(seed, other) for seed, other in zip(many.seed.tolist(), many.neighbor.tolist(), strict=True)}
    assert len(chosen) > 12  # one of them at random: not always the same


def test_a_clip_is_no_neighbour_of_itself_even_among_equal_clips() -> None:
    labels = matrix(*["1."] * 60, *[".1"] * 30)
    for method in METHODS:
        made = run(method, labels, np.zeros((90, 3)), threshold="percentile_1")
        assert len(made) == 30
        assert (made.seed != made.neighbor).all()


# ----------------------------------------------------------------- label-set SMOTE by hand


def test_a_rare_set_is_completed_by_clips_whose_tags_make_it_up() -> None:
    # sets: {} 4, {a} 4, {b} 2, {a, b} 1, {c} 4; ratios 1, 1, 2, 4, 1, mean 1.8: {b} lacks 1 (4/3), {a, b} lacks 2
    labels = matrix("...", "...", "...", "...", "1..", "1..", "1..", "1..", ".1.", ".1.", "11.", *["..1"] * 4)
    partners = {
        ".1.": {(8, 9), (9, 8)}
        | {(i, j) for i in range(4) for j in (8, 9)}
        | {(j, i) for i in range(4) for j in (8, 9)},
        "11.": {(i, j) for i in (*range(4), *range(4, 8), 8, 9) for j in (10,)}
        | {(10, j) for j in range(10)}
        | {(i, j) for i in range(4, 8) for j in (8, 9)}
        | {(j, i) for i in range(4, 8) for j in (8, 9)},
    }
    seen: dict[str, set[tuple[int, int]]] = {name: set() for name in partners}
    for seed in range(300):
        made = run(label_set_smote, labels, seed=seed, neighbors=20)
        names = ["".join("1" if tag else "." for tag in row) for row in made.labels]
        assert sorted(names) == [".1.", "11.", "11."]
        for name, pair in zip(names, zip(made.seed.tolist(), made.neighbor.tolist(), strict=True), strict=True):
            seen[name].add(pair)
    assert seen == partners  # nothing else, and everything comes up


def test_only_the_nearest_compatible_clips_are_chosen_from() -> None:
    labels = matrix(*["1."] * 10, *[".1"] * 10, "11")
    features = np.r_[np.arange(10.0), 100 + np.arange(10.0), 50][:, None]
    for seed in range(30):
        made = run(label_set_smote, labels, features, seed=seed, neighbors=1)
        for clip, other in zip(made.seed.tolist(), made.neighbor.tolist(), strict=True):
            # 20 is nearer to 0 ... 9 than the clips of the other tag, and to 10 ... 19; of all, 9 is nearest to it
            assert other == (9 if clip == 20 else 20)


def test_a_set_that_nothing_completes_gets_nothing() -> None:
    labels = matrix(*["1.."] * 8, ".11")  # no clip has fewer of the tags of {b, c}
    assert len(run(label_set_smote, labels)) == 0
    labels = matrix(*["1.."] * 8, ".11", ".1.", "..1")
    made = run(label_set_smote, labels, threshold="percentile_1")
    assert {tuple(row) for row in made.labels.tolist()} == {(0, 1, 1)}


def test_the_empty_set_may_be_the_commonest_or_the_rare_one() -> None:
    made = run(label_set_smote, matrix(*[".."] * 6, "1.", "1."))  # ratios 1 and 3, mean 2: 6/3 is no more above
    np.testing.assert_array_equal(made.labels, [[1, 0]])
    made = run(label_set_smote, matrix("..", "..", *["1."] * 6))
    np.testing.assert_array_equal(made.labels, [[0, 0]])
    assert {*made.seed.tolist(), *made.neighbor.tolist()} == {0, 1}


# ----------------------------------------------------------------- against a slow version that follows the choices


def follow_mlsmote(made: Synthetic, features: Floats, labels: Bool, iterations: int, threshold: str, k: int) -> None:
    """Go through the algorithm one clip at a time; only what is random is taken from the result."""
    counts, place = labels.sum(0).astype(int), 0
    ratios = [max(counts) / count for count in counts if count]
    limit = np.mean(ratios) if threshold == "mean" else np.percentile(ratios, float(threshold.split("_")[1]))
    for _ in range(iterations):
        for tag in range(labels.shape[1]):
            bag = np.flatnonzero(labels[:, tag]).tolist()
            left = set(bag) if len(bag) > 1 else set()
            while left and max(counts) / counts[tag] > limit:
                seed, other = int(made.seed[place]), int(made.neighbor[place])
                left.remove(seed)
                rest = [clip for clip in bag if clip != seed]
                order = np.argsort(cdist(features[[seed]], features[rest])[0], kind="stable")
                nearest = [rest[index] for index in order[:k]]
                assert other in nearest
                votes = labels[[seed, *nearest]].mean(0)
                np.testing.assert_array_equal(made.labels[place], votes >= 0.5)
                counts = counts + made.labels[place].astype(int)
                place += 1
    assert place == len(made)


def follow_sets(made: Synthetic, features: Floats, labels: Bool, iterations: int, threshold: str, k: int) -> None:
    sets = [frozenset(np.flatnonzero(row).tolist()) for row in labels]
    distinct = sorted(set(sets), key=lambda tags: [tag in tags for tag in range(labels.shape[1])])
    counts, place = {tags: sets.count(tags) for tags in distinct}, 0
    most = max(counts.values())
    ratios = [most / count for count in counts.values()]
    limit = np.mean(ratios) if threshold == "mean" else np.percentile(ratios, float(threshold.split("_")[1]))
    for _ in range(iterations):
        for target in distinct:
            partners = {
                seed: [other for other in range(len(sets)) if other != seed and sets[other] | sets[seed] == target]
                for seed in range(len(sets))
                if sets[seed] <= target
            }
            left = {seed for seed, others in partners.items() if others}
            while left and most / counts[target] > limit:
                seed, other = int(made.seed[place]), int(made.neighbor[place])
                left.remove(seed)
                order = np.argsort(cdist(features[[seed]], features[partners[seed]])[0], kind="stable")
                assert other in [partners[seed][index] for index in order[:k]]
                assert frozenset(np.flatnonzero(made.labels[place]).tolist()) == target
                counts[target] += 1
                place += 1
    assert place == len(made)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Floats, Bool, dict[str, Any]]:
    """Few clips with whole-numbered features, so that many distances are equal, and tags from common to absent."""
    clips, tags = draw(st.integers(1, 30)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    features = rng.integers(0, draw(st.integers(1, 20)), (clips, draw(st.integers(1, 3)))).astype(np.float64)
    labels = rng.random((clips, tags)) < rng.random(tags) ** 2
    threshold = draw(st.sampled_from(["mean", "percentile_1", "percentile_50", "percentile_90"]))
    options = {"iterations": draw(st.integers(1, 3)), "threshold": threshold, "neighbors": draw(st.integers(1, 6))}
    return features, labels, options


@pytest.mark.parametrize(("method", "follow"), [(mlsmote, follow_mlsmote), (label_set_smote, follow_sets)])
def test_it_agrees_with_one_clip_at_a_time(method: Callable[..., Synthetic], follow: Callable[..., None]) -> None:
    made_any = []

    @settings(max_examples=150, deadline=None)
    @given(problems())
    def check(problem: tuple[Floats, Bool, dict[str, Any]]) -> None:
        features, labels, options = problem
        made = run(method, labels, features, **options)
        assert made.seed.dtype == made.neighbor.dtype == np.int64
        assert made.weight.dtype == np.float64
        assert made.labels.dtype == np.float32
        assert made.labels.shape == (len(made), labels.shape[1])
        assert ((made.weight >= 0) & (made.weight <= 1)).all()
        if labels.any() or method is label_set_smote:
            follow(made, features, labels, options["iterations"], options["threshold"], options["neighbors"])
        else:
            assert len(made) == 0
        made_any.append(len(made))

    check()
    assert sum(map(bool, made_any)) > 20


def test_blocks_of_seeds_do_not_change_what_is_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((400, 4)), rng.random((400, 4)) < [0.9, 0.5, 0.2, 0.05]
    monkeypatch.setattr("edgesea.tasks.oversampling.BLOCK", 7)
    made = run(mlsmote, labels, features, threshold="percentile_1")
    assert len(made) > 100
    follow_mlsmote(made, features.astype(np.float32).astype(np.float64), labels, 1, "percentile_1", 5)


# ----------------------------------------------------------------- the rest


@pytest.mark.parametrize("method", METHODS)
def test_it_is_a_function_of_the_generator(method: Callable[..., Synthetic]) -> None:
    rng = np.random.default_rng(1)
    features, labels = rng.standard_normal((300, 4)), rng.random((300, 4)) < [0.6, 0.3, 0.1, 0.05]
    one, same, other = (run(method, labels, features, seed=seed) for seed in (3, 3, 4))
    for name in ("seed", "neighbor", "weight", "labels"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
    assert one.weight.tolist() != other.weight.tolist()
    assert np.ptp(one.weight) > 0.5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (5, 3)])
def test_without_tags_there_is_nothing_to_make(method: Callable[..., Synthetic], shape: tuple[int, int]) -> None:
    made = run(method, np.zeros(shape, bool), np.zeros((shape[0], 2)))
    assert (len(made), made.labels.shape) == (0, (0, shape[1]))


@pytest.mark.parametrize("method", METHODS)
def test_bad_input_is_refused(method: Callable[..., Synthetic]) -> None:
    labels = matrix("1.", ".1")
    with pytest.raises(EdgeseaError, match="iterations must be at least 1, not 0"):
        run(method, labels, iterations=0)
    with pytest.raises(EdgeseaError, match="neighbors must be at least 1, not 0"):
        run(method, labels, neighbors=0)
    with pytest.raises(EdgeseaError, match=r"features \(3, 1\) and labels \(2, 2\)"):
        run(method, labels, line(3))
    with pytest.raises(EdgeseaError, match="labels must be 0 or 1"):
        run(method, np.array([[0.5], [1.0]]))  # type: ignore[arg-type]
    with pytest.raises(EdgeseaError, match="1 of 2 clips have NaN or infinite features, the first is clip 1"):
        run(method, labels, np.array([[0.0], [np.nan]]))


def test_the_tags_of_a_synthetic_city_become_less_imbalanced(tmp_path: Path) -> None:
    city = make_city(
        tmp_path, sensors=6, days=8, clips_per_day=8, seconds=1.0, sample_rate=8000, annotated=1.0, progress=False
    )
    rows = pd.read_csv(city.annotations)
    rows = rows[(rows["split"] == "train") & (rows["annotator_id"] > 0)]
    tags = [name for name in rows.columns if re.fullmatch(r"\d_.*_presence", name)]
    labels = (rows.groupby("audio_filename")[tags].max() > 0).to_numpy()
    assert labels.shape[1] == 8
    features = labels + 0.5 * np.random.default_rng(0).standard_normal(labels.shape)
    once = np.concatenate([labels, run(mlsmote, labels, features).labels])
    often = np.concatenate([labels, run(mlsmote, labels, features, iterations=5).labels])
    assert mean_ratio(often) < mean_ratio(once) < 0.95 * mean_ratio(labels)
    by_set = np.concatenate([labels, run(label_set_smote, labels, features).labels])

    def sets_ratio(some: NDArray[Any]) -> float:
        counts = np.unique(some, axis=0, return_counts=True)[1]
        return float((counts.max() / counts).mean())

    assert sets_ratio(by_set) < 0.9 * sets_ratio(labels)
