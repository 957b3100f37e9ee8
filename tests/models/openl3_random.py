"""Random weights and synthetic windows for OpenL3, as in the golden data that TensorFlow computed from them."""

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

Layer = tuple[str, dict[str, NDArray[np.float32]]]

FILTERS = (64, 64, 128, 128, 256, 256, 512, 512)
VARIANTS = ("mel256-512", "mel128-6144", "linear-512")


def random_layers(seed: int = 20210606) -> list[Layer]:
    """Layers of an OpenL3 network in topological order: numbers of unit scale, normalisations far from the identity."""
    rng = np.random.default_rng(seed)

    def batch_norm(index: int, channels: int, mean: float, scale: float) -> Layer:
        arrays = {
            "gamma": rng.uniform(0.5, 1.5, channels),
            "beta": rng.normal(0.0, 0.2, channels),
            "moving_mean": rng.normal(mean, 0.2 * scale, channels),
            "moving_variance": scale**2 * rng.uniform(0.5, 1.5, channels),
        }
        name = "batch_normalization" + (f"_{index}" if index else "")
        return name, {key: array.astype(np.float32) for key, array in arrays.items()}

    layers = [batch_norm(0, 1, -40.0, 20.0)]
    channels = 1
    for index, filters in enumerate(FILTERS):
        kernel = rng.standard_normal((3, 3, channels, filters), np.float32) * np.float32((2 / (9 * channels)) ** 0.5)
        bias = rng.normal(0.0, 0.1, filters).astype(np.float32)
        last = index == len(FILTERS) - 1
        name = "audio_embedding_layer" if last else "conv2d" + (f"_{index}" if index else "")
        layers.append((name, {"kernel": kernel, "bias": bias}))
        if not last:
            layers.append(batch_norm(index + 1, filters, 0.0, 1.0))
        channels = filters
    return layers


def windows() -> NDArray[np.float32]:
    """Noise, a chirp from 50 Hz to 20 kHz, and silence: (3, 48000) float32."""
    time = np.arange(48000) / 48000
    noise = 0.1 * np.random.default_rng(1).standard_normal(48000)
    chirp = 0.5 * np.sin(2 * np.pi * (50 * time + 0.5 * (20000 - 50) * time**2))
    return np.stack([noise, chirp, np.zeros(48000)]).astype(np.float32)


def write_keras_h5(path: Path, layers: list[Layer], full_model: bool = False) -> Path:
    """Write layers as ``save_weights`` of Keras 2 does, or as ``save`` does (``full_model``)."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if full_model else file
        # Like Keras, with layers between that hold nothing
        root.attrs["layer_names"] = ["input_1", *[name for name, _ in layers], "activation"]
        for name in ("input_1", "activation", "top_level_model_weights"):
            root.create_group(name).attrs["weight_names"] = np.zeros(0)
        for name, arrays in layers:
            group = root.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{key}:0" for key in arrays]
            for key, array in arrays.items():
                group[f"{name}/{key}:0"] = array
    return path
