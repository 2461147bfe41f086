"""Exports a backbone as an ONNX file, for inference by ONNX Runtime and others.

    python export/onnx.py --workdir=runs/mine --out=backbone.onnx

    session = onnxruntime.InferenceSession("backbone.onnx")
    [features] = session.run(["features"], {"images": images})

Images go in as they are on disk, float32 `[batch, height, width, channels]` of 0 to 255; batch,
height and width are left open, and normalisation is inside.

It needs two packages: pip install '.[onnx]'.
"""

from absl import flags

from moco_tf.cli import app, backbone_flags

UserError = app.UserError


def export_onnx(backbone, path, origin=None):
    """Writes a backbone as an ONNX file, and its model card to `<path>.md`.

    Its input is `images`, float32 `[batch, height, width, C]` of 0 to 255, and its output
    `features`, float32 `[batch, D]`, in inference mode.

    Args:
        backbone: a `keras.Model` of `moco_tf.encoders.build`, without a head.
        path: str, where nothing is yet.
        origin: a `moco_tf.model_card.Origin`, or None.

    Raises:
        UserError: tf2onnx and onnx are not installed; or a path that is taken, or cannot be
            written.
    """
    from moco_tf.backbones import saving
    from moco_tf.backbones.model_card import Format, model_card

    onnx = _import_onnx()
    saving.require_free(path)

    def fill(unfinished):
        _export_by_keras(backbone, unfinished)
        model = onnx.load(unfinished)
        _name(model.graph)
        onnx.checker.check_model(model)
        onnx.save(model, unfinished)

    form = Format(
        name="ONNX",
        takes="`images`, float32 `[batch, height, width, {channels}]` of 0 to 255, any size; "
        "normalisation is inside",
        gives="`features`, float32 `[batch, {features}]`",
        loading="""\
```python
session = onnxruntime.InferenceSession(PATH)
[features] = session.run(["features"], {"images": images})
```""",
    )
    saving.write_file(path, fill, model_card(backbone, form, origin))


def _export_by_keras(backbone, path):
    import logging
    import warnings

    import keras
    import tensorflow as tf

    from moco_tf.data.normalization import scale_and_offset

    # `with_normalization` holds its mean in a tensor, which tf2onnx makes an input of.
    normalize = keras.layers.Rescaling(*scale_and_offset(backbone.input_shape[-1]))
    images = keras.Input(backbone.input_shape[1:], name="images")
    model = keras.Model(images, backbone(normalize(images)))
    spec = tf.TensorSpec(model.input_shape, tf.float32, name="images")
    # tf2onnx says at length what it optimises, and Keras looks for what NumPy no longer has.
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        model.export(path, format="onnx", verbose=False, input_signature=[spec])


def _name(graph):
    """Gives the output and the open dimensions the names that they are known by here."""
    [images], [features] = graph.input, graph.output
    for node in graph.node:
        node.output[:] = ["features" if name == features.name else name for name in node.output]
    features.name = "features"
    for value, names in ((images, ("batch", "height", "width")), (features, ("batch",))):
        for size, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            size.dim_param = name


def _import_onnx():
    try:
        import onnx
        import tf2onnx  # noqa: F401, which Keras asks for when it exports
    except ImportError as error:
        raise UserError("tf2onnx and onnx are not installed: pip install '.[onnx]'") from error
    return onnx


def main(_):
    backbone, origin = backbone_flags.chosen()
    export_onnx(backbone, flags.FLAGS.out, origin)
    print(f"wrote {flags.FLAGS.out}")


if __name__ == "__main__":
    # Here, so that who imports the conversion does not get its flags.
    backbone_flags.define()
    flags.DEFINE_string("out", None, "The file to write, which must not exist.")
    app.run(main)
