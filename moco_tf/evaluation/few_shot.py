"""Few-shot classification: logistic regression on a handful of labelled images of each class."""

import numpy as np
from tqdm.auto import tqdm

from moco_tf.errors import UserError
from moco_tf.evaluation.logistic import probe


def classify(
    train,
    train_labels,
    test,
    test_labels,
    num_classes,
    shots=(1, 5, 10),
    draws=10,
    seed=0,
    l2=1e-3,
    iterations=200,
):
    """Accuracy with a few labels a class, over several draws of the images that have them.

    Args:
        train, test: float32 `[M, D]` and `[N, D]`.
        train_labels, test_labels: int `[M]` and `[N]`, in 0 to `num_classes` - 1.
        num_classes: int.
        shots: ints, labelled images of each class.
        draws: int, 2 or more.
        seed: int, 0 or more, of `draw`.
        l2, iterations: of `moco_tf.evaluation.logistic.probe`.

    Returns:
        `{"few_shot": [...]}`, with a dict for each number of shots: `shots`; `top1` and
        `top1_std`, mean and standard deviation (of a sample) over the draws; `top1_of_draws`, a
        list; and for the mean of top-5 `top5`. Shares in 0 to 1.

    Raises:
        UserError: a class with fewer training images than shots, or fewer than two classes.
    """
    require_enough(train_labels, range(num_classes), shots)
    results = []
    with tqdm(total=draws * sum(shots), desc="few-shot", unit="shot", disable=None) as bar:
        for count in shots:
            found = []
            for number in range(draws):
                chosen = draw(train_labels, count, seed, number)
                found.append(
                    probe(
                        train[chosen],
                        train_labels[chosen],
                        test,
                        test_labels,
                        num_classes,
                        l2,
                        iterations,
                    )
                )
                bar.update(count)
            top1 = [accuracy["top1"] for accuracy in found]
            results.append(
                {
                    "shots": count,
                    "top1": float(np.mean(top1)),
                    "top1_std": float(np.std(top1, ddof=1)),
                    "top5": float(np.mean([accuracy["top5"] for accuracy in found])),
                    "top1_of_draws": top1,
                }
            )
    return {"few_shot": results}


def draw(labels, shots, seed, number):
    """Chooses training images at random, as many of each class.

    The first images of a draw are those of the same draw with fewer shots.

    Args:
        labels: int `[M]`.
        shots: int, images of each class.
        seed, number: ints, 0 or more; the draw is a function of the two and of the labels.

    Returns:
        int64 `[classes * shots]`, indices into `labels`, class by class.
    """
    chosen = []
    for label in np.unique(labels):
        [members] = np.nonzero(labels == label)
        generator = np.random.Philox(key=[seed, number], counter=[0, 0, 0, label])
        # The generator's own bits: NumPy promises them to stay, and what it makes of them not.
        order = np.argsort(generator.random_raw(len(members)), kind="stable")
        chosen.append(members[order[:shots]])
    return np.concatenate(chosen)


def require_enough(labels, class_names, shots):
    """Looks whether every class has as many training images as there are shots.

    Args:
        labels: int `[M]`, of the training images; below 0 where one cannot be read.
        class_names: a name for each label.
        shots: ints.

    Raises:
        UserError: a class has fewer; its name, and the number that all have.
    """
    counts = np.bincount(labels[labels >= 0], minlength=len(class_names))
    fewest = counts.min()
    if fewest < max(shots):
        raise UserError(
            f"--shots={','.join(map(str, shots))}: class '{class_names[int(counts.argmin())]}' "
            f"has {fewest} training images: leave the larger numbers out, or add images"
        )
