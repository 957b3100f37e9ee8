"""What the folders of runs and selections hold, read for their pages and tables; nothing is drawn here."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from edgesea.artifact import read_json
from edgesea.errors import EdgeseaError

if TYPE_CHECKING:
    from edgesea.sampling.subset import Subset
    from edgesea.table.reader import Table

RESULTS, STAMPS, SELECTION = "results.json", "stages.json", "select.json"
SYSTEMS = ("teacher", "reduced", "student")
TRIAL = ("dimensions", "score", "score_std", "standard_error", "seconds")  # numbers of a trial of a selection
EVERYTHING = "all windows"  # the sampling of a reduction that was fitted on the whole table
SAMPLE, SAMPLE_CHUNKS = 2000, 24  # windows in the map, and chunks (about 32 MB each) that they are read from
Frame = Any  # pandas.DataFrame; its stubs are stricter about names of columns than is of use here


class Metric(NamedTuple):
    """A score of a task."""

    key: str  # in the results
    name: str
    percent: bool = False  # whether it is shown in percent
    meaning: str = ""

    @property
    def best(self) -> float:
        """The highest score, in the unit shown."""
        return 100.0 if self.percent else 1.0

    @property
    def axis(self) -> str:
        """Name with unit."""
        return f"{self.name} (%)" if self.percent else self.name


AUPRC = "AUPRC: area under the precision-recall curve; micro: of all classes together, macro: their mean."
METRICS = {
    metric.key: metric
    for metric in (
        Metric("accuracy", "accuracy", True),
        Metric("fold_accuracy", "fold accuracy", True, "Fold accuracy: mean of the folds' accuracies."),
        Metric("class_accuracy", "class accuracy", True, "Class accuracy: mean of the classes' accuracies."),
        Metric("micro_auprc", "micro AUPRC", meaning=AUPRC),
        Metric("macro_auprc", "macro AUPRC"),
        Metric("micro_f1", "micro F1"),
        Metric("lwlrap", "lwlrap", meaning="lwlrap: label-weighted label-ranking average precision."),
    )
}
DETAILS = {  # scores by class and by fold
    "accuracy_by_class": METRICS["accuracy"],
    "class_auprc": Metric("class_auprc", "AUPRC"),
    "accuracy_by_fold": METRICS["accuracy"],
}


@dataclass(frozen=True)
class Run:
    """A run directory; artifacts of stages may have been deleted from it to save space."""

    results: dict[str, Any]  # results.json
    table: "Table | None"
    subset: "Subset | None"
    reduction: dict[str, Any]  # reduction.json; empty if it is missing
    student: dict[str, Any]  # config.json of the student, likewise
    history: Frame | None  # metrics.csv of the student
    skipped: list[list[str]]  # clip and reason

    def stage(self, name: str) -> dict[str, Any]:
        """What a stage returned; empty if it was not run."""
        return self.results.get(name) or {}

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        """Scores of each system; empty if the run has no task."""
        return {system: self.stage("evaluate")[system] for system in SYSTEMS if system in self.stage("evaluate")}


def read_run(folder: Path) -> Run:
    """Read a finished run."""
    from edgesea.sampling.subset import Subset
    from edgesea.table.reader import Table

    results, subset, skipped = read_results(folder), folder / "subset.parquet", folder / "table" / "skipped.csv"
    history = folder / "student" / "metrics.csv"
    try:
        metrics = pd.read_csv(history, dtype=float) if history.is_file() else None
    except ValueError as error:
        raise EdgeseaError(f"{history}: damaged ({error}); delete {history.parent} and run again") from error
    rows = (
        pd.read_csv(skipped, dtype=str, keep_default_na=False, encoding_errors="replace") if skipped.is_file() else None
    )
    return Run(
        results,
        Table(folder / "table") if (folder / "table" / "table.json").is_file() else None,
        Subset.load(subset) if subset.is_file() else None,
        optional_json(folder / "reduction" / "reduction.json"),
        optional_json(folder / "student" / "config.json"),
        metrics,
        [] if rows is None else rows[["clip", "reason"]].to_numpy().tolist(),
    )


def read_results(folder: Path) -> dict[str, Any]:
    """``results.json`` of a run, all of whose stages are finished and the ones that the results were written from."""
    if not (folder / RESULTS).is_file() and not (folder / STAMPS).is_file():
        what = "not a run directory" if folder.is_dir() else "no such folder"
        raise EdgeseaError(f"{folder}: {what} ({RESULTS} is missing); create one with `edgesea run`")
    results, stages = optional_json(folder / RESULTS), optional_json(folder / STAMPS).get("stages", {})
    # A run that was changed and killed leaves the results of the earlier one behind.
    unfinished = [
        name
        for name, stamp in stages.items()
        if name in results and (not stamp.get("finished") or stamp.get("result") != results[name])
    ]
    if not results or unfinished:
        missing = ", ".join(unfinished) or f"no {RESULTS}"
        raise EdgeseaError(f"{folder}: unfinished run ({missing}); finish it with the same `edgesea run` command")
    if not isinstance(results.get("extract"), dict) or not isinstance(results.get("config"), dict):
        raise EdgeseaError(f"{folder / RESULTS}: not the results of a run; create a run with `edgesea run`")
    return results


def optional_json(path: Path) -> dict[str, Any]:
    """A mapping from a JSON file; empty if there is none."""
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise EdgeseaError(f"{path}: not a file that edgesea wrote; delete it and run the same `edgesea run` again")
    return found


@dataclass(frozen=True)
class Counts:
    """Counts over a table and the subset chosen from it."""

    strata: Frame  # index: split, sensor, day ("" if unknown); columns: clips, windows, subset
    levels: dict[str, Counter[int]]  # of table and subset: windows by level in whole dB, rounded down
    chunks: list[tuple[int, int, int]]  # part, group, windows

    def known(self, name: str) -> list[str]:
        """Known sensors or days, sorted."""
        return sorted({*self.strata.index.unique(name)} - {""}, key=natural)

    def by_period(self, column: str, most: int = 42) -> tuple[Frame, str]:
        """Windows by sensor (at most 40) and by day, ISO week, month or year: the finest of at most `most`."""
        counts = self.strata[column].groupby(["sensor", "day"]).sum().reset_index()
        dates = pd.to_datetime(counts.day.where(counts.day != ""))
        for period, form in {"day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m", "year": "%Y"}.items():  # noqa: B007
            names = dates.dt.strftime(form).fillna("")
            if names.nunique() <= most:
                break
        grid = counts.assign(day=names).groupby(["sensor", "day"])[column].sum().unstack("day")
        return grid.loc[sorted(grid.sum(axis=1).nlargest(40).index, key=natural)], period


def natural(name: str) -> tuple[int, str]:
    """Sorting key that puts sensor 2 before sensor 10."""
    return (int(name), name) if name.isdecimal() else (1 << 62, name)


def summarise(table: "Table", subset: "Subset | None") -> Counts:
    """Count clips, windows, levels and strata, a chunk at a time."""
    counts, levels, chunks = [], {"table": Counter[int](), "subset": Counter[int]()}, []
    for chunk in table.chunks():
        chosen = np.zeros(len(chunk.clip), bool)
        if subset is not None:
            first, last = np.searchsorted(subset.part, [chunk.part, chunk.part + 1])
            rows = subset.window[first:last] - chunk.first_window
            chosen[rows[(rows >= 0) & (rows < len(chosen))]] = True
        columns = {
            "split": chunk.splits,
            "sensor": [sensor or "" for sensor in chunk.sensors],
            "day": [datetime.fromisoformat(time).date().isoformat() if time else "" for time in chunk.times],
            "clips": chunk.offsets == 0,  # a long clip has several rows
            "windows": np.bincount(chunk.clip, minlength=len(chunk.names)),
            "subset": np.bincount(chunk.clip[chosen], minlength=len(chunk.names)),
        }
        counts.append(pd.DataFrame(columns).groupby(["split", "sensor", "day"]).sum())
        for name, item in (("table", chunk.level), ("subset", chunk.level[chosen])):
            levels[name].update(np.floor(item[np.isfinite(item)]).astype(int).tolist())
        chunks.append((chunk.part, chunk.group, len(chunk.clip)))
    return Counts(pd.concat(counts).groupby(["split", "sensor", "day"]).sum(), levels, chunks)


def sample_windows(table: "Table", counts: Counts, phi: Any, seed: int = 0) -> Frame | None:
    """A random sample of windows: x, y (the first two reduced dimensions), level, label, sensor and split.

    Few random chunks are read, so memory and time do not grow with the table. None if phi has one dimension only.
    """
    if phi.output_size < 2:
        return None
    rng = np.random.default_rng(seed)
    chunks = [counts.chunks[i] for i in sorted(rng.permutation(len(counts.chunks))[:SAMPLE_CHUNKS])]
    total = sum(size for *_, size in chunks)
    chosen, start = np.sort(rng.choice(total, min(SAMPLE, total), replace=False)), 0
    columns, embeddings = [], []
    for part, group, size in chunks:
        rows = chosen[(chosen >= start) & (chosen < start + size)] - start
        start += size
        chunk = table.chunk(part, group)
        embeddings.append(table.embeddings(part, group)[rows].astype(np.float32))
        names = {"label": chunk.labels, "sensor": chunk.sensors, "split": chunk.splits}
        known = {name: [value or "" for value in values[chunk.clip[rows]]] for name, values in names.items()}
        columns.append(pd.DataFrame({"level": chunk.level[rows], **known}))
    points = phi.transform(np.concatenate(embeddings))  # at once: some reductions take long to start
    sample = pd.concat(columns, ignore_index=True).assign(x=points[:, 0], y=points[:, 1])
    return sample.sample(frac=1, random_state=seed)  # none is always drawn over the others


def details(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Scores by class and by fold, confusions of teacher and student, and the parameters that searches chose."""
    found: dict[str, Frame] = {}
    for key in DETAILS:
        frame = pd.DataFrame({name: item[key] for name, item in scores.items() if item.get(key)}, dtype=float)
        if frame.notna().any(axis=None):
            found[key] = frame
    matrices = {name: matrix for name, item in scores.items() if (matrix := confusion(item)) is not None}
    sizes = next(iter(matrices.values())).sum(axis=1) if matrices else None
    spread = (100 * found.get("accuracy_by_fold", pd.DataFrame())).agg(["mean", "std", "min", "max"]).T
    searched = [
        (name, fold, ", ".join(f"{key} {label(value)}" for key, value in chosen.items()))
        for name, item in scores.items()
        for fold, chosen in (item.get("chosen") or {}).items()
    ]
    return {
        "details": found,
        "class_sizes": sizes if sizes is not None and sizes.nunique() > 1 else None,
        "confusions": {name: item for name, item in matrices.items() if name != "reduced"},
        "confused": most_confused(matrices["student"], matrices.get("teacher")) if "student" in matrices else [],
        "folds": [(name, *item) for name, *item in spread.map("{:.1f}".format).itertuples()],
        "searched": searched,
    }


