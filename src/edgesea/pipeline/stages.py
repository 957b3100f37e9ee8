"""The stages of a run, what is recorded of them, and what is to be done about each, and why."""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

from edgesea.artifact import Digests, check_vacant, differences, digest, file_state, plain, read_json, walk, write_json
from edgesea.cluster import current
from edgesea.config import changed_sections, checked_options, nearest, write_yaml
from edgesea.distill import distill, epochs_done
from edgesea.errors import EdgeseaError
from edgesea.export import export
from edgesea.extract import extract
from edgesea.reduction import reduce
from edgesea.sampling import sample
from edgesea.table.manifest import read_manifest
from edgesea.table.reader import parts_done
from edgesea.tasks.evaluate import evaluate
from edgesea.tracking import FOLDER as TRACKING
from edgesea.tracking import current as watchers

STAMPS, RESULTS, CONFIG, FORMAT = "stages.json", "results.json", "config.yaml", "edgesea run"
DRAFT = "experiment.yaml"  # in the run directory, if it was begun with recordings alone
FILES = (STAMPS, DRAFT, CONFIG, RESULTS)
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


def checked_sections(given: Mapping[str, Any], source: str) -> Sections:
    """All options of all stages, checked against their signatures; EdgeseaError names `source`, stage and option."""
    if unknown := [name for name in given if name not in STAGES]:
        options = {owner: signature(stage.function).parameters for owner, stage in STAGES.items()}
        owners = [f"{name} is an option of {owner}" for name in unknown for owner in STAGES if name in options[owner]]
        problem = f"{source}: unknown section {nearest(unknown, [*STAGES, 'cluster', 'track'])}"
        raise EdgeseaError("; ".join([problem, *owners[:1]]))
    if "extract" not in given:
        raise EdgeseaError(f"{source}: section extract is missing")
    sections = {}
    for name, stage in STAGES.items():
        if name in given or name not in OPTIONAL:
            options, fixed = {} if given.get(name) is None else given[name], (*stage.inputs, *OUTPUTS)
            sections[name] = checked_options(stage.function, options, f"{source}: {name}", fixed=fixed)
    return sections


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
    """What is to be done about each stage: its plan is compared with the one that it was begun with.

    What the stage `only` needs must be there. `write` records what is asked for.
    """
    stamps, contents = read_stamps(out), Digests(out)
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
            step = ("redo", why, ASIDE if spent(stamp, artifact) > LONG else f"{stage.artifact} is replaced")
        elif not stamp["finished"]:
            step = ("resume", "not finished")
        elif stamp["accepted"] != accepted:
            step = ("resume", "; ".join(differences(stamp["accepted"], accepted)))
        elif lost := [file for file, size in stamp["files"].items() if (file_state(out / file) or [-1])[0] != size]:
            step = ("resume", f"{lost[0]} is missing or damaged")
        found[name] = Todo(plans[name], accepted, artifact, *step)
    for need in STAGES[only].inputs.values() if only else ():
        if found[need].verb:
            reason = f"where there is something to do ({found[need]}); run that first"
            raise EdgeseaError(f"{out}: {only} needs {need}, {reason}")
    if write:
        write_stamps(out, stamps)
        contents.save()
        write_yaml(out / CONFIG, {**sections, **changed_sections(cluster=current(), track=watchers())})
    return found


def _reason(old: Mapping[str, Any], plan: Mapping[str, Any], name: str, contents: Digests) -> str:
    """Why a stage is redone: which artifacts that it needs, options, clips and files differ; nothing: it is not.

    An option that there was not when the old plan was made had what is now its default.
    """
    new = {
        key: one.default
        for key, one in signature(STAGES[name].function).parameters.items()
        if key in plan and one.default is not one.empty
    }
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


def spent(stamp: Mapping[str, Any], artifact: Path) -> float:
    """Seconds of all processes that worked on an artifact; of one that was killed, until its last file was written."""
    times = [state[1] / 1e9 for path in files_of(artifact) if (state := file_state(path))]
    last = max(times, default=0.0) - stamp["began"] if "began" in stamp else 0.0
    return float(stamp.get("seconds", 0.0)) + max(0.0, last)


def files_of(artifact: Path) -> list[Path]:
    """The files of an artifact, but for what trackers keep there."""
    if artifact.is_file():
        return [artifact]
    return sorted(path for path in artifact.rglob("*") if path.is_file() and artifact / TRACKING not in path.parents)


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
