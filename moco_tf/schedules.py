"""Learning rate schedules of the papers.

`Step` and `Cosine` change the rate at the start of an epoch, and `exponential` changes it after a
number of steps.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from moco_tf.errors import UserError
from moco_tf.ranges import COUNT, NOT_NEGATIVE, POSITIVE, Range, checked

__all__ = ["SCHEDULES", "Cosine", "Step", "exponential"]

EPOCH = Range(minimum=0, is_whole=True)
SCHEDULES = ("step", "cosine", "exponential")


def exponential(
    learning_rate: float, decay_every: int = 62500, factor: float = 0.9
) -> keras.optimizers.schedules.ExponentialDecay:
    """Return the schedule of the runs on a billion images (section 4, IG-1B).

    The rate is multiplied by `factor` after every `decay_every` steps.

    Args:
        learning_rate: Learning rate of the first step.
        decay_every: Number of steps with the same rate.
        factor: Factor of the decay.

    Returns:
        A schedule from the step, counted from 0, to the learning rate.

    Example:
        >>> import moco_tf
        >>> schedule = moco_tf.schedules.exponential(0.5, decay_every=10)
        >>> [round(float(schedule(step)), 3) for step in (0, 9, 10)]
        [0.5, 0.5, 0.45]
    """
    return keras.optimizers.schedules.ExponentialDecay(
        learning_rate, decay_every, factor, staircase=True
    )


@keras.saving.register_keras_serializable("moco_tf")
class Step(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that multiplies the rate by a factor at each milestone (MoCo v1).

    The default values are those of the paper: 0.1 at epochs 120 and 160 of 200.

    Args:
        learning_rate: Learning rate of the first epoch.
        steps_per_epoch: Number of steps in an epoch.
        milestones: Epochs, counted from 0, at whose start the rate is multiplied.
        factor: Factor of the decay.

    Raises:
        UserError: If an argument is not of its type or out of range.

    Example:
        >>> import moco_tf
        >>> schedule = moco_tf.schedules.Step(0.5, steps_per_epoch=10, milestones=(2,))
        >>> [round(float(schedule(step)), 3) for step in (0, 19, 20)]
        [0.5, 0.5, 0.05]
    """

    def __init__(
        self,
        learning_rate: float,
        steps_per_epoch: int,
        milestones: Sequence[int] = (120, 160),
        factor: float = 0.1,
    ) -> None:
        self.learning_rate = checked("learning_rate", learning_rate, NOT_NEGATIVE)
        self.steps_per_epoch = checked("steps_per_epoch", steps_per_epoch, COUNT)
        if not np.iterable(milestones):
            raise UserError(
                f"milestones={milestones!r}: pass a tuple of epochs, such as (120, 160)"
            )
        self.milestones = tuple(checked("milestones", epoch, EPOCH) for epoch in milestones)
        self.factor = checked("factor", factor, NOT_NEGATIVE)

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        """Return the learning rate of a step, a scalar of dtype `keras.config.floatx()`."""
        epoch = tf.cast(step, tf.int64) // self.steps_per_epoch
        # A table, since float32 powers would deviate from the closed form.
        rates = [self.learning_rate * self.factor**n for n in range(len(self.milestones) + 1)]
        reached = tf.reduce_sum(tf.cast(epoch >= tf.constant(self.milestones, tf.int64), tf.int32))
        return tf.gather(tf.constant(rates, keras.config.floatx()), reached)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that build the same schedule again."""
        return {
            "learning_rate": self.learning_rate,
            "steps_per_epoch": self.steps_per_epoch,
            "milestones": self.milestones,
            "factor": self.factor,
        }


@keras.saving.register_keras_serializable("moco_tf")
class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that lowers the rate in each epoch along half a cosine towards 0 (MoCo v2).

    After the last epoch, the rate is 0.

    Args:
        learning_rate: Learning rate of the first epoch.
        steps_per_epoch: Number of steps in an epoch.
        epochs: Number of epochs of the whole run, greater than 0; need not be an integer.

    Raises:
        UserError: If an argument is not of its type or out of range.

    Example:
        >>> import moco_tf
        >>> schedule = moco_tf.schedules.Cosine(0.5, steps_per_epoch=10, epochs=4)
        >>> [round(float(schedule(step)), 3) for step in (0, 9, 20, 39)]
        [0.5, 0.5, 0.25, 0.073]
    """

    def __init__(self, learning_rate: float, steps_per_epoch: int, epochs: float) -> None:
        self.learning_rate = checked("learning_rate", learning_rate, NOT_NEGATIVE)
        self.steps_per_epoch = checked("steps_per_epoch", steps_per_epoch, COUNT)
        self.epochs = checked("epochs", epochs, POSITIVE)

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        """Return the learning rate of a step, a scalar of dtype `keras.config.floatx()`."""
        dtype = keras.config.floatx()
        epoch = tf.cast(tf.cast(step, tf.int64) // self.steps_per_epoch, dtype)
        epoch = tf.minimum(epoch, tf.cast(self.epochs, dtype))
        return 0.5 * self.learning_rate * (1.0 + tf.cos(math.pi * epoch / self.epochs))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that build the same schedule again."""
        return {
            "learning_rate": self.learning_rate,
            "steps_per_epoch": self.steps_per_epoch,
            "epochs": self.epochs,
        }
