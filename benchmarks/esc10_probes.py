"""Which probe, on which features of which windows? ESC-10 with EfficientAT mn04, over the five official folds.

    EDGESEA_DATA=path/to/data python benchmarks/esc10_probes.py

Needs esc10/ and efficientat/mn04_as_mAP_432.pt below the data folder. Every number is the accuracy of all 400 clips,
each tested by a probe that is trained on the other four folds, with its 95 % interval from 1000 bootstrap resamples of
the recordings. With --search, a search chooses the classifier's parameters inside the four training folds. But nobody
chooses between the rows there: the best of so many is optimistic as a score of ESC-10.

The files are 0.9 ms longer than 5 s, as Vorbis encodes them: windows of 5 s need a second one, nearly all of it
padding; windows of 5.01 s hold a clip each, but for the few that are longer.

It takes some minutes; with --search an hour, most of it for random_forest and mlp.
"""

import argparse
import os
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from edgesea.artifact import write_json
from edgesea.audio.framing import Framing
from edgesea.models import load_model
from edgesea.tasks.features import window_embeddings
from edgesea.tasks.folds import FoldTask
from edgesea.tasks.options import ProbeOptions

DATA = Path(os.environ.get("EDGESEA_DATA", "data"))
FRAMINGS = {
    (5.0, 5.0): ("mean",),
    (5.01, 5.01): ("mean",),
    (1.0, 0.25): ("mean", "statistics", "framewise"),
}
CLASSIFIERS = ("logistic", "svm", "random_forest", "mlp")


def cell(result: dict[str, Any]) -> str:
    """An accuracy with its interval."""
    low, high = result["confidence"]["accuracy"]
    return f"{result['accuracy']:.4f} ({low:.3f} ... {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder where embeddings are kept")
    parser.add_argument("--search", action="store_true", help="also search the parameters")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    arguments = parser.parse_args()
    task = FoldTask.load("esc50", DATA / "esc10")
    teacher = load_model("efficientat/mn04", DATA / "efficientat" / "mn04_as_mAP_432.pt")
    rows = []
    head = ["window, s", "hop, s", "windows a clip", "features", "classifier", "accuracy"]
    head += ["with search", "s", "s"] if arguments.search else ["s"]
    print(f"| {' | '.join(head)} |")
    print("|---" * len(head) + "|")
    for (window, hop), kinds in FRAMINGS.items():
        bags, failed = window_embeddings(lambda: teacher, task.paths, Framing(window, hop), 16, 1, arguments.cache)
        assert not failed, failed
        for features, classifier in product(kinds, CLASSIFIERS):
            found = []
            for search in (False, True) if arguments.search else (False,):
                begin = time.perf_counter()
                probe = ProbeOptions(classifier, features, search)  # type: ignore[arg-type]
                result = task.score(bags, probe, resamples=1000)
                found.append({**result, "seconds": time.perf_counter() - begin})
            cells = [f"{window:g}", f"{hop:g}", f"{np.median(bags.counts):g}", features, classifier, *map(cell, found)]
            cells += [f"{own['seconds']:.1f}" for own in found]
            print(f"| {' | '.join(cells)} |", flush=True)
            rows.append(
                {"window": window, "hop": hop, "features": features, "classifier": classifier, "results": found}
            )
    if arguments.json:
        write_json(arguments.json, {"rows": rows})


if __name__ == "__main__":
    main()
