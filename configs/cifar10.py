"""MoCo on CIFAR-10: the recipe of the reference implementation's notebook, for one GPU.

    python train.py --config=configs/cifar10.py --config.data.source=folder:PATH/TO/cifar10 \
        --workdir=DIR

PATH/TO/cifar10 holds train/ and test/, each with one folder per class. Pre-training uses train/
only, and the kNN monitor tests on test/.

Settings: ResNet-18 with one 3x3 convolution as its stem, linear head, K 4,096, m 0.99, temperature
0.1, SGD with learning rate 0.06 and weight decay 5e-4, batches of 512 images in 8
BatchNormalization groups, cosine schedule, and the augmentation of MoCo v2 without blur, with crops
of at least 8 % of the area. --config.symmetric_loss=True adds the loss with the two views
exchanged.

To expect, according to the notebook's own kNN monitor (200 neighbors, temperature 0.1, on the
projections):

    epochs        200    400    800
    asymmetric    82.6   86.3   88.7
    symmetric     85.3   88.5   89.7

200 epochs took a little over an hour on a V100 (20 seconds per epoch). We have not run this config,
because CIFAR-10 is not available on our machines.

Differences from the notebook: images are normalized with the mean and standard deviation of
ImageNet instead of CIFAR-10; the kNN monitor uses the features of the backbone and temperature
0.07; and the cosine starts at the full learning rate, whereas the notebook counts epochs from 1.
"""

import ml_collections

from moco_tf.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Return the config of this recipe."""
    config = default_config()
    config.encoder = "resnet18"
    config.stem = "small"
    config.image_size = 32
    config.queue_size = 4096
    config.momentum = 0.99
    config.temperature = 0.1
    config.augmentation = "cifar10"
    config.batch_size = 512
    config.learning_rate = 0.06
    config.scale_learning_rate = False
    config.schedule = "cosine"
    config.weight_decay = 5e-4
    return config
