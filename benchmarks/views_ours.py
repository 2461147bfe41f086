"""Two augmented views per image with moco-tf, from JPEG files."""

from collections.abc import Callable

import tensorflow as tf

from moco_tf.data import sources
from moco_tf.data.augment import Augment
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.recipes import RECIPES


def make_epoch(folder: str, size: int, batch: int, is_host_part: bool) -> Callable[[], None]:
    """Use the pipeline of train.py.

    Args:
        folder: Folder of the JPEG files.
        size: Side of the views in pixels.
        batch: Batch size.
        is_host_part: Whether to leave out what is computed on the device.

    Returns:
        A function that runs one epoch.
    """
    recipe = RECIPES["v2"]
    batches = TwoViews(sources.load(f"folder:{folder}"), size, recipe, batch, seed=0)
    augment = Augment(recipe)

    @tf.function
    def augment_batch(images, seed):
        return augment(images, tf.range(batch), batch, seed)

    # Traced once, as in a training of many epochs.
    epoch = batches.between(0, batches.steps_per_epoch)

    def run_epoch():
        for views in epoch:
            if not is_host_part:
                for index, images in enumerate(views):
                    augment_batch(images, tf.constant([0, index], tf.int64))[0, 0, 0, 0].numpy()

    return run_epoch
