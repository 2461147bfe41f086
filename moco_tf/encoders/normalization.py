"""BatchNormalization whose statistics come from groups of the batch (section 3.3, Shuffling BN)."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("moco_tf")
class BatchNormalization(keras.layers.Layer):
    """Batch normalisation over groups of the batch, on TensorFlow's fused kernel.

    In training the batch is cut into `groups` blocks of consecutive images and each block is
    normalised by its own mean and variance, as if each sat on a GPU of its own. This is what the
    paper means by performing BN "on the samples independently for each GPU", on one device.

    The moving statistics follow the mean of the groups' statistics; the variance they follow is
    the unbiased one, as in the reference implementation. Under a `tf.distribute` strategy every
    replica keeps its own, and what is saved is their mean: the statistics follow the mean over
    all groups of the global batch, however many devices carry them.

    Args:
        groups: int, blocks that the batch of one replica is cut into; 1 is ordinary batch
            normalisation. The batch must be a multiple of it.
        momentum: float in [0, 1), the share of the old moving statistic that is kept.
        epsilon: float, added to the variance.

    Shapes: `[N, H, W, C]` in, the same out. float16, bfloat16 and float32 use the fused kernel
    with statistics in float32; float64 uses the plain formula.
    """

    def __init__(self, groups=1, momentum=0.9, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.groups = groups
        self.momentum = momentum
        self.epsilon = epsilon

    def build(self, input_shape):
        shape = (input_shape[-1],)
        # The fused kernel wants float32 parameters beside float16 or bfloat16 images.
        self.gamma = self.add_weight(shape=shape, initializer="ones", name="gamma", autocast=False)
        self.beta = self.add_weight(shape=shape, initializer="zeros", name="beta", autocast=False)
        # A replica sees only its own groups. The moving average is linear in the statistics, so
        # the mean that is taken when somebody reads equals one taken at every step.
        self.moving_mean = self._moving(shape, "zeros", "moving_mean")
        self.moving_variance = self._moving(shape, "ones", "moving_variance")

    def _moving(self, shape, initializer, name):
        # `add_weight` cannot say how replicas' values meet; the variable itself can.
        return keras.Variable(
            initializer=initializer,
            shape=shape,
            dtype=self.variable_dtype,
            trainable=False,
            autocast=False,
            synchronization="on_read",
            aggregation="mean",
            name=name,
        )

    def call(self, inputs, training=False):
        if not training:
            return self._normalize(inputs, self.moving_mean.value, self.moving_variance.value)
        # Blocks along the first axis are views, not copies; only the concat moves memory.
        blocks = tf.split(inputs, self.groups) if self.groups > 1 else [inputs]
        outputs, means, variances = zip(*map(self._normalize, blocks), strict=True)
        self._follow(self.moving_mean, tf.add_n(means) / self.groups)
        self._follow(self.moving_variance, tf.add_n(variances) / self.groups)
        return tf.concat(outputs, axis=0) if self.groups > 1 else outputs[0]

    def _normalize(self, x, mean=None, variance=None):
        """Normalises by the given statistics, or by those of `x`, which it then returns too."""
        training = mean is None
        gamma, beta = self.gamma.value, self.beta.value
        if x.dtype != tf.float64:
            y, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(
                x, gamma, beta, mean, variance, self.epsilon, is_training=training
            )
            return (y, batch_mean, batch_variance) if training else y
        if training:
            mean, variance = tf.nn.moments(x, axes=[0, 1, 2])
        y = tf.nn.batch_normalization(x, mean, variance, beta, gamma, self.epsilon)
        if not training:
            return y
        count = tf.cast(tf.reduce_prod(tf.shape(x)[:3]), x.dtype)
        return y, mean, variance * count / tf.maximum(count - 1, 1)

    def _follow(self, moving, statistic):
        statistic = tf.stop_gradient(tf.cast(statistic, moving.dtype))
        moving.assign(self.momentum * moving.value + (1 - self.momentum) * statistic)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = super().get_config()
        return {
            **config,
            "groups": self.groups,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
        }
