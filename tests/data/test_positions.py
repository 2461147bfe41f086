"""Positions of the images in a batch, which the memory bank needs.

The red channel of an image tells its position in `source.pretrain`.
"""

import numpy as np
import pytest
from PIL import Image

from moco_tf.data import sources
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.recipes import Recipe

COUNT, SIZE, BATCH = 10, 8, 4


@pytest.fixture
def source(tmp_path):
    """A source of two test images and ten training images, one of which is not an image."""
    for part, count in (("test", 2), ("train", COUNT)):
        for number in range(count):
            path = tmp_path / part / "class" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 12), (20 * number, 0, 0)).save(path)
    (tmp_path / "train" / "class" / "3.png").write_text("not an image")
    return sources.load(f"folder:{tmp_path}")


def batches(source, **settings):
    views = TwoViews(source, SIZE, Recipe(), BATCH, seed=0, **settings)
    return views, list(views.between(0, 5 * views.steps_per_epoch).as_numpy_iterator())


def test_positions_are_those_of_the_images_in_the_views_and_of_substitutes(source):
    assert source.pretrain.tolist() == list(range(2, 2 + COUNT))
    views, run = batches(source, with_positions=True)
    seen = []
    for query, key, positions in run:
        assert positions.dtype == np.int64
        assert positions.shape == (BATCH,)
        for view in (query, key):
            np.testing.assert_array_equal(view[:, 0, 0, 0] / 20, positions)
        seen += positions.tolist()
    assert views.unreadable == {2 + 3}
    assert set(seen) == set(range(COUNT)) - {3}


@pytest.mark.slow
def test_views_are_the_same_with_and_without_positions(source):
    _, run_without = batches(source)
    _, run_with = batches(source, with_positions=True)
    for expected, (*views, _) in zip(run_without, run_with, strict=True):
        assert len(expected) == 2
        for view, expected_view in zip(views, expected, strict=True):
            np.testing.assert_array_equal(view, expected_view)
