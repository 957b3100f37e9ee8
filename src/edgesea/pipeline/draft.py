"""An experiment for recordings alone: options by what there is, and the YAML to edit next."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np

from edgesea.artifact import atomic_path
from edgesea.audio.framing import Framing
from edgesea.audio.io import AudioFile
from edgesea.config import as_yaml, cache_folder
from edgesea.errors import EdgeseaError, error_of
from edgesea.models import load_teacher
from edgesea.pipeline.stages import DRAFT, Sections
from edgesea.table.clips import Manifest
from edgesea.table.manifest import read_manifest
from edgesea.table.paths import normal

log = logging.getLogger(__name__)
LOOKED_AT = 64  # recordings whose length is looked up
LEAST = 64  # windows from which something can be learned, calibrated and checked
RATE = 16000  # Hz
# Seconds between windows, and up to how many they are taken: little audio is used closely, years of it not
HOPS = ((0.25, 5e4), (0.5, 5e4), (1.0, 1e6), (2.0, 1e6), (5.0, 1e6), (10.0, 1e6), (30.0, 1e6), (60.0, math.inf))
EPOCHS = ((2e5, 60), (5e4, 30), (0, 15))  # by windows
SIZES = (64, 32, 16)  # dimensions; each takes four windows at least
MIXED = 2e5  # windows, of which mixtures make no more

HEAD = """\
# Made by `edgesea run` for {clips} recordings with {amount} of audio. Edit it, then: edgesea run {name}
# Stages whose options change are run again, with those that need them; all others are not.
# All options of a stage: edgesea extract --help, and so on.
"""
SECTIONS = {
    "extract": "recordings -> windows, with the teacher's embeddings",
    "sample": "windows that the reduction is learned on",
    "reduce": "what the student is to predict",
    "distill": "training of the student",
    "export": "the student for other programs and devices",
}
COMMENTS = {
    "extract.teacher": "or efficientat/mn10, openl3/env-mel256-512 ...: edgesea extract --help",
    "extract.hop": "seconds between windows",
    "extract.validate": "share of the recordings that the student is checked on",
    "extract.mixtures": "further windows to train on, mixed of one to three recordings; less is quicker",
    "sample.size": "all windows, where there are fewer",
    "reduce.size": "dimensions of an embedding",
    "distill.student": "edge-3 is smaller, edge-25 better: docs/students.md",
    "distill.epochs": "the longer the better (docs/students.md); 3 for a first look",
    "distill.epoch_size": "windows in an epoch",
    "export.format": "C for microcontrollers, and a .tflite file; or onnx",
    "export.least": "agreement with the student (cosine) below which it is refused",
}
TAIL = """\
# Scores on labelled recordings (docs/evaluation.md):
# evaluate:
#   task: esc50          # or urbansound8k, sonyc_ust
#   data: path/to/ESC-50
"""


@dataclass(frozen=True)
class Amount:
    """How much audio there is, by the lengths of some recordings."""

    clips: int
    lengths: list[float]  # seconds

    @classmethod
    def of(cls, entries: Manifest) -> "Amount":
        """EdgeseaError if none of the recordings that are looked at can be decoded."""
        some, lengths, problems = entries[:: -(-len(entries) // LOOKED_AT)], list[float](), list[str]()
        for path in map(Path, some.files()):
            try:
                with AudioFile(path, "use") as file:
                    frames = file.frames or sum(map(len, islice(file.chunks(), 600)))  # of ten minutes
                    lengths.append(frames / file.sample_rate)
            except EdgeseaError as error:
                problems.append(str(error))
        if not lengths:
            opened = f"{len(problems)} of {len(entries)} recordings were opened, and none can be decoded"
            raise EdgeseaError(f"{entries.root}: {opened}; the first: {problems[0]}")
        usable = round(len(entries) * len(lengths) / (len(lengths) + len(problems)))
        return cls(usable, lengths)

    @property
    def seconds(self) -> float:
        return self.clips * float(np.mean(self.lengths))

    def windows(self, framing: Framing) -> int:
        """About how many windows there are."""
        cut = framing.at(RATE)
        return round(self.clips * float(np.mean([cut.count(round(length * RATE)) for length in self.lengths])))


def suggested(source: Path, given: Mapping[str, Mapping[str, Any]], quick: bool, download: bool) -> tuple[Any, Amount]:
    """Options for all stages by what there is to learn from, but for those that are `given`; and how much there is."""
    asked = given.get("extract", {})
    root = Path(asked["root"]) if asked.get("root") else None
    for validate in [asked["validate"]] if "validate" in asked else [0.1, 0.2, 0.3]:  # until a few recordings validate
        entries = read_manifest(source, root, asked.get("columns"), validate)
        if sum(entries.columns["split"] == "validate") >= min(3, len(entries) // 8):
            break
    amount = Amount.of(entries)
    if "validate" not in entries.columns["split"]:
        cut = "cut a long one into several, as by ffmpeg -i LONG.wav -f segment -segment_time 60 PART%04d.wav"
        raise EdgeseaError(f"{source}: {len(entries)} recording(s), of which none validates; two are needed: {cut}")
    counts = {hop: amount.windows(Framing(1.0, hop)) for hop, _ in HOPS}
    hop = next(hop for hop, most in HOPS if counts[hop] <= most)
    if (windows := counts[hop]) < LEAST:
        there = f"{amount.clips} recording(s) with {spoken(amount.seconds)} of audio, or {windows} windows"
        raise EdgeseaError(f"{source}: {there}; {LEAST} windows are needed, and some minutes for a good student")
    teacher, why = ("", "") if "teacher" in asked else choose_teacher(download)
    if not why:  # before a wrong one is written down
        load_teacher(asked["teacher"], asked.get("weights"))
    log.info("%s: %d recording(s), about %s of audio", source, amount.clips, spoken(amount.seconds))
    if why:
        log.log(logging.INFO if "/" in teacher else logging.WARNING, "teacher %s: %s", teacher, why)
    extract = {"source": normal(source), "teacher": teacher, "weights": None, "hop": hop, "validate": validate}
    mixed = windows < MIXED and sum(entries.columns["split"] == "train") > 1  # of at least two recordings
    extract |= {"mixtures": (2000 if quick else 20000) if mixed else 0}
    size = next((size for size in SIZES if 4 * size <= windows), SIZES[-1])
    epochs = 3 if quick else next(epochs for least, epochs in EPOCHS if windows >= least)
    distill = {"student": "edge-10", "epochs": epochs, "epoch_size": 8192}
    found: dict[str, dict[str, Any]] = {"extract": extract, "sample": {"method": "random", "size": 10000}}
    found |= {"reduce": {"method": "pca", "size": size}, "distill": distill, "export": {"format": "c", "least": 0.95}}
    if find_spec("ai_edge_litert") is None:
        log.warning("export to ONNX only; for C and .tflite: pip install 'edgesea[export]'")
        found["export"] = {"format": "onnx"}
    return {name: {**found.get(name, {}), **given.get(name, {})} for name in {**found, **given}}, amount


def choose_teacher(download: bool) -> tuple[str, str]:
    """The best teacher that can be had without asking for more: its id, and why it was chosen."""
    from edgesea.models.published import fetch
    from edgesea.models.teachers import EFFICIENTAT, efficientat_file

    for variant in EFFICIENTAT:
        if (path := cache_folder() / efficientat_file(variant)[0]).is_file():
            return f"efficientat/{variant}", f"its weights are there already, {path}"
    name, url = efficientat_file("mn04")
    if not download:
        return "efficientat/mn04", f"its weights would be downloaded from {url}"
    if problem := error_of(lambda: fetch(url, name)):
        return "spectral", f"hand-crafted statistics, a poor teacher, for want of efficientat/mn04: {problem}"
    return "efficientat/mn04", f"its weights were downloaded from {url}"


def as_text(given: Mapping[str, Mapping[str, Any]], sections: Sections, amount: Amount, name: str) -> str:
    """The given options, in the types of `sections`, as YAML with comments."""
    head = HEAD.format(clips=amount.clips, amount=spoken(amount.seconds), name=name)
    lines = []
    for section, options in given.items():
        checked = sections.get(section, options)
        lines.append(f"{section}:".ljust(21) + f"# {SECTIONS[section]}" if section in SECTIONS else f"{section}:")
        for key in (key for key in options if checked[key] is not None):
            text = indent(as_yaml({key: checked[key]}).rstrip(), "  ")
            comment = COMMENTS.get(f"{section}.{key}")
            lines.append(f"{text:31} # {comment}" if comment and "\n" not in text else text)
    return "\n".join([head + lines[0], *lines[1:], "" if "evaluate" in given else TAIL])


def write_draft(out: Path, text: str) -> None:
    with atomic_path(out / DRAFT) as temporary:
        temporary.write_text(text, "utf-8", "backslashreplace")


def spoken(seconds: float) -> str:
    """A time as one says it."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds:.{0 if seconds >= 10 else 1}f} seconds"
