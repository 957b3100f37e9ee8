"""``run``: one YAML file -> all stages -> a run directory; finished stages are skipped, changed ones redone."""

import hashlib
import inspect
import json
import logging
import os
import re
import shutil
import string
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from edgesea.artifact import atomic_path, check_vacant, file_state, read_json, versions, walk, write_json
from edgesea.distill import distill
from edgesea.errors import EdgeseaError
from edgesea.extract import extract
from edgesea.reduction import reduce
from edgesea.sampling import sample
from edgesea.table.manifest import read_manifest
from edgesea.tasks.evaluate import evaluate, load_task
from edgesea.tasks.options import ProbeOptions, TaggingOptions, check_seed

log = logging.getLogger(__name__)

STAMPS, FORMAT = "stages.json", "edgesea run"
RESULTS = "results.json"
CONFIG = "config.yaml"
SYSTEMS = ("teacher", "reduced", "student")


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    Attributes
    ----------
    function : callable
        What it runs.
    artifact : str
        What it writes, below the run directory.
    needs : tuple of str
        The stages whose artifacts it reads.
    fixed : tuple of str
        The function's parameters that the pipeline sets, so that the YAML must not.
    runtime : tuple of str
        Options that change how fast it runs, but not its result.
    """

    function: Callable[..., dict[str, Any]]
    artifact: str
    needs: tuple[str, ...]
    fixed: tuple[str, ...]
    runtime: tuple[str, ...] = ("workers", "device")


STAGES = {
    "extract": Stage(extract, "table", (), ("out",)),
    "sample": Stage(sample, "subset.parquet", ("extract",), ("table", "out")),
    "reduce": Stage(reduce, "reduction", ("extract", "sample"), ("table", "out", "subset")),
    "distill": Stage(distill, "student", ("extract", "reduce"), ("table", "reduction", "out")),
    "evaluate": Stage(
        evaluate,
        "evaluate",
        ("extract", "reduce", "distill"),
        ("model", "out", "predictions", "weights", "reduction", "cache"),
    ),
}


def run(experiment: Path, *, out: Path | None = None) -> dict[str, Any]:
    """Run all stages of an experiment; what is finished and unchanged is skipped.

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
    sections = read_config(Path(experiment))
    return run_stages(sections, Path("runs") / Path(experiment).stem if out is None else Path(out))


def read_config(path: Path) -> dict[str, dict[str, Any]]:
    """Read and check an experiment's YAML.

    Returns
    -------
    dict
        For each stage, all options of its function but those that the pipeline sets.

    Raises
    ------
    EdgeseaError
        Naming the unknown key, or the value that does not fit its option.
    """
    try:
        text = path.read_text("utf-8")
        given = yaml.safe_load(string.Template(text).safe_substitute({"EDGESEA_DATA": "data", **os.environ}))
    except OSError as error:
        raise EdgeseaError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EdgeseaError(f"{path}: not YAML: {error}") from error
    if not isinstance(given, dict):
        raise EdgeseaError(f"{path}: must hold sections ({', '.join(STAGES)})")
    unknown = [str(key) for key in given if key not in STAGES]
    if unknown:
        raise EdgeseaError(f"{path}: unknown section {', '.join(unknown)}; known: {', '.join(STAGES)}")
    missing = [name for name in STAGES if name not in given and name in ("extract",)]
    if missing:
        raise EdgeseaError(f"{path}: no section {', '.join(missing)}")
    return {
        name: check_options(name, {} if given.get(name) is None else given[name], str(path))
        for name in STAGES
        if name in given or name != "evaluate"
    }


