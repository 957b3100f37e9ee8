"""``export``: a student for other programs and for devices, checked against the student itself."""

import json
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgesea.artifact import atomic_path, check_vacant, locked, read_json, versions, write_json
from edgesea.errors import EdgeseaError, missing_extra

if TYPE_CHECKING:
    from edgesea.export.quantize import QuantizedStudent
    from edgesea.models.student_config import StudentConfig
    from edgesea.models.student_files import StudentFile

log = logging.getLogger(__name__)
REPORT_FILE, TFLITE_FILE, ONNX_FILE = "report.json", "student.tflite", "student.onnx"
ALIKE = 0.9999  # mean-centred cosine that an export in float32 reaches, whatever is asked for
LONGEST_HOP = 3600  # seconds; the rings in C hold a hop
BATCH = 32  # windows computed at once


def export(
    student: str,
    out: Path,
    *,
    format: Literal["onnx", "tflite", "c"] = "tflite",
    int8: bool | None = None,
    calibration: Path | None = None,
    subset: Path | None = None,
    windows: int = 512,
    least: float = 0.99,
    any_table: bool = False,
    hop: float = 1.0,
    board: str | None = None,
    tags: Literal["esc50", "urbansound8k", "sonyc_ust"] | None = None,
    data: Path | None = None,
) -> dict[str, Any]:
    """Export a student, and check on windows that it was not calibrated on that it is still the same.

    Parameters
    ----------
    student : str
        A student's folder, a published .h5 file, edgel3/sea-64 ..., or owner/name of the Hugging Face Hub.
    out : Path
        Folder of the export: new, empty, or with an earlier export, which is replaced.
    format : {"onnx", "tflite", "c"}
        onnx: student.onnx, from audio to embeddings, in float32. tflite: student.tflite, from spectrograms to
        embeddings; `embed`, `evaluate` and `stream` take it as a model (edgesea[export]). c: a library in C that takes
        PCM, in int8, with a program for an emulated chip; and student.tflite with the same integers.
    int8 : bool, optional
        Weights and feature maps in int8; default: yes, but for onnx, which is in float32.
    calibration : Path, optional
        Table that the student was trained on, from whose windows the scales of int8 are derived.
    subset : Path, optional
        Calibrate on windows of this subset of the table, from `edgesea sample`; default: on training windows.
    windows : int
        Windows at most to calibrate on, evenly spread, and as many to check on: of the split validate, or others for
        training. In float32 and without a table, noise is what is checked on.
    least : float
        The mean-centred cosine of the embeddings in float32 and in int8 below which nothing is written.
    any_table : bool
        Take a table that the student was not trained on.
    hop : float
        Of c: seconds between windows, if the program does not choose others.
    board : str, optional
        Of c: a microcontroller of `edgesea profile`; a student for which it has no room is refused.
    tags : {"esc50", "urbansound8k", "sonyc_ust"}, optional
        Of c: add a linear layer that scores the classes or tags of this task, learned from the windows of all clips.
    data : Path, optional
        Folder of that task's data set.

    Returns
    -------
    dict
        ``report.json``: files; int8 and what is not in int8, in bytes; agreement with the student: mean, 5th percentile
        and least of the mean-centred cosine, r2, and the largest difference in standard deviations; bytes of `flash`
        (of the file; of c: of the tables) and of `ram` (of feature maps, layer by layer; of c: of the library, without
        stack); macs of a window.

    EdgeseaError: the student or the table cannot be used, or do not belong together, there are too few windows, the
    board has no room, a package or tool is missing, the embeddings differ too much, or `out` holds something else.
    """
    is_int8 = check_options(format, int8, windows, least, hop, tags, data, board)
    if is_int8 and calibration is None:
        raise EdgeseaError("int8 needs calibration: the table that the student was trained on; or choose int8=false")
    if subset is not None and calibration is None:
        raise EdgeseaError(f"subset={subset}: the table that it was chosen from is needed, too, as calibration")
    from edgesea.export.c import c_library
    from edgesea.export.profile import of_student
    from edgesea.export.tags import learn_tags
    from edgesea.export.tflite import others_than_int8
    from edgesea.models import student_model, tflite_student
    from edgesea.models.base import file_digest
    from edgesea.models.student_files import read_student, without_folders

    folder = Path(out)
    _exported(folder)
    file = read_student(student)
    check_student(file.config, student, format, hop, board)
    audio, source = _windows(file, calibration, subset, windows, any_table)
    about = {"student": without_folders(file.id), "weights_sha256": file_digest(file.path)}
    quantized = quantized_on(file, audio["calibrate"]) if is_int8 else None
    content, found = _content(file, quantized, format, {**about, "edgesea": versions()["edgesea"]}, audio["check"])
    agreement = _agreement(student_model(file).embed(audio["check"]), found)
    if not agreement["cosine"] >= (wanted := least if is_int8 else max(least, ALIKE)):
        text = f"{student}: mean-centred cosine of {agreement['cosine']:.4f} to the student on {len(found)} windows"
        remedy = "calibrate on more windows, or on more typical ones, or accept it by a smaller least"
        raise EdgeseaError(f"{text}, less than {wanted}; {remedy}")
    cost = of_student(file.config)
    size = {"flash": len(content), "ram": cost.activation_bytes * (1 if is_int8 else 4)}
    contents = {ONNX_FILE if format == "onnx" else TFLITE_FILE: content}
    if format == "c" and quantized is not None:
        head = learn_tags(tflite_student(content, TFLITE_FILE), tags, Path(data)) if tags and data else None
        library, size = c_library(quantized, head, hop)
        contents |= library
    report: dict[str, Any] = {"export": str(out), "format": format, "int8": is_int8, **about, **source}
    report |= {"agreement": agreement, **size, "macs": cost.macs}
    report |= {"not_int8": others_than_int8(content) if is_int8 else "all", "versions": versions()}
    report["files"] = {name: len(one) for name, one in contents.items()}
    with locked(folder):
        old = _exported(folder)  # another export may have been here meanwhile
        claim = {"export": str(out), **about, "files": dict.fromkeys([*old, *contents]), "unfinished": True}
        write_json(folder / REPORT_FILE, claim)  # by which the next export knows the files, if this one is killed
        for name in old:
            (folder / name).unlink(missing_ok=True)
        for name, one in contents.items():
            with atomic_path(folder / name) as temporary:
                temporary.write_bytes(one)
        write_json(folder / REPORT_FILE, report)
    return report


