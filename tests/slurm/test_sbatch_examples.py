"""The files of examples/slurm, as they are, on a small city."""

from pathlib import Path

from conftest import REPOSITORY

from edgesea.artifact import read_json
from edgesea.demo.city import make_city

EXAMPLES = REPOSITORY / "examples" / "slurm"
# Nothing else is changed: what a job asks for, too, is what the file says.
SMALL = {"TEACHER": "spectral", "HOP_SIZE": "1", "SUBSET_SIZE": "40", "EMB_LEN": "4", "NUM_EPOCHS": "2"}
SMALL |= {"NUM_MELS": "16", "BATCH_SIZE": "16", "SAMPLING": "random"}


def test_the_examples_run(on_slurm, tmp_path, monkeypatch):
    city = make_city(tmp_path / "city", sensors=3, days=1, clips_per_day=8, seconds=2.0, annotated=1.0)
    paths = {"AUDIO_DIR": city / "audio", "SONYC_UST_PATH": city, "EMBEDDING_DIR": tmp_path / "table"}
    for name, value in {**SMALL, **paths}.items():
        monkeypatch.setenv(name, str(value))
    ids: dict[str, str] = {}

    def submit(stage: str, *options: str, **values: Path) -> None:
        exported = ",".join(["ALL", *(f"{name}={value}" for name, value in values.items())])
        output = f"--output={tmp_path}/{stage}.log"
        command = ("sbatch", "--parsable", f"--export={exported}", output, *options, str(EXAMPLES / f"{stage}.sbatch"))
        ids[stage] = on_slurm.call(*command).strip()

    run, made = tmp_path / "run", {"L3_MODEL_PATH": tmp_path / "run" / "student"}
    submit("extract", OUTPUT_DIR=run)
    for stage, needs in (("sample", "extract"), ("reduce", "sample"), ("distill", "reduce")):
        submit(stage, f"--dependency=afterok:{ids[needs]}", OUTPUT_DIR=run)
    for stage in ("embed", "evaluate"):
        submit(stage, f"--dependency=afterok:{ids['distill']}", OUTPUT_DIR=tmp_path / stage, **made)
    submit("run", OUTPUT_DIR=tmp_path / "whole" / "run")
    assert set(ids) == {path.stem for path in EXAMPLES.glob("*.sbatch")}
    for stage, id in ids.items():
        assert on_slurm.ended(id) == "COMPLETED", (tmp_path / f"{stage}.log").read_text()
    architecture = read_json(run / "student" / "config.json")["architecture"]
    assert (architecture["n_mels"], architecture["sample_rate"], architecture["embedding_size"]) == (16, 8000, 4)
    assert len(list((tmp_path / "embed").rglob("*.npz"))) == len(list((city / "audio").iterdir()))
    assert 0 <= read_json(tmp_path / "evaluate" / "scores.json")["micro_auprc"] <= 1
    assert set(read_json(tmp_path / "whole" / "run" / "results.json")["evaluate"]) == {"teacher", "reduced", "student"}
