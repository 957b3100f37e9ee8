"""``submit`` and ``cancel``: a run as jobs of SLURM, one for each stage."""

import logging
import sys
import time
from collections.abc import Iterable
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from shlex import quote
from typing import Any

from edgesea.artifact import atomic_path, digest, locked, read_json, write_json
from edgesea.cluster import Cluster, using
from edgesea.cluster.slurm import ACT, Job, call, jobs_of
from edgesea.errors import EdgeseaError
from edgesea.pipeline import check_run, read_experiment
from edgesea.pipeline.draft import write_draft
from edgesea.pipeline.stages import CONFIG, STAGES, find_todo
from edgesea.tracking import using as watched

log = logging.getLogger(__name__)
JOBS, JOBS_FILE = "jobs", "jobs.json"  # folder of a run with scripts and logs; what was submitted
WARNING = 120  # seconds before the time limit at which a job is warned
ENDING = 60  # seconds that cancelled jobs have to end


def submit(source: Path, *, out: Path | None = None, stage: str | None = None, dry_run: bool = False) -> dict[str, Any]:
    """Submit an experiment to SLURM: a job for each stage that has something to do, each after those that it needs.

    What a job gets (partition, time, memory ...) is said by the options below, or by the section `cluster` of the YAML
    file. A job that is preempted, loses its node or reaches its time limit is queued again, and resumes, unless it made
    nothing new in its last time. Scripts, which `sbatch` takes by hand as well, and logs are in RUN/jobs.

    Parameters
    ----------
    source : Path
        YAML file, recordings or run directory, as of `edgesea run`.
    out : Path, optional
        Run directory, in a place that all nodes see; default: as of `edgesea run`.
    stage : str, optional
        Submit only this stage; those that it needs must be finished.
    dry_run : bool
        Only print the scripts.

    Returns
    -------
    dict
        The id of the job of each stage.

    EdgeseaError: the configuration or the data cannot be used, as in `edgesea run`, jobs of this run wait or run
    already, or SLURM refuses one.
    """
    found = read_experiment(source, out, stage, download=not dry_run)
    sections, cluster, run = found.sections, found.cluster, found.out.absolute()
    check_run(sections, run, dry_run)
    if not dry_run:
        _check_idle(run)
    with (
        using(cluster),
        watched(found.track),
        nullcontext() if dry_run else locked(run, stale=()),
    ):  # jobs that start at once wait for it
        if not dry_run:
            _check_idle(run)  # again: another submit may just have been here
            if found.text:
                write_draft(run, found.text)
        todo = find_todo(sections, run, stage, write=not dry_run)
        plans = {name: step.plan for name, step in todo.items() if step.verb and stage in (None, name)}
        scripts = {name: _script(name, run, cluster.for_stage(name)) for name in plans}
        if dry_run or not scripts:
            return {"text": "\n".join(scripts.values()) or f"{run}: nothing to do"}
        for name, text in scripts.items():
            with atomic_path(run / JOBS / f"{name}.sh") as temporary:
                temporary.write_text(text, "utf-8", "surrogateescape")
        ids = _submitted(run, scripts)
        jobs = {
            name: {"id": id, "name": f"{job_name(run)}-{name}", "plan": digest(plans[name])} for name, id in ids.items()
        }
        write_json(run / JOBS / JOBS_FILE, {**read_jobs(run), **jobs})
    return {"submitted": str(run), "jobs": ids}


def cancel(run: Path) -> dict[str, Any]:
    """Cancel the jobs of a run that wait or run, also those that its stages have submitted themselves.

    Nothing that is finished is lost: `edgesea submit` resumes.

    Parameters
    ----------
    run : Path
        Run directory.

    Returns
    -------
    dict
        The names of the jobs that were cancelled, by id.

    EdgeseaError: nothing was submitted there, or SLURM does not answer.
    """
    if not read_jobs(out := Path(run)):
        raise EdgeseaError(f"{out}: no jobs were submitted for a run in this folder")
    cancelled: dict[str, str] = {}
    for _ in range(ENDING):  # a stage that is ending may still submit another job
        live = {job.id: job.name for job in find_jobs(out).values() if job.is_live}
        if not live:
            break
        if new := [id for id in live if id not in cancelled]:
            call("scancel", *new, patience=ACT)
            cancelled |= live
        time.sleep(1)
    return {"folder": str(out), "cancelled": cancelled}


