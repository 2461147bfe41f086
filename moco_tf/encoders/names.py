"""The names of encoders: of this project's ResNets, and of networks from elsewhere.

`keras:NAME` is a network of `keras.applications`, `keras_hub:PRESET` the backbone of a preset of
KerasHub, and `FILE.keras` a model of the user. This module only reads names, so that a config can
be checked without the network.
"""

import difflib
import os
import re
from typing import Any

from moco_tf.encoders.resnet import parse_name
from moco_tf.errors import UserError

FORMS = "a ResNet such as resnet50, keras:NAME, keras_hub:PRESET or FILE.keras"

# The networks of `keras.applications`, by the images that they take: the mode of Keras'
# `preprocess_input`, or "raw" for values in [0, 255] where the network itself begins with the
# preprocessing. ConvNeXt can be built without it, and what is left is "torch".
APPLICATIONS: dict[str, str] = {
    **dict.fromkeys(("DenseNet121", "DenseNet169", "DenseNet201"), "torch"),
    **{f"ConvNeXt{size}": "torch" for size in ("Tiny", "Small", "Base", "Large", "XLarge")},
    **dict.fromkeys(("InceptionV3", "InceptionResNetV2", "Xception"), "tf"),
    **dict.fromkeys(("MobileNet", "MobileNetV2", "NASNetMobile", "NASNetLarge"), "tf"),
    **dict.fromkeys(("ResNet50V2", "ResNet101V2", "ResNet152V2"), "tf"),
    **dict.fromkeys(("ResNet50", "ResNet101", "ResNet152", "VGG16", "VGG19"), "caffe"),
    **{f"EfficientNetB{number}": "raw" for number in range(8)},
    **{f"EfficientNetV2{size}": "raw" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")},
    **dict.fromkeys(("MobileNetV3Small", "MobileNetV3Large"), "raw"),
}
NETWORK = "network"  # The name of the layer of a network from elsewhere in its encoder.
# How the name of a Keras model of a network from elsewhere begins. Keras allows no ":" in it.
MODEL_NAMES = {"keras:": "keras_", "keras_hub:": "keras_hub_", "": "file_"}


def encoder_argument(name: Any) -> str:
    """Return the name of an encoder that a function was given.

    Args:
        name: The argument, a text or the path of a .keras file as a `pathlib.Path`.

    Raises:
        UserError: If it is something else.
    """
    if not isinstance(name, str | os.PathLike):
        raise UserError(f"the encoder is of the type {type(name).__name__}: use {FORMS}")
    return os.fsdecode(name)


def is_foreign(name: str) -> bool:
    """Return whether a name is that of a network from elsewhere, not of one of our ResNets.

    Example:
        >>> is_foreign("keras:MobileNetV2"), is_foreign("backbone.keras"), is_foreign("resnet50")
        (True, True, False)
    """
    return ":" in name or name.endswith(".keras")


def is_small(name: str) -> bool:
    """Return whether a name is that of a ResNet for small images, with fewer than 300,000 weights.

    Example:
        >>> is_small("resnet8"), is_small("resnet18")
        (True, False)
    """
    return name.startswith(("resnet8", "resnet14", "resnet20"))


def split(name: str) -> tuple[str, str]:
    """Return the form of a name, `"keras:"`, `"keras_hub:"` or `""` for a file, and the rest."""
    for form in ("keras_hub:", "keras:"):
        if name.startswith(form) and not name.endswith(".keras"):
            return form, name.removeprefix(form)
    return "", name


def initial_weights(name: str) -> str:
    """Return the setting `init` for the weights that a network brings along; "" if it brings none.

    Example:
        >>> initial_weights("folder/backbone.keras"), initial_weights("keras:VGG16")
        ('keras:folder/backbone.keras', '')
    """
    if not is_foreign(name):
        return ""
    form, rest = split(name)
    return {"": f"keras:{rest}", "keras_hub:": name, "keras:": ""}[form]


def check_name(name: str, stem: str = "imagenet") -> None:
    """Check the name of an encoder, but not whether a file or a preset of that name exists.

    Args:
        name: Name of an encoder, as for `moco_tf.encoders.build`.
        stem: Its stem.

    Raises:
        UserError: If there is no such network, or it has no such stem.
    """
    if name.lower().endswith((".h5", ".hdf5")):
        raise UserError(
            f"unknown encoder '{name}': the files of models end in .keras: read it with "
            "keras.saving.load_model, and save the model to a file that ends in .keras"
        )
    if not is_foreign(name):
        parse_name(name)
        return
    form, rest = split(name)
    if name.startswith("keras:") and not form:
        file = name.removeprefix("keras:")
        raise UserError(f"unknown encoder '{name}': give the file without keras:, as {file}")
    if form == "keras:" and rest not in APPLICATIONS:
        raise UserError(f"unknown encoder '{name}': {_remedy(rest)}")
    if not rest or (not form and not name.endswith(".keras")):
        raise UserError(f"unknown encoder '{name}': use {FORMS}")
    if stem != "imagenet":
        raise UserError(
            f"stem={stem} has no effect on the encoder '{name}', which has first layers of its "
            "own: use the default stem=imagenet, or one of this project's ResNets"
        )


def _remedy(name: str) -> str:
    """Return what to use in place of an unknown network of `keras.applications`."""
    by_lower_case = {known.lower(): known for known in APPLICATIONS}
    without_width = re.sub(r"w\d+$", "", name)
    if without_width != name and without_width in APPLICATIONS:
        return (
            f"a suffix for the width, such as {name[len(without_width) :]}, exists for this "
            f"project's ResNets only; use keras:{without_width}"
        )
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=3)
    if close:
        names = " or ".join(f"keras:{by_lower_case[match]}" for match in close)
        return f"did you mean {names}?"
    return f"keras.applications has {', '.join(APPLICATIONS)}"


def model_name(name: str) -> str:
    """Return the name of the Keras model of a network from elsewhere.

    Example:
        >>> model_name("keras:VGG16"), model_name("keras_hub:a/resnet"), model_name("a/b.keras")
        ('keras_VGG16', 'keras_hub_resnet', 'file_b')
    """
    form, rest = split(name)
    if form != "keras:":
        rest = os.path.basename(rest.rstrip("/")).removesuffix(".keras")
    return MODEL_NAMES[form] + re.sub(r"\W", "_", rest)


def encoder_name(model_name: str) -> str | None:
    """Return the encoder that a Keras model was named for, without its folder.

    Args:
        model_name: A result of `model_name`.

    Returns:
        A name such as `"keras:VGG16"`, or None for the name of one of our ResNets.
    """
    for form in ("keras_hub:", "keras:", ""):
        if model_name.startswith(MODEL_NAMES[form]):
            rest = model_name.removeprefix(MODEL_NAMES[form])
            return f"{form}{rest}" if form else f"{rest}.keras"
    return None


def require_resnet(name: str, needed_for: str) -> None:
    """Raise a `UserError` if an encoder is a network from elsewhere.

    Args:
        name: Name of the encoder.
        needed_for: What supports our ResNets only, such as `"the KerasHub export"`.
    """
    if is_foreign(name):
        raise UserError(
            f"{needed_for} supports this project's ResNets only, not the encoder '{name}': export "
            "it as saved_model, keras or onnx, or use an encoder such as resnet50"
        )
