"""One clip: which events happen, and how they sound at the sensor."""

from dataclasses import dataclass, replace

import numpy as np

from edgesea.demo.dsp import Signal, add, band, bins, fast_length, rms
from edgesea.demo.sensors import Sensor, background_level, rate
from edgesea.demo.sounds import background, make_sound
from edgesea.demo.taxonomy import COARSE, FINE, sure_codes

# Greatest duration in seconds, and the relative frequencies of the fine classes.
HABIT: dict[str, tuple[tuple[float, float], tuple[float, ...]]] = {
    "1": ((5.0, 10.0), (0.25, 0.4, 0.35)),
    "2": ((5.0, 10.0), (0.3, 0.4, 0.2, 0.1)),
    "3": ((4.0, 9.0), (1.0,)),
    "4": ((5.0, 10.0), (0.3, 0.4, 0.3)),
    "5": ((5.0, 10.0), (0.35, 0.1, 0.35, 0.2)),
    "6": ((7.0, 10.0), (0.5, 0.25, 0.25)),
    "7": ((5.0, 10.0), (0.55, 0.2, 0.15, 0.1)),
    "8": ((4.0, 10.0), (1.0,)),
}
NEAR = 0.75  # share of events near the sensor
SNR = {"near": (13.0, 22.0), "far": (-3.0, 14.0)}  # level above the background in dB
# By how many dB a class is louder than that: who strikes or barks is loud for a moment only, else nobody would notice.
LOUD = {"1": -1.0, "2": 5.0, "3": 8.0, "4": 2.0, "5": 3.0, "6": 3.0, "7": 0.0, "8": 7.0}
FAINTEST = -3.0  # dB; what is fainter would not be noticed by anyone
CUTOFF = {"near": (5000.0, 12000.0), "far": (2000.0, 6000.0)}  # air and corners take the treble, Hz
WET = {"near": (0.05, 0.25), "far": (0.2, 0.5)}  # share of the reverberation in the amplitude
UNSURE = {"near": 0.06, "far": 0.22}  # probability that the fine class cannot be told
FAST = 0.125  # seconds, the "fast" time constant of sound level meters
PEAK = 0.9  # no sample of a clip is larger ...
EVENT_PEAK = 0.6  # ... and none of a single event, so that one bang does not turn down all that sounds with it


@dataclass(frozen=True)
class Event:
    """One sound source in a clip.

    Attributes
    ----------
    source : str
        Fine code of what sounds.
    tag : str
        Fine code of what a careful listener notes: `source`, or the ``X`` tag of its coarse class.
    proximity : {"near", "far"}
        Where it is.
    onset, duration : float
        Seconds; the reverberation is not counted.
    level : float
        Level of the loudest 125 ms in dBFS.
    snr : float
        `level` above the RMS level of the clip's background in dB.
    """

    source: str
    tag: str
    proximity: str
    onset: float
    duration: float
    level: float
    snr: float


def draw_events(sensor: Sensor, hour: float, *, weekend: bool, seconds: float, rng: np.random.Generator) -> list[Event]:
    """The events of a clip before they are heard: durations are upper bounds and levels may still be lowered.

    Parameters
    ----------
    sensor : Sensor
        The place.
    hour : float
        Time of day, 0 ... 24.
    weekend : bool
        Whether construction rests.
    seconds : float
        Length of the clip; the rates are those of 10 s.
    rng : Generator
        Source of all draws.

    Returns
    -------
    list of Event
        In the order of the taxonomy, at most two of a coarse class.
    """
    floor = background_level(sensor, hour)
    events = []
    for coarse in COARSE:
        (shortest, longest), weights = HABIT[coarse]
        for _ in range(min(2, rng.poisson(rate(sensor, coarse, hour, weekend=weekend)))):
            source = str(rng.choice(sure_codes(coarse), p=weights))
            proximity = "near" if rng.random() < NEAR else "far"
            unsure = f"{coarse}-X" in FINE and rng.random() < UNSURE[proximity]
            duration = min(seconds, rng.uniform(shortest, longest))
            snr = max(FAINTEST, rng.uniform(*SNR[proximity]) + LOUD[coarse])
            onset = rng.uniform(0.0, seconds - 0.8 * duration)
            tag = f"{coarse}-X" if unsure else source
            events.append(Event(source, tag, proximity, onset, duration, floor + snr, snr))
    return events


