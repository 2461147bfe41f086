"""Few-shot classification: a logistic regression on a few labeled images of each class."""

import dataclasses
from typing import Any

import numpy as np

from moco_tf.errors import UserError
from moco_tf.evaluation.features import Features, labeled
from moco_tf.evaluation.logistic import scores
from moco_tf.evaluation.metrics import accuracies, class_names, details, first_hits
from moco_tf.evaluation.settings import FewShotSettings
from moco_tf.progress_bar import progress_bar


def classify(
    train: Features, test: Features, settings: FewShotSettings = FewShotSettings()
) -> dict[str, list[dict[str, Any]]]:
    """Return the accuracy with a few labeled images per class, over several random draws.

    Args:
        train: Labeled features of the training images, from which those to fit are drawn. Images
            without a label are left out.
        test: Labeled features of the test images. Images without a label are left out.
        settings: Settings of the draws and of the classifier.

    Returns:
        `{"few_shot": [...]}` with a dict for each number of shots: `shots`; the mean and the
        sample standard deviation of top-1 accuracy over the draws, `top1` and `top1_std`; the mean
        of top-5, `top5`; the top-1 accuracy of every draw, `top1_of_draws`; and the entries of
        `moco_tf.evaluation.metrics.details`, computed from the mean over the draws. The interval
        covers other test images, and the standard deviation covers other labeled images. All
        accuracies are in [0, 1].

    Raises:
        UserError: If a class has fewer training images than shots, there is only one class, or
            there are no labels.
    """
    train, test = labeled(train), labeled(test)
    assert train.labels is not None
    assert test.labels is not None
    require_enough(train.labels, class_names(train), settings.shots)
    rows = []
    total = settings.draws * sum(settings.shots)
    with progress_bar(total, "few-shot", "shot") as bar:
        for shots in settings.shots:
            results, hits = [], []
            for number in range(settings.draws):
                chosen = draw(train.labels, shots, settings.seed, number)
                drawn = dataclasses.replace(
                    train,
                    features=train.features[chosen],
                    indices=train.indices[chosen],
                    labels=train.labels[chosen],
                )
                scored = scores(drawn, test, settings)
                results.append(accuracies(scored, test.labels))
                hits.append(first_hits(scored, test.labels))
                bar.update(shots)
            top1 = [result["top1"] for result in results]
            rows.append(
                {
                    "shots": shots,
                    "top1": float(np.mean(top1)),
                    "top1_std": float(np.std(top1, ddof=1)),
                    "top5": float(np.mean([result["top5"] for result in results])),
                    "top1_of_draws": top1,
                    **details(np.mean(hits, axis=0), test),
                }
            )
    return {"few_shot": rows}


def draw(labels: np.ndarray, shots: int, seed: int, number: int) -> np.ndarray:
    """Draw training images at random, the same number from each class.

    For each class, a draw with fewer shots consists of the first images of the larger draw.

    Args:
        labels: int `[M]`.
        shots: Number of images from each class.
        seed: Random seed, 0 or greater.
        number: Number of the draw, 0 or greater. The result is a function of it, of the seed and
            of the labels.

    Returns:
        int64 `[classes * shots]`, indices into `labels`, class by class.
    """
    chosen = []
    for label in np.unique(labels):
        [members] = np.nonzero(labels == label)
        generator = np.random.Philox(key=[seed, number], counter=[0, 0, 0, label])
        # Raw bits, because NumPy guarantees that these stay the same in every version.
        order = np.argsort(generator.random_raw(len(members)), kind="stable")
        chosen.append(members[order[:shots]])
    return np.concatenate(chosen)


def require_enough(labels: np.ndarray, names: list[str], shots: tuple[int, ...]) -> None:
    """Check that every class has as many training images as there are shots.

    Args:
        labels: int `[M]`, labels of the training images; negative where one cannot be read.
        names: Name of each label.
        shots: Numbers of labeled images per class.

    Raises:
        UserError: If a class has fewer images.
    """
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    fewest = counts.min()
    if fewest < max(shots):
        raise UserError(
            f"shots={','.join(map(str, shots))}: class '{names[int(counts.argmin())]}' has "
            f"only {fewest} training {'image' if fewest == 1 else 'images'}: leave out "
            "the larger numbers, or add images"
        )


def choose(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose training images at random, the same share of each class.

    A larger share contains the images of every smaller one.

    Args:
        labels: int `[M]`; negative where an image cannot be read, which is never chosen.
        fraction: Share of each class in (0, 1], rounded to whole images, at least one.
        seed: Random seed, 0 or greater.

    Returns:
        int64 `[m]`, indices into `labels` in ascending order.
    """
    chosen = []
    for label in np.unique(labels[labels >= 0]):
        [members] = np.nonzero(labels == label)
        count = max(1, round(fraction * len(members)))
        chosen.append(members[draw(labels[members], count, seed, 0)])
    return np.sort(np.concatenate(chosen))
