"""BatchNormalization over replicas: as one layer that sees the whole batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import encoders
from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.encoders.synchronized import (
    SynchronizedBatchNormalization,
    statistics_of,
    synchronized,
)

X = np.random.default_rng(0).normal(3, 2, (6, 4, 4, 5)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).normal(0, 1, X.shape).astype(np.float32)


def trained(layer, x, weights):
    """What a step sees: the output, and the gradients of a weighted sum of it."""
    with tf.GradientTape() as tape:
        x = tf.convert_to_tensor(x)
        tape.watch(x)
        y = layer(x, training=True)
        loss = tf.reduce_sum(weights * y**2)
    variables = [layer.gamma.value, layer.beta.value]
    return y, *tape.gradient(loss, [x, *variables])


def built(kind):
    layer = kind(momentum=0.8, epsilon=1e-3)
    layer.build(X.shape)
    layer.gamma.assign(np.linspace(0.5, 1.5, 5))
    layer.beta.assign(np.linspace(-1, 1, 5))
    return layer


@pytest.mark.parametrize("first", [3, 2, 6])
def test_two_replicas_are_as_one(two_replicas, first):
    """Of six rows so many count on the first replica, and on the other the rest, or none."""
    layer = built(BatchNormalization)
    y, d_x, d_gamma, d_beta = trained(layer, X, WEIGHTS)
    with two_replicas.scope():
        found = built(SynchronizedBatchNormalization)

        def replica_step():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            present = (tf.range(6) < first) == (replica == 0)
            weights = WEIGHTS * tf.cast(present, tf.float32)[:, None, None, None]
            with statistics_of(present):
                return present, *trained(found, X, weights)

        returned = tf.function(lambda: two_replicas.run(replica_step))()
        present, *parts = map(two_replicas.experimental_local_results, returned)
    assert [int(tf.reduce_sum(tf.cast(rows, tf.int32))) for rows in present] == [first, 6 - first]
    parts[:2] = [
        [tf.boolean_mask(value, rows) for value, rows in zip(part, present, strict=True)]
        for part in parts[:2]
    ]
    np.testing.assert_allclose(tf.concat(parts[0], 0), y, rtol=0, atol=1e-5)
    np.testing.assert_allclose(tf.concat(parts[1], 0), d_x, rtol=0, atol=1e-4)
    np.testing.assert_allclose(sum(parts[2]), d_gamma, rtol=1e-4)
    np.testing.assert_allclose(sum(parts[3]), d_beta, rtol=1e-4)
    for name in ("moving_mean", "moving_variance"):
        expected = getattr(layer, name).numpy()
        assert np.abs(expected - [0, 1][name == "moving_variance"]).min() > 0.01
        for value in two_replicas.experimental_local_results(getattr(found, name).value):
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_a_copy_has_the_same_numbers_in_variables_of_its_own():
    network = encoders.with_normalization(encoders.build("resnet8", stem="small", bn_groups=2))
    for weight in network.weights:
        if len(weight.shape) == 1:
            weight.assign(np.random.default_rng(2).uniform(0.5, 1.5, weight.shape))
    copied = synchronized(network)
    images = np.random.default_rng(3).uniform(0, 255, (4, 16, 16, 3)).astype(np.float32)
    np.testing.assert_array_equal(copied(images), network(images))
    assert np.ptp(copied(images), axis=0).max() > 0.1
    assert not {id(weight) for weight in copied.weights} & {
        id(weight) for weight in network.weights
    }
    kinds = [type(layer) for layer in copied._flatten_layers(recursive=True)]
    assert BatchNormalization not in kinds
    assert kinds.count(SynchronizedBatchNormalization) == 9  # two of which are shortcuts'
    restored = keras.models.Model.from_config(copied.get_config())
    assert [weight.shape for weight in restored.weights] == [w.shape for w in copied.weights]
