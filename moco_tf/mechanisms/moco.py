"""Momentum Contrast: the paper's Algorithm 1 as a Keras model."""

import tensorflow as tf

from moco_tf.distribution import num_replicas, own_rows
from moco_tf.mechanisms.base import Mechanism
from moco_tf.mechanisms.dictionaries import Queue
from moco_tf.mechanisms.losses import info_nce
from moco_tf.mechanisms.shuffling import permutation, shuffle, unshuffle
from moco_tf.optimizers import move_towards
from moco_tf.seeds import seed_for


class MoCo(Mechanism):
    """Momentum Contrast (He et al., CVPR 2020) around any encoder.

    Args:
        build_encoder: callable without arguments that returns a new, built `keras.Model` from
            images to projections `[N, C]`. It is called twice.
        queue_size: int K, keys in the dictionary; any positive number.
        momentum: float m in [0, 1], equation 2.
        temperature: float tau > 0, equation 1.
        shuffle_bn: bool, Shuffling BN (section 3.3). It needs an encoder whose BatchNormalization
            has more than one group in the global batch; False shows what it prevents.
        symmetric_loss: bool; True adds the loss of the same images with the two views exchanged, as
            the reference's recipe for CIFAR-10 may. The sum is what is minimised and the mean what
            is logged, beside chance; both views' keys are enqueued.
        augment: the photometric half of the augmentation on the device, called as
            `augment(images, rows, count, seed)`; see `moco_tf.augment.Augment`. None where the
            views come fully augmented and normalised.
        seed: int; with the number of the step it determines every random draw of the step.

    Attributes:
        query_encoder, key_encoder: the two encoders f_q and f_k, of one architecture.
        queue: `moco_tf.dictionaries.Queue`, with the weights `keys` `[K, C]` and `pointer`.
        step: non-trainable int64 scalar, steps taken so far.
        seconds_waiting: float, spent by `fit` until now on waiting for data.

    `fit` takes batches `(query_images, key_images)`, two views `[N, H, W, C]` of the same N
    images: uint8 with an `augment`, else floats. N must be known when the step is traced
    (`drop_remainder=True`). `compile` takes an optimizer and no loss.

    Example:
        >>> model = moco_tf.MoCo(
        ...     lambda: moco_tf.encoders.build("resnet50", head="linear", bn_groups=8))
        >>> model.compile(moco_tf.optimizers.SGD(0.03))
        >>> model.fit(batches_of_two_views)
    """

    def __init__(
        self,
        build_encoder,
        queue_size=65536,
        momentum=0.999,
        temperature=0.07,
        shuffle_bn=True,
        symmetric_loss=False,
        augment=None,
        seed=0,
        **kwargs,
    ):
        super().__init__(temperature, augment, seed, **kwargs)
        self.momentum = momentum
        self.shuffle_bn = shuffle_bn
        self.symmetric_loss = symmetric_loss

        self.query_encoder = build_encoder()
        # It stays trainable, though no gradient reaches it: `trainable = False` would put its
        # BatchNormalization into inference mode, and nothing would be left to shuffle.
        self.key_encoder = build_encoder()
        for theirs, ours in zip(self.query_encoder.weights, self.key_encoder.weights, strict=True):
            ours.assign(theirs.value)
        self.queue = Queue(queue_size, self.query_encoder.output_shape[-1], seed)
        self.queue.build()

    def train_step(self, data):
        """Algorithm 1, for this replica's n of the N images of the global batch."""
        x_q, x_k = data
        step, n = self.step.value, x_q.shape[0]
        N = n * num_replicas()

        # One pair of views, or with their roles exchanged a second one.
        query_view = x_q, seed_for("query_view", self.seed, step)
        key_view = x_k, seed_for("key_view", self.seed, step)
        pairs = [(query_view, key_view)]
        if self.symmetric_loss:
            pairs.append((key_view, query_view))

        # Keys, without gradient; Shuffling BN encodes them in another order.
        order = None
        if self.shuffle_bn:
            order = permutation(N, seed_for("permutation", self.seed, step))
        k = [self._keys(*view, order, N) for _, view in pairs]  # keys: N x C
        k_own = tf.concat([tf.gather(keys, own_rows(n)) for keys in k], 0)  # of the queries: n x C

        x_q = [self._augment(x, own_rows(n), N, seed) for (x, seed), _ in pairs]
        theta_q = self.query_encoder.trainable_variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in theta_q])
            q = tf.concat([self._encode(self.query_encoder, x) for x in x_q], 0)  # queries: n x C
            losses, logits = info_nce(q, k_own, self.queue.keys.value, self.temperature)
            # Gradients are summed over the replicas: the mean is over the global batch.
            loss = self.optimizer.scale_loss(tf.reduce_sum(losses) / N)

        gradients = tape.gradient(loss, [variable.value for variable in theta_q])
        learning_rate = self.optimizer.learning_rate  # of this step; after it, of the next

        # SGD update: query encoder
        self.optimizer.apply(gradients, theta_q)

        # momentum update: key encoder (equation 2; parameters only, no moving statistics)
        m, theta_k = self.momentum, self.key_encoder.trainable_variables
        for variable_k, variable_q in zip(theta_k, theta_q, strict=True):
            move_towards(variable_q, variable_k, 1 - m)  # k <- m * k + (1 - m) * q

        # The current keys replace the oldest, after the negatives were read.
        self.queue.enqueue(tf.concat(k, 0))
        self.step.assign(step + 1)
        return self.logs(losses, logits, learning_rate)

    def _keys(self, images, seed, order, N):
        """The keys of one view of the global batch, `[N, C]`, of which this replica encodes n."""
        images, rows = shuffle(images, order)
        images = self._augment(images, rows, N, seed)
        return unshuffle(self._encode(self.key_encoder, images), order)
