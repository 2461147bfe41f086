"""The images of the study of transfer, made by docs/garments.py.

Everything that is trained on shows training photographs and training images of Fashion-MNIST, and
everything that is tested on shows the others. Pre-training has all ten kinds of garments; the
annotated scenes have four.
"""

import json
import os
import pathlib
import shutil
import zlib
from collections.abc import Sequence

import numpy as np

from docs import garments
from moco_tf.errors import UserError
from studies.transfer.design import Design

FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
SCENES, UNLABELED, SINGLE = "scenes", "unlabeled.npy", "single"
MADE_FROM = "images.json"  # What the images were made from.
NUMBERS = ("num_train", "num_test", "scene_size", "pretrain_images", "pretrain_test_images")
# The parts of Fashion-MNIST, and the photographs that go with them.
PARTS = {"train": garments.TRAIN_PHOTOGRAPHS, "t10k": garments.TEST_PHOTOGRAPHS}
# What the random numbers of a picture depend on besides its number; those of the annotated scenes
# have only two keys before it.
UNLABELED_KEY, SINGLE_KEYS = (0, 2, 0), {"train": (0, 3, 0), "t10k": (0, 4, 0)}


def write(design: Design, directory: str, fashion_mnist: str) -> None:
    """Write the images of the study, unless they are there.

    Args:
        design: The design of the study.
        directory: Directory to write to: `scenes` in COCO's format, `unlabeled.npy` for MoCo, and
            `single`, a folder of IDX files of single garments with their labels.
        fashion_mnist: Folder with the files of Fashion-MNIST.

    Raises:
        UserError: If there is no such folder, the directory has images that were made from others
            or with other numbers, or it cannot be written.
    """
    if not os.path.isdir(fashion_mnist):
        raise UserError(
            f"there is no folder {fashion_mnist}: install dataset-fashion-mnist, or set "
            "--fashion_mnist"
        )
    size = design.scene_size, design.scene_size
    folder = pathlib.Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _require_same_origin(design, folder, fashion_mnist)
        if not (folder / SCENES).exists():
            partial = _empty(folder / f"{SCENES}.partial")
            garments.write(partial, design.num_train, design.num_test, 0, fashion_mnist, size)
            partial.rename(folder / SCENES)
        if not (folder / UNLABELED).exists():
            images, _ = _draw(fashion_mnist, "train", UNLABELED_KEY, design.pretrain_images, size)
            partial = folder / f"partial_{UNLABELED}"
            np.save(partial, images)
            partial.rename(folder / UNLABELED)
        if not (folder / SINGLE).exists():
            partial = _empty(folder / f"{SINGLE}.partial")
            counts = {"train": design.pretrain_images, "t10k": design.pretrain_test_images}
            for part, count in counts.items():
                images, categories = _draw(
                    fashion_mnist, part, SINGLE_KEYS[part], count, size, max_garments=1
                )
                labels = np.array([category - 1 for [category] in categories], np.uint8)
                (partial / f"{part}-images-idx3-ubyte").write_bytes(_idx(images))
                (partial / f"{part}-labels-idx1-ubyte").write_bytes(_idx(labels))
            partial.rename(folder / SINGLE)
    except OSError as error:
        raise UserError(
            f"--workdir={directory} cannot be written ({error.strerror or error}): choose another "
            "directory"
        ) from error


def _require_same_origin(design: Design, folder: pathlib.Path, fashion_mnist: str) -> None:
    """Note what the images are made from, or check it if they exist.

    Raises:
        UserError: If the images there were made from others, or with other numbers.
    """
    checksum = 0
    for part in PARTS:
        for array in garments.read_fashion_mnist(fashion_mnist, part):
            checksum = zlib.crc32(array.tobytes(), checksum)
    origin = {name: getattr(design, name) for name in NUMBERS}
    origin["fashion_mnist"] = f"{checksum:08x}"
    path = folder / MADE_FROM
    if path.exists():
        saved = json.loads(path.read_text(encoding="utf-8"))
        if differing := [name for name in origin if saved.get(name) != origin[name]]:
            raise UserError(
                f"--workdir={folder} has images that differ in {', '.join(differing)}: choose "
                "another --workdir and another --out"
            )
    elif not any((folder / name).exists() for name in (SCENES, UNLABELED, SINGLE)):
        # Images of earlier versions have no such file.
        path.write_text(json.dumps(origin), encoding="utf-8")


def _draw(
    fashion_mnist: str,
    part: str,
    keys: Sequence[int],
    count: int,
    size: tuple[int, int],
    max_garments: int = garments.MAX_GARMENTS,
) -> tuple[np.ndarray, list[list[int]]]:
    """Return scenes with garments of all kinds, uint8 `[N, H, W]`, and the kinds in each."""
    pictures, labels = garments.read_fashion_mnist(fashion_mnist, part)
    kinds = {int(label) + 1: pictures[labels == label] for label in np.unique(labels)}
    photographs = [garments.read_photograph(name) for name in PARTS[part]]
    images = np.empty([count, *size], np.uint8)
    categories = []
    for number in range(count):
        generator = np.random.default_rng([*keys, number])
        image, in_scene, _ = garments.make_scene(generator, photographs, kinds, size, max_garments)
        images[number] = image[..., 0]  # The channels are equal.
        categories.append(in_scene)
    return images, categories


def _empty(folder: pathlib.Path) -> pathlib.Path:
    """Create a folder, without what an interrupted call left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _idx(array: np.ndarray) -> bytes:
    """Encode an array of bytes as an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
