"""The views of a step of a run, as the encoders see them."""

import ml_collections
import numpy as np
import tensorflow as tf

from moco_tf.data.augment import Augment
from moco_tf.data.pipeline import TwoViews
from moco_tf.seeds import seed_for


def step_views(
    config: ml_collections.ConfigDict, batches: TwoViews, augment: Augment, step: int, count: int
) -> list[np.ndarray]:
    """Compute the views of the first images of a step, after the augmentation.

    The batch is read again, because taking it from the training's iterator would skip it.

    Args:
        config: Config of the run.
        batches: Batches of the run.
        augment: Augmentation of the run.
        step: Number of steps before this one.
        count: Number of images; all of the batch if it has fewer.

    Returns:
        The query view and the key view, or only the former with a memory bank, which encodes one
        view of an image: float32 `[count, H, W, C]` each, normalized.
    """
    batch = next(batches.between(step, step + 1).as_numpy_iterator())
    names = ("query",) if config.mechanism == "memory_bank" else ("query", "key")
    size = config.batch_size
    return [
        augment.in_graph(images, tf.range(size), size, seed_for(f"{name}_view", config.seed, step))[
            :count
        ].numpy()
        for name, images in zip(names, batch, strict=False)
    ]
