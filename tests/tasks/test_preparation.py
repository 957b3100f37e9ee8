import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from edgesea.errors import EdgeseaError
from edgesea.tasks.bags import Bags, Targets
from edgesea.tasks.context import SIZE, ContextEncoding
from edgesea.tasks.options import TaggingOptions
from edgesea.tasks.oversampling import label_set_smote, mlsmote
from edgesea.tasks.preparation import Preparation, as_clip_means, as_windows, check_finite, held_out, oversampled


def drawn(counts: list[int], size: int = 4, seed: int = 0, context: bool = False) -> Bags:
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((sum(counts), size)) @ rng.standard_normal((size, size)) + 7).astype(np.float32)
    where = rng.uniform(40, 41, (len(counts), 2))
    when = np.column_stack([rng.integers(low, high, len(counts)) for low, high in ((0, 24), (0, 7), (1, 53))])
    return Bags(rows, np.array(counts), np.hstack([where, when]) if context else None)


def test_embeddings_are_standardised_as_by_scikit_learn() -> None:
    train, test = drawn([3, 4, 2] * 10), drawn([5, 1], seed=1)
    scaler = StandardScaler().fit(train.rows.astype(np.float64))
    preparation = Preparation.fit(train, TaggingOptions())
    for bags in (train, test):
        found = preparation.apply(bags)
        np.testing.assert_allclose(found.rows, scaler.transform(bags.rows), atol=1e-5)
        assert found.rows.dtype == np.float32
        np.testing.assert_array_equal(found.counts, bags.counts)
    raw = Preparation.fit(train, TaggingOptions(standardize=False)).apply(test)
    np.testing.assert_array_equal(raw.rows, test.rows)


@pytest.mark.parametrize("standardize", [True, False])
def test_whitening_is_scikit_learns(standardize: bool) -> None:
    train, test = drawn([3, 4, 2] * 10, 6), drawn([5, 1], 6, seed=1)
    options = TaggingOptions(pca_components=3, standardize=standardize)
    scale = StandardScaler(with_std=standardize).fit(train.rows.astype(np.float64)).transform
    pca = PCA(3, whiten=True).fit(scale(train.rows))
    preparation = Preparation.fit(train, options)
    for bags in (train, test):
        wanted = pca.transform(scale(bags.rows))
        found = preparation.apply(bags).rows
        signs = np.sign((found * wanted).sum(0))  # an axis may point either way
        np.testing.assert_allclose(found * signs, wanted, atol=1e-4)


def test_there_are_no_more_components_than_directions() -> None:
    few = drawn([1, 2], 5)
    assert Preparation.fit(few, TaggingOptions(pca_components=9)).apply(few).rows.shape == (3, 2)
    many = drawn([30] * 3, 5)
    many.rows[:, 1], many.rows[:, 2] = 2 * many.rows[:, 0], 1.5
    found = Preparation.fit(many, TaggingOptions(pca_components=9)).apply(drawn([40], 5, seed=1)).rows
    assert found.shape == (40, 3)
    same = Bags(np.ones((4, 5), np.float32), np.array([4]))
    assert Preparation.fit(same, TaggingOptions(pca_components=2)).apply(same).rows.shape == (4, 0)


def test_context_follows_each_window() -> None:
    train, test = drawn([2, 1, 3], 512, context=True), drawn([2, 2], 512, seed=1, context=True)
    options = TaggingOptions(context=True)
    found = Preparation.fit(train, options).apply(test)
    assert found.rows.shape == (4, 597)  # as the challenge's baseline has it, for OpenL3
    assert found.context is None
    assert train.context is not None
    assert test.context is not None
    code = ContextEncoding.fit(train.context, standardize=True).encode(test.context)
    np.testing.assert_array_equal(found.rows[:, 512:], code[[0, 0, 1, 1]])
    plain = Preparation.fit(train, TaggingOptions()).apply(test)
    np.testing.assert_array_equal(found.rows[:, :512], plain.rows)
    assert Preparation.fit(train, TaggingOptions(context=True, pca_components=2)).apply(test).rows.shape == (
        4,
        2 + SIZE,
    )
    with pytest.raises(EdgeseaError, match="context needs the columns latitude, longitude"):
        Preparation.fit(drawn([2]), options)


def test_clip_means_and_single_windows() -> None:
    bags = Bags(np.arange(12, dtype=np.float32).reshape(6, 2), np.array([2, 0, 3, 1]), np.arange(20.0).reshape(4, 5))
    means = as_clip_means(bags)
    np.testing.assert_array_equal(means.rows, [[1, 2], [6, 7], [10, 11]])
    assert means.counts.tolist() == [1, 0, 1, 1]
    assert means.context is bags.context
    targets = Targets(np.eye(4, dtype=np.float32), np.ones((4, 4), bool), np.arange(4))
    windows, repeated = as_windows(bags, targets)
    np.testing.assert_array_equal(windows.rows, bags.rows)
    assert windows.counts.tolist() == [1] * 6
    assert windows.context is not None
    np.testing.assert_array_equal(windows.context[:, 0], [0, 0, 10, 10, 10, 15])
    assert repeated.sensors is not None
    assert repeated.sensors.tolist() == [0, 0, 2, 2, 2, 3]
    np.testing.assert_array_equal(repeated.labels.argmax(1), repeated.sensors)


