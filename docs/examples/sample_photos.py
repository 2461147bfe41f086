"""Writes the folders that the examples were run on: pieces of the sample photographs that
scikit-image and scikit-learn ship.

    python docs/examples/sample_photos.py

In the current folder it writes

    photos/                      pieces of 12 photographs, JPEG and PNG files of 52 to 64 pixels a
                                 side, no two of which share a pixel; copies of 30 of them, encoded
                                 again, made smaller or cropped; and a file that is damaged
    labelled/train/PHOTOGRAPH/   25 pieces of each of eight photographs: 200 labelled images
    labelled/test/PHOTOGRAPH/    the others of these eight
"""

import io
import pathlib

import numpy as np
import PIL.Image

from moco_tf.cli import app
from moco_tf.data.sources import photos

# Of these one piece is much like another, or there are few.
LEFT_OUT = ("cell", "hubble_deep_field", "moon", "page", "retina", "rocket", "text")
CELL = 64  # pixels, side of the squares of a photograph, each of which gives one piece
SHORTEST = 52  # pixels, the shortest side of a piece
FLAT = 16.0  # grey levels; a piece whose standard deviation is below is left out
COPIES = 10  # of each kind
CLASSES, TRAIN = 8, 25


def main(_):
    folder = pathlib.Path("photos")
    for path in (folder, pathlib.Path("labelled")):
        if path.exists():
            raise app.UserError(f"{path.resolve()} exists: call this in another folder")
    generator = np.random.default_rng(0)
    pieces = {
        name: cut(photos.read(name), generator)
        for name in photos.PHOTOGRAPHS
        if name not in LEFT_OUT
    }
    for name, images in pieces.items():
        for number, image in enumerate(images):
            save(image, folder / f"{name}_{number:03}{('.jpg', '.png')[number % 2]}")

    names = sorted(path.name for path in folder.iterdir())
    chosen = generator.choice(names, 3 * COPIES, replace=False)
    for number, name in enumerate(chosen):
        kind, change = list(COPY.items())[number % 3]
        with PIL.Image.open(folder / name) as image:
            stem, _ = name.split(".")
            change(image).save(folder / f"{stem}_{kind}.jpg", quality=80)
    whole = io.BytesIO()
    PIL.Image.fromarray(next(iter(pieces.values()))[0]).save(whole, "jpeg")
    (folder / "damaged.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])

    for name in sorted(pieces, key=lambda name: -len(pieces[name]))[:CLASSES]:
        for place, index in enumerate(generator.permutation(len(pieces[name]))):
            part = "train" if place < TRAIN else "test"
            save(pieces[name][index], pathlib.Path("labelled") / part / name / f"{index:03}.jpg")


def cut(photograph, generator):
    """Pieces of a photograph, one of each square of a grid: a list of uint8 `[h, w]` or
    `[h, w, 3]`."""
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


def smaller(image):
    return image.resize([round(0.75 * side) for side in image.size], PIL.Image.Resampling.LANCZOS)


def cropped(image):
    width, height = image.size
    return image.crop((width // 20, height // 20, width - width // 20, height - height // 20))


COPY = {
    "encoded": lambda image: image,
    "smaller": smaller,
    "cropped": cropped,
}

if __name__ == "__main__":
    app.run(main)
