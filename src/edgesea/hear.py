"""Students and teachers with the API of the HEAR benchmark (https://hearbenchmark.com/hear-api.html).

For heareval, hear-validator and everything else that takes the name of such a module::

    python -m heareval.embeddings.runner edgesea.hear --model runs/city/student

heareval looks for HEAR's data sets at the rate that a model announces (``sample_rate``). A model of another rate than
theirs, such as a student at 8 kHz, announces the next higher one, and is given the audio resampled. Who has the data
sets at one rate only sets that: ``model.sample_rate = 48000``.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.framing import Framing, exact_seconds
from edgesea.audio.io import checked_hop
from edgesea.embed.engine import Recording, embed_files
from edgesea.errors import EdgeseaError, needs
from edgesea.models import is_teacher, load_student, load_teacher
from edgesea.models.base import EmbeddingModel, window_of

with needs("torch", "train"):
    import torch
    from torch import Tensor, nn

RATES = (16000, 22050, 32000, 44100, 48000)  # Hz, of HEAR's data sets
TIMESTAMP_HOP = 50.0  # ms: the tolerance of HEAR's onsets


class HearModel(nn.Module):
    """A student or teacher (`model`) as HEAR expects it; it runs where that was loaded, whatever ``to`` says."""

    def __init__(self, model: EmbeddingModel) -> None:
        super().__init__()
        self.model, self.digest, self.window = model, model.digest, window_of(model)
        self.sample_rate = min((rate for rate in RATES if rate >= model.sample_rate), default=RATES[-1])
        self.scene_embedding_size = self.timestamp_embedding_size = model.embedding_size


def load_model(model_file_path: str = "") -> HearModel:
    """Load a student by its folder, .h5 or .h5.gz file, or id; default: the largest published one.

    Or a teacher by its id, e.g. ``efficientat/mn04`` or, with a weight file, ``efficientat/mn04@FILE``.
    """
    name = str(model_file_path or "edgel3/sea-512")
    if not is_teacher(name):
        return HearModel(load_student(name)).eval()
    weights = ""
    if ":" not in name.partition("@")[0]:  # else the @ belongs to the id
        name, _, weights = name.partition("@")
    return HearModel(load_teacher(name, Path(weights) if weights else None, "auto")).eval()


def get_timestamp_embeddings(audio: Tensor, model: HearModel, hop_size: float = TIMESTAMP_HOP) -> tuple[Tensor, Tensor]:
    """Embeddings at regular intervals, of windows centred at the timestamps; before and after the sound are zeros.

    `audio` (n_sounds, n_samples) is in [-1, 1] at ``model.sample_rate``, in any precision; no gradients reach it.
    `hop_size` is in milliseconds, and need not be a whole number of samples; nothing drifts. Returns, on the audio's
    device, embeddings (n_sounds, n_timestamps, timestamp_embedding_size) float32, and timestamps (n_sounds,
    n_timestamps) float32: 0, hop_size, ... up to the sound's duration, in milliseconds.
    """
    hop_size = checked_hop("hop_size", hop_size, "milliseconds")
    _check(audio)
    framing = Framing(model.window, hop_size / 1000, center=True)
    count = 1 + int(Fraction(audio.shape[1], model.sample_rate) // exact_seconds(framing.hop))
    embeddings = torch.from_numpy(np.stack(_embed(audio, model, framing, count)))
    timestamps = torch.from_numpy((np.arange(count) * hop_size).astype(np.float32))
    return embeddings.to(audio.device), timestamps.to(audio.device).repeat(len(audio), 1)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """One embedding a sound, (n_sounds, scene_embedding_size): the mean over windows that overlap by half.

    The first window begins with the sound, the last is padded with zeros. See `get_timestamp_embeddings`.
    """
    _check(audio)
    windows = _embed(audio, model, Framing(model.window, model.window / 2, center=False))
    scenes = np.stack([embedding.mean(0, dtype=np.float64) for embedding in windows]).astype(np.float32)
    return torch.from_numpy(scenes).to(audio.device)


def _check(audio: Tensor) -> None:
    if not isinstance(audio, Tensor) or audio.ndim != 2 or not audio.numel() or not audio.is_floating_point():
        found = f"{tuple(audio.shape)} of {audio.dtype}" if isinstance(audio, Tensor) else type(audio).__name__
        raise EdgeseaError(f"audio must be a tensor (n_sounds, n_samples) of floats in [-1, 1], not {found}")


def _embed(audio: Tensor, model: HearModel, framing: Framing, count: int | None = None) -> list[NDArray[np.float32]]:
    """Embeddings (count, D) of each sound."""
    sounds = audio.detach().to("cpu", torch.float32).numpy()
    recordings = [Recording(f"audio[{index}]", sound, model.sample_rate, count) for index, sound in enumerate(sounds)]
    embeddings = []
    for result in embed_files(model.model, recordings, framing):
        if result.embedding is None:
            raise EdgeseaError(result.error)
        embeddings.append(result.embedding)
    return embeddings
