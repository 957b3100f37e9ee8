"""Where the work of the data-parallel stages is done: here, in processes, in jobs of SLURM, on any Dask cluster.

A stage asks for the `results` of a function for many tuples of arguments, in order, and does not know where they come
from: that is said around it, with `using`. It changes no result.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, islice
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from edgesea.cluster.elsewhere import AHEAD, connected, in_processes, on_dask
from edgesea.cluster.slurm import not_found
from edgesea.config import checked_options
from edgesea.errors import EdgeseaError

T = TypeVar("T")


@dataclass(frozen=True)
class Cluster:
    """Where extract, sample, reduce, embed, select and the embeddings of evaluate are computed; of submit, all stages.

    Parameters
    ----------
    cluster : str, optional
        local (the default), slurm (workers are jobs), or the address of a Dask scheduler, e.g. tcp://node1:8786.
        Folders and files must have the same names there.
    partition : str, optional
        Of a job of SLURM: queue that it waits in.
    account : str, optional
        Whom it is charged to.
    time : str, optional
        Its time limit, e.g. 4:00:00. Work that is lost at the limit is done again by the next job.
    memory : str, optional
        Its memory, e.g. 8G.
    cpus : int
        Processors of a job.
    gpus : int
        GPUs: of a job that distils; of others there is a job for each.
    nodes : int
        Nodes of a job that distils, with one process for each GPU, or one if there is none.
    min_jobs : int
        Of slurm: jobs at least, as long as there is work.
    max_jobs : int, optional
        Of slurm: jobs at most; default: 2. Of local: processes; default: one for each GPU.
    directives : list of str
        Further options of `sbatch`, without the dashes: qos=low constraint=a100.
    interface : str, optional
        Network interface by which workers reach this machine, e.g. ib0.
    stages : dict, optional
        The same options for single stages, which count more there: {extract: {partition: gpu, gpus: 1}}.
    """

    cluster: str | None = None  # so that it is known whether local is asked for
    partition: str | None = None
    account: str | None = None
    time: str | None = None
    memory: str | None = None
    cpus: int = 1
    gpus: int = 0
    nodes: int = 1
    min_jobs: int = 0
    max_jobs: int | None = None
    directives: list[str] = field(default_factory=list)
    interface: str | None = None
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cluster not in (None, "local", "slurm") and ":" not in self.cluster:
            raise EdgeseaError(
                f"cluster must be local, slurm or an address such as tcp://HOST:8786, not {self.cluster}"
            )
        least = {"cpus": 1, "gpus": 0, "nodes": 1, "min_jobs": 0, "max_jobs": max(1, self.min_jobs)}
        for name, number in least.items():
            if (value := getattr(self, name)) is not None and value < number:
                raise EdgeseaError(f"{name} must be at least {number}, not {value}")

    @property
    def is_local(self) -> bool:
        """Whether the work is done on this machine."""
        return self.cluster in (None, "local")

    @property
    def processes(self) -> int:
        """Of a job of SLURM that distils: one for each GPU, or for each node if there is none."""
        return self.nodes * max(1, self.gpus) if self.cluster == "slurm" or "SLURM_JOB_ID" in os.environ else 1

    def job_options(self) -> list[str]:
        """What `sbatch` and `srun` are told of a job, except for its size."""
        named = {"partition": self.partition, "account": self.account, "time": self.time, "mem": self.memory}
        given = [f"{name}={value}" for name, value in named.items() if value is not None]
        return [f"--{each.lstrip('-')}" for each in (*given, *self.directives)]

    def for_stage(self, name: str) -> "Cluster":
        """The options for a stage."""
        return replace(self, **{**self.stages.get(name, {}), "stages": {}})


def read_cluster(given: Any, source: str, stages: Iterable[str] = ()) -> Cluster:
    """The options of a YAML file's section ``cluster``: a mapping, or only where; EdgeseaError names `source`."""
    options = {"cluster": given} if isinstance(given, str) else given or {}
    checked, place = checked_options(Cluster, options, source), source
    try:
        found = Cluster(**checked)
        for name, own in found.stages.items():
            place = f"{source}: stages: {name}"
            if name not in stages:
                raise EdgeseaError(f"none of {', '.join(stages)}")
            checked = checked_options(Cluster, own, "", fixed=("stages",))
            found.stages[name] = {key: checked[key] for key in own}
            found.for_stage(name)
    except EdgeseaError as error:
        raise EdgeseaError(f"{place}: {str(error).removeprefix(': ')}") from error
    return found