def check_options(
    stage: str, options: Mapping[str, Any], source: str, *, withheld: Collection[str] = ()
) -> dict[str, Any]:
    """Options of a stage with their defaults, checked against its function's signature.

    Parameters
    ----------
    stage : str
        One of `STAGES`.
    options : mapping
        Those given.
    source : str
        Where they were given, for the messages.
    withheld : collection of str
        Options that messages do not offer.

    Raises
    ------
    EdgeseaError
        Naming the unknown option, or the value that does not fit.
    """
    from jsonargparse import ArgumentParser, Namespace

    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(STAGES[stage].function, skip=set(STAGES[stage].fixed))
    known = [action.dest for action in parser._actions if action.dest != "help" and "." not in action.dest]
    if not isinstance(options, Mapping):
        raise EdgeseaError(f"{source}: section {stage} must be a mapping of options")
    unknown = [str(key) for key in options if key not in known]
    if unknown:
        offered = ", ".join(name for name in known if name not in withheld)
        raise EdgeseaError(f"{source}: {stage}: unknown option {', '.join(unknown)}; known: {offered}")
    defaults = {name: own.default for name, own in inspect.signature(STAGES[stage].function).parameters.items()}
    for name, value in options.items():
        default = defaults[name]
        if value is None and default is not None:  # which jsonargparse would let through
            raise EdgeseaError(f"{source}: {stage}: {name} needs a value; without the option it is {default}")
    try:
        parsed = parser.parse_object(dict(options))
    except Exception as error:  # jsonargparse raises several types
        raise EdgeseaError(f"{source}: {stage}: {' '.join(str(error).split())}") from error
    namespace = parsed.as_dict() if isinstance(parsed, Namespace) else dict(parsed)
    plain = {name: _plain(namespace.get(name)) for name in known}
    for name, value in plain.items():
        if is_dataclass(defaults[name]):  # a group of options checks itself; better now than after hours of work
            try:
                type(defaults[name])(**value)
            except EdgeseaError as error:
                raise EdgeseaError(f"{source}: {stage}: {error}") from error
    return plain


def _plain(value: Any) -> Any:
    """A value without jsonargparse's path and namespace types."""
    if isinstance(value, Mapping):
        return {key: _plain(own) for key, own in value.items()}
    return Path(value) if isinstance(value, os.PathLike) else value


def run_stages(sections: Mapping[str, Mapping[str, Any]], out: Path) -> dict[str, Any]:
    """Run checked sections into a run directory; see `run`."""
    if "evaluate" in sections:
        _check_task(sections["evaluate"])
    _claim(out)
    config = {name: {key: _yaml_value(value) for key, value in section.items()} for name, section in sections.items()}
    with atomic_path(out / CONFIG) as temporary:
        temporary.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), "utf-8")
    stamps = read_json(out / STAMPS)["stages"]
    done: dict[str, str] = {}
    results: dict[str, Any] = {}
    for name, stage in STAGES.items():
        if name not in sections:
            continue
        fingerprint = _fingerprint(stage, sections[name], {key: done[key] for key in stage.needs if key in done}, out)
        stamp = stamps.get(name, {})
        artifact = out / stage.artifact
        if stamp.get("fingerprint") == fingerprint and stamp.get("finished") and artifact.exists():
            log.info("%s: unchanged, skipped", name)
        else:
            if artifact.exists() and stamp.get("fingerprint") != fingerprint:
                log.info("%s: input or options changed, done again", name)
                stamps.pop(name, None)  # killed half-way, what remains must not count as finished
                _write_stamps(out, stamps)
                shutil.rmtree(artifact) if artifact.is_dir() else artifact.unlink()
            stamps[name] = {"fingerprint": fingerprint, "finished": False}
            _write_stamps(out, stamps)
            log.info("%s: started", name)
            began = time.perf_counter()
            result = _run_stage(name, dict(sections[name]), sections, out)
            if int(os.environ.get("LOCAL_RANK") or 0):
                sys.exit(0)  # this process was started only to train on another device
            seconds = round(time.perf_counter() - began, 1)
            stamps[name] = {"fingerprint": fingerprint, "finished": True, "seconds": seconds, "result": result}
            _write_stamps(out, stamps)
        done[name] = fingerprint
        results[name] = stamps[name]["result"]
    return _finish(out, config, results, {name: stamps[name]["seconds"] for name in results})


def _check_task(options: Mapping[str, Any]) -> None:
    """Make sure that the task can be judged by, before hours are spent on what is to be judged."""
    probe, tagging = ProbeOptions(**options["probe"]), TaggingOptions(**options["tagging"])
    check_seed(options["seed"], tagging.members)
    load_task(options["task"], Path(options["data"]), probe, tagging, options["folds"])


