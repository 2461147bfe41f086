"""Trains the same small model on any number of replicas.

The tests call `train` in their own process, or start another process with more logical devices:

    python -m tests.replicas --replicas=4 --out=DIR [--resume=DIR] [--settings NAME ...]
    TF_CONFIG=... python -m tests.replicas --multiworker --out=DIR [--resume=DIR] [...]

For each of `SETTINGS` it takes 20 steps in float64 and writes `DIR/<setting>.npz`: the loss of each
step, and all variables at the end. After half of the steps it writes a checkpoint. With `--resume`
it continues from the checkpoint of another process instead of taking that half. With
`--multiworker` it is one of several workers with two replicas each, and needs its own `--out`.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from moco_tf import MoCo, distribution, strategies, workers
from moco_tf.data.augment import Augment
from moco_tf.data.recipes import RECIPES
from moco_tf.encoders.cloning import for_pretraining
from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.optimizers import SGD
from moco_tf.schedules import Cosine

STEPS, BATCH, DIM = 20, 16, 16
QUEUE_SIZE = 21  # not a multiple of the batch
# `groups` counts the groups of BatchNormalization in the global batch.
SETTINGS = {
    "shuffled": dict(groups=4),
    "not shuffled": dict(groups=8, shuffle_bn=False),
    "symmetric": dict(groups=8, symmetric_loss=True),
    # uint8 images, which are gathered as integers of several bytes and augmented on the device.
    "augmented": dict(groups=8, augmented=True),
    # Layers of Keras, which are replaced by ours or switched off.
    "foreign": dict(groups=4, foreign=True),
}
RESUMED = "shuffled"


def small_encoder(groups):
    """Two normalized layers and a head, which take a second to trace."""
    images = keras.Input((None, None, 3))
    x = images
    for stride in (1, 2):
        x = keras.layers.Conv2D(8, 3, stride, "same", use_bias=False)(x)
        x = keras.layers.ReLU()(BatchNormalization(groups)(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(DIM)(x))


def foreign_encoder(groups):
    """As people bring one along, with BatchNormalization of features and a random layer."""
    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, 2, "same", use_bias=False)(images)
    x = keras.layers.BatchNormalization(momentum=0.8, scale=False)(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Dropout(0.5)(keras.layers.ReLU()(x)))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(DIM, use_bias=False)(x))
    return for_pretraining(keras.Model(images, x), groups)


def build(groups, augmented=False, foreign=False, **settings):
    keras.utils.set_random_seed(0)
    groups //= distribution.num_replicas()
    augmentation = Augment(RECIPES["v1"])

    def augment(*args):
        return tf.cast(augmentation(*args), tf.float64)

    model = MoCo(
        lambda: foreign_encoder(groups) if foreign else small_encoder(groups),
        QUEUE_SIZE,
        momentum=0.9,
        temperature=0.2,
        augment=augment if augmented else None,
        seed=1,
        **settings,
    )
    model.compile(SGD(Cosine(0.05, 5, STEPS / 5)))
    return model


def batches(start, augmented=False, context=None):
    """The global batches, or the part of each batch for the worker of a `context`."""
    context = context or tf.distribute.InputContext()
    views = np.random.default_rng(0).integers(0, 256, (STEPS, 2, BATCH, 12, 12, 3), np.uint8)
    views = views if augmented else views / 255.0
    views = np.split(views, context.num_input_pipelines, axis=2)[context.input_pipeline_id]
    data = tf.data.Dataset.from_tensor_slices((views[start:, 0], views[start:, 1]))
    size = context.get_per_replica_batch_size(BATCH)
    return data.unbatch().batch(size, drop_remainder=True)


class Recorder(keras.callbacks.Callback):
    """Records the losses, saves halfway, and checks that all replicas have the same variables."""

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
            first, *others = [value.numpy() for value in values_on_replicas(weight)]
            for other in others:
                np.testing.assert_array_equal(other, first, err_msg=weight.path)


def values_on_replicas(weight):
    return tf.distribute.get_strategy().experimental_local_results(weight.value)


def train(name, strategy, out, resume=None):
    """Train one of `SETTINGS` in float64 and write `out/<name>.npz`."""
    keras.backend.clear_session()  # The numbers in names of variables start at 0 again.
    settings = SETTINGS[name]
    with strategy.scope():
        model = build(**settings)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    if resume:
        checkpoint.read(os.path.join(resume, name)).assert_consumed()
    os.makedirs(out, exist_ok=True)
    recorder = Recorder(checkpoint, os.path.join(out, name))
    with strategy.scope():
        start, steps = int(model.step.numpy()), None
        augmented = settings.get("augmented", False)
        data = batches(start, augmented)
        if workers.several_workers():
            steps = STEPS - start
            data = strategy.distribute_datasets_from_function(
                lambda context: batches(start, augmented, context)
            )
        model.fit(data, steps_per_epoch=steps, verbose=0, shuffle=False, callbacks=[recorder])
    variables = {w.path: w.numpy() for w in model.variables + model.optimizer.variables}
    np.savez(os.path.join(out, f"{name}.npz"), losses=recorder.losses, **variables)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--replicas", type=int)
    parser.add_argument("--multiworker", action="store_true")
    parser.add_argument("--out")
    parser.add_argument("--resume")
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS))
    parser.add_argument("--then_resume", nargs=2, metavar=("RESUME", "OUT"))
    arguments = parser.parse_args()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    if arguments.multiworker:
        from tests import worker

        worker.take_two_devices()
        strategy = strategies.make_strategy("multiworker")
    else:
        strategies.split_cpu(arguments.replicas)
        strategy = strategies.make_strategy("mirrored" if arguments.replicas > 1 else "default")
    for name in arguments.settings:
        train(name, strategy, arguments.out, arguments.resume)
    if arguments.then_resume:
        resume, out = arguments.then_resume
        train(RESUMED, strategy, out, resume)


if __name__ == "__main__":
    main()
