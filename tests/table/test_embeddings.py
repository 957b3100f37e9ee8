"""Files of embeddings: what is read of them, and what is refused."""

import numpy as np
import pytest
from stored import rows_for, store

from edgesea.errors import EdgeseaError
from edgesea.table.importing import load_embeddings


@pytest.mark.parametrize("ending", [".npz", "_compressed.npz", ".npy", ".npy.gz"])
@pytest.mark.parametrize("dtype", ["<f2", ">f4"])
def test_embeddings_are_read_as_they_were_written_and_damage_is_an_error(tmp_path, ending, dtype):
    """The file is cut and altered at many places; whatever is read, nothing but EdgeseaError may be raised."""
    rng = np.random.default_rng(0)
    rows = np.array(rows_for("a", 40), dtype, order="F")
    path = store(tmp_path / f"x{ending}", rows, timestamps=np.arange(40) * 0.1)
    found, times = load_embeddings(path)
    np.testing.assert_array_equal(found, rows)
    np.testing.assert_array_equal(times, np.arange(40) * 0.1 if ending.endswith("npz") else None)
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(0, len(whole), max(1, len(whole) // 40))]
    for place in [*range(150), *rng.integers(0, len(whole), 50), *range(len(whole) - 150, len(whole))]:
        damaged.append(whole[:place] + bytes([whole[place] ^ int(rng.integers(1, 256))]) + whole[place + 1 :])
    refused = []
    for contents in damaged:
        path.unlink()  # not written over: what is mapped into memory would change
        path.write_bytes(contents)
        try:
            load_embeddings(path)
        except EdgeseaError as error:
            refused.append(str(error))
    assert len(refused) >= 40
    assert all(reason.startswith(f"{path.name}: ") for reason in refused)


class Trap:
    """What would leave a file behind if it were unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return open, ("unpickled", "w")


TRAP = np.array([[Trap()]], object)
SEVEN = rows_for("a", 7)


@pytest.mark.parametrize(
    ("name", "rows", "times"),
    [
        *(("x.npy", np.zeros(shape, dtype), None) for shape, dtype in ((5, "f"), ((1, 7, 5), "f"), ((7, 5), "i"))),
        *(("x.npz", SEVEN, times) for times in (np.arange(6), np.r_[:6, 9], -np.arange(7), ["a"] * 7)),
        *((name, TRAP, None) for name in ("x.npy", "x.npy.gz", "x.npz")),
        ("x.npz", SEVEN, TRAP),
    ],
)  # fmt: skip
def test_other_arrays_and_timestamps_are_refused_and_nothing_is_unpickled(tmp_path, monkeypatch, name, rows, times):
    monkeypatch.chdir(tmp_path)
    store(tmp_path / name, rows, **({} if times is None else {"timestamps": np.array(times)}))
    with pytest.raises(EdgeseaError, match=f"^{name}: "):
        load_embeddings(tmp_path / name)
    assert not (tmp_path / "unpickled").exists()
