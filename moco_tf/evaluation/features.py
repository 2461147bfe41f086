"""Features of a frozen backbone, computed once."""

import dataclasses

import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from moco_tf.data.pipeline import central_views
from moco_tf.distribution import all_gather, is_chief
from moco_tf.errors import UserError

# Images that a replica sees at a time. The same whatever the number of replicas: in batches of
# another size a feature may differ in its last bits.
BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Features:
    """`features`, float32 `[M, D]`, of the images at `indices`, int64 `[M]`, of a source, and
    their `labels`, int32 `[M]`, or None."""

    features: np.ndarray
    indices: np.ndarray
    labels: np.ndarray | None


def extract(backbone, source, indices, image_size, progress=None):
    """Runs a backbone over images in inference mode, shared among the replicas of the current
    `tf.distribute` strategy.

    Args:
        backbone: callable, images `[N, size, size, channels]` in 0 to 255 to features `[N, D]`,
            such as `moco_tf.load_backbone` returns. It is called without `training`.
        source: a `moco_tf.data.source.Source`.
        indices: int64 `[M]`, the images wanted; those that cannot be read are left out.
        image_size: int, side of the central view in pixels.
        progress: str, words for a progress bar, or None for no bar.

    Returns:
        `Features`.

    Raises:
        UserError: none of the images can be read.
    """
    strategy = tf.distribute.get_strategy()
    batches = strategy.distribute_datasets_from_function(
        lambda context: central_views(source, indices, image_size, BATCH_SIZE, context)
    )

    def replica_step(index, images):
        own = tf.cast(backbone(tf.cast(images, tf.float32)), tf.float32)
        return all_gather(index), all_gather(own)

    @tf.function
    def step(batch):
        gathered = strategy.run(replica_step, args=batch)
        return [strategy.experimental_local_results(value)[0] for value in gathered]

    features, found = [], []
    # tqdm's None: no bar where there is no terminal.
    disable = None if progress and is_chief() else True
    with tqdm(total=len(indices), desc=progress, unit="img", disable=disable) as bar:
        for batch in batches:
            index, values = (value.numpy() for value in step(batch))
            features.append(values[index >= 0])
            found.append(index[index >= 0])
            bar.update(len(found[-1]))
    found = np.concatenate(found)
    if not len(found):
        raise UserError(f"data source '{source.name}': no image to evaluate on can be read")
    labels = None if source.labels is None else source.labels[found]
    return Features(np.concatenate(features), found, labels)
