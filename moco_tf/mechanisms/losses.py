"""The contrastive loss, InfoNCE (equation 1), and the accuracy of the classifier behind it."""

import tensorflow as tf


def l2_normalize(x):
    """Divides each row of `x`, `[N, C]`, by its L2 norm, or by 1e-12 where that is larger."""
    return tf.math.l2_normalize(x, axis=1, epsilon=1e-24)


def info_nce(queries, keys, negatives, temperature):
    """InfoNCE over one positive and K negatives (equation 1).

    Args:
        queries: `[N, C]`, L2-normalised.
        keys: `[N, C]`, L2-normalised; row i is the positive of query i.
        negatives: `[K, C]`, L2-normalised, the negatives of every query.
        temperature: float > 0, tau.

    Returns:
        loss: `[N]`, the log loss of the (K+1)-way classification of each query, in nats; ln(K+1)
            where the keys say nothing.
        logits: `[N, 1 + K]`, dot products over the temperature, the positive in column 0.
    """
    positive = tf.reduce_sum(queries * keys, axis=1, keepdims=True)  # N x 1
    negative = tf.matmul(queries, negatives, transpose_b=True)  # N x K
    logits = tf.concat([positive, negative], axis=1) / temperature  # N x (1 + K)
    return log_loss(logits), logits


def info_nce_in_batch(queries, keys, rows, temperature):
    """InfoNCE whose dictionary is the batch: the negatives are the other images' keys (Figure 2a).

    Args:
        queries: `[n, C]`, L2-normalised.
        keys: `[N, C]`, L2-normalised, of the global batch.
        rows: int32 `[n]`; row `rows[i]` of the keys is the positive of query i.
        temperature: float > 0, tau.

    Returns:
        loss: `[n]`, as of `info_nce`; ln(N) where the keys say nothing.
        logits: `[n, N]`, dot products over the temperature, the positive in column 0.
    """
    count = keys.shape[0]
    logits = tf.matmul(queries, keys, transpose_b=True) / temperature  # n x N
    # Each query's keys in their order, beginning with its own.
    columns = (rows[:, tf.newaxis] + tf.range(count)) % count
    logits = tf.gather(logits, columns, batch_dims=1)
    return log_loss(logits), logits


def log_loss(logits):
    """The log loss of a softmax-based classifier whose right answer is column 0.

    Args:
        logits: `[N, 1 + K]`.

    Returns:
        `[N]`, in nats.
    """
    labels = tf.zeros(tf.shape(logits)[:1], tf.int32)  # the positive is the 0-th
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def contrastive_accuracy(logits, k):
    """Whether each query's positive is among its `k` best keys.

    A negative that is as good as the positive counts as better, so that features which have
    collapsed to one point score 0 and not 1.

    Args:
        logits: `[N, 1 + K]`, the positive in column 0.
        k: int.

    Returns:
        `[N]` of 0.0 and 1.0, float32.
    """
    # Equal similarities differ in their last bits, being summed in different orders.
    positive = logits[:, :1] - 1e-5 * tf.abs(logits[:, :1])
    ahead = tf.reduce_sum(tf.cast(logits[:, 1:] >= positive, tf.int32), axis=1)
    return tf.cast(ahead < k, tf.float32)
