"""The job that `tools/packages.py` gives to an environment with the wheel alone: all helps, and a small run."""

import contextlib
import io
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soundfile
import yaml
from safetensors.numpy import save

import edgesea
from edgesea.cli import COMMANDS, main
from edgesea.models.student_config import StudentConfig, array_shapes

assert "site-packages" in edgesea.__file__, f"not the wheel: {edgesea.__file__}"
JOB = {
    "extract": {
        "source": "esc50/meta/esc50.csv",
        "root": "esc50/audio",
        "columns": {"path": "filename"},
        "validate": "fold=2",
    },
    "sample": {"size": 40},
    "reduce": {"method": "pca", "size": 4},
    "distill": {"student": "edge-3", "epochs": 1, "batch_size": 8},
    "evaluate": {"task": "esc50", "data": "esc50", "resamples": 10},
}
LOG = io.StringIO()  # one for all, as logging writes to the first
JOB["extract"] |= {"teacher": "spectral", "hop": 0.5, "workers": 1}


def edge(*words: str, code: int = 0) -> str:
    """What a command prints, messages included."""
    before = LOG.tell()
    with contextlib.redirect_stdout(LOG), contextlib.redirect_stderr(LOG):
        found = main(list(words))
    text = LOG.getvalue()[before:]
    assert found == code, f"edgesea {' '.join(words)}: {text}"
    assert "not recorded there" not in text, [line for line in text.splitlines() if "not recorded" in line]
    return text


def helps() -> str:
    """How many commands have help, and how many say that a library is missing."""
    lacking = 0
    for name in COMMANDS:
        lacking += "Not available" in edge(name, "--help")
    shown = subprocess.run(["edgesea", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    assert shown == version("edgesea"), shown
    return f"help of {len(COMMANDS)} commands ({lacking} need an extra)"


def clips() -> None:
    """Twenty clips of two classes in two folds, in ESC-50's layout."""
    rng, rows = np.random.default_rng(0), ["filename,fold,category"]
    for place in ("esc50/audio", "esc50/meta"):
        Path(place).mkdir(parents=True)
    for index in range(20):
        tone = np.sin(2 * np.pi * rng.uniform(300, 3000) * np.arange(32000) / 16000)
        sound = 0.2 * (tone if index % 2 else rng.standard_normal(32000))
        soundfile.write(f"esc50/audio/{index}.wav", sound + 0.01 * rng.standard_normal(32000), 16000)
        rows.append(f"{index}.wav,{1 + index // 2 % 2},{'tone' if index % 2 else 'noise'}")
    Path("esc50/meta/esc50.csv").write_text("\n".join(rows) + "\n")


def untrained(folder: Path) -> None:
    """A student with random weights, made without torch."""
    config, rng = StudentConfig.named("edge-3"), np.random.default_rng(0)
    arrays = {}
    for name, shape in array_shapes(config).items():
        scale = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape) if len(shape) > 1 else np.ones(shape)
        is_shift = name.endswith(("bias", "running_mean"))
        arrays[name] = np.asarray(0 * scale if is_shift else scale, np.float32)
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(save(arrays, {"architecture": json.dumps(config.stored())}))
    content = {"model": "edgesea.student", "architecture": config.stored(), "provenance": {}}
    (folder / "config.json").write_text(json.dumps(content))


def embed(student: str, *words: str) -> None:
    """Embed the clips on the command line, and one of them in Python; the numbers must be the same."""
    edge("embed", "esc50/audio", "--model", student, "--out", f"{student}-npz", "--hop", "0.5", *words)
    audio, rate = soundfile.read("esc50/audio/3.wav")
    embedding, timestamps = edgesea.get_embedding(audio, rate, model=student, hop_size=0.5)
    with np.load(next(Path(f"{student}-npz").rglob("3.npz"))) as stored:
        np.testing.assert_allclose(stored["embedding"], embedding, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(stored["timestamps"], timestamps)
    assert np.isfinite(embedding).all()


def extras() -> None:
    """What each extra but umap and export is for, as far as it can be without a network."""
    import av
    import dask_jobqueue  # noqa: F401
    from distributed import LocalCluster

    import edgesea.mteb  # noqa: F401

    embed("untrained", "--engine", "openvino", "--overwrite")
    with av.open("sound.m4a", "w") as file:
        stream = file.add_stream("aac", rate=44100)
        for _ in range(40):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate = 44100
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    edge("embed", "sound.m4a", "--model", "untrained", "--resampler", "resampy")
    os.environ |= {"WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1", "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
    trained = ("run/table", "run/reduction", "tracked", "--student", "edge-3", "--epochs", "1", "--batch_size", "8")
    edge("distill", *trained, "--track", "tensorboard", "mlflow", "wandb")
    assert "does not give it" in edge("profile", "nobody/nothing", code=1)
    with LocalCluster(n_workers=1, processes=False, protocol="tcp://", dashboard_address=None) as cluster:
        edge("sample", "run/table", "far.parquet", "--size", "9", "--cluster", cluster.scheduler_address)


level = sys.argv[1]
done = [helps()]
clips()
untrained(Path("untrained"))
embed("untrained")
edge("profile", "untrained")
done.append("embed, get_embedding, profile")
if level != "base":
    Path("job.yaml").write_text(yaml.safe_dump(JOB))
    edge("run", "job.yaml", "--out", "run")
    scores = json.loads(Path("run/results.json").read_text())
    assert Path("run/report.html").is_file(), scores
    embed("run/student")
    edge("explore", "run")
    edge("search", "run/table", "esc50/audio/3.wav")
    edge("sample", "run/table", "dpp.parquet", "--method", "dpp", "--size", "9")
    edge("tables", "run")
    done.append("run of all stages with report, embed with its student, explore, search, k-DPP, tables")
if level == "all":
    edge("reduce", "run/table", "umap", "--method", "umap", "--size", "2", "--n_neighbors", "5")
    for kind in ("tflite", "c"):
        edge("export", "run/student", kind, "--calibration", "run/table", "--format", kind, "--least", "0.01")
    extras()
    done.append("UMAP, export to TFLite and C, OpenVINO, AAC, resampy, TensorBoard, MLflow, W&B, Hub, Dask")
print("; ".join(done))
