"""Fine-tuning: a pre-trained backbone and a new linear layer, trained on labeled images.

The paper fine-tunes detectors and segmenters (section 4.2), and in its appendix classifiers on
iNaturalist and ImageNet. Later work fine-tunes classifiers with 1 % or 10 % of the labels, and so
does this module. It follows the paper's two rules for a fair comparison:
BatchNormalization is trained too, with the statistics of the global batch, because features that
were learned without labels have another scale ("Normalization"); and every initialization gets the
same schedule ("Schedules").

The other settings are those of two later implementations for 10 % of ImageNet's labels. The
learning rates of 0.01 for the backbone and 0.2 for the new layer, 20 epochs in batches of 256,
momentum 0.9, no weight decay, and random resized crops with flips are those of
facebookresearch/swav's eval_semisup.py. The cosine schedule is that of evaluate.py in
facebookresearch/barlowtwins; unlike milestones, it fits any number of epochs. Two choices are this
project's own: BatchNormalization ignores unreadable images of a batch, and the last batch of an
epoch may be smaller.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from moco_tf.data.sources.source import Source
from moco_tf.distribution import num_replicas
from moco_tf.encoders import preprocessing
from moco_tf.encoders.synchronized import statistics_of, synchronized
from moco_tf.errors import UserError
from moco_tf.evaluation import unreadable
from moco_tf.evaluation.extraction import Extractor, feature_step
from moco_tf.evaluation.features import require_finite
from moco_tf.evaluation.few_shot import choose
from moco_tf.evaluation.frozen import checksums, require_unchanged
from moco_tf.evaluation.metrics import accuracies, classification
from moco_tf.evaluation.settings import FinetuneSettings
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
from moco_tf.schedules import Cosine


def fit(
    backbone: Any,
    source: Source,
    image_size: int,
    settings: FinetuneSettings = FinetuneSettings(),
    progress: str = "fine-tuning",
    state: TrainingState | None = None,
) -> tuple[Any, keras.layers.Dense, dict[str, Any]]:
    """Train a new linear layer on a backbone's features, and by default a copy of the backbone.

    `backbone` itself does not change. The training runs on the replicas of the current
    `tf.distribute` strategy; their number affects only the rounding. An epoch depends only on the
    seed and on the epoch's number.

    Args:
        backbone: Images `[N, size, size, channels]` in [0, 255] to features `[N, D]`: a functional
            `keras.Model` such as the result of `moco_tf.load_backbone`, or a
            `keras.layers.TFSMLayer` of a SavedModel of `moco_tf.export.saved_model`. With
            `settings.layers="head"` it can be any callable.
        source: A source with labels.
        image_size: Side of the views in pixels.
        settings: Settings of the training. Both learning rates follow half a cosine over the
            epochs, epoch by epoch.
        progress: Label of the progress bar.
        state: The state to continue from, which is saved after the epochs. By default, the
            training cannot be continued.

    Returns:
        The backbone after training (`backbone` itself with `layers="head"`), the trained layer from
        features to class scores, and the results: a dict with the entries of
        `moco_tf.evaluation.metrics.classification`, of the central views of the test images after
        the last epoch; `num_train` and `num_test`, the numbers of images that can be read; the
        entries of `moco_tf.evaluation.unreadable.entries`; and `curve`, a dict for each epoch that
        was evaluated with `epoch`, counted from 1, `top1`, `top5` and `loss`, the mean over the
        training images of the epoch in nats. If the learning rates seem to be too large, also
        `warnings`, a list with a text that says so.

    Raises:
        UserError: If the settings do not fit the backbone, the strategy or the source, no training
            image of an epoch can be read, a feature of a test image is NaN or infinity before the
            training, or the training diverges.
    """
    backbone = preprocessing.for_images(backbone)
    require_shareable(settings.batch_size)
    require_two_classes(source)
    train_labels = np.asarray(source.labels)[source.train]
    chosen = source.train[choose(train_labels, settings.label_fraction, settings.seed)]
    before = checksums(backbone)
    tuned = backbone if settings.layers == "head" else _trainable_copy(backbone)
    step = feature_step(tuned)
    extract_test = Extractor(source, source.test, image_size, keep_views=settings.layers == "all")
    # Test features come first, so that unreadable test images are reported before the training.
    test = extract_test(step, "test features")
    require_finite(test)
    unreadable_test, unreadable_classes = dict(test.unreadable), test.unreadable_classes
    state = state or TrainingState()
    layer = new_classifier(test.features.shape[1], test.num_classes, settings.seed)
    trained = _parameters(tuned, layer, settings)
    take_step = training_step(
        _loss(tuned, layer, settings),
        [(optimizer, variables) for optimizer, variables, _ in trained],
    )
    # The label of a record that cannot be read is -1, and it is never chosen.
    unreadable_indices = set(source.train[train_labels < 0].tolist())
    changing = [*layer.variables, *(v for optimizer, _, _ in trained for v in optimizer.variables)]
    if settings.layers == "all":
        changing += tuned.variables
    first_epoch, num_seen, first_loss = 0, 0, 0.0
    curve: list[dict[str, Any]] = []
    if state.facts:
        state.restore(changing, f"epoch {state.facts['epoch']} of {settings.epochs}")
        first_epoch, num_seen = state.facts["epoch"], state.facts["num_seen"]
        curve, first_loss = state.facts["curve"], state.facts["first_loss"]
        unreadable_indices |= set(state.facts["unreadable_train"])
        unreadable_test |= {
            index: source.describe(index) for index in state.facts["unreadable_test"]
        }

    def set_learning_rates(epoch: int) -> None:
        for optimizer, _, rate in trained:
            optimizer.learning_rate = Cosine(rate, 1, settings.epochs)(epoch)

    steps = steps_per_epoch(chosen, settings)
    with progress_bar(
        settings.epochs * steps,
        progress,
        "step",
        start=first_epoch * steps,
        smoothing=0,  # Every epoch ends with the test images.
    ) as bar:
        for epoch in train_epochs(
            source, chosen, image_size, settings, take_step, bar, set_learning_rates, first_epoch
        ):
            unreadable_indices |= epoch.unreadable
            num_seen += sum(epoch.counts)
            _require_finite(epoch.losses, epoch.number, settings, state)
            loss = float(np.average(epoch.losses, weights=epoch.counts))
            if epoch.number == 0:
                first_loss = loss
            if epoch.number + 1 in settings.evaluated_epochs():
                if settings.layers == "all":
                    test = extract_test(step)
                    unreadable_test |= test.unreadable
                scores = test.features @ layer.kernel.numpy() + layer.bias.numpy()
                _require_finite(scores, epoch.number, settings, state)
                assert test.labels is not None
                accuracy = accuracies(scores, test.labels)
                curve.append({"epoch": epoch.number + 1, **accuracy, "loss": loss})
                bar.set_postfix(top1=f"{accuracy['top1']:.3f}", loss=f"{loss:.3f}", refresh=False)
            if epoch.number + 1 < settings.epochs:
                facts = {
                    "epoch": epoch.number + 1,
                    "num_seen": num_seen,
                    "curve": curve,
                    "first_loss": first_loss,
                    "unreadable_train": sorted(unreadable_indices),
                    "unreadable_test": sorted(unreadable_test),
                }
                state.save_if_due(changing, facts)
    require_unchanged(backbone, before)
    result = {
        **classification(scores, test),
        "num_train": num_seen // settings.epochs,
        "num_test": len(test.indices),
        **unreadable.entries(
            {index: source.describe(index) for index in unreadable_indices},
            unreadable_test,
            unreadable_classes,
        ),
        "curve": curve,
    }
    if warning := _warning(first_loss, test.num_classes, settings):
        result["warnings"] = [warning]
    return tuned, layer, result


def _warning(first_loss: float, num_classes: int, settings: FinetuneSettings) -> str:
    """Return a warning of large learning rates, or "".

    A new layer starts with about the loss of guessing. With rates that are too large, steps
    overshoot, more so if features have large norms. The mean loss of the first epoch was 17 to 81
    then, for ten classes, and the accuracy stayed low after the rates had fallen.
    """
    guessing = float(np.log(num_classes))
    if first_loss < guessing + max(guessing, 2):
        return ""
    return (
        f"{_rates(settings)}: too large for this backbone, because the mean loss of the first "
        f"epoch was {first_loss:.3g}, while guessing has ln({num_classes}) = {guessing:.3g}. The "
        "accuracy says little about the backbone: use smaller rates"
    )


def _rates(settings: FinetuneSettings) -> str:
    """Return the learning rates that have an effect."""
    rates = f"head_learning_rate={settings.head_learning_rate:g}"
    if settings.layers == "all":
        rates = f"learning_rate={settings.learning_rate:g} and {rates}"
    return rates


def _parameters(
    tuned: Any, layer: keras.layers.Dense, settings: FinetuneSettings
) -> list[tuple[SGD, list[keras.Variable], float]]:
    """Return the optimizers with the variables that they train and their initial rates."""
    groups = [(layer.trainable_variables, settings.head_learning_rate)]
    if settings.layers == "all":
        variables = tuned.trainable_variables
        if settings.batch_norm == "frozen":
            variables = _without_batch_normalization(tuned.variables, variables)
        if not variables:
            raise UserError(
                "the backbone has no weights that layers=all could train: use layers=head"
            )
        groups.append((variables, settings.learning_rate))
    parameters = []
    for variables, rate in groups:
        optimizer = SGD(rate, settings.sgd_momentum, settings.weight_decay)
        optimizer.build(variables)
        parameters.append((optimizer, variables, rate))
    return parameters


def _without_batch_normalization(
    every: list[keras.Variable], trainable: list[keras.Variable]
) -> list[keras.Variable]:
    """Return the trainable variables that are not those of a BatchNormalization.

    They are told by their names, since a SavedModel has no layers. There, a name such as
    `stem_bn/gamma` has become `stem_bn_gamma`.
    """
    means = [name for name in map(_name, every) if name.endswith("moving_mean")]
    layers = {name.removesuffix("moving_mean") for name in means}
    own = {layer + name for layer in layers for name in ("gamma", "beta")}
    return [variable for variable in trainable if _name(variable) not in own]


def _name(variable: keras.Variable) -> str:
    return variable.path.partition(":")[0]


def _loss(
    tuned: Any, layer: keras.layers.Dense, settings: FinetuneSettings
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Return the loss of `moco_tf.evaluation.supervised.training_step`."""
    # Whether the scores of an image depend on the other images of its batch.
    uses_batch_statistics = settings.layers == "all" and settings.batch_norm == "tuned"
    mode = {"training": True} if uses_batch_statistics else {}

    def loss(_: tf.Tensor, labels: tf.Tensor, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Rows without an image must not count in BatchNormalization. With one replica they are
        # dropped. With several, a replica may have no other rows, and its convolutions would fail
        # on an empty batch.
        present = labels >= 0
        if uses_batch_statistics and num_replicas() == 1:
            labels, images = (tf.boolean_mask(values, present) for values in (labels, images))
            present = labels >= 0
        is_present = present[:, tf.newaxis, tf.newaxis, tf.newaxis]
        # A network may divide by the deviation of an image, and a blank one has none.
        images = tf.where(is_present, tf.cast(images, tf.float32), _filler(images))
        weights = tf.cast(present, keras.config.floatx())
        with statistics_of(present):
            features = tuned(images, **mode)
        # The features of such a row may still be NaN, which a weight of 0 does not remove.
        features = tf.where(present[:, tf.newaxis], features, 0)
        scores = layer(tf.cast(features, layer.dtype))
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(labels, 0), scores)
        return tf.reduce_sum(weights * losses), tf.reduce_sum(weights)

    return loss


