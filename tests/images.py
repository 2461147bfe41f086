"""Small photographs for the tests, cut from scikit-image's samples."""

import numpy as np
import PIL.Image
import skimage.data


def patch():
    """Return a small colorful piece of the astronaut, uint8 `[32, 48, 3]`."""
    return skimage.data.astronaut()[100:132, 200:248]


def crops(count, side, seed=0):
    """Return `count` crops of the astronaut, uint8 `[side, side, 3]` each."""
    photograph = skimage.data.astronaut()
    corners = np.random.default_rng(seed).integers(0, 512 - side, size=(count, 2))
    return [photograph[y : y + side, x : x + side] for y, x in corners]


def write_folder(folder, classes=("left", "right"), images_per_class=40, side=40):
    """Write JPEG files to a subfolder for each class, and return the folder."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index, image in enumerate(crops(images_per_class, side, seed=number)):
            PIL.Image.fromarray(image).save(folder / name / f"{index:03}.jpg", quality=95)
    return folder


def write_pieces(folder, paths, side, damaged):
    """Write PNG files cut from a photograph along its diagonal, one of which is damaged."""
    photograph = skimage.data.coffee()
    for number, path in enumerate(paths):
        (folder / path).parent.mkdir(exist_ok=True)
        corner = 30 * number
        piece = photograph[corner : corner + side, corner : corner + side]
        PIL.Image.fromarray(piece).save(folder / path)
    (folder / damaged).write_text("not an image\n")
    return folder
