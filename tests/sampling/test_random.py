import numpy as np
from scipy.stats import chi2

from edgesea.sampling.frames import Candidates
from edgesea.sampling.random import choose_random


def made_of(*sizes: int) -> Candidates:
    """Candidates in frames of these sizes, interleaved."""
    frame = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    place = np.arange(len(frame))
    return Candidates(place * 0, place, frame, [(str(i), "") for i in range(len(sizes))])


def test_frames_get_equal_shares_and_no_window_twice() -> None:
    pool = made_of(50, 7, 30)
    chosen = choose_random(pool, 37, np.random.default_rng(1))
    assert np.bincount(pool.frame[chosen]).tolist() == [15, 7, 15]
    assert (np.diff(chosen) > 0).all()


def test_every_candidate_of_a_frame_is_equally_likely() -> None:
    pool, draws = made_of(20, 10), 6000
    rng = np.random.default_rng(2)
    counts = sum(np.bincount(choose_random(pool, 8, rng), minlength=30) for _ in range(draws))
    size = np.where(pool.frame == 0, 20, 10)
    share = 4 / size
    # Four of n without replacement: the counts are correlated, which makes this sum chi-squared with n - 1 each.
    variance = draws * share * (1 - share) * size / (size - 1)
    statistic = float((np.square(counts - draws * share) / variance).sum())
    assert 0.001 < chi2.sf(statistic, df=28) < 0.999


def test_nothing_to_choose_from() -> None:
    nothing = np.zeros(0, np.int64)
    assert len(choose_random(Candidates(nothing, nothing, nothing, []), 0, np.random.default_rng(0))) == 0


def test_a_frame_without_candidates_is_passed_over() -> None:
    pool = made_of(4, 0, 4)
    assert len(choose_random(pool, 6, np.random.default_rng(0))) == 6
