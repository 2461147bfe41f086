"""Evaluations warn of classes without training images, whose test images count as wrong."""

import keras
import numpy as np
import pytest

from moco_tf.evaluation import protocols
from moco_tf.evaluation.features import Features
from moco_tf.evaluation.settings import FinetuneSettings, LinearSettings
from tests.memory import source_of

# The class 2 has test images only, and one of the test images has no label.
LABELS = np.array([0, 1, 0, 1, 0, 1, 2, 2, -1])
TRAIN, TEST = range(4), range(4, 9)
MESSAGE = (
    "2 of 4 test images count as wrong, because there are no training images of their classes, "
    "class 2: add some"
)


@pytest.mark.parametrize("protocol", ["knn", "linear_cached", "retrieval"])
def test_classes_without_training_images_are_named(protocol):
    values = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    names = ["class 0", "class 1", "class 2"]

    def features(part):
        return Features(values[part], np.array(part), LABELS[part], 3, class_names=names)

    result = protocols.evaluate(protocol, features(TRAIN), features(TEST))
    warnings = result.get("warnings", [])
    # Retrieval does not learn from training images.
    assert [text[: len(MESSAGE)] for text in warnings] == [MESSAGE] * (protocol != "retrieval")
    result = protocols.evaluate(protocol, features(TRAIN), features(TRAIN))
    assert "warnings" not in result


@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_classes_without_training_images_are_named_after_a_training(protocol):
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8)
    source = source_of(images, LABELS, TRAIN, TEST)
    layers = [keras.Input((None, None, 3)), keras.layers.Rescaling(1 / 255)]
    layers += [keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D()]
    backbone = keras.Sequential(layers)
    if protocol == "linear":
        settings = LinearSettings(epochs=1, batch_size=4, milestones=())
        _, result = protocols.evaluate_linear(backbone, source, 8, settings)
    else:
        settings = FinetuneSettings(epochs=1, batch_size=4)
        _, result = protocols.evaluate_finetune(backbone, source, 8, settings)
    [warning] = result["warnings"]
    assert warning.startswith(MESSAGE)
