"""Students on the Hugging Face Hub (https://huggingface.co); the extra ``hub``."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgesea.artifact import read_json
from edgesea.errors import EdgeseaError, explained
from edgesea.models import load_student
from edgesea.models.published import huggingface_hub
from edgesea.models.student_files import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, model_card, read_student, without_folders
from edgesea.report.summary import interval, shown_scores, systems_of

log = logging.getLogger(__name__)
from_pretrained = load_student


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

    Needs a token with the right to write: ``hf auth login``, or the variable ``HF_TOKEN``. Local paths are not
    published.

    Parameters
    ----------
    student : path
        Its folder.
    repo_id : str
        ``owner/name``; created if it does not exist.
    private : bool, optional
        Whether a new repository is private; default: what the account's settings say.
    run : path, optional
        The run it comes from, for the scores in the card; default: the folder above, if it is that.
    domain : str
        The recordings it was trained on, for the card; default: the source's name and size, if there is a run.
    license : str
        Identifier of the licence of the weights, such as cc-by-4.0.
    card : path, optional
        A Markdown file to use as the card, instead of the one made from `config.json` and the run.

    Returns
    -------
    str
        Address of the repository. EdgeseaError: the student is damaged, the run is that of another one, the upload
        fails, or huggingface-hub is missing.
    """
    folder = Path(student)
    hub = huggingface_hub(repo_id)
    if card is not None and not Path(card).is_file():
        raise EdgeseaError(f"{card}: no such file; leave card out to have one made")
    student_card(folder, repo_id, run=run, domain=domain, license=license)  # fails before anything is created
    config = without_folders(read_json(folder / CONFIG_FILE))
    files: dict[str, bytes | Path] = {
        CONFIG_FILE: (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(),
        WEIGHTS_FILE: folder / WEIGHTS_FILE,
    }
    remedy = "a token with the right to write is needed (hf auth login, or HF_TOKEN)"
    with explained(f"{folder}: cannot be uploaded to {repo_id}; {remedy}"):
        api = hub.HfApi(library_name="edgesea")
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        text = student_card(folder, url.repo_id, run=run, domain=domain, license=license).encode()
        files[CARD_FILE] = text if card is None else Path(card)
        operations = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=it) for name, it in files.items()]
        api.create_commit(url.repo_id, operations, commit_message="Student made with edgesea")
    return str(url)


def student_card(
    student: Path | str, source: str, *, run: Path | str | None = None, domain: str = "", license: str = ""
) -> str:
    """The model card of a student's folder, with the scores of its run; `source` is what `load_student` takes."""
    folder = Path(student)
    if folder.is_file():
        raise EdgeseaError(f"{folder}: a file, not the folder of a student, with {CONFIG_FILE} and {WEIGHTS_FILE}")
    file = read_student(folder)
    results = _results(folder, file.provenance, run)
    scores = _score_table(systems_of(results))
    source_path = (results.get("config") or {}).get("extract", {}).get("source")
    counts = [f"{count} {key}" for key, count in results.get("extract", {}).items() if key in ("clips", "windows")]
    domain = domain or ", ".join([f"`{Path(source_path).name}`", *counts] if source_path else counts)
    return model_card(file.config, file.provenance, source=source, domain=domain, license=license, scores=scores)


def _results(folder: Path, provenance: Mapping[str, Any], run: Path | str | None) -> dict[str, Any]:
    path = (folder.resolve().parent if run is None else Path(run)) / "results.json"
    results: dict[str, Any] = read_json(path) if run is not None or path.is_file() else {}
    fitted, trained = ((it or {}).get("mse") for it in (results.get("distill"), provenance.get("scores")))
    if fitted is not None and fitted == trained:
        return results
    if run is not None:
        raise EdgeseaError(f"{path}: not the results of the run that made {folder}; leave run out, or give another")
    if results:
        log.info("%s: not the results of the run that made %s; the card gets no scores", path, folder)
    return {}


def _score_table(systems: Mapping[str, Mapping[str, Any]]) -> str:
    names = shown_scores(systems)
    if not names:
        return ""
    first = next(iter(systems.values()))
    rows = {"system": names, "---": ["---"] * len(names)}
    rows |= {system: [_score(scores, name) for name in names] for system, scores in systems.items()}
    table = "\n".join(f"| {system} | {' | '.join(cells)} |" for system, cells in rows.items())
    task = f"Scores on {first['clips']} clips of the task {first['task']}, with 95 % confidence intervals."
    return f"\n{task}\n\n{table}\n"


def _score(scores: Mapping[str, Any], name: str) -> str:
    value, ends = scores.get(name), interval(scores, name)
    text = "-" if value is None else f"{value:.3f}"
    return f"{text} ({ends[0]:.3f} to {ends[1]:.3f})" if ends else text
