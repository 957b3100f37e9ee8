"""Sounds of machines and of things that are struck: coarse classes 1 to 4.

Every generator has the signature ``(code, length, sample_rate, rng) -> (length,)``: the fine code (never an ``X`` one)
decides the physical parameters, `rng` draws the individual. The scale of the result is arbitrary: the scene sets it.
"""

import numpy as np

from edgesea.demo.dsp import (
    Signal,
    add,
    band,
    convolved,
    decay,
    fades,
    filtered,
    log_uniform,
    modes,
    noise,
    tilt,
    tone,
    wander,
)

Range = tuple[float, float]

# Firing rate in Hz, slope of the harmonics in dB per octave, share of noise, its upper edge in Hz.
ENGINES: dict[str, tuple[Range, float, float, float]] = {
    "1-1": ((75.0, 150.0), -4.5, 0.25, 3000.0),
    "1-2": ((38.0, 75.0), -7.0, 0.5, 900.0),
    "1-3": ((16.0, 36.0), -6.0, 0.6, 350.0),
}

# Blows per second, irregularity of their distance, seconds to fall by 60 dB, resonance in Hz.
HAMMERS: dict[str, tuple[Range, float, Range, Range]] = {
    "2-1": ((25.0, 42.0), 0.03, (0.03, 0.07), (900.0, 3200.0)),
    "2-2": ((10.0, 24.0), 0.05, (0.05, 0.12), (500.0, 2200.0)),
    "2-3": ((4.5, 9.0), 0.08, (0.12, 0.3), (250.0, 900.0)),
    "2-4": ((0.8, 1.6), 0.03, (0.35, 0.9), (150.0, 600.0)),
}

# Pitch in Hz, slope of the harmonics in dB per octave, share of noise, teeth per turn, fall of pitch under load.
SAWS: dict[str, tuple[Range, float, float, int, float]] = {
    "4-1": ((85.0, 200.0), -3.0, 0.35, 1, 0.3),
    "4-2": ((200.0, 400.0), -6.0, 0.6, 9, 0.15),
    "4-3": ((80.0, 160.0), -5.0, 0.9, 16, 0.08),
}


def engine(code: str, length: int, sample_rate: int, rng: np.random.Generator) -> Signal:
    """An engine that idles or passes by: a low harmonic rumble and noise that pulses with the firing.

    The table spans four firings, so that unequal cylinders give the subharmonics that make engines sound rough.
    """
    pitches, slope, share, edge = ENGINES[code]
    passing = rng.random() < 0.5
    firing = log_uniform(*pitches, rng) * np.exp(0.06 * wander(length, 0.7, sample_rate, rng))
    if passing:  # revs rise or fall
        firing *= 1.0 + rng.uniform(0.05, 0.4) * np.linspace(-1.0, 1.0, length) * rng.choice([-1.0, 1.0])
    orders = np.arange(1, 161)
    partials = tilt(slope, corner=4.0)(orders.astype(np.float64)) * np.where(
        orders % 4 == 0, 1.0, rng.uniform(0.03, 0.3)
    )
    partials *= np.exp(0.4 * rng.standard_normal(len(orders)))
    harmonic = tone(firing / 4.0, partials, length, sample_rate, rng)
    pulse = np.maximum(0.0, 1.0 + rng.uniform(0.3, 0.9) * tone(firing, np.array([1.0, 0.5]), length, sample_rate, rng))
    hiss = noise(length, band(60.0, edge * rng.uniform(0.7, 1.4), order=1), sample_rate, rng) * pulse
    sound = (1.0 - share) * harmonic + share * hiss
    sound *= np.exp(rng.uniform(0.1, 0.35) * wander(length, 2.0, sample_rate, rng))
    if passing:
        moment = rng.uniform(0.25, 0.75) * length
        width = rng.uniform(0.2, 0.5) * length
        sound *= 1.0 / (1.0 + ((np.arange(length) - moment) / width * 2.0) ** 2)
    return sound * fades(length, 0.6, 0.6, sample_rate)


def _blows(rate: float, jitter: float, length: int, sample_rate: int, rng: np.random.Generator) -> Signal:
    """An impulse train (length,) of `rate` Hz with unequal distances and strengths, pausing now and then."""
    count = int(length / sample_rate * rate) + 2
    gaps = np.maximum(0.3, 1.0 + jitter * rng.standard_normal(count)) / rate
    times = (np.cumsum(gaps) - gaps[0] * rng.random()) * sample_rate
    times = times[times < length].astype(np.intp)
    # A pause needs several blows on either side to be heard as one: slow machines do not pause.
    working = wander(length, 0.7, sample_rate, rng) > (-0.8 if rate > 4.0 else -np.inf)
    train = np.zeros(length)
    train[times] = rng.uniform(0.6, 1.0, len(times)) * working[times]
    if not train.any():
        train[times[:1]] = 1.0
    return train


