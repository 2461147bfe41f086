"""MoCo v2 on a folder of tens of thousands of unlabelled photos, on one GPU.

    python train.py --config=configs/folder.py --config.data.source=folder:PATH --workdir=DIR

The recipe is configs/imagenet_v2.py's but for the dictionary: 65,536 keys would hold every image
of such a folder, the query's own among the negatives, so it has 8,192. Keep it well below the
number of images. The momentum encoder follows faster (0.99), since an epoch has few steps.

No number to expect: it depends on the images. Watch the kNN monitor, if subfolders give labels.
"""

from configs.imagenet_v2 import get_config as get_imagenet_v2_config


def get_config():
    config = get_imagenet_v2_config()
    config.queue_size = 8192
    config.momentum = 0.99
    return config
