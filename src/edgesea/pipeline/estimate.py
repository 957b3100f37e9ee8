"""How long a run will take: the stages that take time are tried on excerpts of some recordings."""

import io
import logging
from collections.abc import Mapping
from contextlib import redirect_stderr, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile

from edgesea.audio.framing import Framing
from edgesea.audio.io import AudioFile
from edgesea.cluster import current
from edgesea.distill import distill
from edgesea.errors import EdgeseaError
from edgesea.extract import extract
from edgesea.pipeline.draft import Amount, spoken
from edgesea.pipeline.stages import LISTING, Sections, Todo
from edgesea.reduction import reduce
from edgesea.table.clips import Manifest
from edgesea.table.manifest import read_manifest
from edgesea.tracking import Track
from edgesea.tracking import using as watched

log = logging.getLogger(__name__)
EXCERPTS, STEPS = 6, 8  # recordings of which the beginning is taken; training steps
WORTH = {"extract": 10_000, "distill": 50_000}  # windows from which there is something to estimate
QUICK = 20.0  # seconds of a stage, from which it says how right the estimates are


def forecast(sections: Sections, todo: Mapping[str, Todo], out: Path) -> dict[str, float]:
    """Seconds of extract and distill at the beginning of a run, logged; none if it is little, or done elsewhere."""
    elsewhere = not current().is_local or current().processes > 1 or current().stages
    if elsewhere or not sections or todo["extract"].verb in ("", "resume"):
        return {}
    options, training = sections["extract"], sections["distill"]
    try:
        entries = read_manifest(*(options[key] for key in LISTING))
        framing = Framing(options["window"], options["hop"], options["center"])
        windows = Amount.of(entries).windows(framing) + options["mixtures"]
        ahead = {"extract": windows, "distill": training["epochs"] * (training["epoch_size"] or windows)}
        if all(ahead[name] < least for name, least in WORTH.items()):
            return {}
        log.info("Trying the stages on excerpts, to see how long they take ...")
        rates = _rates(options, training, entries)
    except EdgeseaError as error:  # the stage itself will say more
        log.warning("no estimate of the time: %s", error)
        return {}
    seconds = {name: ahead[name] / rates[name] for name in WORTH}
    others = [name for name in sections if name not in (*WORTH, "sample", "reduce")]
    parts = [f"{name} {spoken(one)}" for name, one in seconds.items()]
    parts += [f"{' and '.join(others)} not estimated"] if others else []
    speeds = f"{rates['extract']:.0f} windows/s of the teacher, {rates['distill']:.0f} in training"
    log.info("%s: about %s on this computer (%s): %s", out, spoken(sum(seconds.values())), speeds, ", ".join(parts))
    return seconds


def log_left(ahead: dict[str, float], name: str, taken: float) -> None:
    """Log what is left after a stage of which there is an estimate, corrected by the seconds that it took."""
    if expected := ahead.pop(name, None):
        left = sum(ahead.values()) * (taken / expected if expected > QUICK else 1.0)
        log.info("%s took %s%s", name, spoken(taken), f"; about {spoken(left)} left" if ahead else "")


def _rates(options: Mapping[str, Any], training: Mapping[str, Any], entries: Manifest) -> dict[str, float]:
    """Windows a second of extract and distill, by running them in miniature, where nothing is shown."""
    small = {**options, "root": None, "columns": None, "validate": 0.0, "mixtures": 0, "max_skipped": 1.0}
    short = {"also": None, "shares": None, "quantize": None, "epochs": 1, "devices": 1}
    short["epoch_size"] = STEPS * training["batch_size"]
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with TemporaryDirectory(prefix="edgesea-") as name, watched(Track()), redirect_stderr(io.StringIO()):
            table, reduction, student, audio = (Path(name, part) for part in ("table", "reduction", "student", "audio"))
            window = options["window"]
            _write_excerpts(entries, audio, 4 * window)
            made = extract(**{**small, "source": audio, "hop": min(options["hop"], window / 4)}, out=table)
            reduce(table, reduction, size=8)
            trained = distill(table, reduction, student, **{**training, **short})["speed"]
            return {"extract": made["windows_per_second"], "distill": trained["windows_per_second"]}
    finally:
        logging.disable(before)


def _write_excerpts(entries: Manifest, folder: Path, seconds: float) -> None:
    """Write the beginnings of some recordings, to train and to validate on."""
    for split in ("train", "validate"):
        (folder / split).mkdir(parents=True)
        for number, path in enumerate(map(Path, entries[:: -(-len(entries) // EXCERPTS)].files())):
            with suppress(EdgeseaError), AudioFile(path, "use") as file:
                excerpt = np.concatenate([*file.chunks(0, round(seconds * file.sample_rate))])
                soundfile.write(folder / split / f"{number}.wav", excerpt, file.sample_rate, "FLOAT")
