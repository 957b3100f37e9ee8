"""`edgesea.mteb` in the real mteb: its tasks over sounds in memory, without a network."""

import csv
import sys

import numpy as np
import pytest
import soundfile
import torch
from quick_model import QUICK

from edgesea import EdgeseaError, get_embedding, hear, load_student, load_teacher
from edgesea.models.student_config import StudentConfig
from edgesea.models.student_files import save_student
from edgesea.models.student_torch import Student

CONFIG = StudentConfig(embedding_size=5, filters=(4, 6), n_mels=16)


@pytest.fixture(scope="module")
def mteb():
    return pytest.importorskip("mteb", reason="mteb is not installed: pip install 'edgesea[mteb]'")


@pytest.fixture(scope="module")
def student_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("student")
    save_student(Student(CONFIG), folder, {}, "card")
    return folder


def clip(samples: np.ndarray, rate: int) -> dict:
    """A sound as mteb's type AudioInputItem has it."""
    return {"array": samples, "sampling_rate": rate}


def noise(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))).astype(np.float32)


def encode(mteb, model, sounds: list[dict], **options) -> np.ndarray:
    """What the encoder makes of sounds in the data loader that mteb makes for a task."""
    from datasets import Dataset

    return encode_dataset(mteb, model, Dataset.from_dict({"sound": sounds}), **options)


def encode_dataset(mteb, model, dataset, modality: str = "audio", **options) -> np.ndarray:
    from mteb._create_dataloaders import create_dataloader

    from edgesea.mteb import Encoder

    metadata = make_task(mteb, {}, modality).metadata
    loader = create_dataloader(dataset, task_metadata=metadata, input_column="sound", batch_size=3, **options)
    return Encoder(model).encode(
        loader, task_metadata=metadata, hf_split="test", hf_subset="default", show_progress_bar=False, batch_size=3
    )


def make_task(mteb, splits: dict[str, tuple[list[dict], list[int]]], modality: str = "audio"):
    """A real classification task of mteb whose `splits` are sounds and their labels."""
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
            parts = {name: {"audio": audio, "label": labels} for name, (audio, labels) in splits.items()}
            self.dataset = DatasetDict({name: Dataset.from_dict(part) for name, part in parts.items()})
            self.data_loaded = True

    return Sounds()


def tones_and_noises(count: int, seed: int) -> tuple[list[dict], list[int]]:
    """Sounds of two kinds at several rates and lengths, in one or two channels."""
    rng = np.random.default_rng(seed)
    sounds = []
    for index in range(count):
        rate, seconds = (8000, 16000, 22050)[index % 3], (0.5, 1.0, 2.2)[index % 3]
        time = np.arange(round(seconds * rate)) / rate
        sound = np.sin(2 * np.pi * rng.uniform(300, 3000) * time) if index % 2 else rng.standard_normal(len(time))
        sound = 0.2 * sound + 0.001 * rng.standard_normal(len(time))
        sounds.append(clip(np.stack([sound] * (1 + index % 2)), rate))
    return sounds, [index % 2 for index in range(count)]


# --- embeddings


@pytest.mark.parametrize("name", ["student", "spectral", "function"])
def test_a_sound_gets_its_scene_embedding(mteb, name, student_folder):
    model = {
        "student": lambda: load_student(student_folder, "cpu"),
        "spectral": lambda: load_teacher("spectral"),
        "function": lambda: QUICK,
    }[name]()
    sounds = [noise(seconds, 16000, seed) for seed, seconds in enumerate([0.4, 1.0, 2.7, 3.3])]
    found = encode(mteb, model, [clip(sound, 16000) for sound in sounds])
    assert found.shape == (4, model.embedding_size)
    assert found.dtype == np.float32
    scene = hear.HearModel(model)
    expected = [hear.get_scene_embeddings(torch.from_numpy(sound)[None], scene).numpy()[0] for sound in sounds]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_sounds_of_any_rate_and_number_of_channels_come_out_in_order(mteb):
    sounds = [noise(1.7, 44100), np.stack([noise(1.2, 8000), noise(1.2, 8000, 1)]), noise(1.1, 22050), noise(3, 11025)]
    rates = [44100, 8000, 22050, 11025]
    # `datasets` stores arrays of one number of dimensions in a column
    found = encode(mteb, QUICK, [clip(np.atleast_2d(x), rate) for x, rate in zip(sounds, rates, strict=True)])
    for row, sound, rate in zip(found, sounds, rates, strict=True):
        windows, _ = get_embedding(sound.T, rate, QUICK, hop_size=0.5, center=False)
        np.testing.assert_allclose(row, windows.mean(0), rtol=1e-5, atol=1e-7)


