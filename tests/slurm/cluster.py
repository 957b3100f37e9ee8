"""A real SLURM with two nodes on this machine, as ordinary processes of any user: without systemd and cgroups.

    python tests/slurm/cluster.py [--folder FOLDER] COMMAND ...     # runs a command on it, and stops it

Its programs are children of the process that starts it, and end with it.
"""

import argparse
import ctypes
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
# cred_expire: a requeued job may start again after so many seconds and one (default: 121 s). The nodes have four
# processors and two GPUs each, whatever this machine has; jobs of the partition `urgent` preempt those of `main`.
CONFIG = """\
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
StateSaveLocation={folder}/state
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool.%n
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={folder}/prolog.sh
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
OverTimeLimit=0
KillWait=5
MinJobAge=300
WaitTime=0
ReturnToService=2
SlurmctldTimeout=60
SlurmdTimeout=60
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=64000 Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=64000 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE DefaultTime=60 PriorityTier=2
"""


@dataclass
class Slurm:
    """A cluster that runs."""

    folder: Path
    env: dict[str, str]  # variables with which SLURM's commands find it
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def call(self, *command: str) -> str:
        """Run one of SLURM's commands; returns what it prints."""
        env = {**os.environ, "SLURM_CONF": self.env["SLURM_CONF"]}
        return subprocess.run(command, env=env, check=True, text=True, timeout=30, capture_output=True).stdout

    def job(self, id: str) -> dict[str, str]:
        """What the controller knows of a job: JobState, Reason, Restarts ..."""
        words = self.call("scontrol", "--oneliner", "show", "job", id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def ended(self, id: str, seconds: float = 300.0) -> str:
        """The state of a job, when it has ended."""
        wait_for(lambda: self.job(id)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), seconds)
        return self.job(id)["JobState"]

    def start(self, name: str, *command: str) -> None:
        """Start one of its programs."""
        with (self.folder / f"{name}.log").open("ab") as log:
            env = {**os.environ, **self.env}
            self.processes[name] = subprocess.Popen(command, env=env, stdout=log, stderr=log, preexec_fn=_with_parent)

    def stop(self, name: str) -> None:
        """Stop one of its programs."""
        process = self.processes.pop(name)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _with_parent() -> None:
    """In a child: end when the parent does, but not by the Ctrl-C that is meant for it."""
    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


@contextmanager
def running(folder: Path | None = None) -> Iterator[Slurm]:
    """A cluster in an empty folder (default: a temporary one), on free ports."""
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as temporary:
        place = Path(temporary if folder is None else folder).resolve()
        place.mkdir(parents=True, exist_ok=True)
        slurm = Slurm(place, {"SLURM_CONF": str(place / "slurm.conf"), "PATH": PATH})
        try:
            _start(slurm)
            yield slurm
        finally:
            with suppress(subprocess.SubprocessError, TimeoutError):
                slurm.call("scancel", "--user", _user())
                wait_for(lambda: not slurm.call("squeue", "--noheader"), 15)
            for name in reversed(list(slurm.processes)):
                slurm.stop(name)


def _start(slurm: Slurm) -> None:
    folder = slurm.folder
    for name in ("state", "spool.n1", "spool.n2"):
        (folder / name).mkdir(exist_ok=True)
    folder.chmod(0o755)  # munge's socket must be reachable
    values = {"folder": folder, "host": socket.gethostname().partition(".")[0], "user": _user(), "ports": _ports()}
    (folder / "slurm.conf").write_text(CONFIG.format(**values))
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    version = int(re.findall(r"\d+", slurm.call("sinfo", "--version"))[0])
    (folder / "cgroup.conf").write_text(f"CgroupPlugin={'disabled' if version > 22 else 'cgroup/v1'}\n")
    prolog = folder / "prolog.sh"  # the names of the nodes do not resolve
    prolog.write_text("#!/bin/sh\necho export MASTER_ADDR=127.0.0.1\n")
    prolog.chmod(0o755)
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(1024))
    files = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    slurm.start("munged", "munged", "--foreground", "--force", *(f"--{k}={folder}/munge.{v}" for k, v in files.items()))
    wait_for((folder / "munge.sock").exists, 10)
    slurm.start("slurmctld", "slurmctld", "-D", "-i")  # -i: there is no former state
    for node in ("n1", "n2"):
        slurm.start(f"slurmd.{node}", "slurmd", "-D", "-N", node)
    try:
        wait_for(lambda: _states(slurm) == ["idle", "idle"], 30)
    except TimeoutError as error:
        logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("*.log")))
        raise RuntimeError(f"SLURM does not become idle:\n{logs}") from error


def _states(slurm: Slurm) -> list[str]:
    try:
        return slurm.call("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T").split()
    except subprocess.SubprocessError:
        return []


def wait_for(ready: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until something is true; TimeoutError if it is not in time."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s")
        time.sleep(0.1)


def _ports() -> list[int]:
    """Three free ports, of those that systems do not give to outgoing connections."""
    found: list[int] = []
    while len(found) < 3:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with running(given.folder) as cluster:
        os.environ.update(cluster.env)
        sys.exit(subprocess.run(given.command or [os.environ.get("SHELL", "bash")], check=False).returncode)
