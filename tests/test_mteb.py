"""`edgesea.mteb` in the real mteb: a task over sounds in memory, without a network."""

import sys

import numpy as np
import pytest
from quick_model import QUICK

from edgesea import EdgeseaError, get_embedding, load_student, load_teacher


@pytest.fixture
def mteb():
    return pytest.importorskip("mteb", reason="mteb is not installed: pip install 'edgesea[mteb]'")


def make_task(splits: dict[str, dict[str, list]], modality: str = "audio"):
    """A classification task of mteb whose `splits` are sounds and their labels."""
    from datasets import Dataset, DatasetDict
    from mteb.abstasks import AbsTaskClassification
    from mteb.abstasks.task_metadata import TaskMetadata

    class Sounds(AbsTaskClassification):
        metadata = TaskMetadata(
            name="Sounds",
            description="Sounds in memory",
            type="AudioClassification",
            category="a2c",
            modalities=[modality],
            main_score="accuracy",
            dataset={"path": "memory/sounds", "revision": "1"},
            eval_splits=["test"],
            eval_langs=["zxx-Zxxx"],
        )
        input_column_name = "audio"
        n_experiments = 2

        def load_data(self, **options) -> None:
            self.dataset = DatasetDict({name: Dataset.from_dict(part) for name, part in splits.items()})
            self.data_loaded = True

    return Sounds()


def tones_and_noises(count: int, seed: int) -> dict[str, list]:
    """Sounds of two kinds at several rates and lengths, in one or two channels."""
    rng = np.random.default_rng(seed)
    sounds = []
    for index in range(count):
        rate, seconds = (8000, 16000, 22050)[index % 3], (0.5, 1.0, 2.2)[index % 3]
        time = np.arange(round(seconds * rate)) / rate
        sound = np.sin(2 * np.pi * rng.uniform(300, 3000) * time) if index % 2 else rng.standard_normal(len(time))
        sounds.append({"array": np.stack([0.2 * sound] * (1 + index % 2)), "sampling_rate": rate})
    return {"audio": sounds, "label": [index % 2 for index in range(count)]}


def test_sounds_of_any_rate_and_number_of_channels_are_embedded_in_order(mteb):
    from datasets import Dataset
    from mteb._create_dataloaders import create_dataloader

    from edgesea.mteb import Encoder

    sounds = tones_and_noises(7, 0)["audio"]
    metadata = make_task({}).metadata
    data = Dataset.from_dict({"audio": sounds})
    loader = create_dataloader(data, task_metadata=metadata, input_column="audio", batch_size=3)
    for row, sound in zip(Encoder(QUICK).encode(loader, show_progress_bar=False), sounds, strict=True):
        windows, _ = get_embedding(sound["array"].T, sound["sampling_rate"], QUICK, hop_size=0.5, center=False)
        np.testing.assert_allclose(row, windows.mean(0), rtol=1e-5, atol=1e-7)


def test_mteb_tells_tones_from_noises(mteb):
    from edgesea.mteb import Encoder

    task = make_task({"train": tones_and_noises(24, 0), "test": tones_and_noises(12, 1)})
    result = mteb.evaluate(Encoder(load_teacher("spectral")), task, cache=None, show_progress_bar=False)
    assert (result.model_name, result[0].get_score()) == ("edgesea/spectral", 1.0)
    with pytest.raises(ValueError, match="audio"):
        mteb.evaluate(Encoder(QUICK), make_task({}, "text"), cache=None)


def test_the_metadata_are_those_of_the_published_student(mteb, shared_data):
    from edgesea.mteb import Encoder

    model = load_student(shared_data / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz", "cpu")
    meta = Encoder(model).mteb_model_meta
    assert (meta.name, meta.revision, meta.license) == ("edgel3/sea-64", model.digest, "mit")
    assert (meta.embed_dim, meta.n_parameters, meta.framework) == (64, 398306, ["ONNX"])  # the number of the paper


def test_without_mteb_its_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "edgesea.mteb", raising=False)
    monkeypatch.setitem(sys.modules, "mteb.models", None)
    with pytest.raises(EdgeseaError, match=r"edgesea\[mteb\]"):
        import edgesea.mteb  # noqa: F401