class Place:
    """Where work is done between the begin and the end of `using`."""

    def __init__(self, options: Cluster, stack: ExitStack) -> None:
        self.options, self._stack = options, stack

    @cached_property
    def folder(self) -> str:
        """A folder in which processes share out the GPUs."""
        return self._stack.enter_context(TemporaryDirectory(prefix="edgesea-"))

    @cached_property
    def client(self) -> Any:
        """A client of Dask's scheduler, which is started, or connected to, when there is work for the first time."""
        return self._stack.enter_context(connected(self.options))


_PLACE: ContextVar[Place] = ContextVar("place", default=Place(Cluster(), ExitStack()))  # noqa: B039


@contextmanager
def using(options: Cluster) -> Iterator[None]:
    """In this block, data-parallel stages do their work where `options` say."""
    with ExitStack() as stack:
        token = _PLACE.set(Place(options, stack))
        try:
            yield
        finally:
            _PLACE.reset(token)


def current() -> Cluster:
    """The options of the innermost `using`."""
    return _PLACE.get().options


def results(function: Callable[..., T], calls: Iterable[tuple[Any, ...]], jobs: int = 1) -> Iterator[T]:
    """Yield `function`'s result for each tuple of arguments, in order.

    `function` must be importable where the work is done, or a partial of one that is. `jobs` processes do it, unless
    there is more to say of that (`max_jobs`, another cluster); with one, it is done here, one call after the other. An
    iterator that it returns is a list when it comes from elsewhere.
    """
    place = _PLACE.get()
    if is_here(jobs):
        return (function(*arguments) for arguments in calls)
    if place.options.is_local:
        return in_processes(function, list(calls), place.options.max_jobs or jobs, place.folder)
    calls = iter(calls)
    first = list(islice(calls, 1))  # without any, no scheduler is asked for
    ahead = max(AHEAD, 2 * (place.options.max_jobs or 0))
    return on_dask(place.client, function, chain(first, calls), ahead) if first else iter(())


def is_here(jobs: int = 1) -> bool:
    """Whether `results` does its work in this process."""
    options = current()
    return options.is_local and (options.max_jobs or jobs) == 1


def run_on_nodes(arguments: list[str]) -> None:
    """Run a command of edgesea in the processes of a job that distils: of the job that this is in, or of a new one."""
    options = current()
    size = {"nodes": options.nodes, "ntasks-per-node": max(1, options.gpus), "cpus-per-task": options.cpus}
    size |= {"gpus-per-node": options.gpus} if options.gpus else {}
    job = [] if "SLURM_JOB_ID" in os.environ else options.job_options()
    command = ["srun", "--kill-on-bad-exit=1", *(f"--{key}={value}" for key, value in size.items()), *job]
    try:
        process = subprocess.Popen([*command, sys.executable, "-m", "edgesea", *arguments])
    except FileNotFoundError:
        raise not_found("srun") from None
    try:
        code = process.wait()
    except BaseException as error:
        process.send_signal(getattr(error, "signal", signal.SIGINT))  # srun hands it on to all processes
        process.wait()
        raise
    if code:
        raise EdgeseaError(f"edgesea {arguments[0]} ended with code {code} on {options.nodes} nodes; see above")


class Stopped(KeyboardInterrupt):
    """The process is to end, by a signal other than Ctrl-C: SLURM's warning of the time limit, SIGTERM or SIGHUP."""

    def __init__(self, number: int, _: Any = None) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


def stop_in_order() -> None:
    """Let SIGTERM, a lost terminal, and in a job of SLURM SIGUSR1, end this process as Ctrl-C does (see `Stopped`)."""

    def stop(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise Stopped(number)

    for number in (signal.SIGTERM, *([signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else [])):
        signal.signal(number, stop)
    hangup = getattr(signal, "SIGHUP", signal.SIGTERM)
    if signal.getsignal(hangup) is signal.SIG_DFL:  # nohup ignores it
        signal.signal(hangup, stop)
