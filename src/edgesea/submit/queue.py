"""What SLURM knows of jobs, asked of its programs: each has seconds to answer, since a dead controller blocks them."""

import os
import subprocess
from collections.abc import Collection
from dataclasses import dataclass

from edgesea.errors import EdgeseaError

PATIENCE = 8.0  # seconds
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD")
RUNNING = ("RUNNING", "SUSPENDED", "CONFIGURING", "COMPLETING", "STOPPED", "SIGNALING", "STAGE_OUT")
# Fields of squeue, as those of `Job`.
SHOWN = ("JobID", "Name", "State", "Reason", "NodeList", "TimeUsed", "RestartCnt", "StartTime")


@dataclass(frozen=True)
class Job:
    """A job that waits, runs, or has ended in the last minutes; where there is accounting, at any time."""

    id: str
    name: str
    state: str  # in SLURM's words
    reason: str  # why it waits
    node: str
    elapsed: str  # hours:minutes:seconds
    restarts: str = "0"
    started: str = ""  # local time, ISO 8601

    @property
    def is_live(self) -> bool:
        """Whether it runs, or may do so later."""
        return self.state in (*WAITING, *RUNNING)


def call(*command: str) -> str:
    """What a program of SLURM prints; EdgeseaError if it is not there, refuses or does not answer."""
    try:
        env = {**os.environ, "SLURM_TIME_FORMAT": "standard"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except FileNotFoundError:
        text = f"{command[0]} is not on the PATH; do this where SLURM is, on a login node for instance"
        raise EdgeseaError(text) from None
    except subprocess.TimeoutExpired:
        raise EdgeseaError(f"{command[0]}: SLURM does not answer within {PATIENCE:.0f} s; try again later") from None
    if done.returncode:
        raise EdgeseaError("; ".join(filter(None, done.stderr.splitlines())) or f"{command[0]} failed")
    return done.stdout


def jobs_of(owner: str, name: str, ids: Collection[str]) -> dict[str, Job]:
    """The jobs whose name begins with `name`, or that have one of these ids, by id."""
    fields = ",".join(f"{field}:256|" for field in SHOWN)
    lines = call("squeue", "--noheader", "--states=all", f"--user={owner}", f"--Format={fields}").splitlines()
    rows = [[value.strip() for value in line.split("|")] for line in lines]
    found = [Job(*row[:-1]) for row in rows]
    known = {job.id: job for job in found if job.name.startswith(name) or job.id in ids}
    return known | _recorded([id for id in ids if id not in known])


def _recorded(ids: Collection[str]) -> dict[str, Job]:
    """What accounting, if the site has it, knows of jobs that SLURM has forgotten otherwise."""
    if not ids:
        return {}
    shown = "--format=JobID,JobName%100,State,NodeList,Elapsed"
    try:
        lines = call("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(ids)}", shown)
    except EdgeseaError:
        return {}
    rows = (line.split("|") for line in lines.splitlines())
    return {id: Job(id, name, state.split()[0], "", node, time) for id, name, state, node, time in rows}
