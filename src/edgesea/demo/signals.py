"""Alert signals (coarse class 5) and music (6); the signature is that of `edgesea.demo.machines`."""

from collections.abc import Callable

import numpy as np

from edgesea.demo.dsp import Signal, add, band, decay, fades, filtered, log_uniform, noise, tilt, tone, wander

MAJOR = np.array([0, 2, 4, 5, 7, 9, 11])
MINOR = np.array([0, 2, 3, 5, 7, 8, 10])
PROGRESSIONS = ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 4, 3), (0, 0, 3, 4))  # scale degrees of the roots


def _square(length: int, rate: float, duty: float, sample_rate: int) -> Signal:
    """An on-off gate (length,) of `rate` Hz with edges of 5 ms, starting with on."""
    phase = np.arange(length) * (rate / sample_rate) % 1.0
    edge = max(0.005 * rate, 1e-6)
    return np.asarray(np.clip(np.minimum(phase, duty - phase) / edge, 0.0, 1.0))


def _horn(length: int, sample_rate: int, rng: np.random.Generator) -> Signal:
    """The steady sound of a car horn, (length,): two buzzing tones a third apart."""
    pitch = rng.uniform(320.0, 480.0)
    partials = tilt(rng.uniform(-5.0, -1.5), corner=4.0)(np.arange(1.0, 25.0))
    return np.asarray(
        tone(pitch, partials, length, sample_rate, rng)
        + rng.uniform(0.5, 1.0) * tone(pitch * rng.uniform(1.18, 1.28), partials, length, sample_rate, rng)
    )


def car_horn(length: int, sample_rate: int, rng: np.random.Generator) -> Signal:
    """Two to six honks of 0.1 to 1.5 s."""
    horn = _horn(length, sample_rate, rng)
    gate = np.zeros(length)
    start = 0
    for _ in range(rng.integers(2, 7)):
        count = int(sample_rate * log_uniform(0.12, 1.5, rng))
        add(gate, fades(count, 0.02, 0.04, sample_rate), start)
        start += count + int(sample_rate * rng.uniform(0.08, 0.6))
    return horn * gate


def _sweep(shape: str, length: int, sample_rate: int, rng: np.random.Generator) -> Signal:
    """Pitch of a siren in Hz, (length,): the slow wail, the fast yelp or the European-like two-tone."""
    rate = {"wail": rng.uniform(0.15, 0.4), "yelp": rng.uniform(2.5, 4.5), "hi-lo": rng.uniform(0.8, 1.2)}[shape]
    phase = (np.arange(length) * (rate / sample_rate) + rng.random()) % 1.0
    if shape == "hi-lo":
        return np.asarray(np.where(phase < 0.5, 1.0, 0.75) * rng.uniform(550.0, 900.0))
    rise = rng.uniform(0.3, 0.6)
    ramp = np.where(phase < rise, phase / rise, (1.0 - phase) / (1.0 - rise))
    low = rng.uniform(450.0, 700.0)
    return np.asarray(low * (rng.uniform(1.8, 2.6)) ** ramp)


def siren(length: int, sample_rate: int, rng: np.random.Generator) -> Signal:
    """A siren that passes: a harmonic sweep with a slow swell."""
    pitch = _sweep(str(rng.choice(["wail", "yelp", "hi-lo"], p=[0.5, 0.3, 0.2])), length, sample_rate, rng)
    pitch *= np.linspace(1.0 + rng.uniform(0.0, 0.05), 1.0 - rng.uniform(0.0, 0.05), length)  # Doppler shift
    partials = tilt(rng.uniform(-9.0, -4.0), corner=1.0)(np.arange(1.0, 11.0))
    swell = np.exp(0.5 * wander(length, 0.4, sample_rate, rng))
    return tone(pitch, partials, length, sample_rate, rng) * swell * fades(length, 0.5, 0.5, sample_rate)


def reverse_beeper(length: int, sample_rate: int, rng: np.random.Generator) -> Signal:
    """The on-off tone of a reversing lorry, at 1 to 1.4 kHz (small ones at 2.8 kHz)."""
    pitch = rng.uniform(1000.0, 1400.0) if rng.random() < 0.8 else rng.uniform(2500.0, 2900.0)
    beep = tone(pitch, np.array([1.0, 0.15, 0.1]), length, sample_rate, rng)
    return beep * _square(length, rng.uniform(0.9, 1.8), rng.uniform(0.4, 0.6), sample_rate)


