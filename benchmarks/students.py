"""What makes a student good? Levers one by one, then sizes over five folds, then another data set.

    EDGESEA_DATA=path/to/data python benchmarks/students.py levers folds urbansound targets --out runs/students

The teacher is EfficientAT mn04, reduced to 64 dimensions; needs esc10/, urbansound8k/ and
efficientat/mn04_as_mAP_432.pt below the data folder. ESC-10: each student is blind to a fold: neither tables, mixtures
nor reduction have heard it. R2 is measured on the windows of that fold, accuracy is that of a logistic probe,
trained on the other folds.

levers      the recommended recipe with one thing changed, two seeds, fold 5
folds       the sizes, sea-64, the reduced teacher and raw mel bands, all five folds
urbansound  UrbanSound8K, distilled and trained on one fold, tested on the other, both ways
targets     UMAP against PCA as what the student learns, five folds

`--only WORD` measures those whose names contain the word; `--longer 2` trains all twice as long. What is there is not
trained again. Each training has one thread; `--workers` of them run at once. Prints Markdown, and writes
benchmarks/results/students.json.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "students.json"
DATA = Path(os.environ.get("EDGESEA_DATA", "data"))
TEACHER = {"teacher": "efficientat/mn04", "weights": DATA / "efficientat" / "mn04_as_mAP_432.pt"}
SIZE, HOP, MIXTURES, EPOCH = 64, 0.25, 40_000, 8192
FURTHER = 3  # epochs of training with quantization
Job = dict[str, Any]

# What `distill` is given, besides the tables; `epochs` are of EPOCH windows.
RECIPE: Job = {"student": "edge-10", "epochs": 30, "lr": 1e-2, "mask": 0.0, "schedule": "onecycle", "precision": "auto"}
LEVERS: dict[str, Job] = {
    "recipe": {},
    "no mixtures": {"table": "plain"},
    "audio of elsewhere": {"also": ["elsewhere"]},
    "masks": {"mask": 0.1},
    "shift": {"shift": 0.05},
    "gain": {"gain": 6.0},
    "standardized": {"standardize": True},
    "cosine": {"loss": "cosine"},
    "both": {"loss": "both"},
    "projector": {"projector": 256},
    "average of weights": {"ema": 0.999},
    "single precision": {"precision": "32-true"},
    "weight decay": {"weight_decay": 0.02},
}
TASKS = {"esc10": "esc50"}
FEATURES = ("mean", "statistics")  # of a clip's windows, that a probe sees
PROBES: dict[str, Job] = {"urbansound8k": {"search": True}}  # where the usual one is too weakly regularised for all
DRAWN = {"esc10": "statistics", "urbansound8k": "mean"}  # the features that suit teacher and students
SIZES = ("edge-3", "edge-10", "edge-25", "sea-64")

# Accuracy on ESC-10 and cost, as published: ST's model zoo (a split of theirs, STM32U5);
# Mohaimenuzzaman et al. 2023 (trained with labels, five folds)
PUBLISHED: dict[str, tuple[float, dict[str, float]]] = {
    "YAMNet-256": (0.949, {"KB of flash": 193.7, "KB of RAM": 117.2}),
    "Micro-ACDNet": (0.9625, {"M multiplications a window": 14.8}),
}


def rows_of(name: str) -> list[dict[str, str]]:
    """The metadata of a data set."""
    with next((DATA / name).glob("meta*/*.csv")).open(newline="") as file:
        return list(csv.DictReader(file))


def tables(out: Path, domain: str, fold: int) -> None:
    """The table of all folds of a data set but one, which validates, and its reduction; and a pool of mixtures."""
    from edgesea.extract import extract
    from edgesea.reduction import reduce
    from edgesea.sampling import sample

    folder = out / f"{domain}-{fold}"
    options: dict[str, Any] = {**TEACHER, "hop": HOP, "validate": f"fold={fold}"}
    if domain == "esc10":
        places = {"source": DATA / "esc10" / "meta" / "esc50.csv", "root": DATA / "esc10" / "audio"}
        options |= {**places, "columns": {"path": "filename", "label": "category"}}
    else:
        options["source"] = DATA / domain
    extract(out=folder / "plain", **options)
    extract(out=folder / "table", mixtures=MIXTURES, **options)
    sample(folder / "table", folder / "subset.parquet", size=4000)
    reduce(folder / "table", folder / "pca", subset=folder / "subset.parquet", size=SIZE)


def elsewhere(out: Path) -> None:
    """A table of UrbanSound8K without the clips whose recordings are in ESC-10."""
    from edgesea.extract import extract

    known = {row["src_file"] for row in rows_of("esc10")}
    clips = [row for row in rows_of("urbansound8k") if row["fsID"] not in known]
    out.mkdir(parents=True, exist_ok=True)
    with (out / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "split"])
        writer.writerows((f"fold{row['fold']}/{row['slice_file_name']}", "train") for row in clips)
    root = {"source": out / "manifest.csv", "root": DATA / "urbansound8k" / "audio", "hop": HOP}
    extract(out=out / "elsewhere", mixtures=MIXTURES, **TEACHER, **root)


def train(job: Job, out: Path) -> Job:
    """Distill and evaluate one student; the result is stored beside it."""
    from edgesea.distill import distill

    done = out / "students" / job["name"].replace(" ", "-") / "scores.json"
    if done.exists():
        return dict(json.loads(done.read_text()))
    domain, options = out / f"{job['domain']}-{job['fold']}", dict(job["options"])
    options["also"] = [out / name for name in options.get("also", [])]
    table, reduction = domain / options.pop("table", "table"), domain / options.pop("reduction", "pca")
    fitted = distill(table, reduction, done.parent / "student", epoch_size=EPOCH, device="cpu", **options)
    scores = scored(job, done.parent / "student", done.parent)
    keys = ("r2", "cosine", "parameters", "macs", "activation_bytes", "speed")
    result = {**job, **{key: fitted.get(key) for key in keys}, "correct": scores}
    done.write_text(json.dumps(result))
    return result


def scored(job: Job, model: Path, cache: Path) -> dict[str, list[int]]:
    """Right answers with a student, and clips, for each kind of features."""
    from edgesea.tasks.evaluate import evaluate
    from edgesea.tasks.options import ProbeOptions

    options = partial(ProbeOptions, **PROBES.get(job["domain"], {}))
    where = {"task": TASKS.get(job["domain"], job["domain"]), "data": DATA / job["domain"], "cache": cache}
    given: Job = {**where, "model": str(model), "folds": [job["fold"]], "hop": HOP, "device": "cpu"}
    return {name: counted(evaluate(**given, probe=options(features=name))) for name in FEATURES}


def quantize(job: Job, out: Path, further: bool) -> Job:
    """The same student in int8, calibrated on windows that it was trained on; or trained further for it."""
    from edgesea.distill import distill
    from edgesea.export import export

    folder, domain = out / "students" / job["name"].replace(" ", "-"), out / f"{job['domain']}-{job['fold']}"
    name, student = ("further", folder / "further") if further else ("int8", folder / "student")
    done, table, reduction = folder / f"{name}.json", domain / "table", domain / job["options"].get("reduction", "pca")
    if done.exists():
        return dict(json.loads(done.read_text()))
    if further:
        options: Job = {"student": job["options"]["student"], "quantize": folder / "student", "device": "cpu"}
        distill(table, reduction, student, epochs=FURTHER, lr=1e-4, epoch_size=EPOCH, **options)
    made = export(str(student), folder / f"{name}-c", format="c", calibration=table, windows=512)
    model = folder / f"{name}-c" / "student.tflite"
    result = {"cosine": made["agreement"]["cosine"], "r2": explained(table, reduction, model)}
    result |= {"correct": scored(job, model, folder), "flash": made["flash"], "ram": made["ram"]}
    done.write_text(json.dumps(result))
    return result


def explained(source: Path, reduction: Path, path: Path) -> float:
    """R2 of a model on the windows that validate."""
    import edgesea
    from edgesea.reduction import load_reduction
    from edgesea.table.reader import Table

    table, phi, model = Table(source), load_reduction(reduction), edgesea.load_model(str(path))
    found, targets = list[np.ndarray](), list[np.ndarray]()
    for chunk in table.chunks():
        rows = chunk.select("validate")
        for some in np.array_split(rows, -(-len(rows) // 64)) if len(rows) else ():
            found.append(model.embed(np.multiply(*table.audio(chunk, some, model.sample_rate))))
            targets.append(phi.transform(table.embeddings(chunk.part, chunk.group)[some]))
    y, t = np.concatenate(found).astype(float), np.concatenate(targets).astype(float)
    return float(1 - np.square(t - y).sum() / np.square(t - t.mean(0)).sum())


def references(domain: str, folds: list[int], out: Path) -> list[Job]:
    """The teacher, the reduced teacher and raw mel bands, with the same windows and probe."""
    from edgesea.audio.framing import Framing
    from edgesea.audio.logmel_numpy import OverlappingLogMel
    from edgesea.models import load_teacher
    from edgesea.models.student_config import StudentConfig
    from edgesea.reduction.base import load_reduction, transform_all
    from edgesea.tasks.features import window_embeddings
    from edgesea.tasks.folds import FoldTask
    from edgesea.tasks.options import ProbeOptions

    class MelBands:
        """The mean of each mel band of a student's spectrogram."""

        id, sample_rate, window, embedding_size, digest = "mel", 16000, 1.0, 64, ""
        front_end = OverlappingLogMel(StudentConfig.named("edge-10").front_end())

        def embed(self, windows: np.ndarray) -> np.ndarray:
            return self.front_end(windows).mean(2)

    task, found = FoldTask.load(TASKS.get(domain, domain), DATA / domain), []
    models = load_teacher(TEACHER["teacher"], TEACHER["weights"]), MelBands()
    teacher, bands = (
        window_embeddings(partial(pass_on, model), task.paths, Framing(1.0, HOP), 64, None, out / "cache")[0]
        for model in models
    )
    for fold in folds:
        reduction = load_reduction(out / f"{domain}-{fold}" / "pca")
        reduced = teacher.with_rows(transform_all(reduction, teacher.rows))
        for name, bags in {"teacher": teacher, "reduced teacher": reduced, "raw mel bands": bands}.items():
            job = {"name": f"{domain} {name} {fold}", "domain": domain, "fold": fold, "system": name}
            probes = {kind: ProbeOptions(features=kind, **PROBES.get(domain, {})) for kind in FEATURES}
            scores = {kind: counted(task.score(bags, probe, folds=[fold])) for kind, probe in probes.items()}
            found.append({**job, "correct": scores})
    return found


