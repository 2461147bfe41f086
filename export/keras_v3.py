"""Exports a backbone as a .keras file, which Keras alone loads.

    python export/keras.py --workdir=runs/mine --out=backbone.keras

    backbone = keras.saving.load_model("backbone.keras")

It is made of Keras' own layers, so it loads in safe mode, and on the other backends of Keras too.
Images go in as they are on disk, of 0 to 255 and any size; it fine-tunes as any model of Keras
does. The residual network in it is `backbone.get_layer(NAME)`, such as resnet50, and has the stages
as layers.
"""

from absl import flags

from moco_tf.cli import app, backbone_flags

UserError = app.UserError


def to_keras(backbone):
    """A backbone that is made of Keras' own layers.

    In training Keras' BatchNormalization normalises as ours of one group does; its moving variance
    follows the biased variance of a batch, and ours the unbiased one.

    Args:
        backbone: a `keras.Model` of `moco_tf.encoders.build`, without a head.

    Returns:
        A `keras.Model` of the same numbers, in variables of its own: from images `[N, H, W, C]` of
        0 to 255 to features `[N, D]`, float32.
    """
    import keras

    from moco_tf import encoders
    from moco_tf.encoders.normalization import BatchNormalization

    def copy(layer):
        config = layer.get_config()
        if isinstance(layer, BatchNormalization):
            del config["groups"]
            return keras.layers.BatchNormalization(**config)
        return type(layer).from_config(config)

    whole = encoders.with_normalization(backbone)
    found = keras.models.clone_model(whole, clone_function=copy, recursive=True)
    found.set_weights(whole.get_weights())
    return found


def export_keras(backbone, path, origin=None):
    """Writes a backbone as a .keras file, and its model card to `<path>.md`.

    Args:
        backbone: as for `to_keras`.
        path: str, ending in .keras, where nothing is yet.
        origin: a `moco_tf.model_card.Origin`, or None.

    Raises:
        UserError: another ending; or a path that is taken, or cannot be written.
    """
    from moco_tf.backbones import saving
    from moco_tf.backbones.model_card import Format, model_card

    if not path.endswith(".keras"):
        raise UserError(f"--out={path}: Keras loads what ends in .keras")
    form = Format(
        name="model of Keras, of its own layers alone",
        takes="float32 `[N, H, W, {channels}]` of 0 to 255, any size; normalisation is inside",
        gives="features, float32 `[N, {features}]`",
        loading="```python\nbackbone = keras.saving.load_model(PATH)\n```",
    )
    card = model_card(backbone, form, origin)
    saving.write_file(path, to_keras(backbone).save, card)


def main(_):
    backbone, origin = backbone_flags.chosen()
    export_keras(backbone, flags.FLAGS.out, origin)
    print(f"wrote {flags.FLAGS.out}")


if __name__ == "__main__":
    # Here, so that who imports the conversion does not get its flags.
    backbone_flags.define()
    flags.DEFINE_string("out", None, "The file to write, ending in .keras, which must not exist.")
    app.run(main)
