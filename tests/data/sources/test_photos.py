"""The embedded `photos` source."""

import functools

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from moco_tf.data import sources
from moco_tf.data.sources import photos


@pytest.fixture(scope="module")
def patches():
    return photos.load_patches()


@pytest.mark.parametrize("name", ["china", "coffee", "stereo_motorcycle", "coins"])
def test_grayscale_photograph_matches_pillow(name):
    photograph = photos.read(name)
    assert photograph.dtype == np.uint8
    assert photograph.ndim == (2 if name == "coins" else 3)
    expected = np.asarray(PIL.Image.fromarray(photograph).convert("L"), int)
    assert np.abs(photos.read_gray(name) - expected).max() <= 1


def test_no_pixel_is_in_both_parts(patches):
    for label in range(len(patches.class_names)):
        shape = photos.read_gray(patches.class_names[label]).shape
        seen = {}
        for part, indices in (("train", patches.train), ("test", patches.test)):
            seen[part] = np.zeros(shape, bool)
            for top, left in patches.corners[indices][patches.labels[indices] == label]:
                seen[part][top : top + photos.PATCH, left : left + photos.PATCH] = True
            assert seen[part].any()
        assert not (seen["train"] & seen["test"]).any()


def test_every_patch_is_in_one_part(patches):
    both = np.concatenate([patches.train, patches.test])
    assert sorted(both) == list(range(len(patches.images)))
    assert patches.images.shape[1:] == (photos.PATCH, photos.PATCH, 1)
    assert patches.images.dtype == np.uint8


def test_flat_patches_are_dropped(patches):
    read_gray = functools.cache(photos.read_gray)
    for index in range(0, len(patches.images), 100):
        photograph = read_gray(patches.class_names[patches.labels[index]])
        top, left = patches.corners[index]
        patch = photograph[top : top + photos.PATCH, left : left + photos.PATCH]
        assert patch.std() >= photos.FLAT


def test_source_repeats_gray_in_three_channels(patches):
    source = sources.load("photos")
    image = source.read(tf.constant(5, tf.int64)).numpy()
    for channel in range(3):
        np.testing.assert_array_equal(image[..., channel], patches.images[5, ..., 0])
    assert source.describe(5).startswith(source.class_names[source.labels[5]])
