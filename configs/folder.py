"""MoCo v2 on a folder of tens of thousands of unlabeled photos, on one or more GPUs.

    python train.py --config=configs/folder.py --config.data.source=folder:PATH --workdir=DIR

Two settings differ from configs/imagenet_v2.py. We chose them without measurements at this size:

- K is 8,192, because 65,536 keys would hold every image of such a folder, so the negatives of a
  query would include its own image. Keep K well below the number of images.
- m is 0.99, so that the key encoder follows faster, because an epoch has few steps.

To expect: no number, since it depends on the images. If subfolders provide labels, watch the kNN
monitor.
"""

import ml_collections

from moco_tf.configs.imagenet_v2 import get_config as get_imagenet_v2_config


def get_config() -> ml_collections.ConfigDict:
    """Return the config of this recipe."""
    config = get_imagenet_v2_config()
    config.queue_size = 8192
    config.momentum = 0.99
    return config
