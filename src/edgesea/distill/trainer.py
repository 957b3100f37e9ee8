"""Training: the objective as a Lightning module, measures of the fit, checkpoints, resume, and the student."""

import csv
import errno
import logging
import math
import os
import shutil
import signal
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from tqdm import tqdm

from edgesea.artifact import atomic_path
from edgesea.distill.data import Batch, Batches, ShuffledWindows, WindowSource, ordered_windows
from edgesea.errors import EdgeseaError
from edgesea.models.student_torch import Student
from edgesea.tracking import log_history

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
FULL_BYTES = 1 << 20  # a disk with less free space counts as full
DIVERGED = 1e6  # times the targets' power (at least 1); batch normalisation can keep a lost student's loss finite


@dataclass
class Training:
    """The options of `distill` that decide how a student is trained, by the names they have in its plan."""

    epochs: int
    epoch_size: int | None
    batch_size: int  # of all devices together
    lr: float
    weight_decay: float
    mask: float
    schedule: Literal["plateau", "onecycle"]
    patience: int
    keep: Literal["auto", "best", "last"]
    precision: str
    seed: int

    def __post_init__(self) -> None:
        if self.schedule == "onecycle":
            self.patience = 0  # it runs to its end
        if self.keep == "auto":
            self.keep = "last" if self.schedule == "onecycle" else "best"