def test_a_tenth_of_the_clips_is_held_out() -> None:
    rng = np.random.default_rng(0)
    for clips, wanted in ((1, 0), (2, 1), (9, 1), (50, 5), (300, 30)):
        assert held_out(clips, None, rng).sum() == wanted
        assert held_out(clips, np.arange(clips) % 9, rng).sum() == wanted  # too few sensors
    many = np.sum([held_out(50, None, np.random.default_rng(seed)) for seed in range(200)], 0)
    assert many.min() > 5


def test_whole_sensors_are_held_out_up_to_a_tenth_of_the_clips() -> None:
    sensors = np.repeat(np.arange(12), [200, 20, 10, 10, 10, 8, 8, 8, 8, 8, 5, 5])
    for seed in range(20):
        held = held_out(300, sensors, np.random.default_rng(seed))
        assert 20 < held.sum() <= 30
        assert not set(sensors[held]) & set(sensors[~held])
    equal = np.arange(100) % 10
    assert held_out(100, equal, np.random.default_rng(0)).sum() == 10


def test_embeddings_that_are_no_numbers_are_refused() -> None:
    bags = drawn([2, 0, 3, 1])
    check_finite(bags, "test")
    bags.rows[4, 1], bags.rows[5, 0] = np.nan, np.inf
    message = r"2 of 4 test clips hold NaN or infinity \(first: clip number 2, from 0\); embed them again"
    with pytest.raises(EdgeseaError, match=message):
        check_finite(bags, "test")


def rare() -> tuple[Bags, Targets]:
    """Sixty clips of one to four windows with two common tags and a rare one."""
    rng = np.random.default_rng(0)
    labels = np.column_stack([rng.random(60) < share for share in (0.7, 0.5, 0.12)]).astype(np.float32)
    bags = drawn(rng.integers(1, 5, 60).tolist(), context=True)
    return bags, Targets(labels, np.ones((60, 3), bool))


@pytest.mark.parametrize(("name", "smote"), [("mlsmote", mlsmote), ("lssmote", label_set_smote)])
def test_synthetic_clips_are_made_window_by_window(name: str, smote: object) -> None:
    bags, targets = rare()
    options = TaggingOptions(oversample=name, oversample_iters=2, thresh_type="percentile_60")  # type: ignore[arg-type]
    found, labelled = oversampled(bags, targets, options, np.random.default_rng(5))
    made = smote(  # type: ignore[operator]
        bags.means(), targets.labels, iterations=2, threshold="percentile_60", rng=np.random.default_rng(5)
    )
    assert len(made) > 3
    assert len(found) == len(labelled.labels) == 60 + len(made)
    np.testing.assert_array_equal(found.rows[: len(bags.rows)], bags.rows)
    np.testing.assert_array_equal(labelled.labels, np.concatenate([targets.labels, made.labels]))
    assert bags.context is not None
    assert found.context is not None
    first, row = bags.first, len(bags.rows)
    for clip, (seed, other, weight) in enumerate(zip(made.seed, made.neighbor, made.weight, strict=True), 60):
        for window in range(min(bags.counts[seed], bags.counts[other])):
            wanted = weight * bags.rows[first[seed] + window] + (1 - weight) * bags.rows[first[other] + window]
            np.testing.assert_allclose(found.rows[row], wanted, rtol=1e-4)
            row += 1
        where = weight * bags.context[seed, :2] + (1 - weight) * bags.context[other, :2]
        np.testing.assert_allclose(found.context[clip, :2], where)
        np.testing.assert_array_equal(found.context[clip, 2:], bags.context[seed, 2:])
    assert row == len(found.rows) == found.counts.sum()


def test_what_is_not_given_is_absent_for_oversampling_and_not_given_for_the_children() -> None:
    bags, targets = rare()
    given = np.random.default_rng(1).random(targets.given.shape) < 0.8
    options = TaggingOptions(oversample="mlsmote", thresh_type="percentile_60")
    _, labelled = oversampled(bags, Targets(targets.labels, given), options, np.random.default_rng(5))
    made = mlsmote(
        bags.means(), targets.labels * given, iterations=1, threshold="percentile_60", rng=np.random.default_rng(5)
    )
    np.testing.assert_array_equal(labelled.labels[60:], made.labels)
    np.testing.assert_array_equal(labelled.given[60:], given[made.seed] & given[made.neighbor])
    assert not labelled.given[60:].all()
    assert labelled.given[60:].any()
