"""MoCo v2 on Mini-ImageNet, 60,000 images of 100 classes, on one GPU.

    python train.py --config=configs/mini_imagenet.py \
        --config.data.source=folder:PATH/TO/mini-imagenet --workdir=DIR

This config follows a report that ran the reference implementation on a single GPU (Lin Yigang's
reproduction). It pre-trains a ResNet-50 on Mini-ImageNet and then classifies the same images. Where
the report gives no setting, this config uses those of configs/imagenet_v2.py, with these
exceptions, which we chose without measurements:

- batches of 128 images, since many GPUs hold no more, in 4 BatchNormalization groups, so that a
  group has 32 images, as in the paper. For 4 GPUs, the README of the reference implementation
  recommends the same, with the same learning rate of 0.015;
- K is 16,384, about a quarter of the images, since 65,536 would hold every one of them.

To expect: the report states 54 % top-1 and 81 % top-5 for the classifier on its pre-trained network
after 15 epochs, less than with the authors' network, which was trained on all of ImageNet. It
states neither the hyperparameters nor the GPU nor the time. We have not run this config, because
the images are not available on our machines.
"""

import ml_collections

from moco_tf.configs.imagenet_v2 import get_config as get_imagenet_v2_config


def get_config() -> ml_collections.ConfigDict:
    """Return the config of this recipe."""
    config = get_imagenet_v2_config()
    config.batch_size = 128
    config.bn_groups = 4
    config.queue_size = 16384
    return config
