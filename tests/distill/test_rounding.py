"""Training as int8 will compute."""

import numpy as np
import pytest
import torch
from conftest import TINY
from export.integers import added, requantized
from export.test_tflite import CONFIGS, random_student
from stored import embeddings_of
from torch.nn import functional

import edgesea
from edgesea.distill import distill
from edgesea.distill.rounding import keep_rounded, round_student
from edgesea.export import export
from edgesea.export.quantize import quantize
from edgesea.models.graph import folded
from edgesea.models.student_files import read_student
from edgesea.models.student_torch import Student
from edgesea.reduction import load_reduction, reduce
from edgesea.table.reader import Table


@pytest.fixture
def rounded(request):
    """A student that rounds, its quantized form with weights that were rounded before, and spectrograms."""
    config, arrays, log_mel = random_student(request.param)
    for _ in range(2):
        quantized, student = quantize(config, arrays, [log_mel]), Student(config)
        round_student(student, quantized)
        keep_rounded(student.train())
        arrays = {name: array.numpy() for name, array in student.state_dict().items()}
    return student, quantized, log_mel


@pytest.mark.parametrize("rounded", CONFIGS.values(), ids=CONFIGS, indirect=True)
def test_each_layer_rounds_as_the_integers_do(rounded):
    student, quantized, log_mel = rounded
    assert not student.input_norm.training
    given, made = {}, {}
    names = [name for one in quantized.convolutions for name in (one.layer.name, one.layer.norm)]
    blocks = {one.layer.name: one.layer.name.split(".block")[0] for one in quantized.convolutions if one.total}
    for name in [*names, *blocks.values(), *(["head.linear"] if quantized.head else [])]:

        def keep(module, inputs, output, name=name):
            given[name], made[name] = inputs[0].double().numpy(), output.double().numpy()

        student.get_submodule(name).register_forward_hook(keep)
    with torch.inference_mode():
        student.embed_spectrogram(student.input_norm(torch.from_numpy(log_mel)[:, None]))

    def integers(values, scale):
        whole = np.rint(values / scale.scale)
        assert np.abs(values / scale.scale - whole).max() < 1e-3  # they are on the grid
        return whole.astype(np.int64) + scale.zero

    def agree(values, scale, exact):
        difference = np.abs(integers(values, scale) - exact)
        assert difference.max() <= 1
        assert difference.mean() < 0.02  # halves are rounded otherwise, and biases at all
        assert len(np.unique(exact)) > 10

    inputs = []
    for one in quantized.convolutions:
        layer = one.layer
        inputs.append((x := integers(given[layer.name], one.given), one.given))
        parts = (x - one.given.zero).astype(float), one.weight.astype(float), one.bias.astype(float)
        sums = functional.conv2d(*map(torch.from_numpy, parts), layer.stride, layer.kernel // 2, 1, layer.groups)
        is_embedding = quantized.head is None and one is quantized.convolutions[-1]
        units = quantized.units[:, None, None] if is_embedding else 1.0
        agree(made[layer.norm] / units, one.made, requantized(sums.numpy(), one))
        if one.total:
            exact = added(*inputs[-layer.residual], integers(made[layer.norm], one.made), one.made, one.total)
            agree(made[blocks[layer.name]], one.total, exact)
    if head := quantized.head:
        sums = (integers(given["head.linear"], head.given) - head.given.zero) @ head.weight.astype(np.int64).T
        agree(made["head.linear"] / quantized.units, head.made, requantized(sums + head.bias, head))


@pytest.mark.parametrize("changes", [{}, {"student": "edge-3", "filters": [4, 8], "ema": 0.5}], ids=["sea", "edge"])
def test_it_resumes_and_knows_what_int8_will_lose(small_table, small_reduction, tmp_path, changes):
    options = {**TINY, "schedule": "onecycle", **changes, "epochs": 6}
    distill(small_table, small_reduction, tmp_path / "plain", **options)
    options |= {"quantize": tmp_path / "plain", "epochs": 2, "lr": 0.003, "precision": "auto", "save_every": 1}
    for name in ("whole", "resumed"):
        fitted = distill(small_table, small_reduction, tmp_path / name, **options)
    for name in ("results.json", "model.safetensors"):
        (tmp_path / "resumed" / name).unlink()
    checkpoints = tmp_path / "resumed" / "checkpoints"
    (checkpoints / "epoch-0001.ckpt").rename(checkpoints / "last.ckpt")
    distill(small_table, small_reduction, tmp_path / "resumed", **options)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "whole", "resumed")]
    assert weights[1] == weights[2] != weights[0]
    file = read_student(tmp_path / "whole")
    _, kernel, _ = next(folded(file.config, file.arrays))
    steps = kernel / np.abs(kernel).max((1, 2, 3), keepdims=True) * 127
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    export(str(tmp_path / "whole"), tmp_path / "made", calibration=small_table, least=0.5)
    table = Table(small_table)
    places = [(chunk, chunk.select("validate")) for chunk in table.chunks()]
    audio = np.concatenate([np.multiply(*table.audio(chunk, rows)) for chunk, rows in places])
    targets = load_reduction(small_reduction).transform(embeddings_of(table, "validate"))
    models = [edgesea.load_model(str(tmp_path / name)) for name in ("made/student.tflite", "whole")]
    int8, single = (np.square(model.embed(audio) - targets).mean() for model in models)
    assert fitted["mse"] == pytest.approx(int8, rel=0.05)
    assert fitted["mse"] != pytest.approx(single, rel=2e-4)  # it is not that of the student in single precision


def test_what_cannot_be_trained_further(small_table, small_reduction, small_student, tmp_path, refuses):
    options = {**TINY, "quantize": small_student}
    given = "distill", small_table, small_reduction, tmp_path / "s"
    for option, value, expected in [
        ("n_mels", 20, [small_student, "n_mels 16, not 20", "options"]),
        ("precision", "bf16-mixed", ["precision=bf16-mixed", "single precision"]),
        ("projector", 8, ["projector=8", "without a projector"]),
        ("devices", 2, ["2 devices", "on one device"]),
        ("quantize", "nowhere", ["nowhere", "no student here"]),
    ]:
        changed = {**options, option: value}
        refuses(*given, *(f"--{name}={value}" for name, value in changed.items()), words=expected)
    reduce(small_table, tmp_path / "phi", size=4, whiten=False)
    words = [f"--{name}={value}" for name, value in options.items()]
    refuses("distill", small_table, tmp_path / "phi", tmp_path / "s", *words, words=[small_student, "reduction"])
    assert not (tmp_path / "s").exists()
