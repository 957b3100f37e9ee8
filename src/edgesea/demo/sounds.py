"""All sounds of the city: one generator per coarse class, and the background that never stops."""

from collections.abc import Callable

import numpy as np

from edgesea.demo.dsp import Gain, Signal, noise, normalised, tone, wander
from edgesea.demo.machines import engine, impact, machinery_impact, powered_saw
from edgesea.demo.signals import alert_signal, music
from edgesea.demo.taxonomy import coarse_of
from edgesea.demo.voices import dog, human_voice

Generator = Callable[[str, int, int, np.random.Generator], Signal]

GENERATORS: dict[str, Generator] = {
    "1": engine,
    "2": machinery_impact,
    "3": impact,
    "4": powered_saw,
    "5": alert_signal,
    "6": music,
    "7": human_voice,
    "8": dog,
}


def make_sound(code: str, length: int, sample_rate: int, rng: np.random.Generator) -> Signal:
    """One individual sound.

    Parameters
    ----------
    code : str
        Fine tag, e.g. ``"2-2"`` for a jackhammer; not an ``X`` one, which is a judgement and not a sound.
    length, sample_rate : int
        Greatest length in samples, rate in Hz.
    rng : Generator
        Draws the individual.

    Returns
    -------
    ndarray, (samples,) float64
        At most `length` samples of any scale, without silence (below -60 dB of the peak) at either end.
    """
    sound = GENERATORS[coarse_of(code)](code, length, sample_rate, rng)
    loud = np.flatnonzero(np.abs(sound) > 1e-3 * np.max(np.abs(sound)))
    return sound[loud[0] : loud[-1] + 1]


def background(length: int, colour: Gain, hum: float, sample_rate: int, rng: np.random.Generator) -> Signal:
    """What is heard when nothing happens: distant traffic that comes and goes, and the hum of a ventilator.

    Parameters
    ----------
    length, sample_rate : int
        Length in samples, rate in Hz.
    colour : callable
        Gain of the noise at the place.
    hum : float
        Share of the 60 Hz hum in the amplitude, 0 ... 1.
    rng : Generator
        Source of all draws.

    Returns
    -------
    ndarray, (length,) float64
        RMS 1.
    """
    wash = noise(length, colour, sample_rate, rng) * np.exp(0.08 * wander(length, 0.5, sample_rate, rng))
    ventilator = tone(60.0, np.array([0.3, 1.0, 0.1, 0.5, 0.1, 0.2]), length, sample_rate, rng)
    return normalised((1.0 - hum) * wash + hum * ventilator)
