"""The channels of an image that a picture shows."""

import numpy as np
import pytest

from moco_tf.plots.visible import channels_note, visible


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2])])
def test_visible_channels_of_up_to_three(channels, shown):
    image = np.random.default_rng(0).integers(0, 256, [4, 5, channels], np.uint8)
    result = visible(image)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, image[..., shown])


def test_visible_channels_of_more_than_three_are_the_first_three():
    image = np.random.default_rng(0).uniform(size=[4, 5, 7])
    np.testing.assert_array_equal(visible(image), image[..., :3])


def test_note_states_which_channels_are_not_shown():
    assert channels_note(1) == channels_note(3) == ""
    assert "first of 2 channels" in channels_note(2)
    assert "first 3 of 7 channels" in channels_note(7)
