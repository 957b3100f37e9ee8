"""``report``: a run, a reduction or a model selection as one page to look at."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesea.artifact import read_json
from edgesea.errors import EdgeseaError, missing_extra

if TYPE_CHECKING:
    from edgesea.report.data import Counts, Run
    from edgesea.table.reader import Table

REDUCTION_FILE = "reduction.json"
MEASURES = {  # key among the measures of a reduction -> name
    "explained_variance": "variance recovered by a linear map",
    "trustworthiness": "trustworthiness",
    "continuity": "continuity",
    "distance_rank_correlation": "rank correlation of distances",
}


def report(folder: Path, *, table: Path | None = None) -> dict[str, Any]:
    """Write a page about a run, a reduction or a selection that works offline: FOLDER/report.html.

    Parameters
    ----------
    folder : Path
        Run directory of `edgesea run`, folder of `edgesea reduce` or folder of `edgesea select`. Artifacts that were
        deleted from a run to save space (table, student) are left out of its page.
    table : Path, optional
        Of a reduction: the table that it was fitted on, for a map of its windows; default: the one of its run.

    Returns
    -------
    dict
        report: the file.

    Raises
    ------
    EdgeseaError
        If `folder` is none of these, the run is not finished, a file is damaged, or the table has other embeddings.
    """
    try:
        import pyarrow  # noqa: F401

        from edgesea.report.data import SELECTION
        from edgesea.report.pages import write_page
    except ModuleNotFoundError as error:
        raise missing_extra(str(error.name), "train") from error
    folder = Path(folder)
    if (folder / REDUCTION_FILE).is_file():
        kind, content = "reduction", _reduction(folder, table)
    elif (folder / SELECTION).is_file():
        kind, content = "selection", _selection(folder)
    else:
        kind, content = "run", _run(folder)
    return {"report": write_page(folder / "report.html", kind, title=folder.resolve().name, **content)}


def _run(folder: Path) -> dict[str, Any]:
    """What run.jinja shows."""
    import yaml

    from edgesea.models.student_config import StudentConfig, macs
    from edgesea.report.data import METRICS, details, read_run, summarise
    from edgesea.report.pages import duration
    from edgesea.report.summary import shown_scores

    run = read_run(folder)
    counts = None if run.table is None else summarise(run.table, run.subset)
    scores, architecture = run.scores, run.student.get("architecture")
    ends = [
        (METRICS[name], *(scores.get(item, {}).get(name) for item in ("teacher", "student")))
        for name in shown_scores(scores)
    ]
    return {
        "run": run,
        "headline": next((item for item in ends if item[1] and item[2] is not None), None),
        "coarse": {name: item["coarse"] for name, item in scores.items() if item.get("coarse")},
        "macs": macs(StudentConfig.from_dict(architecture)) if architecture else None,
        "counts": counts,
        **_windows(run, counts),
        **_preserved({**run.stage("reduce"), **run.reduction}, folder / "reduction", run.table, counts),
        **_training(run),
        **details(scores),
        "failed": [pair for item in scores.values() for pair in (item.get("failed") or {}).items()],
        "times": [(name, duration(seconds)) for name, seconds in run.results.get("seconds", {}).items()],
        "digests": _digests(folder, run.table),
        "config": [
            yaml.safe_dump({name: options}, sort_keys=False, allow_unicode=True)
            for name, options in run.results["config"].items()
        ],
    }


def _windows(run: "Run", counts: "Counts | None") -> dict[str, Any]:
    """Rows of the table of splits; what the plot of sensors and days shows, if these are known."""
    from edgesea.report.pages import audio, integer, percent

    if counts is None:
        return {"splits": [], "grid": None}
    found, hop = counts.strata.groupby("split").sum(), run.results["config"].get("extract", {}).get("hop")
    splits = [
        (split, integer(clips), integer(count), percent(count / found.windows.sum(), 1), audio(hop and count * hop))
        for split, clips, count, _ in found.itertuples()
    ]
    column, what = ("windows", "windows") if run.subset is None else ("subset", "windows in the subset")
    located = max(len(counts.known("sensor")), len(counts.known("day"))) > 1
    return {"splits": splits, "grid": (*counts.by_period(column), what) if located else None}


def _training(run: "Run") -> dict[str, Any]:
    """The rule by which the student's weights were chosen, and the epoch that it chose."""
    keep = run.student.get("provenance", {}).get("training", {}).get("keep", "best")
    if run.history is None or run.history.empty:
        return {"keep": keep, "epoch": None}
    last, best = run.history.epoch.iloc[-1], run.history.epoch[run.history.val_mse.idxmin()]
    return {"keep": keep, "epoch": int(last if keep == "last" else best)}


