"""MoCo v2 on a folder of tens of thousands of unlabelled photos, on one GPU.

    python train.py --config=configs/folder.py --config.data.source=folder:PATH --workdir=DIR

The recipe is configs/imagenet_v2.py's but for two settings, which are our judgement and not yet
measured at this size: the dictionary has 8,192 keys, since 65,536 would hold every image of such a
folder, the query's own among the negatives (keep it well below the number of images); and the key
encoder follows faster, by 0.99, since an epoch has few steps.

No number to expect: it depends on the images. Watch the kNN monitor, if subfolders give labels.
"""

from moco_tf.configs.imagenet_v2 import get_config as get_imagenet_v2_config


def get_config():
    config = get_imagenet_v2_config()
    config.queue_size = 8192
    config.momentum = 0.99
    return config
