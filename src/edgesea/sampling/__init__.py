"""``sample``: choose the windows that the reduction is fitted on."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgesea.artifact import check_file
from edgesea.errors import EdgeseaError
from edgesea.sampling.dpp import k_dpp

if TYPE_CHECKING:
    from edgesea.sampling.frames import FrameIndex
    from edgesea.sampling.methods import MethodSpec

__all__ = ["k_dpp", "sample", "used_options"]
log = logging.getLogger(__name__)


def sample(
    table: Path,
    out: Path,
    *,
    method: Literal["random", "spl", "dpp_div", "dpp", "dpp_div_map", "dpp_map", "kmeans"] = "random",
    size: int = 10000,
    frame: Literal["day", "week", "month", "none"] = "day",
    time_zone: str | None = None,
    split: Literal["train", "validate", "test", "all"] = "train",
    similarity: Literal["cosine", "centered_cosine", "linear", "rbf"] = "cosine",
    gamma: float | None = None,
    ridge: float = 1e-6,
    clusters: int | None = None,
    sensors: int | None = None,
    positions: Path | None = None,
    pool: int = 20000,
    seed: int = 0,
    workers: int = 2,
) -> dict[str, Any]:
    """Choose the windows of a table that the reduction will be fitted on.

    Equally many are chosen from each frame: the windows of one sensor in one day (week, month), where the table knows
    sensors and times. Frames with too few windows are taken whole; where it does not come out even, chance decides
    which give one more. Windows without a sensor count as one sensor's, windows without a time as one period. Options
    that the method does not use are ignored.

    Parameters
    ----------
    table : Path
        Folder of a table.
    out : Path
        The subset, a Parquet file.
    method : {"random", "spl", "dpp_div", "dpp", "dpp_div_map", "dpp_map", "kmeans"}
        random: uniform. spl: the louder for its time of day, the likelier. dpp_div: diverse, an exact k-DPP on the
        similarity of the embeddings. dpp: diverse and loud, a k-DPP with both. dpp_div_map, dpp_map: the same kernels,
        but always the (greedily) likeliest set instead of a draw. kmeans: equally many from each cluster. All without
        replacement.
    size : int
        Number of windows; all, if the table has fewer.
    frame : {"day", "week", "month", "none"}
        Period in which to choose equally many; none: only sensors are told apart.
    time_zone : str, optional
        IANA name, as America/New_York, to which times with an offset (Z, +01:00) are converted before days are told
        apart and levels are compared by the time of day; default: times are taken as they are written.
    split : {"train", "validate", "test", "all"}
        Which windows may be chosen.
    similarity : {"cosine", "centered_cosine", "linear", "rbf"}
        Of the dpp methods. centered_cosine: after subtracting the frame's mean. rbf: exp(-gamma distance^2).
    gamma : float, optional
        Of rbf; default: 1 / the median squared distance.
    ridge : float
        Of the dpp methods: added to the similarity of a window to itself. With a small one, a frame with fewer
        different windows than asked for is filled up uniformly; with 0, that is an error. The larger, the more windows
        are drawn uniformly: see mean_core. (If more windows are asked of a frame than the embeddings have dimensions,
        it is divided into random groups.)
    clusters : int, optional
        Of kmeans: clusters in a frame; default: as many as windows to choose there (one window each), at most 256.
        Fewer give the common sounds more weight.
    sensors : int, optional
        First choose so many sensors, far from each other: a k-DPP on their positions; default: all sensors.
    positions : Path, optional
        CSV or Parquet file with sensor, latitude and longitude (degrees), for `sensors`.
    pool : int
        Of a larger frame, the dpp and kmeans methods consider only so many windows, drawn uniformly, and at least four
        times as many as are chosen. Time and memory of a frame grow with it.
    seed : int
        Seed of the random numbers.
    workers : int
        Frames worked on at once.

    Returns
    -------
    dict
        windows chosen, candidates, frames that gave any; of k-DPPs mean_core: the share of windows that similarity and
        quality chose (the ridge drew the others uniformly), where there was a choice.

    Raises
    ------
    EdgeseaError
        If there is no table, it has no windows in this split, or lacks what the method needs.
    """
    from edgesea.sampling.choosing import choose_windows
    from edgesea.sampling.frames import find_zone, index_frames
    from edgesea.sampling.methods import METHODS
    from edgesea.sampling.subset import Subset, table_key
    from edgesea.table.reader import Table

    if workers < 1:
        raise EdgeseaError(f"workers must be at least 1, not {workers}")
    if positions is not None and sensors is None:
        raise EdgeseaError("positions are for choosing sensors: say how many, with sensors")
    options = used_options(
        {
            "method": method,
            "size": size,
            "frame": frame,
            "time_zone": time_zone,
            "split": split,
            "similarity": similarity,
            "gamma": gamma,
            "ridge": ridge,
            "clusters": clusters,
            "sensors": sensors,
            "pool": pool,
            "seed": seed,
        }
    )
    _check_out(Path(out))
    spec = METHODS[method]
    source = Table(table)
    index = index_frames(source, None if split == "all" else split, frame, find_zone(time_zone))
    if not len(index.sizes):
        raise EdgeseaError(f"{table}: no windows in split {split!r}; it has {source.counts}")
    _explain(index, spec, table)
    if sensors is not None:
        options["sensors"] = _sensors(index, sensors, positions, seed)
        index = index.of_sensors(options["sensors"])
    chosen = choose_windows(source, index, size, spec, options, workers)
    info: dict[str, Any] = {
        **options,
        **({} if chosen.mean_core is None else {"mean_core": chosen.mean_core}),
        "table": table_key(source.info),
        "candidates": int(index.sizes.sum()),
        "frames": chosen.frames,
    }
    Subset(chosen.part, chosen.window, info).save(Path(out))
    reported: dict[str, Any] = {
        key: info[key] for key in ("candidates", "frames", "sensors", "mean_core") if key in info
    }
    return {"subset": str(out), "windows": len(chosen.part), **reported}


def used_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Choose the options that decide what `sample` chooses: two subsets that agree in these are equal.

    Parameters
    ----------
    options : mapping
        Options of `sample` by name, ``method`` among them.

    Returns
    -------
    dict
        Without those that the method does not use.

    Raises
    ------
    EdgeseaError
        If the method is unknown, or a number that it uses is out of range.
    """
    from edgesea.sampling.methods import METHODS

    method = options["method"]
    if method not in METHODS:
        raise EdgeseaError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    of_some = {name for spec in METHODS.values() for name in spec.options}
    unused = of_some - set(METHODS[method].options)
    if options.get("similarity") != "rbf":
        unused.add("gamma")
    if options.get("sensors") is None:
        unused |= {"sensors", "positions"}
    used = {name: value for name, value in options.items() if name not in unused}
    for name, least in (("size", 1), ("pool", 1), ("clusters", 1), ("sensors", 1), ("ridge", 0), ("seed", 0)):
        if (value := used.get(name)) is not None and not least <= value < float("inf"):
            raise EdgeseaError(f"{name} must be at least {least}, not {value}")
    if used.get("gamma") is not None and not 0 < used["gamma"] < float("inf"):
        raise EdgeseaError(f"gamma must be above 0, not {used['gamma']}")
    return used


