"""``run``: one YAML file -> all stages -> a run directory; finished stages are skipped, changed ones redone."""

import hashlib
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from edgesea.artifact import check_vacant, digest, file_state, locked, plain, read_json, versions, walk, write_json
from edgesea.config import checked_options, read_yaml, write_yaml
from edgesea.distill import distill
from edgesea.errors import EdgeseaError
from edgesea.extract import extract
from edgesea.reduction import reduce
from edgesea.report import report_if_possible
from edgesea.sampling import sample
from edgesea.table.manifest import read_manifest
from edgesea.tasks.evaluate import evaluate, load_task
from edgesea.tasks.options import check_seed
from edgesea.tasks.skipped import check_openable, listing_of

log = logging.getLogger(__name__)

STAMPS, FORMAT = "stages.json", "edgesea run"
RESULTS, CONFIG = "results.json", "config.yaml"
RUNTIME = ("workers", "device")  # options that change how fast a stage runs, but not its result

Sections = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline."""

    function: Callable[..., dict[str, Any]]
    artifact: str  # what it writes, below the run directory
    inputs: Mapping[str, str]  # parameter: the stage whose artifact it reads


STAGES = {
    "extract": Stage(extract, "table", {}),
    "sample": Stage(sample, "subset.parquet", {"table": "extract"}),
    "reduce": Stage(reduce, "reduction", {"table": "extract", "subset": "sample"}),
    "distill": Stage(distill, "student", {"table": "extract", "reduction": "reduce"}),
    "evaluate": Stage(evaluate, "evaluate", {"weights": "extract", "reduction": "reduce", "model": "distill"}),
}
OUTPUTS = ("out", "predictions", "cache")  # the pipeline sets these and the inputs, so that the YAML must not


def run(experiment: Path, *, out: Path | None = None) -> dict[str, Any]:
    """Run all stages of an experiment; stages that are finished and unchanged are skipped.

    Parameters
    ----------
    experiment : Path
        YAML file with a section for each stage (extract, sample, reduce, distill, evaluate) that holds the options of
        the command of that name. ${EDGESEA_DATA} and other environment variables are filled in. Without a section
        evaluate, the run ends with the student.
    out : Path, optional
        Run directory: table/, subset.parquet, reduction/, student/, evaluate/, results.json, report.html; default:
        runs/ and the name of the configuration.

    Returns
    -------
    dict
        What is written to results.json, and the run directory as `run`.

    Raises
    ------
    EdgeseaError
        If the configuration has an unknown key or a bad value, `out` holds something else, or a stage fails.
    """
    path = Path(experiment)
    return run_stages(read_config(path), Path("runs") / path.stem if out is None else Path(out))


def read_config(path: Path) -> Sections:
    """All options of all stages from a YAML file."""
    return checked_sections(read_yaml(path), str(path))


def checked_sections(given: Mapping[str, Any], source: str) -> Sections:
    """All options of all stages, checked against their signatures; EdgeseaError names `source`, stage and option."""
    if unknown := [str(name) for name in given if name not in STAGES]:
        raise EdgeseaError(f"{source}: unknown section {', '.join(unknown)}; known: {', '.join(STAGES)}")
    if "extract" not in given:
        raise EdgeseaError(f"{source}: section extract is missing")
    sections = {}
    for name, stage in STAGES.items():
        if name in given or name != "evaluate":
            options, fixed = {} if given.get(name) is None else given[name], (*stage.inputs, *OUTPUTS)
            sections[name] = checked_options(stage.function, options, f"{source}: {name}", fixed=fixed)
    return sections


def run_stages(sections: Sections, out: Path) -> dict[str, Any]:
    """Run checked sections into a run directory; see `run`."""
    if evaluation := sections.get("evaluate"):  # a task that cannot be loaded is refused before hours of work
        check_seed(evaluation["seed"], evaluation["tagging"].members)
        task = load_task(*(evaluation[name] for name in ("task", "data", "probe", "tagging", "folds")))
    _stamps(out)  # refuses a folder that holds something else
    if evaluation:
        data, allowed, workers = (evaluation[name] for name in ("data", "max_skipped", "workers"))
        check_openable(task, data, allowed, listing_of(out), workers)
    with locked(out):
        return _run_missing(sections, out)


def _run_missing(sections: Sections, out: Path) -> dict[str, Any]:
    stamps = _stamps(out)
    write_yaml(out / CONFIG, sections)
    for name, options in sections.items():
        stage, artifact = STAGES[name], out / STAGES[name].artifact
        inputs = {need: stamps[need]["fingerprint"] for need in stage.inputs.values()}
        fingerprint = _fingerprint(stage, options, inputs, out)
        stamp = stamps.get(name, {})
        if stamp.get("fingerprint") == fingerprint and stamp.get("finished") and artifact.exists():
            log.info("%s: unchanged, skipped", name)
            continue
        if artifact.exists() and stamp.get("fingerprint") != fingerprint:
            log.info("%s: input or options changed, done again", name)
            _write_stamps(out, {key: value for key, value in stamps.items() if key != name})  # if killed half-way
            shutil.rmtree(artifact) if artifact.is_dir() else artifact.unlink()
        stamps[name] = {"fingerprint": fingerprint, "finished": False}
        _write_stamps(out, stamps)
        log.info("%s: started", name)
        began = time.perf_counter()
        result = _run_stage(name, options, sections, out)
        if int(os.environ.get("LOCAL_RANK") or 0):
            sys.exit(0)  # this process was started only to train on another device
        stamps[name] |= {"finished": True, "seconds": round(time.perf_counter() - began, 1), "result": result}
        _write_stamps(out, stamps)
    results = {name: stamps[name]["result"] for name in sections}
    seconds = {name: stamps[name]["seconds"] for name in sections}
    summary = {**results, "seconds": seconds, "config": plain(sections), "versions": versions()}
    write_json(out / RESULTS, summary)
    report_if_possible(out)
    return {"run": str(out), **summary}


def _stamps(out: Path) -> dict[str, Any]:
    """For each stage that was begun: its fingerprint and, if finished, result; a new folder gets an empty record."""
    if (out / STAMPS).is_file():
        found = read_json(out / STAMPS)
        if isinstance(found, dict) and found.get("format") == FORMAT:
            return dict(found["stages"])
    check_vacant(out, "not a run directory")
    _write_stamps(out, {})
    return {}


def _write_stamps(out: Path, stamps: Mapping[str, Any]) -> None:
    write_json(out / STAMPS, {"format": FORMAT, "stages": stamps})


def _fingerprint(stage: Stage, options: Mapping[str, Any], inputs: Mapping[str, str], out: Path) -> str:
    """Hash of everything that a stage's result depends on, down to the size and time of every input file."""
    relevant = {key: _described(value, out) for key, value in options.items() if key not in RUNTIME}
    if stage.function is extract:
        clips = read_manifest(*(options[name] for name in ("source", "root", "columns", "validate")))
        relevant["clips"] = _states(clip.path for clip in clips)
    return digest([relevant, inputs, versions()["edgesea"]])