def pass_on(value: Any) -> Any:
    return value


def counted(scores: Job) -> list[int]:
    """Of how many clips the class was found, and how many there are."""
    counts = np.array(scores["confusion"]["counts"])
    return [int(np.trace(counts)), int(counts.sum())]


def jobs(part: str, longer: float) -> list[Job]:
    """The students of a part."""

    def job(system: str, domain: str, fold: int, seed: int, changes: Job) -> Job:
        options: Job = {**RECIPE, **changes, "seed": seed}
        options["epochs"] = max(1, round(options["epochs"] * longer))
        names = {"name": f"{part} {system} {fold} {seed}", "part": part, "system": system}
        return {**names, "domain": domain, "fold": fold, "seed": seed, "options": options}

    if part == "levers":
        return [job(name, "esc10", 5, seed, changes) for name, changes in LEVERS.items() for seed in (0, 1)]
    if part == "targets":
        return [
            job(f"{kind}", "esc10", fold, 0, {"reduction": kind}) for kind in ("pca", "umap") for fold in range(1, 6)
        ]
    if part == "urbansound":
        return [job(name, "urbansound8k", fold, 0, {"student": name}) for name in SIZES for fold in (1, 2)]
    kinds = {"": {}, ", with masks": {"mask": 0.1}, ", with audio of elsewhere": {"also": ["elsewhere"]}}
    found = [(name + more, {"student": name, **change}) for name in SIZES for more, change in kinds.items()]
    return [job(name, "esc10", fold, 0, changes) for name, changes in found for fold in range(1, 6)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("levers", "folds", "urbansound", "targets"))
    parser.add_argument("--out", type=Path, default=Path("runs/students"))
    parser.add_argument("--only", nargs="+", default=[""], help="students whose names contain one of these")
    parser.add_argument("--longer", type=float, default=1.0, help="so many times as many epochs")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--int8", action="store_true", help="also in int8, which takes minutes for each student")
    parser.add_argument("--further", action="store_true", help="and trained further for int8 (distill --quantize)")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    given = parser.parse_args()
    out = given.out.resolve()
    if given.job:
        job = json.loads(given.job)
        result = train(job, out)
        wanted = {"int8": given.int8, "further": given.further}
        result |= {key: quantize(job, out, key == "further") for key, asked in wanted.items() if asked}
        print(json.dumps(result))
        return
    todo = [
        job
        for part in given.parts
        for job in jobs(part, given.longer)
        if any(some in job["name"] for some in given.only)
    ]
    for domain, fold in sorted({(job["domain"], job["fold"]) for job in todo}):
        tables(out, domain, fold)
    if any("also" in job["options"] for job in todo):
        elsewhere(out)
    for job in todo:
        if job["options"].get("reduction") == "umap":
            from edgesea.reduction import reduce

            folder = out / f"{job['domain']}-{job['fold']}"
            reduce(folder / "table", folder / "umap", subset=folder / "subset.parquet", method="umap", size=SIZE)

    def call(job: Job) -> Job:
        command = [sys.executable, __file__, *given.parts, "--out", str(out), "--job", json.dumps(job)]
        command += ["--int8"] * given.int8 + ["--further"] * given.further
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
        found: Job = json.loads(done.stdout.splitlines()[-1])
        print(f"{job['name']}: R2 {found['r2']:.3f}, right: {found['correct']}", file=sys.stderr, flush=True)
        return found

    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for domain in {job["domain"] for job in todo}:
        folds = sorted({job["fold"] for job in todo if job["domain"] == domain})
        results |= {row["name"]: row for row in references(domain, folds, out)}
    with ThreadPoolExecutor(given.workers) as pool:
        for row in pool.map(call, todo):
            results[row["name"]] = row
            RESULTS.write_text(
                "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in results.items()) + "\n}\n"
            )
    print(table(list(results.values())))
    draw(list(results.values()))


