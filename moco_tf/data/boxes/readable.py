"""Leaving out annotated images that cannot be read."""

import dataclasses
import os

import numpy as np
import tensorflow as tf

from moco_tf.data.boxes.annotations import AnnotatedImages
from moco_tf.data.tuning import without_tuning
from moco_tf.errors import UserError
from moco_tf.progress_bar import progress_bar


def readable_only(images: AnnotatedImages, progress: str | None = None) -> AnnotatedImages:
    """Return the images without those that cannot be read or do not fit their annotations.

    This reads every image once.

    Args:
        images: The images.
        progress: Label of the progress bar, or None for no bar.

    Returns:
        The images, with the same indices. `unreadable_train` and `unreadable_test` name those that
        were left out.

    Raises:
        UserError: If none of the training or none of the test images remains.
    """
    is_readable: dict[int, bool] = {}
    indices = np.concatenate([images.train, images.test])
    with progress_bar(len(indices), progress, "image") as bar:
        for index, shape in _shapes(images, indices).as_numpy_iterator():
            is_readable[int(index)] = _fits(images, int(index), *shape.tolist())
            bar.update()
    parts = {"train": images.train, "test": images.test}
    names: dict[str, dict[int, str]] = {}
    for part, part_indices in parts.items():
        kept = np.array([is_readable.get(int(index), False) for index in part_indices], bool)
        if not kept.any():
            raise UserError(
                f"data source '{images.name}': none of its {len(kept)} {part} images can be read: "
                f"the first is {images.describe(int(part_indices[0]))}"
            )
        parts[part] = part_indices[kept]
        names[part] = {int(index): images.describe(int(index)) for index in part_indices[~kept]}
    return dataclasses.replace(
        images,
        train=parts["train"],
        test=parts["test"],
        unreadable_train=names["train"],
        unreadable_test=names["test"],
    )


def _shapes(images: AnnotatedImages, indices: np.ndarray) -> tf.data.Dataset:
    """Return a data set of the indices that can be read, with height and width."""
    return without_tuning(
        tf.data.Dataset.from_tensor_slices(indices.astype(np.int64))
        .map(
            lambda index: (index, tf.shape(images.read(index))[:2]),
            num_parallel_calls=os.cpu_count(),
            deterministic=True,
        )
        .ignore_errors(log_warning=False)
    )


def _fits(images: AnnotatedImages, index: int, height: int, width: int) -> bool:
    try:
        images.annotations(index, height, width)
    except UserError:  # They are for an image of another size.
        return False
    return True
