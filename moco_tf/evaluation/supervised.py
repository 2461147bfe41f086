"""The training of the protocols that learn from labels by SGD, on all replicas, and its checks."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from moco_tf.data.evaluation_views import labeled_views
from moco_tf.data.sources.indices import Indices
from moco_tf.data.sources.source import Source
from moco_tf.distribution import all_gather, num_replicas
from moco_tf.errors import UserError
from moco_tf.evaluation.settings import SGDSettings
from moco_tf.progress_bar import ProgressBar


class Epoch(NamedTuple):
    """What happened in an epoch.

    Attributes:
        number: Number of the epoch, counted from 0.
        losses: The mean loss of each batch; 0 for one without a readable image.
        counts: The number of images of each batch that can be read.
        unreadable: The indices of the images that cannot be read.
    """

    number: int
    losses: list[float]
    counts: list[int]
    unreadable: set[int]


def train_epochs(
    source: Source,
    indices: Indices,
    image_size: int,
    settings: SGDSettings,
    step: Callable[[Any], tuple[tf.Tensor, tf.Tensor]],
    bar: ProgressBar,
    set_learning_rates: Callable[[int], None],
    first_epoch: int = 0,
) -> Iterator[Epoch]:
    """Train on random views of images, on the replicas of the current strategy.

    Args:
        source: A source with labels.
        indices: int64 `[M]`, the images of an epoch.
        image_size: Side of the views in pixels.
        settings: Settings of the training.
        step: The result of `training_step`.
        bar: The progress bar, which counts steps.
        set_learning_rates: Function of the number of an epoch, called before it.
        first_epoch: Number of the epoch to begin with, counted from 0.

    Yields:
        Each epoch, before the next one begins.

    Raises:
        UserError: If none of the images of an epoch can be read.
    """
    batches = iter(
        tf.distribute.get_strategy().distribute_datasets_from_function(
            lambda context: labeled_views(
                source,
                indices,
                image_size,
                settings.crop_scale,
                settings.batch_size,
                settings.seed,
                settings.epochs,
                context,
                first_epoch,
            )
        )
    )
    count_readable = readable_counter()
    for number in range(first_epoch, settings.epochs):
        set_learning_rates(number)
        epoch = Epoch(number, [], [], set())
        for _ in range(steps_per_epoch(indices, settings)):
            batch = next(batches)
            count, unreadable = count_readable(batch)
            epoch.counts.append(count)
            epoch.unreadable.update(unreadable)
            # There is nothing to learn from a batch without a readable image.
            epoch.losses.append(float(step(batch)[0]) if count else 0.0)
            bar.update()
        require_some_readable(source, sum(epoch.counts), number)
        yield epoch


def steps_per_epoch(indices: Indices, settings: SGDSettings) -> int:
    """Return the number of steps in an epoch, of which the last may have fewer images."""
    return -(-len(indices) // settings.batch_size)


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
