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
    labels = tf.zeros(tf.shape(logits)[:1], tf.int32)  # the positive is the 0-th
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return loss, logits


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
