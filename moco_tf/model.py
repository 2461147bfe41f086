"""Momentum Contrast: the paper's Algorithm 1 as a Keras model."""

import time

import keras
import tensorflow as tf

from moco_tf.contrast import contrastive_accuracy, info_nce, l2_normalize
from moco_tf.dictionaries import Queue
from moco_tf.distribution import num_replicas, own_rows
from moco_tf.optimizers import LossScaling
from moco_tf.seeds import seed_for
from moco_tf.shuffling import permutation, shuffle, unshuffle


class MoCo(keras.Model):
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
        super().__init__(**kwargs)
        self.momentum = momentum
        self.temperature = temperature
        self.shuffle_bn = shuffle_bn
        self.symmetric_loss = symmetric_loss
        self.augment = augment
        self.seed = seed

        self.query_encoder = build_encoder()
        # It stays trainable, though no gradient reaches it: `trainable = False` would put its
        # BatchNormalization into inference mode, and nothing would be left to shuffle.
        self.key_encoder = build_encoder()
        for theirs, ours in zip(self.query_encoder.weights, self.key_encoder.weights, strict=True):
            ours.assign(theirs.value)
        self.queue = Queue(queue_size, self.query_encoder.output_shape[-1], seed)
        self.queue.build()
        self.step = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="step"
        )
        self.seconds_waiting = 0.0
        self.loss_metric = keras.metrics.Mean("loss")
        self.top1_metric = keras.metrics.Mean("contrastive_top1")
        self.top5_metric = keras.metrics.Mean("contrastive_top5")
        self.built = True

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
            variable_k.assign(moving_average(m, variable_k.value, variable_q.value))

        # The current keys replace the oldest, after the negatives were read.
        self.queue.enqueue(tf.concat(k, 0))
        self.step.assign(step + 1)

        self.loss_metric.update_state(losses)
        self.top1_metric.update_state(contrastive_accuracy(logits, 1))
        self.top5_metric.update_state(contrastive_accuracy(logits, 5))
        logs = {metric.name: metric.result() for metric in self.metrics}
        return {**logs, "learning_rate": learning_rate}

    def _keys(self, images, seed, order, N):
        """The keys of one view of the global batch, `[N, C]`, of which this replica encodes n."""
        images, rows = shuffle(images, order)
        images = self._augment(images, rows, N, seed)
        return unshuffle(self._encode(self.key_encoder, images), order)

    def _encode(self, encoder, images):
        # The similarity, the loss and the queue are float32 whatever the encoder computes in.
        return l2_normalize(tf.cast(encoder(images, training=True), self.queue.keys.dtype))

    def _augment(self, images, rows, count, seed):
        return images if self.augment is None else self.augment(images, rows, count, seed)

    @property
    def metrics(self):
        return [self.loss_metric, self.top1_metric, self.top5_metric]

    def compile(self, optimizer, **kwargs):
        """Configures training.

        Args:
            optimizer: a `keras.optimizers.Optimizer`, such as `moco_tf.optimizers.SGD`. It gets
                the query encoder's parameters alone. Where the encoder computes in float16, it is
                wrapped in `moco_tf.optimizers.LossScaling`.
            **kwargs: `jit_compile`, `run_eagerly`, `steps_per_execution`, as in Keras.
        """
        if self.compute_dtype == "float16":
            optimizer = LossScaling(optimizer)
        super().compile(optimizer=optimizer, **kwargs)
        self.optimizer.build(self.query_encoder.trainable_variables)

    def call(self, images, training=False):
        """The query encoder's projections of normalised images, not L2-normalised."""
        return self.query_encoder(images, training=training)

    def make_train_function(self, force=False):
        """Builds what `fit` calls with an iterator over batches, for any strategy.

        Keras' own does not work where replicas are in several processes (keras issue 20585).
        """
        if self.train_function is not None and not force:
            return
        strategy = self.distribute_strategy

        def replica_step(batch):
            return tf.distribute.get_replica_context().all_reduce("MEAN", self.train_step(batch))

        def step(batch):
            logs = strategy.run(replica_step, args=(batch,))
            return {name: strategy.experimental_local_results(logs[name])[0] for name in logs}

        if not self.run_eagerly:
            step = tf.function(step, jit_compile=self.jit_compile)

        def train_function(iterator):
            for _ in range(self.steps_per_execution):
                asked = time.perf_counter()
                batch = next(iterator)  # where the data ends, before any counter has moved
                self.seconds_waiting += time.perf_counter() - asked
                logs = step(batch)
            return logs

        self.train_function = train_function

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Everything is built already. Keras' own would consume a batch of the data set whenever a
        # strategy is set, after which a resumed run would no longer be at its position.
        pass


def moving_average(m, k, q):
    """`m * k + (1 - m) * q`, of variables or tensors."""
    # As tensors: a compiled function would take the first replica's copy of a variable for all.
    return _moving_average(m, tf.convert_to_tensor(k), tf.convert_to_tensor(q))


@tf.function(jit_compile=True)  # goes through memory once, where three operations go three times
def _moving_average(m, k, q):
    return m * k + (1 - m) * q
