"""MoCo v1 on ImageNet, the paper's main setting (section 4).

    python train.py --config=configs/imagenet_v1.py --strategy=mirrored \
        --config.data.source=folder:PATH/TO/imagenet/train --workdir=DIR

ResNet-50, K 65,536, m 0.999, temperature 0.07, 256 images over 8 groups of BatchNormalization,
learning rate 0.03, x0.1 at epochs 120 and 160, 200 epochs.

To expect: 60.6 % top-1 by the paper's linear protocol (Table 1); 60.8 +- 0.2 % over five trials of
the reference implementation (its README). About 53 hours on 8 V100 GPUs (section 4). All are the
paper's; we have not run it, ImageNet being out of reach of our machines.
"""

from moco_tf.config import default_config


def get_config():
    return default_config()
