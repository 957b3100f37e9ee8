"""Training: on one device or several, with checkpoints, resume and an end in order."""

import csv
import errno
import logging
import os
import shutil
import signal
import sys
import threading
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from tqdm import tqdm

from edgesea.artifact import atomic_path
from edgesea.cluster import Stopped
from edgesea.distill.data import ShuffledWindows, WindowSource, ordered_windows
from edgesea.distill.module import Distiller, Training, target_scale
from edgesea.distill.norm import synchronise
from edgesea.distill.ranks import Place
from edgesea.errors import EdgeseaError
from edgesea.models.student_torch import Student
from edgesea.tracking import log_history

log = logging.getLogger(__name__)

CHECKPOINTS, LAST = "checkpoints", "last.ckpt"
FULL_BYTES = 1 << 20  # a disk with less free space counts as full


def resolve_precision(precision: str, device: str) -> str:
    """``auto`` becomes bf16-mixed where the hardware multiplies in bfloat16, else 32-true."""
    if precision != "auto":
        return precision
    if device == "cpu":
        # mkldnn emulates bfloat16 where the processor lacks it, which is slower than single precision.
        # (Older versions of torch cannot tell.)
        fast = any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile"))
        fast = fast and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    else:
        fast = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if fast else "32-true"


class ProgressBar(Callback):
    """One bar over all epochs, in windows, on standard error (Lightning's are for one epoch, on standard output)."""

    _bar: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Open the bar where a resumed run begins."""
        self._batch = pl_module.train_windows.global_batch
        epoch = pl_module.train_windows.batches * self._batch
        self._accumulate = pl_module.options.accumulate
        total = pl_module.options.epochs * epoch
        done = pl_module.current_epoch * epoch + pl_module.position * self._batch
        hidden = None if trainer.is_global_zero else True
        self._bar = tqdm(total=total, initial=done, unit="window", desc="distill", disable=hidden, smoothing=0.05)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch is not None:
            self._bar.update(self._batch / self._accumulate)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        row = pl_module.history[-1]
        self._bar.set_postfix_str(f"epoch {row['epoch']}, mse {row['train_mse']:.4g}, val R2 {row['val_r2']:.3f}")

    def teardown(self, *_: Any, **__: Any) -> None:
        if self._bar is not None:
            self._bar.close()


class HistoryFile(Callback):
    """Keep ``metrics.csv`` equal to the module's history, also after a resume from an earlier epoch."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            log_history(pl_module.history)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            with atomic_path(self._path) as temporary, temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, pl_module.history[-1])  # earlier rows may be of an older version
                writer.writeheader()
                writer.writerows(pl_module.history)
            log_history(pl_module.history)


class StopInOrder(Callback):
    """After SIGTERM or SIGUSR1 to any process, write a checkpoint between two steps, or in validation, and stop all."""

    def __init__(self, path: Path) -> None:
        self._path, self._signal, self._begin = path, 0, (-1, 0)

    def _note(self, number: int, _: Any) -> None:
        self._signal = number

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._begin = pl_module.current_epoch, pl_module.position
        self._handle_signals()

    def _handle_signals(self) -> None:
        """Replace Lightning's handlers, which may wait for other processes; it restores the former ones at its end."""
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGTERM", "SIGUSR1"):
                if number := getattr(signal, name, None):
                    signal.signal(number, self._note)

    def on_validation_start(self, *_: Any) -> None:
        self._handle_signals()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx % pl_module.options.accumulate == 0:
            self._stop_if_asked(trainer, pl_module)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self._stop_if_asked(trainer, pl_module)

    def _stop_if_asked(self, trainer: Trainer, module: Any) -> None:
        number = self._signal
        if trainer.world_size > 1:
            number = int(trainer.strategy.reduce(torch.tensor(number, device=module.device), reduce_op="max"))
        if not number:
            return
        if trainer.state.fn == "fit" and (module.current_epoch, module.position) != self._begin:  # else it is there
            module.interrupted = True
            trainer.save_checkpoint(self._path)
            if trainer.is_global_zero:
                done = f"{module.position} of {module.train_windows.batches} batches"
                text = "%s: written after %s of epoch %d, where the same command resumes"
                log.info(text, self._path, done, module.current_epoch + 1)
        raise Stopped(number)


