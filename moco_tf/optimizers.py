"""SGD with the arithmetic that the papers' code uses."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from moco_tf.keras_internals import uses_weight_decay, variable_index
from moco_tf.ranges import FRACTION, NOT_NEGATIVE, checked

__all__ = ["SGD", "LossScaling"]


@keras.saving.register_keras_serializable("moco_tf")
class SGD(keras.optimizers.Optimizer):
    """SGD with momentum and coupled weight decay, with the arithmetic of torch.optim.SGD.

    For each parameter p with gradient g and momentum buffer v:

        g <- g + weight_decay * p
        v <- momentum * v + g
        p <- p - learning_rate * v

    Weight decay is added to the gradient of every parameter, including biases and
    BatchNormalization, and passes through the momentum. The weight decay of `keras.optimizers.SGD`
    is decoupled and about ten times weaker. The learning rate is not part of the momentum buffer,
    so that a change of it takes effect at once; Keras includes it in the buffer.

    Args:
        learning_rate: Positive float, or a `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: Float in [0, 1]; 0.9 in the paper.
        weight_decay: Non-negative float; 1e-4 in the paper. `exclude_from_weight_decay` works as in
            Keras. The attribute is called `coupled_weight_decay`.
        name: Name of the optimizer.
        **kwargs: Arguments of `keras.optimizers.Optimizer`.

    Example:
        >>> import keras
        >>> import moco_tf
        >>> import tensorflow as tf
        >>> weight = keras.Variable(1.0)
        >>> optimizer = moco_tf.optimizers.SGD(learning_rate=0.5, momentum=0.9, weight_decay=0.0)
        >>> for _ in range(2):
        ...     optimizer.apply([tf.constant(1.0)], [weight])
        >>> round(float(weight.numpy()), 4)  # 1 - 0.5 * 1 - 0.5 * (0.9 * 1 + 1)
        -0.45
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        name: str = "sgd",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = checked("momentum", momentum, FRACTION)
        # With the name `weight_decay`, Keras would apply its decoupled decay as well.
        self.coupled_weight_decay = checked("weight_decay", weight_decay, NOT_NEGATIVE)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create a momentum buffer for each variable."""
        if self.built:
            return
        super().build(variables)
        self.momentum_buffers = [
            self.add_variable_from_reference(variable, name="momentum") for variable in variables
        ]

    def update_step(
        self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Update one variable and its momentum buffer."""
        buffer = self.momentum_buffers[variable_index(self, variable)].value
        gradient = tf.cast(gradient, variable.dtype)
        if uses_weight_decay(self, variable):
            gradient += self.coupled_weight_decay * variable
        # One in-place operation, which needs half the memory traffic of separate ones.
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=buffer.handle,
            lr=tf.cast(learning_rate, variable.dtype),
            grad=gradient,
            momentum=tf.constant(self.momentum, variable.dtype),
            use_nesterov=False,
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that build the same optimizer again."""
        config = super().get_config()
        return {
            **config,
            "momentum": self.momentum,
            "weight_decay": self.coupled_weight_decay,
        }


@keras.saving.register_keras_serializable("moco_tf")
class LossScaling(keras.optimizers.LossScaleOptimizer):
    """Dynamic loss scaling for float16 that skips a step if any replica overflows.

    `keras.optimizers.LossScaleOptimizer` checks the gradient of each replica before the gradients
    are summed. If only one of several replicas overflowed, its infinities would enter the sum, or
    the other replicas would wait for it forever.

    `Mechanism.compile` wraps the optimizer in it if the encoder computes in float16. The arguments
    are those of `keras.optimizers.LossScaleOptimizer`.
    """

    def exclude_from_weight_decay(self, *args: Any, **kwargs: Any) -> None:
        """Exclude variables from the weight decay of the wrapped optimizer, which applies it."""
        self.inner_optimizer.exclude_from_weight_decay(*args, **kwargs)

    def check_finite(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """Return whether the gradients of all replicas are finite."""
        overflow = tf.logical_not(super().check_finite(gradients))
        replica = tf.distribute.get_replica_context()
        return replica.all_reduce("SUM", tf.cast(overflow, tf.float32)) == 0


def move_towards(target: keras.Variable, variable: keras.Variable, fraction: float) -> None:
    """Move a variable towards a target by a fraction of their distance: the momentum update.

    This is `variable <- (1 - fraction) * variable + fraction * target` in one in-place operation.
    Keras' `assign_sub` would allocate a copy of every parameter of the encoder.

    Args:
        target: Floating-point variable.
        variable: Floating-point variable of the same shape and dtype, which is updated.
        fraction: Float in [0, 1].

    Example:
        >>> variable = keras.Variable(1.0)
        >>> move_towards(keras.Variable(3.0), variable, fraction=0.25)
        >>> float(variable.numpy())
        1.5
    """
    tf.raw_ops.ResourceApplyGradientDescent(
        var=variable.value.handle,
        alpha=tf.constant(fraction, variable.dtype),
        delta=variable.value - target.value,
    )
