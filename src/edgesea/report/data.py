"""What the folders of runs and selections hold, read for their pages and tables; nothing is drawn here."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from edgesea.artifact import read_json
from edgesea.errors import EdgeseaError
from edgesea.reduction.windows import in_subset
from edgesea.sampling.subset import Subset
from edgesea.table.reader import Table

RESULTS, STAMPS, SELECTION = "results.json", "stages.json", "select.json"
EVERYTHING = "all windows"  # the sampling of a reduction that was fitted on the whole table
SAMPLE, SAMPLE_CHUNKS = 2000, 24  # windows in the map, and chunks (about 32 MB each) that they are read from
NUMBERS = ("score", "score_std", "standard_error", "seconds", "complete", "trustworthiness", "knn_overlap")  # of trials
PERIODS = {"day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m", "year": "%Y"}
Frame = Any  # pandas.DataFrame; its stubs are stricter about names of columns than is of use here


class Metric(NamedTuple):
    """A score of a task: its key in results, its name, the name of an axis with its unit, and the best value there."""

    key: str
    name: str
    axis: str
    best: float


def metric(key: str) -> Metric:
    """Accuracies are shown in percent."""
    name = key.replace("_", " ").replace("auprc", "AUPRC").replace("f1", "F1")
    return Metric(key, name, f"{name} (%)", 100.0) if "accuracy" in key else Metric(key, name, name, 1.0)


def read_results(folder: Path) -> dict[str, Any]:
    """``results.json`` of a run, all of whose stages are finished and the ones that the results were written from."""
    results, stages = optional_json(folder / RESULTS), optional_json(folder / STAMPS).get("stages", {})
    # A run that was changed and killed leaves the results of the earlier one behind.
    done = {name for name, one in stages.items() if one.get("finished") and one.get("result") == results.get(name)}
    unfinished = [name for name in stages if name in results and name not in done]
    if unfinished or (stages and not results):
        missing = ", ".join(unfinished) or f"no {RESULTS}"
        raise EdgeseaError(f"{folder}: unfinished run ({missing}); finish it with the same `edgesea run` command")
    if not {"config", "extract"} <= results.keys():
        raise EdgeseaError(f"{folder / RESULTS}: missing, or not of a run; create a run with `edgesea run`")
    return results


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """In this block, what is not as edgesea writes it is an error that names the file or folder."""
    try:
        yield
    except EdgeseaError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"damaged, or of another edgesea ({type(error).__name__}: {error})"
        raise EdgeseaError(f"{path}: {reason}; delete it and run the command that made it again") from error


def optional_json(path: Path) -> dict[str, Any]:
    """A mapping from a JSON file; empty if there is none."""
    with damaged(path):
        return {**read_json(path)} if path.is_file() else {}


def optional_csv(path: Path, **options: Any) -> Frame:
    """A CSV file of a stage; empty if there is none."""
    with damaged(path):
        return pd.read_csv(path, **options) if path.is_file() else pd.DataFrame()


@dataclass(frozen=True)
class Counts:
    """Counts over a table and the subset chosen from it."""

    table: Any  # the Table
    strata: Frame  # index: split, sensor, day ("" if unknown); columns: clips, windows, subset
    levels: Frame  # index: level in whole dB, rounded down; columns: windows of the table, and of the subset
    chunks: list[tuple[int, int, int]]  # part, group, windows

    def known(self, name: str) -> list[str]:
        """Known sensors or days, sorted."""
        return sorted({*self.strata.index.unique(name)} - {""}, key=natural)

    def by_period(self, column: str, most: int = 42) -> tuple[Frame, str]:
        """Windows by sensor (at most 40) and by day, ISO week, month or year: the finest of at most `most`."""
        counts = self.strata[column].groupby(["sensor", "day"]).sum().reset_index()
        dates = pd.to_datetime(counts.day.where(counts.day != ""))
        named = {period: dates.dt.strftime(form).fillna("") for period, form in PERIODS.items()}
        period = next((name for name, days in named.items() if days.nunique() <= most), "year")
        grid = counts.assign(day=named[period]).groupby(["sensor", "day"])[column].sum().unstack("day")
        return grid.loc[sorted(grid.sum(axis=1).nlargest(40).index, key=natural)], period


def natural(name: str) -> tuple[int, str]:
    """Sorting key that puts sensor 2 before sensor 10."""
    return (int(name), name) if name.isdecimal() else (1 << 62, name)


def summarise(table: Table, subset: Subset | None) -> Counts:
    counts, levels, chunks = [], [], []
    for chunk in table.chunks():
        chosen = np.zeros(len(chunk.clip), bool)
        if subset is not None:
            chosen[in_subset(subset, chunk)] = True
        columns = {
            "split": chunk.splits,
            "sensor": [sensor or "" for sensor in chunk.sensors],
            "day": [datetime.fromisoformat(time).date().isoformat() if time else "" for time in chunk.times],
            "clips": chunk.offsets == 0,  # a long clip has several rows
            "windows": np.bincount(chunk.clip, minlength=len(chunk.names)),
            "subset": np.bincount(chunk.clip[chosen], minlength=len(chunk.names)),
        }
        counts.append(pd.DataFrame(columns).groupby(["split", "sensor", "day"]).sum())
        levels.append(pd.DataFrame({"table": 1, "subset": chosen}).groupby(np.floor(chunk.level)).sum())
        chunks.append((chunk.part, chunk.group, len(chunk.clip)))
    known: Frame = pd.concat(levels).groupby(level=0).sum()
    strata = pd.concat(counts).groupby(["split", "sensor", "day"]).sum()
    return Counts(table, strata, known[np.isfinite(known.index)], chunks)


def sample_windows(counts: Counts, phi: Any, seed: int = 0) -> Frame:
    """A random sample of windows: x, y (the first two reduced dimensions), level, label, sensor and split.

    Few random chunks are read, so memory and time do not grow with the table.
    """
    rng = np.random.default_rng(seed)
    chunks = [counts.chunks[i] for i in sorted(rng.permutation(len(counts.chunks))[:SAMPLE_CHUNKS])]
    ends = np.cumsum([size for *_, size in chunks])
    chosen = np.sort(rng.choice(ends[-1], min(SAMPLE, ends[-1]), replace=False))
    samples, embeddings = [], []
    for (part, group, size), end in zip(chunks, ends, strict=True):
        rows = chosen[(chosen >= end - size) & (chosen < end)] - (end - size)
        chunk = counts.table.chunk(part, group)
        embeddings.append(counts.table.embeddings(part, group)[rows].astype(np.float32))
        clips = pd.DataFrame({"label": chunk.labels, "sensor": chunk.sensors, "split": chunk.splits}).fillna("")
        samples.append(clips.iloc[chunk.clip[rows]].assign(level=chunk.level[rows]))
    points = phi.transform(np.concatenate(embeddings))  # at once: some reductions take long to start
    sample = pd.concat(samples, ignore_index=True).assign(x=points[:, 0], y=points[:, 1])
    return sample.sample(frac=1, random_state=seed)  # none is always drawn over the others


def details(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Scores by class and by fold, and confusions: clips of each class (rows) by the class predicted.

    The last column of a confusion may be clips that could not be embedded.
    """
    found: dict[str, Frame] = {}
    for key in ("accuracy_by_class", "class_auprc", "accuracy_by_fold"):
        frame = pd.DataFrame({name: item[key] for name, item in scores.items() if item.get(key)}, dtype=float)
        if frame.notna().any(axis=None):
            found[key] = frame
    matrices: dict[str, Frame] = {}
    for name, result in scores.items():
        if name not in ("reduced", "int8") and (item := result.get("confusion")) and item["counts"]:
            matrices[name] = pd.DataFrame(item["counts"], item["classes"], item.get("columns", item["classes"]))
    return {"details": found, "confusions": matrices}