class AtomicCheckpoints(TorchCheckpointIO):
    """Write checkpoints beside their final place: Lightning goes through /tmp, often another file system."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_path(Path(path)) as temporary:
            try:
                torch.save(checkpoint, temporary)
            except RuntimeError as error:  # torch does not distinguish a full disk from a bug
                if shutil.disk_usage(temporary.parent).free > FULL_BYTES:
                    raise
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


class _Process(LightningEnvironment):
    """A process that torchrun or srun has started: for Lightning, a machine of its own with one device."""

    creates_processes_externally = True

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place

    def local_rank(self) -> int:
        return 0

    def node_rank(self) -> int:
        return self._place.rank

    def teardown(self) -> None:
        """Leave the environment as it is."""


@dataclass
class Hardware:
    """What trains: it does not change the result, but for the last bits."""

    precision: str
    device: str
    devices: int  # of one machine; of no importance if torchrun or srun has started the processes
    place: Place

    @property
    def world(self) -> int:
        """Number of processes, each of which has a device."""
        return self.place.world if self.place.world > 1 else self.devices

    def options(self) -> dict[str, Any]:
        """Options of Lightning's trainer."""
        found: dict[str, Any] = {"precision": self.precision, "devices": self.devices}
        found["plugins"] = [AtomicCheckpoints(), LightningEnvironment()]
        if self.place.world > 1:
            found |= {"devices": [self.place.gpu] if self.device == "cuda" else 1, "num_nodes": self.world}
            found["plugins"] = [AtomicCheckpoints(), _Process(self.place)]
        if self.world > 1 and self.device != "mps":
            found["strategy"] = DDPStrategy(broadcast_buffers=False)  # they are equal
        return {"accelerator": {"cuda": "gpu"}.get(self.device, self.device), **found}


def _trainer(options: Training, folder: Path, save_every: int, hardware: Hardware) -> Trainer:
    """A trainer with early stopping that writes the checkpoints best, last and of every `save_every`-th epoch."""
    save = partial(ModelCheckpoint, folder / CHECKPOINTS, save_on_train_epoch_end=True, enable_version_counter=False)
    stop = StopInOrder(folder / CHECKPOINTS / LAST)
    callbacks = [stop, HistoryFile(folder / "metrics.csv"), ProgressBar(), save("best", "val_loss")]
    if options.patience:
        callbacks.append(EarlyStopping("val_loss", 1e-4, options.patience, check_on_train_epoch_end=False))
    if save_every:
        # Lightning tells callbacks apart by what they monitor, and counts epochs from 0.
        every: dict[str, Any] = {"save_top_k": -1, "every_n_epochs": save_every, "auto_insert_metric_name": False}
        callbacks.append(save("epoch-{epoch_number:04.0f}", "epoch_number", **every))
    callbacks.append(save("last"))  # the last to be written: it marks the epoch as done
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(
        max_epochs=options.epochs,
        accumulate_grad_batches=options.accumulate,
        sync_batchnorm=hardware.device == "cuda",
        reload_dataloaders_every_n_epochs=1,
        callbacks=callbacks,
        **hardware.options(),
        **quiet,  # type: ignore[arg-type]
    )


def train_student(
    network: Student,
    options: Training,
    train: ShuffledWindows,
    validation: WindowSource,
    folder: Path,
    save_every: int,
    hardware: Hardware,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Train a student, or resume; its scores on the validation windows, and the speed."""
    path, checkpoint = _last_checkpoint(folder / CHECKPOINTS)
    with warnings.catch_warnings():
        for name in ("lightning.pytorch", "lightning.fabric"):  # tips, and reports of the environment
            logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="lightning.*")
        warnings.filterwarnings("ignore", message=".*(num_workers|isinstance\\(treespec|litlogger).*")
        trainer = _trainer(options, folder, save_every, hardware)
        size = options.batch_size // hardware.world // options.accumulate
        windows = ordered_windows(validation, size, hardware.place.rank, hardware.world)
        if hardware.world > 1 and hardware.device == "cpu":
            synchronise(network)
        module = Distiller(network, options, train, windows, target_scale(train.tables[0].source, options))
        try:
            if checkpoint.get("edgesea", {}).get("stopped"):
                module.on_load_checkpoint(checkpoint)  # stopped early, then killed: trainer.fit would add an epoch
            else:
                trainer.fit(module, ckpt_path=path, weights_only=True)
            if hardware.place.rank == 0:  # whose weights all validate; another machine may not see the file yet
                kept = torch.load(folder / CHECKPOINTS / f"{options.keep}.ckpt", map_location="cpu", weights_only=True)
                module.load_state_dict(kept["state_dict"])
            trainer.validate(module, verbose=False)
            if module.averaged:
                network.load_state_dict(module.averaged[0].state_dict())
        except FloatingPointError as error:
            raise EdgeseaError(f"distill: {error}; lower lr ({options.lr})") from error
        except RuntimeError as error:
            if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
                raise
            remedy = "see what it printed, then run the same command again: it resumes"
            raise EdgeseaError(f"distill: another of the {hardware.world} processes has ended; {remedy}") from error
        except SystemExit as end:  # what Lightning makes of Ctrl-C, with further ones switched off
            if not trainer.interrupted:
                raise
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if hardware.place.rank:
                sys.exit(0)
            raise end.__context__ or KeyboardInterrupt from None
    if speed := module.clock.result():
        text = "trained %.0f windows/s: %.0f %% of what the steps alone would reach; the rest waited for the table"
        log.info(text, speed["windows_per_second"], 100 * speed["share"])
    return {**module.measure.result(), "epochs": len(module.history)}, speed


def _last_checkpoint(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """The latest readable checkpoint and its path; an earlier epoch's leads to the same student."""
    for path in filter(Path.exists, (folder / LAST, folder / "best.ckpt")):
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many types for a damaged file
            log.warning("%s: cannot be read (%s)", path, error)
        else:
            log.info("resuming from %s", path)
            return path, checkpoint
    return None, {}