def confusion(scores: Mapping[str, Any]) -> Frame | None:
    """Clips of each class (rows) by the class predicted; the last column may be clips that could not be embedded."""
    found = scores.get("confusion")
    if not found or not found["counts"]:
        return None
    counts = np.array(found["counts"], int)
    names = found.get("columns", found["classes"])[: counts.shape[1]]
    return pd.DataFrame(counts, found["classes"][: len(counts)], names)


def most_confused(student: Frame, teacher: Frame | None, most: int = 10) -> list[list[Any]]:
    """Pairs of classes that the student confuses most often: true, predicted, clips, share, clips of the teacher.

    Of equally many clips, those that are a larger share of their class come first.
    """
    pairs = [
        [
            true,
            predicted,
            clips,
            clips / student.loc[true].sum(),
            None if teacher is None else teacher.at[true, predicted],
        ]
        for true, row in student.iloc[:, : len(student)].iterrows()
        for predicted, clips in row.items()
        if clips and predicted != true
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], -pair[3]))[:most]


@dataclass(frozen=True)
class Selection:
    """``select.json``."""

    task: str
    metric: Metric
    trials: Frame  # sampling, reduction, dimensions, score ...; the index is their order in the file
    winner: int | None  # index of the trial that was chosen
    reference: float | None  # score of the unreduced teacher
    reference_size: int | None  # and its dimensions

    @property
    def chosen(self) -> dict[str, Any] | None:
        """The trial that was chosen, if it has a score."""
        row = None if self.winner is None else self.trials.loc[self.winner].to_dict()
        return None if row is None or np.isnan(row["score"]) else row


