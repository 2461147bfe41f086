"""Keys of neighboring frames are left out of the negatives, against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import MoCo
from moco_tf.mechanisms.dictionaries import Queue
from moco_tf.mechanisms.losses import contrastive_accuracy, info_nce
from moco_tf.optimizers import SGD

N, K, C, SIDE = 4, 10, 6, 4


def unit_rows(generator, rows):
    x = generator.normal(size=(rows, C))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_loss_without_the_excluded_negatives():
    generator = np.random.default_rng(0)
    q, k, queue = (unit_rows(generator, rows) for rows in (N, N, K))
    excluded = generator.random([N, K]) < 0.4
    excluded[1] = True  # Nothing is left but the positive.
    excluded[2] = False
    queries = tf.Variable(q)
    with tf.GradientTape() as tape:
        losses, logits = info_nce(queries, tf.constant(k), tf.constant(queue), 0.2, excluded)
    for row in range(N):
        kept = np.concatenate([[q[row] @ k[row]], queue[~excluded[row]] @ q[row]]) / 0.2
        expected = np.log(np.exp(kept).sum()) - kept[0]
        assert losses[row].numpy() == pytest.approx(expected, abs=1e-12)
        rank = (kept[1:] >= kept[0] - 1e-9).sum()
        assert contrastive_accuracy(logits, 1)[row].numpy() == (rank < 1)
    gradient = tape.gradient(losses, queries).numpy()
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[1], 0, atol=1e-12)


def test_queue_keeps_the_frames_of_its_keys():
    queue = Queue(5, 2, with_frames=True)
    queue.build()
    assert queue.frames.numpy().tolist() == [-1] * 5
    expected = [-1] * 5
    for start in range(0, 12, 3):
        frames = np.arange(start, start + 3)
        queue.enqueue(tf.zeros([3, 2]), tf.constant(frames, tf.int64))
        for frame in frames:
            expected[frame % 5] = frame
        assert queue.frames.numpy().tolist() == expected
    within = queue.is_within(tf.constant([[8, 10], [0, 99], [0, 0]], tf.int64)).numpy()
    assert within.tolist() == [[8 <= f < 10 for f in expected], [True] * 5, [False] * 5]


def test_queue_without_frames_is_as_before():
    queue = Queue(5, 2)
    queue.build()
    assert len(queue.weights) == 2


def linear_encoder():
    images = keras.Input((SIDE, SIDE, 3))
    return keras.Model(images, keras.layers.Dense(C)(keras.layers.Flatten()(images)))


def train(batches, **settings):
    model = MoCo(linear_encoder, queue_size=K, shuffle_bn=False, **settings)
    model.compile(SGD(learning_rate=0.05))
    generator = np.random.default_rng(5)
    for variable in model.query_encoder.trainable_variables:
        variable.assign(generator.normal(size=variable.shape))
    for target, value in zip(
        model.key_encoder.variables, model.query_encoder.variables, strict=True
    ):
        target.assign(value)
    data = tf.data.Dataset.from_tensor_slices(batches)
    losses = [model.fit(data.skip(n).take(1), verbose=0).history["loss"][0] for n in range(5)]
    return model, losses


def views(steps=5):
    return np.random.default_rng(1).normal(size=(2, steps, N, SIDE, SIDE, 3)).astype("float32")


@pytest.mark.parametrize("symmetric", [False, True])
def test_no_neighbors_give_the_same_training(symmetric):
    q, k = views()
    frames = np.zeros([5, N, 2, 3], np.int64)  # Empty ranges.
    plain, losses = train((q, k), symmetric_loss=symmetric)
    model, with_frames = train((q, k, frames), symmetric_loss=symmetric, exclude_neighbors=True)
    np.testing.assert_allclose(losses, with_frames, rtol=1e-6)
    np.testing.assert_allclose(plain.queue.keys.numpy(), model.queue.keys.numpy(), atol=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_losses_of_steps_without_the_neighbors(symmetric):
    q, k = views()
    generator = np.random.default_rng(2)
    index = generator.integers(0, 30, [5, N, 2])
    frames = np.stack([index, index - 4, index + 5], axis=-1)
    model = MoCo(
        linear_encoder,
        queue_size=K,
        shuffle_bn=False,
        symmetric_loss=symmetric,
        exclude_neighbors=True,
    )
    model.compile(SGD(learning_rate=0.0))  # The encoders stay as they are.
    kernel, bias = (v.numpy().astype(float) for v in model.query_encoder.trainable_variables)

    def encode(images):
        x = images.reshape(N, -1) @ kernel + bias
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    keys, numbers = list(model.queue.keys.numpy()), [-1] * K
    pointer = 0
    for step in range(5):
        queries, positives = encode(q[step]), encode(k[step])
        pairs = [(queries, positives, 0, 1)] + [(positives, queries, 1, 0)] * symmetric
        expected = []
        for a, b, column, _ in pairs:
            for row in range(N):
                first, end = frames[step, row, column, 1:]
                kept = [key for key, f in zip(keys, numbers, strict=True) if not first <= f < end]
                logits = np.array([a[row] @ b[row], *(a[row] @ key for key in kept)]) / 0.07
                expected.append(np.log(np.exp(logits - logits[0]).sum()))
        batch = tf.data.Dataset.from_tensors((q[step], k[step], frames[step]))
        loss = model.fit(batch, verbose=0).history["loss"][0]
        assert loss == pytest.approx(np.mean(expected), rel=1e-4)
        for _, b, _, column in pairs:
            for row in range(N):
                keys[pointer], numbers[pointer] = b[row], frames[step, row, column, 0]
                pointer = (pointer + 1) % K


def loss_and_queue(strategy, **compiling):
    """Train three steps in float64 of a symmetric loss, and return losses, keys and frames."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = MoCo(
            linear_encoder,
            queue_size=K,
            shuffle_bn=False,
            symmetric_loss=True,
            exclude_neighbors=True,
        )
        model.compile(SGD(learning_rate=0.05), **compiling)
    q, k = views(3)
    index = np.random.default_rng(2).integers(0, 30, [3, N, 2])
    frames = np.stack([index, index - 4, index + 5], axis=-1)
    data = tf.data.Dataset.from_tensor_slices((q, k, frames)).unbatch().batch(N, True)
    loss = model.fit(data, verbose=0, shuffle=False).history["loss"]
    return [loss, model.queue.keys.numpy(), model.queue.frames.numpy()]


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_two_replicas_and_xla_compute_the_same(two_replicas, jit_compile):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        expected = loss_and_queue(tf.distribute.get_strategy())
        for strategy in (tf.distribute.get_strategy(), two_replicas):
            for array, other in zip(
                loss_and_queue(strategy, jit_compile=jit_compile), expected, strict=True
            ):
                np.testing.assert_allclose(array, other, rtol=1e-9, atol=1e-12)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
