"""The embedded `photos` source: patches of the photographs that two Python packages ship."""

import dataclasses
import functools
import itertools

import numpy as np

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
BLOCK = 96  # pixels, side of the blocks that go to training or to testing as a whole
TRAIN_STRIDE = 8
TEST_STRIDE = 16
FLAT = 8.0  # grey levels; a patch whose standard deviation is below is dropped


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
def load(names=tuple(PHOTOGRAPHS), block=BLOCK, train_stride=TRAIN_STRIDE, flat=FLAT):
    """Cuts the patches.

    A photograph is cut into square blocks, every fourth of which, along both diagonals, is for
    testing; patches overlap inside a block and never reach over its edge, so that no pixel is in
    both parts.

    Returns:
        `Patches`.
    """
    images, labels, corners, is_test = [], [], [], []
    for label, name in enumerate(names):
        photograph = read_grey(name)
        for row in range(photograph.shape[0] // block):
            for column in range(photograph.shape[1] // block):
                test = (row + 2 * column) % 4 == 0
                stride = TEST_STRIDE if test else train_stride
                steps = range(0, block - PATCH + 1, stride)
                for y, x in itertools.product(steps, steps):
                    top, left = row * block + y, column * block + x
                    patch = photograph[top : top + PATCH, left : left + PATCH]
                    if patch.std() < flat:
                        continue
                    images.append(patch)
                    labels.append(label)
                    corners.append((top, left))
                    is_test.append(test)
    is_test = np.array(is_test)
    return Patches(
        images=np.stack(images)[..., np.newaxis],
        labels=np.array(labels, np.int32),
        corners=np.array(corners),
        train=np.flatnonzero(~is_test),
        test=np.flatnonzero(is_test),
        class_names=list(names),
    )


def read_grey(name):
    """One of `PHOTOGRAPHS` as uint8 `[H, W]`, by the luma of ITU-R 601."""
    if PHOTOGRAPHS[name] == "sklearn":
        from sklearn.datasets import load_sample_image

        image = load_sample_image(f"{name}.jpg")
    else:
        import skimage.data

        image = getattr(skimage.data, name)()
    if isinstance(image, tuple):  # the stereo pair comes with its depth map: take the left image
        image = image[0]
    if image.ndim == 3:
        image = np.round(image[..., :3] @ [0.299, 0.587, 0.114]).astype(np.uint8)
    return image
