"""Students and teachers as encoders of mteb, whose audio tasks are the benchmark MAEB.

It takes the tasks whose only modality is audio. mteb decodes the audio of their data sets with torchcodec, which needs
the libraries of FFmpeg: ``pip install 'mteb[audio]'``.
"""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.artifact import versions
from edgesea.embed.engine import get_embedding
from edgesea.errors import EdgeseaError, EdgeseaWarning, needs
from edgesea.models import ModelOrName, load_model
from edgesea.models.base import EmbeddingModel, window_of
from edgesea.models.engine import EngineModel

with needs("mteb", "mteb"):
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder

# licence, home and training data (names of mteb's tasks) by the first part of the id
PUBLISHED: dict[str, tuple[str, str, set[str] | None]] = {
    "edgel3": ("mit", "https://github.com/ksangeeta2429/edgel3", None),
    "efficientat": ("mit", "https://github.com/fschmid56/EfficientAT", {"AudioSetMini"}),
    "openl3": ("cc-by-4.0", "https://github.com/marl/openl3", {"AudioSetMini"}),
}


class Encoder(AbsEncoder):  # type: ignore[misc]  # mteb is not there when types are checked
    """A student or teacher as mteb expects it: one embedding a sound, the mean over windows that overlap by half.

    ``mteb.evaluate(edgesea.mteb.Encoder("edgel3/sea-64"), mteb.get_tasks(["ESC50"]))``. mteb stores results by the
    model's name and the digest of its weights; a function has none: when it changes, evaluate it with ``cache=None``.
    `model` is a loaded one on any device (`edgesea.load_student`, `edgesea.load_teacher`), or what one is loaded from.
    """

    def __init__(self, model: ModelOrName) -> None:
        self.model = load_model(model)
        self.mteb_model_meta = _meta(self.model)

    def encode(self, inputs: Any, *, show_progress_bar: bool = True, **options: Any) -> NDArray[np.float32]:
        """Embeddings (n_sounds, D) float32 of the sounds of mteb's data loader; `options` are ignored."""
        columns = list(getattr(inputs.dataset, "features", ()))  # a `datasets.Dataset`
        if "audio" not in columns:
            raise EdgeseaError(f"{self.model.id} embeds audio, but the data has only {', '.join(columns)}")
        inputs.collate_fn = _sounds  # decodes in the loader's processes, if it has any
        hop = window_of(self.model) / 2  # as long as `get_embedding` takes them
        found = []
        with warnings.catch_warnings(action="ignore", category=EdgeseaWarning):  # a benchmark's clips are as they are
            for signals, rates in tqdm(inputs, disable=not show_progress_bar):
                embeddings, _ = get_embedding(signals, rates, self.model, hop, center=False)
                found += [embedding.mean(0, dtype=np.float64) for embedding in embeddings]
        return np.stack(found).astype(np.float32)


def _sounds(rows: list[dict[str, Any]]) -> tuple[list[NDArray[Any]], list[int]]:
    """The signals, (samples,) or (samples, channels), and sample rates in Hz of a batch."""
    audio = [row["audio"] for row in rows]  # `datasets` decodes whenever it is asked for the array
    return [np.asarray(item["array"]).T for item in audio], [item["sampling_rate"] for item in audio]


def _meta(model: EmbeddingModel) -> ModelMeta:
    licence, home, data = PUBLISHED.get(model.id.partition("/")[0], (None, None, None))
    name = model.id.partition("@")[0]  # without a revision
    if Path(model.id).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):  # mteb wants owner/name, as of the Hub
        name = "edgesea/" + re.sub(r"[^\w.-]+", "-", model.id).strip("-")
    size, framework = None, ["ONNX"] if model.id.startswith("onnx:") else []
    if isinstance(model, EngineModel):
        size, framework = model.parameter_count, ["ONNX"]
    elif hasattr(model, "parameters"):
        size, framework = sum(array.numel() for array in model.parameters()), ["PyTorch"]
    origin = {"license": licence, "open_weights": licence and True, "reference": home, "training_datasets": data}
    use = {"modalities": ["audio"], "max_tokens": float("inf"), "use_instructions": False}
    unknown = ("loader", "release_date", "languages", "public_training_code", "public_training_data")
    return ModelMeta(
        name=name,
        revision=model.digest or f"edgesea-{versions().get('edgesea', 'unknown')}",
        n_parameters=size,
        memory_usage_mb=None if size is None else 4 * size / 2**20,
        embed_dim=model.embedding_size,
        framework=framework,
        similarity_fn_name="cosine",
        **{**origin, **use, **dict.fromkeys(unknown)},
    )
