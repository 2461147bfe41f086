"""The strings that name sources. What the kinds give is tested with each of them."""

import pytest

from moco_tf.data import sources
from moco_tf.errors import UserError


@pytest.mark.parametrize(
    "name", ["", "folder:", "folder", "imagenet", "tfds:", "tfrecord:", "/data"]
)
def test_an_unknown_source_is_named_with_the_choices(name):
    choices = "photos, folder:PATH, idx:PATH, tfrecord:GLOB or tfds:NAME"
    with pytest.raises(UserError, match=f"'{name}' is unknown: give {choices}"):
        sources.load(name)
