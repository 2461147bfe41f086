"""Annotated scenes for the tests, made by docs/garments.py if Fashion-MNIST is installed."""

import os

import pytest

FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
needs_fashion_mnist = pytest.mark.skipif(
    not os.path.isdir(FASHION_MNIST), reason=f"no Fashion-MNIST in {FASHION_MNIST}"
)


def write(folder, train=6, val=4):
    """Write scenes as a folder in COCO's format, and return the folder."""
    from docs import garments

    garments.write(folder, train, val, fashion_mnist=FASHION_MNIST)
    return folder
