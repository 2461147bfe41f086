"""MoCo v2 on a folder of tens of thousands of unlabeled photos, on one or more GPUs.

    python train.py --config=configs/folder.py --config.data.source=folder:PATH --workdir=DIR

Two settings differ from configs/imagenet_v2.py. They were not measured at this size, but with 5,518
small images and 2,016 steps (docs/results.md, "Small data sets"):

- K is 8,192, because 65,536 keys would hold every image of such a folder, so the negatives of a
  query would include its own image. In that study, a queue of 19 % of the images was better than
  5 % and 74 %.
- m is 0.99, so that the key encoder follows faster, because the run has few steps. In that study,
  0.99 was better than 0.9 and 0.999.

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
