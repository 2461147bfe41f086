"""Everything in this package that depends on private members of Keras, with the reasons.

`tests/test_keras_internals.py` checks for each of them whether Keras still behaves in the way that
makes it necessary. When such a test fails after an upgrade, the workaround can go.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src.models.functional import Functional


class DistributedModel(keras.Model):
    """A `keras.Model` whose `fit` works under any `tf.distribute` strategy.

    A subclass defines `train_step(batch)`, which returns a dict of scalars; `fit` reports their
    means over the replicas. The model must be fully built before `fit`.

    Attributes:
        seconds_waiting: Seconds that `fit` has spent waiting for data so far.
    """

    train_function: Callable[[Iterator[Any]], dict[str, Any]] | None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seconds_waiting = 0.0

    def make_train_function(self, force: bool = False) -> None:
        """Build the function that `fit` calls with an iterator over batches.

        Keras' own function reduces the logs with `axis=0`, which fails for scalars where the
        replicas are in several processes (keras issue 20585).
        """
        if self.train_function is not None and not force:
            return
        strategy = self.distribute_strategy

        def replica_step(batch: Any) -> dict[str, tf.Tensor]:
            return tf.distribute.get_replica_context().all_reduce("MEAN", self.train_step(batch))

        def step(batch: Any) -> dict[str, tf.Tensor]:
            logs = strategy.run(replica_step, args=(batch,))
            return {name: strategy.experimental_local_results(logs[name])[0] for name in logs}

        if not self.run_eagerly:
            # AutoGraph would rewrite Python statements on tensors, which a step has none of, in all
            # that the step calls. That took most of the time before the first step.
            one_replica = strategy.num_replicas_in_sync == 1
            step = tf.function(step, jit_compile=self.jit_compile and one_replica, autograph=False)

        def train_function(iterator: Iterator[Any]) -> dict[str, tf.Tensor]:
            logs = None
            for _ in range(self.steps_per_execution):
                start = time.perf_counter()
                try:
                    batch = next(iterator)  # At the end of the data, before any counter has moved.
                except (StopIteration, tf.errors.OutOfRangeError):
                    if logs is None:
                        raise
                    break  # The data ended within this execution.
                self.seconds_waiting += time.perf_counter() - start
                logs = step(batch)
            assert logs is not None
            return logs

        self.train_function = train_function

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Do nothing, since the model is built.

        Whenever a strategy is set, Keras' own method starts the data set an additional time and
        consumes a batch of it, after which a data set with state would no longer be at its
        position. It also reduces that batch across the workers, which fails where there are several
        (keras issue 20585).
        """


def uses_weight_decay(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> bool:
    """Return whether a variable has not been excluded by `exclude_from_weight_decay`.

    Keras has no public way to ask for it.
    """
    return optimizer._use_weight_decay(variable)


def variable_index(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> int:
    """Return the index of a variable among those that an optimizer was built with.

    Keras has no public way from the variable that `update_step` gets to the optimizer's own
    variables for it.
    """
    return optimizer._get_variable_index(variable)


def all_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return all layers of a model, nested ones included.

    `model.layers` leaves out layers that are attributes of a layer, such as those of KerasHub's
    prediction heads, and Keras has no public way to list them.
    """
    return list(model._flatten_layers())


def random_parts(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return those of a layer and of the layers in it that can draw random numbers.

    Keras has no public way to list the seed generators of a layer, which it draws with.
    """
    return [part for part in layer._flatten_layers() if part._seed_generators]


def draws(layer: keras.layers.Layer) -> bool:
    """Return whether a layer itself, and not only a layer in it, can draw random numbers."""
    return bool(layer._seed_generators)


def has_graph(layer: keras.layers.Layer) -> bool:
    """Return whether a layer is a Sequential or a functional model, which Keras can clone.

    Keras has no public name for functional models. A model with a `call` of its own is not one.
    """
    return isinstance(layer, (keras.Sequential, Functional))


def replace_inside(
    layer: keras.layers.Layer,
    replacement: Callable[[keras.layers.Layer], keras.layers.Layer | None],
) -> None:
    """Replace layers that are attributes of a layer, such as those of KerasHub's blocks.

    Each takes the place of the old one in the order of the weights, which it would not if it were
    assigned to the attribute alone. They are also replaced in lists, dicts and tuples.

    Args:
        layer: A layer that has not been built yet. It stays itself.
        replacement: Function that returns the layer to use in place of another one, or None to
            keep that.
    """
    for owner in list(layer._flatten_layers()):
        for old in list(owner._layers):
            new = replacement(old)
            if new is None:
                continue
            owner._tracker.replace_tracked_value("layers", old, new)
            for name, value in list(vars(owner).items()):
                replaced = _replaced(value, old, new)
                if replaced is not value:
                    setattr(owner, name, replaced)


def _replaced(value: Any, old: keras.layers.Layer, new: keras.layers.Layer) -> Any:
    """Return an attribute with another layer; lists and dicts are changed and stay themselves."""
    if value is old:
        return new
    if isinstance(value, list):
        value[:] = [_replaced(item, old, new) for item in value]
    elif isinstance(value, dict):
        for key, item in list(value.items()):
            replaced = _replaced(item, old, new)
            if replaced is not item:
                value[key] = replaced
    elif isinstance(value, tuple):
        items = [_replaced(item, old, new) for item in value]
        if any(a is not b for a, b in zip(items, value, strict=True)):
            named: Any = value
            if hasattr(named, "_fields"):
                return named._replace(**dict(zip(named._fields, items, strict=True)))
            return tuple(items)
    return value
