"""BatchNormalization with separate statistics for groups of the batch (section 3.3)."""

from typing import Any

import keras
import tensorflow as tf

from moco_tf.errors import UserError
from moco_tf.ranges import COUNT, checked


@keras.saving.register_keras_serializable("moco_tf")
class BatchNormalization(keras.layers.Layer):
    """Batch normalization over groups of the batch, on TensorFlow's fused kernel.

    In training, the layer splits the batch into `groups` blocks of consecutive images and
    normalizes each block with its own mean and variance, as if each block were on its own GPU. On
    one device, this does what the paper describes as performing BN "on the samples independently
    for each GPU".

    The moving statistics track the mean of the statistics of the groups. As in the reference
    implementation, the variance that they track is the unbiased one. Under a `tf.distribute`
    strategy each replica keeps its own moving statistics, and their mean is what is read and
    saved. They therefore track the mean over all groups of the global batch, whatever the number
    of devices.

    float16, bfloat16 and float32 inputs use the fused kernel with statistics in float32; float64
    inputs use the plain formula.

    Args:
        groups: Number of blocks that the batch of one replica is split into; 1 is ordinary batch
            normalization. The size of the batch must be a multiple of it.
        momentum: Fraction of the old moving statistics that is kept in each step, in [0, 1).
        epsilon: Positive float that is added to the variance.
        scale: Whether to multiply by the weight gamma.
        center: Whether to add the weight beta.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `[N, ..., C]`, such as feature maps `[N, H, W, C]` or features `[N, C]`. The output
            has the same shape and dtype.
        training: Whether to normalize with the statistics of the batch and to update the moving
            statistics. Otherwise, and whenever `trainable` is False as in Keras, the layer
            normalizes with the moving statistics.

    Example:
        >>> layer = BatchNormalization(groups=2)
        >>> images = tf.reshape(tf.constant([1.0, 3.0, 10.0, 30.0]), [4, 1, 1, 1])
        >>> tf.squeeze(layer(images, training=True)).numpy().round(2).tolist()
        [-1.0, 1.0, -1.0, 1.0]
    """

    def __init__(
        self,
        groups: int = 1,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        scale: bool = True,
        center: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.groups = checked("groups", groups, COUNT)
        self.momentum = momentum
        self.epsilon = epsilon
        self.scale = scale
        self.center = center

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights."""
        shape = (input_shape[-1],)
        # The fused kernel requires float32 parameters for float16 and bfloat16 images.
        dtype = "float64" if self.variable_dtype == "float64" else "float32"
        self.gamma = self.beta = None
        if self.scale:
            self.gamma = self.add_weight(
                shape=shape, initializer="ones", dtype=dtype, name="gamma", autocast=False
            )
        if self.center:
            self.beta = self.add_weight(
                shape=shape, initializer="zeros", dtype=dtype, name="beta", autocast=False
            )
        # A replica sees only its own groups. A moving average is linear in the statistics, so the
        # mean over the replicas on read equals a mean that is taken in every step.
        self.moving_mean = self._add_moving_statistic(shape, dtype, "zeros", "moving_mean")
        self.moving_variance = self._add_moving_statistic(shape, dtype, "ones", "moving_variance")

    def _add_moving_statistic(
        self, shape: tuple[int | None, ...], dtype: str, initializer: str, name: str
    ) -> keras.Variable:
        # `add_weight` has no argument for the synchronization of the replicas.
        return keras.Variable(
            initializer=initializer,
            shape=shape,
            dtype=dtype,
            trainable=False,
            autocast=False,
            synchronization="on_read",
            aggregation="mean",
            name=name,
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Normalize the inputs, and in training update the moving statistics."""
        if len(inputs.shape) == 4:
            return self._call(inputs, training)
        # The fused kernel takes feature maps.
        shape = tf.shape(inputs)
        maps = tf.reshape(inputs, [shape[0], -1, 1, inputs.shape[-1]])
        outputs = tf.reshape(self._call(maps, training), shape)
        return tf.ensure_shape(outputs, inputs.shape)

    def _call(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        if not (training and self.trainable):
            return self._normalize(inputs, self.moving_mean.value, self.moving_variance.value)
        if inputs.shape[0] is not None and inputs.shape[0] % self.groups:
            raise UserError(
                f"a batch of {inputs.shape[0]} images cannot be split into {self.groups} groups of "
                "BatchNormalization: use a multiple of it as the batch size, and "
                "drop_remainder=True, or build the encoder with another bn_groups"
            )
        # Splitting along the first axis copies nothing; only the concat moves memory.
        blocks = tf.split(inputs, self.groups) if self.groups > 1 else [inputs]
        outputs, means, variances = zip(*map(self._normalize_by_batch, blocks), strict=True)
        self._update_moving(self.moving_mean, tf.add_n(means) / self.groups)
        self._update_moving(self.moving_variance, tf.add_n(variances) / self.groups)
        return tf.concat(outputs, axis=0) if self.groups > 1 else outputs[0]

    def _gamma_and_beta(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the factor and the summand, `[C]` each, which the fused kernel requires."""
        like = self.moving_mean.value
        gamma = tf.ones_like(like) if self.gamma is None else self.gamma.value
        beta = tf.zeros_like(like) if self.beta is None else self.beta.value
        return gamma, beta

    def _normalize(self, x: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """Normalize `x`, `[n, H, W, C]`, with the given statistics, `[C]` each."""
        gamma, beta = self._gamma_and_beta()
        if x.dtype == tf.float64:
            return tf.nn.batch_normalization(x, mean, variance, beta, gamma, self.epsilon)
        y, _, _ = tf.compat.v1.nn.fused_batch_norm(
            x, gamma, beta, mean, variance, self.epsilon, is_training=False
        )
        return y

    def _normalize_by_batch(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Normalize `x`, `[n, H, W, C]`, with its own statistics.

        Returns:
            The normalized `x`, its mean and its unbiased variance, `[C]` each.
        """
        gamma, beta = self._gamma_and_beta()
        if x.dtype != tf.float64:
            return tf.compat.v1.nn.fused_batch_norm(
                x, gamma, beta, epsilon=self.epsilon, is_training=True
            )
        mean, variance = tf.nn.moments(x, axes=[0, 1, 2])
        y = tf.nn.batch_normalization(x, mean, variance, beta, gamma, self.epsilon)
        count = tf.cast(tf.reduce_prod(tf.shape(x)[:3]), x.dtype)
        return y, mean, variance * count / tf.maximum(count - 1, 1)

    def _update_moving(self, moving: keras.Variable, statistic: tf.Tensor) -> None:
        statistic = tf.stop_gradient(tf.cast(statistic, moving.dtype))
        moving.assign(self.momentum * moving.value + (1 - self.momentum) * statistic)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the outputs, which is that of the inputs."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that build the same layer again."""
        config = super().get_config()
        return {
            **config,
            "groups": self.groups,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "scale": self.scale,
            "center": self.center,
        }
