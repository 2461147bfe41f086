"""The paper's linear protocol: one linear layer, trained by SGD on frozen features (section 4.1).

Where the paper gives no setting, this module follows the reference implementation's main_lincls.py:
weights start from N(0, 0.01) and the bias from 0, the learning rate is divided by ten at epochs 60
and 80, the last batch of an epoch may be smaller, and the training views are random resized crops
with flips and without color operations. The accuracy is that after the last epoch.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from moco_tf.data.evaluation_views import labeled_views
from moco_tf.data.sources.source import Source
from moco_tf.distribution import is_chief
from moco_tf.errors import UserError
from moco_tf.evaluation import unreadable
from moco_tf.evaluation.features import extract, traceable
from moco_tf.evaluation.frozen import checksums, require_unchanged
from moco_tf.evaluation.metrics import accuracies
from moco_tf.evaluation.settings import LinearSettings
from moco_tf.evaluation.supervised import (
    new_classifier,
    readable_counter,
    require_shareable,
    require_two_classes,
    training_step,
)
from moco_tf.optimizers import SGD
from moco_tf.schedules import Step

Backbone = Callable[[tf.Tensor], tf.Tensor]


def classify(
    backbone: Backbone,
    source: Source,
    image_size: int,
    settings: LinearSettings = LinearSettings(),
) -> dict[str, Any]:
    """Train a linear layer on random views of the training images, and return its accuracy.

    Args:
        backbone: Callable from images `[N, size, size, channels]` in [0, 255] to features
            `[N, D]`, such as the result of `moco_tf.load_backbone`. It is called without
            `training` and must not change; its `variables`, if it has any, are compared bit for
            bit before and after.
        source: A source with labels.
        image_size: Side of the views in pixels.
        settings: Settings of the training.

    Returns:
        A dict with `top1` and `top5`, in [0, 1], of the central views of the test images;
        `num_train` and `num_test`, the numbers of images that can be read; and the entries of
        `moco_tf.evaluation.unreadable.entries`.

    Raises:
        UserError: If the backbone has changed, no image can be read, or `fit` fails.
    """
    before = checksums(backbone)
    # Test features come first, so that unreadable test images are reported before the training.
    test = extract(backbone, source, source.test, image_size, "test features")
    weights, bias, unreadable_train = fit(
        backbone, source, image_size, test.features.shape[1], test.num_classes, settings
    )
    require_unchanged(backbone, before)
    assert test.labels is not None
    return {
        **accuracies(test.features @ weights + bias, test.labels),
        "num_train": len(source.train) - len(unreadable_train),
        "num_test": len(test.labels),
        **unreadable.entries(unreadable_train, test.unreadable, test.unreadable_classes),
    }


def fit(
    backbone: Backbone,
    source: Source,
    image_size: int,
    dim: int,
    num_classes: int,
    settings: LinearSettings = LinearSettings(),
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Train the layer on the replicas of the current `tf.distribute` strategy.

    It computes in Keras' `floatx`, which is float32 by default. An epoch depends only on the seed
    and on the epoch's number. The number of replicas affects only the rounding.

    Args:
        backbone: As for `classify`.
        source: As for `classify`.
        image_size: As for `classify`.
        dim: Length D of the features.
        num_classes: Number of classes.
        settings: Settings of the training.

    Returns:
        The weights `[D, classes]`, the bias `[classes]`, and the names of the training images that
        cannot be read, by their indices.

    Raises:
        UserError: If the settings do not fit the strategy or the source, no image can be read, or
            the weights are no longer finite.
    """
    require_shareable(settings.batch_size)
    require_two_classes(source)
    dtype = keras.config.floatx()
    call = traceable(backbone)
    layer = new_classifier(dim, num_classes, settings.seed)
    steps_per_epoch = -(-len(source.train) // settings.batch_size)
    schedule = Step(settings.learning_rate, steps_per_epoch, settings.milestones)
    optimizer = SGD(schedule, settings.sgd_momentum, settings.weight_decay)
    optimizer.build(layer.trainable_variables)

    def loss(_: tf.Tensor, labels: tf.Tensor, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = tf.cast(call(tf.cast(images, tf.float32)), dtype)
        present = tf.cast(labels >= 0, dtype)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            tf.maximum(labels, 0), layer(features)
        )
        return tf.reduce_sum(present * losses), tf.reduce_sum(present)

    step = training_step(loss, [(optimizer, layer.trainable_variables)])
    batches = tf.distribute.get_strategy().distribute_datasets_from_function(
        lambda context: labeled_views(
            source,
            source.train,
            image_size,
            settings.crop_scale,
            settings.batch_size,
            settings.seed,
            settings.epochs,
            context,
        )
    )
    count_readable = readable_counter()
    num_seen = 0
    unreadable_indices: set[int] = set()
    # With None, tqdm shows a bar in a terminal only.
    bar = tqdm(
        batches,
        "linear layer",
        settings.epochs * steps_per_epoch,
        unit="step",
        disable=None if is_chief() else True,
    )
    for batch in bar:
        count, unreadable_in_batch = count_readable(batch)
        num_seen += count
        unreadable_indices |= unreadable_in_batch
        mean_loss = float(step(batch)[0])
        bar.set_postfix(loss=f"{mean_loss:.3f}", refresh=False)
    if not num_seen:
        raise UserError(
            f"data source '{source.name}': none of the training images can be read: replace the "
            "files, which may be damaged or incomplete"
        )
    weights, bias = (variable.numpy() for variable in layer.trainable_variables)
    if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise UserError(
            f"learning_rate={settings.learning_rate:g}: the linear layer diverged; use a smaller "
            "learning rate"
        )
    return weights, bias, {index: source.describe(index) for index in unreadable_indices}
