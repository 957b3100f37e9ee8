from fractions import Fraction
from itertools import chain

import numpy as np
import pytest
from conftest import peak_memory
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesea.audio.framing import Framing, PieceCutter, SampleFraming, exact_seconds, piece_starts, piece_windows
from edgesea.errors import EdgeseaError


def ramp(samples: int) -> np.ndarray:
    """Sample i has the value i + 1, so that padding (0) shows."""
    return np.arange(1, samples + 1, dtype=np.float32)


def test_a_window_is_whole_samples_and_a_hop_any_number():
    assert Framing(1.0, 0.1).at(8000) == SampleFraming(8000, 800, 0)
    assert isinstance(Framing(1.0, 0.1).at(8000).hop, int)  # what has a quicker way
    assert Framing(1.0, 0.1, center=True).at(48000) == SampleFraming(48000, 4800, 24000)
    assert Framing(0.96, 0.3333).at(22050) == SampleFraming(21168, Fraction(3333 * 22050, 10000), 0)
    assert Framing(5 / 8000, 1.0, center=True).at(8000).pad == 2  # W // 2 of an odd W


def test_a_hop_is_the_number_that_its_float_stands_for():
    for hop, expected in (
        (0.1 + 0.2, Fraction(3, 10)),
        (0.7 - 0.6, Fraction(1, 10)),
        (1 / 30, Fraction(1, 30)),
        (1024 / 22050, Fraction(1024, 22050)),
        (0.033333, Fraction(33333, 10**6)),
        (3600.1, Fraction(36001, 10)),
        (1e9, 10**9),
        (np.pi, Fraction(np.pi)),
        (0.1 + 1e-8, Fraction(0.1 + 1e-8)),  # nearest to 1/10, but not its rounding: 9 ms in a day
    ):
        assert exact_seconds(hop) == expected


@settings(derandomize=True, deadline=None)
@given(st.integers(500, 10**6), st.floats(0.0, 3600.0))
def test_a_hop_of_whole_samples_at_any_rate_is_recognised(rate, seconds):
    samples = max(1, round(seconds * rate))
    step = Framing(1.0, samples / rate).at(rate).hop
    assert (step, type(step)) == (samples, int)


@settings(derandomize=True, deadline=None)
@given(st.floats(2e-3, 1e9), st.lists(st.integers(500, 10**6), min_size=2, max_size=2), st.integers(0, 10**7))
def test_windows_at_two_rates_begin_at_their_timestamp(hop, rates, index):
    """No more than a sample before it, however long the recording; `slack` is the rounding of the hop."""
    slack = index * hop * 2.0**-49
    starts = [Fraction(Framing(1.0, hop).at(rate).start(index), rate) for rate in rates]
    for start, rate in zip(starts, rates, strict=True):
        assert -1 / rate - slack < start - Fraction(hop) * index <= slack
    assert abs(starts[0] - starts[1]) < Fraction(1, min(rates))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.integers(1, 40), st.fractions(1, 60, max_denominator=50), st.booleans(), st.integers(0, 300))
def test_windows_are_counted_as_defined(window, hop, center, length):
    """One window at least, and as many as cover the clip; complete are those that end with it or before."""
    framing = SampleFraming(window, hop, window // 2 if center else 0)
    ends = [int(index * hop) - framing.pad + window for index in range(length + 2)]
    assert framing.count(length) == 1 + sum(end < length for end in ends)
    assert framing.complete(length) == sum(end <= length for end in ends[: framing.count(length)])
    assert [framing.start(index) for index in range(length + 2)] == [end - window for end in ends]


def test_timestamps_do_not_drift():
    assert Framing(1.0, 0.1, center=True).timestamps(4).tolist() == [0.0, 0.1, 0.2, 3 * 0.1]
    day = 24 * 3600
    assert Framing(1.0, 1 / 30).at(8000).start(30 * day) == 8000 * day  # of 266.67 samples: rounded, 108 s late


def test_lengths_that_no_recording_has_are_refused():
    for bad in (0.0, -1.0, float("nan"), float("inf"), "1", True, 1e10, 10**400):
        for name in ("window", "hop"):
            with pytest.raises(EdgeseaError, match=name):
                Framing(**{name: bad})
    for window, hop in ((1e-300, 1.0), (1.0, 5e-5), (1.0, 0.999 / 8000), (1.0, 1e-300)):
        with pytest.raises(EdgeseaError, match="8000 Hz"):
            Framing(window, hop).at(8000)
    assert Framing(1.0, 1 / 8000).at(8000).hop == 1


@st.composite
def chunked_clips(draw):
    window, hop = (
        draw(st.integers(1, 12)),
        draw(st.integers(1, 60) | st.fractions(Fraction(1, 2), 60, max_denominator=7)),
    )
    framing = SampleFraming(window, hop, draw(st.sampled_from([0, window // 2])))
    audio = ramp(draw(st.integers(0, 150)))
    cuts = sorted(draw(st.lists(st.integers(0, len(audio)), max_size=12)))
    return framing, audio, np.split(audio, cuts), draw(st.integers(1, 6))


@settings(derandomize=True, deadline=None, max_examples=400)
@given(chunked_clips(), st.booleans(), st.integers(-2, 2))
def test_pieces_of_any_chunks_give_the_windows_of_the_whole_clip(case, eager, extra):
    """Also some more or less: the resampler of another rate may give a sample more, and the student's rate counts."""
    framing, audio, chunks, size = case
    cutter = PieceCutter(framing, size, eager)
    pieces, fed = [], 0
    for chunk in chunks:
        pieces += cutter.feed(chunk)
        fed += len(chunk)
        if eager:  # every window comes with its last sample
            assert sum(piece.count for piece in pieces) == framing.complete(fed)
    wanted = max(sum(piece.count for piece in pieces), framing.count(fed) + extra, 1)
    pieces += cutter.finish(wanted if extra else None)
    assert cutter.size == size or cutter.size < size < 1 + cutter.size * framing.hop / framing.window
    assert all(1 <= piece.count <= cutter.size and len(piece.audio) <= size * framing.window for piece in pieces)
    assert eager or [piece.first for piece in pieces] == list(range(0, wanted, cutter.size))
    padded = np.pad(audio, (framing.pad, framing.window + 60 * wanted))
    formula = np.stack([padded[int(k * framing.hop) :][: framing.window] for k in range(wanted)])
    np.testing.assert_array_equal(np.concatenate([piece_windows(piece, framing) for piece in pieces]), formula)
    for piece in pieces:
        starts, padded = piece_starts(piece, framing) + 12, np.pad(piece.audio, 12)
        found = np.stack([padded[start : start + framing.window] for start in starts])
        np.testing.assert_array_equal(found, piece_windows(piece, framing))


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("hop", [1.5, 30.0, 3600.0, 1e9])
def test_memory_does_not_depend_on_the_hop(hop, eager):
    """Four windows take 32 kB, a chunk 40 kB; 10 000 s of audio 80 MB, and a last window may lie beyond its end."""
    framing = Framing(1.0, hop).at(2000)
    cutter = PieceCutter(framing, 4, eager)

    def add_up() -> list[float]:
        fed = chain.from_iterable(cutter.feed(np.ones(10000, np.float32)) for _ in range(2000))
        pieces = chain(fed, cutter.finish())
        return [total for piece in pieces for total in piece_windows(piece, framing).sum(1).tolist()]

    sums, peak = peak_memory(add_up)
    inside = [20_000_000 - framing.start(index) for index in range(framing.count(20_000_000))]
    assert sums == [min(2000, max(0, samples)) for samples in inside]
    assert peak < 1e6
