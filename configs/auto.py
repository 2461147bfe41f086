"""MoCo with the settings that a plan chooses from your images and your devices.

    python train.py --plan --config=configs/auto.py --config.data.source=folder:PATH
    python train.py --config=configs/auto.py --config.data.source=folder:PATH --workdir=DIR

The first command prints the settings with their reasons, and how long the run would take. The
second one trains with them. Its run directory records them in config.json, and the run keeps them
when it is resumed, whatever the devices are then.

The settings that are None here are planned: the sizes of the views, encoder, stem and head, batch
size, BatchNormalization groups, K, m, temperature, learning rate, epochs, precision,
augmentation and rgb_operations. A value on the command line, such as --config.epochs=100, replaces
that of the plan, and the other settings follow from it. The other settings are those of MoCo v2 on
ImageNet: cosine schedule, SGD with momentum 0.9 and weight decay 1e-4.

docs/plan.md lists the rules with their sources. On ImageNet and eight GPUs, the plan is
configs/imagenet_v2.py; on a CPU it is nearly configs/photos.py.

To expect: no number, since it depends on the images. If subfolders provide labels, watch the kNN
monitor.
"""

import ml_collections
from ml_collections.config_dict import placeholder

from moco_tf.config import default_config
from moco_tf.plan.rules import PLANNED


def get_config() -> ml_collections.ConfigDict:
    """Return the config of this recipe."""
    config = default_config()
    config.schedule = "cosine"
    for key in PLANNED:
        config[key] = placeholder(type(config[key]))
    return config
