import numpy as np
from sklearn.preprocessing import StandardScaler

from edgesea.tasks.context import SIZE, ContextEncoding, one_hot

#                  latitude longitude hour day week
CLIPS = np.array([[40.70, -74.00, 0, 0, 1], [40.75, -73.98, 23, 6, 52], [40.80, -73.99, 12, 3, 26.0]])
HOUR, DAY, WEEK = 2, 2 + 24, 2 + 24 + 7


def test_one_hot_codes_begin_at_the_first_value() -> None:
    code = one_hot(np.array([1.0, 3.0, 0.0, 4.0, np.nan, 1.5]), 1, 3)
    np.testing.assert_array_equal(code, [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])


def test_the_code_has_the_baselines_size_and_each_part_its_place() -> None:
    # 512 dimensions of OpenL3 and the context make the 597 inputs that the challenge's baseline documents.
    assert 512 + SIZE == 597
    code = ContextEncoding.fit(CLIPS, standardize=True).encode(CLIPS)
    assert (code.shape, code.dtype) == ((3, SIZE), np.float32)
    wanted = [{HOUR, DAY, WEEK}, {HOUR + 23, DAY + 6, WEEK + 51}, {HOUR + 12, DAY + 3, WEEK + 25}]
    assert [set((2 + np.flatnonzero(row[2:])).tolist()) for row in code] == wanted
    assert (code[:, 2:].sum(1) == 3).all()


def test_coordinates_are_standardised_as_by_scikit_learn() -> None:
    code = ContextEncoding.fit(CLIPS, standardize=True).encode(CLIPS)
    np.testing.assert_allclose(code[:, :2], StandardScaler().fit_transform(CLIPS[:, :2]), atol=1e-5)
    raw = ContextEncoding.fit(CLIPS, standardize=False).encode(CLIPS)
    np.testing.assert_allclose(raw[:, :2], CLIPS[:, :2], rtol=1e-6)


def test_week_53_and_missing_times_are_all_zeros() -> None:
    odd = CLIPS.copy()
    odd[0, 4], odd[1, 2:] = 53, np.nan
    code = ContextEncoding.fit(CLIPS, standardize=True).encode(odd)
    assert not code[0, WEEK:].any()
    assert code[0, HOUR] == 1
    assert not code[1, 2:].any()


def test_missing_coordinates_are_the_mean_of_the_training_clips() -> None:
    odd = CLIPS.copy()
    odd[1, 0] = np.nan
    encoding = ContextEncoding.fit(odd, standardize=True)
    np.testing.assert_allclose(encoding.mean, [40.75, -73.99])
    assert encoding.encode(odd)[1, 0] == 0.0
    np.testing.assert_allclose(encoding.encode(odd)[[0, 2], 0], [-1, 1], rtol=1e-5)
    raw = ContextEncoding.fit(odd, standardize=False).encode(odd)
    np.testing.assert_allclose(raw[1, 0], 40.75, rtol=1e-6)


def test_a_single_place_or_none_is_no_noise() -> None:
    place = np.repeat(CLIPS[:1], 7, axis=0)
    encoding = ContextEncoding.fit(place, standardize=True)
    np.testing.assert_allclose(encoding.encode(place)[:, :2], 0.0, atol=1e-6)
    assert np.abs(encoding.encode(CLIPS)[:, :2]).max() < 1
    nowhere = np.full((3, 5), np.nan)
    assert not ContextEncoding.fit(nowhere, standardize=True).encode(nowhere).any()
