"""Scenes of docs/garments.py for the tests, where Fashion-MNIST is installed."""

import os

import pytest

FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
needs_fashion_mnist = pytest.mark.skipif(
    not os.path.isdir(FASHION_MNIST), reason=f"no Fashion-MNIST in {FASHION_MNIST}"
)


def write(folder, train=6, val=4):
    from docs import garments

    garments.write(folder, train, val, fashion_mnist=FASHION_MNIST)
    return folder
