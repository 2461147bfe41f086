"""The end-to-end and memory-bank mechanisms on two replicas, compiled by XLA, and in float16.

MoCo has tests of its own for all three: test_moco.py, test_equivalence.py and test_jit_compile.py.
"""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data.augment import Augment
from moco_tf.data.pixels import default
from moco_tf.data.recipes import RECIPES
from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.errors import UserError
from moco_tf.mechanisms.end_to_end import EndToEnd
from moco_tf.mechanisms.memory_bank import MemoryBank
from moco_tf.mechanisms.moco import MoCo
from moco_tf.optimizers import SGD, LossScaling
from moco_tf.schedules import Cosine

STEPS, N, SIDE, IMAGES = 20, 16, 6, 37
MECHANISMS = ["end_to_end", "memory_bank"]


@pytest.fixture(autouse=True)
def dtype_policy():
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")


def small_encoder(groups):
    """A normalized layer and a head, which are quick to trace and to compile."""
    images = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Conv2D(8, 3, 2, "same", use_bias=False)(images)
    x = keras.layers.ReLU()(BatchNormalization(groups)(x))
    return keras.Model(images, keras.layers.Dense(16)(keras.layers.Flatten()(x)))


def build(name, strategy, precision=None, **compiling):
    keras.backend.clear_session()  # The numbers in names of variables start at 0 again.
    keras.config.set_dtype_policy(precision or keras.config.floatx())
    keras.utils.set_random_seed(0)
    groups = 4 // strategy.num_replicas_in_sync
    settings = dict(temperature=0.2, seed=1)
    with strategy.scope():
        if name == "memory_bank":
            model = MemoryBank(lambda: small_encoder(groups), IMAGES, 21, **settings)
        else:
            model = EndToEnd(lambda: small_encoder(groups), **settings)
        model.compile(SGD(Cosine(0.05, 5, STEPS / 5)), **compiling)
    return model


