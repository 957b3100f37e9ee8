"""``status``: what has become of a run, from its files and, where it was submitted, from SLURM."""

import os
import re
import socket
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from edgesea.artifact import LOCK_FILE, digest
from edgesea.cluster.slurm import WAITING, Job
from edgesea.config import read_yaml
from edgesea.errors import EdgeseaError
from edgesea.pipeline.stages import CONFIG, STAGES, read_stamps
from edgesea.submit import JOBS, find_jobs, job_name, read_jobs

COLUMNS = ("stage", "state", "job", "node", "elapsed", "progress", "rate", "left")
TAIL = 10  # lines of a log that are shown
UNITS = {"extract": "parts", "distill": "epochs"}
ENDED = {"CANCELLED": "cancelled", "TIMEOUT": "timed out", "DEADLINE": "timed out", "PREEMPTED": "preempted"}
ENDED |= {"COMPLETED": "interrupted"}  # later, by hand
MARKS = {"DUE TO TIME LIMIT": "timed out", "DUE TO PREEMPTION": "preempted", "CANCELLED AT": "cancelled"}  # in logs


def status(run: Path) -> dict[str, Any]:
    """Show what has become of a run: which stages are finished, run, wait or have failed, and how long it will take.

    What is shown comes from the files of the run and, if it was submitted, from SLURM, with or without accounting; of
    failures, the end of the log is shown. Rate and time left are those since the stage was last started or resumed.

    Parameters
    ----------
    run : Path
        Run directory.

    Returns
    -------
    dict
        For each of the `stages`: state, detail, job, node, elapsed, done, total, rate (per second), left (seconds),
        log; the number of `workers`, jobs that stages have submitted themselves, by their state; `text`, all of this.

    EdgeseaError: there is no run.
    """
    out, problem, jobs = Path(run), "", dict[str, Job]()
    if submitted := read_jobs(out):
        try:
            jobs = find_jobs(out)  # before the files are read: what a job that has ended made is there by then
        except EdgeseaError as error:
            problem = str(error)
    stamps = read_stamps(out)
    sections = read_yaml(out / CONFIG) if (out / CONFIG).is_file() else {}
    begun = {name: stamp["began"] for name, stamp in stamps.items() if "began" in stamp}
    current = max(begun, key=lambda name: float(begun[name]), default="")
    stages: dict[str, dict[str, Any]] = {}
    for name in STAGES:
        stamp, record = stamps.get(name, {}), submitted.get(name, {})
        if not (stamp or record or name in sections):
            continue
        job, log = jobs.get(record.get("id", "")), out / JOBS / f"{name}-{record.get('id')}.log"
        needs = [need for need in STAGES[name].inputs.values() if stages.get(need, {}).get("state") != "finished"]
        process, is_certain = _holder(out) if name == current else ("", False)
        if job and job.state in WAITING:
            state, detail = _waiting(job, needs)
        elif _is_finished(stamp, record, job):
            state, detail = "finished", ""
        elif job and job.is_live:
            state = "ending" if job.state == "COMPLETING" else "running"
            detail = "" if job.restarts == "0" else f"restart {job.restarts}"
        elif process and (is_certain or not job):
            state, detail = "running", process
        elif job:
            state = ENDED.get(job.state, "failed")
            detail = next((word for word in (job.reason, job.state) if word not in ("", "None", "NonZeroExitCode")), "")
        elif record:
            state, detail = ("unknown", "SLURM does not answer") if problem else _forgotten(log)
        else:
            state, detail = ("interrupted" if stamp else "not begun"), ""
        elapsed = _clock(stamp.get("seconds") or None)
        if job and state != "finished":
            used = job.elapsed if job.elapsed.count(":") > 1 else f"0:{job.elapsed:0>5}"
            elapsed = "" if job.state in WAITING else used
        stages[name] = {"state": state, "detail": detail, "job": record.get("id", ""), "node": job.node if job else ""}
        stages[name] |= {"elapsed": elapsed, **_progress(name, out, stamp, state == "running", job)}
        if record and log.is_file() and state in ("failed", "timed out", "preempted", "unknown"):
            stages[name]["log"] = str(log)
    if not stages:
        raise EdgeseaError(f"{out}: no run is there; make one with edgesea run or edgesea submit")
    workers = Counter(job.state.lower() for job in jobs.values() if job.name == job_name(out))  # as stages name them
    result = {"folder": str(out), "stages": stages, "workers": dict(workers), "problem": problem}
    return {**result, "text": _text(result)}


