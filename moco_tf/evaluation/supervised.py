"""The distributed training step of the protocols that train with labels, and its checks."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from moco_tf.data.sources.source import Source
from moco_tf.distribution import all_gather, num_replicas
from moco_tf.errors import UserError


def training_step(
    loss: Callable[..., tuple[tf.Tensor, tf.Tensor]],
    parameters: Sequence[tuple[keras.optimizers.Optimizer, list[keras.Variable]]],
) -> Callable[[Any], tuple[tf.Tensor, tf.Tensor]]:
    """Build a training step for the replicas of the current strategy.

    Args:
        loss: Function of a replica's part of the batch, with its elements as arguments. It returns
            the sum of the losses of the replica's examples, and their number as a float.
        parameters: Each optimizer, already built, with the variables that it updates. A variable
            without a gradient is left as it is.

    Returns:
        A function of a distributed batch that takes one step. It returns the mean loss over the
        examples of the global batch, and their number.
    """
    strategy = tf.distribute.get_strategy()

    def replica_step(*batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
        replicas = tf.distribute.get_replica_context()
        values = [[variable.value for variable in variables] for _, variables in parameters]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            replica_total, replica_count = loss(*batch)
            count = replicas.all_reduce("SUM", tf.stop_gradient(replica_count))
            # Gradients are summed over the replicas, so each adds its share of the global mean.
            mean = replica_total / tf.maximum(count, 1)
        gradients = tape.gradient(mean, values)
        for (optimizer, variables), their_gradients in zip(parameters, gradients, strict=True):
            pairs = zip(their_gradients, variables, strict=True)
            connected = [pair for pair in pairs if pair[0] is not None]
            optimizer.apply(*zip(*connected, strict=True))
        return replicas.all_reduce("SUM", mean), count

    return on_all_replicas(replica_step, strategy)


def on_all_replicas(
    function: Callable[..., Any], strategy: tf.distribute.Strategy
) -> Callable[[Any], tuple[tf.Tensor, ...]]:
    """Return a function of a distributed batch that runs `function` on every replica.

    Args:
        function: Function of a replica's part of the batch, whose results are the same on all
            replicas.
        strategy: The strategy of these replicas.

    Returns:
        A compiled function that returns the results as a tuple.
    """

    @tf.function(autograph=False)
    def run(batch: Any) -> tuple[tf.Tensor, ...]:
        results = strategy.run(function, args=batch)
        return tuple(strategy.experimental_local_results(result)[0] for result in results)

    return run


def readable_counter() -> Callable[[Any], tuple[int, set[int]]]:
    """Return a function that looks for images that cannot be read in a batch of `labeled_views`.

    Its argument is a distributed batch. It returns the number of images in the global batch that
    can be read, and the indices of those that cannot, both the same in every process.
    """

    def gather(indices: tf.Tensor, labels: tf.Tensor, _: tf.Tensor) -> list[tf.Tensor]:
        return [all_gather(indices), all_gather(labels)]

    gather_all = on_all_replicas(gather, tf.distribute.get_strategy())

    def count(batch: Any) -> tuple[int, set[int]]:
        indices, labels = (value.numpy() for value in gather_all(batch))
        unreadable = indices[(indices >= 0) & (labels < 0)]
        return int((labels >= 0).sum()), set(unreadable.tolist())

    return count


def new_classifier(dim: int, num_classes: int, seed: int) -> keras.layers.Dense:
    """Build the linear layer of a classifier before its training.

    Args:
        dim: Length of the features.
        num_classes: Number of classes.
        seed: Random seed of the weights.

    Returns:
        A built layer in Keras' `floatx`, with weights from N(0, 0.01) and a bias of 0, as in the
        reference implementation.
    """
    layer = keras.layers.Dense(
        num_classes,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01, seed=seed),
        dtype=keras.config.floatx(),
    )
    layer.build((None, dim))
    return layer


def require_shareable(batch_size: int) -> None:
    """Check that the replicas of the current strategy can share a batch equally.

    Raises:
        UserError: If they cannot.
    """
    replicas = num_replicas()
    if batch_size % replicas:
        raise UserError(
            f"batch_size={batch_size} cannot be split equally among {replicas} replicas: use a "
            f"multiple of {replicas}"
        )


def require_some_readable(source: Source, num_seen: int, epoch: int) -> None:
    """Check that a training has seen an image in an epoch.

    Args:
        source: The source of the images.
        num_seen: Number of the images of the epoch that could be read.
        epoch: Number of the epoch, counted from 0.

    Raises:
        UserError: If there were none.
    """
    if num_seen:
        return
    if not epoch:
        raise UserError(
            f"data source '{source.name}': none of the training images can be read: replace the "
            "files, which may be damaged or incomplete"
        )
    raise UserError(
        f"data source '{source.name}': none of the training images can be read any more in epoch "
        f"{epoch + 1}: check that their disk is still there, and start again"
    )


def require_two_classes(source: Source) -> None:
    """Check that the training images of a source are of two or more classes.

    Raises:
        UserError: If they are not.
    """
    labels = np.asarray(source.labels)[source.train]
    if len(np.unique(labels[labels >= 0])) < 2:
        raise UserError(
            "a linear layer needs training images of two or more classes, but those of data source "
            f"'{source.name}' are of one class: add images of other classes"
        )
