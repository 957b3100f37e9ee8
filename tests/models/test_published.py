import gzip
import http.server
import subprocess
import threading
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
import pytest
from openl3_random import write_keras_h5

from edgesea.errors import EdgeseaError
from edgesea.models.base import check_shapes, file_digest
from edgesea.models.published import Layers, fetch, keras_to_torch, read_keras_h5

CONTENT = bytes(range(256)) * 2000
BLOB = "85ca3d5aeed19f818566b9244ef5ad7d1d11174a"


class Handler(http.server.SimpleHTTPRequestHandler):
    def copyfile(self, source: BinaryIO, target: BinaryIO) -> None:
        content = source.read()
        target.write(content[: len(content) // 2] if "cut" in self.path else content)  # after the whole length

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path) -> Path:
    (tmp_path / "site").mkdir()
    for name, content in (("weights", CONTENT), ("cut", CONTENT), ("other", b"<html>sign in</html>")):
        (tmp_path / "site" / f"{name}.h5.gz").write_bytes(content)
    return tmp_path / "site"


@pytest.fixture
def url(site):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=site)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGESEA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


def test_a_file_is_downloaded_once_and_has_the_id_of_git(url, cache):
    with ThreadPool(4) as pool:  # which do not disturb each other
        paths = pool.map(lambda _: fetch(f"{url}/weights.h5.gz", "w.h5.gz", git_blob=BLOB), range(4))
    assert paths == [cache / "w.h5.gz"] * 4
    assert paths[0].read_bytes() == CONTENT
    assert subprocess.check_output(["git", "hash-object", paths[0]], text=True).strip() == BLOB
    assert list(cache.iterdir()) == paths[:1]
    assert fetch("http://127.0.0.1:9/unused", "w.h5.gz", git_blob=BLOB) == paths[0]  # also if put there by hand


def refused(words: str, url: str, **options: str) -> None:
    with pytest.raises(EdgeseaError, match=words):
        fetch(url, "weights.h5.gz", **options)


@pytest.mark.parametrize("options", [{"git_blob": BLOB}, {}])
def test_a_cached_file_that_changed_is_refused(url, options):
    path = fetch(f"{url}/weights.h5.gz", "weights.h5.gz", **options)
    path.write_bytes(CONTENT[:-1])
    refused(str(path), f"{url}/weights.h5.gz", **options)
    assert path.is_file()


def test_the_first_download_is_recorded_and_a_later_one_must_equal_it(url, site, cache):
    path = fetch(f"{url}/weights.h5.gz", "weights.h5.gz")
    assert (cache / "weights.h5.gz.sha256").read_text() == f"{file_digest(path)}  weights.h5.gz\n"
    subprocess.run(["sha256sum", "--check", "weights.h5.gz.sha256"], cwd=cache, check=True, capture_output=True)
    assert fetch("http://127.0.0.1:9/unused", "weights.h5.gz") == path
    path.unlink()
    (site / "weights.h5.gz").write_bytes(b"new")
    refused(r"weights\.h5\.gz\.sha256", f"{url}/weights.h5.gz")
    assert not path.exists()
    (cache / "weights.h5.gz.sha256").unlink()
    assert fetch(f"{url}/weights.h5.gz", "weights.h5.gz").read_bytes() == b"new"


def test_failed_and_wrong_downloads_name_the_url_and_leave_nothing(url, site, cache, monkeypatch):
    for address in (*(f"{url}/{name}.h5.gz" for name in ("absent", "cut", "other")), "http://127.0.0.1:9/x", "no url"):
        for words in (address, f"{cache}/weights.h5.gz", "weights=FILE"):
            refused(words, address, git_blob=BLOB)
        assert list(cache.iterdir()) == []
    monkeypatch.setenv("EDGESEA_CACHE", str(site / "other.h5.gz" / "cache"))  # which cannot be made
    refused("EDGESEA_CACHE", f"{url}/weights.h5.gz")


# --- Keras files

