"""``explore``: the windows of a table as a map to look at and listen to, and as columns for other explorers."""

import shlex
from pathlib import Path
from typing import Any, Literal

from edgesea.artifact import check_file, locked
from edgesea.errors import EdgeseaError

PARQUET, PAGE = "explore.parquet", "explore.html"
# The numbers of windows on a page have 16 bits.
LIMITS = {"max_windows": (3, 10**9), "max_shown": (3, 65_535), "neighbors": (1, 100), "seed": (0, 2**32 - 1)}


def explore(
    source: Path,
    out: Path | None = None,
    *,
    student: Path | str | None = None,
    reduction: Path | None = None,
    subset: Path | None = None,
    layout: Literal["auto", "umap", "pca"] = "auto",
    max_windows: int = 100_000,
    max_shown: int = 20_000,
    neighbors: int = 8,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Write a map of a table's windows: a page that works offline, to look at and listen to, and a Parquet file.

    OUT/explore.html needs a browser only. OUT/explore.parquet is for Embedding Atlas, Renumics Spotlight and pandas;
    its columns are x, y, clip, start (s), sensor, time, hour, label, level (dB), split, subset, error, audio (FLAC) and
    neighbors, without those of which nothing is known.

    Parameters
    ----------
    source : Path
        Folder of a table, or run directory of `edgesea run`, whose student, reduction and subset are shown, too.
    out : Path, optional
        Folder for the two files; default: `explore` in the run or table.
    student : path or str, optional
        Its nearest neighbours are shown beside the teacher's.
    reduction : Path, optional
        What the student was trained on: with it, `error` is the student's mean squared error in each window.
    subset : Path, optional
        Its windows are marked.
    layout : {"auto", "umap", "pca"}
        Of the teacher's embeddings in two dimensions; auto: umap, where it is installed (the extra umap) and there are
        windows enough. It is learned on the windows of the page.
    max_windows : int
        Windows in the Parquet file at most; of more, a random sample.
    max_shown : int
        Windows on the page at most; of more, a random sample of these. Of windows longer than a second there are
        fewer, so that a browser can open their sound.
    neighbors : int
        How many are listed of each window: the nearest by the cosine of their embeddings, in other clips, among the
        windows of the page.
    device : str
        Where the student runs: cpu, cuda, cuda:1, mps, or auto.
    seed : int
        Of samples and layout.

    Returns
    -------
    dict
        parquet, html: the files. windows, shown: how many they have. text: how to open them.

    EdgeseaError: there is no table, student, reduction or subset does not belong to it, or an option is bad.
    """
    options = locals()
    for name, (least, most) in LIMITS.items():
        if not least <= options[name] <= most:
            raise EdgeseaError(f"{name} must lie in {least} ... {most}, not {options[name]}")
    from edgesea.explorer.page import write
    from edgesea.explorer.windows import Explored, open_parts
    from edgesea.models.student_files import CONFIG_FILE
    from edgesea.reduction.base import REDUCTION_FILE

    table, run = Path(source), Path(source)
    if (run / "table").is_dir() and not (run / "table.json").exists():

        def made(name: str, last: str = "") -> Path | None:
            return run / name if (run / name / last).exists() else None

        table = run / "table"
        student = student or made("student", CONFIG_FILE)  # not one that is being trained
        reduction = reduction or made("reduction", REDUCTION_FILE)
        subset = subset or made("subset.parquet")
    out = run.resolve() / "explore" if out is None else Path(out)
    for name in (PARQUET, PAGE):
        check_file(out / name)
    parts = open_parts(table, student, reduction, subset, device)
    with locked(out):
        found = Explored(parts, layout, max_windows, max_shown, neighbors, seed, out / PARQUET)
        place = run.resolve()
        write(out / PAGE, found, place.parent.name if place.name == "table" else place.name)
    opened = shlex.quote(str(out / PARQUET))
    text = (
        f"{len(found.frame)} windows, of which the page shows {len(found.shown)}. It needs a browser only; or else:\n"
        f"  embedding-atlas {opened} --x x --y y --neighbors neighbors\n"
        f"  spotlight {opened} --dtype audio=Audio"
    )
    counts = {"windows": len(found.frame), "shown": len(found.shown)}
    return {"parquet": str(out / PARQUET), "html": str(out / PAGE), **counts, "text": text}
