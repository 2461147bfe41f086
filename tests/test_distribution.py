"""Communication between replicas, on two logical devices of the CPU."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import MoCo
from moco_tf.distribution import all_gather, replica_rows
from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.optimizers import SGD


def run_on_replicas(strategy, function, values):
    """Run `function` on two replicas, each with its half of `values`, and return both results."""
    halves = np.split(values, 2)

    def half(context):
        return tf.constant(halves[context.replica_id_in_sync_group])

    inputs = strategy.experimental_distribute_values_from_function(half)
    results = tf.function(lambda: strategy.run(function, args=(inputs,)))()
    return [result.numpy() for result in strategy.experimental_local_results(results)]


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_all_gather_returns_the_global_batch_on_every_replica(two_replicas, dtype):
    values = np.arange(256).reshape(8, 4, 8).astype(dtype)  # all values of uint8

    def gather(x):
        gathered = all_gather(x)
        assert gathered.shape == (8, 4, 8)
        assert gathered.dtype == dtype
        return gathered

    for result in run_on_replicas(two_replicas, gather, values):
        np.testing.assert_array_equal(result, values)


# uint8 is sent as integers of eight bytes.
@pytest.mark.parametrize("shape", [(2, 3, 3), (4, 5), (6, 1), (2, 2, 2, 4), (4, 17)])
def test_all_gather_takes_any_number_of_bytes(two_replicas, shape):
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for result in run_on_replicas(two_replicas, all_gather, values):
        np.testing.assert_array_equal(result, values)


def test_step_gathers_images_and_keys_once_and_reduces_gradients_once(two_replicas):
    """The documentation states this communication; TensorFlow also compares the shapes."""

    def build_encoder():
        images = keras.Input((8, 8, 3))
        x = BatchNormalization(2)(images)
        return keras.Model(images, keras.layers.Dense(5)(keras.layers.Flatten()(x)))

    def augment(images, rows, count, seed):
        return tf.cast(images, tf.float32)

    with two_replicas.scope():
        model = MoCo(build_encoder, queue_size=10, augment=augment)
        model.compile(SGD(0.1))
    views = np.zeros((2, 8, 8, 8, 3), np.uint8)
    data = tf.data.Dataset.from_tensors(tuple(views)).unbatch().batch(8, drop_remainder=True)
    batch = next(iter(two_replicas.experimental_distribute_dataset(data)))
    step = tf.function(lambda batch: two_replicas.run(model.train_step, args=(batch,)))
    counts = collections.Counter(
        (operation.type, operation.inputs[0].dtype.name)
        for operation in step.get_concrete_function(batch).graph.get_operations()
        if operation.type.startswith("Collective")
    )
    del counts["CollectiveGatherV2", "int32"]  # the shapes
    replicas = 2
    assert counts == {
        ("CollectiveGatherV2", "int64"): replicas,  # images
        ("CollectiveGatherV2", "float32"): replicas,  # keys
        ("CollectiveReduceV2", "float32"): replicas,  # gradients of all parameters
    }


def test_replica_rows_are_the_rows_in_the_global_batch(two_replicas):
    rows = run_on_replicas(two_replicas, lambda x: replica_rows(x.shape[0]), np.zeros(6))
    assert [list(r) for r in rows] == [[0, 1, 2], [3, 4, 5]]


def test_one_replica_needs_no_collective():
    x = tf.range(6)
    assert all_gather(x) is x
    assert list(replica_rows(6).numpy()) == list(range(6))