def _propagated(sound: Signal, proximity: str, sensor: Sensor, sample_rate: int, rng: np.random.Generator) -> Signal:
    """`sound` as it arrives at the sensor, including the tail of the street's reverberation."""
    length = len(sound) + len(sensor.reverberation)
    size = fast_length(length)
    freqs = bins(size, sample_rate)
    wet = rng.uniform(*WET[proximity])
    path = band(20.0, rng.uniform(*CUTOFF[proximity]), order=1)(freqs) * sensor.hear(freqs)
    response = path * (1.0 - wet + wet * np.fft.rfft(sensor.reverberation, size))
    return np.asarray(np.fft.irfft(np.fft.rfft(sound, size) * response, size)[:length])


def _loudest(sound: Signal, sample_rate: int) -> float:
    """Largest RMS of the consecutive stretches of 125 ms of `sound`."""
    count = int(FAST * sample_rate)
    padded = np.zeros(-(-len(sound) // count) * count)
    padded[: len(sound)] = sound
    return float(np.sqrt(np.mean(padded.reshape(-1, count) ** 2, axis=1).max()))


def _heard(
    event: Event, sensor: Sensor, samples: int, sample_rate: int, rng: np.random.Generator
) -> tuple[Event, int, Signal]:
    """The event as it really came out, its first sample, and its sound (inside the clip, at its level)."""
    start = min(int(event.onset * sample_rate), samples - 1)
    sound = make_sound(event.source, max(1, int(event.duration * sample_rate)), sample_rate, rng)
    duration = min(len(sound), samples - start) / sample_rate
    sound = _propagated(sound, event.proximity, sensor, sample_rate, rng)[: samples - start]
    wanted = 10.0 ** (event.level / 20.0) / max(_loudest(sound, sample_rate), 1e-12)
    gain = min(wanted, EVENT_PEAK / max(float(np.max(np.abs(sound))), 1e-12))
    actual = replace(_quieter(event, wanted / gain), onset=start / sample_rate, duration=duration)
    return actual, start, gain * sound


def _quieter(event: Event, factor: float) -> Event:
    """The event with its amplitude divided by `factor`."""
    less = 20.0 * float(np.log10(factor))
    return replace(event, level=event.level - less, snr=event.snr - less)


def render(
    events: list[Event], sensor: Sensor, hour: float, *, samples: int, sample_rate: int, rng: np.random.Generator
) -> tuple[Signal, list[Event]]:
    """The clip that the sensor records.

    Parameters
    ----------
    events : list of Event
        From `draw_events`.
    sensor : Sensor
        The place.
    hour : float
        Time of day, 0 ... 24; sets the level of the background.
    samples, sample_rate : int
        Length in samples, rate in Hz.
    rng : Generator
        Source of all draws.

    Returns
    -------
    ndarray, (samples,) float64
        No sample is beyond ``PEAK``. Loud events are turned down for that, never the background: the calibration of the
        sensor holds for all of its clips.
    list of Event
        The events as they sound.
    """
    floor = 10.0 ** (background_level(sensor, hour) / 20.0)
    clip = floor * background(samples, sensor.colour, sensor.hum, sample_rate, rng)
    mix = np.zeros(samples)
    heard = []
    for event in events:
        actual, start, sound = _heard(event, sensor, samples, sample_rate, rng)
        add(mix, sound, start)
        heard.append(actual)
    room = PEAK - np.max(np.abs(clip))
    gain = min(1.0, room / max(float(np.max(np.abs(mix))), 1e-12))
    return clip + gain * mix, [_quieter(event, 1.0 / gain) for event in heard]


def levels(clip: Signal, sample_rate: int, calibration: float) -> list[float]:
    """Sound pressure level of every second of `clip` (samples,) in dB, rounded to 0.01 (the last may be shorter)."""
    parts = [clip[start : start + sample_rate] for start in range(0, len(clip), sample_rate)]
    return [round(calibration + 20.0 * float(np.log10(max(rms(part), 1e-6))), 2) for part in parts]
