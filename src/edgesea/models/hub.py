"""Students on the Hugging Face Hub (https://huggingface.co); the extra ``hub``."""

import json
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesea.artifact import read_json
from edgesea.errors import EdgeseaError
from edgesea.models import Backend, load_student
from edgesea.models.card import CardScores, model_card
from edgesea.models.config import array_shapes, parameter_count
from edgesea.models.download import hub_reason, huggingface_hub
from edgesea.models.student_files import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, read_student
from edgesea.models.weights import check_shapes
from edgesea.report.summary import interval, shown_scores

if TYPE_CHECKING:
    from edgesea.models.onnx_student import OnnxStudent
    from edgesea.models.student import Student

log = logging.getLogger(__name__)
RESULTS_FILE = "results.json"
# of an absolute path, which is the whole text or follows as in ``onnx:FILE`` and ``hear:module:id@FILE``
FOLDERS = re.compile(r"(?:^|(?<=[:@]))(?:[A-Za-z]:)?[/\\](?![/\\])(?:[^:@]*[/\\])?")


def from_pretrained(
    repo_id: str,
    revision: str | None = None,
    device: str = "auto",
    backend: Backend = "auto",
    threads: int | None = None,
) -> "Student | OnnxStudent":
    """Load a student from the Hugging Face Hub: ``edgesea.load_student("owner/name@revision")``.

    Parameters
    ----------
    repo_id : str
        ``owner/name``.
    revision : str, optional
        Branch, tag or commit; default: the newest. A commit is what it is for ever.
    device, backend, threads
        See `edgesea.load_student`.

    Returns
    -------
    Student or OnnxStudent

    Raises
    ------
    EdgeseaError
        If there is no such student, it cannot be fetched and is not in the cache, or huggingface-hub is missing.
    """
    return load_student(f"{repo_id}@{revision}" if revision else repo_id, device, backend, threads)


def push_to_hub(
    student: Path | str,
    repo_id: str,
    *,
    private: bool | None = None,
    run: Path | str | None = None,
    domain: str = "",
    license: str = "",
    card: Path | str | None = None,
) -> str:
    """Upload a student to the Hugging Face Hub, in one commit: ``config.json``, ``model.safetensors`` and its card.

    Needs a token with the right to write: ``hf auth login``, or the variable ``HF_TOKEN``.

    Parameters
    ----------
    student : path
        Its folder.
    repo_id : str
        ``owner/name``; made if it does not exist.
    private : bool, optional
        Whether a new repository is private; default: what the account's settings say.
    run : path, optional
        The run it comes from, for the scores in the card; default: the folder above, if it is that.
    domain : str
        The recordings it was trained on, for the card; default: the source's name and size, if there is a run.
    license : str
        Identifier of the licence of the weights, such as cc-by-4.0.
    card : path, optional
        A card of your own, instead of the one made from `config.json` and the run.

    Returns
    -------
    str
        Address of the repository.

    Raises
    ------
    EdgeseaError
        If the student is damaged, the run is that of another one, the upload fails, or huggingface-hub is missing.
    """
    folder = Path(student)
    hub = huggingface_hub(repo_id)
    if card is not None and not Path(card).is_file():
        raise EdgeseaError(f"{card}: no such file; leave card out to have one made")
    student_card(folder, repo_id, run=run, domain=domain, license=license)  # before anything is made there
    try:
        api = hub.HfApi(library_name="edgesea")
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        text = (
            student_card(folder, url.repo_id, run=run, domain=domain, license=license)
            if card is None
            else Path(card).read_text("utf-8")
        )
        files = {
            CARD_FILE: text.encode(),
            CONFIG_FILE: _public_config(folder),
            WEIGHTS_FILE: str(folder / WEIGHTS_FILE),
        }
        operations = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=it) for name, it in files.items()]
        api.create_commit(url.repo_id, operations, commit_message="Student made with edgesea")
    except EdgeseaError:
        raise
    except Exception as error:  # of several libraries
        raise EdgeseaError(
            f"{folder}: cannot be uploaded to {repo_id}: {hub_reason(error)}; a token with the right to write is "
            "needed (hf auth login, or HF_TOKEN)"
        ) from error
    return str(url)


def student_card(
    student: Path | str, source: str, *, run: Path | str | None = None, domain: str = "", license: str = ""
) -> str:
    """The model card of a student's folder, with the scores of its run; see `push_to_hub`.

    Parameters
    ----------
    student : path
        Its folder.
    source : str
        What a reader of the card gives to `load_student`.
    run, domain, license
        See `push_to_hub`.

    Returns
    -------
    str
        Markdown with a YAML front matter.

    Raises
    ------
    EdgeseaError
        If the folder holds no student, or its files do not fit together, or the run is that of another one.
    """
    folder = Path(student)
    if not folder.is_dir():
        raise EdgeseaError(f"{folder}: no such folder; give that of a student")
    file = read_student(folder)
    check_shapes({name: array.shape for name, array in file.arrays.items()}, array_shapes(file.config), file.path)
    provenance = without_folders(read_json(folder / CONFIG_FILE).get("provenance") or {})
    results = _results(folder, provenance, run)
    return model_card(
        file.config,
        provenance,
        parameter_count(file.config),
        source=source,
        domain=domain or _domain(results),
        license=license,
        scores=_scores(results.get("evaluate") or {}),
    )


def _public_config(folder: Path) -> bytes:
    """A student's configuration as it is published."""
    config = read_json(folder / CONFIG_FILE)
    public = without_folders(config)
    if public == config:
        return (folder / CONFIG_FILE).read_bytes()
    return (json.dumps(public, indent=2, ensure_ascii=False) + "\n").encode()


def without_folders(value: Any) -> Any:
    """JSON values with the mere names of files that were named by absolute paths: where they lie is not published."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return FOLDERS.sub("", value) if isinstance(value, str) else value


def _results(folder: Path, provenance: Mapping[str, Any], run: Path | str | None) -> dict[str, Any]:
    """What is known of the run of a student; {} if there is none."""
    path = (folder.resolve().parent if run is None else Path(run)) / RESULTS_FILE
    if run is None and not path.is_file():
        return {}
    results: dict[str, Any] = read_json(path)
    fitted = results.get("distill") if isinstance(results, dict) else None
    trained = provenance.get("scores") or {}
    if isinstance(fitted, dict) and fitted.get("mse") is not None and fitted["mse"] == trained.get("mse"):
        return results
    if run is not None:
        raise EdgeseaError(f"{path}: not the results of the run that made {folder}; leave run out, or give another")
    log.info("%s: not the results of the run that made %s; the card gets no scores", path, folder)
    return {}


def _domain(results: Mapping[str, Any]) -> str:
    """Name and size of what a run was made of; not its path, which is nobody's business."""
    source = (results.get("config") or {}).get("extract", {}).get("source")
    made = results.get("extract") or {}
    counts = [f"{made[key]} {key}" for key in ("clips", "windows") if key in made]
    return ", ".join([*([f"`{Path(source).name}`"] if source else []), *counts])


def _scores(systems: Mapping[str, Mapping[str, Any]]) -> CardScores | None:
    names = shown_scores(systems)
    if not names:
        return None
    first = next(iter(systems.values()))
    text = f"Scores on {first['clips']} clips of the task {first['task']}, with 95 % confidence intervals"
    rows = {system: [_score(scores, name) for name in names] for system, scores in systems.items()}
    return CardScores(text, names, rows)


def _score(scores: Mapping[str, Any], name: str) -> str:
    value, ends = scores.get(name), interval(scores, name)
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")
