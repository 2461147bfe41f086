"""The memory-bank mechanism: keys are what was encoded when their images were last seen
(the paper's Figure 2b)."""

import tensorflow as tf

from moco_tf.distribution import all_gather, num_replicas, own_rows
from moco_tf.mechanisms.base import Mechanism
from moco_tf.mechanisms.dictionaries import Bank
from moco_tf.mechanisms.losses import log_loss
from moco_tf.seeds import seed_for


class MemoryBank(Mechanism):
    """The dictionary is drawn from a bank of one representation of every image.

    What MoCo is compared with in section 4.1: the mechanism of Wu et al. (CVPR 2018) with the same
    pretext task and InfoNCE. There is no key encoder: the positive key of a query is what the bank
    holds of the same image, from another view in an epoch before; the K negatives are drawn for
    each step from what it holds of the others. No gradient reaches the bank. After the step the
    representations of the batch's images move to their queries. Shuffling BN has nothing to do
    (section 3.3).

    The paper does not say how the negatives are drawn, nor what the bank holds at first. Here the
    draws are with replacement, as in Wu et al.'s code, and leave the query's own image out, which
    theirs do not; and the bank starts from random unit vectors. While most images' keys are still
    these, the loss lies above chance: a query is like what was encoded lately, and not like its
    own key.

    Args:
        build_encoder: as for `moco_tf.MoCo`; it is called once.
        num_images: int M > 1, images of the data set.
        num_negatives: int K > 0.
        momentum: float in [0, 1], what is kept of an image's representation when it is seen again.
        temperature, augment, seed: as for `moco_tf.MoCo`.

    Attributes:
        query_encoder: the encoder f_q.
        bank: `moco_tf.dictionaries.Bank`, with the weight `representations` `[M, C]`.
        step: non-trainable int64 scalar, steps taken so far.
        seconds_waiting: float, spent by `fit` until now on waiting for data.

    `fit` takes batches `(query_images, key_images, rows)`: the views that `moco_tf.MoCo` takes, of
    which the second is not looked at, and for each image the row of the bank that is its own,
    int64 `[N]` of 0 to M - 1. `compile` takes an optimizer and no loss.
    """

    def __init__(
        self,
        build_encoder,
        num_images,
        num_negatives=65536,
        momentum=0.5,
        temperature=0.07,
        augment=None,
        seed=0,
        **kwargs,
    ):
        super().__init__(temperature, augment, seed, **kwargs)
        self.num_negatives = num_negatives
        self.query_encoder = build_encoder()
        self.bank = Bank(num_images, self.query_encoder.output_shape[-1], momentum, seed)
        self.bank.build()

    def train_step(self, data):
        """One step, for this replica's n of the N images of the global batch."""
        x_q, _, rows = data
        step, n = self.step.value, x_q.shape[0]
        N = n * num_replicas()

        # Keys, without gradient. A draw r stands for row r where that comes before the image's own,
        # and for row r + 1 elsewhere, so that no image meets itself.
        k = self.bank.look_up(rows)  # positive keys: n x C
        draws = self.bank.draw(self.num_negatives, step)
        lower, upper = self.bank.look_up(draws), self.bank.look_up(draws + 1)  # K x C each
        comes_before = draws < rows[:, tf.newaxis]  # n x K

        x_q = self._augment(x_q, own_rows(n), N, seed_for("query_view", self.seed, step))
        theta_q = self.learned_variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in theta_q])
            q = self._encode(self.query_encoder, x_q)  # queries: n x C
            positive = tf.reduce_sum(q * k, axis=1, keepdims=True)  # n x 1
            negative = tf.where(
                comes_before,
                tf.matmul(q, lower, transpose_b=True),
                tf.matmul(q, upper, transpose_b=True),
            )  # n x K
            logits = tf.concat([positive, negative], axis=1) / self.temperature
            losses = log_loss(logits)
            # Gradients are summed over the replicas: the mean is over the global batch.
            loss = self.optimizer.scale_loss(tf.reduce_sum(losses) / N)

        gradients = tape.gradient(loss, [variable.value for variable in theta_q])
        learning_rate = self.optimizer.learning_rate  # of this step; after it, of the next

        # SGD update: query encoder
        self.optimizer.apply(gradients, theta_q)

        # momentum update: representations of the images of the global batch
        self.bank.update(all_gather(rows), all_gather(q))
        self.step.assign(step + 1)
        return self.logs(losses, logits, learning_rate)
