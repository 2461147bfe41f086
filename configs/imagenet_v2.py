"""MoCo v2 on ImageNet (Chen et al. 2020).

    python train.py --config=configs/imagenet_v2.py --strategy=mirrored \
        --config.data.source=folder:PATH/TO/imagenet --workdir=DIR

PATH/TO/imagenet holds train/ and val/, each with one folder per class. Pre-training uses train/
only, and an evaluation tests on val/.

Settings: as configs/imagenet_v1.py, with an MLP head, more augmentation, a cosine schedule and
temperature 0.2. That is ResNet-50, K 65,536, m 0.999, batches of 256 images, learning rate 0.03,
200 epochs.

To expect: 67.5 +- 0.1 % top-1 with the paper's linear protocol over five trials, after about 53
hours on 8 V100 GPUs (README of the reference implementation). These are the authors' numbers. We
have not run this config, because ImageNet is not available on our machines.
"""

import ml_collections

from moco_tf.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Return the config of this recipe."""
    config = default_config()
    config.head = "mlp"
    config.augmentation = "v2"
    config.temperature = 0.2
    config.schedule = "cosine"
    return config
