"""The memory-bank mechanism: the keys are stored representations (the paper's Figure 2b)."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from moco_tf.distribution import all_gather, num_replicas
from moco_tf.mechanisms.base import Augmentation, Mechanism, View
from moco_tf.mechanisms.building import build
from moco_tf.mechanisms.dictionaries import Bank
from moco_tf.mechanisms.losses import log_loss
from moco_tf.ranges import COUNT, FRACTION, checked
from moco_tf.seeds import seed_for


class MemoryBank(Mechanism):
    """The mechanism whose keys are stored representations, one for each image of the data set.

    The paper compares MoCo with it in section 4.1: the mechanism of Wu et al. (CVPR 2018) with the
    same pretext task and InfoNCE. There is no key encoder. The positive key of a query is the
    representation of the same image in the bank, which comes from another view in an earlier
    epoch. The K negatives are drawn in each step from the representations of the other images. No
    gradient reaches the bank. After the step, the representations of the images of the batch move
    towards their queries. Shuffling BN has no effect here (section 3.3).

    The paper specifies neither how the negatives are drawn nor the initial content of the bank.
    Here the negatives are drawn with replacement, as in the code of Wu et al., but never include
    the query's own image, which their code allows. The bank starts from random unit vectors. While
    most images still have these, the loss is above chance level, because a query is more similar
    to recently encoded images than to its own key.

    `fit` takes batches `(query_images, key_images, rows)`: the two views that `moco_tf.MoCo` takes,
    the second of which is ignored, and for each image its row in the bank, int64 `[N]` with values
    from 0 to M - 1. `compile` takes an optimizer and no loss. A loss of ln(K + 1) is chance level.

    Args:
        build_encoder: Function without arguments that returns a new, built model from images to
            projections `[N, C]`, such as one of `moco_tf.encoders.build`. It is called once.
        num_images: Number M of images in the data set, greater than 1.
        num_negatives: Number K of negatives, greater than 0.
        momentum: Fraction of an image's representation that is kept when the image is seen again,
            in [0, 1].
        temperature: The temperature tau of equation 1, greater than 0.
        augment: Photometric part of the augmentation, which runs on the device; called as
            `augment(images, rows, count, seed)`, see `moco_tf.data.augment.Augment`. `None` if
            the views are already augmented and normalized.
        seed: Random seed. With the number of the step, it determines every random draw.
        **kwargs: Arguments of `keras.Model`.

    Attributes:
        query_encoder: The encoder f_q.
        bank: The dictionary, a `moco_tf.mechanisms.dictionaries.Bank` with the weight
            `representations`, `[M, C]` in float32 with L2-normalized rows.
        step: Non-trainable int64 scalar, the number of steps taken so far.
        seconds_waiting: Seconds that `fit` has spent waiting for data so far.

    Example:
        >>> import numpy as np
        >>> import tensorflow as tf
        >>> import moco_tf
        >>> from moco_tf.mechanisms.memory_bank import MemoryBank
        >>> def build_encoder():
        ...     return moco_tf.encoders.build("resnet8", head="mlp", stem="small", bn_groups=2)
        >>> model = MemoryBank(build_encoder, num_images=16, num_negatives=8)
        >>> model.compile(moco_tf.optimizers.SGD(learning_rate=0.03))
        >>> views = np.random.default_rng(0).normal(size=(2, 16, 16, 16, 3)).astype("float32")
        >>> data = tf.data.Dataset.from_tensor_slices((views[0], views[1], np.arange(16)))
        >>> history = model.fit(data.batch(8, drop_remainder=True), verbose=0).history
        >>> sorted(history)
        ['contrastive_top1', 'contrastive_top5', 'learning_rate', 'loss']
        >>> tuple(model.bank.representations.shape)
        (16, 128)
    """

    def __init__(
        self,
        build_encoder: Callable[[], keras.Model],
        num_images: int,
        num_negatives: int = 65536,
        momentum: float = 0.5,
        temperature: float = 0.07,
        augment: Augmentation | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, augment, seed, **kwargs)
        num_images = checked("num_images", num_images, COUNT)
        num_negatives = checked("num_negatives", num_negatives, COUNT)
        momentum = checked("momentum", momentum, FRACTION)
        self.num_negatives = num_negatives
        self.query_encoder = build(build_encoder)
        self.bank = Bank(num_images, self.query_encoder.output_shape[-1], momentum, seed)
        self.bank.build()

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Take one step with this replica's n of the N images of the global batch.

        Args:
            data: Two views of this replica's images, `[n, H, W, channels]` each, and the rows of
                the images in the bank, int64 `[n]`.

        Returns:
            The values that `fit` reports.
        """
        x_q, _, rows = self._elements(data, 3)
        N = x_q.shape[0] * num_replicas()
        step = self.step.value
        view = View(x_q, seed_for("query_view", self.seed, step))

        # keys, without gradient: a draw r means row r if r is less than the row of the query's
        # image, and row r + 1 otherwise, so that no negative is the query's own image
        k = self.bank.look_up(rows)  # positive keys: n x C
        draws = self.bank.draw(self.num_negatives, step)
        lower, upper = self.bank.look_up(draws), self.bank.look_up(draws + 1)  # K x C each
        is_lower = draws < rows[:, tf.newaxis]  # n x K

        theta_q = self.learned_variables
        weights_q = [variable.value for variable in theta_q]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights_q)
            q = self._encode_queries(view)  # queries: n x C
            positive = tf.reduce_sum(q * k, axis=1, keepdims=True)  # n x 1
            negative = tf.where(
                is_lower,
                tf.matmul(q, lower, transpose_b=True),
                tf.matmul(q, upper, transpose_b=True),
            )  # n x K
            logits = tf.concat([positive, negative], axis=1) / self.temperature
            losses = log_loss(logits)
            # the mean over the global batch, since the optimizer sums over the replicas
            loss = self.optimizer.scale_loss(tf.reduce_sum(losses) / N)
        logs = self.logs(losses, logits)

        # SGD update: query encoder
        self.optimizer.apply(tape.gradient(loss, weights_q), theta_q)

        # momentum update: the representations of the images of the global batch
        self.bank.update(all_gather(rows), all_gather(q))
        self.step.assign(step + 1)
        return logs
