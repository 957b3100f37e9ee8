import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from edgesea.errors import EdgeseaError
from edgesea.models.base import file_digest
from edgesea.models.torch_model import load_arrays, read_state_dict


class Malicious:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def make_module() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_digest_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 1000)
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"abc" * 1000).hexdigest()


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
    with pytest.raises(EdgeseaError, match=r"bad\.pt: not a torch state dict"):
        read_state_dict(tmp_path / "bad.pt")
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(content))  # the file would have been created
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [torch.zeros(3)], {"epoch": 3}, {"model": {"a": torch.zeros(3)}}, {0: torch.zeros(3)}]
)
def test_other_contents_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(EdgeseaError, match=r"other\.pt: not a state dict \(a flat mapping of names to arrays\)"):
        read_state_dict(tmp_path / "other.pt")


def test_missing_damaged_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(EdgeseaError, match=r"gone\.pt: no such weight file"):
        read_state_dict(tmp_path / "gone.pt")
    torch.save(make_module().state_dict(), tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:-200])
    (tmp_path / "text.pt").write_text("these are no weights\n" * 10)
    (tmp_path / "empty.pt").touch()
    for name in ("cut", "text", "empty"):
        with pytest.raises(EdgeseaError, match=rf"{name}\.pt: not a torch state dict"):
            read_state_dict(tmp_path / f"{name}.pt")


def test_the_refusal_does_not_advise_to_unpickle(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"0.weight": Malicious(tmp_path / "executed")}, protocol=2))
    with pytest.raises(EdgeseaError) as raised:
        read_state_dict(tmp_path / "a.pt")
    assert "weights_only" not in str(raised.value)
    assert "give a file that torch.save(model.state_dict(), ...) wrote" in str(raised.value)


def test_arrays_must_fit_exactly():
    arrays = make_module().state_dict()
    del arrays["1.num_batches_tracked"]
    load_arrays(make_module(), arrays, "a.pt")  # it is no weight, and older files do not have it
    with pytest.raises(EdgeseaError, match=r"a\.pt: these are the weights of another model: missing 0\.bias \(2,\)$"):
        load_arrays(make_module(), {k: v for k, v in arrays.items() if k != "0.bias"}, "a.pt")
    with pytest.raises(EdgeseaError, match=r"unexpected other \(4,\)$"):
        load_arrays(make_module(), {**arrays, "other": torch.zeros(4)}, "a.pt")
    with pytest.raises(EdgeseaError, match=r"0\.weight has shape \(2, 4\) instead of \(2, 3\)$"):
        load_arrays(make_module(), {**arrays, "0.weight": torch.zeros(2, 4)}, "a.pt")
    with pytest.raises(EdgeseaError, match=r"and 7 more$"):
        load_arrays(make_module(), {f"x{i}": torch.zeros(1) for i in range(5)}, "a.pt")


def test_a_module_is_left_alone_when_arrays_do_not_fit():
    module = make_module()
    before = module[0].weight.clone()
    with pytest.raises(EdgeseaError):
        load_arrays(module, {"0.weight": torch.ones(2, 3)}, "a.pt")
    torch.testing.assert_close(module[0].weight, before)
