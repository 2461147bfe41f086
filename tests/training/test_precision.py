"""Mixed precision: the loss is close to that of float32, and some values stay in float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import MoCo, encoders
from moco_tf.data import sources
from moco_tf.data.augment import Augment
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.recipes import RECIPES, Recipe
from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.optimizers import SGD, LossScaling

PRECISIONS = ("mixed_bfloat16", "mixed_float16")
STEPS, SIZE, BATCH = 200, 16, 32


@pytest.fixture(autouse=True)
def _float32_afterwards():
    yield
    keras.config.set_dtype_policy("float32")


def small_encoder(bn_groups):
    """Build two normalized convolutions and a head, because float16 is slow on a CPU."""
    images = keras.Input((SIZE, SIZE, 3))
    x = images
    for filters in (8, 16):
        x = keras.layers.Conv2D(filters, 3, strides=2, use_bias=False)(x)
        x = keras.layers.ReLU()(BatchNormalization(bn_groups)(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(32)(x))


def resnet8(bn_groups):
    return encoders.build("resnet8", "mlp", 64, stem="small", bn_groups=bn_groups)


def build(precision, build_encoder=resnet8, strategy=None):
    strategy = strategy or tf.distribute.get_strategy()
    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = MoCo(
            lambda: build_encoder(4 // strategy.num_replicas_in_sync),
            queue_size=256,
            momentum=0.99,
            temperature=0.2,
            augment=Augment(RECIPES["v1"]),
        )
        model.compile(SGD(0.02))
    return model


class Losses(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.values = []

    def on_train_batch_end(self, batch, logs=None):
        self.values.append(float(logs["loss"]))
        self.model.reset_metrics()


@pytest.fixture(scope="module")
def batches():
    return TwoViews(sources.load("photos"), SIZE, Recipe(), BATCH, seed=0)


def train(model, batches, steps):
    """Train a model and return the loss of each step."""
    data = model.distribute_strategy.distribute_datasets_from_function(
        lambda context: batches.between(0, steps, context)
    )
    losses = Losses()
    model.fit(data, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[losses])
    return np.array(losses.values)


@pytest.fixture(scope="module")
def float32_losses(batches):
    return train(build("float32", small_encoder), batches, STEPS)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "devices", [1, pytest.param(2, marks=[pytest.mark.distributed, pytest.mark.nightly])]
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_loss_after_200_steps_is_within_2_percent_of_float32(
    float32_losses, batches, request, precision, devices
):
    strategy = request.getfixturevalue("two_replicas") if devices == 2 else None
    losses = train(build(precision, small_encoder, strategy), batches, STEPS)
    expected = float32_losses[-40:].mean()
    # After 200 steps, the loss has peaked and fallen by several times the tolerance.
    peak = max(block.mean() for block in np.split(float32_losses, 10))
    assert peak > 1.08 * expected
    assert abs(losses[-40:].mean() / expected - 1) < 0.02
    # Otherwise the computation would not be in half precision.
    assert np.abs(losses - float32_losses).max() > 1e-4


@pytest.mark.parametrize("precision", PRECISIONS)
def test_variables_are_float32(precision):
    model = build(precision)
    assert model.query_encoder.output.dtype == precision.removeprefix("mixed_")
    assert model.compute_dtype == precision.removeprefix("mixed_")
    variables = model.variables + model.optimizer.variables
    assert {variable.dtype for variable in variables if "float" in variable.dtype} == {"float32"}


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_momentum_update_is_float32(precision, batches):
    # A ten-thousandth of the difference is less than a half-precision weight can change by.
    model = build(precision)
    model.momentum = 0.9999
    theta_q, theta_k = (
        encoder.trainable_variables for encoder in (model.query_encoder, model.key_encoder)
    )
    before = [variable.numpy() for variable in theta_k]
    train(model, batches, 1)
    changes = []
    for old, q, k in zip(before, theta_q, theta_k, strict=True):
        expected = 0.9999 * old.astype(np.float64) + 1e-4 * q.numpy().astype(np.float64)
        np.testing.assert_allclose(k.numpy(), expected, rtol=2e-7, atol=1e-9)
        # Weights of 1 change by less than float32 resolves. Every change that it resolves counts.
        if (expected.astype(np.float32) != old).any():
            changes.append(np.abs(k.numpy() - old).max())
    assert len(changes) > len(theta_k) / 2
    assert min(changes) > 0


@pytest.mark.parametrize(
    ("precision", "optimizer"),
    [("float32", SGD), ("mixed_bfloat16", SGD), ("mixed_float16", LossScaling)],
)
def test_only_float16_scales_the_loss(precision, optimizer):
    assert type(build(precision, small_encoder).optimizer) is optimizer


@pytest.mark.distributed
def test_overflow_on_one_replica_is_skipped_by_all(two_replicas):
    with two_replicas.scope():
        weight = keras.Variable(np.ones(3, np.float32))
        optimizer = LossScaling(SGD(1.0, momentum=0.0, weight_decay=0.0), initial_scale=8.0)
        optimizer.build([weight])

    @tf.function
    def step(gradients):
        def apply():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            optimizer.apply([tf.gather(gradients, replica)], [weight])

        two_replicas.run(apply)

    def weights():
        values = two_replicas.experimental_local_results(weight.value)
        return [value.numpy().tolist() for value in values]

    for overflow in (np.inf, np.nan):
        for replica in (0, 1):
            gradients = np.ones([2, 3], np.float32)
            gradients[replica, 1] = overflow
            step(tf.constant(gradients))
            assert weights() == [[1.0] * 3] * 2
    assert optimizer.dynamic_scale.numpy() == 8.0 / 2**4
    step(tf.constant([[0.5, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    assert weights() == [[-2.0, 1.0, 1.0]] * 2
