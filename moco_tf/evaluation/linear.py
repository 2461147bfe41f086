"""The paper's linear protocol: one linear layer, trained by SGD on frozen features (section 4.1).

Where the paper gives no setting, this module follows the reference implementation's main_lincls.py:
weights start from N(0, 0.01) and the bias from 0, the learning rate is divided by ten at epochs 60
and 80, the last batch of an epoch may be smaller, and the training views are random resized crops
with flips and without color operations. The accuracy is that after the last epoch.

Several learning rates can be compared in one pass over the images, as in the evaluation of DINOv2
(Oquab et al. 2023). The images that choose one of them are not trained on.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from moco_tf.data.sources.indices import Indices
from moco_tf.data.sources.source import Source
from moco_tf.encoders import preprocessing
from moco_tf.errors import UserError
from moco_tf.evaluation import unreadable
from moco_tf.evaluation.extraction import Extractor, feature_step, traceable
from moco_tf.evaluation.features import Features, require_finite
from moco_tf.evaluation.few_shot import choose
from moco_tf.evaluation.frozen import checksums, require_unchanged
from moco_tf.evaluation.metrics import accuracies, classification
from moco_tf.evaluation.settings import LinearSettings
from moco_tf.evaluation.supervised import (
    new_classifier,
    require_shareable,
    require_two_classes,
    steps_per_epoch,
    train_epochs,
    training_step,
)
from moco_tf.evaluation.training_state import TrainingState
from moco_tf.optimizers import SGD
from moco_tf.progress_bar import progress_bar
from moco_tf.schedules import Step

Backbone = Callable[[tf.Tensor], tf.Tensor]
Layer = tuple[np.ndarray, np.ndarray]  # Weights and bias.


class Fit(NamedTuple):
    """What `train` returns.

    Attributes:
        layers: The weights `[D, classes]` and the bias `[classes]` of the layer of each learning
            rate. They are not finite if it diverged.
        curves: A list for each layer, of dicts with `epoch`, counted from 1, and `top1` and `top5`
            on the test images after it.
        unreadable: The names of the images that cannot be read, by their indices.
    """

    layers: list[Layer]
    curves: list[list[dict[str, Any]]]
    unreadable: dict[int, str]


def classify(
    backbone: Backbone,
    source: Source,
    image_size: int,
    settings: LinearSettings = LinearSettings(),
    state: TrainingState | None = None,
) -> tuple[Layer, dict[str, Any]]:
    """Train a linear layer on random views of the training images, and evaluate it.

    Args:
        backbone: Callable from images `[N, size, size, channels]` in [0, 255] to features
            `[N, D]`, such as the result of `moco_tf.load_backbone`. It is called without
            `training` and must not change; its `variables`, if it has any, are compared bit for
            bit before and after.
        source: A source with labels.
        image_size: Side of the views in pixels.
        settings: Settings of the training.
        state: The state to continue from, which is saved after the epochs. By default, the
            training cannot be continued.

    Returns:
        The weights `[D, classes]` and the bias `[classes]` of the layer, and the results: a dict
        with the entries of `moco_tf.evaluation.metrics.classification`, of the central views of the
        test images; the `learning_rate`; `num_train` and `num_test`, the numbers of images that can
        be read; the entries of `moco_tf.evaluation.unreadable.entries`; and `curve`, as in the
        result of `train`. With several learning rates also `num_held_out`, and `held_out`: a list
        of each `learning_rate` with its `top1` on the held-out images.

    Raises:
        UserError: If the backbone has changed, a feature of a test image or of a held-out image is
            NaN or infinity, or `train` fails.
    """
    backbone = preprocessing.for_images(backbone)
    before = checksums(backbone)
    step = feature_step(backbone)
    # Test features come first, so that unreadable test images are reported before the training.
    test = Extractor(source, source.test, image_size)(step, "test features")
    require_finite(test)
    assert test.labels is not None
    trained = source.train
    if settings.learning_rates:
        trained, held_out = _split(source, settings.seed)
    fit = train(backbone, source, trained, image_size, test, settings, state)
    number, choice = 0, {"learning_rate": settings.learning_rate}
    unreadable_train = dict(fit.unreadable)
    if settings.learning_rates:
        validation = Extractor(source, held_out, image_size)(step, "held-out features")
        require_finite(validation)
        unreadable_train |= validation.unreadable
        number, choice = _choose(fit.layers, settings.learning_rates, validation)
    weights, bias = fit.layers[number]
    require_unchanged(backbone, before)
    result = {
        **classification(test.features @ weights + bias, test),
        **choice,
        "num_train": len(trained) - len(fit.unreadable),
        "num_test": len(test.labels),
        **unreadable.entries(unreadable_train, test.unreadable, test.unreadable_classes),
        "curve": fit.curves[number],
    }
    return (weights, bias), result


def _split(source: Source, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return four fifths of the training images of each class, and the other images.

    Raises:
        UserError: If there are no others.
    """
    kept = choose(np.asarray(source.labels)[source.train], 0.8, seed)
    if len(kept) == len(source.train):
        raise UserError(
            f"data source '{source.name}' has too few training images to hold out a fifth of each "
            "class, with which a learning rate is chosen: add images, or give one learning_rate"
        )
    return source.train[kept], np.delete(source.train, kept)


