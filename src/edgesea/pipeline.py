"""``run``: one YAML file -> all stages -> a run directory; finished stages are skipped, changed ones redone."""

import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, is_dataclass, replace
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

from edgesea.artifact import (
    DIGESTS_FILE,
    Digests,
    check_vacant,
    differences,
    digest,
    discard,
    file_state,
    is_helper,
    locked,
    move_aside,
    plain,
    read_json,
    versions,
    walk,
    write_json,
)
from edgesea.cluster import Cluster, current, read_cluster, run_on_nodes, using
from edgesea.config import changed, changed_sections, checked_options, nearest, read_yaml, write_yaml
from edgesea.distill import distill, epochs_done
from edgesea.errors import EdgeseaError
from edgesea.export import TFLITE_FILE, check_options, export
from edgesea.extract import extract
from edgesea.reduction import reduce
from edgesea.report import report_if_possible
from edgesea.sampling import sample
from edgesea.table.manifest import read_manifest
from edgesea.table.reader import parts_done
from edgesea.tasks.evaluate import evaluate, evaluate_systems, load_task
from edgesea.tasks.options import check_seed
from edgesea.tasks.skipped import check_openable, listing_of
from edgesea.tracking import FOLDER as TRACKING
from edgesea.tracking import Track, origin, read_track, recording
from edgesea.tracking import current as watchers
from edgesea.tracking import using as watched

log = logging.getLogger(__name__)

STAMPS, RESULTS, CONFIG, FORMAT = "stages.json", "results.json", "config.yaml", "edgesea run"
SPEED = ("workers", "device", "save_every")  # options that change how a stage runs, but not its result
ACCEPTANCE = ("max_skipped",)  # options that only decide whether a result will do
LISTING = ("source", "root", "columns", "validate")  # options of extract that only say which clips there are
LEFT_OUT = (*SPEED, *ACCEPTANCE, *LISTING, "out")  # of the options in a plan
KNOWN = ("clip", "sensor", "time", "split", "level", "label")  # what is known of a clip
ASIDE, LONG = "it is moved aside", 60.0  # seconds of work after which an artifact is not deleted, but moved aside

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


def run(
    experiment: Path, *, out: Path | None = None, stage: str | None = None, dry_run: bool = False
) -> dict[str, Any]:
    """Run all stages of an experiment; stages that are finished and unchanged are skipped.

    A stage is redone if an option that changes its result, or the content of a file, has changed. What took more than a
    minute to make is not deleted then, but moved aside: to `table.old-1`, for instance.

    Parameters
    ----------
    experiment : Path
        YAML file with a section for each stage (extract, sample, reduce, distill, evaluate, export) that holds the
        options of the command of that name. ${EDGESEA_DATA} and other environment variables are filled in. Sections
        evaluate and export may be missing. A section `cluster` says where stages run, `track` who watches.
    out : Path, optional
        Run directory: table/, subset.parquet, reduction/, student/, evaluate/, export/, results.json, report.html;
        default: runs/ and the name of the configuration.
    stage : str, optional
        Run only this stage; those that it needs must be finished.
    dry_run : bool
        Only say what would be done with each stage, and why.

    Returns
    -------
    dict
        What is written to results.json, and the run directory as `run`.

    EdgeseaError: the configuration has an unknown key or a bad value, `out` holds something else, or a stage fails.
    """
    path = Path(experiment)
    sections, cluster, track = read_config(path, stage)
    with using(cluster), watched(track):
        return run_stages(sections, Path("runs") / path.stem if out is None else Path(out), stage, dry_run)


def read_config(path: Path, stage: str | None = None) -> tuple[Sections, Cluster, Track]:
    """All options of all stages (one must be `stage`), where they run, who watches: what surrounds the call wins."""
    given = read_yaml(path)
    cluster = read_cluster(given.pop("cluster", None), f"{path}: cluster", STAGES)
    track = replace(read_track(given.pop("track", None), f"{path}: track"), **changed(watchers()))
    sections = checked_sections(given, str(path))
    if stage not in (None, *sections):
        raise EdgeseaError(f"stage must be one of {', '.join(sections)}, not {stage}")
    return sections, replace(cluster, **changed(current())), track


