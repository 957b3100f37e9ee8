"""The processes that train together: which of them this one is, and how they connect."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from edgesea.artifact import is_helper
from edgesea.errors import EdgeseaError

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """The place of this process among those that torchrun or srun have started; alone without them.

    Lightning itself starts those for further devices of one machine, by the same command, when training begins: they
    have a rank, but no number of processes.
    """

    rank: int = 0
    world: int = 1
    local: int = 0  # rank among those of the same machine

    def join(self, device: str, task: str) -> None:
        """Connect the processes, which all must have the same `task`; on GPUs, each takes the one that is its own."""
        import torch
        from torch import distributed

        if self.world == 1:
            return
        if "RANK" not in os.environ:  # of srun: the first node, and a port that other jobs and steps do not take
            from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

            nodes, step = os.environ["SLURM_STEP_NODELIST"], int(os.environ.get("SLURM_STEP_ID", 0))
            os.environ.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
            os.environ.setdefault("MASTER_PORT", str(15000 + (int(os.environ["SLURM_JOB_ID"]) * 7 + step) % 10000))
        if device == "cuda":
            torch.cuda.set_device(self.gpu)
        if not distributed.is_initialized():
            backend = "nccl" if device == "cuda" else "gloo"
            distributed.init_process_group(backend, rank=self.rank, world_size=self.world)
        tasks = [task] * self.world
        distributed.all_gather_object(tasks, task)
        if len(set(tasks)) > 1:
            which = f"the {self.world} processes that srun or torchrun has started differ in input, options or folder"
            raise EdgeseaError(f"{which}; to train them apart, unset SLURM_STEP_NUM_TASKS and RANK")

    @property
    def gpu(self) -> int:
        """Number of the GPU of this process, which may see all of the machine, or only its own."""
        import torch

        return self.local % max(1, torch.cuda.device_count())

    def from_first(self, function: Callable[[], T]) -> T | None:
        """What `function` returns in the first process, in all of them; if it raises, the others end in silence."""
        from torch import distributed

        outcome: list[Any] = [None, False]
        try:
            if self.rank == 0:
                outcome = [function(), True]
        finally:
            if self.world > 1:
                distributed.broadcast_object_list(outcome)
        if self.world > 1 and not outcome[1]:
            sys.exit(0)  # the exit code of the first tells; srun may kill the others when one has another code
        return outcome[0]  # type: ignore[no-any-return]


def place() -> Place:
    """The place of this process."""
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1)
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        names = ["RANK", "WORLD_SIZE", "LOCAL_RANK"]
    elif tasks > 1 and "LOCAL_RANK" not in os.environ:
        names = ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"]
    else:
        return Place(int(os.environ.get("LOCAL_RANK") or 0))
    return Place(*(int(os.environ.get(name) or 0) for name in names))


def check_alone(command: str) -> None:
    """EdgeseaError if srun or torchrun has started several processes of a command that is for one."""
    if command != "distill" and (world := place().world) > 1:
        remedy = "start it without srun or torchrun, or unset SLURM_STEP_NUM_TASKS and RANK"
        raise EdgeseaError(f"{world} processes of edgesea {command} would do the same work; {remedy}")


def is_silent(command: str) -> bool:
    """Whether this process only helps another one, which shows the progress and the result."""
    return is_helper() or (command == "distill" and place().rank > 0)
