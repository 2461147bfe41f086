"""JPEG files for the benchmarks, cut from the sample photographs of scikit-image."""

import pathlib

import numpy as np
import skimage.data
from PIL import Image


def write_images(folder: str, count: int) -> float:
    """Write JPEG files of 500 x 375 pixels, and return their mean size in bytes."""
    names = ("astronaut", "chelsea", "coffee", "immunohistochemistry", "rocket")
    photographs = [Image.fromarray(getattr(skimage.data, name)()[..., :3]) for name in names]
    random = np.random.default_rng(0)
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        width = int(random.uniform(0.6, 1) * min(photograph.width, photograph.height * 4 / 3))
        height = width * 3 // 4
        left = int(random.integers(photograph.width - width + 1))
        top = int(random.integers(photograph.height - height + 1))
        image = photograph.resize((500, 375), box=(left, top, left + width, top + height))
        image.save(f"{folder}/{number:05}.jpg", quality=90)
    return sum(file.stat().st_size for file in pathlib.Path(folder).iterdir()) / count


def write_small_images(folder: pathlib.Path, count: int) -> None:
    """Write JPEG files of 64 x 64 pixels, `0.jpg` and so on."""
    photograph = skimage.data.astronaut()
    corners = np.random.default_rng(0).integers(0, 512 - 64, size=(count, 2))
    for number, (y, x) in enumerate(corners):
        Image.fromarray(photograph[y : y + 64, x : x + 64]).save(folder / f"{number}.jpg")
