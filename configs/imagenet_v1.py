"""MoCo v1 on ImageNet, the paper's main setting (section 4).

    python train.py --config=configs/imagenet_v1.py --strategy=mirrored \
        --config.data.source=folder:PATH/TO/imagenet --workdir=DIR

PATH/TO/imagenet holds train/ and val/, each with one folder per class. Pre-training uses train/
only, and an evaluation tests on val/.

Settings: ResNet-50, K 65,536, m 0.999, temperature 0.07, batches of 256 images in 8
BatchNormalization groups, learning rate 0.03, multiplied by 0.1 at epochs 120 and 160, 200 epochs.

To expect: 60.6 % top-1 with the paper's linear protocol (Table 1); 60.8 +- 0.2 % over five trials
of the reference implementation (its README); about 53 hours on 8 GPUs (section 4) of
the type V100 (README). These are the authors' numbers. We have not run this config, because
ImageNet is not available on our machines.
"""

import ml_collections

from moco_tf.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Return the config of this recipe."""
    return default_config()
