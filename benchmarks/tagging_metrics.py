"""Scores of tagging: seconds for many clips, and how much faster than the direct algorithm of the challenge's script.

    python benchmarks/tagging_metrics.py
    git clone https://github.com/sonyc-project/dcase2020task5-uststc-baseline official && pip install oyaml
    NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512_SPR" \
        python benchmarks/tagging_metrics.py --official official

Labels and scores are random: 23 tags that are classes of their own, and the taxonomy of SONYC-UST with 23 complete and
six incomplete fine tags in eight classes; nearly every score is a threshold. The fastest of five runs counts. The
direct algorithm (tests/tasks/direct_metrics.py) runs once, on fewer clips, with the eight coarse tags and with the fine
ones; it must find the same. With --official the script itself runs too, on files of its kind, and must find the same as
ties="published"; for that numpy's vector code must be off, or it orders ties otherwise. Takes some minutes; prints
Markdown tables and writes benchmarks/results/tagging_metrics.json.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "tasks"))

from direct_metrics import direct_scores

from edgesea.artifact import write_json
from edgesea.tasks.annotations import Taxonomy
from edgesea.tasks.metrics import Ties, tagging_scores

RESULTS = Path(__file__).parent / "results" / "tagging_metrics.json"
COMPLETE = (3, 4, 1, 3, 4, 3, 4, 1)  # fine tags of each coarse class; an incomplete one too, where there are several
OVERALL = ("micro_auprc", "micro_f1", "macro_auprc")


def make_taxonomy() -> Taxonomy:
    """Of the form of SONYC-UST's."""
    fine, parent = [], []
    for number, count in enumerate(COMPLETE):
        for own in [*range(1, count + 1), *(["X"] if count > 1 else [])]:
            fine.append(f"{number + 1}-{own}_tag-{number + 1}{own}")
            parent.append(number)
    coarse = tuple(f"{number + 1}_class-{number + 1}" for number in range(len(COMPLETE)))
    return Taxonomy(coarse, tuple(fine), np.array(parent), np.array(["-X_" in tag for tag in fine]))


