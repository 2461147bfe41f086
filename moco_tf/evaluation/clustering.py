"""Clustering: whether k-means on the features finds the classes."""

from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from moco_tf.data.sources.source import sample
from moco_tf.errors import UserError
from moco_tf.evaluation import partitions
from moco_tf.evaluation.features import Features, labeled, normalize, require_finite
from moco_tf.evaluation.metrics import class_names
from moco_tf.evaluation.settings import ClusterSettings

# Maximum number of training images that the clusters are made from.
MAX_IMAGES = 100_000
EXAMPLES = 8  # Number of images that stand for a cluster.


def cluster(
    train: Features, test: Features, settings: ClusterSettings = ClusterSettings()
) -> dict[str, Any]:
    """Cluster the training images by k-means, and compare the clusters of test images with classes.

    The features are divided by their length first, so that the distance between two images is a
    function of their cosine similarity. Of more than 100,000 training images, as many are used.

    Args:
        train: Features of the training images.
        test: Features of the test images, with labels or without. Those without a label count for
            the sizes and the examples of the clusters, and not for the agreement with classes.
        settings: Number of clusters, number of starts, and seed.

    Returns:
        A dict with `clusters`, their number; `cluster_sizes`, the numbers of test images in them;
        `examples`, for each cluster the indices of up to 8 test images, those nearest to the center
        first; and with labels also the agreement of clusters and classes: `nmi`, the normalized
        mutual information, in [0, 1]; `ari`, the adjusted Rand index, 1 for equal partitions and 0
        on average for random ones, and `ari_interval`, the 95 % interval of
        `moco_tf.evaluation.partitions.interval`, or None; and `per_class`, a list of dicts with
        `class`, its name, `num_test`, the number of its test images, `cluster`, the number of the
        cluster that holds most of them, and `share`, the fraction of them that it holds, in [0, 1].

    Raises:
        UserError: If a feature is not finite, there are fewer training images than clusters, or
            their number is not given and there are no labels.
    """
    require_finite(train, test)
    clusters = settings.clusters or test.num_classes
    if not clusters:
        raise UserError("clusters=0: without labels, give the number of clusters, such as 20")
    if clusters > len(train.features):
        raise UserError(
            f"clusters={clusters} is more than the {len(train.features)} training images: use "
            f"{len(train.features)} or less"
        )
    kmeans = KMeans(clusters, n_init=settings.starts, random_state=settings.seed)
    used = sample(train.features, MAX_IMAGES)
    kmeans.fit(normalize(used))
    distances = kmeans.transform(normalize(test.features))
    assigned = distances.argmin(axis=1)
    examples = []
    for number in range(clusters):
        members = np.flatnonzero(assigned == number)
        nearest = members[np.argsort(distances[members, number], kind="stable")[:EXAMPLES]]
        examples.append(test.indices[nearest].tolist())
    has_labels = test.labels is not None and np.any(test.labels >= 0)
    return {
        **(_agreement(test, assigned) if has_labels else {}),
        "num_train": len(used),
        "clusters": clusters,
        "cluster_sizes": np.bincount(assigned, minlength=clusters).tolist(),
        "examples": examples,
    }


def _agreement(test: Features, assigned: np.ndarray) -> dict[str, Any]:
    """Return how well the clusters of the test images, int `[N]`, agree with their classes."""
    assert test.labels is not None
    assigned = assigned[test.labels >= 0]
    test = labeled(test)
    assert test.labels is not None
    names = class_names(test)
    rows = []
    for label in np.unique(test.labels):
        counts = np.bincount(assigned[test.labels == label])
        row = {"class": names[label], "num_test": int(counts.sum())}
        row |= {"cluster": int(counts.argmax()), "share": float(counts.max() / counts.sum())}
        rows.append(row)
    ari = float(adjusted_rand_score(test.labels, assigned))
    counts = contingency_matrix(test.labels, assigned)
    return {
        "nmi": float(normalized_mutual_info_score(test.labels, assigned)),
        "ari": ari,
        "ari_interval": partitions.interval(ari, partitions.ari_without_one(counts), counts),
        "per_class": rows,
    }
