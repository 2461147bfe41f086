"""The end-to-end mechanism: back-propagation updates both encoders (the paper's Figure 2a)."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from moco_tf.distribution import num_replicas, replica_rows
from moco_tf.mechanisms.base import Augmentation, Mechanism
from moco_tf.mechanisms.building import build_two
from moco_tf.mechanisms.losses import info_nce_in_batch
from moco_tf.ranges import checked_bool


class EndToEnd(Mechanism):
    """The mechanism without a queue, whose dictionary is the batch.

    The paper compares MoCo with it in section 4.1, with the same pretext task, loss and Shuffling
    BN. Of the N keys of the global batch, one is the positive of a query and N - 1 are negatives.
    The gradient reaches the keys as well as the queries.

    According to the paper, the key encoder can be the query encoder itself, share a part of it, or
    be a separate one (section 3.1); it does not say which one the comparison uses. Here it has its
    own parameters, as in Figure 2a, and starts as a copy of the query encoder, as in MoCo.

    `fit` takes the same batches as that of `moco_tf.MoCo`, and `compile` the same arguments. A
    loss of ln(N) is chance level.

    Args:
        build_encoder: Function without arguments that returns a new, built model from images to
            projections `[N, C]`, such as one of `moco_tf.encoders.build`. It is called twice.
        temperature: The temperature tau of equation 1, greater than 0.
        shuffle_bn: Whether to use Shuffling BN (section 3.3), as in `moco_tf.MoCo`.
        symmetric_loss: Whether to add the loss of the same images with the two views exchanged.
            The negatives of a query are the keys of the other view only. The sum of both losses is
            minimized and their mean is reported, so that chance level stays the same.
        augment: Photometric part of the augmentation, which runs on the device; called as
            `augment(images, rows, count, seed)`, see `moco_tf.data.augment.Augment`. `None` if
            the views are already augmented and normalized.
        seed: Random seed. With the number of the step, it determines every random draw.
        **kwargs: Arguments of `keras.Model`.

    Attributes:
        query_encoder: The encoder f_q.
        key_encoder: The encoder f_k, of the same architecture.
        step: Non-trainable int64 scalar, the number of steps taken so far.
        seconds_waiting: Seconds that `fit` has spent waiting for data so far.

    Example:
        >>> import numpy as np
        >>> import tensorflow as tf
        >>> import moco_tf
        >>> from moco_tf.mechanisms.end_to_end import EndToEnd
        >>> def build_encoder():
        ...     return moco_tf.encoders.build("resnet8", head="mlp", stem="small", bn_groups=2)
        >>> model = EndToEnd(build_encoder)
        >>> model.compile(moco_tf.optimizers.SGD(learning_rate=0.03))
        >>> views = np.random.default_rng(0).normal(size=(2, 16, 16, 16, 3)).astype("float32")
        >>> data = tf.data.Dataset.from_tensor_slices((views[0], views[1]))
        >>> history = model.fit(data.batch(8, drop_remainder=True), verbose=0).history
        >>> sorted(history)
        ['contrastive_top1', 'contrastive_top5', 'learning_rate', 'loss']
    """

    def __init__(
        self,
        build_encoder: Callable[[], keras.Model],
        temperature: float = 0.07,
        shuffle_bn: bool = True,
        symmetric_loss: bool = False,
        augment: Augmentation | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, augment, seed, **kwargs)
        self.shuffle_bn = checked_bool("shuffle_bn", shuffle_bn)
        self.symmetric_loss = checked_bool("symmetric_loss", symmetric_loss)
        self.query_encoder, self.key_encoder = build_two(build_encoder)

    @property
    def learned_variables(self) -> list[keras.Variable]:
        """The variables of both encoders, which back-propagation updates."""
        return self.query_encoder.trainable_variables + self.key_encoder.trainable_variables

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Take one step with this replica's n of the N images of the global batch.

        Args:
            data: Two views of this replica's images, `[n, H, W, channels]` each.

        Returns:
            The values that `fit` reports.
        """
        x_q, x_k = self._elements(data, 2)
        n = x_q.shape[0]
        N = n * num_replicas()
        query_views, key_views = self._views(x_q, x_k, self.symmetric_loss)

        theta = self.learned_variables
        weights = [variable.value for variable in theta]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            results = []
            for query_view, key_view in zip(query_views, key_views, strict=True):
                q = self._encode_queries(query_view)  # queries: n x C
                k = self._encode_keys(key_view)  # keys: N x C
                rows = replica_rows(n)
                results.append(self._local(info_nce_in_batch)(q, k, rows, self.temperature))
            losses, logits = (tf.concat(parts, 0) for parts in zip(*results, strict=True))
            # the mean over the global batch, since the optimizer sums over the replicas
            loss = self.optimizer.scale_loss(tf.reduce_sum(losses) / N)
        logs = self.logs(losses, logits)

        # SGD update: both encoders
        self.optimizer.apply(tape.gradient(loss, weights), theta)
        self.step.assign(self.step.value + 1)
        return logs
