"""MoCo, Momentum Contrast for unsupervised visual representation learning, in Keras 3.

`moco_tf.MoCo`, `moco_tf.load_backbone` and the modules `encoders`, `optimizers` and `schedules`
are loaded when they are first asked for, so that a script can answer `--help`, and quiet
TensorFlow's start, before TensorFlow is imported.
"""

import importlib

__version__ = "0.1.0"
__all__ = ["MoCo", "encoders", "load_backbone", "optimizers", "schedules"]


def __getattr__(name):
    if name == "MoCo":
        return importlib.import_module("moco_tf.model").MoCo
    if name == "load_backbone":
        return importlib.import_module("moco_tf.loading").load_backbone
    if name in __all__:
        return importlib.import_module(f"moco_tf.{name}")
    raise AttributeError(f"module 'moco_tf' has no attribute '{name}'")