def _choose(
    layers: list[Layer], learning_rates: Sequence[float], validation: Features
) -> tuple[int, dict[str, Any]]:
    """Return the number of the layer with the best top-1 on held-out images, and result entries.

    Of equal layers, the one with the smallest learning rate is chosen.
    """
    top1 = {
        rate: _accuracies(layer, validation)["top1"]
        for rate, layer in zip(learning_rates, layers, strict=True)
        if _is_finite(*layer)
    }
    best = min(top1, key=lambda rate: (-top1[rate], rate))
    return learning_rates.index(best), {
        "learning_rate": best,
        "num_held_out": len(validation.indices),
        # None for a rate with which the layer diverged.
        "held_out": [{"learning_rate": rate, "top1": top1.get(rate)} for rate in learning_rates],
    }


def _is_finite(weights: np.ndarray, bias: np.ndarray) -> bool:
    return bool(np.isfinite(weights).all() and np.isfinite(bias).all())


def train(
    backbone: Backbone,
    source: Source,
    indices: Indices,
    image_size: int,
    test: Features,
    settings: LinearSettings,
    state: TrainingState | None = None,
) -> Fit:
    """Train a layer for each learning rate on the replicas of the current `tf.distribute` strategy.

    All layers see the same views, whose features are computed once. They compute in Keras'
    `floatx`, which is float32 by default. An epoch depends only on the seed and on the epoch's
    number. The number of replicas affects only the rounding.

    Args:
        backbone: As for `classify`.
        source: As for `classify`.
        indices: int64 `[M]`, the images to train on.
        image_size: As for `classify`.
        test: Labeled features of the test images, which do not affect the training.
        settings: Settings of the training.
        state: As for `classify`.

    Raises:
        UserError: If the settings do not fit the strategy or the source, no image of an epoch can
            be read, or all layers have diverged.
    """
    require_shareable(settings.batch_size)
    require_two_classes(source)
    state = state or TrainingState()
    dtype = keras.config.floatx()
    call = traceable(preprocessing.for_images(backbone))
    layers, trained, schedules = [], [], []
    for rate in settings.learning_rates or (settings.learning_rate,):
        layers.append(new_classifier(test.features.shape[1], test.num_classes, settings.seed))
        schedules.append(Step(rate, 1, settings.milestones))
        optimizer = SGD(rate, settings.sgd_momentum, settings.weight_decay)
        optimizer.build(layers[-1].trainable_variables)
        trained.append((optimizer, layers[-1].trainable_variables))

    def loss(_: tf.Tensor, labels: tf.Tensor, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = tf.cast(call(tf.cast(images, tf.float32)), dtype)
        # The features of a blank image may be NaN, which a weight of 0 does not remove.
        features = tf.where((labels >= 0)[:, tf.newaxis], features, 0)
        present = tf.cast(labels >= 0, dtype)
        # The sum over the layers, each of which gets the gradient of its own loss.
        losses = [
            tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(labels, 0), layer(features))
            for layer in layers
        ]
        return tf.reduce_sum(present * tf.add_n(losses)), tf.reduce_sum(present)

    def set_learning_rates(epoch: int) -> None:
        for (optimizer, _), schedule in zip(trained, schedules, strict=True):
            optimizer.learning_rate = schedule(epoch)

    step = training_step(loss, trained)
    changing = [v for optimizer, variables in trained for v in (*variables, *optimizer.variables)]
    first_epoch, unreadable_indices = 0, set[int]()
    curves: list[list[dict[str, Any]]] = [[] for _ in layers]
    if state.facts:
        state.restore(changing, f"epoch {state.facts['epoch']} of {settings.epochs}")
        first_epoch, curves = state.facts["epoch"], state.facts["curves"]
        unreadable_indices = set(state.facts["unreadable"])

    steps = steps_per_epoch(indices, settings)
    with progress_bar(
        settings.epochs * steps, "linear layer", "step", start=first_epoch * steps
    ) as bar:
        for epoch in train_epochs(
            source, indices, image_size, settings, step, bar, set_learning_rates, first_epoch
        ):
            unreadable_indices |= epoch.unreadable
            values = [(layer.kernel.numpy(), layer.bias.numpy()) for layer in layers]
            _require_some_finite(values, epoch.number, settings, state)
            for curve, layer in zip(curves, values, strict=True):
                if _is_finite(*layer):
                    curve.append({"epoch": epoch.number + 1, **_accuracies(layer, test)})
            last = [curve[-1] for curve in curves if curve]
            best = max(point["top1"] for point in last if point["epoch"] == epoch.number + 1)
            bar.set_postfix(top1=f"{best:.3f}", refresh=False)
            if epoch.number + 1 < settings.epochs:
                facts = {"epoch": epoch.number + 1, "curves": curves}
                state.save_if_due(changing, {**facts, "unreadable": sorted(unreadable_indices)})
    names = {index: source.describe(index) for index in unreadable_indices}
    return Fit(values, curves, names)


def _accuracies(layer: Layer, features: Features) -> dict[str, float]:
    weights, bias = layer
    assert features.labels is not None
    return accuracies(features.features @ weights + bias, features.labels)


def _require_some_finite(
    layers: list[Layer], epoch: int, settings: LinearSettings, state: TrainingState
) -> None:
    """Raise a `UserError` if the weights of all layers are NaN or infinity after an epoch.

    The state is removed then, because the training would diverge again.
    """
    if any(_is_finite(*layer) for layer in layers):
        return
    state.remove()
    if settings.learning_rates:
        rates = ",".join(f"{rate:g}" for rate in settings.learning_rates)
        raise UserError(
            f"learning_rates={rates}: the linear layer diverged with each by epoch {epoch + 1}; "
            "use smaller learning rates"
        )
    raise UserError(
        f"learning_rate={settings.learning_rate:g}: the linear layer diverged in epoch "
        f"{epoch + 1}; use a smaller learning rate"
    )