def checked_sections(given: Mapping[str, Any], source: str) -> Sections:
    """All options of all stages, checked against their signatures; EdgeseaError names `source`, stage and option."""
    if unknown := [name for name in given if name not in STAGES]:
        owners = [f"{name} is an option of {owner}" for name in unknown for owner in STAGES if name in _options(owner)]
        raise EdgeseaError(
            "; ".join([f"{source}: unknown section {nearest(unknown, [*STAGES, 'cluster', 'track'])}", *owners[:1]])
        )
    if "extract" not in given:
        raise EdgeseaError(f"{source}: section extract is missing")
    sections = {}
    for name, stage in STAGES.items():
        if name in given or name not in OPTIONAL:
            options, fixed = {} if given.get(name) is None else given[name], (*stage.inputs, *OUTPUTS)
            sections[name] = checked_options(stage.function, options, f"{source}: {name}", fixed=fixed)
    return sections


def _options(stage: str) -> Mapping[str, Any]:
    return signature(STAGES[stage].function).parameters


def run_stages(sections: Sections, out: Path, only: str | None = None, dry_run: bool = False) -> dict[str, Any]:
    """Run checked sections (or one of them) into a run directory; see `run`."""
    if is_helper():
        _run_stage("distill", sections["distill"], sections, out)
        sys.exit(0)
    check_run(sections, out, dry_run)
    if dry_run:
        return {"dry_run": str(out), **{name: str(step) for name, step in find_todo(sections, out, only).items()}}
    files = (STAMPS, CONFIG, RESULTS, DIGESTS_FILE, *(stage.artifact for stage in STAGES.values()))
    with locked(out, stale=[f".{name}" for name in files]):
        return _run_missing(sections, out, only)


def check_run(sections: Sections, out: Path, dry_run: bool = False) -> None:
    """Refuse a folder that holds something else, and a task that cannot be loaded or read, before hours of work."""
    read_stamps(out)
    if "export" in sections:
        check_options(**sections["export"])
    if evaluation := sections.get("evaluate"):
        check_seed(evaluation["seed"], evaluation["tagging"].members)
        task = load_task(*(evaluation[name] for name in ("task", "data", "probe", "tagging", "folds")))
        if not dry_run:
            data, allowed, workers = (evaluation[name] for name in ("data", "max_skipped", "workers"))
            check_openable(task, data, allowed, listing_of(out), workers)


def write_config(out: Path, sections: Sections) -> None:
    """Write the options of all stages, of where they run and of who watches, to a run directory."""
    write_yaml(out / CONFIG, {**sections, **changed_sections(cluster=current(), track=watchers())})


@dataclass(frozen=True)
class Todo:
    """What is to be done about a stage."""

    plan: dict[str, Any]  # what decides its result
    accepted: dict[str, Any]  # its options that decide whether the result will do
    artifact: Path
    verb: str  # start, resume, redo; empty: nothing
    why: str = ""
    fate: str = ""  # of an artifact that is redone

    def __str__(self) -> str:
        """For `--dry-run` and the log."""
        return "; ".join(filter(None, (f"{self.verb}: {self.why}" if self.verb else "up to date", self.fate)))


def find_todo(sections: Sections, out: Path, only: str | None = None, write: bool = False) -> dict[str, Todo]:
    """What is to be done about each stage; what `only` one needs must be there. `write` records what is asked for."""
    stamps, contents = read_stamps(out), Digests(out / DIGESTS_FILE)
    todo = _find_todo(sections, stamps, out, contents, write)
    for need in STAGES[only].inputs.values() if only else ():
        if todo[need].verb:
            raise EdgeseaError(
                f"{out}: {only} needs {need}, where there is something to do ({todo[need]}); run that first"
            )
    if write:
        _write_stamps(out, stamps)
        contents.save()
        write_config(out, sections)
    return todo


