"""Writes scenes whose objects are known exactly, as a folder in COCO's format.

    python docs/garments.py --out=scenes

A scene is a piece of a photograph, one of those that scikit-image and scikit-learn ship, with
garments of Fashion-MNIST on it, cut out by their masks, in different sizes, some behind others. The
photographs of the scenes for training and for testing are different, as are the garments. All is
grey, as Fashion-MNIST is, so that no colour gives a garment away.

The images go to `scenes/train` and `scenes/val`, their boxes and masks to
`scenes/annotations/instances_train.json` and `instances_val.json`.
"""

import argparse
import json
import pathlib
import sys

import cv2
import numpy as np
import scipy.ndimage
from pycocotools import mask

from moco_tf.data.sources import idx, photos

CATEGORIES = {1: "T-shirt", 2: "trouser", 8: "sneaker", 9: "bag"}  # Fashion-MNIST's labels plus one
TEST_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
TRAIN_PHOTOGRAPHS = ("brick", "camera", "china", "coins", "flower", "grass", "gravel", "moon")
HEIGHT, WIDTH = 96, 128
LARGEST = (
    2.5  # pixels of a scene to a pixel of Fashion-MNIST, whose pictures have 28 by 28; at least 1
)
MOST = 3  # garments in a scene, at least 1
HIDDEN = 0.4  # share of a garment that others may cover


def cut_out(picture, scale):
    """A garment without what is around it, uint8 `[H, W]`, and its mask, bool `[H, W]`."""
    size = round(28 * scale)
    larger = cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR)
    parts, _ = scipy.ndimage.label(larger > 16)
    largest = np.argmax(np.bincount(parts.ravel())[1:]) + 1
    inside = scipy.ndimage.binary_fill_holes(parts == largest)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    tight = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return larger[tight], inside[tight]


def scene(generator, photographs, garments):
    """A scene, uint8 `[96, 128, 3]`, the categories of its garments, and what can be seen of each,
    bool `[96, 128]`."""
    photograph = photographs[generator.integers(len(photographs))]
    top, left = (
        generator.integers(side - wanted + 1)
        for side, wanted in zip(photograph.shape, (HEIGHT, WIDTH), strict=True)
    )
    image = photograph[top : top + HEIGHT, left : left + WIDTH].copy()
    categories, masks = [], []
    for _ in range(generator.integers(1, MOST + 1)):
        category = int(generator.choice(list(CATEGORIES)))
        pictures = garments[category]
        scale = generator.uniform(1, LARGEST)
        garment, inside = cut_out(pictures[generator.integers(len(pictures))], scale)
        height, width = inside.shape
        top, left = generator.integers(HEIGHT - height + 1), generator.integers(WIDTH - width + 1)
        own = np.zeros([HEIGHT, WIDTH], bool)
        own[top : top + height, left : left + width] = inside
        if any((m & own).sum() > HIDDEN * m.sum() for m in masks):
            continue
        image[own] = garment[inside]
        masks = [m & ~own for m in masks] + [own]
        categories.append(category)
    return np.repeat(image[..., np.newaxis], 3, axis=-1), categories, masks


def write(folder, train, val, seed=0, fashion_mnist="/usr/share/datasets/fashion-mnist"):
    """Writes the folder.

    Args:
        folder: where.
        train, val: ints, scenes for training and for testing.
        seed: int; a scene is a function of it, of its part and of its number.
        fashion_mnist: the folder of Fashion-MNIST's files.
    """
    folder = pathlib.Path(folder)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    parts = (("train", train, TRAIN_PHOTOGRAPHS), ("val", val, TEST_PHOTOGRAPHS))
    for number, (part, count, names) in enumerate(parts):
        pictures = idx.load_parts(fashion_mnist)[number]
        garments = {id_: pictures.images[pictures.labels == id_ - 1] for id_ in CATEGORIES}
        photographs = [photos.read_gray(name) for name in names]
        images, annotations = [], []
        (folder / part).mkdir(exist_ok=True)
        for index in range(count):
            generator = np.random.default_rng([seed, number, index])
            image, categories, masks = scene(generator, photographs, garments)
            name = f"{index:06}.png"
            cv2.imwrite(str(folder / part / name), image)
            images.append({"id": index, "file_name": name, "height": HEIGHT, "width": WIDTH})
            for category, own in zip(categories, masks, strict=True):
                run_lengths = mask.encode(np.asfortranarray(own, np.uint8))
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index,
                        "category_id": category,
                        "bbox": mask.toBbox(run_lengths).tolist(),
                        "area": int(mask.area(run_lengths)),
                        "segmentation": {
                            "size": run_lengths["size"],
                            "counts": run_lengths["counts"].decode(),
                        },
                        "iscrowd": 0,
                    }
                )
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": id_, "name": name} for id_, name in CATEGORIES.items()],
        }
        path = folder / "annotations" / f"instances_{part}.json"
        path.write_text(json.dumps(content))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", required=True, help="the folder to write")
    parser.add_argument("--train", type=int, default=400, help="scenes for training")
    parser.add_argument("--val", type=int, default=100, help="scenes for testing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--fashion_mnist",
        default="/usr/share/datasets/fashion-mnist",
        help="the folder of Fashion-MNIST's files, on Debian of the package dataset-fashion-mnist",
    )
    options = parser.parse_args()
    write(options.out, options.train, options.val, options.seed, options.fashion_mnist)
    print(f"wrote {options.out}: {options.train} scenes for training, {options.val} for testing")


if __name__ == "__main__":
    sys.exit(main())