def read_selection(folder: Path) -> Selection:
    """Read the ``select.json`` of a folder."""
    path = folder / SELECTION
    found = read_json(path)
    try:
        given, winner, reference = found["trials"], found.get("winner"), found.get("reference") or {}
        trials: Frame = pd.DataFrame(given, columns=[*TRIAL, "complete", "kept"])
        trials["complete"] = trials.complete.fillna(True).astype(bool)  # one that lacks a seed is never chosen
        trials["kept"] = [item or {} for item in trials.kept.where(trials.kept.notna(), None)]
        for name in TRIAL:
            trials[name] = pd.to_numeric(trials[name])
        for name, options in (
            ("sampling", [item.get("sample") or {"method": EVERYTHING} for item in given]),
            ("reduction", [{**item["reduce"], "size": None} for item in given]),  # the dimensions
            ("classifier", [item.get("classifier") or {} for item in given]),
        ):
            trials[name] = [str(item.get("method", "")) for item in options]
            pairs = zip(trials[name], differing(options), strict=True)
            trials[f"{name}_text"] = [" ".join(filter(None, pair)) for pair in pairs]
        if winner is not None:
            given[winner]
        metric = str(found["metric"])
        return Selection(
            task=str(found["task"]),
            metric=METRICS.get(metric, Metric(metric, metric.replace("_", " "))),
            trials=trials,
            winner=winner,
            reference=reference.get("score"),
            reference_size=reference.get("dimensions"),
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise EdgeseaError(f"{path}: not a file of `edgesea select` ({reason}); select again") from error


def differing(options: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of each trial, as text, the options that differ among trials of its method."""
    if not options:
        return []
    varied = (
        pd.DataFrame([{"method": "", **item} for item in options]).astype(str).groupby("method").nunique().max() > 1
    )
    names = varied.index[varied]
    return [
        ", ".join(f"{name} {label(item[name])}" for name in names if item.get(name) is not None) for item in options
    ]


def label(value: object, length: int = 28) -> str:
    """Text from a file as a label: printable, and shortened in the middle (ids often differ at their end)."""
    shown = "".join(c if c.isprintable() else "?" for c in str(value).encode("utf-8", "replace").decode("utf-8"))
    tail = length // 2
    return shown if len(shown) <= length else f"{shown[: length - 1 - tail]}…{shown[-tail:]}"