def car_alarm(length: int, sample_rate: int, rng: np.random.Generator) -> Signal:
    """A car alarm: the horn beeping fast, or short siren patterns that take turns."""
    if rng.random() < 0.4:
        return _horn(length, sample_rate, rng) * _square(length, rng.uniform(1.2, 3.0), 0.5, sample_rate)
    part = int(sample_rate * rng.uniform(1.5, 2.5))
    patterns = [_sweep(shape, length, sample_rate, rng) for shape in ("yelp", "hi-lo", "wail")]
    turn = (np.arange(length) // part + rng.integers(3)) % 3
    pitch = np.choose(turn, [patterns[0] * 1.6, patterns[1] * 2.0, patterns[2] * 1.5])
    sound = tone(pitch, np.array([1.0, 0.3, 0.4, 0.1]), length, sample_rate, rng)
    return sound * np.where(turn == 1, _square(length, 5.0, 0.6, sample_rate), 1.0)


ALERTS: dict[str, Callable[[int, int, np.random.Generator], Signal]] = {
    "5-1": car_horn,
    "5-2": car_alarm,
    "5-3": siren,
    "5-4": reverse_beeper,
}


def alert_signal(code: str, length: int, sample_rate: int, rng: np.random.Generator) -> Signal:
    """A sound that is made to be noticed: horn, alarm, siren or beeper."""
    return ALERTS[code](length, sample_rate, rng)


def _hertz(semitones: float) -> float:
    """Frequency of a note counted in semitones from A4."""
    return float(440.0 * 2.0 ** (semitones / 12.0))


def _chords(length: int, beat: float, sample_rate: int, rng: np.random.Generator) -> Signal:
    """A band without drums: three-note chords on a progression, a bass, and a melody, (length,)."""
    scale = MAJOR if rng.random() < 0.5 else MINOR
    key = rng.integers(-24, -12)
    progression = PROGRESSIONS[rng.integers(len(PROGRESSIONS))]
    partials = tilt(rng.uniform(-9.0, -4.0), corner=1.0)(np.arange(1.0, 13.0))
    ring = rng.uniform(0.5, 2.5)
    total = np.zeros(length)

    def play(degree: int, octave: int, start: int, seconds: float, loudness: float) -> None:
        pitch = _hertz(key + 12 * (octave + degree // 7) + scale[degree % 7])
        count = min(int(seconds * sample_rate), length - start)
        if count > 0:
            envelope = decay(count, ring, sample_rate) * fades(count, 0.01, 0.05, sample_rate)
            add(total, loudness * envelope * tone(pitch, partials, count, sample_rate, rng), start)

    for step in range(int(np.ceil(length / (beat * sample_rate)))):
        root = progression[step // 4 % len(progression)]
        start = int(step * beat * sample_rate)
        if step % 2 == 0:
            for degree in (0, 2, 4):
                play(root + degree, 1, start, 2.0 * beat, 0.5)
        play(root, 0, start, beat, 0.9)
        for half in (0, 1):
            if rng.random() < 0.6:
                play(root + int(rng.choice([0, 2, 4, 1, 7])), 2, start + int(half * beat * sample_rate / 2), beat, 0.6)
    return total


def _drums(length: int, beat: float, sample_rate: int, rng: np.random.Generator) -> Signal:
    """Kick on the odd beats, snare on the even ones, hi-hat on the halves, (length,)."""
    total = np.zeros(length)
    count = int(0.25 * sample_rate)
    fall = decay(count, 0.25, sample_rate)
    kick = fall * tone(50.0 + 80.0 * decay(count, 0.1, sample_rate), np.array([1.0, 0.2]), count, sample_rate, rng)
    snare = decay(count, 0.15, sample_rate) * noise(count, band(200.0, 5000.0, order=1), sample_rate, rng)
    hat = decay(count, 0.06, sample_rate) * noise(count, band(4500.0, 9000.0), sample_rate, rng)
    for half in range(int(np.ceil(2.0 * length / (beat * sample_rate)))):
        start = int(half * beat / 2.0 * sample_rate)
        add(total, 0.4 * hat, start)
        if half % 2 == 0:
            add(total, 2.0 * kick if half % 4 == 0 else 0.9 * snare, start)
    return total


def _music_box(length: int, sample_rate: int, rng: np.random.Generator) -> Signal:
    """The jingle of an ice-cream truck, (length,): one voice of ringing notes around 1 kHz."""
    total = np.zeros(length)
    step = rng.uniform(0.16, 0.26)
    key = rng.integers(5, 15)
    degree = 7
    for note in range(int(np.ceil(length / (step * sample_rate)))):
        if rng.random() < 0.8:
            degree = int(np.clip(degree + rng.choice([-2, -1, 1, 2, 0]), 0, 13))
            pitch = _hertz(key - 12 + 12 * (degree // 7) + MAJOR[degree % 7])
            count = int(0.6 * sample_rate)
            ring = tone(pitch, np.array([1.0, 0.1, 0.35, 0.05, 0.1]), count, sample_rate, rng)
            add(total, ring * decay(count, 0.6, sample_rate), int(note * step * sample_rate))
    return total


def music(code: str, length: int, sample_rate: int, rng: np.random.Generator) -> Signal:
    """Music: from a shop or a party (6-1), from a passing car (6-2, bass and a swell), or an ice-cream truck (6-3)."""
    if code == "6-3":
        return _music_box(length, sample_rate, rng) * fades(length, 0.05, 0.3, sample_rate)
    beat = 60.0 / rng.uniform(75.0, 135.0)
    drums = _drums(length, beat, sample_rate, rng)
    sound = _chords(length, beat, sample_rate, rng) + rng.uniform(0.2, 1.0) * drums
    if code == "6-1":
        return sound * fades(length, 0.3, 0.3, sample_rate)
    swell = 1.0 / (1.0 + ((np.arange(length) / length - rng.uniform(0.3, 0.7)) / rng.uniform(0.2, 0.5)) ** 2)
    dull = filtered(sound + drums, band(45.0, rng.uniform(350.0, 1500.0), order=1), sample_rate)
    return dull * swell * fades(length, 0.5, 0.5, sample_rate)
