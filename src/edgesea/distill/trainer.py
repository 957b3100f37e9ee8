"""Running the distillation: trainer, checkpoints, resume, and the student that comes out."""

import csv
import errno
import logging
import os
import shutil
import signal
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from tqdm import tqdm

from edgesea.artifact import atomic_path
from edgesea.distill.data import ShuffledWindows, WindowSource, ordered_windows
from edgesea.distill.module import Distiller, Training
from edgesea.errors import EdgeseaError
from edgesea.models.student_torch import Student

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
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
        total, done = pl_module.options.epochs * epoch, pl_module.current_epoch * epoch
        hidden = None if trainer.is_global_zero else True
        self._bar = tqdm(total=total, initial=done, unit="window", desc="distill", disable=hidden, smoothing=0.05)

    def on_train_batch_end(self, *_: Any) -> None:
        self._bar.update(self._batch)

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

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            with atomic_path(self._path) as temporary, temporary.open("w", newline="") as file:
                csv.writer(file).writerows([pl_module.history[0], *(row.values() for row in pl_module.history)])


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


def _trainer(options: Training, folder: Path, save_every: int, precision: str, device: str, devices: int) -> Trainer:
    """A trainer with early stopping that writes the checkpoints best, last and of every `save_every`-th epoch."""
    save = partial(ModelCheckpoint, folder / CHECKPOINTS, save_on_train_epoch_end=True, enable_version_counter=False)
    callbacks = [HistoryFile(folder / "metrics.csv"), ProgressBar(), save("best", "val_mse")]
    if options.patience:
        callbacks.append(EarlyStopping("val_mse", 1e-4, options.patience, check_on_train_epoch_end=False))
    if save_every:
        # Lightning tells callbacks apart by what they monitor, and counts epochs from 0.
        every: dict[str, Any] = {"save_top_k": -1, "every_n_epochs": save_every, "auto_insert_metric_name": False}
        callbacks.append(save("epoch-{epoch_number:04.0f}", "epoch_number", **every))
    callbacks.append(save("last"))  # the last to be written: it marks the epoch as done
    return Trainer(
        accelerator={"cuda": "gpu"}.get(device, device),
        devices=devices,
        strategy="ddp" if devices != 1 and device != "mps" else "auto",
        precision=precision,  # type: ignore[arg-type]
        max_epochs=options.epochs,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        logger=False,
        callbacks=callbacks,
        plugins=[AtomicCheckpoints()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def train_student(
    network: Student, options: Training, sources: tuple[WindowSource, WindowSource], folder: Path, *hardware: Any
) -> tuple[dict[str, Any], bool]:
    """Train a student, or resume from its checkpoints; returns its scores, and whether this process is the first.

    `sources` are the windows to train on and to validate on, `hardware` are options of `_trainer`.
    """
    path, checkpoint = _last_checkpoint(folder / CHECKPOINTS)
    with warnings.catch_warnings():
        for name in ("lightning.pytorch", "lightning.fabric"):  # tips, and reports of the environment
            logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="lightning.*")
        warnings.filterwarnings("ignore", message=".*(num_workers|isinstance\\(treespec|litlogger).*")
        trainer = _trainer(options, folder, *hardware)
        size, place = options.batch_size // trainer.num_devices, (trainer.global_rank, trainer.world_size)
        train = ShuffledWindows(sources[0], size, options.epoch_size, options.seed, *place)
        module = Distiller(network, options, train, ordered_windows(sources[1], size, *place))
        try:
            if checkpoint.get("edgesea", {}).get("stopped"):
                module.on_load_checkpoint(checkpoint)  # stopped early, then killed: trainer.fit would add an epoch
            else:
                trainer.fit(module, ckpt_path=path, weights_only=True)
            kept = torch.load(folder / CHECKPOINTS / f"{options.keep}.ckpt", map_location="cpu", weights_only=True)
            module.load_state_dict(kept["state_dict"])
            trainer.validate(module, verbose=False)
        except FloatingPointError as error:
            raise EdgeseaError(f"distill: {error}; lower lr ({options.lr})") from error
        except SystemExit:  # what Lightning makes of Ctrl-C, with further ones switched off
            if not trainer.interrupted:
                raise
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from None
    return {**module.measure.result(), "epochs": len(module.history)}, trainer.is_global_zero


def _last_checkpoint(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """The latest readable checkpoint and its path; an earlier epoch's leads to the same student."""
    for path in filter(Path.exists, (folder / "last.ckpt", folder / "best.ckpt")):
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many types for a damaged file
            log.warning("%s: cannot be read (%s)", path, error)
        else:
            log.info("resuming from %s", path)
            return path, checkpoint
    return None, {}
