"""``explore.html``: one file with a map, its sound and the program that shows them."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from edgesea.artifact import atomic_path
from edgesea.explorer.windows import Explored
from edgesea.report.pages import integer

FILES = Path(__file__).parent


def write(path: Path, found: Explored, title: str) -> None:
    """Write the page of what was explored."""
    table, model = found.parts.table, found.parts.model
    frame = found.frame.iloc[found.shown].reset_index(drop=True).dropna(axis=1, how="all")
    none = len(frame)  # number of a neighbour that there is not
    files, places = list(found.blocks.files()), np.array(found.blocks.places)
    data = {
        "columns": {name: _column(frame[name]) for name in frame.columns if name not in ("x", "y")},
        "x": _packed(frame["x"], np.float32),
        "y": _packed(frame["y"], np.float32),
        "count": len(frame),
        "window": found.blocks.window,
        "rate": found.blocks.rate,
        "unit": table.info.get("level", {}).get("unit", "dB"),
        "files": _packed(places[:, 0], np.uint16),
        "offsets": _packed(places[:, 1], np.uint32),
        "nearest": {
            name: _packed(np.where(numbers < 0, none, numbers), np.uint16) for name, numbers in found.nearest.items()
        },
        "neighbors": found.nearest["teacher"].shape[1],
    }
    environment = Environment(loader=PackageLoader("edgesea.explorer", ""), autoescape=True, undefined=StrictUndefined)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.filters["integer"] = integer
    html = environment.get_template("explore.html.jinja").render(
        title=title,
        data=data,
        windows=len(frame),
        total=found.total,
        seed=found.seed,
        clips=frame["clip"].nunique(),
        teacher=table.info["teacher"]["id"],
        student=model and "/".join(Path(model.id).parts[-2:]),
        apart=np.isinf(found.apart),
        layout={"umap": "UMAP", "pca": "PCA"}[found.layout],
        kbps=round(found.blocks.kbps),
        sounds=[base64.b64encode(file).decode() for file in files],
        style=(FILES / "explore.css").read_text("utf-8"),
        script=(FILES / "explore.js").read_text("utf-8"),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(html, "utf-8", "replace")  # odd bytes of file names become ?


def _packed(values: Any, dtype: type[np.number]) -> str:
    """Little-endian numbers as base64; what is not finite is NaN."""
    array: NDArray[Any] = np.asarray(values)
    if array.dtype.kind == "f":
        array = np.where(np.isfinite(array), array, np.nan)
    return base64.b64encode(array.astype(np.dtype(dtype).newbyteorder("<")).tobytes()).decode()


def _column(values: pd.Series) -> dict[str, Any]:
    """A column for the page: numbers, times (ms since 1970), or categories with the number of each row's."""
    if pd.api.types.is_datetime64_any_dtype(values):
        moments = values.to_numpy("datetime64[ms]")
        numbers = np.where(np.isnat(moments), np.nan, moments.astype(np.int64))
        return {"kind": "time", "values": _packed(numbers, np.float64)}
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return {"kind": "number", "values": _packed(values, np.float32)}
    named = values.map({True: "in the subset", False: "not in it"}) if pd.api.types.is_bool_dtype(values) else values
    codes, names = pd.factorize(named.fillna(""))
    return {"kind": "category", "names": [str(name) for name in names], "values": _packed(codes, np.uint16)}