def check_options(
    format: str,
    int8: bool | None,
    windows: int,
    least: float,
    hop: float,
    tags: str | None,
    data: Path | None,
    board: str | None,
    **others: Any,
) -> bool:
    """Whether an export is in int8; EdgeseaError for options that exclude each other, and for a missing package."""
    from edgesea.export.windows import LEAST

    is_int8 = format != "onnx" if int8 is None else int8
    if is_int8 == (format == "onnx") and format != "tflite":
        kinds = "onnx is in float32, c in int8, tflite in either"
        raise EdgeseaError(f"format={format} and int8={str(is_int8).lower()} exclude each other: {kinds}")
    if (tags or data) and (format != "c" or not (tags and data)):
        raise EdgeseaError("tags: need format=c, and their data set as data")
    if board is not None and format != "c":
        raise EdgeseaError(f"board={board}: needs format=c; of other formats, see: edgesea profile")
    if not (0 < least <= 1 and windows >= LEAST and 0 < hop <= LONGEST_HOP):
        found = f"at least {LEAST}, and hop in (0, {LONGEST_HOP}], not {least}, {windows} and {hop}"
        raise EdgeseaError(f"least must lie in (0, 1], windows be {found}")
    if format != "onnx" and find_spec("ai_edge_litert") is None:
        raise missing_extra("ai-edge-litert", "export")
    return is_int8


def check_student(
    config: "StudentConfig", name: str, format: str, hop: float, board: str | None, **others: Any
) -> None:
    """Raise EdgeseaError if an architecture cannot be exported so, or does not fit on the board."""
    from edgesea.export.c import hop_of
    from edgesea.export.profile import check_room, of_student
    from edgesea.models.student_config import Head

    if config.head not in get_args(Head):
        raise EdgeseaError(f"{name}: head {config.head} cannot be exported; {', '.join(get_args(Head))} can")
    if format == "c":
        hop_of(config, hop)
    if board is not None:
        check_room(of_student(config, name), board)


