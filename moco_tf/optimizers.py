"""SGD as the papers' code means it."""

import keras
import tensorflow as tf

from moco_tf.keras_internals import variable_index


@keras.saving.register_keras_serializable("moco_tf")
class SGD(keras.optimizers.Optimizer):
    """SGD with momentum and coupled weight decay: torch.optim.SGD's arithmetic.

    For each parameter p with gradient g and momentum buffer v:

        g <- g + weight_decay * p
        v <- momentum * v + g
        p <- p - learning_rate * v

    Weight decay enters the gradient of every parameter, biases and BatchNormalization included,
    and passes through the momentum; Keras' own is decoupled and about ten times weaker. The
    learning rate stays outside the buffer, so that a change of it acts at once; Keras keeps it
    inside.

    Args:
        learning_rate: float, or a `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: float in [0, 1), 0.9 in the paper.
        weight_decay: float >= 0, 1e-4 in the paper.
    """

    def __init__(self, learning_rate, momentum=0.9, weight_decay=1e-4, name="sgd", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        # Not `self.weight_decay`: that one would make Keras apply its decoupled decay as well.
        self.coupled_weight_decay = weight_decay

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.momentum_buffers = [
            self.add_variable_from_reference(variable, name="momentum") for variable in variables
        ]

    def update_step(self, gradient, variable, learning_rate):
        buffer = self.momentum_buffers[variable_index(self, variable)].value
        gradient = tf.cast(gradient, variable.dtype) + self.coupled_weight_decay * variable
        # In place and in one operation, which goes through memory half as often as several would.
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=buffer.handle,
            lr=tf.cast(learning_rate, variable.dtype),
            grad=gradient,
            momentum=tf.constant(self.momentum, variable.dtype),
            use_nesterov=False,
        )

    def get_config(self):
        config = super().get_config()
        return {
            **config,
            "momentum": self.momentum,
            "weight_decay": self.coupled_weight_decay,
        }


@keras.saving.register_keras_serializable("moco_tf")
class LossScaling(keras.optimizers.LossScaleOptimizer):
    """Dynamic loss scaling for float16, where all replicas skip a step if one of them overflows.

    Keras' own looks at each replica's gradient before they are summed. With several replicas, one
    that overflows alone would put its infinities into the sum, or leave the others waiting for it.
    """

    def check_finite(self, gradients):
        overflow = tf.logical_not(super().check_finite(gradients))
        replica = tf.distribute.get_replica_context()
        return replica.all_reduce("SUM", tf.cast(overflow, tf.float32)) == 0


def move_towards(target, variable, share):
    """Moves a variable by a share of its distance to another of its shape: the momentum update.

    In place and in one operation: Keras' own `assign_sub` would hold all parameters of an encoder
    once more.

    Args:
        target, variable: each a floating `keras.Variable`.
        share: float in [0, 1].
    """
    tf.raw_ops.ResourceApplyGradientDescent(
        var=variable.value.handle,
        alpha=tf.constant(share, variable.dtype),
        delta=variable.value - target.value,
    )