def draw(clips: int, tags: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A tenth of the labels positive, with scores that know something of them."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((clips, tags)) < 0.1).astype(np.int8)
    return labels, rng.random((clips, tags)) ** np.where(labels, 1.0, 3.0)


def seconds(call: Callable[[], Any], runs: int = 5) -> tuple[float, Any]:
    """The fastest of some runs, and what was returned."""
    best, result = np.inf, None
    for _ in range(runs):
        began = perf_counter()
        result = call()
        best = min(best, perf_counter() - began)
    return best, result


def deviation(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """The largest difference of two sets of scores."""
    areas = [abs(value - expected["class_auprc"][name]) for name, value in found["class_auprc"].items()]
    return float(max(*areas, *(abs(found[name] - expected[name]) for name in OVERALL)))


def large(clips: int, taxonomy: Taxonomy) -> list[dict[str, Any]]:
    """Seconds for many clips."""
    names = taxonomy.complete
    labels, scores = draw(clips, len(taxonomy.fine))
    of_fine = {"parent": taxonomy.parent, "incomplete": taxonomy.incomplete}
    flat = labels[:, ~taxonomy.incomplete].copy(), scores[:, ~taxonomy.incomplete].copy()
    rows = []
    both: tuple[Ties, ...] = ("threshold", "published")
    for ties in both:
        coarse = seconds(partial(tagging_scores, *flat, names, ties))[0]
        fine = seconds(partial(tagging_scores, labels, scores, taxonomy.names, ties, **of_fine))[0]
        rows.append({"clips": clips, "tags": f"{len(names)} coarse", "ties": ties, "seconds": coarse})
        rows.append({"clips": clips, "tags": f"{len(names)} fine", "ties": ties, "seconds": fine})
    return rows


def against(clips: int, taxonomy: Taxonomy, official: Path | None) -> list[dict[str, Any]]:
    """Seconds of ours and of the direct algorithm, and of the official script."""
    names, rows = taxonomy.names, []
    labels, scores = draw(clips, len(taxonomy.fine))
    coarse, coarse_scores = draw(clips, len(names), seed=1)
    of_fine = {"parent": taxonomy.parent, "incomplete": taxonomy.incomplete}
    cases: tuple[tuple[str, tuple[Any, ...], dict[str, Any]], ...] = (
        (f"{len(names)} coarse", (coarse, coarse_scores, names), {}),
        (f"{len(taxonomy.complete)} fine", (labels, scores, names), of_fine),
    )
    for tags, arguments, below in cases:
        own, found = seconds(partial(tagging_scores, *arguments, **below))
        slow, expected = seconds(partial(direct_scores, *arguments, **below), 1)
        row = {"clips": clips, "tags": tags, "seconds": own, "direct_seconds": slow, "ratio": slow / own}
        rows.append({**row, "deviation": deviation(found, expected["threshold"])})
    if official is not None:
        ours = [tagging_scores(*arguments, "published", **below) for _, arguments, below in cases]
        theirs = official_scores(official, taxonomy, (coarse, labels), (coarse_scores, scores))
        for row, found, (slow, expected) in zip(rows, ours, theirs, strict=True):
            row.update(official_seconds=slow, official_deviation=deviation(found, expected))
    return rows


def official_scores(
    folder: Path, taxonomy: Taxonomy, labels: tuple[np.ndarray, ...], scores: tuple[np.ndarray, ...]
) -> list[tuple[float, dict[str, Any]]]:
    """Seconds and scores of the challenge's script, coarse and fine; without lwlrap, which needs an old numpy."""
    sys.path.insert(0, str(folder / "src"))
    import metrics as official  # type: ignore[import-not-found]

    tags, clips = [*taxonomy.coarse, *taxonomy.fine], [f"{number:06d}.wav" for number in range(len(labels[0]))]
    results = []
    with tempfile.TemporaryDirectory() as place:
        predictions, annotations, taxonomy_file = (str(Path(place, file)) for file in ("p.csv", "a.csv", "t.yaml"))
        levels: dict[str, Any] = {"coarse": dict(enumerate(taxonomy.names, 1)), "fine": {}}
        for tag, parent in zip(taxonomy.fine, taxonomy.parent.tolist(), strict=True):
            own, name = tag.partition("-")[2].split("_")
            levels["fine"].setdefault(parent + 1, {})[own if own == "X" else int(own)] = name
        Path(taxonomy_file).write_text(yaml.safe_dump(levels, sort_keys=False))
        pd.DataFrame(np.hstack(scores), clips, tags).to_csv(predictions, index_label="audio_filename")
        truth = pd.DataFrame(np.hstack(labels), clips, [f"{tag}_presence" for tag in tags])
        truth.assign(split="validate", annotator_id=0).to_csv(annotations, index_label="audio_filename")
        for mode in ("coarse", "fine"):
            began = perf_counter()
            tables = official.calculate_base_classification_metrics(predictions, annotations, taxonomy_file, mode)
            micro, curve = official.micro_averaged_auprc(tables, return_df=True)
            macro, areas = official.macro_averaged_auprc(tables, return_classwise=True)
            spent = perf_counter() - began
            f1 = curve["F"][np.flatnonzero(curve["threshold"] >= 0.5)[0]]
            by_name = dict(zip(taxonomy.names, areas.values(), strict=True))
            scored = {"micro_auprc": micro, "micro_f1": f1, "macro_auprc": macro, "class_auprc": by_name}
            results.append((spent, scored))
    return results


def show(rows: list[dict[str, Any]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        print(
            "| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else f"{cell}" for cell in row.values()) + " |"
        )
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100_000, help="of the large case")
    parser.add_argument("--direct-clips", type=int, default=2000, help="of the comparison with the direct algorithm")
    parser.add_argument("--official", type=Path, help="a clone of the challenge's repository")
    arguments = parser.parse_args()
    taxonomy = make_taxonomy()
    many = large(arguments.clips, taxonomy)
    show(many)
    compared = against(arguments.direct_clips, taxonomy, arguments.official)
    show(compared)
    write_json(RESULTS, {"numpy": np.__version__, "large": many, "direct": compared})


if __name__ == "__main__":
    main()