def _run_missing(sections: Sections, out: Path, only: str | None) -> dict[str, Any]:
    todo, stamps = find_todo(sections, out, only, write=True), read_stamps(out)
    for name, step in todo.items():
        log.info("%s: %s", name, step)
        if not step.verb or only not in (None, name):
            continue
        spent = _spent(stamps[name], step.artifact) if step.verb == "resume" else 0.0
        if step.fate == ASIDE:
            log.warning("%s: moved aside, to %s", step.artifact, move_aside(step.artifact))
        elif step.fate:
            discard(step.artifact)
        stamp = {"plan": step.plan, "accepted": step.accepted, "finished": False, "seconds": spent}
        had = (STAGES[name].progress(step.artifact) or (0,))[0]
        stamps[name] = {**stamp, "began": time.time(), "had": had}
        _write_stamps(out, stamps)
        began = time.perf_counter()
        try:
            with using(current().for_stage(name)) if name in current().stages else nullcontext():
                result = _run_stage(name, sections[name], sections, out)
            files = {path.relative_to(out).as_posix(): path.stat().st_size for path in _files(step.artifact)}
            stamp |= {"finished": True, "files": files, "result": result}
        finally:
            stamps[name] = {**stamp, "seconds": round(spent + time.perf_counter() - began, 1)}
            _write_stamps(out, stamps)
    if unfinished := [name for name in sections if not stamps.get(name, {}).get("finished")]:
        return {"finished": [name for name in sections if name not in unfinished], "unfinished": unfinished}
    results = {name: stamps[name]["result"] for name in sections}
    seconds = {name: stamps[name]["seconds"] for name in sections}
    summary = {**results, "seconds": seconds, "config": plain(sections), "versions": versions(), "origin": origin()}
    write_json(out / RESULTS, summary)
    pages = report_if_possible(out)
    with recording("run", {"config": sections}, out / STAGES["distill"].artifact) as record:
        record.end({**results, "seconds": seconds}, [out / RESULTS, *map(Path, pages.values())])
    return {"run": str(out), **summary}


def _find_todo(sections: Sections, stamps: Stamps, out: Path, contents: Digests, write: bool) -> dict[str, Todo]:
    """What is to be done about each stage: its plan is compared with the one that it was begun with."""
    plans: dict[str, Any] = {}
    found = {}
    for name, options in sections.items():
        stage, stamp = STAGES[name], stamps.get(name, {})
        artifact, old = out / stage.artifact, stamp.get("plan")
        contents.reads = write or old is not None  # else they would be compared with nothing
        scored = ["evaluate"] if name == "export" and "evaluate" in plans else []
        needs = {STAGES[need].artifact: digest(plans[need])[:12] for need in (*stage.inputs.values(), *scored)}
        plan = plain({"format": stage.format, **_described(name, options, out, contents), "needs": needs})
        why = "" if old is None else _reason(old, plan, name, contents)
        plans[name] = plan if old is None or why else old
        accepted = {key: options[key] for key in ACCEPTANCE if key in options}
        step: tuple[str, ...] = ("",)
        if not artifact.exists():
            step = ("start", f"no {stage.artifact} there")
        elif old is None:
            step = ("redo", f"nothing is recorded of what {stage.artifact} was made from", ASIDE)
        elif why:
            step = ("redo", why, ASIDE if _spent(stamp, artifact) > LONG else f"{stage.artifact} is replaced")
        elif not stamp["finished"]:
            step = ("resume", "not finished")
        elif stamp["accepted"] != accepted:
            step = ("resume", "; ".join(differences(stamp["accepted"], accepted)))
        elif lost := [file for file, size in stamp["files"].items() if (file_state(out / file) or [-1])[0] != size]:
            step = ("resume", f"{lost[0]} is missing or damaged")
        found[name] = Todo(plans[name], accepted, artifact, *step)
    return found


def _reason(old: Mapping[str, Any], plan: Mapping[str, Any], name: str, contents: Digests) -> str:
    """Why a stage is redone: which artifacts that it needs, options, clips and files differ; nothing: it is not.

    An option that there was not when the old plan was made had what is now its default.
    """
    new = {key: one.default for key, one in _options(name).items() if key in plan and one.default is not one.empty}
    rest = {"needs": None, "clips": None}
    values = list(differences({**_merged(plain(new), old), **rest}, {**plan, **rest}))
    values += [f"another {need}" for need, one in plan["needs"].items() if old["needs"].get(need) != one]
    one, other = old.get("clips", {}), plan.get("clips", {})
    if one.get("number") != other.get("number"):
        values.append(f"clips: {one.get('number')} there, {other['number']} here")
    elif differ := [key for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key)]:
        values.append(f"clips: other {', '.join(differ)}")
    for word, files in (("changed", contents.changed), ("new", contents.new)):
        if values and files:
            values.append(f"{word}: {', '.join(files[:3])}{' ...' if files[3:] else ''}")
    contents.changed, contents.new = [], []
    return "; ".join(values)