def machinery_impact(code: str, length: int, sample_rate: int, rng: np.random.Generator) -> Signal:
    """A machine that strikes: regular blows, each a resonating body plus a burst of noise, over a compressor's hiss."""
    rates, jitter, falls, resonances = HAMMERS[code]
    train = _blows(log_uniform(*rates, rng), jitter, length, sample_rate, rng)
    fall = rng.uniform(*falls)
    count = max(8, int(fall * sample_rate))
    freqs = np.array([log_uniform(*resonances, rng) for _ in range(4)]) * np.array([0.5, 1.0, 1.0, 2.1])
    body = convolved(train, modes(count, freqs, fall * rng.uniform(0.4, 1.0, 4), sample_rate, rng))
    envelope = np.maximum(0.0, convolved(train, decay(count, fall * rng.uniform(0.5, 0.9), sample_rate)))
    dust = noise(length, band(resonances[0], rng.uniform(2.5, 6.0) * 1e3, order=1), sample_rate, rng)
    air = noise(length, band(150.0, 1500.0, order=1), sample_rate, rng) * rng.uniform(0.01, 0.06)
    return (body + rng.uniform(0.4, 1.2) * envelope * dust + air) * fades(length, 0.02, 0.05, sample_rate)


def impact(code: str, length: int, sample_rate: int, rng: np.random.Generator) -> Signal:
    """Something falls, slams or clatters (3-1): two to nine irregular blows of wood, metal, a door, or rubble."""
    low, high, shortest, longest, hiss = (
        (60.0, 250.0, 0.1, 0.35, 0.6),  # thump
        (500.0, 3800.0, 0.3, 1.4, 0.3),  # metal
        (250.0, 1200.0, 0.06, 0.2, 0.8),  # wood
        (150.0, 2500.0, 0.1, 0.5, 1.5),  # rubble
    )[rng.choice(4, p=[0.2, 0.4, 0.15, 0.25])]
    total = np.zeros(length)
    freqs = np.array([log_uniform(low, high, rng) for _ in range(6)])
    start = 0
    for _ in range(rng.integers(2, 10)):
        fall = rng.uniform(shortest, longest)
        count = int(1.2 * fall * sample_rate)
        body = modes(count, freqs * rng.uniform(0.97, 1.03), fall * rng.uniform(0.3, 1.0, 6), sample_rate, rng)
        burst = noise(count, band(2.0 * low, 3.0 * high, order=1), sample_rate, rng) * decay(
            count, 0.4 * fall, sample_rate
        )
        add(total, rng.uniform(0.3, 1.0) * (body + hiss * burst), start)
        start += int(sample_rate * log_uniform(0.1, 1.8, rng))
    return total * fades(length, 0.001, 0.02, sample_rate)


def powered_saw(code: str, length: int, sample_rate: int, rng: np.random.Generator) -> Signal:
    """A power saw: a buzzing tone and strong treble noise; in the cut the pitch falls and the noise rises."""
    pitches, slope, share, teeth, fall = SAWS[code]
    load = 1.0 / (1.0 + np.exp(-4.0 * wander(length, 0.6, sample_rate, rng)))
    spin = 1.0 - np.exp(-np.arange(length) / (rng.uniform(0.1, 0.4) * sample_rate))
    pitch = log_uniform(*pitches, rng) * (1.0 - rng.uniform(0.4, 1.0) * fall * load) * np.maximum(spin, 0.2)
    pitch *= np.exp(0.01 * wander(length, 6.0, sample_rate, rng))
    orders = np.arange(1, 81)
    partials = tilt(slope, corner=2.0)(orders.astype(np.float64)) * np.exp(0.5 * rng.standard_normal(len(orders)))
    if teeth > 1:  # the blade rings at the rate of the teeth and its multiples
        partials[teeth - 1 :: teeth] += rng.uniform(0.3, 1.0) / np.arange(1, len(partials[teeth - 1 :: teeth]) + 1)
    buzz = tone(pitch, partials, length, sample_rate, rng)
    grit = noise(length, band(rng.uniform(1800.0, 2800.0), rng.uniform(5.0, 7.5) * 1e3), sample_rate, rng)
    rough = np.maximum(0.0, 1.0 + 0.5 * tone(pitch, np.ones(2), length, sample_rate, rng))
    sound = (1.0 - 0.5 * share) * buzz * (0.5 + 0.5 * load) + share * grit * rough * (0.3 + 0.7 * load)
    return filtered(sound * fades(length, 0.1, 0.2, sample_rate), tilt(-1.0, 1000.0), sample_rate)
