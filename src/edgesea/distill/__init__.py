"""``distill``: train a student on phi(teacher)."""

import logging
from contextlib import ExitStack
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgesea.artifact import PLAN_FILE, VERSIONS, claimed, digest, plain, read_json, versions, write_json
from edgesea.errors import EdgeseaError
from edgesea.tracking import origin, recording

if TYPE_CHECKING:
    from edgesea.table.reader import Table

log = logging.getLogger(__name__)
RESULTS_FILE = "results.json"


def distill(
    table: Path,
    reduction: Path,
    out: Path,
    *,
    also: list[Path] | None = None,
    shares: list[float] | None = None,
    student: Literal["edge-3", "edge-10", "edge-25", "sea-64", "sea-128", "sea-256", "sea-512"] = "edge-10",
    sample_rate: int | None = None,
    head: Literal["linear", "relu_max"] = "linear",
    filters: list[int] | None = None,
    n_mels: int = 64,
    n_fft: int | None = None,
    hop_length: int | None = None,
    fmax: float | None = None,
    epochs: int = 20,
    epoch_size: int | None = None,
    batch_size: int = 64,
    lr: float = 1e-2,
    weight_decay: float = 0.0,
    loss: Literal["mse", "cosine", "both"] = "mse",
    standardize: bool = False,
    projector: int = 0,
    mask: float = 0.0,
    shift: float = 0.0,
    gain: float = 0.0,
    ema: float = 0.0,
    quantize: Path | None = None,
    schedule: Literal["onecycle", "plateau"] = "onecycle",
    patience: int = 10,
    keep: Literal["auto", "best", "last"] = "auto",
    save_every: int = 0,
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto",
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    devices: int = 1,
    accumulate: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Train a student so that its embedding of a window comes close to the reduced embedding of the teacher.

    The same command resumes a killed training at the last finished epoch, with the same result as if it had not been
    killed; after SIGTERM or SIGUSR1, in the middle of the epoch. Under `torchrun` or `srun`, the processes train
    together, with one device each; batches, masks and batch normalisation are those of one process, so that the result
    differs in its last digits alone.

    Parameters
    ----------
    table : Path
        Folder of a table; its training windows, and its mixtures if it has any, train, its validation windows validate.
    reduction : Path
        Folder of a reduction; its size is that of the student's embedding.
    out : Path
        Folder of the student: checkpoint, model card, metrics.csv, results.json.
    also : list of Path, optional
        Folders of further tables by the same teacher, of whatever sounds, whose training windows and mixtures train,
        too.
    shares : list of float, optional
        Share of each of `also`, with its mixtures, in every batch, to a multiple of devices and `accumulate`; default:
        by the numbers of windows. `table` has the rest. Each has one window at least.
    student : {"edge-3", "edge-10", "edge-25", "sea-64", "sea-128", "sea-256", "sea-512"}
        Architecture: edge-N for microcontrollers, with N million multiplications for a window; or the paper's Student 3
        to 0, with 122 to 637 million.
    sample_rate : int, optional
        Rate in Hz of the student's audio, up to the table's; default: 16000, of sea 8000.
    head : {"linear", "relu_max"}
        linear: a linear layer on maximum and mean of the last feature map. relu_max: as published.
    filters : list of int, optional
        Filters of each block of sea, or the first and last of edge, instead of the architecture's.
    n_mels : int
        Mel bands.
    n_fft : int, optional
        FFT length in samples; default: the power of two from 32 ms on, of sea 1024.
    hop_length : int, optional
        Samples between two frames; default: 10 ms, of sea 160.
    fmax : float, optional
        Upper edge of the mel bands in Hz; default: half the rate.
    epochs : int
        Epochs; of plateau at most. What a training takes follows from epochs x windows.
    epoch_size : int, optional
        Windows in an epoch, for tables so large that all are too many; default: as many as all tables have to train on.
    batch_size : int
        Windows in a batch, of all devices together; a multiple of devices and `accumulate`.
    lr : float
        Learning rate of Adam; of one-cycle the highest.
    weight_decay : float
        Decoupled weight decay.
    loss : {"mse", "cosine", "both"}
        What is minimised between the student's embedding and its target: mean squared error; cosine: mean of 1 - cosine
        similarity, which leaves the embedding's length open, so that R2 says nothing; both: the sum of this and of the
        MSE's share in the variance of the targets. `keep`, `patience` and the plateau schedule look at the same.
    standardize : bool
        Divide each dimension by the standard deviation of its target, so that the loss weighs all of them alike.
    projector : int
        Hidden units of a small network (linear, ReLU, linear) between embedding and target while training, which is no
        part of the student; scores are those behind it. 0: none.
    mask : float
        Hide up to this share of the mel bands, and of the frames, of a training window behind each of two random masks
        (SpecAugment), so that few recordings are not learned by heart; mixtures do that better. 0: none.
    shift : float
        Move the spectrogram of a training window by up to so many seconds; the frame at the edge is repeated.
    gain : float
        Change the level of a training window by up to so many dB, of edge students (sea ignores levels).
    ema : float
        Decay of an exponential average of the weights over the steps, which becomes the student, e.g. 0.999; 0: none.
    quantize : Path, optional
        Folder of a student of this reduction, which is trained further as int8 will compute it: weights and feature
        maps are rounded, in training and for the scores. A few epochs at a low rate do, e.g. epochs=3 and lr=0.0001, in
        single precision, on one device. The options of its architecture must be given as they were.
    schedule : {"onecycle", "plateau"}
        onecycle: one rise and fall of the rate. plateau: a tenth of it after 5 epochs without improvement.
    patience : int
        Of plateau: stop after so many epochs without an improvement by 1e-4; 0: never.
    keep : {"auto", "best", "last"}
        Which epoch's weights are the student; auto: best on the validation windows, or last if one-cycle.
    save_every : int
        Keep the checkpoint of every so many epochs; 0: only best and last.
    precision : {"auto", "32-true", "bf16-mixed", "16-mixed"}
        Precision of training; auto: bf16-mixed where the hardware has it. Validation is always in single precision.
    device : {"auto", "cpu", "cuda", "mps"}
        Where to train.
    devices : int
        Number of devices of this machine to train on (data parallel). `torchrun` and `srun` say it themselves.
    accumulate : int
        Compute a batch that does not fit in the memory in so many pieces. Each piece is normalised by its own
        statistics, so this changes the result a little.
    seed : int
        Seed of weights and order.

    Returns
    -------
    dict
        On the validation windows: r2 (share of the target's variance explained), mse, mae, cosine, behind the projector
        if there is one (`projector`); parameters, macs of a window, activation_bytes (of feature maps in int8), epochs;
        speed of this call: windows_per_second, of_steps_alone, and share, below 1 where steps wait for the table.

    Raises
    ------
    EdgeseaError
        If tables, reduction and options do not fit together, `out` holds another student, or training diverges.
    """
    from lightning import seed_everything

    from edgesea.distill.data import ShuffledWindows, WindowSource, batch_sizes
    from edgesea.distill.module import Training
    from edgesea.distill.ranks import place
    from edgesea.distill.rounding import keep_rounded, rounded_on, start_of
    from edgesea.distill.trainer import Hardware, resolve_precision, train_student
    from edgesea.models import resolve_device
    from edgesea.models.base import file_digest
    from edgesea.models.cost import sizes
    from edgesea.models.student_config import StudentConfig
    from edgesea.models.student_files import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, model_card, save_student
    from edgesea.models.student_torch import Student
    from edgesea.reduction.base import ARRAYS_FILE, REDUCTION_FILE
    from edgesea.reduction.windows import load_reduction_of
    from edgesea.table.reader import MIXTURES, Table

    numbers = {"epochs": epochs, "epoch_size": epoch_size, "batch_size": batch_size, "lr": lr}
    for name, value in {**numbers, "devices": devices, "accumulate": accumulate}.items():
        if value is not None and not value > 0:
            raise EdgeseaError(f"{name} must be positive, not {value}")
    if shares is not None and (len(shares) != len(also or ()) or min(shares, default=1) <= 0 or sum(shares) >= 1):
        raise EdgeseaError(f"shares must be above 0, below 1 in sum, and one for each table of also, not {shares}")
    most = {"mask": 1, "shift": 10, "gain": 60, "ema": 1, "projector": 65536}
    for name, value in zip(most, (mask, shift, gain, ema, projector), strict=True):
        if not 0 <= value <= most[name]:
            raise EdgeseaError(f"{name} must lie between 0 and {most[name]}, not {value}")
    target = resolve_device(device)
    target = "cpu" if quantize is not None and target == "mps" else target  # where torch cannot round
    actual, here = "32-true" if quantize is not None else resolve_precision(precision, target), place()
    hardware = Hardware(actual, target, devices, here)
    single = precision in ("auto", "32-true") and hardware.world == 1
    if quantize is not None and (projector or not single):
        found = f"precision={precision}, projector={projector} and {hardware.world} devices"
        raise EdgeseaError(f"{found}: quantize trains in single precision, without a projector, on one device")
    if batch_size % (hardware.world * accumulate):
        pieces = f"{hardware.world} devices x {accumulate} pieces (accumulate)"
        raise EdgeseaError(f"batch_size must be a multiple of {pieces}, not {batch_size}")
    source, folder = Table(table), Path(out)
    phi = load_reduction_of(reduction, source)
    shape: dict[str, Any] = {"student": student, "sample_rate": sample_rate, "head": head, "filters": filters}
    shape |= {"n_mels": n_mels, "n_fft": n_fft, "hop_length": hop_length, "fmax": fmax}
    config = StudentConfig.trained(phi.output_size, source.framing.window, source.sample_rate, **shape)
    groups = [[source], *([Table(one)] for one in also or ())]
    for group in groups:
        if (mixtures := group[0].path / MIXTURES).exists():
            group.append(Table(mixtures))
    tables, wanted = [*chain(*groups)], _comparable(source)
    for one in tables:
        has = _comparable(one)
        if differ := [f"{key} {has[key]}, not {wanted[key]}" for key in wanted if has[key] != wanted[key]]:
            rule = "tables that train together have the same teacher and window"
            raise EdgeseaError(f"{one.path}: {', '.join(differ)} as {table}; {rule}")
        if (rate := config.sample_rate) > one.sample_rate:
            remedy = f"make it by extract with sample_rate={rate}"
            raise EdgeseaError(f"sample_rate={rate}: more than the {one.sample_rate} Hz that {one.path} has; {remedy}")
    settings = config.front_end()
    if gain and settings.levels != "absolute":
        raise EdgeseaError(f"gain={gain}: does nothing for {student}, whose spectrograms are relative to their maximum")
    validation = WindowSource(source, phi, "validate", settings, target)
    training = [WindowSource(one, phi, "train", settings, target) for one in tables]
    parts = batch_sizes(training, batch_size, shares, [*map(len, groups)], hardware.world * accumulate)
    train = ShuffledWindows(training, parts, epoch_size, seed, here.rank, hardware.world, accumulate)
    options = Training(
        epochs, epoch_size, batch_size, lr, weight_decay, mask, schedule, patience, keep, precision, seed,
        accumulate, loss, standardize, projector, shift, gain, ema,
    )  # fmt: skip
    info = read_json(Path(reduction, REDUCTION_FILE))
    recorded = {key: info.get(key) for key in ("method", "output_size", "whiten", "windows", "provenance")}
    plan = {
        "table": {key: source.info[key] for key in ("manifest_sha256", "framing", "dtype")},
        "teacher": source.info["teacher"],
        "reduction": {**recorded, "sha256": file_digest(Path(reduction, ARRAYS_FILE))},
        "architecture": config.stored(),
        "training": asdict(options),
    }
    start = start_of(quantize, config, plan["reduction"]["sha256"]) if quantize is not None else None
    plan |= {"quantize": file_digest(start.path)} if start else {}
    if len(tables) > 1:  # what they are, and how many windows a batch has of each
        infos = [{key: value for key, value in one.info.items() if key not in VERSIONS} for one in tables[1:]]
        plan["also"] = {"tables": [digest(info) for info in infos], "batch": parts}
    facts = {**plan, "student": student, "data": str(source.path.absolute()), "devices": hardware.world}
    epoch_windows = epoch_size or sum(one.windows for one in training)
    facts |= {"epoch_windows": epoch_windows, "validation_windows": validation.windows}
    with ExitStack() as stack:

        def begin() -> dict[str, Any] | None:
            """Claim the folder; the result if there is nothing left to do."""
            stack.enter_context(claimed(folder, plan, "student of `edgesea distill`"))
            if not all((folder / name).exists() for name in (RESULTS_FILE, CONFIG_FILE, WEIGHTS_FILE)):
                return None
            log.info("%s is finished; nothing to do", folder)
            return dict(read_json(folder / RESULTS_FILE))

        here.join(target, digest([plain(plan), str(folder.absolute())]))
        if (result := here.from_first(begin)) is not None:
            return result
        run = stack.enter_context(recording("distill", {**facts, "save_every": save_every}, folder))
        seed_everything(seed, workers=True, verbose=False)
        network = Student(config)
        if start:
            rounded_on(network, start, source)
        scores, speed = train_student(network, options, train, validation, folder, save_every, hardware)
        result = {"student": str(out), **sizes(config), **scores, "origin": origin()}
        result |= {"projector": projector} if projector else {}
        if here.rank == 0:
            provenance = {**plan, "precision": actual, "scores": scores, "versions": versions()}
            keep_rounded(network)
            save_student(network.float(), folder, provenance, model_card(config, provenance))
            write_json(folder / RESULTS_FILE, result)
            files = ("metrics.csv", RESULTS_FILE, CONFIG_FILE, WEIGHTS_FILE, CARD_FILE)
            run.end({**result, "speed": speed}, [folder / name for name in files])
        return {**result, "speed": speed}


def _comparable(table: "Table") -> dict[str, Any]:
    """What tables have in common from which one student is trained."""
    teacher = table.info["teacher"]
    return {
        "teacher": teacher["id"],
        "sha256 of its weights": teacher["sha256"],
        "embedding size": teacher["embedding_size"],
        "window": table.framing.window,
    }


def epochs_done(student: Path) -> tuple[int, int, float] | None:
    """How many epochs a student was trained, of how many, and when the last one ended; None before there is a plan."""
    if not (student / PLAN_FILE).is_file():
        return None
    total, history = int(read_json(student / PLAN_FILE)["training"]["epochs"]), student / "metrics.csv"
    if not history.is_file():
        return 0, total, 0.0
    return len(history.read_text().splitlines()) - 1, total, history.stat().st_mtime
