"""MoCo, Momentum Contrast for unsupervised visual representation learning, in Keras 3."""

from moco_tf import encoders, optimizers, schedules
from moco_tf.model import MoCo
from moco_tf.training import load_backbone

__version__ = "0.1.0"
__all__ = ["MoCo", "encoders", "load_backbone", "optimizers", "schedules"]