def most_confused(student: Frame, teacher: Frame | None, most: int = 10) -> Frame:
    """Classes that the student confuses most often: clips, their share of the class, and as many of the teacher.

    Of equally many clips, those that are a larger share of their class come first.
    """
    columns = {"clips": student, "share": student.div(student.sum(axis=1), axis=0), "teacher": teacher}
    pairs: Frame = pd.DataFrame({name: item.stack() for name, item in columns.items() if item is not None})
    pairs = pairs.rename_axis(["class", "other"]).reset_index()
    pairs = pairs.query("clips > 0 and other != `class` and other in @student.index")
    return pairs.sort_values(["clips", "share"], ascending=False, kind="stable").head(most)


def read_selection(folder: Path) -> dict[str, Any]:
    """``select.json``, for its page: task, metric, trials with the best first, the one that was chosen, reference."""
    with damaged(folder / SELECTION):
        found = read_json(folder / SELECTION)
        # A trial that lacks a seed is not complete, and never chosen.
        given = [{"complete": True, **(item.get("kept") or {}), **item} for item in found["trials"]]
        trials: Frame = pd.DataFrame(given, columns=["dimensions", *NUMBERS]).apply(pd.to_numeric)
        for name, options in (
            ("sampling", [item.get("sample") or {"method": EVERYTHING} for item in given]),
            ("reduction", [{**item["reduce"], "size": None} for item in given]),  # the dimensions
            ("classifier", [item.get("classifier") or {} for item in given]),
        ):
            trials[name] = [str(item.get("method", "")) for item in options]
            trials[f"{name}_text"] = described(options)
        order = trials.sort_values(["complete", "score", "dimensions"], ascending=[False, False, True], kind="stable")
        shown = {"trials": order, "chosen": trials.loc[found["winner"]], "reference": found.get("reference") or {}}
        return {"task": str(found["task"]), "metric": metric(found["metric"]), **shown}


def described(options: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of each trial, as text, its method and the options that differ among trials of its method."""
    frame = pd.DataFrame([{"method": "", **item} for item in options]).astype(str)
    varied = frame.groupby("method").nunique().max()
    names = varied.index[varied > 1]
    texts = [", ".join(f"{name} {label(one[name])}" for name in names if one.get(name) is not None) for one in options]
    return [f"{one.get('method', '')} {text}".strip() for one, text in zip(options, texts, strict=True)]


def label(value: object, length: int = 28) -> str:
    """Text from a file as a label: printable, and shortened in the middle (ids often differ at their end)."""
    shown = "".join(c if c.isprintable() else "?" for c in str(value))
    return shown if len(shown) <= length else f"{shown[: (length - 1) // 2]}…{shown[-(length // 2) :]}"