def _merged(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    groups = {key: _merged(defaults[key], one) for key, one in given.items() if isinstance(defaults.get(key), Mapping)}
    return {**defaults, **given, **groups}


def _spent(stamp: Mapping[str, Any], artifact: Path) -> float:
    """Seconds of all processes that worked on an artifact; of one that was killed, until its last file was written."""
    times = [state[1] / 1e9 for path in _files(artifact) if (state := file_state(path))]
    last = max(times, default=0.0) - stamp["began"] if "began" in stamp else 0.0
    return float(stamp.get("seconds", 0.0)) + max(0.0, last)


def _files(artifact: Path) -> list[Path]:
    """The files of an artifact, but for what trackers keep there."""
    if artifact.is_file():
        return [artifact]
    return sorted(path for path in artifact.rglob("*") if path.is_file() and artifact / TRACKING not in path.parents)


def read_stamps(out: Path) -> Stamps:
    """What is recorded of each stage that was begun; nothing in a new folder."""
    if (out / STAMPS).is_file():
        found = read_json(out / STAMPS)
        if isinstance(found, dict) and found.get("format") == FORMAT:
            return dict(found["stages"])
    check_vacant(out, "not a run directory")
    return {}


def _write_stamps(out: Path, stamps: Stamps) -> None:
    write_json(out / STAMPS, {"format": FORMAT, "stages": stamps})


def _described(name: str, options: Mapping[str, Any], out: Path, contents: Digests) -> dict[str, Any]:
    """The options of a stage that decide its result, with the contents of files in place of their names."""
    found = {key: value for key, value in options.items() if key not in LEFT_OUT}
    if name == "extract":
        entries = read_manifest(*(options[key] for key in LISTING))
        known = {field: entries.columns[field].tolist() for field in KNOWN}
        known["name"], known["content"] = known.pop("clip"), contents.of(entries.files())
        columns = {field: digest(values)[:12] for field, values in known.items() if any(map(bool, values))}
        found["clips"] = {"number": len(entries), **columns}
        found["teacher_files"] = contents.of(_files_of_teacher(found["teacher"]))
    return {key: _content(value, out, contents) for key, value in found.items()}


def _files_of_teacher(id: str) -> list[Path]:
    """The files that an id names: weights (onnx:FILE@RATE), or the module of a function (callable:MODULE:NAME@RATE)."""
    names = re.split("[:@]", id)
    module = None
    if names[0] in ("callable", "hear"):
        with suppress(ImportError, ValueError):
            module = find_spec(names[1])
    return [path for name in (*names[1:], module and module.origin) if name and (path := Path(name)).is_file()]


def _content(value: Any, out: Path, contents: Digests) -> Any:
    """A value; a digest instead of a path. Hidden files, and the run directory, do not count as part of a folder."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: _content(item, out, contents) for key, item in value.items()}
    if isinstance(value, list):
        return [_content(item, out, contents) for item in value]
    if not isinstance(value, Path):
        return value
    run, folder = out.resolve(), value.resolve()
    inside = value / run.relative_to(folder) if run.is_relative_to(folder) else None
    found = walk(value) if value.is_dir() else ()
    files = sorted(path for path in found if inside is None or not path.is_relative_to(inside))
    names = [path.relative_to(value).as_posix() for path in files]
    shown = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    return digest([shown, contents.of([value, *(value / name for name in shown)])])[:12]


def _run_stage(name: str, options: Mapping[str, Any], sections: Sections, out: Path) -> dict[str, Any]:
    stage, paths = STAGES[name], {key: out / other.artifact for key, other in STAGES.items()}
    inputs = {parameter: paths[source] for parameter, source in stage.inputs.items()}
    if name == "distill" and current().processes > 1:
        given = {**options, **inputs, "out": paths[name], "track": changed(watchers())}
        write_yaml(config := out / "jobs" / "distill.yaml", given)
        run_on_nodes(["distill", "--config", str(config)])
    cache, evaluation = out / "cache", sections.get("evaluate", {})  # not in an artifact, which may be redone
    if name == "evaluate":
        teacher = {"model": sections["extract"]["teacher"], "weights": sections["extract"]["weights"]}
        systems = {"teacher": teacher, "reduced": {**teacher, "reduction": paths["reduce"]}}
        return evaluate_systems(options, systems | {"student": {"model": str(paths["distill"])}}, paths[name], cache)
    if name == "export" and evaluation and options["format"] == "c" and not options["tags"]:
        options = {**options, "tags": evaluation["task"], "data": evaluation["data"]}
    result = stage.function(**options, **inputs, out=paths[name])
    if name == "export" and evaluation and result["int8"]:
        int8 = {"model": str(paths[name] / TFLITE_FILE), "device": "cpu", "engine": "auto", "precision": "float32"}
        result["scores"] = evaluate_systems(evaluation, {"int8": int8}, paths[name], cache)["int8"]
    return result
