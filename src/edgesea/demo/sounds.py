"""The sounds of the city: one generator for each coarse class of SONYC-UST, and the few tools that they share.

A generator takes the number of the fine class in its coarse one, which decides the physical parameters, a length in
samples, and what draws the individual sound. It returns samples of any scale; the scene decides how loud they are.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

Signal = NDArray[np.float64]
Rng = np.random.Generator

RATE = 16000
TABLE = 4096  # points of one period of a tone
# Lowest and highest rate in Hz; then slope of the partials in dB per octave, share of noise and its edge in Hz; ...
ENGINES = ((75, 150, -4.5, 0.25, 3000), (38, 75, -7, 0.5, 900), (16, 36, -6, 0.6, 350))
# ... seconds to fall silent and resonance in Hz; ...
HAMMERS = ((25, 42, 0.05, 1700), (10, 24, 0.08, 1000), (4.5, 9, 0.2, 500), (0.8, 1.6, 0.6, 300))
# ... slope, share of noise, teeth of the blade and fall of the pitch in the cut; resonances, seconds, share of noise.
SAWS = ((85, 200, -3, 0.35, 1, 0.3), (200, 400, -6, 0.6, 9, 0.15), (80, 160, -5, 0.9, 16, 0.08))
MATERIALS = ((60, 250, 0.2, 0.6), (500, 3800, 0.8, 0.3), (250, 1200, 0.1, 0.8), (150, 2500, 0.3, 1.5))
CYCLES = ((2.5, 4.5), (0.15, 0.6), (0.9, 1.8))  # of car alarm, siren and beeper in a second
MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
PROGRESSIONS = ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 4, 3))  # scale degrees of the roots
# First two formants in Hz of some vowels (after Peterson and Barney, JASA 1952).
VOWELS = np.array([[270, 2290], [400, 2000], [530, 1840], [660, 1720], [730, 1090], [570, 840], [300, 870]])


def log_uniform(low: float, high: float, rng: Rng) -> float:
    """Equal intervals of pitch or tempo are equally likely."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def unit(sound: Signal) -> Signal:
    return np.asarray(sound / max(np.sqrt(np.mean(sound**2)), 1e-12))


def noise(n: int, low: float, high: float, rng: Rng) -> Signal:
    """Noise between two frequencies, of RMS 1."""
    band = signal.butter(1, (low, min(high, 0.45 * RATE)), "bandpass", fs=RATE, output="sos")
    return unit(signal.sosfilt(band, rng.standard_normal(n)))