def _exported(folder: Path) -> list[str]:
    """The files of an earlier export, which may have been cut off; EdgeseaError if the folder holds something else."""
    report = read_json(folder / REPORT_FILE) if (folder / REPORT_FILE).is_file() else {}
    if isinstance(report, dict) and {"export", "weights_sha256", "files"} <= report.keys():
        names = report["files"]  # none of them beside the folder
        if isinstance(names, dict) and all(Path(name).name == name and not (folder / name).is_dir() for name in names):
            return [*names]
    check_vacant(folder, "no export")
    return []


def _windows(
    file: "StudentFile", calibration: Path | None, subset: Path | None, count: int, any_table: bool
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Windows to `calibrate` and to `check` on, and what the report says of them."""
    config = file.config
    if calibration is None:
        rng = np.random.default_rng(0)
        loudness = 10 ** rng.uniform(-4, -1, (64, 1))
        noise = loudness * rng.standard_normal((64, round(config.window * config.sample_rate)))
        return {"check": noise.astype(np.float32)}, {"checked_on": "noise"}
    from edgesea.export.windows import choose_windows, open_table
    from edgesea.reduction.windows import open_subset

    table = open_table(Path(calibration), config, file.provenance, file.id, any_table)
    chosen = None if subset is None else open_subset(Path(subset), table)
    found = choose_windows(table, chosen, count, config.sample_rate)
    about: dict[str, Any] = {"calibrated_on": len(found.calibrate), "subset": None if chosen is None else chosen.info}
    about |= {"table": table.info["manifest_sha256"], "checked_on": f"{len(found.check)} windows: {found.held_out}"}
    return {"calibrate": found.calibrate, "check": found.check}, about


def quantized_on(file: "StudentFile", audio: NDArray[np.float32]) -> "QuantizedStudent":
    """A student in int8, with scales by windows of audio."""
    from edgesea.audio.logmel_numpy import OverlappingLogMel
    from edgesea.export.quantize import quantize

    spectrograms = OverlappingLogMel(file.config.front_end())(audio)
    return quantize(file.config, file.arrays, [*np.split(spectrograms, range(BATCH, len(audio), BATCH))])


def _content(
    file: "StudentFile", quantized: "QuantizedStudent | None", format: str, about: dict[str, Any], audio: Any
) -> tuple[bytes, NDArray[np.float32]]:
    """The exported file, and its embeddings of windows of audio."""
    if format != "onnx":
        from edgesea.export.tflite import float_tflite, quantized_tflite
        from edgesea.models import tflite_student

        if quantized is None:
            content = float_tflite(file.config, file.arrays, about)
        else:
            content = quantized_tflite(quantized, about)
        return content, tflite_student(content, TFLITE_FILE).embed(audio)
    import onnx
    import onnxruntime

    from edgesea.models.graph import AUDIO, student_graph

    model = onnx.load_from_string(student_graph(file.config, file.arrays, audio=True))
    facts = {"sample_rate": str(file.config.sample_rate), "edgesea": json.dumps(about)}  # the rate for `onnx:FILE`
    onnx.helper.set_model_props(model, facts)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    parts = np.split(audio, range(BATCH, len(audio), BATCH))
    return content, np.concatenate([session.run(None, {AUDIO: part})[0] for part in parts])


def _agreement(exact: NDArray[np.float32], found: NDArray[np.float32]) -> dict[str, float]:
    one, other = (np.float64(rows) - exact.mean(0, dtype=np.float64) for rows in (exact, found))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = (one * other).sum(1) / np.maximum(lengths, 1e-12)
    error = one - other
    measures = {"cosine": cosine.mean(), "cosine_5th_percentile": np.quantile(cosine, 0.05), "least": cosine.min()}
    measures |= {"r2": 1 - np.square(error).sum() / max(np.square(one).sum(), 1e-12)}
    measures |= {"largest_difference": np.abs(error).max() / max(one.std(), 1e-12)}
    return {key: float(value) for key, value in measures.items()}
