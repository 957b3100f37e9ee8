"""Students and teachers with the API of the HEAR benchmark (https://hearbenchmark.com/hear-api.html).

For heareval, hear-validator and everything else that takes the name of such a module::

    python -m heareval.embeddings.runner edgesea.hear --model runs/city/student

HEAR's data sets come at 16 kHz or more. A model of another rate, such as a student at 8 kHz, announces the next higher
one of HEAR's rates and is given the audio resampled.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.framing import Framing, exact_seconds
from edgesea.audio.io import checked_hop, first_invalid
from edgesea.embed.engine import embed_signals
from edgesea.errors import EdgeseaError, missing_extra
from edgesea.models import is_teacher, load_student, load_teacher
from edgesea.models.base import EmbeddingModel, window_of

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise missing_extra("torch", "train") from error

Float32 = NDArray[np.float32]

LARGEST = "edgel3/sea-512"
RATES = (16000, 22050, 32000, 44100, 48000)  # Hz
TIMESTAMP_HOP = 50.0  # ms: the tolerance of HEAR's onsets
BATCH = 64  # windows
CHUNK = 2**17  # samples


class HearModel(nn.Module):
    """A student or teacher as HEAR expects it; ``to`` moves it, if it is a torch model.

    Attributes
    ----------
    model : EmbeddingModel
        The student or teacher.
    digest : str
        That of the student or teacher.
    sample_rate : int
        Rate in Hz at which it expects audio.
    scene_embedding_size, timestamp_embedding_size : int
        Number of dimensions of its embeddings.
    """

    def __init__(self, model: EmbeddingModel) -> None:
        super().__init__()
        self.model = model
        self.digest = model.digest
        own = model.sample_rate
        self.sample_rate = own if own in RATES else min((rate for rate in RATES if rate > own), default=RATES[-1])
        self.scene_embedding_size = self.timestamp_embedding_size = model.embedding_size

    @property
    def window(self) -> float:
        """Length in seconds of its windows."""
        return window_of(self.model)


def load_model(model_file_path: str = "") -> HearModel:
    """Load a student or a teacher.

    Parameters
    ----------
    model_file_path : str
        A student's folder, .h5 or .h5.gz file, or id; or a teacher's id, as ``efficientat/mn04`` or, with a weight
        file, ``efficientat/mn04@FILE``. Default: the largest published student.

    Raises
    ------
    EdgeseaError
        If there is no such model, or it cannot be loaded.
    """
    name = str(model_file_path or LARGEST)
    if not is_teacher(name):
        return HearModel(load_student(name, "cpu", backend="torch")).eval()
    weights = ""
    if ":" not in name.partition("@")[0]:  # else the @ belongs to the id
        name, _, weights = name.partition("@")
    return HearModel(load_teacher(name, Path(weights) if weights else None)).eval()


def get_timestamp_embeddings(audio: Tensor, model: HearModel, hop_size: float = TIMESTAMP_HOP) -> tuple[Tensor, Tensor]:
    """Embeddings at regular intervals, of windows centred at the timestamps.

    Parameters
    ----------
    audio : Tensor, (n_sounds, n_samples) float
        In [-1, 1] at ``model.sample_rate``, in any precision. No gradients reach it.
    model : HearModel
        What `load_model` gave.
    hop_size : float
        Milliseconds between timestamps. They need not be a whole number of samples; nothing drifts.

    Returns
    -------
    embeddings : Tensor, (n_sounds, n_timestamps, timestamp_embedding_size) float32
        On the audio's device. Before and after the sound there are zeros.
    timestamps : Tensor, (n_sounds, n_timestamps) float32
        0, hop_size, ... up to the sound's duration, in milliseconds.

    Raises
    ------
    EdgeseaError
        If the audio has another shape or no samples, or holds NaN or Inf; if the hop is no positive number, too short
        or too long; if the model is none of `load_model`, or gives NaN or Inf.
    """
    hop_size = checked_hop("hop_size", hop_size, "milliseconds")
    signals = _signals(audio, model)
    framing = Framing(model.window, hop_size / 1000, center=True)
    count = 1 + int(Fraction(audio.shape[1], model.sample_rate) // exact_seconds(framing.hop))
    found = _embed(signals, model, framing, count)
    embeddings = torch.from_numpy(found).to(audio.device)
    timestamps = torch.from_numpy((np.arange(count) * hop_size).astype(np.float32)).to(audio.device)
    return embeddings, timestamps.repeat(len(audio), 1)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """One embedding a sound: the mean over windows that overlap by half.

    The first window begins with the sound, the last is padded with zeros; so the scene embedding of a sound of one
    window is the embedding of that window.

    Parameters
    ----------
    audio : Tensor, (n_sounds, n_samples) float
        In [-1, 1] at ``model.sample_rate``, in any precision. No gradients reach it.
    model : HearModel
        What `load_model` gave.

    Returns
    -------
    Tensor, (n_sounds, scene_embedding_size) float32
        On the audio's device.

    Raises
    ------
    EdgeseaError
        If the audio has another shape or no samples, or holds NaN or Inf; if the model is none of `load_model`, or
        gives NaN or Inf.
    """
    signals = _signals(audio, model)
    framing = Framing(model.window, model.window / 2, center=False)
    windows = _embed(signals, model, framing)
    return torch.from_numpy(windows.mean(1, dtype=np.float64).astype(np.float32)).to(audio.device)


def _signals(audio: Tensor, model: HearModel) -> Float32:
    """The sounds (n_sounds, samples), checked."""
    if not isinstance(model, HearModel):
        raise EdgeseaError(f"model must be what edgesea.hear.load_model gave, not {type(model).__name__}")
    if not isinstance(audio, Tensor) or audio.ndim != 2 or not audio.numel() or not audio.is_floating_point():
        found = f"{tuple(audio.shape)} of {audio.dtype}" if isinstance(audio, Tensor) else type(audio).__name__
        raise EdgeseaError(
            f"{model.model.id}: audio must be a tensor (n_sounds, n_samples) of floats in [-1, 1], not {found}"
        )
    sounds: Float32 = audio.detach().to("cpu", torch.float32).numpy()
    for index, sound in enumerate(sounds):
        if (invalid := first_invalid(sound)) is not None:
            where = invalid / model.sample_rate
            raise EdgeseaError(f"{model.model.id}: audio[{index}] holds NaN or Inf samples, the first at {where:.3f} s")
    return sounds


def _embed(sounds: Float32, model: HearModel, framing: Framing, count: int | None = None) -> Float32:
    """Embeddings (n_sounds, count, D) of the first `count` windows."""
    opened = [partial(_Sound, sound, model.sample_rate) for sound in sounds]
    found = []
    for result in embed_signals(model.model, opened, framing, BATCH, count=count):
        if result.embedding is None:
            raise EdgeseaError(result.error)
        found.append(result.embedding)
    return np.stack(found)


@dataclass(frozen=True)
class _Sound:
    samples: Float32
    sample_rate: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def chunks(self) -> Iterator[Float32]:
        for first in range(0, len(self.samples), CHUNK):
            yield self.samples[first : first + CHUNK]
