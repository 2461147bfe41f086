"""A backbone and a linear layer as one classifier, and its file."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from moco_tf.backbones import saving
from moco_tf.backbones.model_card import Format, Origin, classifier_card
from moco_tf.data.views import resized_side
from moco_tf.encoders import preprocessing
from moco_tf.encoders.cloning import with_keras_layers
from moco_tf.errors import UserError

OUTPUT = "probabilities"  # The name of the linear layer.


def assemble(backbone: keras.Model, weights: np.ndarray, bias: np.ndarray) -> keras.Model:
    """Return a backbone with a linear layer and a softmax as a model of Keras' own layers.

    Args:
        backbone: A functional `keras.Model` from images `[N, H, W, C]` to features `[N, D]`. A
            model of `moco_tf.encoders.build` gets its normalization.
        weights: `[D, classes]`.
        bias: `[classes]`.

    Returns:
        A model with the same values in variables of its own, from images `[N, H, W, C]` in the
        value range of the backbone, which is [0, 255] for images with 8 bits per channel, to the
        probabilities of the classes, float32 `[N, classes]`.

    Example:
        >>> import moco_tf
        >>> backbone = moco_tf.encoders.build("resnet8", stem="small")
        >>> assemble(backbone, np.zeros([64, 4]), np.zeros([4]))(np.zeros([1, 32, 32, 3])).numpy()
        array([[0.25, 0.25, 0.25, 0.25]], dtype=float32)
    """
    backbone = preprocessing.for_images(backbone)
    features = with_keras_layers(backbone)
    layer = keras.layers.Dense(len(bias), "softmax", dtype="float32", name=OUTPUT)
    name = f"{preprocessing.without_normalization(backbone).name}_classifier"
    model = keras.Model(features.input, layer(features.output), name=name)
    layer.set_weights([weights, bias])
    return model


def require_savable(backbone: Any, path: str) -> None:
    """Raise a `UserError` unless a classifier on a backbone can be saved, before it is trained.

    Args:
        backbone: The backbone.
        path: Path of the file.

    Raises:
        UserError: If the backbone is no `keras.Model`, the path does not end in .keras, something
            is there or where the model card belongs, or its directory does not exist.
    """
    saving.require_keras_name(path)
    saving.require_free(path)
    saving.require_free(f"{path}.md")
    folder = os.path.dirname(path) or "."
    if "://" not in path and not os.path.isdir(folder):
        raise UserError(f"the path {path} cannot be written: there is no directory {folder}")
    if not isinstance(backbone, keras.Model):
        raise UserError(
            "a classifier on a SavedModel cannot be saved, because the SavedModel has no Keras "
            "layers: give the run that it was exported from"
        )


def save(
    backbone: keras.Model,
    weights: np.ndarray,
    bias: np.ndarray,
    path: str,
    class_names: Sequence[str],
    result: Mapping[str, Any],
    origin: Origin | None = None,
) -> None:
    """Write a classifier as a .keras file, which Keras alone can load, with a model card.

    Args:
        backbone: As for `assemble`.
        weights: As for `assemble`.
        bias: As for `assemble`.
        path: Path that ends in .keras, where nothing exists yet. The card is `<path>.md`.
        class_names: The names of the classes, in the order of the probabilities.
        result: The result of the evaluation that trained the layer.
        origin: Where the backbone came from before this training; None if its weights were random.

    Raises:
        UserError: If the file cannot be written.
    """
    size = result["image_size"]
    form = Format(
        name="Keras model, made of Keras' own layers",
        inputs="float32 `[N, H, W, {channels}]` in {values}; normalization is inside, resizing is "
        f"not. The accuracy was measured on central views of {size}x{size} pixels: the shorter "
        f"side resized to {resized_side(size)} with antialiasing, and the center cropped",
        outputs=f"probabilities of the classes, float32 `[N, {len(class_names)}]`",
        loading="```python\nclassifier = keras.saving.load_model(PATH)\n```",
    )
    card = classifier_card(backbone, form, class_names, result, origin)
    saving.write_file(path, assemble(backbone, weights, bias).save, card)
