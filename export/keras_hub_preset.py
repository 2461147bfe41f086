"""Exports a backbone as a preset of KerasHub.

    python export/keras_hub.py --workdir=runs/mine --out=preset

KerasHub builds its own network by it, for every task that is made of a ResNet:

    backbone = keras_hub.models.Backbone.from_preset("preset")
    classifier = keras_hub.models.ImageClassifier.from_preset("preset", num_classes=10)

The network takes normalised images. The preset holds the normalisation as well, as KerasHub's own
presets do: a task's `preprocessor`, and `keras_hub.layers.ImageConverter.from_preset("preset")`
alone, take images of 0 to 255 to what the network takes. It leaves their size alone, unless it is
told one: `classifier.preprocessor.image_size = (224, 224)`.

It needs KerasHub: pip install '.[keras-hub]'.
"""

import re

from absl import flags

from moco_tf.cli import app, backbone_flags

UserError = app.UserError


def export_keras_hub(backbone, path, origin=None):
    """Writes a preset, with a model card in it.

    Args:
        backbone: as for `to_keras_hub`.
        path: str, a directory that does not exist.
        origin: a `moco_tf.model_card.Origin`, or None.

    Raises:
        UserError: what `to_keras_hub` raises; or it exists, or cannot be written.
    """
    from moco_tf.backbones import saving
    from moco_tf.backbones.model_card import model_card

    saving.require_free(path)
    converted = to_keras_hub(backbone)
    converter = to_image_converter(backbone.input_shape[-1])

    def fill(directory):
        converted.save_to_preset(directory)
        converter.save_to_preset(directory)

    saving.write_directory(path, fill, model_card(backbone, _format(), origin))


def to_keras_hub(backbone):
    """A backbone as KerasHub's, of the same numbers.

    Args:
        backbone: a `keras.Model` of `moco_tf.encoders.build`, without a head.

    Returns:
        A `keras_hub.models.ResNetBackbone`, in variables of its own: from normalised images
        `[N, H, W, C]` to the feature map of the last stage, `[N, h, w, D]`, whose mean over h and w
        is the backbone's features. The maps of all stages are its `pyramid_outputs`, from "P2" on.

    Raises:
        UserError: KerasHub is not installed, or has no such network.
    """
    from moco_tf import encoders
    from moco_tf.encoders.resnet import parse_name

    keras_hub = _import_keras_hub()
    name, stem, channels = encoders.network_of(backbone)
    architecture, width = parse_name(name)
    first = architecture.channels * width
    if stem != "imagenet":
        raise UserError(
            f"KerasHub's ResNets begin with a convolution of stride 2, and {name} with "
            f"stem={stem} does not: only stem=imagenet can be exported"
        )
    if architecture.groups > 1:
        raise UserError(f"KerasHub has no ResNeXt, and {name} is one: export a ResNet")
    if first != 64:
        raise UserError(
            f"KerasHub's ResNets have 64 channels in the first stage, and {name} has {first}: "
            "export resnet18, 34, 50 or 101"
        )
    depths = architecture.depths
    found = keras_hub.models.ResNetBackbone(
        input_conv_filters=[first],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[first * 2**stage for stage in range(len(depths))],
        stackwise_num_blocks=list(depths),
        stackwise_num_strides=[1] + [2] * (len(depths) - 1),
        block_type=f"{architecture.block}_block",
        image_shape=(None, None, channels),
        name=name,
    )
    for layer in backbone.layers:
        if layer.weights:
            found.get_layer(_keras_hub_name(layer.name)).set_weights(layer.get_weights())
    return found


def to_image_converter(channels):
    """The normalisation that goes before the network.

    Args:
        channels: int C, of the images.

    Returns:
        A `keras_hub.layers.ResNetImageConverter`, from images `[N, H, W, C]` of 0 to 255 to
        normalised ones of the same size.

    Raises:
        UserError: KerasHub is not installed.
    """
    from moco_tf.data.normalization import scale_and_offset

    scale, offset = scale_and_offset(channels)
    return _import_keras_hub().layers.ResNetImageConverter(scale=scale, offset=offset)


def _keras_hub_name(layer):
    """The name of stem_bn is conv1_bn, of stage2_block1_3_conv stack1_block0_3_conv, and of
    stage2_block1_shortcut_bn stack1_block0_0_bn."""
    if layer.startswith("stem_"):
        return layer.replace("stem", "conv1")
    stage, block, place = re.fullmatch(r"stage(\d+)_block(\d+)_(.*)", layer).groups()
    return f"stack{int(stage) - 1}_block{int(block) - 1}_{place.replace('shortcut', '0')}"


def _import_keras_hub():
    try:
        import keras_hub
    except ImportError as error:
        raise UserError("KerasHub is not installed: pip install '.[keras-hub]'") from error
    return keras_hub


def _format():
    from moco_tf.backbones.model_card import Format

    return Format(
        name="preset of KerasHub, `ResNetBackbone`",
        takes="float32 `[N, H, W, {channels}]`, normalised as the preset's image converter does it "
        "to images of 0 to 255; any size",
        gives="the feature map, float32 `[N, h, w, {features}]`, whose mean over h and w is the "
        "features",
        loading="""\
```python
backbone = keras_hub.models.Backbone.from_preset(PATH)
converter = keras_hub.layers.ImageConverter.from_preset(PATH)
features = backbone(converter(images)).numpy().mean(axis=(1, 2))

# Images of 0 to 255 go in: normalisation is in its preprocessor.
classifier = keras_hub.models.ImageClassifier.from_preset(PATH, num_classes=10)
```""",
    )


def main(_):
    backbone, origin = backbone_flags.chosen()
    export_keras_hub(backbone, flags.FLAGS.out, origin)
    print(f"wrote {flags.FLAGS.out}")


if __name__ == "__main__":
    # Here, so that who imports the conversion does not get its flags.
    backbone_flags.define()
    flags.DEFINE_string("out", None, "The directory to write, which must not exist.")
    app.run(main)
