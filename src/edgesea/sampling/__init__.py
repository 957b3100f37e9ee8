"""``sample``: choose the windows that the reduction is fitted on."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from edgesea.artifact import check_file
from edgesea.audio.io import checked_count
from edgesea.errors import EdgeseaError
from edgesea.sampling.dpp import k_dpp

__all__ = ["k_dpp", "sample", "used_options"]
log = logging.getLogger(__name__)

LEAST = {"size": 1, "max_candidates": 1, "clusters": 1, "sensors": 1, "ridge": 0, "seed": 0}
# Names in the file, which are older than the options'
ON_DISK = {"stratum": "frame", "strata": "frames", "max_candidates": "pool", "similarity_share": "mean_core"}


def sample(
    table: Path,
    out: Path,
    *,
    method: Literal["random", "spl", "dpp_div", "dpp", "dpp_div_map", "dpp_map", "kmeans"] = "random",
    size: int = 10000,
    stratum: Literal["day", "week", "month", "none"] = "day",
    time_zone: str | None = None,
    split: Literal["train", "validate", "test", "all"] = "train",
    similarity: Literal["cosine", "linear"] = "cosine",
    ridge: float = 1e-6,
    clusters: int | None = None,
    sensors: int | None = None,
    positions: Path | None = None,
    max_candidates: int = 20000,
    seed: int = 0,
    workers: int = 2,
) -> dict[str, Any]:
    """Choose the windows of a table that the reduction will be fitted on.

    Equally many are chosen from each stratum: the windows of one sensor in one day (week, month), where the table has
    sensors and times. Strata with too few windows are taken whole; remainders are assigned at random. Windows without a
    sensor count as one sensor's, windows without a time as one period. Options that the method does not use are
    ignored.

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
    stratum : {"day", "week", "month", "none"}
        Period in which to choose equally many; none: only sensors are distinguished.
    time_zone : str, optional
        IANA name, e.g. America/New_York, to which times with an offset (Z, +01:00) are converted before they are
        assigned to days and levels are compared by the time of day; default: local times as written.
    split : {"train", "validate", "test", "all"}
        Which windows may be chosen.
    similarity : {"cosine", "linear"}
        Of the dpp methods: of the embeddings' directions alone, or their inner product.
    ridge : float
        Of the dpp methods: added to the similarity of a window to itself. With a small one, a stratum with fewer
        different windows than asked for is filled up uniformly; with 0, that is an error. The larger, the more windows
        are drawn uniformly: see similarity_share. (If more windows are asked of a stratum than the embeddings have
        dimensions, it is divided into random groups.)
    clusters : int, optional
        Of kmeans: clusters in a stratum; default: as many as windows to choose there (one window each), at most 256.
        Fewer give the common sounds more weight.
    sensors : int, optional
        First choose so many sensors, far from each other: a k-DPP on their positions; default: all sensors.
    positions : Path, optional
        CSV or Parquet file with sensor, latitude and longitude (degrees), for `sensors`.
    max_candidates : int
        Of a larger stratum, the dpp and kmeans methods consider only so many windows, drawn uniformly, and at least
        four times as many as are chosen. Time and memory of a stratum grow with it.
    seed : int
        Seed of the random numbers.
    workers : int
        Strata worked on at once.

    Returns
    -------
    dict
        windows chosen, candidates, strata that gave any; of k-DPPs similarity_share: the share of windows that
        similarity and quality chose (the ridge drew the others uniformly), where there was a choice.

    EdgeseaError: there is no table, it has no windows in this split, or lacks what the method needs.
    """
    given = {name: value for name, value in locals().items() if name not in ("table", "out", "workers")}
    from edgesea.sampling.methods import LEVELS, choose_windows
    from edgesea.sampling.sensors import choose_sensors, read_positions
    from edgesea.sampling.strata import Grouping, Strata, find_zone, stratum_rng
    from edgesea.sampling.subset import Subset, table_key
    from edgesea.table.reader import Table

    options = used_options(given)
    options.pop("positions", None)
    check_file(Path(out))
    if Path(out).exists():
        Subset.load(Path(out))  # anything else is not overwritten
    checked_count("workers", workers)
    source = Table(table)
    strata = Strata(Grouping(source, stratum, None if split == "all" else split, find_zone(time_zone)))
    if not strata.names:
        raise EdgeseaError(f"{table}: no windows in split {split!r}; it has {source.counts}")
    strata.log_unknown(method in LEVELS)
    if sensors is not None and positions is not None:
        rng = stratum_rng(seed, ("", ""), "sensors")
        options["sensors"] = choose_sensors(strata.sensors, read_positions(Path(positions)), sensors, rng)
        log.info("sensors chosen by their positions: %s", ", ".join(options["sensors"]))
        strata.keep_sensors(options["sensors"])
    part, window, share = choose_windows(strata, options, workers)
    found = {"candidates": int(strata.sizes.sum()), "strata": min(size, int((strata.sizes > 0).sum()))}
    shares = {} if share is None else {"similarity_share": share}
    info = {**options, **shares, "table": table_key(source.info), **found}
    Subset(part, window, {ON_DISK.get(name, name): value for name, value in info.items()}).save(Path(out))
    chosen = {"sensors": options["sensors"]} if "sensors" in options else {}
    return {"subset": str(out), "windows": len(part), **found, **chosen, **shares}


def used_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide what `sample` chooses: two subsets that agree in these are equal.

    Those that the method does not use are left out; a used number that is out of range is an error.
    """
    from edgesea.sampling.methods import OPTIONS
    from edgesea.sampling.strata import find_zone

    find_zone(options.get("time_zone"))
    if (options.get("sensors") is None) != (options.get("positions") is None):
        raise EdgeseaError("give sensors (how many) and positions (a file with sensor, latitude, longitude) together")
    unused = {name for names in OPTIONS.values() for name in names} - set(OPTIONS.get(options["method"], ()))
    unused |= {"sensors", "positions"} if options.get("sensors") is None else set()
    used = {name: value for name, value in options.items() if name not in unused}
    for name, least in LEAST.items():
        if (value := used.get(name)) is not None and not least <= value < float("inf"):
            raise EdgeseaError(f"{name} must be at least {least}, not {value}")
    return used
