"""Running the distillation: trainer, checkpoints, resume, and the student that comes out."""

import csv
import errno
import logging
import os
import shutil
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from tqdm import tqdm

from edgesea.artifact import atomic_path
from edgesea.distill.module import Distiller
from edgesea.errors import EdgeseaError

log = logging.getLogger(__name__)

FULL_BYTES = 1 << 20  # a disk with less free space counts as full


def resolve_precision(precision: str, device: str) -> str:
    """``auto`` becomes bf16-mixed where the hardware multiplies in bfloat16, else 32-true."""
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if device == "cpu":
        # mkldnn emulates bfloat16 where the processor lacks it, which is slower than single precision.
        # (Older versions of torch cannot tell.)
        fast = any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile"))
        return "bf16-mixed" if fast and torch.ops.mkldnn._is_mkldnn_bf16_supported() else "32-true"
    return "32-true"


class ProgressBar(Callback):
    """One bar over all epochs, in windows, on standard error (Lightning's are for one epoch, on standard output)."""

    _bar: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar where a resumed run begins."""
        assert isinstance(pl_module, Distiller)
        self._batch = pl_module.train_windows.global_batch
        epoch_windows = pl_module.train_windows.batches * self._batch
        total, done = (trainer.max_epochs or 0) * epoch_windows, pl_module.current_epoch * epoch_windows
        hidden = None if trainer.is_global_zero else True
        self._bar = tqdm(total=total, initial=done, unit="window", desc="distill", disable=hidden, smoothing=0.05)

    def on_train_batch_end(self, *_: Any) -> None:
        self._bar.update(self._batch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Distiller)
        row = pl_module.history[-1]
        self._bar.set_postfix_str(f"epoch {row['epoch']}, mse {row['train_mse']:.4g}, val R2 {row['val_r2']:.3f}")

    def teardown(self, *_: Any, **__: Any) -> None:
        if self._bar is not None:
            self._bar.close()


class HistoryFile(Callback):
    """Keep ``metrics.csv`` equal to the module's history, also after a resume from an earlier epoch."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Distiller)
        if trainer.is_global_zero:
            with atomic_path(self._path) as temporary, temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(pl_module.history[0]))
                writer.writeheader()
                writer.writerows(pl_module.history)


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


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's tips and environment reports out of the log."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*")
        warnings.filterwarnings("ignore", message=".*(num_workers|isinstance\\(treespec|litlogger).*")
        try:
            yield
        finally:
            logger.setLevel(level)


def make_trainer(
    folder: Path, module: Distiller, *, patience: int, save_every: int, precision: str, devices: int, device: str
) -> Trainer:
    """A trainer with early stopping, and best, last and every `save_every`-th epoch's checkpoint in `folder`."""
    keep: dict[str, Any] = {"dirpath": folder, "save_on_train_epoch_end": True, "enable_version_counter": False}
    callbacks: list[Callback] = [
        HistoryFile(folder.parent / "metrics.csv"),
        ProgressBar(),
        ModelCheckpoint(filename="best", monitor="val_mse", mode="min", **keep),
    ]
    if patience:
        callbacks.append(EarlyStopping("val_mse", min_delta=1e-4, patience=patience, check_on_train_epoch_end=False))
    if save_every:
        # Lightning tells callbacks apart by what they monitor, and counts epochs from 0.
        numbered = ModelCheckpoint(
            filename="epoch-{epoch_number:04.0f}",
            monitor="epoch_number",
            every_n_epochs=save_every,
            save_top_k=-1,
            auto_insert_metric_name=False,
            **keep,
        )
        callbacks.append(numbered)
    callbacks.append(ModelCheckpoint(filename="last", **keep))  # the last to be written: it marks the epoch as done
    distributed = devices != 1 and device != "mps"
    with quiet_lightning():
        return Trainer(
            accelerator={"cuda": "gpu"}.get(device, device),
            devices=devices,
            strategy="ddp" if distributed else "auto",
            precision=precision,  # type: ignore[arg-type]
            max_epochs=module.objective.epochs,
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            logger=False,
            callbacks=callbacks,
            plugins=[AtomicCheckpoints()],
            enable_progress_bar=False,
            enable_model_summary=False,
        )


def fit(module: Distiller, trainer: Trainer, folder: Path, keep: str) -> dict[str, Any]:
    """Train, or resume from ``last.ckpt``; put the weights of the epoch to `keep` into the module and measure them."""
    path, checkpoint = _last_checkpoint(folder)
    with quiet_lightning(), _interruptible(trainer):
        if path is not None:
            log.info("resuming from %s", path)
        if checkpoint.get("edgesea", {}).get("stopped"):
            module.on_load_checkpoint(checkpoint)  # stopped early, then killed: trainer.fit would add an epoch
        else:
            try:
                trainer.fit(module, ckpt_path=path, weights_only=True)
            except FloatingPointError as error:
                raise EdgeseaError(f"distill: {error}; lower lr ({module.objective.lr})") from error
        module.load_state_dict(_read(folder / f"{keep}.ckpt")["state_dict"])
        trainer.validate(module, verbose=False)
    return {**module.measure.result(), "epochs": len(module.history)}


@contextmanager
def _interruptible(trainer: Trainer) -> Iterator[None]:
    """Turn what Lightning makes of Ctrl-C, an exit with further ones switched off, into KeyboardInterrupt again."""
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None


def _last_checkpoint(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """The latest readable checkpoint and its path; an earlier epoch's leads to the same student."""
    for path in (folder / "last.ckpt", folder / "best.ckpt"):
        if path.exists():
            try:
                return path, _read(path)
            except EdgeseaError as error:
                log.warning("%s", error)
    return None, {}


def _read(path: Path) -> dict[str, Any]:
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise EdgeseaError(f"{path}: cannot be read ({error}); delete {path.parent} to train anew") from error
    return checkpoint


def process_rank(devices: int) -> tuple[int, int]:
    """Rank of this process and number of processes, before the process group exists, from the launcher's variables."""
    world = int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or devices) if devices > 1 else 1
    rank = int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or os.environ.get("LOCAL_RANK") or 0)
    return (rank, world) if world > 1 else (0, 1)
