"""MoCo v1 on a billion images: the paper's recipe for Instagram-1B (section 4).

    python train.py --config=configs/billion_images.py --strategy=mirrored \
        --config.data.source=folder:PATH --workdir=DIR

1,024 images over 64 groups of BatchNormalization (64 GPUs), learning rate 0.12 (the linear scaling
of 0.03 for 256), x0.9 after every 62,500 iterations, which are 64 million images, and 1.25 million
iterations, 1.4 epochs of 940 million images. ResNet-50, K 65,536, m 0.999 and temperature 0.07 as
on ImageNet. The groups are of the global batch, so fewer devices compute the same.

To expect: about 6 days on 64 GPUs (section 4); fine-tuned on PASCAL VOC with R50-C4, AP 57.2, AP50
82.2 and AP75 63.7 (Table 2b), where pre-training on ImageNet gives 55.9, 81.5 and 62.6. All are the
paper's; the images are not public, and we have not run it.
"""

from moco_tf.config import default_config


def get_config():
    config = default_config()
    config.batch_size = 1024
    config.bn_groups = 64
    config.steps = 1_250_000
    config.schedule = "exponential"
    config.decay_every = 62_500
    config.checkpoint_every = 5000
    config.knn_every = 0  # hashtags are no classes
    return config