def _check_out(out: Path) -> None:
    """Refuse a place where no subset can be, or where something else is."""
    from edgesea.sampling.subset import Subset

    if not out.name or out.is_dir():
        raise EdgeseaError(f"{out}: a folder, where a file is to be; choose another name")
    check_file(out)
    if out.exists():
        try:
            Subset.load(out)
        except EdgeseaError:
            raise EdgeseaError(f"{out}: holds something that is no subset; choose another name, or delete it") from None


def _explain(index: "FrameIndex", spec: "MethodSpec", table: Path) -> None:
    """Log what the table does not know, and what is done about it."""
    if index.zone is not None and not index.with_offset:
        log.warning("%s: no time in it has an offset from UTC, so that time_zone changes nothing", table)
    if index.zone is None and index.in_utc and (spec.levels or index.length != "none"):
        log.warning("%s: times are in UTC, and so are days and hours; give time_zone to have local ones", table)
    if not any(index.sensors):
        log.info("%s: no sensors known; all windows count as one sensor's", table)
    total = int(index.sizes.sum())
    if "" in index.sensors and len(index.sensors) > 1:
        log.warning("%s: some windows have no sensor; they count as one sensor's", table)
    if not index.untimed:
        return
    if spec.levels:
        log.warning(
            "%s: %d of %d windows have no time: their levels are ranked among each other, whatever the time of day",
            table,
            index.untimed,
            total,
        )
    if index.length != "none":
        log.log(
            logging.INFO if index.untimed == total else logging.WARNING,
            "%s: %d of %d windows have no time: those of a sensor count as one %s",
            table,
            index.untimed,
            total,
            index.length,
        )


def _sensors(index: "FrameIndex", count: int, positions: Path | None, seed: int) -> list[str]:
    """Choose sensors by their positions."""
    if positions is None:
        raise EdgeseaError("to choose sensors, give their positions: a file with sensor, latitude and longitude")
    from edgesea.sampling.frames import frame_rng
    from edgesea.sampling.sensors import choose_sensors, read_positions

    chosen = choose_sensors(index.sensors, read_positions(Path(positions)), count, frame_rng(seed, ("", ""), "sensors"))
    log.info("sensors chosen by their positions: %s", ", ".join(chosen))
    return chosen
