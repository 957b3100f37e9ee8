import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from edgesea.errors import EdgeseaError
from edgesea.models.torch_model import load_arrays, read_state_dict


class Malicious:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def make_module() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_a_state_dict_is_read_and_loaded(tmp_path):
    source, target = make_module(), make_module()
    torch.save(source.state_dict(), tmp_path / "a.pt")
    load_arrays(target, read_state_dict(tmp_path / "a.pt"), tmp_path / "a.pt")
    for name, value in source.state_dict().items():
        torch.testing.assert_close(target.state_dict()[name], value, rtol=0, atol=0)


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
    "content", [torch.zeros(3), [torch.zeros(3)], {"epoch": 3}, {"model": {"a": torch.zeros(3)}}, {0: torch.zeros(3)}]
)
def test_other_contents_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(EdgeseaError, match=r"other\.pt"):
        read_state_dict(tmp_path / "other.pt")


@pytest.mark.parametrize("damage", ["gone", "cut", "text", "empty"])
def test_damaged_and_foreign_files_are_refused(tmp_path, damage):
    path = tmp_path / f"{damage}.pt"
    if damage == "cut":
        torch.save(make_module().state_dict(), path)
        path.write_bytes(path.read_bytes()[:-200])
    elif damage != "gone":
        path.write_text("these are no weights\n" * 10 * (damage == "text"))
    with pytest.raises(EdgeseaError, match=rf"{damage}\.pt"):
        read_state_dict(path)


def test_arrays_must_fit_exactly():
    module, arrays = make_module(), make_module().state_dict()
    del arrays["1.num_batches_tracked"]
    load_arrays(make_module(), arrays, "a.pt")  # it is not a weight, and older files do not have it
    before = module[0].weight.clone()
    for changes, words in (
        ({"0.bias": None}, r"missing 0\.bias \(2,\)$"),
        ({"other": torch.zeros(4)}, r"unexpected other \(4,\)$"),
        ({"0.weight": torch.zeros(2, 4)}, r"0\.weight has shape \(2, 4\) instead of \(2, 3\)$"),
    ):
        changed = {key: value for key, value in {**arrays, **changes}.items() if value is not None}
        with pytest.raises(EdgeseaError, match=rf"a\.pt: .*{words}"):
            load_arrays(module, changed, "a.pt")
    torch.testing.assert_close(module[0].weight, before)
