"""``run``: recordings, or one YAML file -> all stages -> a run directory; finished stages are skipped."""

import logging
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgesea.artifact import DIGESTS_FILE, delete, is_helper, locked, move_aside, plain, versions, write_json
from edgesea.audio.io import audio_suffixes
from edgesea.cluster import Cluster, current, read_cluster, run_on_nodes, using
from edgesea.config import changed, changed_sections, parsed, read_yaml, write_yaml
from edgesea.errors import EdgeseaError
from edgesea.export import TFLITE_FILE, check_options, check_student
from edgesea.models.student_config import StudentConfig
from edgesea.pipeline import stages
from edgesea.pipeline.draft import as_text, suggested, write_draft
from edgesea.pipeline.estimate import forecast, log_left
from edgesea.pipeline.stages import STAGES, Sections, checked_sections, find_todo, read_stamps, write_stamps
from edgesea.report import report_if_possible
from edgesea.table.paths import expanded, normal
from edgesea.table.sheet import SUFFIXES
from edgesea.tasks.evaluate import evaluate_systems, load_task
from edgesea.tasks.options import check_seed
from edgesea.tasks.skipped import check_openable, listing_of
from edgesea.tracking import Track, origin, read_track, recording
from edgesea.tracking import current as watchers
from edgesea.tracking import using as watched

__all__ = ["STAGES", "checked_sections", "read_stamps", "run", "run_stages"]
log = logging.getLogger(__name__)


