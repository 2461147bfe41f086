"""The images of the benchmarks of whole pipelines."""

import pathlib

import numpy as np


def write_images(folder, count):
    """JPEG files of 500 x 375 cut from photographs; returns the mean of their sizes in bytes."""
    import skimage.data
    from PIL import Image

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