def test_sounds_are_read_in_the_processes_of_the_loader(mteb, student_folder):
    sounds = [clip(noise(1.3, 8000, seed), 8000) for seed in range(7)]
    np.testing.assert_array_equal(
        encode(mteb, student_folder, sounds, num_proc=2), encode(mteb, student_folder, sounds)
    )


def test_files_are_decoded_as_mteb_decodes_those_of_its_data_sets(mteb, tmp_path):
    from datasets import Audio, Dataset

    try:
        import torchcodec.decoders  # noqa: F401
    except Exception as error:  # of several types, without the libraries of FFmpeg, or with another torch
        pytest.skip(f"torchcodec does not work here ({str(error).strip().splitlines()[0]})")
    sounds = [np.stack([noise(1.2, rate, rate), noise(1.2, rate, 1)]) for rate in (16000, 44100, 8000, 8000)]
    paths = [tmp_path / f"{index}.wav" for index in range(4)]
    for path, sound, rate in zip(paths, sounds, (16000, 44100, 8000, 8000), strict=True):
        soundfile.write(path, sound.T, rate, "FLOAT")
    dataset = Dataset.from_dict({"sound": [str(path) for path in paths]}).cast_column("sound", Audio())
    for processes in (None, 2):
        found = encode_dataset(mteb, QUICK, dataset, num_proc=processes)
        for row, sound, rate in zip(found, sounds, (16000, 44100, 8000, 8000), strict=True):
            windows, _ = get_embedding(sound.T, rate, QUICK, hop_size=0.5, center=False)
            np.testing.assert_allclose(row, windows.mean(0), rtol=1e-4, atol=1e-6)


def test_text_is_refused_by_the_encoder_and_by_mteb(mteb, student_folder):
    from datasets import Dataset

    from edgesea.mteb import Encoder

    with pytest.raises(ValueError, match=r"supports \['audio'\]"):
        mteb.evaluate(Encoder(student_folder), make_task(mteb, {}, "text"), cache=None)
    with pytest.raises(EdgeseaError, match="embeds audio, but the data has only text"):
        encode_dataset(mteb, student_folder, Dataset.from_dict({"text": ["a street"], "sound": ["no"]}), "text")


# --- evaluation