def run(
    source: Path,
    *,
    out: Path | None = None,
    stage: str | None = None,
    dry_run: bool = False,
    quick: bool = False,
    teacher: str | None = None,
    weights: Path | None = None,
    student: str | None = None,
    extract: dict[str, Any] | None = None,
    sample: dict[str, Any] | None = None,
    reduce: dict[str, Any] | None = None,
    distill: dict[str, Any] | None = None,
    evaluate: dict[str, Any] | None = None,
    export: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Make a student for your recordings: run all stages, but for those that are finished and unchanged.

    Of a folder or a manifest, the options are chosen by how much audio there is, and written to experiment.yaml in the
    run directory, which is what counts from then on: edit it, and run it. A stage is redone if an option that changes
    its result, or the content of a file, has changed. What took more than a minute to make is not deleted then, but
    moved aside: to `table.old-1`, for instance.

    Parameters
    ----------
    source : Path
        Folder of recordings, or a manifest (CSV or Parquet), as of `edgesea extract`. Or a YAML file with a section for
        each stage (extract, sample, reduce, distill, evaluate, export) that holds the options of the command of that
        name; ${EDGESEA_DATA} and other environment variables are filled in. Sections evaluate and export may be
        missing. A section `cluster` says where stages run, `track` who watches. Or a run directory, to resume it.
    out : Path, optional
        Run directory: table/, subset.parquet, reduction/, student/, evaluate/, export/, results.json, report.html;
        default: that of a YAML file which lies in one, or runs/ and the name of the source.
    stage : str, optional
        Run only this stage; those that it needs must be finished.
    dry_run : bool
        Only say what would be done with each stage, and why.
    quick : bool
        Of recordings: a first look, with a tenth of the mixtures and a fifth of the training or less.
    teacher : str, optional
        Instead of the experiment's; of recordings, the default is efficientat/mn04, if its weights are there or can be
        downloaded, and else spectral, which needs none.
    weights : Path, optional
        The teacher's weight file, if it is not the published one, or was downloaded by hand.
    student : str, optional
        Instead of the experiment's, edge-10 of recordings.
    extract : dict, optional
        Further options of this stage, which count more than the experiment's: --extract.mixtures 40000
        --extract.columns '{path: filename}'.
    sample : dict, optional
        The same of sample: --sample.method dpp_div.
    reduce : dict, optional
        The same of reduce: --reduce.size 32.
    distill : dict, optional
        The same of distill: --distill.epochs 60.
    evaluate : dict, optional
        The same of evaluate: --evaluate.task esc50 --evaluate.data DATA.
    export : dict, optional
        The same of export: --export.format onnx.

    Returns
    -------
    dict
        What is written to results.json, and the run directory as `run`.

    EdgeseaError: the source or the configuration cannot be used, `out` holds something else, or a stage fails.
    """
    given = {"extract": extract, "sample": sample, "reduce": reduce}
    given |= {"distill": distill, "evaluate": evaluate, "export": export}
    changes = {name: dict(options) for name, options in given.items() if options}
    if teacher or weights:
        name = (teacher or "") or f"efficientat/{Path(weights or '').name[:4]}"
        if not teacher and not name.startswith("efficientat/mn"):
            raise EdgeseaError(f"weights={weights}: name their teacher, too, e.g. teacher=openl3/env-mel256-512")
        changes["extract"] = {**changes.get("extract", {}), "teacher": name, "weights": weights}
    if student:
        changes["distill"] = {**changes.get("distill", {}), "student": student}
    found = read_experiment(source, out, stage, changes, quick, not dry_run)
    with using(found.cluster), watched(found.track):
        return run_stages(found.sections, found.out, stage, dry_run, found.text)


@dataclass(frozen=True)
class Experiment:
    """What is to be run."""

    sections: Sections  # all options of all stages
    cluster: Cluster
    track: Track
    out: Path
    text: str = ""  # to be written to the run directory, if the options were chosen here


def read_experiment(
    source: Path,
    out: Path | None = None,
    stage: str | None = None,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    quick: bool = False,
    download: bool = False,
) -> Experiment:
    """The experiment for a source, see `run`; the weights of a teacher may be downloaded."""
    path = Path(expanded(str(source)))
    changes = {name: {key: parsed(value) for key, value in one.items()} for name, one in (changes or {}).items()}
    if (path / stages.STAMPS).is_file() and (stored := _stored(path)):
        path, out = stored, path if out is None else out
    elif path.suffix.lower() in audio_suffixes() and path.is_file():
        raise EdgeseaError(f"{path}: a single recording; give the folder that it is in, or a manifest")
    if not path.is_dir() and path.suffix.lower() not in SUFFIXES:  # an experiment
        is_in_run = (path.parent / stages.STAMPS).is_file()
        out = out or (path.parent if is_in_run else Path("runs") / path.stem)
        return Experiment(*read_config(path, stage, changes), Path(out))
    folder = Path(out) if out else Path("runs") / normal(path).stem
    if stored := _stored(folder):
        former = (read_yaml(stored).get("extract") or {}).get("source")
        if former is None or normal(Path(expanded(former))) != normal(path):
            remedy = f"choose another out for {path}"
            raise EdgeseaError(f"{stored}: this run was begun with {former}; {remedy}")
        log.info("%s: its options count; to begin with the defaults again, choose another out", stored)
        return Experiment(*read_config(stored, stage, changes), folder)
    read_stamps(folder)  # refused before recordings are looked at
    given, amount = suggested(path, changes, quick, download)
    found = _checked(given, "options", stage)
    groups = changed_sections(cluster=current(), track=watchers())
    return Experiment(*found, folder, as_text({**given, **groups}, found[0], amount, str(folder / stages.DRAFT)))


def _stored(run: Path) -> Path | None:
    """The experiment that a run directory holds."""
    found = next((run / name for name in (stages.DRAFT, stages.CONFIG) if (run / name).is_file()), None)
    return found if found and (found.name == stages.DRAFT or (run / stages.STAMPS).is_file()) else None


def read_config(
    path: Path, stage: str | None = None, changes: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[Sections, Cluster, Track]:
    """All options of all stages (one must be `stage`), where they run, who watches: what surrounds the call wins."""
    given = read_yaml(path)
    for name, options in (changes or {}).items():
        if isinstance(given.get(name) or {}, Mapping):
            given[name] = {**(given.get(name) or {}), **options}
    return _checked(given, str(path), stage)


def _checked(given: dict[str, Any], source: str, stage: str | None) -> tuple[Sections, Cluster, Track]:
    cluster = read_cluster(given.pop("cluster", None), f"{source}: cluster", STAGES)
    track = replace(read_track(given.pop("track", None), f"{source}: track"), **changed(watchers()))
    sections = checked_sections(given, source)
    if stage not in (None, *sections):
        raise EdgeseaError(f"stage must be one of {', '.join(sections)}, not {stage}")
    return sections, replace(cluster, **changed(current())), track


def run_stages(
    sections: Sections, out: Path, only: str | None = None, dry_run: bool = False, text: str = ""
) -> dict[str, Any]:
    """Run checked sections (or one of them) into a run directory; see `run`. `text` is written to `DRAFT`."""
    if is_helper():
        _run_stage("distill", sections["distill"], sections, out)
        sys.exit(0)
    check_run(sections, out, dry_run)
    if dry_run:
        return {"dry_run": str(out), **{name: str(step) for name, step in find_todo(sections, out, only).items()}}
    files = (*stages.FILES, DIGESTS_FILE, *(stage.artifact for stage in STAGES.values()))
    with locked(out, stale=[f".{name}" for name in files]):
        if text:
            write_draft(out, text)
        return _run_missing(sections, out, only)


def check_run(sections: Sections, out: Path, dry_run: bool = False) -> None:
    """Refuse a folder that holds something else, and a task that cannot be loaded or read, before hours of work."""
    read_stamps(out)
    if "export" in sections:
        check_options(**sections["export"])
        table, size = sections["extract"], sections["reduce"]["size"]
        config = StudentConfig.trained(size, table["window"], table["sample_rate"], **sections["distill"])
        check_student(config, "the student", **sections["export"])
    if evaluation := sections.get("evaluate"):
        check_seed(evaluation["seed"], evaluation["tagging"].members)
        task = load_task(*(evaluation[name] for name in ("task", "data", "probe", "tagging", "folds")))
        if not dry_run:
            data, allowed, workers = (evaluation[name] for name in ("data", "max_skipped", "workers"))
            check_openable(task, data, allowed, listing_of(out), workers)


def _run_missing(sections: Sections, out: Path, only: str | None) -> dict[str, Any]:
    todo, stamps = find_todo(sections, out, only, write=True), read_stamps(out)
    ahead = forecast({} if only else sections, todo, out)
    for name, step in todo.items():
        log.info("%s: %s", name, step)
        if not step.verb or only not in (None, name):
            continue
        before = stages.spent(stamps[name], step.artifact) if step.verb == "resume" else 0.0
        former, old = move_aside(step.artifact, step.fate == stages.ASIDE) if step.fate else None, stamps.get(name)
        if step.fate == stages.ASIDE:
            log.warning("%s: moved aside, to %s", step.artifact, former)
        stamp = {"plan": step.plan, "accepted": step.accepted, "finished": False, "seconds": before}
        had = (STAGES[name].progress(step.artifact) or (0,))[0]
        stamps[name] = {**stamp, "began": time.time(), "had": had}
        write_stamps(out, stamps)
        began = time.perf_counter()
        try:
            with using(current().for_stage(name)) if name in current().stages else nullcontext():
                result = _run_stage(name, sections[name], sections, out)
            files = {path.relative_to(out).as_posix(): path.stat().st_size for path in stages.files_of(step.artifact)}
            stamp |= {"finished": True, "files": files, "result": result}
        except EdgeseaError as error:
            error.args = (f"{name}: {error}",)
            raise
        finally:
            stamps[name] = {**stamp, "seconds": round(before + time.perf_counter() - began, 1)}
            if former and old and not step.artifact.exists():  # nothing was made instead: an option was wrong
                stamps[name] = old
                former.rename(step.artifact)
            elif former and step.fate != stages.ASIDE:
                delete(former)
            write_stamps(out, stamps)
        log_left(ahead, name, time.perf_counter() - began)
    if unfinished := [name for name in sections if not stamps.get(name, {}).get("finished")]:
        return {"finished": [name for name in sections if name not in unfinished], "unfinished": unfinished}
    results = {name: stamps[name]["result"] for name in sections}
    seconds = {name: stamps[name]["seconds"] for name in sections}
    summary = {**results, "seconds": seconds, "config": plain(sections), "versions": versions(), "origin": origin()}
    write_json(out / stages.RESULTS, summary)
    pages = report_if_possible(out)
    with recording("run", {"config": sections}, out / STAGES["distill"].artifact) as record:
        record.end({**results, "seconds": seconds}, [out / stages.RESULTS, *map(Path, pages.values())])
    return {"run": str(out), **summary}


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