def mask_spectrogram(spectrogram: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Set random bands and frames to zero, the mean of a normalised spectrogram (SpecAugment, Park et al., 2019).

    Each of the (B, 1, bands, frames) gets two masks on either axis, of a width of up to `share` of the axis.
    """
    batch = len(spectrogram)
    for axis in (2, 3, 2, 3):
        size = spectrogram.shape[axis]
        widths = (torch.rand(batch, generator=generator) * (round(share * size) + 1)).long()
        starts = (torch.rand(batch, generator=generator) * (size - widths + 1)).long()
        position = torch.arange(size)
        hidden = (position >= starts[:, None]) & (position < (starts + widths)[:, None])
        shape = (batch, 1, size, 1) if axis == 2 else (batch, 1, 1, size)
        spectrogram = spectrogram.masked_fill(hidden.reshape(shape).to(spectrogram.device), 0.0)
    return spectrogram


class FitMeasure:
    """Sums over windows from which MSE, MAE, cosine similarity and R2 follow.

    R2 is the share of the target's variance that the student explains: ``1 - sum (t - y)^2 / sum (t - mean t)^2``, for
    each dimension, and in total with both sums over all dimensions. (torchmetrics takes sums below 1e-4 for zero in R2,
    and stores every window for the cosine.)
    """

    def __init__(self, size: int) -> None:
        self.per_dimension = torch.zeros(3, size, dtype=torch.float64)  # squared error, target, squared target
        self.scalars = torch.zeros(3, dtype=torch.float64)  # windows, absolute error, cosine

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add windows: outputs and targets (B, d)."""
        y, t = outputs.detach().cpu().double(), targets.detach().cpu().double()
        self.per_dimension += torch.stack([(t - y).square().sum(0), t.sum(0), t.square().sum(0)])
        cosine = functional.cosine_similarity(t, y, dim=1).sum()
        self.scalars += torch.stack([torch.tensor(float(len(t)), dtype=torch.float64), (t - y).abs().sum(), cosine])

    def result(self) -> dict[str, Any]:
        """mse, mae, cosine, r2 and r2_per_dimension (None for a dimension whose target does not vary)."""
        count, absolute, cosine = self.scalars.tolist()
        error, total, squared = self.per_dimension
        variance = squared - total.square() / count
        varies = variance > 1e-9 * squared.clamp_min(1e-30)
        each = zip((1.0 - error / variance.clamp_min(1e-30)).tolist(), varies.tolist(), strict=True)
        return {
            "mse": float(error.sum()) / count / len(error),
            "mae": absolute / count / len(error),
            "cosine": cosine / count,
            "r2": 1.0 - float(error.sum() / variance.sum()) if bool(varies.any()) else math.nan,
            "r2_per_dimension": [r2 if varied else None for r2, varied in each],
        }


class Distiller(LightningModule):
    """Trains a student to minimise ``mean || f_S(x) - phi(f_T(x)) ||^2``.

    Learning-rate schedules are stepped here and not by the trainer, which saves its checkpoint before it steps
    ReduceLROnPlateau: a resumed run would differ from an uninterrupted one.
    """

    def __init__(self, student: Student, options: Training, train: ShuffledWindows, validation: Batches) -> None:
        super().__init__()
        self.student, self.options, self.train_windows, self._validation = student, options, train, validation
        self.history: list[dict[str, float]] = []  # one row an epoch
        self._scheduler: OneCycleLR | ReduceLROnPlateau
        self._scheduler_state: dict[str, Any] | None = None
        self._loss_sum, self._loss_count = 0.0, 0

    def train_dataloader(self) -> Batches:
        return self.train_windows.epoch(self.current_epoch)

    def val_dataloader(self) -> Batches:
        return self._validation

    def forward(self, audio: Tensor) -> Tensor:
        """Embeddings (B, d) of audio (B, W); of masked spectrograms while training."""
        spectrogram = self.student.spectrogram(audio)
        if self.training and (share := self.options.mask):
            # Seeded by the step, so that a resumed run masks as an uninterrupted one.
            seed = hash((self.options.seed, self.global_step, self.global_rank)) % 2**63
            spectrogram = mask_spectrogram(spectrogram, share, torch.Generator().manual_seed(seed))
        return self.student.embed_spectrogram(spectrogram)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        audio, targets = batch
        loss = functional.mse_loss(self(audio).float(), targets)
        if not loss.detach() < DIVERGED * targets.square().mean().clamp_min(1.0):
            raise FloatingPointError(f"the loss became {loss.item():.3g} in epoch {self.current_epoch + 1}")
        self._loss_sum += float(loss.detach()) * len(targets)
        self._loss_count += len(targets)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.measure = FitMeasure(self.student.embedding_size)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Measure a batch in full precision, as the student will be used."""
        audio, targets = batch
        with torch.autocast(self.device.type, enabled=False):
            self.measure.update(self(audio), targets)

    def on_validation_epoch_end(self) -> None:
        """Combine the processes' measurements, step the plateau schedule, extend the history."""
        reduce = self.trainer.strategy.reduce
        device = "cpu" if self.device.type == "mps" else self.device  # which lacks double precision
        for sums in (self.measure.per_dimension, self.measure.scalars):
            sums.copy_(reduce(sums.to(device), reduce_op="sum"))
        train = reduce(torch.tensor([self._loss_sum, max(1, self._loss_count)], device=self.device), reduce_op="sum")
        result = self.measure.result()
        self.log("val_mse", result["mse"], sync_dist=False)
        self.log("epoch_number", float(self.current_epoch + 1))  # for the names of checkpoints
        if self.trainer.state.fn != "fit":
            return
        if not math.isfinite(result["mse"]):
            raise FloatingPointError(f"the validation MSE became {result['mse']} in epoch {self.current_epoch + 1}")
        rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        row = {"epoch": self.current_epoch + 1, "lr": rate, "train_mse": float(train[0] / train[1])}
        self.history.append(row | {f"val_{name}": result[name] for name in ("mse", "mae", "cosine", "r2")})
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(result["mse"])
        self._loss_sum, self._loss_count = 0.0, 0

    def on_train_batch_end(self, *_: Any) -> None:
        if isinstance(self._scheduler, OneCycleLR):
            self._scheduler.step()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam (AdamW if there is weight decay), and the schedule that goes with it."""
        options = self.options
        kind = torch.optim.AdamW if options.weight_decay else torch.optim.Adam
        optimizer = kind(self.student.parameters(), lr=options.lr, weight_decay=options.weight_decay)
        if options.schedule == "onecycle":
            steps = options.epochs * self.train_windows.batches
            self._scheduler = OneCycleLR(optimizer, max_lr=options.lr, total_steps=steps + 1, pct_start=0.3)
        else:
            self._scheduler = ReduceLROnPlateau(optimizer, factor=0.1, patience=5)
        if self._scheduler_state is not None:
            self._scheduler.load_state_dict(self._scheduler_state)
        return optimizer

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the schedule, the history, and whether early stopping ended the training here."""
        state, stopped = self._scheduler.state_dict(), self.trainer.should_stop
        checkpoint["edgesea"] = {"scheduler": state, "history": self.history, "stopped": stopped}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` stored."""
        self.history = list(checkpoint["edgesea"]["history"])
        self._scheduler_state = checkpoint["edgesea"]["scheduler"]


# --- running it


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

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            log_history(pl_module.history)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            with atomic_path(self._path) as temporary, temporary.open("w", newline="") as file:
                csv.writer(file).writerows([pl_module.history[0], *(row.values() for row in pl_module.history)])
            log_history(pl_module.history)


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
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(
        accelerator={"cuda": "gpu"}.get(device, device),
        devices=devices,
        strategy="ddp" if devices != 1 and device != "mps" else "auto",
        precision=precision,  # type: ignore[arg-type]
        max_epochs=options.epochs,
        reload_dataloaders_every_n_epochs=1,
        callbacks=callbacks,
        plugins=[AtomicCheckpoints()],
        **quiet,  # type: ignore[arg-type]
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
