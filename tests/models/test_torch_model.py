"""Weights in torch's format: nothing is executed, and every name and shape must fit."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from edgesea.errors import EdgeseaError
from edgesea.models.efficientat import read_state_dict
from edgesea.models.torch_model import load_arrays


class Malicious:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_is_not_executed(tmp_path, legacy):
    content = {"0.weight": Malicious(tmp_path / "executed")}
    if legacy:
        (tmp_path / "bad.pt").write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(EdgeseaError, match=r"bad\.pt") as error:
        read_state_dict(tmp_path / "bad.pt")
    assert "weights_only" not in str(error.value)  # torch's advice to unpickle it
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(content))  # the file would have been created
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content", [torch.zeros(3), {"epoch": 3}, {"model": {"a": torch.zeros(3)}}, {0: torch.zeros(3)}, b"text" * 50, b""]
)
def test_other_contents_are_refused(tmp_path, content):
    if isinstance(content, bytes):
        (tmp_path / "other.pt").write_bytes(content)
    else:
        torch.save(content, tmp_path / "other.pt")
    with pytest.raises(EdgeseaError, match=r"other\.pt"):
        read_state_dict(tmp_path / "other.pt")


def test_arrays_are_loaded_if_they_fit_exactly(tmp_path):
    source, module = (nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)) for _ in range(2))
    torch.save(source.state_dict(), tmp_path / "a.pt")
    arrays = read_state_dict(tmp_path / "a.pt")
    del arrays["1.num_batches_tracked"]  # it is not a weight, and older files do not have it
    load_arrays(module, arrays, "a.pt")
    missing = {key: value for key, value in arrays.items() if key != "0.bias"}
    others = ({**arrays, name: torch.zeros(shape)} for name, shape in (("other", 4), ("0.weight", (2, 4))))
    for changed, name in zip([missing, *others], ("0.bias", "other", "0.weight"), strict=True):
        with pytest.raises(EdgeseaError, match=rf"a\.pt: .*: {name} has"):
            load_arrays(module, changed, "a.pt")
    for name, value in source.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value, rtol=0, atol=0)
