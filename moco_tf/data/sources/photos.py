"""The source `photos`: patches of the sample photographs in scikit-image and scikit-learn."""

import dataclasses
import functools
import importlib.util
import itertools
import os
import zlib

import numpy as np
import PIL.Image
import tensorflow as tf

from moco_tf.data.sources.source import Source

# The photographs, each of which is a class, and the package that contains it.
PHOTOGRAPHS = {
    "astronaut": "skimage",
    "brick": "skimage",
    "camera": "skimage",
    "cell": "skimage",
    "chelsea": "skimage",
    "china": "sklearn",
    "coffee": "skimage",
    "coins": "skimage",
    "flower": "sklearn",
    "grass": "skimage",
    "gravel": "skimage",
    "hubble_deep_field": "skimage",
    "immunohistochemistry": "skimage",
    "moon": "skimage",
    "page": "skimage",
    "retina": "skimage",
    "rocket": "skimage",
    "stereo_motorcycle": "skimage",
    "text": "skimage",
}

PATCH = 32  # Side of a patch, in pixels.
BLOCK = 64  # Side of a block, in pixels. A block as a whole is for training or for testing.
STRIDE = 8  # Distance between neighboring patches of a block, in pixels.
FLAT = 8.0  # Gray levels. A patch with a lower standard deviation is dropped.
CONTRAST = 48.0  # Standard deviation that every patch is scaled to, in gray levels.
MEAN = 128  # Mean that every patch is shifted to, in gray levels.
TRAIN_PATCHES, TEST_PATCHES = 500, 100  # Maximum number of patches of a photograph.


@dataclasses.dataclass(frozen=True)
class Patches:
    """Grayscale patches of the photographs.

    Attributes:
        images: uint8 `[N, 32, 32, 1]`.
        labels: int32 `[N]`, indices into `class_names`.
        corners: int64 `[N, 2]`, top and left of each patch in its photograph, in pixels.
        train: Indices of the training patches, int64.
        test: Indices of the test patches, int64.
        class_names: Names of the photographs.
    """

    images: np.ndarray
    labels: np.ndarray
    corners: np.ndarray
    train: np.ndarray
    test: np.ndarray
    class_names: list[str]


def load() -> Source:
    """Return the source of the patches. Pre-training sees the training patches only."""
    patches = load_patches()
    # Graphs capture a tensor; an array would be copied into each of them.
    images = tf.constant(patches.images)

    def describe(index: int) -> str:
        top, left = patches.corners[index].tolist()
        return f"{patches.class_names[patches.labels[index]]} at ({top}, {left})"

    return Source(
        name="photos",
        size=len(patches.images),
        read=lambda index: tf.repeat(images[index], 3, axis=-1),
        describe=describe,
        pretrain=patches.train,
        train=patches.train,
        test=patches.test,
        load_labels=lambda: (patches.labels, patches.class_names),
        list_contents=lambda: [
            f"patches with the checksum {zlib.crc32(patches.images.data):08x}".encode()
        ],
    )


@functools.cache
def load_patches() -> Patches:
    """Cut the photographs into patches.

    A photograph is cut into square blocks, every fourth of which is for testing. Patches overlap
    within a block and never cross its edge, so no pixel is in both parts. The number of patches of
    a photograph is limited, so that the classes have about the same weight, and the patches are
    evenly spread over the photograph. Every patch is scaled to the same mean and contrast, as is
    usual for textures, because brightness alone would often identify the class.

    Returns:
        The patches.
    """
    images: list[np.ndarray] = []
    corners: list[tuple[int, int]] = []
    labels: list[int] = []
    is_test: list[bool] = []
    for label, name in enumerate(PHOTOGRAPHS):
        photograph = read_gray(name)
        train_corners, test_corners = _corners(photograph)
        for part, limit in ((train_corners, TRAIN_PATCHES), (test_corners, TEST_PATCHES)):
            kept = np.linspace(0, len(part) - 1, min(limit, len(part)), dtype=int)
            for top, left in (part[index] for index in kept):
                images.append(photograph[top : top + PATCH, left : left + PATCH])
                corners.append((top, left))
                labels.append(label)
                is_test.append(part is test_corners)
    return Patches(
        images=_standardize(np.stack(images))[..., np.newaxis],
        labels=np.array(labels, np.int32),
        corners=np.array(corners),
        train=np.flatnonzero(np.logical_not(is_test)),
        test=np.flatnonzero(is_test),
        class_names=list(PHOTOGRAPHS),
    )


def _corners(photograph: np.ndarray) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the top left corners of the training and of the test patches that are not flat."""
    train: list[tuple[int, int]] = []
    test: list[tuple[int, int]] = []
    offsets = range(0, BLOCK - PATCH + 1, STRIDE)
    height, width = photograph.shape
    contrast = _contrast(photograph)
    for row, column in itertools.product(range(height // BLOCK), range(width // BLOCK)):
        part = test if (row + 2 * column) % 4 == 0 else train
        for y, x in itertools.product(offsets, offsets):
            top, left = row * BLOCK + y, column * BLOCK + x
            if contrast[top, left] >= FLAT:
                part.append((top, left))
    return train, test


def _contrast(photograph: np.ndarray) -> np.ndarray:
    """Return the standard deviation of the patch at each corner, float64 `[H - 31, W - 31]`."""
    values = photograph.astype(np.int64)
    total, squares = _patch_sums(values), _patch_sums(values**2)
    return np.sqrt(PATCH**2 * squares - total**2) / PATCH**2


def _patch_sums(values: np.ndarray) -> np.ndarray:
    """Return the sum of the patch at each corner, from sums over all that is above and left."""
    sums = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    rows = sums[PATCH:] - sums[:-PATCH]
    return rows[:, PATCH:] - rows[:, :-PATCH]


def _standardize(patches: np.ndarray) -> np.ndarray:
    """Scale each of the patches `[N, H, W]` to the same mean and contrast."""
    mean = patches.mean(axis=(1, 2), keepdims=True)
    std = patches.std(axis=(1, 2), keepdims=True)
    return np.clip(np.round((patches - mean) / std * CONTRAST + MEAN), 0, 255).astype(np.uint8)


def read_gray(name: str) -> np.ndarray:
    """Return a photograph in grayscale, uint8 `[H, W]`, by the luma of ITU-R 601.

    Args:
        name: A key of `PHOTOGRAPHS`.
    """
    image = read(name)
    if image.ndim == 3:
        image = np.round(image @ [0.299, 0.587, 0.114]).astype(np.uint8)
    return image


def read(name: str) -> np.ndarray:
    """Return a photograph as it is shipped, uint8 `[H, W, 3]`, or `[H, W]` if it is grayscale.

    Args:
        name: A key of `PHOTOGRAPHS`.
    """
    if PHOTOGRAPHS[name] == "sklearn":
        # The file, because an import of scikit-learn takes a second.
        package = importlib.util.find_spec("sklearn")
        assert package is not None
        assert package.origin is not None
        path = os.path.join(os.path.dirname(package.origin), "datasets", "images", f"{name}.jpg")
        with PIL.Image.open(path) as file:
            image = np.asarray(file)
    else:
        import skimage.data

        image = getattr(skimage.data, name)()
    if isinstance(image, tuple):  # The stereo pair comes with its disparity map.
        image = image[0]
    return image[..., :3] if image.ndim == 3 else image
