"""When and where the city records, and which clips are labelled."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import numpy as np

FIRST_DAY = datetime(2019, 6, 5)  # a Wednesday, so that four days include a weekend's quiet building sites
GOLDEN = 0.5 * (5.0**0.5 - 1.0)
UNLABELLED_VALIDATE = 0.1  # share of the unlabelled clips that are kept for validation
KEYS = {"sensor": 0, "clip": 1, "annotator": 2}


def seed_of(seed: int, what: Literal["sensor", "clip", "annotator"], *index: int) -> np.random.SeedSequence:
    """The seed of one thing in the city, which does not depend on how many others there are."""
    return np.random.SeedSequence(seed, spawn_key=(KEYS[what], *index))


@dataclass(frozen=True)
class Plan:
    """One clip to be recorded."""

    sensor: int
    number: int  # counts the clips of the sensor
    time: datetime
    split: str
    annotated: bool
    seeds: tuple[np.random.SeedSequence, ...]  # events, audio, annotators

    @property
    def name(self) -> str:
        return f"{self.sensor:02d}_{self.number:06d}.wav"

    @property
    def hour(self) -> float:
        return self.time.hour + self.time.minute / 60.0


def make_plans(sensors: int, days: int, clips_per_day: int, annotated: float, seed: int) -> Iterator[Plan]:
    """All clips of the city, by sensor and time."""
    first_validation = sensors - max(1, round(sensors / 3))
    for sensor in range(sensors):
        for number in range(days * clips_per_day):
            day, slot = divmod(number, clips_per_day)
            *seeds, own = seed_of(seed, "clip", sensor, day, slot).spawn(4)
            rng = np.random.default_rng(own)
            second = int(86400.0 / clips_per_day * (slot + rng.random()))
            # Multiples of the golden ratio are spread evenly: the share is kept and no hour of the day is preferred.
            labelled = ((number + 1) * GOLDEN + sensor * 2.0**0.5) % 1.0 < annotated
            held_out = sensor >= first_validation if labelled else rng.random() < UNLABELLED_VALIDATE
            split = "validate" if held_out else "train"
            time = FIRST_DAY + timedelta(days=day, seconds=second)
            yield Plan(sensor, number, time, split, labelled, tuple(seeds))
