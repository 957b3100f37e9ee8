"""How the systems in tables were made: by a run, or as their own files tell."""

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from edgesea.artifact import read_json
from edgesea.reduction.base import OPTIONS, REDUCTION_FILE, used_options
from edgesea.report.run import RESULTS, RunFiles
from edgesea.report.selection import EVERYTHING

TEACHER = "teacher"
STUDENTS = {"sea-512": "Student 0", "sea-256": "Student 1", "sea-128": "Student 2", "sea-64": "Student 3"}
ARCHITECTURE = {"filters": None, "n_mels": 64, "n_fft": 1024, "hop_length": 160, "fmax": None}
# Options that do not decide a score, or are told otherwise: by the row, the column or the seeds.
LEFT_OUT = {
    "extract": ("source", "root", "weights", "columns", "workers", "device", "batch_size", "part_clips", "max_skipped"),
    "sample": ("seed", "workers", "method"),
    "reduce": ("seed", "workers", "size"),
    "distill": ("seed", "student", "device", "devices", "save_every", *ARCHITECTURE),
}
STAGES = {"teacher": (), "reduced": ("extract", "sample", "reduce"), "student": tuple(LEFT_OUT)}
FOUND_BY_SAMPLING = ("table", "candidates", "frames", "mean_core")  # what a subset tells besides its options


class Made(NamedTuple):
    """How a system was made, as far as it is known; see `Record`."""

    name: str
    key: str = ""
    parameters: int | None = None
    sampling: str = ""
    recipe: Mapping[str, str] = {}
    seeds: tuple[str, ...] = ()


def made_in_run(system: str, result: Mapping[str, Any], run: RunFiles) -> Made:
    """Of a reduction or a student that a run made; `result` are its scores."""
    config, size = run.results["config"], int(result["embedding_size"])
    made = Made(
        reduced_name(str(result["model"]), size),
        sampling=str((config.get("sample") or {}).get("method") or ""),
        recipe=_recipe(run, system),
        seeds=tuple(as_text(config[stage].get("seed")) for stage in STAGES[system] if config.get(stage)),
    )
    if system == "reduced":
        return made
    key, name = _student(config["distill"], size)
    return made._replace(name=name, key=key, parameters=run.stage("distill").get("parameters"))


def made_alone(system: str, result: Mapping[str, Any]) -> Made:
    """Of a system of no run; if it is not known how two were made, they are not known to be made alike."""
    model, size = str(result["model"]), int(result["embedding_size"])
    if system == TEACHER:
        return Made(f"{TEACHER} ({model})", TEACHER)
    if system == "reduced":
        return _reduction(Path(str(result["reduction"])), model, size)
    if (Path(model) / "config.json").is_file():
        return _folder_student(Path(model))
    return _published_student(model)


def reduced_name(model: str, size: int) -> str:
    """What reduced embeddings of a model are called."""
    return f"reduced, {size} dimensions ({model})"


def _reduction(folder: Path, model: str, size: int) -> Made:
    """A reduction of no run, by its own files; without a sampling if they are gone, or are those of another."""
    info = read_json(folder / REDUCTION_FILE) if (folder / REDUCTION_FILE).is_file() else {}
    method, provenance = info.get("method"), info.get("provenance") or {}
    fits = info.get("output_size") == size and (provenance.get("teacher") or {}).get("id") == model
    if not fits or method not in OPTIONS or "subset" not in provenance:
        return Made(reduced_name(model, size), recipe={"reduction": str(folder)})
    subset, options = provenance["subset"], used_options(method, {**info, "size": size})
    recipe = {"extract.teacher": model, "table": f"of manifest {str(provenance.get('table', '?'))[:8]}"}
    if subset is not None:
        recipe["table"] = str(subset.get("table", "?"))[:8]  # as a selection names it
    told = {name: own for name, own in (subset or {}).items() if name not in FOUND_BY_SAMPLING}
    for stage, own in (("sample", told), ("reduce", {"method": method, **options})):
        recipe |= {f"{stage}.{name}": as_text(value) for name, value in own.items() if name not in LEFT_OUT[stage]}
    recipe["made by edgesea"] = as_text((provenance.get("versions") or {}).get("edgesea"))
    sampling = EVERYTHING if subset is None else str(subset["method"])
    seeds = tuple(as_text(own.get("seed")) for own in (told, options))
    return Made(reduced_name(model, size), sampling=sampling, recipe=recipe, seeds=seeds)


def _student(options: Mapping[str, Any], size: int) -> tuple[str, str]:
    """Key and name of a student of a run; one that was changed is none of the paper's."""
    kind = str(options["student"])
    changed = [
        f"{name} {as_text(options[name])}"
        for name, usual in ARCHITECTURE.items()
        if options.get(name) not in (None, usual)
    ]
    if f"sea-{size}" != kind:
        changed.append(f"{size} dimensions")
    return ("", f"{kind} with {', '.join(changed)}") if changed else (kind, f"{STUDENTS[kind]} ({kind})")


def _folder_student(folder: Path) -> Made:
    """A student of `edgesea distill` that is in no run."""
    from edgesea.models.student_config import FILTERS

    own = read_json(folder / "config.json")["architecture"]
    kind = next((kind for kind, filters in FILTERS.items() if list(filters) == own["filters"]), None)
    results = read_json(folder / RESULTS) if (folder / RESULTS).is_file() else {}
    made = Made(f"student {folder}", parameters=results.get("parameters"), recipe={"folder": str(folder)})
    if kind is None:
        return made
    key, name = _student({**own, "student": kind, "filters": None}, int(own["embedding_size"]))
    return made._replace(key=key, name=name)


def _published_student(model: str) -> Made:
    """Published weights; of anything else the name alone."""
    kind = model.removeprefix("edgel3/")
    if model == kind or kind not in STUDENTS:
        return Made(f"student {model}")
    from edgesea.models.student_config import StudentConfig, parameter_count

    parameters = parameter_count(StudentConfig.named(kind, head="relu_max"))
    return Made(f"{STUDENTS[kind]} ({model}, published weights)", kind, parameters)


def _recipe(run: RunFiles, system: str) -> dict[str, str]:
    """All options of a run that decide what a system is, but for its seeds."""
    config, found = run.results["config"], {}
    for stage in STAGES[system]:
        for name, value in (config.get(stage) or {}).items():
            if name not in LEFT_OUT[stage]:
                found[f"{stage}.{name}"] = as_text(value)
    if STAGES[system]:
        source = PurePath(str(config.get("extract", {}).get("source", "")))
        found["extract.source"] = "/".join(source.parts[-3:])  # folders above it depend on the machine
        for name in ("clips", "windows"):
            found[f"extract.{name}"] = as_text(run.stage("extract").get(name))
        found["made by edgesea"] = as_text((run.results.get("versions") or {}).get("edgesea"))
    return found


def as_text(value: Any) -> str:
    """The value of an option as tables show it."""
    if isinstance(value, Mapping):
        return " ".join(f"{name}={as_text(own)}" for name, own in value.items())
    if isinstance(value, list | tuple):
        return "-".join(map(as_text, value)) or "none"
    return "none" if value is None else "yes" if value is True else "no" if value is False else str(value)
