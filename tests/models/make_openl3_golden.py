"""Make ``openl3_golden.npz`` with TensorFlow: embeddings of OpenL3 networks with random weights.

Run in an environment of its own:

    python -m venv /tmp/tfenv && /tmp/tfenv/bin/pip install tensorflow-cpu tf_keras kapre h5py
    /tmp/tfenv/bin/python tests/models/make_openl3_golden.py [--keras-files FOLDER]

The spectrogram is computed by ``tf.signal`` in double precision with librosa's mel filters, and compared with the layer
of kapre (single precision), which OpenL3 itself uses. With ``--keras-files`` the networks, including kapre's layer, are
also stored by Keras' own ``save_weights`` and ``save``.
"""

import argparse
import os
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # Keras 2, the one that kapre and the published files know

import librosa
import numpy as np
import tensorflow as tf
import tf_keras as keras
from kapre.composed import get_melspectrogram_layer, get_stft_magnitude_layer
from openl3_random import VARIANTS, random_layers, windows

POOLS = {"mel256-512": (32, 24), "mel128-6144": (4, 8), "linear-512": (32, 24)}


def spectrogram(variant: str, audio: np.ndarray) -> tf.Tensor:
    """Log-spectrograms (B, bands, frames, 1) float64."""
    linear = variant.startswith("linear")
    length = 512 if linear else 2048
    stft = tf.signal.stft(audio.astype(np.float64), length, 242, length, tf.signal.hann_window, pad_end=not linear)
    bands = tf.abs(stft)
    if not linear:
        n_mels = int(variant[3:6])
        bands @= librosa.filters.mel(sr=48000, n_fft=2048, n_mels=n_mels, dtype=np.float64).T
    decibels = 10.0 * tf.experimental.numpy.log10(tf.maximum(bands, 1e-10))
    decibels = tf.maximum(decibels - tf.reduce_max(decibels, axis=(1, 2), keepdims=True), -80.0)
    return tf.transpose(decibels, (0, 2, 1))[..., None]


def network(shape: tuple[int, int, int], filters: tuple[int, ...] = (64, 128, 256, 512)) -> list[keras.layers.Layer]:
    """Layers that map a spectrogram to the last feature map."""
    layers: list[keras.layers.Layer] = [keras.layers.BatchNormalization(input_shape=shape)]
    for block, channels in enumerate(filters):
        for position in (1, 2):
            last = block == len(filters) - 1 and position == 2
            name = "audio_embedding_layer" if last else None
            layers.append(keras.layers.Conv2D(channels, 3, padding="same", name=name))
            if not last:
                layers += [keras.layers.BatchNormalization(), keras.layers.ReLU()]
        if block < len(filters) - 1:
            layers.append(keras.layers.MaxPooling2D(2))
    return layers


def set_weights(layers: list[keras.layers.Layer]) -> None:
    """Give the layers that have weights those of `random_layers`, in order."""
    holders = [layer for layer in layers if layer.weights]
    for layer, (_, arrays) in zip(holders, random_layers(), strict=True):
        layer.set_weights(list(arrays.values()))


def kapre_front_end(variant: str) -> keras.Sequential:
    """The layer of kapre up to the magnitudes, as OpenL3 0.4 configures it: (B, 1, 48000) -> (B, bands, frames, 1)."""
    formats = {"input_data_format": "channels_first", "output_data_format": "channels_last"}
    if variant.startswith("linear"):
        front_end = get_stft_magnitude_layer(input_shape=(1, 48000), n_fft=512, hop_length=242, **formats)
    else:
        front_end = get_melspectrogram_layer(
            input_shape=(1, 48000),
            n_fft=2048,
            hop_length=242,
            n_mels=int(variant[3:6]),
            sample_rate=48000,
            pad_end=True,
            **formats,
        )
    front_end.add(keras.layers.Permute((2, 1, 3)))
    return front_end


def save_by_keras(variant: str, folder: Path) -> None:
    """Store the network behind kapre's front end in the two layouts of Keras 2."""
    keras.backend.clear_session()
    front_end = kapre_front_end(variant)
    layers = network(front_end.output_shape[1:])
    output = front_end(inputs := keras.Input((1, 48000)))
    for layer in layers:
        output = layer(output)
    set_weights(layers)
    model = keras.Model(inputs, output)
    model.save_weights(folder / f"{variant}-weights.h5")
    body = keras.Sequential(layers)
    body.save(folder / f"{variant}-model.h5")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keras-files", type=Path)
    folder = parser.parse_args().keras_files
    audio = windows()
    golden: dict[str, np.ndarray] = {}
    for variant in VARIANTS:
        log_mel = spectrogram(variant, audio)
        magnitudes = kapre_front_end(variant)(audio[:, None]).numpy()
        decibels = 10 * np.log10(np.maximum(magnitudes, 1e-10))
        decibels = np.maximum(decibels - decibels.max((1, 2, 3), keepdims=True), -80)
        error = np.abs(decibels - log_mel.numpy()).max((1, 2, 3))
        layers = network(log_mel.shape[1:])
        model = keras.Sequential([*layers, keras.layers.MaxPooling2D(POOLS[variant], padding="same")])
        model.add(keras.layers.Flatten())
        set_weights(layers)
        golden[f"{variant}/embedding"] = model.predict(tf.cast(log_mel, tf.float32), verbose=0)
        golden[f"{variant}/log_mel"] = log_mel.numpy()[:, ::7, ::7, 0].astype(np.float32)
        print(variant, log_mel.shape, model.count_params(), "kapre's largest deviation per window, dB:", error)
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            save_by_keras(variant, folder)
    np.savez_compressed(Path(__file__).with_name("openl3_golden.npz"), **golden)


if __name__ == "__main__":
    main()
