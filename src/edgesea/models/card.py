"""The model card that is saved with a student."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgesea.models.config import StudentConfig, convolutions

TAGS = ("audio", "audio-embedding", "knowledge-distillation", "tinyml")
PIPELINE = "feature-extraction"  # what the Hugging Face Hub calls the task of an embedding
TEMPLATE = """---
{front_matter}
---
# {title}

A specialised audio embedding made with edgesea: it maps {window:g} s of mono audio at {sample_rate} Hz to
{embedding_size} numbers{purpose}.

| | |
|---|---|
{facts}
{scores}
```python
import edgesea

student = edgesea.load_student("{source}")
embeddings = student.embed(windows)  # windows: (B, {samples}) float32 in [-1, 1] at {sample_rate} Hz
```

How it was made (input hashes, options, versions) is recorded in `config.json`.
"""


@dataclass(frozen=True)
class CardScores:
    """The table of scores on a downstream task.

    Attributes
    ----------
    task : str
        What was scored, as a sentence without its full stop.
    names : sequence of str
        Names of the scores.
    rows : mapping of str to sequence of str
        By system (teacher, reduced, student): one text a score.
    """

    task: str
    names: Sequence[str]
    rows: Mapping[str, Sequence[str]]


def macs(config: StudentConfig) -> int:
    """Multiplications (with addition) that the convolutions and the head take for one window, without the front end."""
    height, width = config.n_mels, config.frames()
    total = 2 * config.filters[-1] * config.embedding_size if config.head == "linear" else 0
    for index, (_, _, inputs, outputs) in enumerate(convolutions(config)):
        if index and index % 2 == 0:
            height, width = height // 2, width // 2
        total += 9 * inputs * outputs * height * width
    return total


def model_card(
    config: StudentConfig,
    provenance: Mapping[str, Any],
    parameters: int,
    *,
    source: str = "PATH",
    domain: str = "",
    license: str = "",
    scores: CardScores | None = None,
) -> str:
    """Markdown for a student.

    Parameters
    ----------
    config : StudentConfig
        Its architecture.
    provenance : mapping
        With ``teacher``, ``reduction`` and ``scores`` as `distill` records them; what is missing is left out.
    parameters : int
        Trainable parameters.
    source : str
        What `load_student` takes.
    domain : str
        The recordings it was trained on.
    license : str
        Identifier of the weights' licence, for the front matter.
    scores : CardScores, optional
        On a downstream task.
    """
    teacher = provenance.get("teacher") or {}
    title = f"Student of {teacher['id']}" if teacher else "Student"
    purpose = "" if not teacher else f" that approximate the reduced embedding of the teacher\n`{teacher['id']}` on "
    return TEMPLATE.format(
        **config.to_dict(),
        front_matter=_front_matter(license),
        title=f"{title}, {config.embedding_size} dimensions",
        purpose=purpose and purpose + "the recordings it was trained on",
        facts="\n".join(f"| {name} | {text} |" for name, text in _facts(config, provenance, parameters, domain)),
        scores="" if scores is None else _score_table(scores),
        source=source,
        samples=round(config.window * config.sample_rate),
    )


def _front_matter(license: str) -> str:
    values = {"library_name": "edgesea", "license": license, "pipeline_tag": PIPELINE}
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value]
    return "\n".join([*lines, f"tags: [{', '.join(TAGS)}]"])


def _facts(config: StudentConfig, provenance: Mapping[str, Any], parameters: int, domain: str) -> list[tuple[str, str]]:
    """Names and values of what is known of a student."""
    teacher, reduction, scores = (provenance.get(key) or {} for key in ("teacher", "reduction", "scores"))
    facts = []
    if teacher:
        facts.append(("teacher", f"`{teacher['id']}`, {teacher['embedding_size']} dimensions"))
    if domain:
        facts.append(("trained on", domain))
    if reduction:
        facts.append(("reduction", f"{reduction['method']}, to {config.embedding_size} dimensions"))
    facts += [
        ("parameters", _spaced(parameters)),
        ("weights as float32 / int8", f"{parameters * 4 / 1024:.0f} KiB / {parameters / 1024:.0f} KiB"),
        ("multiplications for a window", f"{macs(config) / 1e6:.1f} million, without the spectrogram"),
        ("input", f"log-mel spectrogram, {config.n_mels} bands, {config.n_fft}-point FFT, hop {config.hop_length}"),
        ("filters, head", f"{'-'.join(map(str, config.filters))}, {config.head}"),
    ]
    if scores.get("r2") is not None:
        facts.append(("R2 on validation clips", f"{scores['r2']:.3f} (share of the target's variance explained)"))
    if scores.get("cosine") is not None:
        facts.append(("cosine similarity on validation clips", f"{scores['cosine']:.3f}"))
    return facts


def _score_table(scores: CardScores) -> str:
    rows = [("system", scores.names), ("---", ["---"] * len(scores.names)), *scores.rows.items()]
    lines = [f"| {first} | {' | '.join(cells)} |" for first, cells in rows]
    return "\n".join(["", f"{scores.task}.", "", *lines, ""])


def _spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ")
