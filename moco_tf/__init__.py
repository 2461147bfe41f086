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
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moco_tf import encoders, optimizers, schedules
    from moco_tf.api import extract_features, few_shot, finetune, knn, linear_probe
    from moco_tf.backbones.loading import load_backbone
    from moco_tf.config import default_config
    from moco_tf.data.augment import Augment
    from moco_tf.data.recipes import RECIPES
    from moco_tf.data.sources import load as load_source
    from moco_tf.data.sources.source import Source
    from moco_tf.embedding.embed import embed
    from moco_tf.errors import UserError
    from moco_tf.evaluation.features import Features
    from moco_tf.mechanisms.moco import MoCo
    from moco_tf.preparation.prepare import prepare
    from moco_tf.pretraining import preview, train
    from moco_tf.runs import Run, load_run

__version__ = "0.2.0.dev0"

if sys.platform == "win32":
    raise ImportError("moco-tf does not run on Windows itself: use it in WSL2")


def _use_folders_of_checkout() -> None:
    """Make the folders configs/ and export/ of a checkout `moco_tf.configs` and `moco_tf.export`.

    When the package is installed, they are inside it. In a checkout they are beside it, and are
    found this way whether or not the package is installed as well.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    for name in ("configs", "export"):
        folder = os.path.join(os.path.dirname(here), name)
        if os.path.isdir(os.path.join(here, name)) or not os.path.isdir(folder):
            continue
        spec = importlib.util.spec_from_file_location(
            f"moco_tf.{name}",
            os.path.join(folder, "__init__.py"),
            submodule_search_locations=[folder],
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        globals()[name] = module


_use_folders_of_checkout()

__all__ = [
    "RECIPES",
    "Augment",
    "Features",
    "MoCo",
    "Run",
    "Source",
    "UserError",
    "default_config",
    "embed",
    "encoders",
    "extract_features",
    "few_shot",
    "finetune",
    "knn",
    "linear_probe",
    "load_backbone",
    "load_run",
    "load_source",
    "optimizers",
    "prepare",
    "preview",
    "schedules",
    "train",
]

# Where each function and class of `__all__` is defined, and its name there.
_DEFINITIONS = {
    "Augment": ("moco_tf.data.augment", "Augment"),
    "Features": ("moco_tf.evaluation.features", "Features"),
    "MoCo": ("moco_tf.mechanisms.moco", "MoCo"),
    "RECIPES": ("moco_tf.data.recipes", "RECIPES"),
    "Run": ("moco_tf.runs", "Run"),
    "Source": ("moco_tf.data.sources.source", "Source"),
    "UserError": ("moco_tf.errors", "UserError"),
    "default_config": ("moco_tf.config", "default_config"),
    "embed": ("moco_tf.embedding.embed", "embed"),
    "extract_features": ("moco_tf.api", "extract_features"),
    "few_shot": ("moco_tf.api", "few_shot"),
    "finetune": ("moco_tf.api", "finetune"),
    "knn": ("moco_tf.api", "knn"),
    "linear_probe": ("moco_tf.api", "linear_probe"),
    "load_backbone": ("moco_tf.backbones.loading", "load_backbone"),
    "load_run": ("moco_tf.runs", "load_run"),
    "load_source": ("moco_tf.data.sources", "load"),
    "prepare": ("moco_tf.preparation.prepare", "prepare"),
    "preview": ("moco_tf.pretraining", "preview"),
    "train": ("moco_tf.pretraining", "train"),
}


def __getattr__(name: str) -> Any:
    if name in __all__ and name != "UserError":
        from moco_tf.keras_backend import require_tensorflow

        require_tensorflow()
    if name in _DEFINITIONS:
        module, attribute = _DEFINITIONS[name]
        return getattr(importlib.import_module(module), attribute)
    if name in __all__:
        return importlib.import_module(f"moco_tf.{name}")
    raise AttributeError(f"module 'moco_tf' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(
        [*__all__, "__all__", "__doc__", "__file__", "__name__", "__path__", "__version__"]
    )
