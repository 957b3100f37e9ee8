"""What is trained: the objective as a Lightning module, and measures of the fit."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from edgesea.distill.augment import mask_spectrogram, vary_levels
from edgesea.distill.data import Batch, Batches, ShuffledWindows, WindowSource
from edgesea.models.student_torch import Student
from edgesea.reduction.pca import Moments

CHECK = 32  # steps between two looks at the loss, each of which makes a GPU wait
DIVERGED = 1e6  # times the targets' power (at least 1); batch normalisation can keep a lost student's loss finite
SCALE_CHUNKS, SCALE_WINDOWS = 64, 4096  # of the training windows, by which the targets are scaled


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
    loss: Literal["mse", "cosine", "both"] = "mse"
    standardize: bool = False
    projector: int = 0
    shift: float = 0.0
    gain: float = 0.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        if self.schedule == "onecycle":
            self.patience = 0  # it runs to its end
        if self.keep == "auto":
            self.keep = "last" if self.schedule == "onecycle" else "best"


def objective(outputs: Tensor, targets: Tensor, loss: str, scale: Tensor | None = None) -> Tensor:
    """What is minimised, of outputs and targets (B, d), both of which are divided by `scale` if there is one."""
    if scale is not None:
        outputs, targets = outputs / scale.to(outputs), targets / scale.to(targets)
    if loss == "mse":
        return functional.mse_loss(outputs, targets)
    cosine = 1.0 - functional.cosine_similarity(outputs, targets).mean()
    return cosine if loss == "cosine" else cosine + functional.mse_loss(outputs, targets)


def target_scale(source: WindowSource, options: Training) -> Tensor | None:
    """By what the objective divides: the standard deviation of each target, or for `both` its quadratic mean; or None.

    Not every reduction knows it, so it is that of windows all over the table, the same in all processes.
    """
    if not options.standardize and options.loss != "both":
        return None
    chunks = source.chunks[:: -(-len(source.chunks) // SCALE_CHUNKS)]
    step = -(-sum(count for *_, count in chunks) // SCALE_WINDOWS)
    rows = ((part, group, source.table.chunk(part, group).select(source.split)[::step]) for part, group, _ in chunks)
    scale = Moments(source.phi.transform(source.table.embeddings(part, group)[some]) for part, group, some in rows).std
    scale = scale if options.standardize else np.sqrt(np.square(scale).mean())
    return torch.from_numpy(np.where(scale > 0, scale, 1.0)).float()


class FitMeasure:
    """Sums over windows from which MSE, MAE, cosine similarity and R2 follow, and the mean of what is minimised.

    R2 is the share of the target's variance that the student explains: ``1 - sum (t - y)^2 / sum (t - mean t)^2``, for
    each dimension, and in total with both sums over all dimensions. (torchmetrics takes sums below 1e-4 for zero in R2,
    and stores every window for the cosine.)
    """

    def __init__(self, size: int, loss: Callable[[Tensor, Tensor], Tensor] = functional.mse_loss) -> None:
        self._loss = loss
        self.per_dimension = torch.zeros(3, size, dtype=torch.float64)  # squared error, target, squared target
        self.scalars = torch.zeros(4, dtype=torch.float64)  # windows, absolute error, cosine, what is minimised

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add windows: outputs and targets (B, d)."""
        y, t = outputs.detach().cpu().double(), targets.detach().cpu().double()
        self.per_dimension += torch.stack([(t - y).square().sum(0), t.sum(0), t.square().sum(0)])
        cosine, count = functional.cosine_similarity(t, y, dim=1).sum(), torch.tensor(float(len(t)), dtype=t.dtype)
        self.scalars += torch.stack([count, (t - y).abs().sum(), cosine, count * self._loss(y, t)])

    @property
    def loss(self) -> float:
        """Mean of what is minimised."""
        return float(self.scalars[3] / self.scalars[0])

    def result(self) -> dict[str, Any]:
        """mse, mae, cosine, r2 and r2_per_dimension (None for a dimension whose target does not vary)."""
        count, absolute, cosine, _ = self.scalars.tolist()
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
    """Trains a student to minimise ``mean || g(f_S(x)) - phi(f_T(x)) ||^2``, or another `objective`.

    g is the projector, or nothing. With `ema`, validation measures the averaged weights, which have their place beside
    the others; so nothing is swapped, and any checkpoint is whole.

    Learning-rate schedules are stepped here and not by the trainer, which saves its checkpoint before it steps
    ReduceLROnPlateau: a resumed run would differ from an uninterrupted one.
    """

    def __init__(
        self,
        student: Student,
        options: Training,
        train: ShuffledWindows,
        validation: Batches,
        scale: Tensor | None = None,  # of the objective
    ) -> None:
        super().__init__()
        self.student, self.options, self.train_windows, self._validation = student, options, train, validation
        for module in student.features:
            if isinstance(module, nn.Conv2d):
                # A normalisation follows and takes it away: its gradient is rounding error, which Adam would follow.
                module.bias.requires_grad_(False)  # type: ignore[union-attr]
        size, hidden = student.embedding_size, options.projector
        layers = [nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, size)] if hidden else []
        self.projector, self.averaged = nn.Sequential(*layers), nn.ModuleList()
        if options.ema:
            self.averaged.extend(deepcopy([student, self.projector])).requires_grad_(False)
        self.scale: Tensor | None
        self.register_buffer("scale", scale)
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

    def _levels(self, inputs: Sequence[Tensor]) -> Tensor:
        """Log-mel spectrograms (B, bands, frames) of what `WindowSource.load` gives."""
        return self.student.log_mel(inputs[0] * inputs[1]) if len(inputs) > 1 else inputs[0].transpose(1, 2)

    def _objective(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return objective(outputs, targets, self.options.loss, self.scale)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        *inputs, targets = batch
        options, front_end = self.options, self.student.log_mel.settings
        # Seeded by the step, so that a resumed run varies windows as an uninterrupted one.
        seed = hash((options.seed, self.global_step, index % options.accumulate)) % 2**63
        place, generator = (self.train_windows.rank, self.train_windows.world), torch.Generator().manual_seed(seed)
        frames = round(options.shift * front_end.sample_rate / front_end.hop_length)
        levels = vary_levels(self._levels(inputs), frames, options.gain, generator, *place)
        spectrogram = self.student.input_norm(levels[:, None])
        if options.mask:
            spectrogram = mask_spectrogram(spectrogram, options.mask, generator, *place)
        outputs = self.projector(self.student.embed_spectrogram(spectrogram)).float()
        loss, given = self._objective(outputs, targets), outputs.detach()
        self._add(functional.mse_loss(given, targets), functional.l1_loss(given, targets), targets)
        return loss

    def _add(self, squared: Tensor, absolute: Tensor, targets: Tensor) -> None:
        """Add the errors of a batch to those of the epoch, on the device; a loss that diverges as infinite."""
        squared = torch.where(squared < DIVERGED * targets.square().mean().clamp_min(1.0), squared, math.inf)
        errors = torch.stack([squared, absolute, torch.ones_like(squared)])
        errors = errors.cpu() if errors.device.type == "mps" else errors  # which lacks double precision
        self._loss = self._loss.to(errors.device) + errors.double() * len(targets)

    def on_validation_epoch_start(self) -> None:
        self.measure = FitMeasure(self.student.embedding_size, self._objective)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Measure a batch in full precision, as the student will be used."""
        *inputs, targets = batch
        if len(targets):
            with torch.autocast(self.device.type, enabled=False):
                networks: Any = self.averaged or (self.student, self.projector)
                spectrogram = networks[0].input_norm(self._levels(inputs)[:, None])
                self.measure.update(networks[1](networks[0].embed_spectrogram(spectrogram)), targets)

    def on_validation_epoch_end(self) -> None:
        """Combine the processes' measurements, step the plateau schedule, extend the history."""
        reduce = self.trainer.strategy.reduce
        device = "cpu" if self.device.type == "mps" else self.device  # which lacks double precision
        for sums in (self.measure.per_dimension, self.measure.scalars):
            sums.copy_(reduce(sums.to(device), reduce_op="sum"))
        train = reduce(self._loss.float().to(self.device), reduce_op="sum")
        result = self.measure.result()
        self.log("val_loss", self.measure.loss, sync_dist=False)
        self.log("epoch_number", float(self.current_epoch + 1))  # for the names of checkpoints
        if self.trainer.state.fn != "fit":
            return
        if not math.isfinite(result["mse"]):
            raise FloatingPointError(f"the validation MSE became {result['mse']} in epoch {self.current_epoch + 1}")
        rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        row = {"epoch": self.current_epoch + 1, "lr": rate}
        row |= {"train_mse": float(train[0] / train[2]), "train_mae": float(train[1] / train[2])}
        row |= {f"val_{name}": result[name] for name in ("mse", "mae", "cosine", "r2")}
        self.history.append(row | {"val_loss": self.measure.loss})
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(self.measure.loss)
        self.position, self._loss = 0, torch.zeros_like(self._loss)

    def on_train_start(self) -> None:
        """Pair the averaged weights and running statistics with those that are trained."""
        trained = nn.ModuleList([self.student, self.projector]).state_dict().values() if self.averaged else []
        pairs = zip(self.averaged.state_dict().values(), trained, strict=True)
        self._pairs = [pair for pair in pairs if pair[0].is_floating_point()]

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        self.clock.start()

    def on_train_batch_end(self, outputs: Any, batch: Batch | None, index: int) -> None:
        if batch is None:
            return
        is_step = (index + 1) % self.options.accumulate == 0
        if self.averaged and is_step:
            # In the first steps the average is shorter, so that what it began with is forgotten.
            averages, weights = map(list, zip(*self._pairs, strict=True))
            torch._foreach_lerp_(averages, weights, max(1 - self.options.ema, 9 / (9 + self.global_step)))
        self.clock.stop(len(batch[-1]) * self.train_windows.world)
        if not is_step:
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
        weights = chain(self.student.parameters(), self.projector.parameters())
        optimizer = kind(weights, lr=options.lr, weight_decay=options.weight_decay, fused=True)
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
