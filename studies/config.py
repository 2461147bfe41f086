"""The config that all runs of the study of the paper's findings have in common.

    python train.py --config=studies/config.py --config.epochs=8 --workdir=DIR

It is configs/photos.py with views of 32 pixels. The committed results were made with it.
"""

import ml_collections

from moco_tf.configs import photos


def get_config() -> ml_collections.ConfigDict:
    """Return the config."""
    config = photos.get_config()
    config.image_size = 32
    config.evaluation_size = 0
    config.epochs = 32
    config.knn_every = 4
    config.checkpoint_every = 200
    return config
