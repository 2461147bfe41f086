"""MoCo v2 on ImageNet (Chen et al. 2020): MLP head, more augmentation, cosine, temperature 0.2.

    python train.py --config=configs/imagenet_v2.py --strategy=mirrored \
        --config.data.source=folder:PATH/TO/imagenet/train --workdir=DIR

Everything else is configs/imagenet_v1.py's: ResNet-50, K 65,536, m 0.999, 256 images, learning rate
0.03, 200 epochs.

To expect: 67.5 +- 0.1 % top-1 by the paper's linear protocol over five trials, after about 53 hours
on 8 V100 GPUs (README of the reference implementation). Both are the authors'; we have not run it,
ImageNet being out of reach of our machines.
"""

from moco_tf.config import default_config


def get_config():
    config = default_config()
    config.head = "mlp"
    config.augmentation = "v2"
    config.temperature = 0.2
    config.schedule = "cosine"
    return config
