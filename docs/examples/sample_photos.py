"""Create the folders of images that the examples were run on, from well-known photographs.

    python docs/examples/sample_photos.py

It writes to the current folder:

    photos/                      pieces of 12 photographs, JPEG and PNG files of 52 to 64 pixels a
                                 side, no two of which share a pixel; copies of 30 of them that were
                                 encoded again, resized or cropped; and one damaged file
    labeled/train/PHOTOGRAPH/    25 pieces of each of eight photographs: 200 labeled images
    labeled/test/PHOTOGRAPH/     the other pieces of these eight photographs
"""

import io
import pathlib
import sys

import numpy as np
import PIL.Image
import skimage.data
from sklearn.datasets import load_sample_image

# Photographs with enough pieces that do not look alike.
PHOTOGRAPHS = {
    "astronaut": skimage.data.astronaut,
    "brick": skimage.data.brick,
    "camera": skimage.data.camera,
    "chelsea": skimage.data.chelsea,
    "china": lambda: load_sample_image("china.jpg"),
    "coffee": skimage.data.coffee,
    "coins": skimage.data.coins,
    "flower": lambda: load_sample_image("flower.jpg"),
    "grass": skimage.data.grass,
    "gravel": skimage.data.gravel,
    "immunohistochemistry": skimage.data.immunohistochemistry,
    "stereo_motorcycle": lambda: skimage.data.stereo_motorcycle()[0],
}
CELL = 64  # Pixels: a photograph is divided into squares of this side, which give one piece each.
SHORTEST = 52  # Pixels: minimum side of a piece.
FLAT = 16.0  # Gray levels: a piece with a lower standard deviation is dropped.
COPIES = 10  # Of each kind.
CLASSES, TRAIN = 8, 25  # Labeled photographs, and training images of each.


def main():
    folder = pathlib.Path("photos")
    for path in (folder, pathlib.Path("labeled")):
        if path.exists():
            sys.exit(f"error: {path.resolve()} exists: run this script in another folder")
    generator = np.random.default_rng(0)
    pieces = {name: cut(read(), generator) for name, read in PHOTOGRAPHS.items()}
    for name, images in pieces.items():
        for number, image in enumerate(images):
            save(image, folder / f"{name}_{number:03}{('.jpg', '.png')[number % 2]}")

    names = sorted(path.name for path in folder.iterdir())
    chosen = generator.choice(names, 3 * COPIES, replace=False)
    for number, name in enumerate(chosen):
        suffix, change = list(CHANGES.items())[number % 3]
        with PIL.Image.open(folder / name) as image:
            stem, _ = name.split(".")
            change(image).save(folder / f"{stem}_{suffix}.jpg", quality=80)
    intact = io.BytesIO()
    PIL.Image.fromarray(next(iter(pieces.values()))[0]).save(intact, "jpeg")
    (folder / "damaged.jpg").write_bytes(intact.getvalue()[: len(intact.getvalue()) // 2])

    for name in sorted(pieces, key=lambda name: -len(pieces[name]))[:CLASSES]:
        for rank, index in enumerate(generator.permutation(len(pieces[name]))):
            part = "train" if rank < TRAIN else "test"
            save(pieces[name][index], pathlib.Path("labeled") / part / name / f"{index:03}.jpg")


def cut(photograph, generator):
    """Return one piece of each square of a grid, each uint8 `[h, w]` or `[h, w, 3]`."""
    pieces = []
    for top in range(0, photograph.shape[0] - CELL + 1, CELL):
        for left in range(0, photograph.shape[1] - CELL + 1, CELL):
            height, width = generator.integers(SHORTEST, CELL + 1, 2)
            piece = photograph[top : top + height, left : left + width]
            if piece.std(axis=(0, 1)).mean() >= FLAT:
                pieces.append(piece)
    return pieces


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image).save(path, quality=92)


def resize(image):
    return image.resize([round(0.75 * side) for side in image.size], PIL.Image.Resampling.LANCZOS)


def crop(image):
    width, height = image.size
    return image.crop((width // 20, height // 20, width - width // 20, height - height // 20))


# By the suffix of the file's name.
CHANGES = {"encoded": lambda image: image, "smaller": resize, "cropped": crop}

if __name__ == "__main__":
    main()
