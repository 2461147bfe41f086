"""Features of a frozen backbone, computed once."""

import dataclasses

import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from moco_tf.data.pipeline import central_views
from moco_tf.errors import UserError

BATCH_SIZE = 256


@dataclasses.dataclass(frozen=True)
class Features:
    """`features`, float32 `[M, D]`, of the images at `indices`, int64 `[M]`, of a source, and
    their `labels`, int32 `[M]`, or None."""

    features: np.ndarray
    indices: np.ndarray
    labels: np.ndarray | None


def extract(backbone, source, indices, image_size, progress=None):
    """Runs a backbone over images in inference mode.

    Args:
        backbone: callable, images `[N, size, size, 3]` in 0 to 255 to features `[N, D]`, such as
            `moco_tf.load_backbone` returns. It is called without `training`.
        source: a `moco_tf.data.sources.Source`.
        indices: int64 `[M]`, the images wanted; those that cannot be read are left out.
        image_size: int, side of the central view in pixels.
        progress: str, words for a progress bar, or None for no bar.

    Returns:
        `Features`.

    Raises:
        UserError: none of the images can be read.
    """
    shape = tf.TensorSpec([None, image_size, image_size, 3], tf.float32)
    run = tf.function(backbone, input_signature=[shape])
    features, found = [], []
    batches = central_views(source, indices, image_size, BATCH_SIZE)
    # tqdm's None: no bar where there is no terminal.
    disable = None if progress else True
    with tqdm(total=len(indices), desc=progress, unit="img", disable=disable) as bar:
        for index, images in batches:
            features.append(run(tf.cast(images, tf.float32)).numpy().astype(np.float32))
            found.append(index.numpy())
            bar.update(len(found[-1]))
    if not found:
        raise UserError(f"data source '{source.name}': no image to evaluate on can be read")
    found = np.concatenate(found)
    labels = None if source.labels is None else source.labels[found]
    return Features(np.concatenate(features), found, labels)