def _described(value: Any, out: Path) -> Any:
    """A value, with the state of the files that it names; the run directory may lie among them and does not count."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: _described(item, out) for key, item in value.items()}
    if isinstance(value, str):  # a teacher's id may name a file: onnx:FILE@RATE
        files = [Path(piece) for piece in re.split("[:@]", value) if piece and Path(piece).is_file()]
        return [value, _states(files)] if files else value
    if not isinstance(value, Path) or not value.exists():
        return value
    run, folder = out.resolve(), value.resolve()
    inside = value / run.relative_to(folder) if run.is_relative_to(folder) else None
    files = [value] if value.is_file() else sorted(walk(value))
    return [str(value), _states(path for path in files if inside is None or not path.is_relative_to(inside))]


def _states(files: Iterable[Path]) -> str:
    """Hash of the paths, sizes and times of files, of which some may be missing."""
    states = "".join(repr((str(path), file_state(path))) for path in files)
    return hashlib.sha256(states.encode("utf-8", "surrogateescape")).hexdigest()


def _run_stage(name: str, options: Mapping[str, Any], sections: Sections, out: Path) -> dict[str, Any]:
    stage, paths = STAGES[name], {key: out / other.artifact for key, other in STAGES.items()}
    if name != "evaluate":
        inputs = {parameter: paths[source] for parameter, source in stage.inputs.items()}
        return stage.function(**options, **inputs, out=paths[name])
    teacher = {"model": sections["extract"]["teacher"], "weights": sections["extract"]["weights"]}
    reduced, student = {**teacher, "reduction": paths["reduce"]}, {"model": str(paths["distill"])}
    cache = out / "cache"  # beside the stage's artifact, which goes when an option of the classifier changes
    result = {}
    for system, model in {"teacher": teacher, "reduced": reduced, "student": student}.items():
        file = paths["evaluate"] / f"{system}.json"
        tags = file.with_suffix(".csv") if options["task"] == "sonyc_ust" else None
        result[system] = evaluate(**options, **model, out=file, predictions=tags, cache=cache)
    return result
