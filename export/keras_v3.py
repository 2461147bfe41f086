"""Export a backbone as a .keras file.

    python export/keras_v3.py --workdir=runs/mine --out=backbone.keras

Loading it needs Keras alone:

    backbone = keras.saving.load_model("backbone.keras")

The model consists of Keras' own layers, so it loads in safe mode, and on the other backends of
Keras too. It takes images of any size with values in [0, 255], and fine-tunes like any Keras model.
`backbone.get_layer(NAME)`, with a NAME such as resnet50, returns the residual network in it, which
has the layers of the stages.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moco_tf.cli import export as export_command
from moco_tf.paths import expand_argument

if TYPE_CHECKING:
    import keras

    from moco_tf.backbones.history import Origin


def to_keras(backbone: keras.Model) -> keras.Model:
    """Rebuild a backbone from Keras' own layers.

    Its BatchNormalization is that of `moco_tf.encoders.cloning.with_keras_layers`. Layers that an
    encoder from elsewhere brings along, such as those of KerasHub, stay as they are.

    Args:
        backbone: A model of `moco_tf.encoders.build` without a head, or of
            `moco_tf.encoders.with_normalization`, such as a result of `moco_tf.load_backbone`.

    Returns:
        A model with the same weights in separate variables, from images `[N, H, W, C]` in the
        value range of the backbone, such as [0, 255], to features `[N, D]`, float32.

    Example:
        >>> from moco_tf.export.keras_v3 import to_keras
        >>> to_keras(moco_tf.encoders.build("resnet8", stem="small")).output_shape
        (None, 64)
    """
    from moco_tf import encoders
    from moco_tf.encoders.cloning import with_keras_layers

    return with_keras_layers(encoders.with_normalization(backbone))


def export_keras(
    backbone: keras.Model, path: str | os.PathLike[str], origin: Origin | None = None
) -> None:
    """Write a backbone as a .keras file, and its model card to `<path>.md`.

    Args:
        backbone: As for `to_keras`.
        path: Path that ends in .keras, where nothing exists yet.
        origin: Where the backbone comes from, for the model card; None if that is unknown.

    Raises:
        UserError: If the path ends otherwise, exists, or cannot be written, or the backbone holds
            NaN or infinity.
    """
    from moco_tf.backbones import saving
    from moco_tf.backbones.finite import require_finite
    from moco_tf.backbones.model_card import Format, keras_format, model_card

    path = expand_argument(path, "path")
    saving.require_keras_name(path)
    require_finite(backbone.weights)
    model = to_keras(backbone)
    form = Format(
        name=keras_format(model),
        inputs="float32 `[N, H, W, {channels}]` in {values}, any size; normalization is inside",
        outputs="features, float32 `[N, {features}]`",
        loading="```python\nbackbone = keras.saving.load_model(PATH)\n```",
    )
    card = model_card(backbone, form, origin)
    saving.write_file(path, model.save, card)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    out_help = "File to write, which must end in .keras and not exist; required."
    return export_command.run("keras", __doc__ or "", out_help, export_keras, argv)


if __name__ == "__main__":
    sys.exit(main())
