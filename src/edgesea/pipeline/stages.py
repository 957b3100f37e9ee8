"""The stages of a run, and what is recorded of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesea.artifact import check_vacant, read_json, write_json
from edgesea.distill import distill, epochs_done
from edgesea.export import export
from edgesea.extract import extract
from edgesea.reduction import reduce
from edgesea.sampling import sample
from edgesea.table.reader import parts_done
from edgesea.tasks.evaluate import evaluate

STAMPS, RESULTS, CONFIG, FORMAT = "stages.json", "results.json", "config.yaml", "edgesea run"
DRAFT = "experiment.yaml"  # in the run directory, if it was begun with recordings alone

Sections = Mapping[str, Mapping[str, Any]]
Stamps = dict[str, dict[str, Any]]  # of stages that were begun: plan, finished, seconds; when finished result and files
Progress = tuple[int, int, float]  # how much is done, of how much, and when the last of it was (seconds since 1970)


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline."""

    function: Callable[..., dict[str, Any]]
    artifact: str  # what it writes, below the run directory
    inputs: Mapping[str, str]  # parameter: the stage whose artifact it reads
    format: int = 1  # raised when the stage makes something else of the same input and options
    progress: Callable[[Path], Progress | None] = lambda artifact: None  # of an artifact


STAGES = {
    "extract": Stage(extract, "table", {}, progress=parts_done),
    "sample": Stage(sample, "subset.parquet", {"table": "extract"}),
    "reduce": Stage(reduce, "reduction", {"table": "extract", "subset": "sample"}),
    "distill": Stage(distill, "student", {"table": "extract", "reduction": "reduce"}, progress=epochs_done),
    "evaluate": Stage(evaluate, "evaluate", {"weights": "extract", "reduction": "reduce", "model": "distill"}),
    "export": Stage(export, "export", {"student": "distill", "calibration": "extract", "subset": "sample"}),
}
OPTIONAL = ("evaluate", "export")
OUTPUTS = ("out", "predictions", "cache")  # the pipeline sets these and the inputs, so that the YAML must not


def read_stamps(out: Path) -> Stamps:
    """What is recorded of each stage that was begun; nothing in a new folder."""
    if (out / STAMPS).is_file():
        found = read_json(out / STAMPS)
        if isinstance(found, dict) and found.get("format") == FORMAT:
            return dict(found["stages"])
    check_vacant(out, "not a run directory", besides=(DRAFT,))
    return {}


def write_stamps(out: Path, stamps: Stamps) -> None:
    write_json(out / STAMPS, {"format": FORMAT, "stages": stamps})
