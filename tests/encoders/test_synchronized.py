"""BatchNormalization across replicas against one layer with the whole batch."""

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
from moco_tf.keras_internals import all_layers

X = np.random.default_rng(0).normal(3, 2, (6, 4, 4, 5)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).normal(0, 1, X.shape).astype(np.float32)


def train(layer, x, weights):
    """Return the output, and the gradients of a weighted sum of its squares."""
    with tf.GradientTape() as tape:
        x = tf.convert_to_tensor(x)
        tape.watch(x)
        y = layer(x, training=True)
        loss = tf.reduce_sum(weights * y**2)
    variables = [layer.gamma.value, layer.beta.value]
    return y, *tape.gradient(loss, [x, *variables])


def build_layer(layer_class):
    layer = layer_class(momentum=0.8, epsilon=1e-3)
    layer.build(X.shape)
    layer.gamma.assign(np.linspace(0.5, 1.5, 5))
    layer.beta.assign(np.linspace(-1, 1, 5))
    return layer


@pytest.mark.slow
@pytest.mark.parametrize("first", [3, 2, 6])
def test_two_replicas_compute_what_one_computes(two_replicas, first):
    """The first replica has the first rows of six, and the other replica the rest or none."""
    layer = build_layer(BatchNormalization)
    y, d_x, d_gamma, d_beta = train(layer, X, WEIGHTS)
    with two_replicas.scope():
        synchronized_layer = build_layer(SynchronizedBatchNormalization)

        def replica_step():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            present = (tf.range(6) < first) == (replica == 0)
            weights = WEIGHTS * tf.cast(present, tf.float32)[:, None, None, None]
            with statistics_of(present):
                return present, *train(synchronized_layer, X, weights)

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
        for value in two_replicas.experimental_local_results(
            getattr(synchronized_layer, name).value
        ):
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_synchronized_copy_has_the_same_values_in_separate_variables():
    network = encoders.with_normalization(encoders.build("resnet8", stem="small", bn_groups=2))
    for weight in network.weights:
        if len(weight.shape) == 1:
            weight.assign(np.random.default_rng(2).uniform(0.5, 1.5, weight.shape))
    copy = synchronized(network)
    images = np.random.default_rng(3).uniform(0, 255, (4, 16, 16, 3)).astype(np.float32)
    np.testing.assert_array_equal(copy(images), network(images))
    assert np.ptp(copy(images), axis=0).max() > 0.1
    assert not {id(weight) for weight in copy.weights} & {id(weight) for weight in network.weights}
    layer_types = [type(layer) for layer in all_layers(copy)]
    assert BatchNormalization not in layer_types
    assert layer_types.count(SynchronizedBatchNormalization) == 9  # two of them in shortcuts
    restored = keras.models.Model.from_config(copy.get_config())
    assert [weight.shape for weight in restored.weights] == [w.shape for w in copy.weights]
