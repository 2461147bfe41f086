"""Momentum Contrast as a Keras model.

`MoCo.train_step` is Algorithm 1 of the paper, with the comments of its pseudo-code.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from moco_tf.distribution import all_gather, num_replicas, replica_rows
from moco_tf.errors import UserError
from moco_tf.keras_internals import all_layers
from moco_tf.mechanisms.base import Augmentation, Mechanism
from moco_tf.mechanisms.building import build_two
from moco_tf.mechanisms.dictionaries import Queue
from moco_tf.mechanisms.losses import info_nce
from moco_tf.optimizers import move_towards
from moco_tf.ranges import COUNT, FRACTION, checked, checked_bool


class MoCo(Mechanism):
    """Momentum Contrast (He et al., CVPR 2020) for any encoder.

    `fit` takes batches `(query_images, key_images)`: two views `[N, H, W, channels]` of the same N
    images. With an `augment`, they are uint8, uint16 or float32 in the range of the pixel values,
    such as [0, 255]; without one, they are floats that are augmented and normalized. N must be
    a multiple of the encoder's `bn_groups`, so batch the data set with `drop_remainder=True`. The
    step is compiled again for another N. `compile` takes an optimizer and no loss. `fit` reports
    the loss, the contrastive top-1 and top-5 accuracy and the learning rate. A loss of ln(K + 1) is
    chance level.

    Args:
        build_encoder: Function without arguments that returns a new, built model from images to
            projections `[N, C]`, such as one that calls `moco_tf.encoders.build`. It is called
            twice. The models of `moco_tf.encoders.build` have an attribute `backbone`, and
            BatchNormalization with groups. Freeze layers of `query_encoder` before `compile` to
            keep them as they are.
        queue_size: Number K of keys in the queue; any positive integer.
        momentum: The momentum m of equation 2, in [0, 1].
        temperature: The temperature tau of equation 1, greater than 0.
        shuffle_bn: Whether to use Shuffling BN (section 3.3). It requires an encoder whose
            BatchNormalization has more than one group in the global batch, as with several
            replicas or with `bn_groups` greater than 1. `False` repeats the paper's ablation.
        symmetric_loss: Whether to add the loss of the same images with the two views exchanged, as
            the reference implementation's recipe for CIFAR-10 can do. The sum of both is minimized
            and their mean is reported, so that chance level stays the same. The keys of both views
            are enqueued.
        exclude_neighbors: Whether keys of neighboring frames of a video are left out of a query's
            negatives. Batches then have a third element, int64 `[N, 2, 3]`: for each of the two
            views the index of its frame, and the range of the indices of its neighbors. The queue
            also keeps the indices of the frames of its keys.
        augment: Photometric part of the augmentation, which runs on the device; called as
            `augment(images, rows, count, seed)`, see `moco_tf.data.augment.Augment`. `None` if
            the views are already augmented and normalized.
        seed: Random seed. With the number of the step, it determines every random draw of the
            training. `build_encoder` draws the initial weights: call
            `keras.utils.set_random_seed` before.
        **kwargs: Arguments of `keras.Model`.

    Raises:
        UserError: If an argument is out of its range, or `build_encoder` does not return two models
            from images to projections.

    Attributes:
        query_encoder: The encoder f_q, which back-propagation updates.
        key_encoder: The encoder f_k, which the momentum update moves (equation 2).
        queue: The dictionary, a `moco_tf.mechanisms.dictionaries.Queue` with the weights `keys`,
            `[K, C]` in float32 with L2-normalized rows, and `pointer`, an int64 scalar.
        step: Non-trainable int64 scalar, the number of steps taken so far.
        seconds_waiting: Seconds that `fit` has spent waiting for data so far.

    Example:
        >>> import numpy as np
        >>> import tensorflow as tf
        >>> import moco_tf
        >>> def build_encoder():
        ...     return moco_tf.encoders.build("resnet8", head="mlp", stem="small", bn_groups=2)
        >>> model = moco_tf.MoCo(build_encoder, queue_size=32)
        >>> model.compile(moco_tf.optimizers.SGD(learning_rate=0.03))
        >>> views = np.random.default_rng(0).normal(size=(2, 16, 16, 16, 3)).astype("float32")
        >>> data = tf.data.Dataset.from_tensor_slices((views[0], views[1]))
        >>> history = model.fit(data.batch(8, drop_remainder=True), verbose=0).history
        >>> sorted(history)
        ['contrastive_top1', 'contrastive_top5', 'learning_rate', 'loss']
        >>> tuple(model.queue.keys.shape), int(model.queue.pointer.numpy())
        ((32, 128), 16)
    """

    def __init__(
        self,
        build_encoder: Callable[[], keras.Model],
        queue_size: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.07,
        shuffle_bn: bool = True,
        symmetric_loss: bool = False,
        exclude_neighbors: bool = False,
        augment: Augmentation | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, augment, seed, **kwargs)
        queue_size = checked("queue_size", queue_size, COUNT)
        self.momentum = momentum
        self.shuffle_bn = checked_bool("shuffle_bn", shuffle_bn)
        self.symmetric_loss = checked_bool("symmetric_loss", symmetric_loss)
        self.exclude_neighbors = checked_bool("exclude_neighbors", exclude_neighbors)

        # The key encoder stays trainable, although no gradient reaches it: `trainable = False`
        # would put its BatchNormalization into inference mode, where shuffling has no effect.
        self.query_encoder, self.key_encoder = build_two(build_encoder)
        self.queue = Queue(
            queue_size, self.query_encoder.output_shape[-1], seed, with_frames=exclude_neighbors
        )
        self.queue.build()

    @property
    def momentum(self) -> float:
        """The momentum m of equation 2, which can be changed like `temperature`."""
        return self._momentum

    @momentum.setter
    def momentum(self, value: float) -> None:
        if value != getattr(self, "_momentum", None):
            self._momentum = checked("momentum", value, FRACTION)
            self._compile_again()

    def compile(self, optimizer: keras.optimizers.Optimizer | str, **kwargs: Any) -> None:
        """Compile the model. `Mechanism.compile` describes the arguments.

        Layers of the query encoder that are frozen are frozen in the key encoder as well.
        """
        encoders = all_layers(self.query_encoder), all_layers(self.key_encoder)
        for layer_q, layer_k in zip(*encoders, strict=True):
            if layer_k.trainable != layer_q.trainable:
                layer_k.trainable = layer_q.trainable
        super().compile(optimizer, **kwargs)

    def train_step(self, data: tuple[tf.Tensor, ...]) -> dict[str, tf.Tensor]:
        """Take one step of Algorithm 1 with this replica's n of the N images of the global batch.

        With a symmetric loss, every image is once a query and once a key, and the tensors have
        twice as many rows as the comments say.

        Args:
            data: Two views of this replica's images, `[n, H, W, channels]` each; and with
                `exclude_neighbors`, their frames and neighbors, int64 `[n, 2, 3]`.

        Returns:
            The values that `fit` reports.
        """
        x_q, x_k, *frames = self._elements(data, 3 if self.exclude_neighbors else 2)
        n = x_q.shape[0]
        N = n * num_replicas()
        query_views, key_views = self._views(x_q, x_k, self.symmetric_loss)

        # keys of all replicas, without gradient
        k = [self._encode_keys(view) for view in key_views]  # N x C
        k_positive = tf.concat([tf.gather(keys, replica_rows(n)) for keys in k], 0)  # n x C

        excluded, new_frames = self._neighbors(*frames)  # none, or n x K and N

        theta_q = self.query_encoder.trainable_variables
        weights_q = [variable.value for variable in theta_q]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights_q)
            q = tf.concat([self._encode_queries(view) for view in query_views], 0)  # n x C
            # contrastive loss, equation 1; the positives are in column 0: n, n x (1 + K)
            losses, logits = self._local(info_nce)(
                q, k_positive, self.queue.keys.value, self.temperature, excluded
            )
            # the mean over the global batch, since the optimizer sums over the replicas
            loss = self.optimizer.scale_loss(tf.reduce_sum(losses) / N)
        logs = self.logs(losses, logits)

        # SGD update: query encoder
        self.optimizer.apply(tape.gradient(loss, weights_q), theta_q)

        # momentum update: key encoder (equation 2; parameters only, no moving statistics)
        m, theta_k = self.momentum, self.key_encoder.trainable_variables

        def momentum_update() -> None:
            for variable_k, variable_q in zip(theta_k, theta_q, strict=True):
                # theta_k <- m * theta_k + (1 - m) * theta_q
                move_towards(variable_q, variable_k, 1 - m)

        self._local(momentum_update)()

        # update dictionary: enqueue the keys of this step, and dequeue the oldest
        self.queue.enqueue(tf.concat(k, 0), new_frames)
        self.step.assign(self.step.value + 1)
        return logs

    def _neighbors(
        self, frames: tf.Tensor | None = None
    ) -> tuple[tf.Tensor | None, tf.Tensor | None]:
        """Return the keys of the queue to leave out, and the frames of the keys to enqueue.

        Args:
            frames: int64 `[n, 2, 3]`, see `exclude_neighbors`; None without it.

        Returns:
            bool `[n, K]`, in the order of the queries, and int64 `[N]`, in that of the keys. With a
            symmetric loss both have twice as many rows.
        """
        if not self.exclude_neighbors:
            return None, None
        assert frames is not None
        if frames.shape[1:] != (2, 3) or not frames.dtype.is_integer:
            raise UserError(
                f"the third element of a batch is {frames.dtype.name} {list(frames.shape)}: with "
                "exclude_neighbors, it has the frames and their neighbors, int64 [N, 2, 3]"
            )
        frames = tf.cast(frames, tf.int64)
        gathered = all_gather(frames)  # N x 2 x 3
        query_views, key_views = ([0, 1], [1, 0]) if self.symmetric_loss else ([0], [1])
        ranges = tf.concat([frames[:, view, 1:] for view in query_views], 0)
        new_frames = tf.concat([gathered[:, view, 0] for view in key_views], 0)
        return self.queue.is_within(ranges), new_frames
