"""What is trained: the objective as a Lightning module, and measures of the fit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal, cast

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from edgesea.distill.data import Batch, Batches, ShuffledWindows
from edgesea.models.student_torch import Student

CHECK = 32  # steps between two looks at the loss, each of which makes a GPU wait
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
    accumulate: int = 1  # pieces of a batch

    def __post_init__(self) -> None:
        if self.schedule == "onecycle":
            self.patience = 0  # it runs to its end
        if self.keep == "auto":
            self.keep = "last" if self.schedule == "onecycle" else "best"


def mask_spectrogram(
    spectrogram: Tensor, share: float, generator: torch.Generator, rank: int = 0, world: int = 1
) -> Tensor:
    """Set random bands and frames to zero, the mean of a normalised spectrogram (SpecAugment, Park et al., 2019).

    Each of the (B, 1, bands, frames) gets two masks on either axis, of a width of up to `share` of the axis; those of
    a process are of every `world`-th window, from `rank` on.
    """
    batch, rows = len(spectrogram) * world, slice(rank, None, world)
    for axis in (2, 3, 2, 3):
        size = spectrogram.shape[axis]
        widths = (torch.rand(batch, generator=generator) * (round(share * size) + 1)).long()
        starts = (torch.rand(batch, generator=generator) * (size - widths + 1)).long()
        position = torch.arange(size)
        hidden = ((position >= starts[:, None]) & (position < (starts + widths)[:, None]))[rows]
        shape = (-1, 1, size, 1) if axis == 2 else (-1, 1, 1, size)
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


class Clock:
    """Where the time of training goes, validation and checkpoints left out: into steps, or into waiting for batches."""

    def __init__(self) -> None:
        self.windows, self._steps, self._all, self.mark = 0, 0.0, 0.0, 0.0

    def start(self) -> None:
        """A batch is there."""
        self._began = perf_counter()

    def stop(self, windows: int) -> None:
        """A step with so many windows is made."""
        now = perf_counter()
        self.windows += windows
        self._steps += now - self._began
        self._all += now - self.mark
        self.mark = now

    def result(self) -> dict[str, float]:
        """Windows a second that were reached, those of the steps alone, and the share of the steps in the time."""
        if not self.windows:  # resumed after the last step
            return {}
        reached, alone = self.windows / self._all, self.windows / self._steps
        return {"windows_per_second": reached, "of_steps_alone": alone, "share": reached / alone}


class Distiller(LightningModule):
    """Trains a student to minimise ``mean || f_S(x) - phi(f_T(x)) ||^2``.

    Learning-rate schedules are stepped here and not by the trainer, which saves its checkpoint before it steps
    ReduceLROnPlateau: a resumed run would differ from an uninterrupted one.
    """

    def __init__(self, student: Student, options: Training, train: ShuffledWindows, validation: Batches) -> None:
        super().__init__()
        self.student, self.options, self.train_windows, self._validation = student, options, train, validation
        for module in student.features:
            if isinstance(module, nn.Conv2d):
                # A normalisation follows and takes it away: its gradient is rounding error, which Adam would follow.
                module.bias.requires_grad_(False)  # type: ignore[union-attr]
        self.history: list[dict[str, float]] = []  # one row an epoch
        self._scheduler: OneCycleLR | ReduceLROnPlateau
        self._scheduler_state: dict[str, Any] | None = None
        self.interrupted = False  # before the end of an epoch
        self.position = 0  # steps of the optimizer that were made in this epoch
        self._loss = torch.zeros(3, dtype=torch.float64)  # of this epoch, as `_add` counts; moves to the device
        self.clock = Clock()

    def train_dataloader(self) -> Batches:
        """The batches of an epoch that were not trained on yet; Lightning skips the one that stands for none."""
        self.clock.mark = perf_counter()
        if self.position == self.train_windows.batches:
            return Batches(1, lambda: iter([None]))  # type: ignore[list-item]
        return self.train_windows.epoch(self.current_epoch, self.position)

    def val_dataloader(self) -> Batches:
        return self._validation

    def _spectrogram(self, inputs: Sequence[Tensor]) -> Tensor:
        """Normalised spectrograms (B, 1, bands, frames) of what `WindowSource.load` gives."""
        log_mel = self.student.log_mel(inputs[0] * inputs[1]) if len(inputs) > 1 else inputs[0].transpose(1, 2)
        return cast(Tensor, self.student.input_norm(log_mel[:, None]))

    def training_step(self, batch: Batch, index: int) -> Tensor:
        *inputs, targets = batch
        spectrogram = self._spectrogram(inputs)
        if share := self.options.mask:
            # Seeded by the step, so that a resumed run masks as an uninterrupted one.
            seed = hash((self.options.seed, self.global_step, index % self.options.accumulate)) % 2**63
            place, generator = (self.train_windows.rank, self.train_windows.world), torch.Generator().manual_seed(seed)
            spectrogram = mask_spectrogram(spectrogram, share, generator, *place)
        outputs = self.student.embed_spectrogram(spectrogram).float()
        loss = functional.mse_loss(outputs, targets)
        self._add(loss.detach(), functional.l1_loss(outputs.detach(), targets), targets)
        return loss

    def _add(self, squared: Tensor, absolute: Tensor, targets: Tensor) -> None:
        """Add the errors of a batch to those of the epoch, on the device; a loss that diverges as infinite."""
        squared = torch.where(squared < DIVERGED * targets.square().mean().clamp_min(1.0), squared, math.inf)
        errors = torch.stack([squared, absolute, torch.ones_like(squared)])
        errors = errors.cpu() if errors.device.type == "mps" else errors  # which lacks double precision
        self._loss = self._loss.to(errors.device) + errors.double() * len(targets)

    def on_validation_epoch_start(self) -> None:
        self.measure = FitMeasure(self.student.embedding_size)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Measure a batch in full precision, as the student will be used."""
        *inputs, targets = batch
        if len(targets):
            with torch.autocast(self.device.type, enabled=False):
                self.measure.update(self.student.embed_spectrogram(self._spectrogram(inputs)), targets)

    def on_validation_epoch_end(self) -> None:
        """Combine the processes' measurements, step the plateau schedule, extend the history."""
        reduce = self.trainer.strategy.reduce
        device = "cpu" if self.device.type == "mps" else self.device  # which lacks double precision
        for sums in (self.measure.per_dimension, self.measure.scalars):
            sums.copy_(reduce(sums.to(device), reduce_op="sum"))
        train = reduce(self._loss.float().to(self.device), reduce_op="sum")
        result = self.measure.result()
        self.log("val_mse", result["mse"], sync_dist=False)
        self.log("epoch_number", float(self.current_epoch + 1))  # for the names of checkpoints
        if self.trainer.state.fn != "fit":
            return
        if not math.isfinite(result["mse"]):
            raise FloatingPointError(f"the validation MSE became {result['mse']} in epoch {self.current_epoch + 1}")
        rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        row = {"epoch": self.current_epoch + 1, "lr": rate}
        row |= {"train_mse": float(train[0] / train[2]), "train_mae": float(train[1] / train[2])}
        self.history.append(row | {f"val_{name}": result[name] for name in ("mse", "mae", "cosine", "r2")})
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(result["mse"])
        self.position, self._loss = 0, torch.zeros_like(self._loss)

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        self.clock.start()

    def on_train_batch_end(self, outputs: Any, batch: Batch | None, index: int) -> None:
        if batch is not None:
            self.clock.stop(len(batch[-1]) * self.train_windows.world)
        if batch is None or (index + 1) % self.options.accumulate:
            return
        self.position += 1
        if (self.position % CHECK == 0 or self.position == self.train_windows.batches) and self._loss[0].isinf():
            reason = f"the loss became more than {DIVERGED:g} times the power of the targets"
            raise FloatingPointError(f"{reason} in epoch {self.current_epoch + 1}")
        if isinstance(self._scheduler, OneCycleLR):
            self._scheduler.step()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam (AdamW if there is weight decay), and the schedule that goes with it."""
        options = self.options
        kind = torch.optim.AdamW if options.weight_decay else torch.optim.Adam
        optimizer = kind(self.student.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=True)
        if options.schedule == "onecycle":
            steps = options.epochs * self.train_windows.batches
            self._scheduler = OneCycleLR(optimizer, max_lr=options.lr, total_steps=steps + 1, pct_start=0.3)
        else:
            self._scheduler = ReduceLROnPlateau(optimizer, factor=0.1, patience=5)
        if self._scheduler_state is not None:
            self._scheduler.load_state_dict(self._scheduler_state)
        return optimizer

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the schedule, the history, whether early stopping ended the training here, and the place in the epoch.

        For Lightning, an epoch that was interrupted has not begun: it resumes with what is left of it.
        """
        device = "cpu" if self.device.type == "mps" else self.device
        losses: Any = self.all_gather(self._loss.to(device))
        state, stopped = self._scheduler.state_dict(), self.trainer.should_stop
        place = {"position": self.position, "losses": losses.view(-1, 3).tolist()}
        checkpoint["edgesea"] = {"scheduler": state, "history": self.history, "stopped": stopped, **place}
        if self.interrupted:
            for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
                counts.update(dict.fromkeys(counts, self.current_epoch))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` stored."""
        stored = checkpoint["edgesea"]
        self.history, self._scheduler_state = list(stored["history"]), stored["scheduler"]
        self.position, losses = stored.get("position", 0), stored.get("losses", [])
        if len(losses) != self.train_windows.world:  # of another number of processes
            losses = [torch.tensor(losses).view(-1, 3).sum(0).tolist()] + [[0.0] * 3] * self.train_windows.world
        self._loss = torch.tensor(losses[self.train_windows.rank], dtype=torch.float64)
