"""MoCo, Momentum Contrast for unsupervised visual representation learning, in Keras 3.

Everything in `__all__` is imported when it is first used, so that `import moco_tf` is quick and
has no side effects.

Example:
    >>> import moco_tf
    >>> source = moco_tf.load_source("photos")
    >>> backbone = moco_tf.encoders.random_backbone("resnet8", stem="small")
    >>> train = moco_tf.extract_features(backbone, source, "train", image_size=32)
    >>> test = moco_tf.extract_features(backbone, source, "test", image_size=32)
    >>> accuracy = moco_tf.knn(train, test)
    >>> 0.2 < accuracy["top1"] < 0.4
    True
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moco_tf import encoders, optimizers, schedules
    from moco_tf.api import extract_features, knn, linear_probe
    from moco_tf.backbones.loading import load_backbone
    from moco_tf.config import default_config
    from moco_tf.data.sources import load as load_source
    from moco_tf.errors import UserError
    from moco_tf.mechanisms.moco import MoCo
    from moco_tf.training.run import train

__version__ = "0.1.0"

# Installed, `moco_tf.configs` and `moco_tf.export` are inside this package. In a checkout they are
# the folders beside it, which have to be found whether or not the package is installed as well.
_HERE = os.path.dirname(__file__)
if not os.path.isdir(os.path.join(_HERE, "configs")):
    __path__.append(os.path.dirname(_HERE))

__all__ = [
    "MoCo",
    "UserError",
    "default_config",
    "encoders",
    "extract_features",
    "knn",
    "linear_probe",
    "load_backbone",
    "load_source",
    "optimizers",
    "schedules",
    "train",
]

# Where each function and class of `__all__` is defined, and its name there.
_DEFINITIONS = {
    "MoCo": ("moco_tf.mechanisms.moco", "MoCo"),
    "UserError": ("moco_tf.errors", "UserError"),
    "default_config": ("moco_tf.config", "default_config"),
    "extract_features": ("moco_tf.api", "extract_features"),
    "knn": ("moco_tf.api", "knn"),
    "linear_probe": ("moco_tf.api", "linear_probe"),
    "load_backbone": ("moco_tf.backbones.loading", "load_backbone"),
    "load_source": ("moco_tf.data.sources", "load"),
    "train": ("moco_tf.training.run", "train"),
}


def __getattr__(name: str) -> Any:
    if name in _DEFINITIONS:
        module, attribute = _DEFINITIONS[name]
        return getattr(importlib.import_module(module), attribute)
    if name in __all__:
        return importlib.import_module(f"moco_tf.{name}")
    raise AttributeError(f"module 'moco_tf' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
