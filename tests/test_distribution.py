"""What replicas tell each other, on two logical devices of the CPU."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import MoCo
from moco_tf.augment import RECIPES, Augment
from moco_tf.distribution import all_gather, own_rows
from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.optimizers import SGD


def on_replicas(strategy, function, values):
    """Runs `function` on two replicas, each with its half of `values`; returns both results."""
    halves = np.split(values, 2)

    def half(context):
        return tf.constant(halves[context.replica_id_in_sync_group])

    inputs = strategy.experimental_distribute_values_from_function(half)
    results = tf.function(lambda: strategy.run(function, args=(inputs,)))()
    return [result.numpy() for result in strategy.experimental_local_results(results)]


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_all_gather_gives_every_replica_the_global_batch(two_replicas, dtype):
    values = np.arange(256).reshape(8, 4, 8).astype(dtype)  # uint8: every value there is

    def gather(x):
        gathered = all_gather(x)
        assert gathered.shape == (8, 4, 8) and gathered.dtype == dtype
        return gathered

    for found in on_replicas(two_replicas, gather, values):
        np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("shape", [(2, 3, 3), (4, 5), (6, 1), (2, 2, 2, 4), (4, 17)])
def test_bytes_of_any_number_are_gathered_whole(two_replicas, shape):
    # They travel by eights.
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for found in on_replicas(two_replicas, all_gather, values):
        np.testing.assert_array_equal(found, values)


def test_a_step_gathers_images_and_keys_once_each_and_sums_the_gradient_once(two_replicas):
    def encoder():
        images = keras.Input((8, 8, 3))
        x = BatchNormalization(2)(images)
        return keras.Model(images, keras.layers.Dense(5)(keras.layers.Flatten()(x)))

    with two_replicas.scope():
        augment = Augment(RECIPES["v1"])
        model = MoCo(encoder, queue_size=10, augment=augment)
        model.compile(SGD(0.1))
    views = np.zeros((2, 8, 8, 8, 3), np.uint8)
    data = tf.data.Dataset.from_tensors(tuple(views)).unbatch().batch(8, drop_remainder=True)
    batch = next(iter(two_replicas.experimental_distribute_dataset(data)))
    step = tf.function(lambda batch: two_replicas.run(model.train_step, args=(batch,)))
    operations = step.get_concrete_function(batch).graph.get_operations()
    kinds = collections.Counter(
        (operation.type, operation.inputs[0].dtype.name)
        for operation in operations
        if operation.type.startswith("Collective")
    )
    replicas = 2
    assert kinds == {
        ("CollectiveGatherV2", "int64"): replicas,  # images
        ("CollectiveGatherV2", "float32"): replicas,  # keys
        ("CollectiveGatherV2", "int32"): 2
        * replicas,  # the shapes of both, which TensorFlow compares
        ("CollectiveReduceV2", "float32"): replicas,  # gradients, packed into one
    }


def test_own_rows_are_where_the_replica_stands_in_the_global_batch(two_replicas):
    rows = on_replicas(two_replicas, lambda x: own_rows(x.shape[0]), np.zeros(6))
    assert [list(r) for r in rows] == [[0, 1, 2], [3, 4, 5]]


def test_one_replica_needs_no_collective():
    x = tf.range(6)
    assert all_gather(x) is x
    assert list(own_rows(6).numpy()) == list(range(6))
