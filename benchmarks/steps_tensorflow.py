"""The training step of moco-tf, and parts of it."""

import math
from collections.abc import Callable

import keras
import tensorflow as tf

from moco_tf import MoCo, encoders
from moco_tf.optimizers import SGD


def make_step(
    encoder: str,
    stem: str,
    image_size: int,
    batch: int,
    queue: int,
    groups: int = 1,
    precision: str = "float32",
) -> tuple[Callable[[], None], int]:
    """Return a function that runs a step, and the number of floating-point operations in it.

    Args:
        encoder: Name of the encoder.
        stem: `"imagenet"` or `"small"`.
        image_size: Side of the images in pixels.
        batch: Batch size.
        queue: Number of keys in the queue.
        groups: Number of BatchNormalization groups.
        precision: A Keras dtype policy.
    """
    keras.config.set_dtype_policy(precision)

    def build():
        return encoders.build(encoder, "linear", stem=stem, bn_groups=groups)

    model = MoCo(build, queue_size=queue)
    model.compile(SGD(0.03))
    model.make_train_function()
    views = tf.random.normal([2, batch, image_size, image_size, 3])
    batches = iter(tf.data.Dataset.from_tensors(tuple(views)).repeat())

    def step():
        float(model.train_function(batches)["loss"])

    return step, 4 * batch * _forward_flops(model.query_encoder.backbone, image_size)


def _forward_flops(backbone, image_size):
    """Return the number of floating-point operations of the convolutions for one image.

    The rest of the network has less than a thousandth of the operations. A step has four times as
    many per image: one forward pass for the key, one for the query, and a backward pass for the
    query, which costs as much as two forward passes.
    """
    convolutions = [layer for layer in backbone.layers if isinstance(layer, keras.layers.Conv2D)]
    # Only shapes, because images would count as memory of the step.
    outputs = keras.Model(backbone.input, [layer.output for layer in convolutions])(
        keras.KerasTensor([1, image_size, image_size, 3])
    )
    return sum(
        2 * output.shape[1] * output.shape[2] * math.prod(layer.kernel.shape)
        for layer, output in zip(convolutions, outputs, strict=True)
    )


def make_floor_step(
    encoder: str, stem: str, image_size: int, batch: int, queue: int
) -> Callable[[], float]:
    """Return a function that runs only the forward and backward passes, and updates nothing."""
    del queue
    f_q, f_k = (encoders.build(encoder, "linear", stem=stem) for _ in range(2))
    x_q, x_k = tf.random.normal([2, batch, image_size, image_size, 3])
    theta = [variable.value for variable in f_q.trainable_variables]

    @tf.function
    def run():
        k = f_k(x_k, training=True)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(theta)
            loss = tf.reduce_sum(f_q(x_q, training=True) * k)
        gradients = tape.gradient(loss, theta)
        # One number of each gradient, so that none is optimized away.
        return tf.add_n([tf.reshape(gradient, [-1])[0] for gradient in gradients])

    return lambda: float(run())


def make_matrix_step(side: int) -> Callable[[], float]:
    """Return a function that computes a product of two square matrices."""
    first, second = tf.random.normal([2, side, side])
    return lambda: tf.matmul(first, second).numpy()[0, 0]
