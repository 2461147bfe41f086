"""Clustering: whether k-means on the features finds the classes."""

from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from moco_tf.data.sources.source import evenly_spaced
from moco_tf.errors import UserError
from moco_tf.evaluation.features import Features, require_finite
from moco_tf.evaluation.knn import normalize
from moco_tf.evaluation.settings import ClusterSettings

# Maximum number of training images, evenly spaced, that the clusters are made from.
MAX_IMAGES = 100_000


def cluster(
    train: Features, test: Features, settings: ClusterSettings = ClusterSettings()
) -> dict[str, Any]:
    """Cluster the training images by k-means, and compare the clusters of test images with classes.

    The features are divided by their length first, so that the distance between two images is a
    function of their cosine similarity. Of more than 100,000 training images, as many are used.

    Args:
        train: Features of the training images.
        test: Labeled features of the test images.
        settings: Number of clusters, number of starts, and seed.

    Returns:
        A dict with `nmi`, the normalized mutual information of clusters and classes, in [0, 1];
        `ari`, the adjusted Rand index, 1 for equal partitions and 0 on average for random ones;
        and `cluster_sizes`, the numbers of test images in the clusters.

    Raises:
        UserError: If a feature is not finite, or there are fewer training images than clusters.
    """
    require_finite(train, test)
    assert test.labels is not None
    clusters = settings.clusters or test.num_classes
    if clusters > len(train.features):
        raise UserError(
            f"clusters={clusters} is more than the {len(train.features)} training images: use "
            f"{len(train.features)} or less"
        )
    kmeans = KMeans(clusters, n_init=settings.starts, random_state=settings.seed)
    kmeans.fit(normalize(evenly_spaced(train.features, MAX_IMAGES)))
    assigned = kmeans.predict(normalize(test.features))
    return {
        "nmi": float(normalized_mutual_info_score(test.labels, assigned)),
        "ari": float(adjusted_rand_score(test.labels, assigned)),
        "clusters": clusters,
        "cluster_sizes": np.bincount(assigned, minlength=clusters).tolist(),
    }
