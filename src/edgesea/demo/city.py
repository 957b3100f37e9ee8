"""The synthetic city: recordings of a few sensors, annotated as in SONYC-UST v2, and their manifest."""

import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import yaml
from scipy import fft, signal
from tqdm import tqdm

from edgesea.artifact import atomic_path, claimed
from edgesea.demo.sounds import RATE, Rng, Signal, add, decay, make_sound, unit

TAXONOMY = Path(__file__).with_name("dcase-ust-taxonomy.yaml")  # as published
TAGS = yaml.safe_load(TAXONOMY.read_text("utf-8"))
COARSE = {str(number): name for number, name in TAGS["coarse"].items()}
FINE = {f"{coarse}-{number}": name for coarse, names in TAGS["fine"].items() for number, name in names.items()}
# Sources in a clip at the busiest hour, busy hours, seconds, dB louder than others, and shares of the fine tags. What
# strikes or barks is loud for a moment only, so nobody would notice it at the level of the others.
HABITS: dict[str, tuple[float, tuple[float, ...], tuple[float, float], float, tuple[float, ...]]] = {
    "1": (1.0, (8, 13, 18), (5, 10), -1, (0.25, 0.4, 0.35)),
    "2": (0.30, (10, 14.5), (5, 10), 5, (0.3, 0.4, 0.2, 0.1)),
    "3": (0.34, (11, 18), (4, 9), 8, (1,)),
    "4": (0.30, (9.5, 15), (5, 10), 2, (0.3, 0.4, 0.3)),
    "5": (0.42, (8.5, 17.5), (5, 10), 3, (0.35, 0.1, 0.35, 0.2)),
    "6": (0.32, (15, 20, 23), (7, 10), 3, (0.5, 0.25, 0.25)),
    "7": (1.05, (12.5, 19), (5, 10), 0, (0.55, 0.2, 0.15, 0.1)),
    "8": (0.25, (7, 12, 19.5), (4, 10), 7, (1,)),
}
ERROR = 0.1  # how often a volunteer misses or confuses a tag, or notes one that is not there
VOLUNTEERS = 40
VERIFIED = 0  # annotator_id of the truth
FIRST_DAY = datetime(2019, 6, 5)
PEAK = 0.9


class Sensor:
    """One sensor of the network and the place where it hangs, in Manhattan or Brooklyn."""

    def __init__(self, rng: Rng) -> None:
        borough, latitude, longitude = ((1, 40.7295, -73.9939), (3, 40.6938, -73.9870))[rng.integers(2)]
        self.place: dict[str, float] = {"borough": borough, "block": int(rng.integers(100, 2700))}
        self.place["latitude"] = round(latitude + rng.uniform(-0.012, 0.012), 5)
        self.place["longitude"] = round(longitude + rng.uniform(-0.008, 0.008), 5)
        n = int(rng.uniform(0.4, 1.1) * RATE)
        self.level = rng.uniform(-44, -40)  # of the background at the busiest hour, dBFS
        self.slope = rng.uniform(-5.2, -3.8)  # of its spectrum, dB per octave
        self.calibration = rng.uniform(101, 107)  # dB SPL of a signal of RMS 1
        self.response = rng.standard_normal(9)  # gain of microphone and housing in dB at 63 Hz, 125 Hz, ... 16 kHz
        self.tail = unit(rng.standard_normal(n) * decay(n, n / RATE)) / np.sqrt(n)  # reverberation, energy 1


def activity(coarse: str, hour: float) -> float:
    """How busy a coarse class is at an hour of the day, at most 1."""
    distance = min(abs((hour - busy + 12) % 24 - 12) for busy in HABITS[coarse][1])
    return float(0.08 + 0.92 * np.exp(-0.5 * (distance / 2.5) ** 2))


