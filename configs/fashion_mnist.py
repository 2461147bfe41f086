"""MoCo on Fashion-MNIST: 60,000 gray images of 28x28 pixels, on two CPU cores.

    apt-get install dataset-fashion-mnist
    python train.py --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist

The package is Debian's. Elsewhere, use --config.data.source=tfds:fashion_mnist, or idx:PATH with a
folder of the four files of the data set. A larger network: --config.encoder=resnet18.

To expect: docs/results.md has the results of `python -m studies.fashion_mnist` as far as they were
measured. No other publication reports MoCo on this data set.

Differences from MoCo v2 on ImageNet:

- The small network of the demo, one image channel, no change of colors.
- Momentum 0.99 and temperature 0.1, as in the reference implementation's recipe for CIFAR-10, and a
  linear head, because a run has thousands of steps instead of a million.
- A queue of 4,096 keys, a fifteenth of the data set, as the paper's is a twentieth of ImageNet.
- Batches of 128 and a learning rate of 0.12 (0.24 for 256 images), as in configs/photos.py.
"""

import ml_collections

from moco_tf.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Return the config of this recipe."""
    config = default_config()
    config.data.source = "idx:/usr/share/datasets/fashion-mnist"
    config.encoder = "resnet8"
    config.stem = "small"
    config.image_size = 28
    config.augmentation = "v2"
    config.rgb_operations = False
    config.queue_size = 4096
    config.momentum = 0.99
    config.temperature = 0.1
    config.batch_size = 128
    config.learning_rate = 0.24
    config.schedule = "cosine"
    config.epochs = 50
    config.knn_every = 5
    config.checkpoint_every = 500
    return config
