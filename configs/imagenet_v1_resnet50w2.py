"""MoCo v1 on ImageNet with a ResNet-50 of twice the width (Table 1 of the paper).

    python train.py --config=configs/imagenet_v1_resnet50w2.py --strategy=mirrored \
        --config.data.source=folder:PATH/TO/imagenet --workdir=DIR

PATH/TO/imagenet holds train/ and val/, each with one folder per class. Pre-training uses train/
only, and an evaluation tests on val/.

Settings: as configs/imagenet_v1.py, except for the encoder, in which every convolution has twice
the channels: 94 million parameters.

To expect: 65.4 % top-1 with the paper's linear protocol (Table 1); ResNet-50 has 60.6 %. The paper
does not report the training time; it used 8 GPUs (section 4). We have not run this config, because
ImageNet is not available on our machines.
"""

import ml_collections

from moco_tf.configs.imagenet_v1 import get_config as get_imagenet_v1_config


def get_config() -> ml_collections.ConfigDict:
    """Return the config of this recipe."""
    config = get_imagenet_v1_config()
    config.encoder = "resnet50w2"
    return config