class LossRecorder(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.values = []

    def on_train_batch_end(self, batch, logs=None):
        self.values.append(float(logs["loss"]))
        self.model.reset_metrics()


def train(model, steps=STEPS):
    """Return the loss of each step and all variables after them, by name."""
    generator = np.random.default_rng(0)
    batches = [generator.random((steps, N, SIDE, SIDE, 3)) for _ in range(2)]
    if isinstance(model, MemoryBank):
        batches.append(np.stack([generator.permutation(IMAGES)[:N] for _ in range(steps)]))
    data = tf.data.Dataset.from_tensor_slices(tuple(batches))
    losses = LossRecorder()
    data = data.unbatch().batch(N, drop_remainder=True)
    model.fit(data, verbose=0, shuffle=False, callbacks=[losses])
    assert len(losses.values) == steps
    assert np.abs(np.diff(losses.values)).min() > 0
    variables = {w.path: w.numpy() for w in model.variables + model.optimizer.variables}
    return {"losses": np.array(losses.values), **variables}


def assert_equal(actual, expected):
    """Compare with a tolerance of 1e-8 of the largest value of each array."""
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        assert np.abs(actual[name] - values).max() <= 1e-8 * np.abs(values).max(), name


@pytest.mark.slow
@pytest.mark.parametrize("name", MECHANISMS)
def test_two_replicas_compute_what_one_computes(float64, two_replicas, name):
    """Losses, weights, momentum buffers, moving statistics and the bank in float64.

    Both replicas must also have exactly the same values.
    """
    expected = train(build(name, tf.distribute.get_strategy()))
    model = build(name, two_replicas)
    assert_equal(train(model), expected)
    variables = model.trainable_variables + model.optimizer.variables
    if name == "memory_bank":
        variables = [*variables, model.bank.representations]
    for weight in variables:
        one, other = two_replicas.experimental_local_results(weight.value)
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=weight.path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "replicas"),
    [
        ("memory_bank", 1),
        pytest.param("memory_bank", 2, marks=pytest.mark.nightly),
        pytest.param("end_to_end", 1, marks=pytest.mark.nightly),
        pytest.param("end_to_end", 2, marks=pytest.mark.nightly),
    ],
)
def test_xla_computes_the_same(float64, two_replicas, name, replicas):
    strategy = two_replicas if replicas == 2 else tf.distribute.get_strategy()
    expected, compiled = (train(build(name, strategy, jit_compile=jit), 3) for jit in (False, True))
    assert_equal(compiled, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", MECHANISMS)
def test_float16_scales_the_loss_and_approximates_float32(name):
    strategy = tf.distribute.get_strategy()
    expected = train(build(name, strategy), 6)["losses"]
    model = build(name, strategy, "mixed_float16")
    assert isinstance(model.optimizer, LossScaling)
    assert model.compute_dtype == "float16"
    losses = train(model, 6)["losses"]
    np.testing.assert_allclose(losses, expected, rtol=0.02)
    assert np.abs(losses - expected).max() > 1e-5  # It did not compute in float32.
    variables = model.variables + model.optimizer.variables
    assert {variable.dtype for variable in variables if "float" in variable.dtype} == {"float32"}


@pytest.mark.slow
def test_end_to_end_key_encoder_learns_by_back_propagation():
    """Both encoders start equal and become different, since they see different views."""
    model = build("end_to_end", tf.distribute.get_strategy())
    pairs = list(zip(model.query_encoder.weights, model.key_encoder.weights, strict=True))
    for q, k in pairs:
        np.testing.assert_array_equal(q.numpy(), k.numpy())
    before = [k.numpy() for _, k in pairs]
    train(model, 2)
    for (q, k), old in zip(pairs, before, strict=True):
        assert np.abs(k.numpy() - old).max() > 0
        assert np.abs(k.numpy() - q.numpy()).max() > 0


@pytest.mark.slow
def test_loss_scaling_of_keras_is_replaced():
    """The gradients were divided by the scale of both, so that hardly anything was learned."""
    strategy = tf.distribute.get_strategy()
    models = [build("memory_bank", strategy, "mixed_float16") for _ in range(2)]
    rate = Cosine(0.05, 5, STEPS / 5)
    models[1].compile(keras.optimizers.LossScaleOptimizer(SGD(rate)))
    expected, actual = (train(model, 6)["losses"] for model in models)
    np.testing.assert_array_equal(actual, expected)


def test_loss_is_scaled_if_the_encoder_computes_in_float16():
    keras.config.set_dtype_policy("mixed_float16")
    encoder = small_encoder(2)
    keras.config.set_dtype_policy("float32")
    model = MemoryBank(lambda: encoder, IMAGES, 21)
    model.compile("adam")
    assert isinstance(model.optimizer, LossScaling)
    assert isinstance(model.optimizer.inner_optimizer, keras.optimizers.Adam)
    model = MemoryBank(lambda: small_encoder(2), IMAGES, 21, dtype="mixed_float16")
    model.compile("adam")
    assert isinstance(model.optimizer, keras.optimizers.Adam)


@pytest.mark.parametrize(
    ("name", "symmetric"),
    [
        ("moco", False),
        ("moco", True),
        ("end_to_end", False),
        ("end_to_end", True),
        ("memory_bank", False),  # It encodes one view.
    ],
)
def test_each_view_of_a_step_is_augmented_with_its_own_seed(name, symmetric):
    """The numbers of the seeds are those of moco_tf/seeds.py: 7 * seed + 3 and + 4."""
    seed, steps, calls = 5, 3, []

    def augment(images, rows, count, seed):
        calls.append((images.numpy(), np.asarray(rows), int(count), np.asarray(seed).tolist()))
        return images

    settings = dict(temperature=0.2, seed=seed, augment=augment)
    if name == "memory_bank":
        model = MemoryBank(lambda: small_encoder(2), IMAGES, 21, **settings)
    elif name == "end_to_end":
        model = EndToEnd(lambda: small_encoder(2), symmetric_loss=symmetric, **settings)
    else:
        model = MoCo(lambda: small_encoder(2), 2 * N, symmetric_loss=symmetric, **settings)
    model.compile(SGD(0.05), run_eagerly=True)
    views = np.random.default_rng(0).random((2, steps * N, SIDE, SIDE, 3), np.float32)
    rows = np.arange(steps * N) % IMAGES
    arrays = (*views, rows) if name == "memory_bank" else tuple(views)
    data = tf.data.Dataset.from_tensor_slices(arrays).batch(N)
    model.fit(data, verbose=0, shuffle=False)

    per_step = 1 if name == "memory_bank" else 4 if symmetric else 2
    assert len(calls) == steps * per_step
    orders = []
    for number, (images, rows, count, seeds) in enumerate(calls):
        step = number // per_step
        view = {7 * seed + 3: 0, 7 * seed + 4: 1}[seeds[0]]
        assert seeds[1] == step
        assert count == N
        assert sorted(rows) == list(range(N))
        np.testing.assert_array_equal(images, views[view][step * N : (step + 1) * N][rows])
        orders.append((view, rows.tolist() == list(range(N))))
    # Queries are in the order of the batch and keys are not, because of Shuffling BN.
    pairs = {(0, True)} if name == "memory_bank" else {(0, True), (1, False)}
    assert set(orders) == pairs | ({(1, True), (0, False)} if symmetric else set())


def test_logs_are_the_accuracies_of_the_positive_among_the_logits():
    model = EndToEnd(lambda: small_encoder(2))
    model.compile(SGD(0.05))
    generator = np.random.default_rng(0)
    losses, logits = generator.random(64), generator.normal(size=(64, 21))
    ranks = (logits[:, 1:] > logits[:, :1]).sum(axis=1)
    logs = model.logs(*(tf.constant(values, tf.float32) for values in (losses, logits)))
    assert float(logs["loss"]) == pytest.approx(losses.mean(), rel=1e-6)
    assert float(logs["contrastive_top1"]) == pytest.approx((ranks < 1).mean())
    assert float(logs["contrastive_top5"]) == pytest.approx((ranks < 5).mean())
    assert 0 < (ranks < 1).mean() < (ranks < 5).mean() < 1


def pairs(views):
    return tf.data.Dataset.from_tensor_slices((views, views)).batch(8, drop_remainder=True)


def augmented_model(**compiling):
    model = MoCo(lambda: small_encoder(2), 32, augment=Augment(RECIPES["v2"]))
    model.compile(SGD(0.03), **compiling)
    return model


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_views_that_are_not_finite_stop_the_training(value):
    views = np.random.default_rng(0).integers(0, 256, (16, SIDE, SIDE, 3)).astype(np.float32)
    views[9, 2, 2, 1] = value
    model = augmented_model()
    with pytest.raises(UserError, match="because views hold NaN or infinity: leave these images"):
        model.fit(pairs(views), verbose=0)
    weights = [*model.weights, *model.optimizer.variables]
    assert all(np.isfinite(weight.numpy()).all() for weight in weights)


def test_checks_of_views_take_no_batch():
    """A generator can be read once only."""
    views = np.random.default_rng(0).uniform(0, 255, (16, SIDE, SIDE, 3)).astype(np.float32)
    batches = iter([(views[:8], views[:8]), (views[8:], views[8:])])
    spec = tf.TensorSpec((8, SIDE, SIDE, 3))
    data = tf.data.Dataset.from_generator(lambda: batches, output_signature=(spec, spec))
    model = augmented_model()
    model.fit(data, verbose=0)
    assert int(model.step.numpy()) == 2


@pytest.mark.slow
def test_replicas_need_batches_of_equal_size(two_replicas):
    with two_replicas.scope():
        model = MoCo(lambda: small_encoder(1), 32)
        model.compile(SGD(0.03))
    views = np.random.default_rng(0).random((9, SIDE, SIDE, 3), np.float32)
    data = tf.data.Dataset.from_tensor_slices((views, views)).batch(9)
    with pytest.raises(UserError, match="the 2 replicas have different numbers of images: use"):
        model.fit(data, verbose=0)


def test_loss_shows_views_that_are_not_finite_with_xla():
    views = np.full((8, SIDE, SIDE, 3), np.nan, np.float32)
    history = augmented_model(jit_compile=True).fit(pairs(views), verbose=0).history
    assert np.isnan(history["loss"]).all()


@pytest.mark.slow
def test_views_in_another_range_are_refused():
    views = np.random.default_rng(0).random((16, SIDE, SIDE, 3), np.float32)
    model = augmented_model()
    message = r"the views have no value above 1, but augment takes .* \[0, 255\]:"
    for _ in range(2):  # Also if the same call is tried again.
        with pytest.raises(UserError, match=message):
            model.fit(pairs(views), verbose=0)
    for accepted in (255 * views, (255 * views).astype(np.uint8), 0 * views):
        augmented_model(run_eagerly=True).fit(pairs(accepted[:8]), verbose=0)
    for wrong, problem in (
        (4 * views - 2, "negative values and none above 16, but .*: do not normalize them"),
        ((65535 * views).astype(np.uint16), "values above 510, but .*: pass the value range"),
    ):
        with pytest.raises(UserError, match=f"the views have {problem}"):
            augmented_model(run_eagerly=True).fit(pairs(wrong), verbose=0)
    # Interpolation overshoots, and outliers are clipped where another type is declared.
    augmented_model(run_eagerly=True).fit(pairs(280 * views[:8] - 20), verbose=0)
    pixels = dataclasses.replace(default(3), dtype="float32")
    clipping = MoCo(lambda: small_encoder(2), 32, augment=Augment(RECIPES["v2"], pixels=pixels))
    clipping.compile(SGD(0.03), run_eagerly=True)
    clipping.fit(pairs(1000 * views[:8]), verbose=0)
    # A key view may be of another type than the query view.
    mixed = tf.data.Dataset.from_tensor_slices(((255 * views).astype(np.uint8), views))
    with pytest.raises(UserError, match=message):
        augmented_model(run_eagerly=True).fit(mixed.batch(8), verbose=0)
    # Without an augmentation, or with one of their own, the range is the caller's.
    unknown = MoCo(lambda: small_encoder(2), 32, augment=lambda images, *_: images)
    unknown.compile(SGD(0.03), run_eagerly=True)
    unknown.fit(pairs(views[:8]), verbose=0)
