"""The contrastive loss InfoNCE (equation 1), and the accuracy of the classifier that it trains."""

import math

import tensorflow as tf


def l2_normalize(x: tf.Tensor) -> tf.Tensor:
    """Divide each row of `x`, `[N, C]`, by its L2 norm, or by 1e-12 if the norm is smaller."""
    return tf.math.l2_normalize(x, axis=1, epsilon=1e-24)


def info_nce(
    queries: tf.Tensor,
    keys: tf.Tensor,
    negatives: tf.Tensor,
    temperature: float,
    excluded: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Compute InfoNCE with one positive and K negatives for each query (equation 1).

    Args:
        queries: `[N, C]`, L2-normalized.
        keys: `[N, C]`, L2-normalized; row i is the positive of query i.
        negatives: `[K, C]`, L2-normalized, the negatives of every query.
        temperature: The temperature tau, greater than 0.
        excluded: bool `[N, K]`, which negatives do not count for a query; None if all do.

    Returns:
        loss: `[N]`, the log loss of the (K+1)-way classification of each query, in nats; ln(K+1)
            if the keys carry no information.
        logits: `[N, 1 + K]`, dot products divided by the temperature, the positive in column 0. An
            excluded negative is -infinity.

    Example:
        >>> queries = keys = tf.constant([[1.0, 0.0]])
        >>> negatives = tf.constant([[0.0, 1.0], [0.0, -1.0], [-1.0, 0.0]])
        >>> loss, logits = info_nce(queries, keys, negatives, temperature=0.5)
        >>> logits.numpy().tolist()
        [[2.0, 0.0, 0.0, -2.0]]
    """
    positive = tf.reduce_sum(queries * keys, axis=1, keepdims=True)  # N x 1
    negative = tf.matmul(queries, negatives, transpose_b=True)  # N x K
    if excluded is not None:
        negative = tf.where(excluded, tf.constant(-math.inf, negative.dtype), negative)
    logits = tf.concat([positive, negative], axis=1) / temperature  # N x (1 + K)
    return log_loss(logits), logits


def info_nce_in_batch(
    queries: tf.Tensor, keys: tf.Tensor, rows: tf.Tensor, temperature: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Compute InfoNCE with the keys of the other images in the batch as negatives (Figure 2a).

    Args:
        queries: `[n, C]`, L2-normalized.
        keys: `[N, C]`, L2-normalized, the keys of the global batch.
        rows: int32 `[n]`; row `rows[i]` of the keys is the positive of query i.
        temperature: The temperature tau, greater than 0.

    Returns:
        loss: `[n]`, as from `info_nce`; ln(N) if the keys carry no information.
        logits: `[n, N]`, dot products divided by the temperature, the positive in column 0.
    """
    count = keys.shape[0]
    logits = tf.matmul(queries, keys, transpose_b=True) / temperature  # n x N
    # Rotate each row so that the positive comes first. TensorFlow computes int32 on the host.
    rows = tf.cast(rows, tf.int64)
    columns = (rows[:, tf.newaxis] + tf.range(count, dtype=tf.int64)) % count
    logits = tf.gather(logits, columns, batch_dims=1)
    return log_loss(logits), logits


def log_loss(logits: tf.Tensor) -> tf.Tensor:
    """Compute the log loss of a softmax classifier whose correct class is column 0.

    Args:
        logits: `[N, 1 + K]`.

    Returns:
        `[N]`, in nats.
    """
    labels = tf.zeros(tf.shape(logits)[:1], tf.int32)  # positives are the 0-th
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def contrastive_accuracy(logits: tf.Tensor, k: int) -> tf.Tensor:
    """Return whether the positive of each query is among its `k` most similar keys.

    A negative that is as similar as the positive counts as more similar, so that features that
    collapse to a single point score 0 instead of 1.

    Args:
        logits: `[N, 1 + K]`, with the positive in column 0.
        k: Number of keys to consider.

    Returns:
        float32 `[N]` of 0.0 and 1.0.

    Example:
        >>> logits = tf.constant([[2.0, 3.0, 1.0], [2.0, 1.0, 1.0]])
        >>> contrastive_accuracy(logits, k=1).numpy().tolist()
        [0.0, 1.0]
    """
    # Equal similarities can differ in their last bits, since they are summed in different orders.
    positive = logits[:, :1] - 1e-5 * tf.abs(logits[:, :1])
    # Floats, since TensorFlow sums int32 on the host, to which a GPU would send all of them.
    ahead = tf.reduce_sum(tf.cast(logits[:, 1:] >= positive, tf.float32), axis=1)
    return tf.cast(ahead < k, tf.float32)