def _filler(images: tf.Tensor) -> tf.Tensor:
    """Return an image for rows without one, whose pixels are not all equal: `[1, size, 1]`."""
    return tf.range(tf.shape(images)[2], dtype=tf.float32)[tf.newaxis, :, tf.newaxis]


def _require_finite(
    values: ArrayLike, epoch: int, settings: FinetuneSettings, state: TrainingState
) -> None:
    """Raise a `UserError` if a loss or a score of an epoch is NaN or infinity.

    The state is removed then, because the training would diverge again.
    """
    if np.isfinite(values).all():
        return
    state.remove()
    raise UserError(
        f"{_rates(settings)}: fine-tuning diverged in epoch {epoch + 1}; use smaller rates"
    )


def _trainable_copy(backbone: Any) -> Any:
    """Return a backbone with the same weights, in variables of its own that can be trained."""
    if not isinstance(backbone, keras.layers.TFSMLayer):
        return synchronized(backbone)
    path = backbone.filepath
    if num_replicas() > 1:
        raise UserError(
            f"the SavedModel {path} can be fine-tuned on one device only, but there are "
            f"{num_replicas()} replicas: BatchNormalization in a SavedModel is not synchronized. "
            "Use one device, or layers=head"
        )
    try:
        return keras.layers.TFSMLayer(
            path, call_endpoint="serve", call_training_endpoint="train", trainable=True
        )
    except (AttributeError, ValueError) as error:
        raise UserError(
            f"the SavedModel {path} cannot be fine-tuned, because it has no endpoint 'train': "
            "export it again with moco_tf.export.saved_model"
        ) from error
