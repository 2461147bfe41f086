"""MoCo v2 on ImageNet for 800 epochs (Chen et al. 2020), its best setting.

    python train.py --config=configs/imagenet_v2_800.py --strategy=mirrored \
        --config.data.source=folder:PATH/TO/imagenet --workdir=DIR

PATH/TO/imagenet holds train/ and val/, each with one folder per class. Pre-training uses train/
only, and an evaluation tests on val/.

Settings: as configs/imagenet_v2.py, with four times the epochs, which the cosine schedule spans.

To expect: 71.1 % top-1 with the paper's linear protocol (Chen et al. 2020; also section 4.1 of the
paper). At the authors' 53 hours for 200 epochs, the run takes about 9 days on 8 V100 GPUs. We have
not run this config, because ImageNet is not available on our machines.
"""

import ml_collections

from moco_tf.configs.imagenet_v2 import get_config as get_imagenet_v2_config


def get_config() -> ml_collections.ConfigDict:
    """Return the config of this recipe."""
    config = get_imagenet_v2_config()
    config.epochs = 800
    return config
