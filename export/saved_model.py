"""Exports a backbone as a SavedModel that fine-tunes in plain Keras, and that can be served.

    python export/saved_model.py --workdir=runs/photos --out=runs/photos/export/saved_model

What reads it needs TensorFlow and Keras, and nothing of this project:

    keras.layers.TFSMLayer(
        PATH, call_endpoint="serve", call_training_endpoint="train", trainable=True)

To freeze it, leave `call_training_endpoint` out and say `trainable=False`: with a training endpoint
the moving statistics of BatchNormalization would still move.

A third endpoint, `serve_encoded`, takes the bytes of JPEG and PNG files, as TensorFlow Serving and
saved_model_cli hand them over. Images of one batch may differ in size, so each is brought to the
central view that evaluate.py looks at: the shorter side to 256/224 of --image_size, then the
centre.
"""

import json
import os

from absl import flags

from moco_tf.cli import app, backbone_flags

SERVE, TRAIN, SERVE_ENCODED = "serve", "train", "serve_encoded"
IMAGE_SIZE = 224


def to_archive(backbone, image_size=IMAGE_SIZE):
    """A backbone with the endpoints of its SavedModel.

    Its endpoint `serve` runs the backbone in inference mode; `train` normalises by the batch and
    moves the moving statistics. Both take images, float32 `[N, H, W, C]` of 0 to 255, of any size
    and of the backbone's channels, and return features, float32 `[N, D]`. Where the backbone takes
    RGB, `serve_encoded` takes the bytes of JPEG and PNG files, strings `[N]`, and returns what
    `serve` does of their central views.

    Args:
        backbone: a `keras.Model` from such images to features.
        image_size: int, side in pixels of the central view.

    Returns:
        A `keras.export.ExportArchive`.
    """
    import keras
    import tensorflow as tf

    channels = backbone.input_shape[-1]
    images = tf.TensorSpec([None, None, None, channels], tf.float32, name="images")
    archive = keras.export.ExportArchive()
    archive.track(backbone)
    archive.add_endpoint(SERVE, lambda images: backbone(images, training=False), [images])
    archive.add_endpoint(TRAIN, lambda images: backbone(images, training=True), [images])
    if channels == 3:
        # Each holds a file, whole. TensorFlow Serving takes them as {"b64": "..."}.
        encoded = tf.TensorSpec([None], tf.string, name="image_bytes")
        archive.add_endpoint(
            SERVE_ENCODED,
            lambda image_bytes: backbone(central_views(image_bytes, image_size), training=False),
            [encoded],
        )
    return archive


def export_saved_model(backbone, path, origin=None, image_size=IMAGE_SIZE):
    """Writes a backbone as a SavedModel, with a model card in it.

    Args:
        backbone: a `keras.Model` such as `moco_tf.load_backbone` returns.
        path: str, a directory that does not exist.
        origin: a `moco_tf.model_card.Origin`, or None.
        image_size: as for `to_archive`.

    Raises:
        UserError: it exists, or cannot be written.
    """
    from moco_tf import encoders
    from moco_tf.backbones import loading, saving
    from moco_tf.backbones.model_card import model_card
    from moco_tf.files import write_atomically

    saving.require_free(path)
    archive, network = to_archive(backbone, image_size), encoders.network_of(backbone)

    def fill(directory):
        archive.write_out(directory, verbose=False)
        # The loader leaves it alone, and load_network builds the network again by it.
        description = os.path.join(directory, loading.NETWORK_FILE)
        write_atomically(description, json.dumps(network._asdict()) + "\n")

    card = model_card(backbone, _format(network.channels, image_size), origin)
    saving.write_directory(path, fill, card)


def central_views(image_bytes, image_size):
    """What `evaluate.py` looks at of JPEG and PNG files, in TensorFlow's operations alone.

    Args:
        image_bytes: strings `[N]`, each a file's bytes.
        image_size: int, side of the views in pixels.

    Returns:
        float32 `[N, image_size, image_size, 3]` of 0 to 255.

    Raises:
        tf.errors.OpError: where the operation runs, if one is neither, or damaged, or promises more
            pixels than its bytes can hold.
    """
    import tensorflow as tf

    from moco_tf.data import decoding
    from moco_tf.data.views import central_view

    def view(contents):
        # As `decoding.decode`, which reads further kinds of files, and in part in Python.
        contents = tf.cond(
            tf.io.is_jpeg(contents),
            lambda: decoding.possible_jpeg(contents),
            lambda: decoding.possible_png(contents),
        )
        image = tf.io.decode_image(contents, channels=3, expand_animations=False)
        return central_view(tf.ensure_shape(image, [None, None, 3]), image_size)

    spec = tf.TensorSpec([image_size, image_size, 3], tf.uint8)
    return tf.cast(tf.map_fn(view, image_bytes, fn_output_signature=spec), tf.float32)


def _format(channels, image_size):
    from moco_tf.backbones.model_card import Format

    takes = "`images`, float32 `[N, H, W, {channels}]` of 0 to 255, any size; normalisation inside"
    encoded = (
        f", and `{SERVE_ENCODED}` takes the bytes of JPEG and PNG files, of which it sees the "
        f"centre, {image_size}x{image_size} after the shorter side was resized to "
        f"{round(image_size * 256 / 224)}"
    )
    return Format(
        name="SavedModel of TensorFlow",
        takes=takes + encoded * (channels == 3),
        gives="features, float32 `[N, {features}]`",
        loading="""\
```python
backbone = keras.layers.TFSMLayer(
    PATH, call_endpoint="serve", call_training_endpoint="train", trainable=True
)
```

To freeze it, leave `call_training_endpoint` out and say `trainable=False`.""",
    )


def main(_):
    from moco_tf import encoders, run_directory

    backbone, origin = backbone_flags.chosen()
    image_size = flags.FLAGS.image_size
    if image_size is None:
        of_run = origin.flag == "workdir"
        image_size = run_directory.read_config(origin.path).image_size if of_run else IMAGE_SIZE
    out = flags.FLAGS.out
    export_saved_model(encoders.with_normalization(backbone), out, origin, image_size)
    print(f"wrote {out}")


if __name__ == "__main__":
    # Here, so that who imports the conversion does not get its flags.
    backbone_flags.define()
    flags.DEFINE_string("out", None, "The directory to write, which must not exist.")
    flags.DEFINE_integer(
        "image_size",
        None,
        f"Side of the views of encoded images in pixels; by default the run's, or {IMAGE_SIZE}.",
        lower_bound=1,
    )
    app.run(main)
