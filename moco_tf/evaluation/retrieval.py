"""Retrieval: how high the images of the same class are in the ranking of a query."""

from typing import Any

import numpy as np

from moco_tf.errors import UserError
from moco_tf.evaluation.bootstrap import mean_interval
from moco_tf.evaluation.features import Features, labeled, normalize, require_finite
from moco_tf.evaluation.metrics import class_names
from moco_tf.evaluation.settings import RetrievalSettings

# Number of similarities that are ranked at a time, which bounds the memory.
BLOCK = 2**23
# Similarities are rounded to so many decimals, because equal features may differ by rounding.
DECIMALS = 6


def retrieve(
    train: Features, test: Features, settings: RetrievalSettings = RetrievalSettings()
) -> dict[str, Any]:
    """Rank the images of a gallery by their cosine similarity to each test image.

    An image of the gallery is relevant if it has the class of the query. The average precision of
    a query is the mean, over the relevant images, of the share of relevant images down to each of
    them, over the whole ranking. The recall at k is the share of the queries with a relevant image
    among the first k. A query without a relevant image in the gallery is left out. Images with
    equal similarities share the precision at the last of them, as in scikit-learn, and the relevant
    ones among them come last, so that features that are all equal retrieve nothing.

    Args:
        train: Labeled features of the training images, the gallery if `settings.gallery` is
            `"train"`. Those without a label are relevant for no query.
        test: Labeled features of the test images, the queries. They are also the gallery if
            `settings.gallery` is `"test"`, each without itself. Images without a label are left
            out.
        settings: The gallery and the ranks k.

    Returns:
        A dict with `map`, the mean average precision in [0, 1], and `map_interval`; `recall`, a
        list of dicts with `rank`, `recall` and `interval`; `num_queries`, and `num_left_out` of
        the queries without a relevant image; and `per_class`, a list of dicts with `class`, its
        name, `num_queries` and `map`. The intervals are those of
        `moco_tf.evaluation.bootstrap.mean_interval`.

    Raises:
        UserError: If a feature is not finite, no query has a relevant image, or there are no
            labels.
    """
    test = labeled(test)
    require_finite(train, test)
    is_leave_one_out = settings.gallery == "test"
    gallery = test if is_leave_one_out else train
    precisions = first_ranks = labels = np.zeros(0)
    if len(gallery.features) > is_leave_one_out:
        precisions, first_ranks, labels = _rankings(gallery, test, is_leave_one_out)
    if not len(precisions):
        raise UserError(
            f"gallery={settings.gallery}: no test image has another image of its class there: add "
            f"images, or use gallery={'train' if is_leave_one_out else 'test'}"
        )
    recall = []
    for rank in settings.ranks:
        hits = first_ranks <= rank
        interval = mean_interval(hits)
        recall.append({"rank": rank, "recall": float(hits.mean()), "interval": interval})
    names = class_names(test)
    per_class = []
    for label in np.unique(labels):
        of_class = precisions[labels == label]
        row = {"class": names[label], "num_queries": len(of_class), "map": float(of_class.mean())}
        per_class.append(row)
    return {
        "map": float(precisions.mean()),
        "map_interval": mean_interval(precisions),
        "recall": recall,
        "num_queries": len(precisions),
        "num_left_out": len(test.features) - len(precisions),
        "per_class": per_class,
    }


def _rankings(
    gallery: Features, queries: Features, is_leave_one_out: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the average precision of each query, its first relevant rank, and its label.

    Queries without a relevant image are left out. Ranks are counted from 1.
    """
    assert gallery.labels is not None
    assert queries.labels is not None
    bank, vectors = normalize(gallery.features), normalize(queries.features)
    block = max(1, BLOCK // len(bank))
    precisions, first_ranks, kept_labels = [], [], []
    for start in range(0, len(vectors), block):
        similarity = np.round(vectors[start : start + block] @ bank.T, DECIMALS)
        rows = np.arange(len(similarity))
        if is_leave_one_out:
            similarity[rows, start + rows] = -np.inf  # The last of its own ranking.
        order = np.argsort(-similarity, axis=1, kind="stable")
        if is_leave_one_out:
            order = order[:, :-1]
        labels = queries.labels[start : start + block, np.newaxis]
        is_relevant = gallery.labels[order] == labels
        has_any = is_relevant.any(axis=1)
        is_relevant = is_relevant[has_any]
        ranked = np.take_along_axis(similarity, order, axis=1)[has_any]
        ends = _ends_of_ties(ranked)
        found = np.take_along_axis(np.cumsum(is_relevant, axis=1), ends, axis=1)
        precision = found / (ends + 1)
        precisions.append((precision * is_relevant).sum(axis=1) / is_relevant.sum(axis=1))
        first = is_relevant.argmax(axis=1)[:, np.newaxis]
        # `found` counts the relevant images down to the end of the ties of the first one.
        ranks = np.take_along_axis(ends - found, first, axis=1)[:, 0] + 2
        first_ranks.append(ranks)
        kept_labels.append(labels[has_any, 0])
    return np.concatenate(precisions), np.concatenate(first_ranks), np.concatenate(kept_labels)


def _ends_of_ties(ranked: np.ndarray) -> np.ndarray:
    """Return the position of the last of the equal values that each value is among.

    Args:
        ranked: `[N, M]`, each row in descending order.
    """
    count = ranked.shape[1]
    is_end = np.ones(ranked.shape, bool)
    is_end[:, :-1] = ranked[:, 1:] != ranked[:, :-1]
    positions = np.where(is_end, np.arange(count), count)
    return np.minimum.accumulate(positions[:, ::-1], axis=1)[:, ::-1]