def _digests(folder: Path, table: "Table | None") -> list[tuple[str, str]]:
    rows = []
    if table is not None:
        teacher = table.info["teacher"]
        rows.append((f"teacher {teacher['id']}", teacher.get("sha256") or "not recorded"))
        rows.append(("table (clips, sizes, splits)", str(table.info.get("manifest_sha256"))))
    for name in ("reduction/reduction.safetensors", "student/model.safetensors"):
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                rows.append((name, hashlib.file_digest(file, "sha256").hexdigest()))
    return rows


def _reduction(folder: Path, table: Path | None) -> dict[str, Any]:
    """What reduction.jinja shows."""
    from edgesea.report.data import summarise
    from edgesea.table.reader import Table

    info, beside = read_json(folder / REDUCTION_FILE), folder.resolve().parent / "table"
    if table is None and (beside / "table.json").is_file():
        table = beside
    source = None if table is None else Table(table)
    if source is not None and info.get("input_size") != source.embedding_size:
        raise EdgeseaError(
            f"{folder}: reduces embeddings of {info.get('input_size')} dimensions, but those of {table} have "
            f"{source.embedding_size}; give the table that it was fitted on"
        )
    provenance = info.get("provenance") or {}
    return {
        "teacher": (provenance.get("teacher") or {}).get("id", "?"),
        "subset": provenance.get("subset"),
        **_preserved(info, folder, source, None if source is None else summarise(source, None)),
    }


def _preserved(info: dict[str, Any], folder: Path, table: "Table | None", counts: "Counts | None") -> dict[str, Any]:
    """What a reduction preserves: its measures, and a sample of windows for the map."""
    import numpy as np

    from edgesea.reduction import load_reduction
    from edgesea.report.data import sample_windows
    from edgesea.report.pages import decimal, percent

    kept, sample = info.get("kept") or {}, None
    measures = [(name, decimal(kept[key]), "") for key, name in MEASURES.items() if key in kept]
    single = {
        "neighbors": kept.get("neighbors"),
        "overlap": kept.get("knn_overlap"),
        "chance": kept.get("knn_overlap_chance"),
    }
    for item in kept.get("knn_overlap_curve") or [single] if kept else ():
        name = f"{item['neighbors']} nearest neighbours preserved"
        measures.append((name, percent(item["overlap"], 1), percent(item["chance"], 1)))
    if table is not None and counts is not None and (folder / REDUCTION_FILE).is_file():
        sample = sample_windows(table, counts, load_reduction(folder))
    total = np.cumsum(info.get("explained_variance_ratio") or [])
    needed = [(share, 1 + int(np.searchsorted(total, share - 1e-9))) for share in (0.5, 0.8, 0.9, 0.95, 0.99)]
    return {
        "info": info,
        "measures": measures,
        "needed": [(share, count) for share, count in needed if count <= len(total)],
        "sample": sample,
        "unit": "dB" if table is None else table.info.get("level", {}).get("unit", "dB"),
    }


def _selection(folder: Path) -> dict[str, Any]:
    """What selection.jinja shows: all trials by score; columns of which nothing is known are left out."""
    from edgesea.report.data import read_selection
    from edgesea.report.pages import MISSING, decimal, duration, integer, percent, show

    found = read_selection(folder)
    metric, trials, chosen = found.metric, found.trials, found.chosen
    if trials.empty:
        return {"found": found}
    ties = None
    if chosen and chosen["standard_error"] == chosen["standard_error"]:
        rivals = trials[trials.complete & (trials.index != found.winner)]
        rivals = rivals[rivals.score >= chosen["score"] - chosen["standard_error"]]
        ties = rivals.sort_values("dimensions", kind="stable").to_dict("records")
    order = trials.sort_values(["complete", "score", "dimensions"], ascending=[False, False, True], kind="stable")
    columns = {
        "": ["★" if index == found.winner else "" if order.complete[index] else MISSING for index in order.index],
        "sampling": order.sampling_text,
        "reduction": order.reduction_text,
        "classifier": order.classifier_text,
        "dimensions": order.dimensions.map(integer),
        metric.name: [show(metric, item) for item in order.score],
        "std. error": [show(metric, item, unit=False) for item in order.standard_error],
        "over seeds": [show(metric, item, unit=False) for item in order.score_std],
        "of teacher": [percent(item / found.reference) if found.reference else "" for item in order.score],
        "trust.": [decimal(item.get("trustworthiness")) for item in order.kept],
        "neighbours preserved": [percent(item.get("knn_overlap")) for item in order.kept],
        "time": [MISSING if item != item else duration(item) for item in order.seconds],
    }
    shown = {name: cells for name, cells in columns.items() if name == "" or {*cells} - {"", MISSING}}
    rows = list(zip(*shown.values(), strict=True))
    return {"found": found, "ties": ties, "head": list(shown), "rows": rows, "words": list(shown).index("dimensions")}