def _is_finished(stamp: Mapping[str, Any], record: Mapping[str, str], job: Job | None) -> bool:
    """By the files, unless they are of another plan than the job, or by the job, whose end may be known earlier."""
    done = bool(stamp.get("finished"))
    if job is None:
        return done
    is_same = bool(stamp) and record["plan"] == digest(stamp["plan"])
    return done or is_same or not stamp if job.state == "COMPLETED" else done and is_same


def _waiting(job: Job, needs: list[str]) -> tuple[str, str]:
    if job.restarts != "0":
        return "requeued", f"restart {job.restarts}: {job.reason}"
    if job.reason == "Dependency" and needs:
        return "waiting", f"for {', '.join(needs)}"
    return "queued", "" if job.reason in ("None", "Dependency") else job.reason


def _forgotten(log: Path) -> tuple[str, str]:
    """What has become of a job that SLURM does not remember, by its log."""
    if not log.is_file():
        return "not begun", "its job is gone"
    text = "\n".join(_tail(log))
    return next((word for mark, word in MARKS.items() if mark in text), "failed"), "its job is gone"


def _holder(run: Path) -> tuple[str, bool]:
    """The process that has locked a run, and whether that is certain: a lock may be left of one on another machine."""
    with suppress(OSError):
        if found := re.match(r"process (\d+) on (\S+) since", (run / LOCK_FILE).read_text("utf-8", "replace")):
            is_here = found[2] == socket.gethostname() and Path("/proc/self").exists()
            if not is_here or Path(f"/proc/{found[1]}").exists():
                return f"process {found[1]} on {found[2]}", is_here
    return "", False


def _progress(name: str, run: Path, stamp: Mapping[str, Any], is_running: bool, job: Job | None) -> dict[str, Any]:
    """How much is done; while it runs, how fast, and the seconds left at that rate."""
    found = STAGES[name].progress(run / STAGES[name].artifact) if stamp else None
    if found is None:
        return {}
    done, total, last = found
    began = stamp.get("began", last)
    new, seconds = done - stamp.get("had", 0), last - began
    is_former = job is not None and job.started > datetime.fromtimestamp(began).isoformat()  # before it was requeued
    if not is_running or is_former or new <= 0 or seconds <= 0:
        return {"done": done, "total": total}
    left = (total - done) * seconds / new - (time.time() - last)
    return {"done": done, "total": total, "rate": new / seconds, "left": max(0.0, left)}


def _text(result: Mapping[str, Any]) -> str:
    """The result as a table, and below it the ends of logs."""
    rows = [{name: name for name in COLUMNS}]
    for name, stage in result["stages"].items():
        row = {"stage": name, **{key: stage[key] for key in ("state", "job", "node", "elapsed")}}
        row["state"] += f" ({stage['detail']})" if stage["detail"] else ""
        if "done" in stage:
            row["progress"] = f"{stage['done']} of {stage['total']} {UNITS[name]}"
        if "rate" in stage:
            row |= {"rate": _speed(stage["rate"], UNITS[name]), "left": _clock(stage["left"])}
        rows.append(row)
    widths = {name: max(len(row.get(name, "")) for row in rows) for name in COLUMNS if any(name in row for row in rows)}
    lines = ["  ".join(row.get(name, "").ljust(width) for name, width in widths.items()).rstrip() for row in rows]
    if workers := result["workers"]:
        lines.append(f"workers: {', '.join(f'{number} {state}' for state, number in workers.items())}")
    if result["problem"]:
        lines.append(f"From the files alone; {result['problem']}")
    for name, stage in result["stages"].items():
        if log := stage.get("log"):
            lines += ["", f"{name}: {stage['state']}; {log} ends with", *(f"    {line}" for line in _tail(Path(log)))]
    return "\n".join(lines)


def _tail(log: Path) -> list[str]:
    """The last lines of a log."""
    with log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 8000))
        return file.read().decode("utf-8", "replace").replace("\r", "\n").rstrip().split("\n")[-TAIL:]


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))


def _speed(rate: float, unit: str) -> str:
    name, seconds = next((pair for pair in (("s", 1), ("min", 60)) if rate * pair[1] >= 1), ("h", 3600))
    return f"{rate * seconds:.1f} {unit}/{name}"