def _claim(out: Path) -> None:
    """Make sure that the folder is new, empty, or a run directory."""
    if (out / STAMPS).is_file():
        stamps = read_json(out / STAMPS)
        if isinstance(stamps, dict) and stamps.get("format") == FORMAT:
            return
    check_vacant(out, "no run directory")
    _write_stamps(out, {})


def _write_stamps(out: Path, stamps: Mapping[str, Any]) -> None:
    write_json(out / STAMPS, {"format": FORMAT, "stages": dict(stamps)})


def _fingerprint(stage: Stage, options: Mapping[str, Any], inputs: Mapping[str, str], out: Path) -> str:
    """Hash of everything that a stage's result depends on, down to the size and time of every input file."""
    relevant = {key: _describe(value, out) for key, value in options.items() if key not in stage.runtime}
    if stage.function is extract:
        names = ("source", "root", "columns", "validate")
        clips = read_manifest(*(options[name] for name in names))
        relevant["clips"] = _digest(clip.path for clip in clips)
    text = json.dumps([relevant, dict(inputs), versions()["edgesea"]], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _describe(value: Any, out: Path) -> Any:
    """A value, with the state of the files that it names; the run directory may lie among them and does not count."""
    if isinstance(value, Mapping):
        return {key: _describe(own, out) for key, own in value.items()}
    if isinstance(value, str):  # a teacher's id may name a file: onnx:FILE@RATE
        files = [Path(piece) for piece in re.split("[:@]", value) if piece and Path(piece).is_file()]
        return [value, _digest(files)] if files else value
    if not isinstance(value, Path) or not value.exists():
        return value
    if not value.is_dir():
        return [str(value), _digest([value])]
    run, folder = out.resolve(), value.resolve()
    own = value / run.relative_to(folder) if run.is_relative_to(folder) else None
    return [str(value), _digest(sorted(path for path in walk(value) if own is None or not path.is_relative_to(own)))]


def _digest(files: Iterable[Path]) -> str:
    """Hash of the paths, sizes and times of files, of which some may be missing."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(repr((str(path), file_state(path))).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _run_stage(
    name: str, options: dict[str, Any], sections: Mapping[str, Mapping[str, Any]], out: Path
) -> dict[str, Any]:
    path = {key: out / stage.artifact for key, stage in STAGES.items()}
    if name == "extract":
        return extract(**options, out=path["extract"])
    if name == "sample":
        return sample(**options, table=path["extract"], out=path["sample"])
    if name == "reduce":
        return reduce(**options, table=path["extract"], subset=path["sample"], out=path["reduce"])
    if name == "distill":
        return distill(**options, table=path["extract"], reduction=path["reduce"], out=path["distill"])
    teacher = {"model": sections["extract"]["teacher"], "weights": sections["extract"]["weights"]}
    systems = {
        "teacher": teacher,
        "reduced": {**teacher, "reduction": path["reduce"]},
        "student": {"model": str(path["distill"])},
    }
    folder, tags = path["evaluate"], options["task"] == "sonyc_ust"
    return {
        system: evaluate(
            **options,
            **chosen,
            out=folder / f"{system}.json",
            predictions=folder / f"{system}.csv" if tags else None,
            cache=out / "cache",  # beside the stage's artifact, which goes when an option of the classifier changes
        )
        for system, chosen in systems.items()
    }


def _finish(
    out: Path, config: Mapping[str, Any], results: Mapping[str, Any], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Write results.json and the report."""
    summary = {**results, "seconds": dict(seconds), "config": dict(config), "versions": versions()}
    write_json(out / RESULTS, summary)
    from edgesea.report import report

    try:
        report(out)
    except Exception as error:  # hours of work must not end in an error for the sake of a plot
        log.warning("the run is finished, but its report is not (%s); try: edgesea report %s", error, out)
    return {"run": str(out), **summary}


def _yaml_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _yaml_value(own) for key, own in value.items()}
    return str(value) if isinstance(value, Path) else value
