"""MoCo v1 on ImageNet for 800 epochs.

    python train.py --config=configs/imagenet_v1_800.py --strategy=mirrored \
        --config.data.source=folder:PATH/TO/imagenet --workdir=DIR

PATH/TO/imagenet holds train/ and val/, each with one folder per class. Pre-training uses train/
only, and an evaluation tests on val/.

Settings: as configs/imagenet_v1.py, with four times the epochs. The learning rate is multiplied by
0.1 at the same fractions of the run, at epochs 480 and 640. This is our interpretation: the papers
train for 800 epochs with v2 only.

To expect: no accuracy, since none was published. At the paper's 53 hours for 200 epochs, the run
takes about 9 days on 8 V100 GPUs. We have not run this config, because ImageNet is not available on
our machines.
"""

import ml_collections

from moco_tf.configs.imagenet_v1 import get_config as get_imagenet_v1_config


def get_config() -> ml_collections.ConfigDict:
    """Return the config of this recipe."""
    config = get_imagenet_v1_config()
    config.epochs = 800
    config.milestones = (480, 640)
    return config
