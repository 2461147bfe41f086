"""The model against Algorithm 1 in NumPy, in float64."""

import functools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import MoCo, encoders
from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.errors import UserError
from moco_tf.mechanisms.shuffling import permutation
from moco_tf.optimizers import SGD
from moco_tf.schedules import Step
from moco_tf.seeds import seed_for
from tests.replicas import small_encoder

N, SIDE, C = 8, 4, 5
PIXELS = SIDE * SIDE * 3


@pytest.fixture(autouse=True)
def dtype_policy():
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")


def linear_encoder():
    images = keras.Input((SIDE, SIDE, 3))
    projections = keras.layers.Dense(C, bias_initializer="random_normal")
    return keras.Model(images, projections(keras.layers.Flatten()(images)))


def normalizing_encoder(groups):
    """BatchNormalization of the images, and one linear layer."""
    images = keras.Input((SIDE, SIDE, 3))
    x = BatchNormalization(groups)(images)
    return keras.Model(images, keras.layers.Dense(C)(keras.layers.Flatten()(x)))


def views(steps, seed=0):
    return np.random.default_rng(seed).normal(size=(steps, 2, N, SIDE, SIDE, 3))


def fit(model, batches):
    data = tf.data.Dataset.from_tensor_slices((batches[:, 0], batches[:, 1]))
    return model.fit(data, verbose=0, shuffle=False)


class Reference:
    """Algorithm 1 for one linear layer, with the gradient written by hand."""

    def __init__(self, model, momentum, temperature):
        self.m, self.t = momentum, temperature
        self.q = [w.astype(np.float64) for w in model.query_encoder.get_weights()]
        self.k = [w.copy() for w in self.q]
        self.v = [np.zeros_like(w) for w in self.q]
        self.queue = model.queue.keys.numpy().astype(np.float64)
        self.pointer = 0

    def step(self, x_q, x_k, learning_rate):
        x_q, x_k = x_q.reshape(N, PIXELS), x_k.reshape(N, PIXELS)
        z = x_q @ self.q[0] + self.q[1]
        norm = np.linalg.norm(z, axis=1, keepdims=True)
        q = z / norm
        k = x_k @ self.k[0] + self.k[1]
        k /= np.linalg.norm(k, axis=1, keepdims=True)
        keys = np.concatenate([k[:, np.newaxis], np.repeat(self.queue[np.newaxis], N, 0)], axis=1)
        logits = np.einsum("nc,nkc->nk", q, keys) / self.t
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        loss = -np.log(p[:, 0]).mean()
        p[:, 0] -= 1
        dq = np.einsum("nk,nkc->nc", p, keys) / self.t / N
        dz = (dq - q * (q * dq).sum(axis=1, keepdims=True)) / norm
        for i, gradient in enumerate([x_q.T @ dz, dz.sum(axis=0)]):
            self.v[i] = 0.9 * self.v[i] + gradient + 1e-4 * self.q[i]
            self.q[i] = self.q[i] - learning_rate * self.v[i]
            self.k[i] = self.m * self.k[i] + (1 - self.m) * self.q[i]
        for key in k:
            self.queue[self.pointer] = key
            self.pointer = (self.pointer + 1) % len(self.queue)
        return loss


# Queues smaller than the batch, equal to it, and larger, both divisible by it and not.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("queue_size", "momentum"), [(5, 0.999), (8, 0.9), (13, 0.0), (13, 0.9), (13, 0.999), (24, 0.9)]
)
def test_training_equals_algorithm_1(float64, queue_size, momentum):
    keras.utils.set_random_seed(1)
    model = MoCo(linear_encoder, queue_size, momentum, temperature=0.2, shuffle_bn=False)
    model.compile(SGD(Step(0.5, 2, milestones=(1, 3)), 0.9, 1e-4))
    reference = Reference(model, momentum, temperature=0.2)
    batches = views(8)
    for step, (x_q, x_k) in enumerate(batches):
        rate = 0.5 * 0.1 ** ((step >= 2) + (step >= 6))
        expected = reference.step(x_q, x_k, rate)
        loss = fit(model, batches[step : step + 1]).history["loss"][0]
        np.testing.assert_allclose(loss, expected, rtol=1e-9)
        for encoder, weights in [
            (model.query_encoder, reference.q),
            (model.key_encoder, reference.k),
        ]:
            for actual, expected in zip(encoder.get_weights(), weights, strict=True):
                np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(model.queue.keys.numpy(), reference.queue, rtol=1e-8, atol=1e-12)
        assert int(model.queue.pointer.numpy()) == reference.pointer
        assert int(model.step.numpy()) == step + 1


