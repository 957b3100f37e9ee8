"""Where and when: the sensors of the city, and how often each class of sound is heard at which hour."""

from dataclasses import dataclass

import numpy as np

from edgesea.demo.dsp import Gain, Signal, decay, noise, normalised, tilt
from edgesea.demo.plan import GOLDEN
from edgesea.demo.taxonomy import COARSE

# Mean number of sources per clip at the busiest hour, and when the class is heard: (hour, spread in hours, weight).
HABITS: dict[str, tuple[float, tuple[tuple[float, float, float], ...]]] = {
    "1": (0.90, ((8.0, 2.0, 1.0), (13.0, 4.0, 0.7), (18.0, 2.0, 1.0), (22.0, 3.0, 0.3))),
    "2": (0.30, ((10.0, 2.5, 1.0), (14.5, 2.0, 0.9))),
    "3": (0.24, ((11.0, 5.0, 1.0), (18.0, 4.0, 0.6))),
    "4": (0.30, ((9.5, 2.0, 0.9), (15.0, 2.5, 1.0))),
    "5": (0.32, ((8.5, 2.5, 0.9), (17.5, 3.5, 1.0), (23.0, 2.0, 0.4))),
    "6": (0.33, ((20.0, 3.0, 1.0), (15.0, 3.0, 0.4), (0.0, 2.0, 0.5))),
    "7": (0.80, ((12.5, 3.0, 0.7), (19.0, 3.5, 1.0), (23.0, 2.0, 0.4))),
    "8": (0.25, ((7.0, 1.5, 1.0), (19.5, 2.0, 0.9), (12.0, 3.0, 0.3))),
}
WORK = ("2", "4")  # classes that rest at the weekend
QUIET = 0.08  # share of the busiest rate that remains at the quietest hour
NIGHT = 5.0  # dB by which the background falls from the busiest to the quietest hour


@dataclass(frozen=True)
class Sensor:
    """One sensor of the network and the place where it hangs.

    Attributes
    ----------
    index : int
        Id of the sensor.
    borough, block : int
        The area codes that SONYC-UST gives.
    latitude, longitude : float
        Degrees.
    level : float
        Level of the background at the busiest hour in dBFS (RMS).
    slope : float
        Tilt of the background's spectrum in dB per octave above 100 Hz.
    hum : float
        Share of mains hum in the background's amplitude.
    calibration : float
        Sound pressure level of a signal of RMS 1 in dB.
    response : ndarray, (9,)
        Gain of microphone and housing in dB at 63 Hz, 125 Hz, ... 16 kHz.
    rates : ndarray, (8,)
        How much more often than on average each coarse class is heard here.
    reverberation : ndarray, (samples,)
        Tail of the street's impulse response, energy 1.
    """

    index: int
    borough: int
    block: int
    latitude: float
    longitude: float
    level: float
    slope: float
    hum: float
    calibration: float
    response: Signal
    rates: Signal
    reverberation: Signal

    def hear(self, freqs: Signal) -> Signal:
        """Linear gain of microphone and housing at `freqs` (bins,) in Hz."""
        octaves = np.log2(np.maximum(freqs, 1.0) / 63.0)
        return np.asarray(10.0 ** (np.interp(octaves, np.arange(len(self.response)), self.response) / 20.0))

    @property
    def colour(self) -> Gain:
        """Gain of the background as the sensor hears it."""
        slope = tilt(self.slope)
        return lambda freqs: np.asarray(slope(freqs) * self.hear(freqs) * (freqs > 20.0))


def make_sensor(index: int, sample_rate: int, rng: np.random.Generator) -> Sensor:
    """Draw a sensor and its place (Manhattan or Brooklyn).

    Parameters
    ----------
    index : int
        Id of the sensor.
    sample_rate : int
        Rate of the reverberation in Hz.
    rng : Generator
        Source of all draws.

    Returns
    -------
    Sensor
    """
    borough = int(rng.choice([1, 3]))
    latitude, longitude = (40.7295, -73.9939) if borough == 1 else (40.6938, -73.9870)
    seconds = rng.uniform(0.4, 1.1)
    length = int(seconds * sample_rate)
    # Spread evenly instead of drawn, so that every small city has quiet and loud places.
    level = -44.0 + 4.0 * (index * GOLDEN % 1.0) + rng.uniform(-0.5, 0.5)
    tail = noise(length, tilt(-3.0, 500.0), sample_rate, rng) * decay(length, seconds, sample_rate)
    return Sensor(
        index=index,
        borough=borough,
        block=int(rng.integers(100, 2700)),
        latitude=round(latitude + rng.uniform(-0.012, 0.012), 5),
        longitude=round(longitude + rng.uniform(-0.008, 0.008), 5),
        level=level,
        slope=rng.uniform(-5.2, -3.8),
        hum=rng.uniform(0.0, 0.25),
        calibration=104.0 + rng.uniform(-3.0, 3.0),
        response=1.0 * rng.standard_normal(9),
        rates=np.exp(0.25 * rng.standard_normal(len(COARSE))),
        reverberation=normalised(tail) / np.sqrt(length),
    )


def activity(coarse: str, hour: float) -> float:
    """How busy a coarse class is at `hour` (0 ... 24), between `QUIET` and 1: a sum of bumps on the clock's circle."""
    _, bumps = HABITS[coarse]
    total = 0.0
    for centre, spread, weight in bumps:
        distance = abs(hour - centre) % 24.0
        total += weight * np.exp(-0.5 * (min(distance, 24.0 - distance) / spread) ** 2)
    return float(QUIET + (1.0 - QUIET) * min(1.0, total))


def rate(sensor: Sensor, coarse: str, hour: float, *, weekend: bool) -> float:
    """Mean number of sources of a coarse class in a clip of `sensor` at `hour`."""
    rest = 0.3 if weekend and coarse in WORK else 1.0
    return HABITS[coarse][0] * float(sensor.rates[list(COARSE).index(coarse)]) * activity(coarse, hour) * rest


def background_level(sensor: Sensor, hour: float) -> float:
    """Level of the background at `hour` in dBFS (RMS); it follows the traffic."""
    return sensor.level - NIGHT * (1.0 - activity("1", hour))