def record(sensor: Sensor, time: datetime, seconds: float, rng: Rng) -> tuple[Signal, dict[str, str]]:
    """What a sensor records, and the tags that a careful listener hears in it, with their proximities."""
    n, hour = round(seconds * RATE), time.hour + time.minute / 60
    frequencies = np.maximum(fft.rfftfreq(n, 1 / RATE), 20.0)
    floor = sensor.level - 5 * (1 - activity("1", hour))
    traffic = fft.irfft(fft.rfft(rng.standard_normal(n)) * np.maximum(frequencies, 100) ** (sensor.slope / 6.02), n)
    mix = 10 ** (floor / 20) * unit(traffic)
    heard: dict[str, str] = {}
    for coarse, (rate, _, (shortest, longest), louder, shares) in HABITS.items():
        for _ in range(min(2, rng.poisson(rate * activity(coarse, hour)))):
            code, near = f"{coarse}-{1 + rng.choice(len(shares), p=shares)}", rng.random() < 0.75
            duration = min(seconds, rng.uniform(shortest, longest))
            start = int(rng.uniform(0, seconds - 0.8 * duration) * RATE)
            # Distance takes the treble and adds the reverberation of the street.
            air = signal.butter(1, rng.uniform(5000, 7900) if near else rng.uniform(2000, 6000), fs=RATE, output="sos")
            street = (rng.uniform(0.05, 0.25) if near else rng.uniform(0.2, 0.5)) * sensor.tail
            street[0] += 1.0
            sound = signal.sosfilt(air, signal.fftconvolve(make_sound(code, int(duration * RATE), rng), street))
            loudest = max(np.sqrt(np.mean(part**2)) for part in np.array_split(sound, 1 + len(sound) // (RATE // 8)))
            snr = max(-3, (rng.uniform(13, 22) if near else rng.uniform(-3, 14)) + louder)
            add(mix, 10 ** ((floor + snr) / 20) / loudest * sound, start)
            tag = f"{coarse}-X" if rng.random() < ERROR and len(shares) > 1 else code
            heard[tag] = "near" if near or heard.get(tag) == "near" else "far"
    octaves = np.log2(frequencies / 63)
    clip = fft.irfft(fft.rfft(mix) * 10 ** (np.interp(octaves, np.arange(9), sensor.response) / 20), n)
    return PEAK * np.tanh(clip / PEAK), heard


def annotate(heard: dict[str, str], rng: Rng) -> dict[str, str]:
    """What a volunteer notes of the tags that are heard."""
    tags = {}
    for tag, proximity in heard.items():
        missed, confused, unsure = rng.random(3) < ERROR
        if confused:
            tag = str(rng.choice([code for code in FINE if code[0] == tag[0]]))
        if not missed:
            tags[tag] = "notsure" if unsure else proximity
    if rng.random() < ERROR:
        tags.setdefault(str(rng.choice(list(FINE))), "notsure")
    return tags


def tag_columns(tags: dict[str, str]) -> dict[str, int | str]:
    """The columns of what an annotator noted; proximity -1 where there is none."""
    coarse = {tag[0] for tag in tags}
    return {
        **{f"{code}_{name}_presence": int(code in tags) for code, name in FINE.items()},
        **{f"{code}_{name}_proximity": tags.get(code, "-1") for code, name in FINE.items()},
        **{f"{code}_{name}_presence": int(code in coarse) for code, name in COARSE.items()},
    }


def make_city(
    out: Path,
    *,
    sensors: int = 6,
    days: int = 4,
    clips_per_day: int = 16,
    seconds: float = 10.0,
    annotated: float = 0.6,
    seed: int = 0,
) -> Path:
    """Make a small data set that looks like SONYC-UST v2, unless it is there already.

    The same arguments give the same bytes; more days or sensors leave the other recordings as they are.

    Parameters
    ----------
    out : Path
        Folder for manifest.csv, annotations.csv, the taxonomy and audio/ (mono, 16 kHz).
    sensors, days, clips_per_day : int
        How many; clips_per_day of each sensor.
    seconds : float
        Length of a clip.
    annotated : float
        Share of the clips that is annotated: by three volunteers (id > 0), and of the last third of the sensors, which
        have split validate, also with the truth (id 0). The others stand for the unlabelled recordings of the same
        network: they come from all sensors, one in ten for validation.
    seed : int
        Of all that is random.

    Returns
    -------
    Path
        The folder. EdgeseaError: it holds something else.
    """
    sizes: dict[str, float] = {"sensors": sensors, "days": days, "clips_per_day": clips_per_day, "seconds": seconds}
    plan = {**sizes, "annotated": annotated, "seed": seed}
    out = Path(out)
    with claimed(out, plan, "city"):
        if (out / "manifest.csv").exists():  # it is written last
            return out
        (out / "audio").mkdir(exist_ok=True)
        places = [Sensor(np.random.default_rng([seed, 0, index])) for index in range(sensors)]
        manifest, annotations = [], []
        for index in tqdm(range(sensors * days * clips_per_day), desc="city", unit="clip", disable=None):
            sensor, number = divmod(index, days * clips_per_day)
            day, slot = divmod(number, clips_per_day)
            rng = np.random.default_rng([seed, 1, sensor, day, slot])
            time = FIRST_DAY + timedelta(days=day, seconds=int(86400 / clips_per_day * (slot + rng.random())))
            labelled, held_out = rng.random(2) < (annotated, 0.1)
            validate = sensor >= sensors - max(1, round(sensors / 3)) if labelled else held_out
            clip, heard = record(places[sensor], time, seconds, rng)
            name, split = f"{sensor:02d}_{number:06d}.wav", "validate" if validate else "train"
            soundfile.write(os.fsencode(out / "audio" / name), clip, RATE, subtype="PCM_16")
            rms = [np.sqrt(np.mean(clip[start : start + RATE] ** 2)) for start in range(0, len(clip), RATE)]
            level = (places[sensor].calibration + 20 * np.log10(np.maximum(rms, 1e-6))).round(2).tolist()
            manifest.append([f"audio/{name}", sensor, time.isoformat(), split, level])
            if not labelled:
                continue
            about = {"split": split, "sensor_id": sensor, "audio_filename": name, "annotator_id": VERIFIED}
            about |= places[sensor].place | {"year": time.year, "week": time.isocalendar().week}
            about |= {"day": time.weekday(), "hour": time.hour}
            for volunteer in rng.choice(VOLUNTEERS, 3, replace=False):
                annotations.append(about | {"annotator_id": volunteer + 1} | tag_columns(annotate(heard, rng)))
            if validate:
                annotations.append(about | tag_columns(dict.fromkeys(heard, "-1")))
        shutil.copyfile(TAXONOMY, out / TAXONOMY.name)
        pd.DataFrame(annotations).to_csv(out / "annotations.csv", index=False)
        with atomic_path(out / "manifest.csv") as temporary:
            pd.DataFrame(manifest, columns=["path", "sensor", "time", "split", "level"]).to_csv(temporary, index=False)
    return out
