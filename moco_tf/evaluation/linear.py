"""The paper's linear protocol: one linear layer, trained by SGD on frozen features (section 4.1).

What the paper leaves open is as in the reference implementation's main_lincls.py: the weights
begin as N(0, 0.01) and the bias as 0, the learning rate falls by ten at epochs 60 and 80, the last
batch of an epoch may be smaller, and training sees a random resized crop and a flip, without
operations on colours. The accuracy is that after the last epoch.
"""

import hashlib

import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from moco_tf.data.pipeline import labelled_views
from moco_tf.distribution import is_chief, num_replicas
from moco_tf.errors import UserError
from moco_tf.evaluation.features import extract
from moco_tf.evaluation.metrics import accuracies
from moco_tf.optimizers import SGD
from moco_tf.schedules import Step


def classify(backbone, source, image_size, num_classes, **settings):
    """Accuracy of a linear layer that was trained on random views of the training images.

    Args:
        backbone: callable, images `[N, size, size, channels]` in 0 to 255 to features `[N, D]`,
            such as `moco_tf.load_backbone` returns. It is called without `training`, and must not
            change; its `variables`, where it has any, are compared bit for bit.
        source: a `moco_tf.data.source.Source` with labels.
        image_size: int, side of the views in pixels.
        num_classes: int.
        **settings: keyword arguments of `fit`.

    Returns:
        `{"top1": float, "top5": float, "num_train": int, "num_test": int}`: shares in 0 to 1 of
        the test images, each by its central view, and the images that could be read.

    Raises:
        UserError: the backbone has changed, no image can be read, or what `fit` raises.
    """
    before = checksums(backbone)
    # First, since nobody wants to hear after the training that none of them can be read.
    test = extract(backbone, source, source.test, image_size, "test features")
    shape = (test.features.shape[1], num_classes)
    weights, bias, num_train = fit(backbone, source, image_size, shape, **settings)
    require_unchanged(backbone, before)
    scores = test.features @ weights + bias
    return {
        **accuracies(scores, test.labels),
        "num_train": num_train,
        "num_test": len(test.labels),
    }


