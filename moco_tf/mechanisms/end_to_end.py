"""The end-to-end mechanism: both encoders learn by back-propagation (the paper's Figure 2a)."""

import tensorflow as tf

from moco_tf.distribution import num_replicas, own_rows
from moco_tf.mechanisms.base import Mechanism
from moco_tf.mechanisms.losses import info_nce_in_batch
from moco_tf.mechanisms.shuffling import permutation, shuffle, unshuffle
from moco_tf.seeds import seed_for


class EndToEnd(Mechanism):
    """The dictionary is the batch, and the gradient reaches the keys as well as the queries.

    What MoCo is compared with in section 4.1: the same pretext task, loss and Shuffling BN, and no
    queue. Of the N keys of the global batch one is the positive and N - 1 are negatives.

    Of the key encoder the paper says that it may be the query encoder itself, share a part of it,
    or be another (section 3.1), and not which it took. Here it has parameters of its own, as in
    Figure 2a, and starts as a copy of the query encoder, as MoCo's does.

    Args:
        build_encoder, temperature, shuffle_bn, augment, seed: as for `moco_tf.MoCo`.
        symmetric_loss: bool; True adds the loss of the same images with the two views exchanged.
            The negatives of a query are the keys of the other view only. The sum is what is
            minimised and the mean what is logged, beside chance.

    Attributes:
        query_encoder, key_encoder: the two encoders f_q and f_k, of one architecture.
        step: non-trainable int64 scalar, steps taken so far.
        seconds_waiting: float, spent by `fit` until now on waiting for data.

    `fit` and `compile` take what `moco_tf.MoCo`'s take.
    """

    def __init__(
        self,
        build_encoder,
        temperature=0.07,
        shuffle_bn=True,
        symmetric_loss=False,
        augment=None,
        seed=0,
        **kwargs,
    ):
        super().__init__(temperature, augment, seed, **kwargs)
        self.shuffle_bn = shuffle_bn
        self.symmetric_loss = symmetric_loss
        self.query_encoder = build_encoder()
        self.key_encoder = build_encoder()
        for theirs, ours in zip(self.query_encoder.weights, self.key_encoder.weights, strict=True):
            ours.assign(theirs.value)

    @property
    def learned_variables(self):
        return self.query_encoder.trainable_variables + self.key_encoder.trainable_variables

    def train_step(self, data):
        """One step, for this replica's n of the N images of the global batch."""
        x_q, x_k = data
        step, n = self.step.value, x_q.shape[0]
        N = n * num_replicas()

        # One pair of views, or with their roles exchanged a second one.
        query_view = x_q, seed_for("query_view", self.seed, step)
        key_view = x_k, seed_for("key_view", self.seed, step)
        pairs = [(query_view, key_view)]
        if self.symmetric_loss:
            pairs.append((key_view, query_view))

        # Shuffling BN encodes the keys in another order.
        order = None
        if self.shuffle_bn:
            order = permutation(N, seed_for("permutation", self.seed, step))
        x_q = [self._augment(x, own_rows(n), N, seed) for (x, seed), _ in pairs]
        x_k = [self._augment(*shuffle(x, order), N, seed) for _, (x, seed) in pairs]

        theta = self.learned_variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in theta])
            found = []
            for query_images, key_images in zip(x_q, x_k, strict=True):
                q = self._encode(self.query_encoder, query_images)  # queries: n x C
                k = unshuffle(self._encode(self.key_encoder, key_images), order)  # keys: N x C
                found.append(info_nce_in_batch(q, k, own_rows(n), self.temperature))
            losses, logits = (tf.concat(parts, 0) for parts in zip(*found, strict=True))
            # Gradients are summed over the replicas: the mean is over the global batch.
            loss = self.optimizer.scale_loss(tf.reduce_sum(losses) / N)

        gradients = tape.gradient(loss, [variable.value for variable in theta])
        learning_rate = self.optimizer.learning_rate  # of this step; after it, of the next

        # SGD update: both encoders
        self.optimizer.apply(gradients, theta)
        self.step.assign(step + 1)
        return self.logs(losses, logits, learning_rate)
