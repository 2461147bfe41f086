"""Folders of small PNG files for the benchmark of a whole training."""

import pathlib

import numpy as np
from PIL import Image

FASHION_MNIST = "/usr/share/datasets/fashion-mnist"  # Debian's package dataset-fashion-mnist.
FASHION_TRAIN, FASHION_TEST = 8192, 2000


def write_photos(folder: pathlib.Path) -> None:
    """Write the patches of the `photos` source, 32 x 32 pixels."""
    from moco_tf.data.sources.photos import load_patches

    patches = load_patches()
    for part, indices in (("train", patches.train), ("test", patches.test)):
        _write(folder / part, patches.images[indices, :, :, 0], patches.labels[indices])


def write_fashion_mnist(folder: pathlib.Path) -> None:
    """Write the first images of Fashion-MNIST, 28 x 28 pixels."""
    from moco_tf.data.sources.idx import load_parts

    train, test = load_parts(FASHION_MNIST)
    for name, part, count in (("train", train, FASHION_TRAIN), ("test", test, FASHION_TEST)):
        _write(folder / name, part.images[:count], part.labels[:count])


def _write(folder: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write gray images, uint8 `[N, H, W]`, to one subfolder per class."""
    for label in np.unique(labels):
        (folder / f"{label:02}").mkdir(parents=True)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(folder / f"{label:02}" / f"{number:05}.png")
