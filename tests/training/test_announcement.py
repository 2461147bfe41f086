"""Notes of a run on settings that may be mistakes."""

import pytest

from moco_tf.config import default_config
from moco_tf.training.announcement import large_learning_rate


@pytest.mark.parametrize(
    ("settings", "has_note"),
    [
        ({"encoder": "resnet18", "learning_rate": 0.24}, True),
        ({"encoder": "keras:MobileNetV2", "learning_rate": 0.24}, True),
        ({"encoder": "resnet18", "learning_rate": 0.06}, False),
        ({"encoder": "resnet8", "learning_rate": 0.24}, False),
        (
            {
                "encoder": "resnet18",
                "learning_rate": 0.24,
                "batch_size": 1024,
                "scale_learning_rate": False,
            },
            False,  # 0.06 for 256 images.
        ),
    ],
)
def test_learning_rate_of_small_networks_is_named_for_others(settings, has_note):
    config = default_config()
    config.update(settings)
    note = large_learning_rate(config)
    assert (note is not None) == has_note
    if has_note:
        assert note.startswith("config.learning_rate=0.24 suits small networks such as resnet8; ")
