"""How the features of an exported backbone agree with those of the backbone itself."""

from typing import NamedTuple

import numpy as np

from moco_tf.evaluation.features import normalize


class Agreement(NamedTuple):
    """How the features of a file agree with those of its backbone.

    Attributes:
        mean_cosine: Mean cosine similarity of the two features of an image.
        least_cosine: The smallest of them.
        same_neighbors: Share of the images whose nearest neighbor among the others is the same.
        num_images: Number of images.
        accuracies: Share of the images whose nearest neighbor among the others is of the same
            class, with the backbone and with the file; None if there are no labels.
    """

    mean_cosine: float
    least_cosine: float
    same_neighbors: float
    num_images: int
    accuracies: tuple[float, float] | None = None

    def __str__(self) -> str:
        accuracies = ""
        if self.accuracies is not None:
            before, after = self.accuracies
            accuracies = (
                f", and of the same class for {100 * before:.1f} % with the backbone and "
                f"{100 * after:.1f} % with the file"
            )
        return (
            f"cosine similarity to the backbone's features {self.mean_cosine:.5f} on average and "
            f"{self.least_cosine:.5f} at least; the nearest neighbor is the same for "
            f"{100 * self.same_neighbors:.1f} % of {self.num_images} images{accuracies}"
        )


def compare(expected: np.ndarray, actual: np.ndarray, labels: np.ndarray | None) -> Agreement:
    """Compare the features of a file with those of its backbone.

    Args:
        expected: float32 `[N, D]`, features of the backbone of two images or more.
        actual: float32 `[N, D]`, features of the file of the same images.
        labels: `[N]`, the classes of the images, or None.
    """
    unit, expected_unit = normalize(actual), normalize(expected)
    cosines = (unit * expected_unit).sum(axis=1)
    nearest, expected_nearest = _nearest(unit), _nearest(expected_unit)
    accuracies: tuple[float, float] | None = None
    if labels is not None:
        before, after = (
            float((labels[rows] == labels).mean()) for rows in (expected_nearest, nearest)
        )
        accuracies = (before, after)
    return Agreement(
        float(cosines.mean()),
        float(cosines.min()),
        float((nearest == expected_nearest).mean()),
        len(actual),
        accuracies,
    )


def _nearest(unit: np.ndarray) -> np.ndarray:
    """Return the position of the nearest other feature of each."""
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return similarity.argmax(axis=1)