def test_defaults_are_those_of_the_paper():
    model = MoCo(lambda: encoders.build("resnet8", head="linear", stem="small"))
    assert model.queue.keys.shape == (65536, 128)
    assert model.queue.keys.dtype == "float32"
    assert not model.queue.keys.trainable
    assert (model.momentum, model.temperature, model.shuffle_bn) == (0.999, 0.07, True)


def test_key_encoder_starts_as_a_copy():
    model = MoCo(lambda: encoders.build("resnet8", head="mlp", stem="small"), queue_size=16)
    for actual, expected in zip(
        model.query_encoder.get_weights(), model.key_encoder.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)


def warns_of_shuffling(model):
    """Train for a step, and return whether a warning says that Shuffling BN has no effect."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, views(steps=1))
    return any(str(w.message).startswith("shuffle_bn=True has no effect") for w in caught)


@pytest.mark.parametrize(
    ("build_encoder", "shuffle_bn", "is_useless"),
    [
        (lambda: normalizing_encoder(1), True, True),
        (lambda: normalizing_encoder(1), False, False),
        (lambda: normalizing_encoder(2), True, False),
        (linear_encoder, True, False),
    ],
)
def test_shuffling_within_one_group_is_a_warning(build_encoder, shuffle_bn, is_useless):
    model = MoCo(build_encoder, queue_size=16, shuffle_bn=shuffle_bn)
    model.compile(SGD(0.1))
    assert warns_of_shuffling(model) == is_useless


@pytest.mark.slow
@pytest.mark.parametrize("synchronized", [True, False])
def test_shuffling_among_replicas_with_the_same_statistics_is_a_warning(two_replicas, synchronized):
    def build_encoder():
        images = keras.Input((SIDE, SIDE, 3))
        x = keras.layers.BatchNormalization(synchronized=synchronized)(images)
        return keras.Model(images, keras.layers.Dense(4)(keras.layers.Flatten()(x)))

    with two_replicas.scope():
        model = MoCo(build_encoder, queue_size=16)
        model.compile(SGD(0.1))
    assert warns_of_shuffling(model) == synchronized


def refusal(function, *arguments, **options):
    with pytest.raises(UserError) as error:
        function(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queue_size": 0}, "queue_size=0: must be 1 or greater"),
        ({"queue_size": 2.5}, "queue_size=2.5: must be an integer, 1 or greater"),
        ({"momentum": 1.5}, "momentum=1.5: must be between 0 and 1"),
        ({"temperature": 0}, "temperature=0: must be greater than 0"),
        ({"seed": None}, "seed=None: must be an integer, 0 or greater"),
        ({"build_encoder": linear_encoder()}, "build_encoder is a model, but the mechanism builds"),
        (
            {"build_encoder": "resnet8"},
            "build_encoder='resnet8' is not a function: pass a function",
        ),
        ({"build_encoder": lambda: 3}, "build_encoder returned a int with the output shape None"),
        (
            {"build_encoder": lambda: encoders.build("resnet8", stem="small").layers[1]},
            "build_encoder returned a ",
        ),
    ],
)
def test_invalid_argument_is_refused(arguments, message):
    arguments = {"build_encoder": linear_encoder, "queue_size": 16, **arguments}
    assert refusal(MoCo, **arguments).startswith(message)


def test_encoders_need_weights_of_their_own():
    encoder = linear_encoder()
    message = refusal(MoCo, lambda: encoder, queue_size=16)
    assert message.startswith("build_encoder returned two encoders that share ")
    backbone = small_encoder(groups=2)

    def new_head():
        return keras.Sequential([backbone, keras.layers.Dense(4)])

    message = refusal(MoCo, lambda: keras.Model(backbone.input, new_head()(backbone.input)))
    count = len(backbone.trainable_weights)
    assert message.startswith(f"build_encoder returned two encoders that share {count} weights, ")
    assert message.endswith("create all layers in each call")


def test_encoders_need_the_same_architecture():
    built = iter([small_encoder(groups=2), linear_encoder()])
    message = refusal(MoCo, lambda: next(built), queue_size=16)
    assert message.startswith("build_encoder returned two encoders of different architectures")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (lambda x: (x, x, np.zeros(N)), "a batch has 3 elements, but MoCo trains on 2"),
        (lambda x: x, "a batch has 1 element, but MoCo trains on 2"),
        (lambda x: (x, np.zeros(N)), "the first two elements of a batch have the shapes"),
        (lambda x: (x, x[:, :3]), "the first two elements of a batch have the shapes"),
        (lambda x: (x.astype("uint8"),) * 2, "the views are uint8, but without augment"),
        (lambda x: (x, x.astype("uint8")), "the views are uint8, but without augment"),
        (lambda x: (x > 0, x), "the views are bool"),
    ],
)
def test_invalid_batch_is_refused(batch, message):
    model = MoCo(linear_encoder, queue_size=16, shuffle_bn=False)
    model.compile(SGD(0.1))
    views = np.zeros([N, SIDE, SIDE, 3], np.float32)
    data = tf.data.Dataset.from_tensors(batch(views))
    assert refusal(model.fit, data, verbose=0).startswith(message)


def test_what_the_mechanism_does_not_have_is_refused():
    model = MoCo(linear_encoder, queue_size=16, shuffle_bn=False)
    for argument in ({"loss": "mse"}, {"metrics": ["mae"]}):
        assert refusal(model.compile, SGD(0.1), **argument).startswith(
            f"compile({next(iter(argument))}="
        )
    message = refusal(model.compile, SGD(0.1), steps_per_execution=0)
    assert message == "steps_per_execution=0: must be 1 or greater"
    model.compile("sgd", loss=None)
    data = tf.data.Dataset.from_tensors(np.zeros([2, N, SIDE, SIDE, 3], np.float32))
    for function, arguments in (
        (model.fit, {"validation_data": data}),
        (model.evaluate, {}),
        (model.test_on_batch, {}),
    ):
        message = refusal(function, data, **arguments)
        assert message.startswith("MoCo has no validation: evaluate the features of keras.Model(")
    message = refusal(model.fit, data, class_weight={0: 1.0})
    assert message.startswith("fit(class_weight=...) has no effect")
    assert int(model.step.numpy()) == 0
    assert refusal(model.get_config).startswith("MoCo cannot be saved as a whole: use")


def test_change_of_momentum_or_temperature_takes_effect_in_the_next_step():
    """As in a new model with these values and the same weights."""
    batches = views(steps=4).astype(np.float32)
    changed = MoCo(linear_encoder, queue_size=16, momentum=0.5, shuffle_bn=False)
    changed.compile(SGD(0.1))
    fit(changed, batches[:2])
    new = MoCo(linear_encoder, queue_size=16, momentum=0.9, temperature=0.3, shuffle_bn=False)
    new.compile(SGD(0.1))
    for target, source in zip(
        new.variables + new.optimizer.variables,
        changed.variables + changed.optimizer.variables,
        strict=True,
    ):
        target.assign(source)
    changed.momentum, changed.temperature = 0.9, 0.3
    for model in (changed, new):
        fit(model, batches[2:])
    for actual, expected in zip(changed.get_weights(), new.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)
    with pytest.raises(UserError, match=r"momentum=1.5: must be between 0 and 1"):
        changed.momentum = 1.5


def test_frozen_layers_stay_as_they_are_and_are_the_same_in_both_encoders():
    """Equal images have equal queries and keys, although no other layer is trained."""
    model = MoCo(lambda: small_encoder(groups=2), queue_size=16, momentum=0.5)
    *others, last = [layer for layer in model.query_encoder.layers if layer.weights]
    for layer in others:
        layer.trainable = False
    model.compile(SGD(0.1))
    batch = views(steps=1)[0, 0].astype(np.float32)
    queries, keys = (
        encoder(batch, training=True) for encoder in (model.query_encoder, model.key_encoder)
    )
    np.testing.assert_array_equal(queries, keys)
    before = [weight.numpy() for weight in model.key_encoder.weights]
    fit(model, views(steps=3))
    pairs = zip(model.key_encoder.weights, before, strict=True)
    moved = [not np.array_equal(weight.numpy(), old) for weight, old in pairs]
    assert moved == [False] * (len(before) - len(last.weights)) + [True] * len(last.weights)


def test_freezing_after_compile_is_refused():
    """It would have no effect on a step that is compiled already."""
    model = MoCo(lambda: small_encoder(groups=2), queue_size=16)
    layer = next(layer for layer in model.query_encoder.layers if layer.weights)
    model.compile(SGD(0.1))
    layer.trainable = False
    batch = views(steps=1)[0].astype(np.float32)
    for train in (lambda: fit(model, batch[np.newaxis]), lambda: model.train_on_batch(*batch)):
        assert refusal(train).startswith("layers of the encoder were frozen or unfrozen after comp")
    model.compile(SGD(0.1))
    before = layer.get_weights()
    fit(model, views(steps=2))
    np.testing.assert_array_equal(layer.get_weights()[0], before[0])
    layer.trainable = True
    assert refusal(fit, model, views(steps=1)).startswith("layers of the encoder were frozen or un")
    model.query_encoder.trainable = False
    assert refusal(model.compile, SGD(0.1)).startswith("the encoder has no weights to train")


def test_regularizers_without_effect_are_a_warning():
    def build_encoder(regularizer="l2"):
        images = keras.Input((SIDE, SIDE, 3))
        layer = keras.layers.Dense(4, kernel_regularizer=regularizer)
        return keras.Model(images, layer(keras.layers.Flatten()(images)))

    model = MoCo(build_encoder, queue_size=16, shuffle_bn=False)
    with pytest.warns(UserWarning, match="the regularizers of the encoder have no effect"):
        model.compile(SGD(0.1))
    model = MoCo(lambda: build_encoder(None), queue_size=16, shuffle_bn=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.compile(SGD(0.1))


def test_step_is_not_compiled_by_xla_unless_asked_for(monkeypatch):
    """Keras would do so on a GPU, where the checks of the views would be missing."""
    model = MoCo(linear_encoder, queue_size=16, shuffle_bn=False)
    monkeypatch.setattr("keras.src.trainers.trainer.model_supports_jit", lambda model: True)
    model.compile(SGD(0.1))
    assert model.jit_compile is False
    model.compile(SGD(0.1), jit_compile=True)
    assert model.jit_compile is True


def test_train_on_batch_takes_two_views():
    model = MoCo(linear_encoder, queue_size=16, shuffle_bn=False)
    model.compile(SGD(0.1), loss_weights=None, metrics=[])
    model.train_on_batch(*views(steps=1)[0].astype(np.float32))
    assert int(model.step.numpy()) == 1


def test_optimizer_updates_the_query_encoder_only():
    model = MoCo(linear_encoder, queue_size=16, shuffle_bn=False)
    model.compile(SGD(0.1))
    assert len(model.optimizer.momentum_buffers) == len(model.query_encoder.trainable_variables)


def grouped_normalization(x, groups):
    """Return `x` with each block normalized by itself, and the means of the statistics."""
    blocks = np.split(x, groups)
    means = [b.mean(axis=(0, 1, 2)) for b in blocks]
    variances = [b.var(axis=(0, 1, 2)) for b in blocks]
    y = [
        (b - mean) / np.sqrt(variance + 1e-5)
        for b, mean, variance in zip(blocks, means, variances, strict=True)
    ]
    count = x.size // groups / 3
    unbiased = [variance * count / (count - 1) for variance in variances]
    return np.concatenate(y), np.mean(means, axis=0), np.mean(unbiased, axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("shuffle_bn", [True, False])
def test_keys_are_normalized_in_groups_of_the_permuted_batch(float64, shuffle_bn):
    keras.utils.set_random_seed(2)
    model = MoCo(lambda: normalizing_encoder(4), queue_size=N, shuffle_bn=shuffle_bn, seed=3)
    model.compile(SGD(0.0))
    kernel, bias = model.key_encoder.layers[-1].get_weights()
    x = views(1)
    fit(model, x)
    order = np.arange(N)
    if shuffle_bn:
        order = permutation(N, seed_for("permutation", 3, 0)).numpy()
        assert not np.array_equal(order, np.arange(N))
    y, mean, variance = grouped_normalization(x[0, 1][order], 4)
    expected = np.empty((N, C))
    expected[order] = y.reshape(N, PIXELS) @ kernel + bias
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(model.queue.keys.numpy(), expected, rtol=1e-8)
    # The momentum update does not touch the moving statistics of the key encoder.
    moving = model.key_encoder.layers[1]
    np.testing.assert_allclose(moving.moving_mean.numpy(), 0.1 * mean, rtol=1e-8)
    np.testing.assert_allclose(moving.moving_variance.numpy(), 0.9 + 0.1 * variance, rtol=1e-8)


def test_queries_are_not_permuted(float64):
    keras.utils.set_random_seed(2)
    model = MoCo(lambda: normalizing_encoder(4), queue_size=16, seed=3, temperature=0.5)
    model.compile(SGD(0.0))
    queue = model.queue.keys.numpy()
    kernel, bias = model.query_encoder.layers[-1].get_weights()
    x = views(1)
    loss = fit(model, x).history["loss"][0]
    q = grouped_normalization(x[0, 0], 4)[0].reshape(N, PIXELS) @ kernel + bias
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    k = model.queue.keys.numpy()[:N]  # enqueued in the order of the batch
    logits = np.concatenate([(q * k).sum(axis=1, keepdims=True), q @ queue.T], axis=1) / 0.5
    expected = (np.log(np.exp(logits).sum(axis=1)) - logits[:, 0]).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-9)


def test_two_replicas_compute_what_one_computes(float64, two_replicas):
    """Loss, weights and queue after 5 steps; test_equivalence.py has more."""

    def run(strategy):
        with strategy.scope():
            keras.utils.set_random_seed(4)
            groups = 4 // strategy.num_replicas_in_sync
            model = MoCo(lambda: normalizing_encoder(groups), queue_size=13, momentum=0.9, seed=5)
            model.compile(SGD(0.1))
        batches = views(5)
        data = tf.data.Dataset.from_tensor_slices((batches[:, 0], batches[:, 1]))
        history = model.fit(
            data.unbatch().batch(N, drop_remainder=True), verbose=0, shuffle=False
        ).history
        weights = [variable.numpy() for variable in model.variables]
        return [np.array(history["loss"]), model.queue.keys.numpy(), *weights]

    one = run(tf.distribute.get_strategy())
    two = run(two_replicas)
    for actual, expected in zip(one, two, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-12)


def test_end_of_data_of_unknown_length_changes_nothing():
    """`fit` detects the end of such data by asking for one more batch."""
    batches = views(4).astype(np.float32)
    models = []
    for is_length_known in (True, False):
        keras.utils.set_random_seed(4)
        model = MoCo(linear_encoder, queue_size=13, shuffle_bn=False)
        model.compile(SGD(0.1))
        data = tf.data.Dataset.from_tensor_slices((batches[:, 0], batches[:, 1]))
        if not is_length_known:
            data = data.filter(lambda *_: True)
        model.fit(data, verbose=0, shuffle=False)
        models.append(model)
    first, second = (model.variables + model.optimizer.variables for model in models)
    for actual, expected in zip(first, second, strict=True):
        np.testing.assert_array_equal(actual.numpy(), expected.numpy(), err_msg=actual.path)


@functools.cache
def train_small_model(policy):
    """Return the losses of four steps, and the model after them."""
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(6)
    model = MoCo(lambda: small_encoder(groups=2), queue_size=21)
    model.compile(SGD(Step(0.01, 100)))
    # Images so large that no statistic comes from a few values, which rounding would change a lot.
    x = np.random.default_rng(7).normal(size=(4, 2, 16, 16, 16, 3)).astype(np.float32)
    losses = [fit(model, x[i : i + 1]).history["loss"][0] for i in range(4)]
    return losses, model


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_loss_and_queue_are_float32_under_mixed_precision(policy):
    expected, _ = train_small_model("float32")
    losses, model = train_small_model(policy)
    np.testing.assert_allclose(losses, expected, rtol=0.05)
    assert model.queue.keys.dtype == "float32"
    assert {v.dtype for v in model.query_encoder.trainable_variables} == {"float32"}
    norms = np.linalg.norm(model.queue.keys.numpy(), axis=1)
    np.testing.assert_allclose(norms, 1.0, atol=1e-5)  # In bfloat16 the error would be 1e-3.


def test_checkpoint_restores_queue_pointer_and_step(tmp_path):
    def build():
        model = MoCo(linear_encoder, queue_size=13, shuffle_bn=False)
        model.compile(SGD(0.1))
        return model, tf.train.Checkpoint(model=model, optimizer=model.optimizer)

    model, checkpoint = build()
    fit(model, views(3).astype(np.float32))
    path = checkpoint.save(str(tmp_path / "checkpoint"))
    restored, checkpoint = build()
    checkpoint.restore(path).assert_consumed()
    for actual, expected in zip(model.variables, restored.variables, strict=True):
        np.testing.assert_array_equal(actual.numpy(), expected.numpy())
    for actual, expected in zip(
        model.optimizer.variables, restored.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(actual.numpy(), expected.numpy())
    assert int(restored.queue.pointer.numpy()) == 3 * N % 13
    assert int(restored.step.numpy()) == 3
