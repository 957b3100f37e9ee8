"""The convolutional stack that OpenL3 and the students share."""

from collections.abc import Sequence

from torch import nn


def l3_blocks(filters: Sequence[int]) -> list[nn.Module]:
    """Blocks of two 3x3 'same' convolutions with 2x2 max pools between them.

    Parameters
    ----------
    filters : sequence of int
        Filters of each block.

    Returns
    -------
    list of Module
        From one channel to ``filters[-1]``: each convolution (with bias) is followed by batch normalisation
        (eps 1e-3) and ReLU.
    """
    layers: list[nn.Module] = []
    channels = 1
    for block, outputs in enumerate(filters):
        if block:
            layers.append(nn.MaxPool2d(2))
        for _ in range(2):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU()]
            channels = outputs
    return layers
