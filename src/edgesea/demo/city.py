"""The synthetic city on disk: audio, annotations and taxonomy as in SONYC-UST v2, a manifest, and the recipe."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from edgesea.artifact import atomic_path, versions, write_json
from edgesea.demo.annotators import Row, annotate
from edgesea.demo.plan import Plan, make_plans, seed_of
from edgesea.demo.scene import Event, draw_events, levels, render
from edgesea.demo.sensors import Sensor, make_sensor
from edgesea.demo.taxonomy import ANNOTATION_COLUMNS, COARSE, coarse_of, taxonomy_yaml
from edgesea.errors import EdgeseaError

MANIFEST_COLUMNS = ("path", "sensor", "time", "split", "level")
RECIPE_COLUMNS = (
    "audio_filename", "coarse", "source", "tag", "proximity", "onset", "duration", "level", "snr",
)  # fmt: skip


@dataclass(frozen=True)
class City:
    """Where the parts of a synthetic city lie.

    Attributes
    ----------
    folder : Path
        Everything is below it.
    audio : Path
        Folder of the clips ``<sensor>_<number>.wav``, 16-bit mono.
    manifest : Path
        All clips: ``path`` (relative to `folder`), ``sensor``, ``time`` (ISO 8601, local), ``split`` (train or
        validate), ``level`` (JSON list, dB SPL unweighted, one number per second).
    annotations : Path
        The labelled clips in the columns of SONYC-UST v2: three volunteers (id > 0) per clip; for the clips of validate
        sensors also two team members (id < 0) and the verified truth (id 0).
    taxonomy : Path
        The tags, as in SONYC-UST's ``dcase-ust-taxonomy.yaml``.
    recipe : Path
        The true events of all clips, one per row: ``audio_filename``, ``coarse`` (name), ``source`` (fine code of what
        sounds), ``tag`` (what can be told, maybe the X code), ``proximity``, ``onset`` and ``duration`` (s), ``level``
        (dBFS, loudest 125 ms), ``snr`` (dB above the background).
    config : Path
        The arguments and versions that made the city, as JSON; written last.
    """

    folder: Path

    @property
    def audio(self) -> Path:
        return self.folder / "audio"

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.csv"

    @property
    def annotations(self) -> Path:
        return self.folder / "annotations.csv"

    @property
    def taxonomy(self) -> Path:
        return self.folder / "dcase-ust-taxonomy.yaml"

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.csv"

    @property
    def config(self) -> Path:
        return self.folder / "synth.json"


def make_city(
    out: Path,
    *,
    sensors: int = 6,
    days: int = 4,
    clips_per_day: int = 16,
    seconds: float = 10.0,
    sample_rate: int = 16000,
    annotated: float = 0.6,
    seed: int = 0,
    progress: bool = True,
) -> City:
    """Make a small data set that looks like SONYC-UST v2, from nothing.

    Sensors differ in place, background, microphone, and in what is heard there; the hour decides how loud the city is
    and which sounds are likely. The last third of the sensors is kept for validation: their labelled clips have
    split validate, as in SONYC-UST. Clips without labels stand for the unlabelled recordings of the same network: they
    come from all sensors, one in ten for validation. Existing files of the same names are overwritten.

    Parameters
    ----------
    out : Path
        Folder to write to.
    sensors : int
        Number of sensors, at least 2.
    days : int
        Days of recording, from Wednesday, 5 June 2019.
    clips_per_day : int
        Clips per sensor and day, spread over the 24 hours.
    seconds : float
        Length of a clip.
    sample_rate : int
        Rate in Hz, at least 8000.
    annotated : float
        Share of the clips with annotations, 0 ... 1.
    seed : int
        The same seed and arguments give the same bytes; more days or sensors leave the other recordings as they are.
    progress : bool
        Show a progress bar.

    Returns
    -------
    City
        The paths of what was written.

    Raises
    ------
    EdgeseaError
        If an argument is out of range, or `out` holds audio that would not belong to the city.
    """
    config = {
        "sensors": sensors,
        "days": days,
        "clips_per_day": clips_per_day,
        "seconds": seconds,
        "sample_rate": sample_rate,
        "annotated": annotated,
        "seed": seed,
    }
    _check(config)
    city = City(Path(out))
    plans = list(make_plans(sensors, days, clips_per_day, annotated, seed))
    _prepare(city, plans)
    places = [
        make_sensor(index, sample_rate, np.random.default_rng(seed_of(seed, "sensor", index)))
        for index in range(sensors)
    ]
    manifest: list[Mapping[str, object]] = []
    recipe: list[Mapping[str, object]] = []
    annotations: list[Mapping[str, object]] = []
    for plan in tqdm(plans, desc="city", unit="clip", disable=not progress):
        sensor = places[plan.sensor]
        level, events = _record(city.audio / plan.name, plan, sensor, seconds, sample_rate)
        manifest.append(_manifest_row(plan, level))
        recipe.extend(_recipe_rows(plan, events))
        if plan.annotated:
            rng = np.random.default_rng(plan.seeds[2])
            rows = annotate(events, verified=plan.split == "validate", seed=seed, rng=rng)
            annotations.extend(_context(plan, sensor) | row for row in rows)
    _write_csv(city.recipe, RECIPE_COLUMNS, recipe)
    _write_csv(city.annotations, ANNOTATION_COLUMNS, annotations)
    _write_csv(city.manifest, MANIFEST_COLUMNS, manifest)
    city.taxonomy.write_text(taxonomy_yaml(), encoding="utf-8")
    write_json(city.config, {**config, "versions": versions()})
    return city


def _check(config: Mapping[str, float]) -> None:
    """Raise an `EdgeseaError` that names the first argument out of range."""
    lowest = {
        "sensors": 2,
        "days": 1,
        "clips_per_day": 1,
        "seconds": 1.0,
        "sample_rate": 8000,
        "annotated": 0.0,
        "seed": 0,
    }
    for name, least in lowest.items():
        if not config[name] >= least:
            raise EdgeseaError(f"{name} must be at least {least}, not {config[name]!r}")
    if config["annotated"] > 1.0:
        raise EdgeseaError(f"annotated must be a share of at most 1, not {config['annotated']!r}")


def _prepare(city: City, plans: Iterable[Plan]) -> None:
    """Make the folders; refuse those with other audio, which would be taken for a part of the city."""
    city.audio.mkdir(parents=True, exist_ok=True)
    strangers = {path.name for path in city.audio.iterdir()} - {plan.name for plan in plans}
    if strangers:
        raise EdgeseaError(f"{city.audio / min(strangers)} is not part of this city; choose an empty folder")
    city.config.unlink(missing_ok=True)  # its presence means that the rest is complete


def _record(
    path: Path, plan: Plan, sensor: Sensor, seconds: float, sample_rate: int
) -> tuple[list[float], list[Event]]:
    """Write the audio of a clip; its sound levels (dB SPL, 1 Hz) and its events."""
    wanted = draw_events(
        sensor,
        plan.hour,
        weekend=plan.time.weekday() >= 5,
        seconds=seconds,
        rng=np.random.default_rng(plan.seeds[0]),
    )
    clip, events = render(
        wanted,
        sensor,
        plan.hour,
        samples=round(seconds * sample_rate),
        sample_rate=sample_rate,
        rng=np.random.default_rng(plan.seeds[1]),
    )
    pcm = np.round(clip * 32768.0).astype(np.int16)
    soundfile.write(path, pcm, sample_rate, subtype="PCM_16")
    return levels(pcm / 32768.0, sample_rate, sensor.calibration), events


def _manifest_row(plan: Plan, level: list[float]) -> Mapping[str, object]:
    return {
        "path": f"audio/{plan.name}",
        "sensor": plan.sensor,
        "time": plan.time.isoformat(),
        "split": plan.split,
        "level": json.dumps(level),
    }


def _recipe_rows(plan: Plan, events: list[Event]) -> Iterator[Mapping[str, object]]:
    for event in events:
        yield {
            "audio_filename": plan.name,
            "coarse": COARSE[coarse_of(event.source)],
            "source": event.source,
            "tag": event.tag,
            "proximity": event.proximity,
            "onset": round(event.onset, 4),
            "duration": round(event.duration, 4),
            "level": round(event.level, 2),
            "snr": round(event.snr, 2),
        }


def _context(plan: Plan, sensor: Sensor) -> Row:
    """The columns of SONYC-UST's annotation file that say where and when (day 0 is Monday)."""
    year, week, weekday = plan.time.isocalendar()
    return {
        "split": plan.split,
        "sensor_id": plan.sensor,
        "audio_filename": plan.name,
        "borough": sensor.borough,
        "block": sensor.block,
        "latitude": f"{sensor.latitude:.5f}",
        "longitude": f"{sensor.longitude:.5f}",
        "year": year,
        "week": week,
        "day": weekday - 1,
        "hour": plan.time.hour,
    }


def _write_csv(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, object]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
