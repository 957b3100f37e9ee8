"""The model card that is saved with a student."""

from collections.abc import Mapping
from typing import Any

from edgesea.models.config import StudentConfig

TEMPLATE = """---
library_name: edgesea
tags: [audio, audio-embedding, knowledge-distillation, tinyml]
---
# {title}

A specialised audio embedding made with edgesea: it maps {window:g} s of mono audio at {sample_rate} Hz to
{embedding_size} numbers that approximate the reduced embedding of the teacher `{teacher}` on the recordings it was
trained on.

| | |
|---|---|
| parameters | {parameters} |
| weights as float32 / int8 | {kib:.0f} KiB / {kib8:.0f} KiB |
| input | log-mel spectrogram, {n_mels} bands, {n_fft}-point FFT, hop {hop_length} |
| filters, head | {filters}, {head} |
| reduction | {method}, {inputs} to {embedding_size} dimensions |
| R2 on validation clips | {r2:.3f} |
| cosine similarity on validation clips | {cosine:.3f} |

R2 is the share of the target's variance that the student explains.

```python
import edgesea

student = edgesea.load_student("PATH")
embeddings = student.embed(windows)  # windows: (B, {samples}) float32 in [-1, 1] at {sample_rate} Hz
```

How it was made (input hashes, options, versions) is recorded in `config.json`.
"""


def model_card(config: StudentConfig, provenance: Mapping[str, Any], parameters: int) -> str:
    """Markdown for a student.

    Parameters
    ----------
    config : StudentConfig
        Its architecture.
    provenance : mapping
        With ``teacher``, ``reduction`` and ``scores`` as `distill` records them.
    parameters : int
        Trainable parameters.
    """
    teacher, reduction, scores = provenance["teacher"], provenance["reduction"], provenance["scores"]
    return TEMPLATE.format(
        **{**config.to_dict(), "filters": "-".join(map(str, config.filters))},
        title=f"Student of {teacher['id']}, {config.embedding_size} dimensions",
        teacher=teacher["id"],
        parameters=f"{parameters:,}".replace(",", " "),
        kib=parameters * 4 / 1024,
        kib8=parameters / 1024,
        method=reduction["method"],
        inputs=teacher["embedding_size"],
        r2=scores["r2"],
        cosine=scores["cosine"],
        samples=round(config.window * config.sample_rate),
    )
