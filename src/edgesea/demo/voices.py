"""Human voices (coarse class 7) and dogs (8); the signature is that of `edgesea.demo.machines`."""

import numpy as np

from edgesea.demo.dsp import Signal, add, band, fades, filtered, log_uniform, noise, tone

# First three formants in Hz of some vowels (after Peterson and Barney, "Control methods used in a study of the
# vowels", JASA 1952, rounded).
VOWELS = np.array(
    [
        [270.0, 2290.0, 3010.0],
        [400.0, 2000.0, 2550.0],
        [530.0, 1840.0, 2480.0],
        [660.0, 1720.0, 2410.0],
        [730.0, 1090.0, 2440.0],
        [570.0, 840.0, 2410.0],
        [300.0, 870.0, 2240.0],
        [640.0, 1190.0, 2390.0],
    ]
)


def _partials(pitch: float, formants: Signal, slope: float) -> Signal:
    """Amplitudes of the harmonics of `pitch` (Hz): a glottal source of `slope` (dB per octave) behind `formants`."""
    freqs = pitch * np.arange(1.0, 1.0 + max(4, int(5000.0 / pitch)))
    widths = np.array([70.0, 110.0, 170.0])
    peaks = 1.0 / np.sqrt(1.0 + ((freqs[:, None] - formants) / widths) ** 2)
    return np.asarray((peaks * np.array([1.0, 0.6, 0.35])).sum(axis=1) * (freqs / freqs[0]) ** (slope / 6.02 + 0.5))


def talker(length: int, sample_rate: int, rng: np.random.Generator, *, shouting: bool = False) -> Signal:
    """One voice, (length,): phrases of syllables with falling pitch, each a vowel and at times a hissing consonant."""
    base = rng.uniform(85.0, 150.0) if rng.random() < 0.5 else rng.uniform(160.0, 250.0)
    size = 1.0 if base < 155.0 else 1.15  # a shorter vocal tract moves all formants up
    base *= rng.uniform(1.5, 2.2) if shouting else 1.0
    slope = -3.0 if shouting else rng.uniform(-9.0, -6.0)
    pace = rng.uniform(2.0, 3.5) if shouting else rng.uniform(3.5, 6.0)
    total = np.zeros(length)
    position = int(rng.uniform(0.0, 0.3) * sample_rate)
    while position < length:
        syllables = rng.integers(1, 5) if shouting else rng.integers(3, 12)
        for index in range(syllables):
            count = int(sample_rate / pace * rng.uniform(0.6, 1.4))
            pitch = base * np.exp(0.12 * rng.standard_normal() + 0.12 - 0.24 * index / syllables)
            bend = pitch * (1.0 + rng.uniform(-0.12, 0.12) * np.linspace(-1.0, 1.0, count))
            formants = VOWELS[rng.integers(len(VOWELS))] * size * rng.uniform(0.94, 1.06)
            vowel = tone(bend, _partials(pitch, formants, slope), count, sample_rate, rng)
            add(total, rng.uniform(0.5, 1.0) * vowel * fades(count, 0.05, 0.09, sample_rate), position)
            if rng.random() < 0.4:
                hiss = noise(count // 3 + 1, band(rng.uniform(1800.0, 3500.0), 7000.0), sample_rate, rng)
                add(total, rng.uniform(0.05, 0.25) * hiss * fades(len(hiss), 0.02, 0.03, sample_rate), position)
            position += count
        position += int(sample_rate * rng.uniform(0.25, 1.3))
    return total


def human_voice(code: str, length: int, sample_rate: int, rng: np.random.Generator) -> Signal:
    """People: talking (7-1), shouting (7-2), a crowd (7-3), or a voice from a loudspeaker (7-4)."""
    if code == "7-4":
        speech = filtered(talker(length, sample_rate, rng), band(350.0, 3200.0), sample_rate)
        return np.asarray(np.tanh(rng.uniform(1.5, 4.0) * speech))  # an overdriven megaphone
    voices = {"7-1": rng.integers(1, 3), "7-2": rng.integers(1, 3), "7-3": rng.integers(6, 10)}[code]
    shouting = [code == "7-2" or (code == "7-3" and rng.random() < 0.2) for _ in range(voices)]
    parts = [rng.uniform(0.4, 1.0) * talker(length, sample_rate, rng, shouting=loud) for loud in shouting]
    return np.asarray(np.sum(parts, axis=0) * fades(length, 0.05, 0.1, sample_rate))


def dog(code: str, length: int, sample_rate: int, rng: np.random.Generator) -> Signal:
    """A dog (8-1): bouts of two to four barks, or a whine now and then."""
    total = np.zeros(length)
    base = log_uniform(300.0, 800.0, rng)  # from a mastiff to a terrier
    whining = rng.random() < 0.1
    position = 0
    while position < length:
        for _ in range(1 if whining else rng.integers(2, 5)):
            count = int(sample_rate * (rng.uniform(0.4, 1.0) if whining else rng.uniform(0.09, 0.22)))
            phase = np.linspace(0.0, 1.0, count)
            arch = np.sin(np.pi * phase ** rng.uniform(0.5, 0.9))
            pitch = base * (rng.uniform(1.6, 2.2) if whining else 1.0) * (0.75 + rng.uniform(0.3, 0.7) * arch)
            peak = rng.uniform(2.0, 3.5)  # the open mouth favours one region of harmonics
            partials = np.exp(-0.5 * ((np.arange(1.0, 15.0) - peak) / rng.uniform(1.0, 2.5)) ** 2)
            call = tone(pitch, partials[: 3 if whining else 14], count, sample_rate, rng)
            breath = noise(count, band(1.5 * base, 8.0 * base, order=1), sample_rate, rng)
            call += (0.05 if whining else rng.uniform(0.2, 0.6)) * breath
            add(total, rng.uniform(0.6, 1.0) * call * fades(count, 0.01, 0.06, sample_rate) * arch**0.5, position)
            position += count + int(sample_rate * rng.uniform(0.08, 0.35))
        position += int(sample_rate * rng.uniform(0.3, 1.2))
    return total