def test_mteb_tells_tones_from_noises_and_keeps_the_result(mteb, student_folder, tmp_path):
    from edgesea.mteb import Encoder

    splits = {"train": tones_and_noises(24, 0), "test": tones_and_noises(12, 1)}
    encoder = Encoder(load_teacher("spectral"))
    cache = mteb.ResultCache(cache_path=tmp_path)
    result = mteb.evaluate(encoder, make_task(mteb, splits), cache=cache, show_progress_bar=False)
    assert result.model_name == "edgesea/spectral"
    assert result[0].get_score() == 1.0
    kept = mteb.evaluate(encoder, make_task(mteb, {}), cache=cache, overwrite_strategy="only-cache")
    assert kept[0].get_score() == 1.0
    with pytest.raises(ValueError, match="no results found"):  # another model's results are not taken for its own
        mteb.evaluate(Encoder(student_folder), make_task(mteb, {}), cache=cache, overwrite_strategy="only-cache")


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")  # in the hundred steps that mteb takes
def test_mteb_tells_real_sounds_apart_with_a_published_student(mteb, shared_data):
    from edgesea.mteb import Encoder

    kinds = ("clock_tick", "rain", "rooster")
    with (shared_data / "esc10" / "meta" / "esc50.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["category"] in kinds and row["fold"] in "123"]
    splits = {"train": ([], []), "test": ([], [])}
    for row in rows:
        sounds, labels = splits["test" if row["fold"] == "3" else "train"]
        samples, rate = soundfile.read(shared_data / "esc10" / "audio" / row["filename"], dtype="float32")
        sounds.append(clip(samples, rate))
        labels.append(kinds.index(row["category"]))
    encoder = Encoder(shared_data / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz")
    result = mteb.evaluate(encoder, make_task(mteb, splits), cache=None, show_progress_bar=False)
    assert result[0].get_score() > 0.8  # chance is a third


# --- the protocol


def test_the_encoder_keeps_to_the_protocol_of_mteb(mteb, student_folder):
    from mteb.models import EncoderProtocol, ModelMeta

    from edgesea.mteb import Encoder

    encoder = Encoder(student_folder)
    assert isinstance(encoder, EncoderProtocol)
    assert isinstance(encoder.mteb_model_meta, ModelMeta)
    embeddings = np.array([[1, 0], [0, 2], [3, 3]], np.float32)
    cosines = np.array([[1, 0, 0.5**0.5], [0, 1, 0.5**0.5], [0.5**0.5, 0.5**0.5, 1]])
    pairs = encoder.similarity_pairwise(embeddings, embeddings[[2, 1, 0]])
    np.testing.assert_allclose(encoder.similarity(embeddings, embeddings), cosines, atol=1e-6)
    np.testing.assert_allclose(pairs, cosines[[0, 1, 2], [2, 1, 0]], atol=1e-6)


def test_the_metadata_are_those_of_the_published_student(mteb, shared_data):
    from edgesea.mteb import Encoder

    model = load_student(shared_data / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz", "cpu")
    meta = Encoder(model).mteb_model_meta
    assert (meta.name, meta.revision) == ("edgel3/sea-64", model.digest)
    assert (meta.embed_dim, meta.n_parameters) == (64, 398306)  # the number of the paper
    assert meta.memory_usage_mb == pytest.approx(398306 * 4 / 2**20)
    assert (meta.license, meta.open_weights, meta.modalities) == ("mit", True, ["audio"])
    assert meta.framework == ["ONNX"]


def test_both_back_ends_have_as_many_parameters(mteb, student_folder):
    from edgesea.mteb import Encoder

    onnx, torch_ = (
        Encoder(load_student(student_folder, "cpu", backend)).mteb_model_meta for backend in ("onnx", "torch")
    )
    assert onnx.n_parameters == torch_.n_parameters == sum(p.numel() for p in Student(CONFIG).parameters())
    assert torch_.framework == ["PyTorch"]


def test_a_local_student_is_named_by_its_folder_and_its_licence_is_unknown(mteb, student_folder, monkeypatch):
    from edgesea.mteb import Encoder

    meta = Encoder(student_folder).mteb_model_meta
    assert meta.name == "edgesea/" + str(student_folder).strip("/").replace("/", "-")
    assert meta.license is None
    assert meta.open_weights is None
    monkeypatch.chdir(student_folder.parent.parent)
    there = student_folder.relative_to(student_folder.parent.parent).as_posix()  # looks like owner/name
    assert Encoder(there).mteb_model_meta.name == "edgesea/" + there.replace("/", "-")


@pytest.mark.parametrize(
    ("id", "name"),
    [
        ("owner/student@main", "owner/student"),
        ("callable:package.module:function@8000", "edgesea/callable-package.module-function-8000"),
        (r"onnx:C:\models\some model.onnx", "edgesea/onnx-C-models-some-model.onnx"),
    ],
)
def test_any_id_becomes_a_name_that_mteb_accepts(mteb, id, name):
    from dataclasses import replace

    from edgesea.mteb import Encoder

    meta = Encoder(replace(QUICK, id=id)).mteb_model_meta
    assert meta.name == name
    assert meta.revision.startswith("edgesea-")  # never None, for which mteb would take any other model's results


def test_without_mteb_its_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "edgesea.mteb", raising=False)
    monkeypatch.setitem(sys.modules, "mteb.models", None)
    with pytest.raises(EdgeseaError, match=r"mteb is not installed; .*edgesea\[mteb\]"):
        import edgesea.mteb  # noqa: F401
