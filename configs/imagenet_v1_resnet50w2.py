"""MoCo v1 on ImageNet with a ResNet-50 of twice the width (Table 1 of the paper).

    python train.py --config=configs/imagenet_v1_resnet50w2.py --strategy=mirrored \
        --config.data.source=folder:PATH/TO/imagenet/train --workdir=DIR

configs/imagenet_v1.py but for the encoder: every convolution has twice the channels, 94 million
parameters.

To expect: 65.4 % top-1 by the paper's linear protocol (Table 1), where ResNet-50 has 60.6. Of the
time the paper says nothing; it trains on 8 GPUs of 32 GB. We have not run it, ImageNet being out of
reach of our machines.
"""

from moco_tf.configs.imagenet_v1 import get_config as get_imagenet_v1_config


def get_config():
    config = get_imagenet_v1_config()
    config.encoder = "resnet50w2"
    return config
