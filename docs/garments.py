"""Create scenes with known objects, as a folder in COCO format.

    python docs/garments.py --out=scenes

A scene is a piece of a photograph of scikit-image or scikit-learn, with garments of Fashion-MNIST
pasted onto it in different sizes, some of them partly hidden by others. Training and test scenes
have different photographs and different garments. Everything is gray, as Fashion-MNIST is, so that
color does not give a garment away.

The images go to `scenes/train` and `scenes/val`, their boxes and masks to
`scenes/annotations/instances_train.json` and `instances_val.json`.
"""

import argparse
import gzip
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import scipy.ndimage
import skimage.data
from pycocotools import mask
from sklearn.datasets import load_sample_image

CATEGORIES = {1: "T-shirt", 2: "trouser", 8: "sneaker", 9: "bag"}  # Fashion-MNIST's labels + 1.
TEST_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
TRAIN_PHOTOGRAPHS = ("brick", "camera", "china", "coins", "flower", "grass", "gravel", "moon")
SIZE = 96, 128  # Height and width of a scene in pixels.
MAX_SCALE = 2.5  # Largest size of a garment, relative to the 28 x 28 pixels of Fashion-MNIST.
MAX_GARMENTS = 3  # In a scene.
MAX_HIDDEN = 0.4  # Fraction of a garment that another one may hide.


def read_photograph(name: str) -> np.ndarray:
    """Return a photograph in grayscale, uint8 `[H, W]`."""
    if name in ("china", "flower"):
        image = load_sample_image(f"{name}.jpg")
    else:
        image = getattr(skimage.data, name)()
    if image.ndim == 3:
        image = np.round(image[..., :3] @ [0.299, 0.587, 0.114]).astype(np.uint8)
    return image


def read_fashion_mnist(folder: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 `[N, 28, 28]`, and labels, uint8 `[N]`, of the part train or t10k."""
    images, labels = (
        gzip.decompress(pathlib.Path(folder, f"{part}-{name}-ubyte.gz").read_bytes())
        for name in ("images-idx3", "labels-idx1")
    )
    return (
        np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28),
        np.frombuffer(labels, np.uint8, offset=8),
    )


def cut_out(picture: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a garment without its background, uint8 `[H, W]`, and its mask, bool `[H, W]`."""
    size = round(28 * scale)
    larger = cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR)
    parts, _ = scipy.ndimage.label(larger > 16)
    largest = np.argmax(np.bincount(parts.ravel())[1:]) + 1
    inside = scipy.ndimage.binary_fill_holes(parts == largest)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return larger[box], inside[box]


def make_scene(
    generator: np.random.Generator,
    photographs: Sequence[np.ndarray],
    garments: Mapping[int, np.ndarray],
    size: tuple[int, int] = SIZE,
    max_garments: int = MAX_GARMENTS,
) -> tuple[np.ndarray, list[int], list[np.ndarray]]:
    """Create a scene.

    Args:
        generator: A NumPy random generator.
        photographs: Photographs in grayscale, uint8 `[H, W]` each.
        garments: `{category: images}`, uint8 `[N, 28, 28]` each.
        size: Height and width of the scene in pixels.
        max_garments: Largest number of garments to draw; the smallest is 1.

    Returns:
        image: uint8 `[height, width, 3]`.
        categories: Category of each garment.
        masks: Visible part of each garment, bool `[height, width]` each.
    """
    scene_height, scene_width = size
    photograph = photographs[int(generator.integers(len(photographs)))]
    top, left = (
        generator.integers(side - length + 1)
        for side, length in zip(photograph.shape, size, strict=True)
    )
    image = photograph[top : top + scene_height, left : left + scene_width].copy()
    categories: list[int] = []
    masks: list[np.ndarray] = []
    for _ in range(generator.integers(1, max_garments + 1)):
        category = int(generator.choice(list(garments)))
        pictures = garments[category]
        scale = generator.uniform(1, MAX_SCALE)
        garment, inside = cut_out(pictures[generator.integers(len(pictures))], scale)
        height, width = inside.shape
        top = generator.integers(scene_height - height + 1)
        left = generator.integers(scene_width - width + 1)
        visible = np.zeros(size, bool)
        visible[top : top + height, left : left + width] = inside
        if any((other & visible).sum() > MAX_HIDDEN * other.sum() for other in masks):
            continue
        image[visible] = garment[inside]
        masks = [other & ~visible for other in masks] + [visible]
        categories.append(category)
    return np.repeat(image[..., np.newaxis], 3, axis=-1), categories, masks


def write(
    path: str | pathlib.Path,
    train: int,
    val: int,
    seed: int = 0,
    fashion_mnist: str = "/usr/share/datasets/fashion-mnist",
    size: tuple[int, int] = SIZE,
) -> None:
    """Write the folder.

    Args:
        path: Folder to create.
        train: Number of training scenes.
        val: Number of test scenes.
        seed: Random seed; a scene is a function of the seed, its part and its number.
        fashion_mnist: Folder with the files of Fashion-MNIST.
        size: Height and width of the scenes in pixels.
    """
    folder = pathlib.Path(path)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    parts = (("train", train, "train", TRAIN_PHOTOGRAPHS), ("val", val, "t10k", TEST_PHOTOGRAPHS))
    for number, (part, count, fashion_mnist_part, names) in enumerate(parts):
        pictures, labels = read_fashion_mnist(fashion_mnist, fashion_mnist_part)
        garments = {category: pictures[labels == category - 1] for category in CATEGORIES}
        photographs = [read_photograph(name) for name in names]
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        (folder / part).mkdir(exist_ok=True)
        for index in range(count):
            generator = np.random.default_rng([seed, number, index])
            image, categories, masks = make_scene(generator, photographs, garments, size)
            name = f"{index:06}.png"
            cv2.imwrite(str(folder / part / name), image)
            images.append({"id": index, "file_name": name, "height": size[0], "width": size[1]})
            for category, visible in zip(categories, masks, strict=True):
                run_lengths = mask.encode(np.asfortranarray(visible, np.uint8))
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="folder to create")
    parser.add_argument("--train", type=int, default=400, help="number of training scenes")
    parser.add_argument("--val", type=int, default=100, help="number of test scenes")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument(
        "--fashion_mnist",
        default="/usr/share/datasets/fashion-mnist",
        help="folder with the .gz files of Fashion-MNIST, as in Debian's dataset-fashion-mnist",
    )
    options = parser.parse_args()
    if not pathlib.Path(options.fashion_mnist).is_dir():
        parser.error(
            f"there is no folder {options.fashion_mnist}: install dataset-fashion-mnist, or set "
            "--fashion_mnist"
        )
    write(options.out, options.train, options.val, options.seed, options.fashion_mnist)
    print(f"wrote {options.out}: {options.train} training and {options.val} test scenes")


if __name__ == "__main__":
    main()
