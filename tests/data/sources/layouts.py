"""Folders of tiny images, and what the `folder` source makes of them."""

import os

import numpy as np
import skimage.data
from PIL import Image

from moco_tf.data import sources

PHOTO = skimage.data.astronaut()


def write(folder, *paths):
    """Write a file for each path: an image, or a text if the suffix is not that of an image.

    A path that ends in a slash becomes an empty folder.
    """
    for number, path in enumerate(paths):
        target = os.path.join(folder, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if path.lower().endswith((".png", ".jpg", ".gif")):
            image = Image.fromarray(np.roll(PHOTO[:8, :8], number, axis=0))
            image.save(target, "PNG")
        elif not path.endswith("/"):
            with open(target, "w") as file:
                file.write("Business as usual: this is not an image.\n" * 2)


def load(folder):
    return sources.load(f"folder:{folder}")


def paths_of(source, folder, indices):
    return [os.path.relpath(source.describe(int(index)), folder) for index in indices]


def parts(source, folder):
    """Return the paths of the three parts of a source: pretrain, train, test."""
    return [
        paths_of(source, folder, indices)
        for indices in (source.pretrain, source.train, source.test)
    ]


def label_names(source, folder):
    """Return the class of each labeled image, by its path."""
    paths = paths_of(source, folder, range(source.size))
    return {
        path: source.class_names[label]
        for path, label in zip(paths, source.labels, strict=True)
        if label >= 0
    }
