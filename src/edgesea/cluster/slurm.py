"""SLURM: its programs, what they know of jobs, and this process as an attempt at a job."""

import logging
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgesea.artifact import file_state, walk
from edgesea.errors import EdgeseaError

log = logging.getLogger(__name__)
LOOK, ACT = 8.0, 60.0  # seconds that programs, which a dead controller blocks, have to answer, to submit or end jobs
KINDS = (".parquet", ".npz", ".ckpt", ".safetensors")  # of files by which a command resumes
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


def call(*command: str, patience: float = LOOK, text: str | None = None) -> str:
    """What a program of SLURM, given `text`, prints; EdgeseaError if it is not there, refuses or does not answer."""
    run = {"env": {**os.environ, "SLURM_TIME_FORMAT": "standard"}, "input": text, "timeout": patience}
    try:
        done = subprocess.run(command, **run, capture_output=True, text=True, check=False)  # type: ignore[call-overload]
    except FileNotFoundError:
        raise not_found(command[0]) from None
    except subprocess.TimeoutExpired:
        raise EdgeseaError(f"{command[0]}: SLURM does not answer within {patience:.0f} s; try again later") from None
    if done.returncode:
        lines = [line.removeprefix(f"{command[0]}: ").removeprefix("error: ") for line in done.stderr.splitlines()]
        raise EdgeseaError(f"{command[0]}: {'; '.join(filter(None, lines)) or f'failed, with code {done.returncode}'}")
    return str(done.stdout)


def not_found(program: str) -> EdgeseaError:
    """What is said of a program that is missing."""
    return EdgeseaError(f"{program} is not on the PATH; do this where SLURM is, on a login node for instance")


def jobs_of(owner: str, name: str, submitted: Mapping[str, str]) -> dict[str, Job]:
    """The jobs whose name begins with `name`, or that were `submitted` (their names, by id), by id.

    An id alone does not tell a job: another cluster, which may share the file system, has others of the same ids.
    """
    fields = ",".join(f"{field}:256|" for field in SHOWN)
    lines = call("squeue", "--noheader", "--states=all", f"--user={owner}", f"--Format={fields}").splitlines()
    found = [Job(*(value.strip() for value in line.split("|")[:-1])) for line in lines]
    known = {job.id: job for job in found if job.name.startswith(name) or job.name == submitted.get(job.id)}
    recorded = _recorded([id for id in submitted if id not in known])
    return known | {job.id: job for job in recorded if job.name == submitted[job.id]}


def _recorded(ids: list[str]) -> list[Job]:
    """What accounting, if the site has it, knows of jobs that SLURM has forgotten otherwise."""
    shown = "--format=JobID,JobName%256,State,NodeList,Elapsed"
    command = ("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(ids)}", shown)
    try:
        rows = [line.split("|") for line in (call(*command) if ids else "").splitlines()]
    except EdgeseaError:
        return []
    return [Job(id, name, state.split()[0], "", node, time) for id, name, state, node, time in rows]


class Attempt:
    """The attempt of this process at a job that is queued again before its time limit, and then resumes."""

    def __init__(self) -> None:
        self._job, self._is_again = os.environ.get("SLURM_JOB_ID"), "SLURM_RESTART_COUNT" in os.environ
        self._is_vain: Callable[[], bool] = lambda: True  # it is not even begun

    def begin(self, out: Path | None) -> None:
        """Note what earlier attempts have made at `out`, where the command writes, if that is known."""
        before = _made(out) if out and self._is_again else None
        self._is_vain = lambda: out is not None and _made(out) == before

    def requeue(self) -> bool:
        """Have SLURM queue the job again, whose command then resumes, unless that is in vain; whether it will."""
        if not self._job:
            return False
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM sends it to all processes of the job then
        try:
            if self._is_again and self._is_vain():
                raise EdgeseaError("nothing was finished since the last time; it needs a longer time limit (--time)")
            call("scontrol", "requeue", self._job, patience=ACT / 2)
        except (EdgeseaError, OSError) as error:
            if "pending" not in str(error):  # another process was first
                log.error("job %s is not queued again: %s; submit it again", self._job, error)
                return False
        return True


def _made(out: Path) -> tuple[int, int, int]:
    """Number, bytes and latest time of the files by which a command resumes."""
    states = [state for path in walk(out) if path.suffix in KINDS and (state := file_state(path))]
    return len(states), sum(size for size, _ in states), max((time for _, time in states), default=0)