def fit(
    backbone,
    source,
    image_size,
    shape,
    learning_rate=30.0,
    batch_size=256,
    epochs=100,
    milestones=(60, 80),
    sgd_momentum=0.9,
    weight_decay=0.0,
    crop_scale=(0.08, 1.0),
    seed=0,
):
    """Trains the layer, shared among the replicas of the current `tf.distribute` strategy.

    It computes in Keras' `floatx`, float32 unless somebody has set it. An epoch is a function of
    `seed` and its number, and the number of replicas changes no more than the rounding.

    Args:
        backbone, source, image_size: of `classify`.
        shape: two ints, D features and the number of classes.
        learning_rate: float > 0. The paper's 30 is for the features of its ResNet-50 on ImageNet.
        batch_size: int, of the global batch.
        epochs: int.
        milestones: epochs, counted from 0, at whose start the rate is multiplied by 0.1.
        sgd_momentum: float in [0, 1).
        weight_decay: float >= 0, coupled, of the bias too.
        crop_scale: smallest and largest share of an image's area in a crop.
        seed: int, of the first weights, the order and the crops.

    Returns:
        weights: array `[D, classes]`.
        bias: array `[classes]`.
        num_train: int, training images that can be read.

    Raises:
        UserError: settings that cannot work, training images of fewer than two classes, none that
            can be read, or weights that are no longer finite.
    """
    strategy = tf.distribute.get_strategy()
    check(source, batch_size, crop_scale)
    _check_milestones(milestones, epochs)
    dtype = keras.config.floatx()
    layer = new_layer(*shape, seed)
    steps_per_epoch = -(-len(source.train) // batch_size)
    schedule = Step(learning_rate, steps_per_epoch, milestones)
    optimizer = SGD(schedule, sgd_momentum, weight_decay)
    optimizer.build(layer.trainable_variables)

    def replica_step(labels, images):
        features = tf.cast(backbone(tf.cast(images, tf.float32)), dtype)
        present = tf.cast(labels >= 0, dtype)
        replicas = tf.distribute.get_replica_context()
        count = replicas.all_reduce("SUM", tf.reduce_sum(present))
        variables = [variable.value for variable in layer.trainable_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                tf.maximum(labels, 0), layer(features)
            )
            # Gradients are summed over the replicas: the mean is over the global batch.
            loss = tf.reduce_sum(present * losses) / tf.maximum(count, 1)
        optimizer.apply(tape.gradient(loss, variables), layer.trainable_variables)
        return count, replicas.all_reduce("SUM", loss)

    @tf.function
    def step(batch):
        returned = strategy.run(replica_step, args=batch)
        return [strategy.experimental_local_results(value)[0] for value in returned]

    batches = strategy.distribute_datasets_from_function(
        lambda context: labelled_views(
            source, source.train, image_size, crop_scale, batch_size, seed, epochs, context
        )
    )
    seen = 0
    # tqdm's None: no bar where there is no terminal. All steps, the last of an epoch too, take as
    # long, and after the first has been compiled the bar's estimate holds.
    disable = None if is_chief() else True
    bar = tqdm(batches, "linear layer", epochs * steps_per_epoch, unit="step", disable=disable)
    for batch in bar:
        count, loss = (float(value) for value in step(batch))
        seen += int(count)
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
    if not seen:
        raise UserError(f"data source '{source.name}': no training image can be read")
    weights, bias = (variable.numpy() for variable in layer.trainable_variables)
    if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise UserError(
            f"the linear layer diverged at --learning_rate={learning_rate:g}: give a smaller one"
        )
    return weights, bias, seen // epochs


def new_layer(dim, num_classes, seed):
    """The layer before its training: a `keras.layers.Dense` in Keras' `floatx`, from `dim` features
    to `num_classes` scores, its weights N(0, 0.01) by the seed, its bias 0."""
    layer = keras.layers.Dense(
        num_classes,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01, seed=seed),
        dtype=keras.config.floatx(),
    )
    layer.build((None, dim))
    return layer


def check(source, batch_size, crop_scale):
    """Looks whether a layer can be trained on a source, on the current strategy's replicas.

    Raises:
        UserError: a batch that they cannot share equally, a crop scale that is none, or training
            images of fewer than two classes.
    """
    replicas = num_replicas()
    if batch_size % replicas:
        raise UserError(
            f"--batch_size={batch_size} cannot be shared equally by {replicas} replicas: give a "
            f"multiple of {replicas}"
        )
    low, high = crop_scale
    if not 0 < low <= high <= 1:
        raise UserError(
            f"--crop_scale={low:g},{high:g}: give the smallest and the largest share of an image, "
            "above 0 and up to 1"
        )
    labels = np.asarray(source.labels)[source.train]
    if len(np.unique(labels[labels >= 0])) < 2:
        raise UserError("a linear layer needs training images of two or more classes")


def _check_milestones(milestones, epochs):
    late = [milestone for milestone in milestones if not 0 < milestone < epochs]
    if late:
        raise UserError(
            f"--milestones: epoch {late[0]} does not come after the first and before the end at "
            f"--epochs={epochs}: give others, or none by --milestones="
        )


def checksums(backbone):
    """Of every bit of a backbone: `{path: [digest of each replica of this process]}`."""
    replicas = tf.distribute.get_strategy().experimental_local_results
    return {
        variable.path: [
            hashlib.sha256(value.numpy()).digest() for value in replicas(variable.value)
        ]
        for variable in getattr(backbone, "variables", [])
    }


def require_unchanged(backbone, before):
    """Raises a `UserError` unless the checksums of a backbone are those of before."""
    for path, checksum in checksums(backbone).items():
        if checksum != before[path]:
            raise UserError(
                f"the backbone is not frozen: its '{path}' has changed while the linear layer was "
                "trained; call it in inference mode, with training=False"
            )
