"""What the three mechanisms of the paper's Figure 2 share: all but their training step."""

import keras
import tensorflow as tf

from moco_tf.keras_internals import DistributedModel
from moco_tf.mechanisms.losses import contrastive_accuracy, l2_normalize
from moco_tf.optimizers import LossScaling


class Mechanism(DistributedModel):
    """The machinery around a `train_step`, for any `tf.distribute` strategy.

    A mechanism sets `query_encoder`, a `keras.Model` from images to projections `[N, C]`, and
    defines `train_step`, which begins at the number `step` and ends with `logs`.

    Args:
        temperature: float tau > 0, equation 1.
        augment: the photometric half of the augmentation on the device, called as
            `augment(images, rows, count, seed)`; see `moco_tf.augment.Augment`. None where the
            views come fully augmented and normalised.
        seed: int; with the number of the step it determines every random draw of the step.

    Attributes:
        step: non-trainable int64 scalar, steps taken so far.
        seconds_waiting: float, spent by `fit` until now on waiting for data.
    """

    def __init__(self, temperature, augment, seed, **kwargs):
        super().__init__(**kwargs)
        self.temperature = temperature
        self.augment = augment
        self.seed = seed
        self.step = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="step"
        )
        self.loss_metric = keras.metrics.Mean("loss")
        self.top1_metric = keras.metrics.Mean("contrastive_top1")
        self.top5_metric = keras.metrics.Mean("contrastive_top5")
        self.built = True

    @property
    def learned_variables(self):
        """The parameters that back-propagation updates, which the optimizer gets."""
        return self.query_encoder.trainable_variables

    def _encode(self, encoder, images):
        """What an encoder in training makes of this replica's images, `[n, C]`, L2-normalised."""
        # The similarity, the loss and the dictionary are float32 whatever the encoder computes in.
        return l2_normalize(tf.cast(encoder(images, training=True), self.variable_dtype))

    def _augment(self, images, rows, count, seed):
        """The images at `rows` of a global batch of `count`, as an encoder takes them."""
        return images if self.augment is None else self.augment(images, rows, count, seed)

    def logs(self, losses, logits, learning_rate):
        """What a `train_step` returns: the means over the epoch so far, and the learning rate.

        Args:
            losses: `[n]`, of this replica's queries.
            logits: `[n, 1 + K]`, the positive in column 0.
            learning_rate: float scalar, of this step.
        """
        self.loss_metric.update_state(losses)
        self.top1_metric.update_state(contrastive_accuracy(logits, 1))
        self.top5_metric.update_state(contrastive_accuracy(logits, 5))
        logs = {metric.name: metric.result() for metric in self.metrics}
        return {**logs, "learning_rate": learning_rate}

    @property
    def metrics(self):
        return [self.loss_metric, self.top1_metric, self.top5_metric]

    def compile(self, optimizer, **kwargs):
        """Configures training.

        Args:
            optimizer: a `keras.optimizers.Optimizer`, such as `moco_tf.optimizers.SGD`. It gets
                `learned_variables` alone. Where the encoder computes in float16, it is wrapped in
                `moco_tf.optimizers.LossScaling`.
            **kwargs: `jit_compile`, `run_eagerly`, `steps_per_execution`, as in Keras.
        """
        if self.compute_dtype == "float16":
            optimizer = LossScaling(optimizer)
        super().compile(optimizer=optimizer, **kwargs)
        self.optimizer.build(self.learned_variables)

    def call(self, images, training=False):
        """The query encoder's projections of normalised images, not L2-normalised."""
        return self.query_encoder(images, training=training)
