"""``embed``: embeddings of any audio, with any student or teacher, as ``.npz`` files."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from edgesea.audio.io import audio_suffixes, is_audio
from edgesea.audio.windows import Framing
from edgesea.errors import EdgeseaError
from edgesea.files import atomic_path, walk
from edgesea.models import Backend

log = logging.getLogger(__name__)


def embed(
    inputs: list[Path],
    model: str,
    *,
    out: Path | None = None,
    weights: Path | None = None,
    hop: float = 0.1,
    center: bool = True,
    suffix: str = "",
    overwrite: bool = False,
    batch_size: int = 64,
    workers: int = 2,
    device: str = "auto",
    backend: Backend = "auto",
) -> dict[str, Any]:
    """Embed audio files; each gives ``<name>[_suffix].npz`` with `embedding` (T, D) and `timestamps` (T,) in seconds.

    Parameters
    ----------
    inputs : list of Path
        Audio files, and folders that are searched for them.
    model : str
        A student's folder, a published .h5 file, edgel3/sea-64 ..., or a teacher's id.
    out : Path, optional
        Folder for the results, which keep their place below the folder searched; default: beside each audio file.
    weights : Path, optional
        A teacher's weight file.
    hop : float
        Seconds between windows.
    center : bool
        Let timestamps be the windows' middles (half a window of zeros precedes the audio).
    suffix : str
        Appended to the name, after an underscore.
    overwrite : bool
        Embed files again whose result exists.
    batch_size : int
        Windows embedded at once; short files share a batch.
    workers : int
        Threads that decode ahead.
    device : str
        auto, cpu, cuda, mps.
    backend : {"auto", "torch", "onnx"}
        What computes a student: onnx on the CPU, torch (edgesea[train]) anywhere; auto: onnx unless there is a GPU.

    Returns
    -------
    dict
        files embedded, present (skipped because the result exists), failed (file: reason), windows.

    Raises
    ------
    EdgeseaError
        If an input or the model is missing, or no file could be embedded.
    """
    from edgesea.models.inference import embed_files, load_model

    network = load_model(model, weights, device, backend)
    framing = Framing(network.window or 1.0, hop, center)
    targets = _targets(inputs, out, suffix)
    todo = {path: target for path, target in targets.items() if overwrite or not target.exists()}
    failed: dict[str, str] = {}
    windows = 0
    with tqdm(total=len(todo), unit="file", desc="embed", disable=None) as bar:
        for result in embed_files(network, list(todo), framing, batch_size, workers):
            bar.update()
            if result.embedding is None:
                failed[str(result.path)] = result.error
                log.warning("%s: %s", result.path, result.error)
                continue
            windows += len(result.embedding)
            stamps = framing.timestamps(len(result.embedding))
            with atomic_path(todo[result.path]) as temporary, temporary.open("wb") as file:
                np.savez(file, embedding=result.embedding, timestamps=stamps)
    if todo and len(failed) == len(todo):
        path, reason = next(iter(failed.items()))
        raise EdgeseaError(f"none of {len(todo)} files could be embedded (first: {path}: {reason})")
    return {
        "files": len(todo) - len(failed),
        "present": len(targets) - len(todo),
        "failed": failed,
        "windows": windows,
    }


def _targets(inputs: Sequence[Path], out: Path | None, suffix: str) -> dict[Path, Path]:
    """Every audio file to embed, with its result's path."""
    ending = f"_{suffix}.npz" if suffix else ".npz"
    sources: dict[Path, Path] = {}
    for given in map(Path, inputs):
        if not given.exists():
            raise EdgeseaError(f"{given}: no such file or folder")
        found = [given] if given.is_file() else sorted(filter(is_audio, walk(given)))
        if not found:
            raise EdgeseaError(f"{given}: no audio file found (endings: {' '.join(sorted(audio_suffixes()))})")
        for path in found:
            base = (
                path.parent if out is None else Path(out) / (path.parent.relative_to(given) if given.is_dir() else "")
            )
            target = base / f"{path.stem}{ending}"
            if sources.get(target, path) != path:  # the same name with another ending: keep both
                target = base / f"{path.name}{ending}"
            if sources.setdefault(target, path) != path:
                raise EdgeseaError(f"{path} and {sources[target]} would both give {target}; embed them one by one")
    return {path: target for target, path in sources.items()}
