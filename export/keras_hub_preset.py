"""Export a backbone as a KerasHub preset.

    python export/keras_hub_preset.py --workdir=runs/mine --out=preset

KerasHub builds its own network from it, for every task that uses a ResNet:

    backbone = keras_hub.models.Backbone.from_preset("preset")
    classifier = keras_hub.models.ImageClassifier.from_preset("preset", num_classes=10)

The network takes normalized images. Like KerasHub's own presets, the preset also contains the
normalization: a task's `preprocessor`, or `keras_hub.layers.ImageConverter.from_preset("preset")`
alone, converts images in [0, 255] to the network's input. It does not resize images unless you set
a size: `classifier.preprocessor.image_size = (224, 224)`.

It needs KerasHub, the extra `keras-hub`: pip install '.[keras-hub]' in a checkout of moco-tf.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from moco_tf.cli import export as export_command
from moco_tf.errors import UserError
from moco_tf.paths import expand_argument

if TYPE_CHECKING:
    import keras

    from moco_tf.backbones.history import Origin
    from moco_tf.backbones.model_card import Format
    from moco_tf.data.pixels import Pixels


def export_keras_hub(
    backbone: keras.Model, path: str | os.PathLike[str], origin: Origin | None = None
) -> None:
    """Write a preset, with a model card in it.

    Args:
        backbone: As for `to_keras_hub`.
        path: Path of the directory, which must not exist.
        origin: Where the backbone comes from, for the model card; None if that is unknown.

    Raises:
        UserError: As `to_keras_hub`, or if the path exists or cannot be written, or the backbone
            holds NaN or infinity.
    """
    from moco_tf import encoders
    from moco_tf.backbones import saving
    from moco_tf.backbones.finite import require_finite
    from moco_tf.backbones.model_card import model_card
    from moco_tf.data.pixels import to_json
    from moco_tf.encoders.originals import PIXELS_FILE

    path = expand_argument(path, "path")
    saving.require_free(path)
    require_finite(backbone.weights)
    converted = to_keras_hub(backbone)
    pixels = encoders.pixels_of(backbone)
    converter = to_image_converter(backbone.input_shape[-1], pixels)

    def fill(directory: str) -> None:
        converted.save_to_preset(directory)
        converter.save_to_preset(directory)
        if not pixels.are_bytes:
            # The converter does not say which values it is for.
            with open(os.path.join(directory, PIXELS_FILE), "w", encoding="utf-8") as file:
                json.dump(to_json(pixels), file)

    saving.write_directory(path, fill, model_card(backbone, _format(pixels), origin))


def to_keras_hub(backbone: keras.Model) -> Any:
    """Rebuild a backbone as KerasHub's ResNet, with the same weights.

    Args:
        backbone: A model of `moco_tf.encoders.build` without a head, or of
            `moco_tf.encoders.with_normalization`, such as a result of `moco_tf.load_backbone`.

    Returns:
        A `keras_hub.models.ResNetBackbone`, in variables of its own: from normalized images
        `[N, H, W, C]` to the feature map of the last stage, `[N, h, w, D]`, whose mean over h and w
        is the backbone's features. The maps of all stages are its `pyramid_outputs`, starting with
        "P2".

    Raises:
        UserError: If KerasHub is not installed or has no such network.
    """
    from moco_tf import encoders
    from moco_tf.encoders.names import require_resnet
    from moco_tf.encoders.resnet import parse_name

    keras_hub = _import_keras_hub()
    name, stem, channels = encoders.network_of(backbone)
    require_resnet(name, "the KerasHub export")
    architecture, width = parse_name(name)
    first = architecture.channels * width
    if stem != "imagenet":
        raise UserError(
            f"KerasHub's ResNets start with a convolution of stride 2, but {name} with stem={stem} "
            "does not: export an encoder with stem=imagenet"
        )
    if architecture.groups > 1:
        raise UserError(f"KerasHub has no ResNeXt such as {name}: export a ResNet")
    if first != 64:
        raise UserError(
            f"KerasHub's ResNets have 64 channels in the first stage, but {name} has {first}: "
            "export resnet18, resnet34, resnet50 or resnet101"
        )
    depths = architecture.depths
    converted = keras_hub.models.ResNetBackbone(
        input_conv_filters=[first],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[first * 2**stage for stage in range(len(depths))],
        stackwise_num_blocks=list(depths),
        stackwise_num_strides=[1] + [2] * (len(depths) - 1),
        block_type=f"{architecture.block}_block",
        image_shape=(None, None, channels),
        name=name,
    )
    for layer in encoders.without_normalization(backbone).layers:
        if layer.weights:
            converted.get_layer(_keras_hub_name(layer.name)).set_weights(layer.get_weights())
    return converted


def to_image_converter(channels: int, pixels: Pixels | None = None) -> Any:
    """Return the normalization that precedes the network.

    Args:
        channels: Number C of image channels.
        pixels: The pixel values of the images; by default those of 8 bits per channel.

    Returns:
        A `keras_hub.layers.ResNetImageConverter`, from images `[N, H, W, C]` in the value range,
        which is by default [0, 255], to normalized images of the same size. It does not clip.

    Raises:
        UserError: If KerasHub is not installed.
    """
    from moco_tf.data.pixels import default

    scale, offset = (pixels or default(channels)).scale_and_offset()
    return _import_keras_hub().layers.ResNetImageConverter(scale=scale, offset=offset)


def _keras_hub_name(layer: str) -> str:
    """Return KerasHub's name of a layer.

    For example, the name of stem_bn is conv1_bn, that of stage2_block1_3_conv is
    stack1_block0_3_conv, and that of stage2_block1_shortcut_bn is stack1_block0_0_bn.
    """
    if layer.startswith("stem_"):
        return layer.replace("stem", "conv1")
    match = re.fullmatch(r"stage(\d+)_block(\d+)_(.*)", layer)
    assert match, layer
    stage, block, place = match.groups()
    return f"stack{int(stage) - 1}_block{int(block) - 1}_{place.replace('shortcut', '0')}"


def _import_keras_hub() -> Any:
    try:
        import keras_hub
    except ImportError as error:
        raise UserError(
            "KerasHub is not installed: install the extra 'keras-hub': pip install '.[keras-hub]' "
            "in a checkout of moco-tf"
        ) from error
    return keras_hub


def _format(pixels: Pixels) -> Format:
    from moco_tf.backbones.model_card import Format
    from moco_tf.data.pixels import range_text

    # KerasHub's converter does not clip.
    clip = "" if pixels.are_bytes else ", to which you have to clip them"

    return Format(
        name="KerasHub preset, `ResNetBackbone`",
        inputs="float32 `[N, H, W, {channels}]`, any size, normalized by the preset's image "
        f"converter from images in [{range_text(pixels)}]{clip}",
        outputs="the feature map, float32 `[N, h, w, {features}]`, whose mean over h and w is the "
        "features",
        loading="""\
```python
backbone = keras_hub.models.Backbone.from_preset(PATH)
converter = keras_hub.layers.ImageConverter.from_preset(PATH)
features = backbone(converter(images)).numpy().mean(axis=(1, 2))

# A classifier takes images in [0, 255]: its preprocessor normalizes them.
classifier = keras_hub.models.ImageClassifier.from_preset(PATH, num_classes=10)
```""".replace("[0, 255]", f"[{range_text(pixels)}]"),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    out_help = "Directory to write, which must not exist; required."
    return export_command.run("keras_hub", __doc__ or "", out_help, export_keras_hub, argv)


if __name__ == "__main__":
    sys.exit(main())