def tone(pitch: Signal | float, partials: Signal | list[float], n: int, rng: Rng) -> Signal:
    """A harmonic tone of RMS 1 whose pitch in Hz may drift; partials that could alias are left out."""
    highest = max(1, int(0.45 * RATE / np.max(pitch)))
    amplitudes = np.asarray(partials)[:highest]
    spectrum = np.zeros(TABLE // 2 + 1, complex)
    spectrum[1 : len(amplitudes) + 1] = amplitudes * np.exp(2j * np.pi * rng.random(len(amplitudes)))
    phase = np.cumsum(np.broadcast_to(pitch, n)) / RATE
    table = unit(fft.irfft(spectrum))
    return np.asarray(table[(phase % 1.0 * TABLE).astype(int)])


def slope(decibels: float, count: int, corner: float = 1.0) -> Signal:
    """Amplitudes of partials 1 ... count, falling by so many dB per octave above `corner`."""
    return np.asarray(np.maximum(np.arange(1, count + 1) / corner, 1.0) ** (decibels / 6.02))


def wander(n: int, per_second: float, rng: Rng) -> Signal:
    """A slow random curve of normal values."""
    time = np.arange(n) * per_second / RATE
    return np.interp(time, np.arange(int(time[-1]) + 2), rng.standard_normal(int(time[-1]) + 2))


def decay(n: int, seconds: float) -> Signal:
    """From 1 down by 60 dB in so many seconds."""
    return np.asarray(np.exp(-6.9 / (seconds * RATE) * np.arange(n)))


def fades(n: int, seconds: float) -> Signal:
    return np.asarray(signal.windows.tukey(n, min(1.0, 2 * seconds * RATE / n)))


def passing(n: int, rng: Rng) -> Signal:
    """Loudness of something that comes and goes."""
    return np.asarray(1 / (1 + ((np.linspace(0, 1, n) - rng.uniform(0.3, 0.7)) / rng.uniform(0.1, 0.3)) ** 2))


def struck(low: float, high: float, seconds: float, rng: Rng) -> Signal:
    """A body that was hit: six damped modes."""
    n = int(seconds * RATE)
    modes = [np.sin(2 * np.pi * log_uniform(low, high, rng) / RATE * np.arange(n)) for _ in range(6)]
    parts = [mode * decay(n, seconds * rng.uniform(0.3, 1.0)) * rng.uniform(0.4, 1.0) for mode in modes]
    return np.asarray(np.sum(parts, axis=0))


def add(target: Signal, sound: Signal, start: int) -> None:
    """Add in place; what overhangs the end is dropped."""
    part = target[start : start + len(sound)]
    part += sound[: len(part)]


def engine(kind: int, n: int, rng: Rng) -> Signal:
    """A small, medium or large engine that idles or passes by: a low rumble, and noise that pulses with the firing."""
    low, high, tilt, share, edge = ENGINES[kind]
    firing = log_uniform(low, high, rng) * np.exp(0.06 * wander(n, 0.7, rng))
    # Four firings a period: unequal cylinders give the subharmonics that make engines sound rough.
    partials = slope(tilt, 160, corner=4) * np.exp(0.4 * rng.standard_normal(160))
    partials[np.arange(1, 161) % 4 > 0] *= rng.uniform(0.03, 0.3)
    pulse = np.maximum(0, 1 + rng.uniform(0.3, 0.9) * tone(firing, [1.0, 0.5], n, rng))
    hiss = noise(n, 60, edge * rng.uniform(0.7, 1.4), rng) * pulse
    sound = (1 - share) * tone(firing / 4, partials, n, rng) + share * hiss
    sound *= np.exp(rng.uniform(0.1, 0.35) * wander(n, 2.0, rng)) * fades(n, 0.5)
    return sound * passing(n, rng) if rng.random() < 0.5 else sound


def machinery_impact(kind: int, n: int, rng: Rng) -> Signal:
    """Rock drill, jackhammer, hoe ram or pile driver: regular blows, each a ringing body and a burst of noise."""
    low, high, fall, resonance = HAMMERS[kind]
    rate, fall = log_uniform(low, high, rng), fall * rng.uniform(0.6, 1.5)
    gaps = np.maximum(0.3, 1 + 0.05 * rng.standard_normal(int(n / RATE * rate) + 2)) / rate
    times = ((np.cumsum(gaps) - gaps[0] * rng.random()) * RATE).astype(int)
    times = times[times < n]
    blows = np.zeros(n)
    blows[times] = rng.uniform(0.6, 1.0, len(times)) * (wander(n, 0.7, rng)[times] > (-0.8 if rate > 4 else -9))
    body = signal.fftconvolve(blows, struck(resonance / 2, 2 * resonance, fall, rng))[:n]
    dust = signal.fftconvolve(blows, decay(int(fall * RATE), fall))[:n] * noise(n, resonance, 5000, rng)
    return np.asarray(body + rng.uniform(0.4, 1.2) * dust + 0.03 * noise(n, 150, 1500, rng))


def impact(kind: int, n: int, rng: Rng) -> Signal:
    """Something falls, slams or clatters: a few irregular blows of thumping stuff, metal, wood or rubble."""
    low, high, fall, hiss = MATERIALS[rng.integers(len(MATERIALS))]
    total, start = np.zeros(n), 0
    for _ in range(rng.integers(2, 10)):
        body = struck(low, high, fall * rng.uniform(0.5, 1.7), rng)
        burst = noise(len(body), 2 * low, 3 * high, rng) * decay(len(body), 0.4 * len(body) / RATE)
        add(total, rng.uniform(0.3, 1.0) * (body + hiss * burst), start)
        start += int(RATE * log_uniform(0.1, 1.8, rng))
    return total


def powered_saw(kind: int, n: int, rng: Rng) -> Signal:
    """Chainsaw, small or large rotating saw: a buzz and noise; in the cut the pitch falls and the noise rises."""
    low, high, tilt, share, teeth, fall = SAWS[kind]
    load = 1 / (1 + np.exp(-4 * wander(n, 0.6, rng)))
    pitch = log_uniform(low, high, rng) * (1 - rng.uniform(0.4, 1.0) * fall * load)
    pitch *= np.maximum(0.2, 1 - decay(n, rng.uniform(0.7, 2.5))) * np.exp(0.01 * wander(n, 6.0, rng))
    partials = slope(tilt, 80, corner=2) * np.exp(0.5 * rng.standard_normal(80))
    if teeth > 1:  # the blade rings at the rate of its teeth
        partials[teeth - 1 :: teeth] += rng.uniform(0.3, 1.0) / np.arange(1, 80 // teeth + 1)
    grit = noise(n, rng.uniform(1800, 2800), rng.uniform(5000, 7000), rng) * (0.3 + 0.7 * load)
    return ((1 - share / 2) * tone(pitch, partials, n, rng) * (0.5 + load / 2) + share * grit) * fades(n, 0.15)


def alert_signal(kind: int, n: int, rng: Rng) -> Signal:
    """A horn that honks, a car alarm that yelps, a siren that wails or hoots, or the beeper of a reversing lorry."""
    if kind == 0:
        pitch, buzz = rng.uniform(320, 480), slope(rng.uniform(-5, -1.5), 24, corner=4)
        honks, start = np.zeros(n), 0
        for _ in range(rng.integers(2, 7)):
            count = int(RATE * log_uniform(0.12, 1.5, rng))
            add(honks, fades(count, 0.03), start)
            start += count + int(RATE * rng.uniform(0.08, 0.6))
        return honks * (tone(pitch, buzz, n, rng) + rng.uniform(0.5, 1.0) * tone(1.25 * pitch, buzz, n, rng))
    hoots = kind == 2 and rng.random() < 0.3
    phase = 2 * np.pi * (np.arange(n) * rng.uniform(*CYCLES[kind - 1]) / RATE + rng.random())
    if kind == 3:
        return tone(log_uniform(1000, 2800, rng), [1.0, 0.15, 0.1], n, rng) * (np.sin(phase) > 0)
    curve = 0.4 * signal.square(2 * phase) if hoots else signal.sawtooth(phase, rng.uniform(0.3, 0.6))
    pitch = (2 - kind / 2) * rng.uniform(650, 1000) * rng.uniform(1.3, 1.6) ** curve
    return tone(pitch, slope(rng.uniform(-9, -4), 10), n, rng) * np.exp(0.5 * wander(n, 0.4, rng)) * fades(n, 0.5)


def music(kind: int, n: int, rng: Rng) -> Signal:
    """A band in a shop or (dull) in a passing car, or the music box of an ice-cream truck."""
    box = kind == 2
    scale = MAJOR if box or rng.random() < 0.5 else MINOR
    beat = rng.uniform(0.16, 0.26) if box else 60 / rng.uniform(75, 135)
    key = log_uniform(330, 600, rng) if box else log_uniform(110, 220, rng)
    partials = [1.0, 0.1, 0.35, 0.05, 0.1] if box else slope(rng.uniform(-9, -4), 12)
    total, drums, degree, hit = np.zeros(n), rng.uniform(0.2, 1.0), 7, int(0.25 * RATE)
    roots = PROGRESSIONS[rng.integers(len(PROGRESSIONS))]
    for number in range(int(n / RATE / beat) + 1):
        start = int(number * beat * RATE)
        degree = int(np.clip(degree + rng.integers(-2, 3), 0, 13))
        notes = [(degree if box else degree + 7, 0.6 if box else beat)] if rng.random() < 0.8 else []
        if not box:
            if number % 4 == 0:
                notes += [(roots[number // 4 % 4] + third, 4 * beat) for third in (-7, 0, 2, 4)]
            kick = tone(50 + 80 * decay(hit, 0.1), [1.0, 0.2], hit, rng)
            add(total, drums * decay(hit, 0.2) * (0.7 * noise(hit, 300, 6000, rng) if number % 2 else kick), start)
        for step, seconds in notes:
            count = int(seconds * RATE)
            note = tone(key * 2 ** (step // 7 + scale[step % 7] / 12), partials, count, rng)
            add(total, 0.6 * note * decay(count, 2 * seconds) * fades(count, 0.02), start)
    if kind == 1:
        dull = signal.butter(1, rng.uniform(350, 1500), fs=RATE, output="sos")
        total = signal.sosfilt(dull, total) * passing(n, rng)
    return total


def talker(n: int, rng: Rng, shouting: bool) -> Signal:
    """One voice: phrases of syllables with falling pitch, each a vowel and at times a hissing consonant."""
    base = log_uniform(85, 250, rng) * (rng.uniform(1.5, 2.2) if shouting else 1.0)
    pace, tilt = (rng.uniform(2.0, 3.5), -3.0) if shouting else (rng.uniform(3.5, 6.0), rng.uniform(-9.0, -6.0))
    total, start = np.zeros(n), int(rng.uniform(0.0, 0.3) * RATE)
    while start < n:
        syllables = rng.integers(1, 5) if shouting else rng.integers(3, 12)
        for index in range(syllables):
            count = int(RATE / pace * rng.uniform(0.6, 1.4))
            pitch = base * np.exp(0.12 * rng.standard_normal() + 0.12 - 0.24 * index / syllables)
            harmonics = pitch * np.arange(1, 6 + int(4000 / pitch))
            formants = VOWELS[rng.integers(len(VOWELS))] * rng.uniform(0.94, 1.15)
            peaks = (1 / np.sqrt(1 + ((harmonics[:, None] - formants) / (80, 120)) ** 2)) @ (1.0, 0.6)
            bend = pitch * np.linspace(1.0, rng.uniform(0.85, 1.15), count)
            vowel = tone(bend, peaks * slope(tilt + 3, len(peaks)), count, rng)
            add(total, rng.uniform(0.5, 1.0) * vowel * fades(count, 0.07), start)
            if rng.random() < 0.4:
                hiss = noise(count // 3 + 1, rng.uniform(1800, 3500), 7000, rng)
                add(total, rng.uniform(0.05, 0.25) * hiss * fades(len(hiss), 0.03), start)
            start += count
        start += int(RATE * rng.uniform(0.25, 1.3))
    return total


def human_voice(kind: int, n: int, rng: Rng) -> Signal:
    """People: talking, shouting, a crowd, or a voice from an overdriven loudspeaker."""
    if kind == 3:
        phone = signal.butter(2, (350, 3200), "bandpass", fs=RATE, output="sos")
        return np.asarray(np.tanh(rng.uniform(1.5, 4.0) * signal.sosfilt(phone, talker(n, rng, shouting=False))))
    voices = rng.integers(6, 10) if kind == 2 else rng.integers(1, 3)
    parts = [rng.uniform(0.4, 1.0) * talker(n, rng, shouting=kind == 1) for _ in range(voices)]
    return np.asarray(np.sum(parts, axis=0))


def dog(kind: int, n: int, rng: Rng) -> Signal:
    """Bouts of two to four barks."""
    base, total, start = log_uniform(300, 800, rng), np.zeros(n), 0
    while start < n:
        for _ in range(rng.integers(2, 5)):
            count = int(RATE * rng.uniform(0.09, 0.22))
            arch = np.sin(np.pi * np.linspace(0, 1, count) ** rng.uniform(0.5, 0.9))
            mouth = np.exp(-0.5 * ((np.arange(1, 15) - rng.uniform(2, 3.5)) / rng.uniform(1.0, 2.5)) ** 2)
            bark = tone(base * (0.75 + rng.uniform(0.3, 0.7) * arch), mouth, count, rng)
            bark += rng.uniform(0.2, 0.6) * noise(count, 1.5 * base, 8 * base, rng)
            add(total, rng.uniform(0.6, 1.0) * bark * fades(count, 0.03) * np.sqrt(arch), start)
            start += count + int(RATE * rng.uniform(0.08, 0.35))
        start += int(RATE * rng.uniform(0.3, 1.2))
    return total


GENERATORS = (engine, machinery_impact, impact, powered_saw, alert_signal, music, human_voice, dog)


def make_sound(code: str, n: int, rng: Rng) -> Signal:
    """One sound of a fine code like ``2-2``, at most n samples, without silence at either end."""
    sound = GENERATORS[int(code[0]) - 1](int(code[2]) - 1, n, rng)
    loud = np.flatnonzero(np.abs(sound) > 1e-3 * np.abs(sound).max())
    return sound[loud[0] : loud[-1] + 1]
