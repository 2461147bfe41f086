"""The embedded `photos` source: patches of the photographs that two Python packages ship."""

import dataclasses
import functools
import itertools

import numpy as np
import tensorflow as tf

from moco_tf.data.sources.source import Source

# Photograph: where it comes from. Each is a class; see `load`.
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

PATCH = 32  # pixels, side of a patch
BLOCK = 64  # pixels, side of the blocks that go to training or to testing as a whole
STRIDE = 8  # pixels between patches of one block
FLAT = 8.0  # grey levels; a patch whose standard deviation is below is dropped
CONTRAST = 48.0  # grey levels, the standard deviation that every patch is brought to
TRAIN_PATCHES, TEST_PATCHES = 500, 100  # of one photograph, at the most


@dataclasses.dataclass(frozen=True)
class Patches:
    """Grey patches `images`, uint8 `[N, 32, 32, 1]`, their `labels`, int32 `[N]`, the `corners`
    they were cut at, int `[N, 2]` (top, left), and the indices of the two parts."""

    images: np.ndarray
    labels: np.ndarray
    corners: np.ndarray
    train: np.ndarray
    test: np.ndarray
    class_names: list


@functools.cache
def load_patches():
    """Cuts the patches.

    A photograph is cut into square blocks, every fourth of which is for testing; patches overlap
    inside a block and never reach over its edge, so that no pixel is in both parts. Of each part
    at most so many patches are kept, evenly spread over the photograph, that the classes weigh
    about the same. Every patch is brought to the same mean and contrast, as is done with
    photographs of textures, since otherwise their brightness alone would give many away.

    Returns:
        `Patches`.
    """
    images, labels, corners, is_test = [], [], [], []
    for label, name in enumerate(PHOTOGRAPHS):
        photograph = read_grey(name)
        train, test = [], []
        for row in range(photograph.shape[0] // BLOCK):
            for column in range(photograph.shape[1] // BLOCK):
                part = test if (row + 2 * column) % 4 == 0 else train
                steps = range(0, BLOCK - PATCH + 1, STRIDE)
                for y, x in itertools.product(steps, steps):
                    top, left = row * BLOCK + y, column * BLOCK + x
                    patch = photograph[top : top + PATCH, left : left + PATCH]
                    if patch.std() >= FLAT:
                        part.append((_standardize(patch), (top, left)))
        for part, most in ((train, TRAIN_PATCHES), (test, TEST_PATCHES)):
            kept = [part[i] for i in np.linspace(0, len(part) - 1, min(most, len(part)), dtype=int)]
            images += [patch for patch, _ in kept]
            corners += [corner for _, corner in kept]
            labels += [label] * len(kept)
            is_test += [part is test] * len(kept)
    return Patches(
        images=np.stack(images)[..., np.newaxis],
        labels=np.array(labels, np.int32),
        corners=np.array(corners),
        train=np.flatnonzero(np.logical_not(is_test)),
        test=np.flatnonzero(is_test),
        class_names=list(PHOTOGRAPHS),
    )


def _standardize(patch):
    standard = (patch - patch.mean()) / patch.std() * CONTRAST + 128
    return np.clip(np.round(standard), 0, 255).astype(np.uint8)


def read_grey(name):
    """One of `PHOTOGRAPHS` as uint8 `[H, W]`, by the luma of ITU-R 601."""
    image = read(name)
    if image.ndim == 3:
        image = np.round(image @ [0.299, 0.587, 0.114]).astype(np.uint8)
    return image


def read(name):
    """One of `PHOTOGRAPHS` as it is, uint8 `[H, W, 3]`, or `[H, W]` where it is grey."""
    if PHOTOGRAPHS[name] == "sklearn":
        from sklearn.datasets import load_sample_image

        image = load_sample_image(f"{name}.jpg")
    else:
        import skimage.data

        image = getattr(skimage.data, name)()
    if isinstance(image, tuple):  # the stereo pair comes with its depth map: take the left image
        image = image[0]
    return image[..., :3] if image.ndim == 3 else image


def load():
    patches = load_patches()
    images = tf.constant(patches.images)  # an eager tensor: captured, not copied into the graph
    return Source(
        name="photos",
        size=len(patches.images),
        read=lambda index: tf.repeat(images[index], 3, axis=-1),
        describe=lambda index: (
            f"{patches.class_names[patches.labels[index]]} at "
            f"{tuple(patches.corners[index].tolist())}"
        ),
        pretrain=patches.train,
        train=patches.train,
        test=patches.test,
        labels=patches.labels,
        class_names=patches.class_names,
    )
