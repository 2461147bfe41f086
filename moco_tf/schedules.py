"""Learning-rate schedules of the papers. Two change the rate at the start of an epoch; the third,
for a billion images, in the midst of one."""

import math

import keras
import tensorflow as tf

SCHEDULES = ("step", "cosine", "exponential")


def exponential(learning_rate, decay_every=62500, factor=0.9):
    """The rate times `factor` after every `decay_every` steps (section 4, IG-1B).

    Args:
        learning_rate: float, the first step's.
        decay_every: int, steps.
        factor: float.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.
    """
    return keras.optimizers.schedules.ExponentialDecay(
        learning_rate, decay_every, factor, staircase=True
    )


@keras.saving.register_keras_serializable("moco_tf")
class Step(keras.optimizers.schedules.LearningRateSchedule):
    """The rate times `factor` from each milestone on (MoCo v1: 0.1 at epochs 120 and 160 of 200).

    Args:
        learning_rate: float, the first epoch's.
        steps_per_epoch: int.
        milestones: epochs, counted from 0, at whose start the rate is multiplied.
        factor: float.
    """

    def __init__(self, learning_rate, steps_per_epoch, milestones=(120, 160), factor=0.1):
        self.learning_rate = learning_rate
        self.steps_per_epoch = steps_per_epoch
        self.milestones = tuple(milestones)
        self.factor = factor

    def __call__(self, step):
        epoch = tf.cast(step, tf.int64) // self.steps_per_epoch
        # A table, so that float32 powers cannot drift from the closed form.
        rates = [self.learning_rate * self.factor**n for n in range(len(self.milestones) + 1)]
        reached = tf.reduce_sum(tf.cast(epoch >= tf.constant(self.milestones, tf.int64), tf.int32))
        return tf.gather(tf.constant(rates, keras.config.floatx()), reached)

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "steps_per_epoch": self.steps_per_epoch,
            "milestones": self.milestones,
            "factor": self.factor,
        }


@keras.saving.register_keras_serializable("moco_tf")
class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """Half a cosine from the rate towards 0 over the run, epoch by epoch (MoCo v2).

    Args:
        learning_rate: float, the first epoch's.
        steps_per_epoch: int.
        epochs: int or float, of the whole run.
    """

    def __init__(self, learning_rate, steps_per_epoch, epochs):
        self.learning_rate = learning_rate
        self.steps_per_epoch = steps_per_epoch
        self.epochs = epochs

    def __call__(self, step):
        dtype = keras.config.floatx()
        epoch = tf.cast(tf.cast(step, tf.int64) // self.steps_per_epoch, dtype)
        return 0.5 * self.learning_rate * (1.0 + tf.cos(math.pi * epoch / self.epochs))

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "steps_per_epoch": self.steps_per_epoch,
            "epochs": self.epochs,
        }
