"""MoCo v1 on a billion images: the paper's recipe for Instagram-1B (section 4).

    python train.py --config=configs/billion_images.py --strategy=multiworker \
        --config.data.source='tfrecord:PATH/*.tfrecord' --workdir=DIR

Settings: batches of 1,024 images in 64 BatchNormalization groups (64 GPUs); learning rate 0.12
(0.03 for 256 images, scaled linearly), multiplied by 0.9 every 62,500 iterations, which is every 64
million images; 1.25 million iterations, which are 1.4 epochs of 940 million images. As on ImageNet:
ResNet-50, K 65,536, m 0.999, temperature 0.07. The groups divide the global batch, so the result
does not depend on the number of devices.

To expect: about 6 days on 64 GPUs (section 4). Fine-tuned on PASCAL VOC with R50-C4, AP 57.2, AP50
82.2 and AP75 63.7 (Table 2b); pre-training on ImageNet gives 55.9, 81.5 and 62.6. These are the
paper's numbers. We have not run this config, because the images are not public.
"""

import ml_collections

from moco_tf.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Return the config of this recipe."""
    config = default_config()
    config.batch_size = 1024
    config.bn_groups = 64
    config.steps = 1_250_000
    config.schedule = "exponential"
    config.decay_every = 62_500
    config.checkpoint_every = 5000
    config.knn_every = 0  # Hashtags are not classes.
    return config
