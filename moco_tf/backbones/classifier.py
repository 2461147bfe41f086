"""A backbone and a linear layer as one classifier, and its file."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from moco_tf.backbones import saving
from moco_tf.backbones.model_card import Format, classifier_card, keras_format
from moco_tf.data.views import resized_side
from moco_tf.encoders import preprocessing
from moco_tf.encoders.cloning import COPY_ERRORS, with_keras_layers
from moco_tf.errors import UserError
from moco_tf.files import error_reason

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
    # Single tensors, because a model of lists is exported with lists as its inputs.
    model = keras.Model(features.inputs[0], layer(features.outputs[0]), name=name)
    layer.set_weights([weights, bias])
    return model


def require_classifiable(backbone: Any) -> None:
    """Check that a backbone can become part of a classifier, before it is trained.

    As `assemble`, it creates variables, so all workers of a strategy have to call it.

    Args:
        backbone: The backbone.

    Raises:
        UserError: If it is no `keras.Model` from one tensor to one, is a classifier itself, or
            cannot be copied.
    """
    remedy = "pass a functional keras.Model, such as the result of moco_tf.load_backbone"
    if isinstance(backbone, keras.layers.TFSMLayer):
        raise UserError(
            "a SavedModel cannot become part of a classifier, because it has no Keras layers: give "
            "the run that it was exported from"
        )
    if not isinstance(backbone, keras.Model):
        raise UserError(
            f"backbone is of the type {type(backbone).__name__}, which cannot become part of a "
            f"classifier: {remedy}"
        )
    if OUTPUT in [layer.name for layer in backbone.layers]:
        raise UserError(
            f"backbone has a layer '{OUTPUT}', as a classifier has: pass the backbone that the "
            "classifier was trained from"
        )
    try:
        inputs = [keras.Input(batch_shape=x.shape, dtype=x.dtype) for x in backbone.inputs]
        features = backbone(inputs[0]) if len(inputs) == 1 else None
        if not isinstance(features, keras.KerasTensor):
            raise ValueError("it takes or returns a list of tensors")
        assemble(backbone, np.zeros([features.shape[-1], 2]), np.zeros(2))
    except COPY_ERRORS as error:
        raise UserError(
            f"backbone cannot become part of a classifier ({error_reason(error)}): {remedy}"
        ) from error


def require_path(path: str) -> None:
    """Check that a classifier can be saved at a path, before it is trained.

    Raises:
        UserError: If the path does not end in .keras, something is there or where the model card
            belongs, or no file can be created there.
    """
    saving.require_keras_name(path)
    saving.require_creatable(path)


def save(
    model: keras.Model,
    path: str,
    class_names: Sequence[str],
    result: Mapping[str, Any],
    backbone: keras.Model,
    backbone_history: str,
) -> None:
    """Write a classifier as a .keras file with a model card.

    Args:
        model: A result of `assemble`.
        path: Path that ends in .keras, where nothing exists yet. The card is `<path>.md`.
        class_names: The names of the classes, in the order of the probabilities.
        result: The result of the evaluation that trained the layer.
        backbone: The backbone of the classifier, which the card describes.
        backbone_history: The text about the training of the backbone before, by
            `moco_tf.backbones.history.training`.

    Raises:
        UserError: If the file cannot be written.
    """
    size = result["image_size"]
    form = Format(
        name=keras_format(model),
        inputs="float32 `[N, H, W, {channels}]` in {values}, any size; normalization is inside, "
        f"resizing is not. The accuracy was measured on central views of {size}x{size} pixels: the "
        f"shorter side resized to {resized_side(size)} with antialiasing, and the center cropped",
        outputs=f"probabilities of the classes, float32 `[N, {len(class_names)}]`",
        loading="```python\nclassifier = keras.saving.load_model(PATH)\n```",
    )
    card = classifier_card(backbone, form, class_names, result, backbone_history)
    saving.write_file(path, model.save, card)