def interval(correct: int, clips: int) -> tuple[float, tuple[float, float]]:
    """The share of right answers, and its interval of 95 %."""
    from scipy.stats import binomtest

    low, high = binomtest(correct, clips).proportion_ci(method="wilson")
    return correct / clips, (float(low), float(high))


def table(rows: list[Job]) -> str:
    """Markdown: each system of each part, over its folds and seeds."""
    heads = [
        "part",
        "system",
        "students",
        "R2",
        *(f"{kind}, 95 %" for kind in FEATURES),
        "in int8",
        "MACs, M",
        "parameters",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for part, system in dict.fromkeys((row.get("part", row["domain"]), row["system"]) for row in rows):
        some = [row for row in rows if (row.get("part", row["domain"]), row["system"]) == (part, system)]
        cells = [part, system, str(len(some)), "", "", "", ""]
        if "r2" in some[0]:
            cells[3] = f"{np.mean([row['r2'] for row in some]):.3f}"
            cells[5:] = [f"{some[0]['macs'] / 1e6:.1f}", str(some[0]["parameters"])]
        if all("int8" in row for row in some):
            sums = [np.sum([row["int8"]["correct"][kind] for row in some], axis=0) for kind in FEATURES]
            cells[4] = ", ".join(f"{correct / clips:.4f}" for correct, clips in sums)
        for at, kind in enumerate(FEATURES, 4):
            correct, clips = np.sum([row["correct"][kind] for row in some], axis=0).tolist()
            share, (low, high) = interval(correct, clips)
            cells.insert(at, f"{share:.4f} ({low:.3f} ... {high:.3f})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: list[Job]) -> None:
    """docs/students.svg: accuracy against cost, in float32; docs/edge.svg: in int8 on a device, on both data sets."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "students", "svg.fonttype": "none", "font.size": 9}
    from matplotlib import pyplot as plt

    from edgesea.export.profile import of_student
    from edgesea.models.student_config import StudentConfig

    need = {name: of_student(StudentConfig.named(name)).need for name in SIZES}
    costs = {
        "M multiplications a window": lambda row: row["macs"] / 1e6,
        "k parameters": lambda row: row["parameters"] / 1e3,
        "KiB of feature maps in int8": lambda row: row["activation_bytes"] / 1024,
    }
    on_device = {
        "M multiplications a window": costs["M multiplications a window"],
        "KB of flash": lambda row: need[row["options"]["student"]]["flash"] / 1e3,
        "KB of RAM": lambda row: need[row["options"]["student"]]["ram"] / 1e3,
    }

    def panel(axis: Any, domain: str, cost: Any, int8: bool) -> None:
        kind, ticks, some = DRAWN[domain], list[float](), [row for row in rows if row["domain"] == domain]
        for name in SIZES:
            mine = [row for row in some if row["system"] == name and row.get("part") in ("folds", "urbansound")]
            if mine and (not int8 or all("int8" in row for row in mine)):
                found = np.sum([(row["int8"] if int8 else row)["correct"][kind] for row in mine], axis=0)
                share, (low, high) = interval(*found.tolist())
                axis.errorbar(cost(mine[0]), share, [[share - low], [high - share]], fmt="o", color="C0", lw=1)
                place = {"xytext": (-4, 4), "textcoords": "offset points", "ha": "right"}
                axis.annotate(name, (cost(mine[0]), share), **place)
                ticks.append(float(cost(mine[0])))
        for number, name in enumerate(("teacher", "reduced teacher", "raw mel bands"), 1):
            counts = np.sum([row["correct"][kind] for row in some if row["system"] == name], axis=0)
            axis.axhline(counts[0] / counts[1], color=f"C{number}", lw=1, ls="--", label=name)
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks], rotation=45)
        axis.set_xticks([], minor=True)
        axis.margins(x=0.3)

    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.2), sharey=True, layout="constrained")
    for axis, (label, cost) in zip(axes, costs.items(), strict=True):
        panel(axis, "esc10", cost, False)
        axis.set_xlabel(label)
    axes[0].set_ylabel("accuracy, ESC-10, five folds")
    axes[0].legend(loc="center left", frameon=False)
    figure.savefig(ROOT / "docs" / "students.svg", metadata={"Date": None})

    ready = {row["domain"] for row in rows if "int8" in row}
    labels = {
        name: label for name, label in {"esc10": "ESC-10", "urbansound8k": "UrbanSound8K"}.items() if name in ready
    }
    shape: Job = {"figsize": (9.6, 0.4 + 2.8 * len(labels)), "squeeze": False, "layout": "constrained"}
    figure, grid = plt.subplots(len(labels), 3, sharey="row", **shape)
    for axes, (domain, label) in zip(grid, labels.items(), strict=True):
        for axis, (name, cost) in zip(axes, on_device.items(), strict=True):
            panel(axis, domain, cost, True)
            for other, (score, place) in PUBLISHED.items():
                if domain == "esc10" and name in place:
                    axis.plot(place[name], score, "s", color="0.5")
                    axis.annotate(other, (place[name], score), xytext=(5, -10), textcoords="offset points", color="0.4")
        axes[0].set_ylabel(f"accuracy in int8, {label}")
    for axis, name in zip(grid[-1], on_device, strict=True):
        axis.set_xlabel(name)
    grid[0][0].legend(loc="center left", frameon=False)
    figure.savefig(ROOT / "docs" / "edge.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