RNG = np.random.default_rng(0)
NORM = {key: RNG.random(3).astype(np.float32) for key in ("gamma", "beta", "moving_mean", "moving_variance")}
CONV = {"kernel": RNG.random((3, 5, 2, 3)).astype(np.float32), "bias": RNG.random(3).astype(np.float32)}
# Alphabetical order, in which HDF5 lists its groups, is not the order of the layers
LAYERS = [("z_conv", CONV), ("a_norm", NORM)]
FRONT_END = ("mel", {name: np.ones((4, 1), np.float32) for name in ("real_kernels", "imag_kernels", "Variable")})
SHAPES = {"0.weight": (3, 2, 3, 5), "0.bias": (3,)}
SHAPES |= {f"1.{name}": (3,) for name in ("weight", "bias", "running_mean", "running_var")}


def assert_layers(path, expected):
    found = read_keras_h5(path)
    assert [name.rpartition("/")[2] for name in found] == [name for name, _ in expected]
    for arrays, (_, reference) in zip(found.values(), expected, strict=True):
        np.testing.assert_equal(arrays, reference)


@pytest.mark.parametrize("full_model", [False, True])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_layers_are_read_in_topological_order(tmp_path, full_model, compress):
    path = write_keras_h5(tmp_path / "model.h5", [FRONT_END, *LAYERS], full_model)
    path.write_bytes(compress(path.read_bytes()))
    assert_layers(path, [FRONT_END, *LAYERS])


def test_names_as_bytes_in_pieces_and_nested_models(tmp_path):
    """Keras 1 stores bytes, Keras 3 drops ':0', and all of them cut attributes that are too long for HDF5.

    A nested model is one layer, with the trainable arrays of all its layers first.
    """
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["layer_names0"] = [b"input"]
        file.attrs["layer_names1"] = [b"conv", b"body"]
        file.create_group("input").attrs["weight_names"] = np.zeros(0)
        file.create_group("conv").attrs["weight_names"] = [b"conv/kernel", b"conv/bias"]
        file.create_group("body").attrs["weight_names"] = [f"{layer}/{key}:0" for layer, it in LAYERS for key in it]
        for key, array in CONV.items():
            file[f"conv/conv/{key}"] = array
        for layer, arrays in LAYERS:
            for key, array in arrays.items():
                file[f"body/{layer}/{key}:0"] = array
    assert_layers(tmp_path / "model.h5", [("conv", CONV), *LAYERS])


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "weights.h5"
    content = write_keras_h5(path, LAYERS).read_bytes()
    zipped = gzip.compress(content)
    middle = len(zipped) // 2
    broken = zipped[:middle] + bytes([zipped[middle] ^ 0xFF]) + zipped[middle + 1 :]
    renamed = [content.replace(b"layer_names", b"other_names"), content.replace(b"a_norm\0", b"b_norm\0")]
    for damaged in (b"version https", b"", content[:1000], zipped[:-100], broken, gzip.compress(b"not HDF5"), *renamed):
        path.write_bytes(damaged)
        with pytest.raises(EdgeseaError, match=r"weights\.h5: "):
            read_keras_h5(path)


def weights(layers: Layers) -> dict[str, np.ndarray]:
    state = keras_to_torch(layers, SHAPES, "some/file.h5")
    check_shapes({name: array.shape for name, array in state.items()}, SHAPES, "some/file.h5")
    return state


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"a_norm": {}}, "1 layers"),
        ({"more": NORM}, "3 layers"),
        ({"a_norm": {"kernel": np.ones((3, 4)), "bias": np.ones(4)}}, "1.bias"),
        ({"a_norm": {"gamma": np.ones(3), "beta": np.ones(3)}}, "1.running_mean"),
        ({"z_conv": {**CONV, "recurrent_kernel": np.ones(3)}}, "0.recurrent_kernel"),
        ({"z_conv": {**CONV, "kernel": np.ones((3, 5, 2, 3), np.int8)}}, "z_conv/kernel"),
    ],
)
def test_other_models_are_refused(changed, word):
    with pytest.raises(EdgeseaError, match=rf"some/file\.h5: .*{word}"):
        weights({**dict(LAYERS), **changed})