def read_jobs(run: Path) -> dict[str, dict[str, str]]:
    """The last job that was submitted for each stage: its id and name, and the digest of the stage's plan."""
    path = run / JOBS / JOBS_FILE
    return dict(read_json(path)) if path.is_file() else {}


def find_jobs(run: Path) -> dict[str, Job]:
    """What SLURM knows of the jobs of a run, by id; EdgeseaError if it does not answer."""
    submitted = {job["id"]: job.get("name", "") for job in read_jobs(run).values()}
    return jobs_of(str((run / JOBS / JOBS_FILE).stat().st_uid), job_name(run), submitted)


def _check_idle(run: Path) -> None:
    """EdgeseaError if jobs of a run wait or run."""
    jobs = find_jobs(run).values() if read_jobs(run) else ()
    if live := [f"{job.name} ({job.id})" for job in jobs if job.is_live]:
        raise EdgeseaError(
            f"{run}: jobs wait or run already: {', '.join(live)}; to end them: edgesea cancel {quote(str(run))}"
        )


def job_name(run: Path) -> str:
    """What the names of all jobs of a run begin with."""
    return f"edgesea-{digest(str(run.resolve()))[:8]}"


def _submitted(run: Path, names: Iterable[str]) -> dict[str, str]:
    """Submit the scripts of stages; returns the ids. If one is refused, those before are cancelled."""
    ids: dict[str, str] = {}
    try:
        for name in names:
            needs = ":".join(ids[need] for need in STAGES[name].inputs.values() if need in ids)
            after = [f"--dependency=afterok:{needs}", "--kill-on-invalid-dep=yes"] if needs else []
            script = str(run / JOBS / f"{name}.sh")
            ids[name] = call("sbatch", "--parsable", *after, script, patience=ACT).strip().partition(";")[0]
            log.info("%s: job %s", name, ids[name])
    except EdgeseaError:
        if ids:
            call("scancel", *ids.values(), patience=ACT)
        raise
    return ids


def _script(name: str, run: Path, cluster: Cluster) -> str:
    """The script of the job of a stage."""
    jobs, trains = run / JOBS, name == "distill"
    computes = trains or cluster.is_local  # otherwise it is done in other jobs
    gpus = cluster.gpus if computes and "device" in signature(STAGES[name].function).parameters else 0
    options = {
        "output": f"{jobs}/".replace("%", "%%") + f"{name}-%j.log",
        "open-mode": "append",
        "chdir": Path.cwd(),
        "signal": f"B:USR1@{WARNING}",
        "nodes": cluster.nodes if trains else 1,
        "ntasks-per-node": max(1, gpus) if trains else 1,
        "cpus-per-task": cluster.cpus,
        **({"gres": f"gpu:{gpus}"} if gpus else {}),
    }
    lines = [f"--{key}={quote(str(value))}" for key, value in options.items()]
    lines += ["--requeue", *cluster.job_options(), f"--job-name={job_name(run)}-{name}"]  # by which the job is found
    command = (sys.executable, "-m", "edgesea", "run", run / CONFIG, "--out", run, "--stage", name)
    return "\n".join(
        [
            "#!/bin/bash",
            f"# Stage {name}, made by `edgesea submit`; by hand: sbatch {quote(f'{jobs}/{name}.sh')}",
            *(f"#SBATCH {line}" for line in lines),
            f"export EDGESEA_JOB_NAME={job_name(run)} EDGESEA_JOB_LOGS={quote(str(jobs))} EDGESEA_WAIT=1",
            f"exec {' '.join(quote(str(word)) for word in command)}",
            "",
        ]
    )
