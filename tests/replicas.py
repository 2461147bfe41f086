"""Trains the same small model on some number of replicas, in a process of its own.

    python -m tests.replicas --replicas=4 --out=DIR [--resume=DIR] [--settings NAME ...]
    TF_CONFIG=... python -m tests.replicas --multiworker --out=DIR [--resume=DIR] [...]

For each of `SETTINGS` it takes 20 steps in float64 and writes `DIR/<setting>.npz`: the
loss of each step, and everything that the model holds at the end. After half of them it writes a
checkpoint; with `--resume` it goes on from another process' instead of taking that half. With
`--multiworker` it is one worker of several, of two replicas, and needs a DIR of its own.
"""

import argparse
import itertools
import os

from moco_tf.cli import app  # noqa: F401, first: it quiets TensorFlow's start

import keras  # isort: skip
import numpy as np
import tensorflow as tf

from moco_tf import MoCo, distribution, encoders
from moco_tf.data.augment import Augment
from moco_tf.data.recipes import RECIPES
from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.optimizers import SGD
from moco_tf.schedules import Cosine

STEPS, BATCH, DIM = 20, 16, 16
QUEUE_SIZE = 21  # no multiple of the batch
SETTINGS = {
    f"groups={groups}, shuffle_bn={shuffle_bn}": dict(groups=groups, shuffle_bn=shuffle_bn)
    for groups, shuffle_bn in itertools.product((4, 8), (True, False))
}
SETTINGS["symmetric"] = dict(groups=4, symmetric_loss=True)
# With MoCo v2's photometric half as well, which takes a while to compile for each replica.
SETTINGS["whole"] = dict(groups=8, whole=True)


def small_encoder(groups):
    """Two normalised layers and a head: as many replicas of it are traced in a second."""
    images = keras.Input((None, None, 3))
    x = images
    for stride in (1, 2):
        x = keras.layers.Conv2D(8, 3, stride, "same", use_bias=False)(x)
        x = keras.layers.ReLU()(BatchNormalization(groups)(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(DIM)(x))


def build(groups, whole=False, **settings):
    keras.utils.set_random_seed(0)
    groups //= distribution.num_replicas()
    augmentation = Augment(RECIPES["v2"])

    def augment(*args):
        return tf.cast(augmentation(*args), tf.float64)

    def build_encoder():
        if not whole:
            return small_encoder(groups)
        return encoders.build("resnet8", "mlp", DIM, stem="small", bn_groups=groups)

    model = MoCo(
        build_encoder,
        QUEUE_SIZE,
        momentum=0.9,
        temperature=0.2,
        augment=augment if whole else None,
        seed=1,
        **settings,
    )
    model.compile(SGD(Cosine(0.05, 5, STEPS / 5)))
    return model


def batches(start, whole=False, context=None):
    """The global batches, or the part of each that the worker of a `context` gives its replicas."""
    context = context or tf.distribute.InputContext()
    views = np.random.default_rng(0).integers(0, 256, (STEPS, 2, BATCH, 12, 12, 3), np.uint8)
    views = views if whole else views / 255.0
    views = np.split(views, context.num_input_pipelines, axis=2)[context.input_pipeline_id]
    data = tf.data.Dataset.from_tensor_slices((views[start:, 0], views[start:, 1]))
    size = context.get_per_replica_batch_size(BATCH)
    return data.unbatch().batch(size, drop_remainder=True)


class Watch(keras.callbacks.Callback):
    """Keeps the losses, saves halfway, and looks whether all replicas hold the same."""

    def __init__(self, checkpoint, path):
        super().__init__()
        self.checkpoint, self.path = checkpoint, path
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(logs["loss"])
        self.model.reset_metrics()
        if int(self.model.step.numpy()) == STEPS // 2:
            self.checkpoint.write(self.path)
        weights = self.model.queue.variables + self.model.trainable_variables
        for weight in weights + self.model.optimizer.variables:
            first, *others = [value.numpy() for value in replicas_of(weight)]
            for other in others:
                np.testing.assert_array_equal(other, first, err_msg=weight.path)


def replicas_of(weight):
    return tf.distribute.get_strategy().experimental_local_results(weight.value)


def train(settings, name, out, resume, strategy):
    keras.backend.clear_session()  # names of weights count from the start again
    with strategy.scope():
        model = build(**settings)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    if resume:
        checkpoint.read(os.path.join(resume, name)).assert_consumed()
    watch = Watch(checkpoint, os.path.join(out, name))
    with strategy.scope():
        start, steps = int(model.step.numpy()), None
        data = batches(start, settings.get("whole"))
        if distribution.several_workers():
            steps = STEPS - start
            data = strategy.distribute_datasets_from_function(
                lambda context: batches(start, settings.get("whole"), context)
            )
        model.fit(data, steps_per_epoch=steps, verbose=0, shuffle=False, callbacks=[watch])
    held = {w.path: w.numpy() for w in model.variables + model.optimizer.variables}
    np.savez(os.path.join(out, f"{name}.npz"), losses=watch.losses, **held)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--replicas", type=int)
    parser.add_argument("--multiworker", action="store_true")
    parser.add_argument("--out")
    parser.add_argument("--resume")
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS))
    arguments = parser.parse_args()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    if arguments.multiworker:
        # Not above: it brings the flags of train.py, and the tests import this module.
        from tests import worker

        worker.take_two_devices()
        strategy = distribution.make_strategy("multiworker")
    else:
        distribution.split_cpu(arguments.replicas)
        strategy = distribution.make_strategy("mirrored" if arguments.replicas > 1 else "default")
    os.makedirs(arguments.out, exist_ok=True)
    for name in arguments.settings:
        train(SETTINGS[name], name, arguments.out, arguments.resume, strategy)


if __name__ == "__main__":
    main()
