"""MoCo v2 on ImageNet (Chen et al. 2020): MLP head, more augmentation, cosine, temperature 0.2.

    python train.py --config=configs/imagenet_v2.py --strategy=mirrored \
        --config.data.source=folder:PATH/TO/imagenet/train --workdir=DIR

To expect: 67.5 % top-1 by the paper's linear protocol after these 200 epochs, 71.1 % with
--config.epochs=800. Both are the paper's; we have not run it, ImageNet being out of reach of our
machines.
"""

from moco_tf.config import default_config


def get_config():
    config = default_config()
    config.head = "mlp"
    config.augmentation = "v2"
    config.temperature = 0.2
    config.schedule = "cosine"
    return config
