"""How long a run will take: the stages that take time are tried on excerpts of some recordings."""

import csv
import io
import logging
from collections.abc import Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from edgesea.audio.framing import Framing
from edgesea.audio.io import AudioFile
from edgesea.cluster import current
from edgesea.distill import distill
from edgesea.errors import EdgeseaError
from edgesea.export import export
from edgesea.extract import extract
from edgesea.pipeline.draft import Amount, spoken
from edgesea.pipeline.stages import STAGES, Sections
from edgesea.pipeline.todo import LISTING, Todo
from edgesea.reduction import reduce
from edgesea.table.clips import Manifest
from edgesea.table.manifest import read_manifest
from edgesea.tracking import Track
from edgesea.tracking import using as watched

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)
EXCERPTS, STEPS = 8, 8  # recordings of which the beginning is taken; training steps
WORTH = {"extract": 10_000, "distill": 50_000}  # windows from which there is something to estimate
QUICK = 20.0  # seconds of a stage, from which it says how right the estimates are


@dataclass
class Forecast:
    """Seconds that stages will take, corrected by what those before them took."""

    seconds: dict[str, float]
    expected: float = 0.0
    taken: float = 0.0

    def finish(self, name: str, seconds: float) -> None:
        """Log what is left after a stage."""
        if name not in self.seconds:
            return
        if (expected := self.seconds.pop(name)) > QUICK:
            self.expected, self.taken = self.expected + expected, self.taken + seconds
        left = sum(self.seconds.values()) * (self.taken / self.expected if self.expected else 1.0)
        log.info("%s took %s%s", name, spoken(seconds), f"; about {spoken(left)} left" if self.seconds else "")


def forecast(sections: Sections, todo: Mapping[str, Todo], out: Path) -> Forecast:
    """Estimate what is to be done here, and log it; nothing, if it is little, or done elsewhere."""
    elsewhere = not current().is_local or current().processes > 1 or current().stages
    if elsewhere or not sections or not any(todo[name].verb for name in WORTH):
        return Forecast({})
    options, training = sections["extract"], sections["distill"]
    try:
        entries = read_manifest(*(options[key] for key in LISTING))
        framing = Framing(options["window"], options["hop"], options["center"])
        windows = Amount.of(entries).windows(framing) + options["mixtures"]
        epoch = training["epoch_size"] or windows
        left = {"extract": windows * _left("extract", todo)}
        left |= {"distill": training["epochs"] * epoch * _left("distill", todo)}
        if all(left[name] < least for name, least in WORTH.items()):
            return Forecast({})
        log.info("Trying the stages on excerpts, to see how long they take ...")
        rates = _rates(sections, entries)
    except EdgeseaError as error:  # the stage itself will say more
        log.warning("no estimate of the time: %s", error)
        return Forecast({})
    seconds = {name: left[name] / rates[name] for name in WORTH}
    if "export" in sections and todo["export"].verb:
        seconds["export"] = rates["export"]
    found = {name: seconds[name] for name in sections if seconds.get(name)}
    unknown = [name for name in sections if todo[name].verb and name not in (*found, "sample", "reduce")]
    parts = [f"{name} {spoken(one)}" for name, one in found.items()]
    parts += [f"{' and '.join(unknown)} not estimated"] if unknown else []
    speeds = f"{rates['extract']:.0f} windows/s of the teacher, {rates['distill']:.0f} in training"
    log.info("%s: about %s on this computer (%s): %s", out, spoken(sum(found.values())), speeds, ", ".join(parts))
    return Forecast(found)


def _left(name: str, todo: Mapping[str, Todo]) -> float:
    """The share of a stage that is to be done."""
    step = todo[name]
    done = STAGES[name].progress(step.artifact) if step.verb == "resume" else None
    return 0.0 if not step.verb else 1.0 - done[0] / max(1, done[1]) if done else 1.0


def _rates(sections: Sections, entries: Manifest) -> dict[str, float]:
    """Windows a second of extract and distill, and the seconds of export, by running them in miniature."""
    options, training = sections["extract"], dict(sections["distill"])
    window, size = options["window"], training["batch_size"]
    small = {**options, "root": None, "columns": None, "validate": 0.0, "mixtures": 0, "max_skipped": 1.0}
    training |= {"also": None, "shares": None, "epochs": 1, "epoch_size": STEPS * size, "devices": 1}
    with TemporaryDirectory(prefix="edgesea-") as name, watched(Track()), _silence():
        folder = Path(name)
        table, reduction, student = folder / "table", folder / "reduction", folder / "student"
        small["source"] = _excerpts(entries, folder, 4 * window)
        small["hop"] = min(options["hop"], window / 4)
        rates = {"extract": extract(**small, out=table)["windows_per_second"]}
        reduce(table, reduction, size=8)
        rates["distill"] = distill(table, reduction, student, **training)["speed"]["windows_per_second"]
        began = perf_counter()
        if "export" in sections:
            last = {**sections["export"], "least": 1e-9, "windows": 32, "tags": None, "data": None, "board": None}
            export(str(student), folder / "export", calibration=table, **last)
        return {**rates, "export": perf_counter() - began}


def _excerpts(entries: Manifest, folder: Path, seconds: float) -> Path:
    """Write the beginnings of some recordings, and a manifest of them, in which the last ones validate."""
    rows, numbers = list[tuple[str, str]](), count()
    for path in map(Path, entries[:: -(-len(entries) // (4 * EXCERPTS))].files()):
        try:
            with AudioFile(path, "use") as file:
                wanted = round(seconds * file.sample_rate)
                audio = np.concatenate([*islice(file.chunks(), 1 + round(seconds))])[:wanted]
                rate = file.sample_rate
        except EdgeseaError:
            continue
        name = f"{next(numbers)}.wav"
        soundfile.write(folder / name, audio, rate, "FLOAT")
        rows.append((name, "validate" if len(rows) % 4 == 3 else "train"))
        if len(rows) == EXCERPTS:
            break
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "split"), *rows])
    return folder / "manifest.csv"


@contextmanager
def _silence() -> "Iterator[None]":
    """In this block, nothing is shown."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
