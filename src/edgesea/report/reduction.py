"""The section about a reduction: what it keeps, and a map of the windows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgesea.report.data import WindowSample
from edgesea.report.html import MISSING, Html, decimal, element, figure, integer, join, note, percent, table, tiles
from edgesea.report.reduction_plots import map_plot, overlap_plot, variance_plot

SHARES = (0.5, 0.8, 0.9, 0.95, 0.99)
MEASURES = (  # key in what was kept, whether there is a chance level, name
    ("explained_variance", False, "variance recovered by a linear map"),
    ("trustworthiness", False, "trustworthiness"),
    ("continuity", False, "continuity"),
    ("knn_overlap", True, "nearest neighbours kept"),
    ("distance_correlation", True, "distance correlation"),
    ("distance_rank_correlation", False, "rank correlation of distances"),
)
EXPLAINED = (
    "On windows that the reduction was not fitted on. Trustworthiness (Venna & Kaski 2001): few windows became "
    "neighbours that were far apart; continuity: few neighbours were torn apart. Distance correlation: Szekely, Rizzo "
    "& Bakirov 2007. Chance: neighbours drawn at random; distances to shuffled windows."
)


def reduction_section(info: Mapping[str, Any], sample: WindowSample | None, unit: str) -> Html:
    """What a reduction keeps, and a map of the windows.

    Parameters
    ----------
    info : mapping
        ``reduction.json``, with or without what `edgesea reduce` returned; empty: no section.
    sample : WindowSample or None
        For the map; None: no map.
    unit : str
        Of the levels.
    """
    if not info:
        return Html("")
    kernel = info.get("method") == "kernel_pca"  # its variance is that of the kernel's features
    items = [
        ("method", info.get("method")),
        ("dimensions", f"{integer(info.get('input_size'))} → {integer(info.get('output_size'))}"),
        ("windows fitted on", integer(info.get("windows"))),
        ("variance kept", percent(info.get("explained_variance"), 1)),
        ("kernel's variance kept", percent(info.get("feature_variance"), 1)),
        ("kept on validation", percent(info.get("explained_variance_validate"), 1)),
    ]
    parts: list[object] = [tiles((name, value) for name, value in items if value not in (None, MISSING))]
    parts += [_kept(info.get("kept") or {}), _variance(info, sample, kernel)]
    if sample is not None:
        caption = f"The first two reduced dimensions of {integer(len(sample.points))} windows chosen at random."
        parts.append(figure(map_plot(sample, unit), caption))
    return join(part for part in parts if part)


def _kept(kept: Mapping[str, Any]) -> Html:
    """Tiles, plot and table of what `edgesea.reduction.kept` measured."""
    if not kept:
        return Html("")
    items = [
        ("trustworthiness", decimal(kept.get("trustworthiness"))),
        (f"{kept.get('neighbors', '')} nearest neighbours kept", _beside(kept, "knn_overlap")),
        ("distance correlation", _beside(kept, "distance_correlation")),
    ]
    rows = [
        [name, decimal(kept.get(key)), decimal(kept.get(f"{key}_chance")) if has_chance else ""]
        for key, has_chance, name in MEASURES
    ]
    measures = table(["measure", "value", "chance"], rows, caption=EXPLAINED)
    compared = integer(kept.get("compared_windows"))
    split = f" (split {kept['split']})" if kept.get("split") else ""
    caption = (
        "Share of the nearest neighbours in the teacher's space that are among the nearest in the reduced space, "
        f"among {compared} windows{split} that the reduction was not fitted on."
    )
    plot = figure(overlap_plot(kept.get("knn_overlap_curve") or []), caption)
    few = "" if plot else note(f"Too few windows that it was not fitted on ({compared}) to compare neighbours.")
    return join([tiles(items), few, element("div", plot, measures, class_="pair") if plot else measures])


def _beside(kept: Mapping[str, Any], key: str) -> Html:
    """A measure with its chance level."""
    show = percent if key == "knn_overlap" else decimal
    digits = 1 if key == "knn_overlap" else 3
    chance = kept.get(f"{key}_chance")
    small = element("small", f" chance {show(chance, digits)}") if chance is not None else ""
    return join([show(kept.get(key), digits), small], "")


def _variance(info: Mapping[str, Any], sample: WindowSample | None, kernel: bool) -> Html:
    """Curve of the variance, for methods whose dimensions are ordered by it."""
    ratios, size = info.get("explained_variance_ratio"), info.get("output_size") or 0
    if not ratios or not 1 <= size <= len(ratios):
        return Html("")
    validate = info.get("explained_variance_validate")
    whose = "variance of the kernel's features" if kernel else "standardised variance"
    caption = f"Share of the {whose} in the leading dimensions. The dashed line is the chosen size."
    if sample is not None and sample.validation is not None:
        caption += f" Validation: curve on {integer(sample.validation_windows)} windows"
        caption += "." if validate is None else ", dot on all."
    plot = variance_plot(ratios, size, sample, validate)
    return element("div", figure(plot, caption), _needed(ratios), class_="pair")


def _needed(ratios: Sequence[float]) -> Html:
    """Dimensions that it takes to keep a share of the variance."""
    kept = np.cumsum(ratios)
    needed = [int(np.searchsorted(kept, share - 1e-9)) for share in SHARES]  # the shares sum to 1 but for rounding
    rows = [
        [percent(share), integer(1 + index) if index < len(kept) else f"> {integer(len(kept))}"]
        for share, index in zip(SHARES, needed, strict=True)
    ]
    return table(["variance kept", "dimensions needed"], rows, caption="On the windows fitted on.")


def subset_sentence(info: Mapping[str, Any], windows: int | None) -> str:
    """How a subset was chosen, from the options in its file."""
    drawn = f"by the method {info.get('method')} from {integer(info.get('candidates'))} windows"
    frames, frame = info.get("frames", 1), info.get("frame")
    period = "sensor" if frame == "none" else f"sensor and {frame}"
    details = [
        f"split {info.get('split')}",
        *([f"equally many of each of {integer(frames)} frames: {period}"] if frames > 1 else []),
        *([f"seed {info['seed']}"] if info.get("seed") is not None else []),
    ]
    size = f"{integer(windows)} windows of the subset" if windows is not None else "windows of the subset"
    sentence = f"The {size} were chosen {drawn} ({', '.join(details)})."
    core = info.get("mean_core")
    if core is not None:
        rest = ", the rest were drawn uniformly" if core < 0.995 else ""
        sentence += f" The k-DPPs chose {percent(core)} of them{rest}."
    return sentence
