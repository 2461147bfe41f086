"""Export a backbone as a SavedModel that can be served, and fine-tuned in plain Keras.

    python export/saved_model.py --workdir=runs/photos --out=runs/photos/export/saved_model

Loading it needs TensorFlow and Keras, but not this project:

    keras.layers.TFSMLayer(
        PATH, call_endpoint="serve", call_training_endpoint="train", trainable=True)

To freeze it, leave out `call_training_endpoint` and pass `trainable=False`. With a training
endpoint, the moving statistics of BatchNormalization would still change.

A third endpoint, `serve_encoded`, takes the bytes of JPEG and PNG files, which is what TensorFlow
Serving and saved_model_cli pass. The images of a batch may differ in size, so each is reduced to
the central view that evaluate.py uses: the shorter side is resized to 256/224 of --image_size, and
the center is cropped. Images that have this size already stay as they are. The EXIF orientation is
not applied.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from moco_tf.cli import export as export_command
from moco_tf.cli.flag_groups import define_export_flags
from moco_tf.paths import expand_argument

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from moco_tf.backbones.history import Origin
    from moco_tf.backbones.model_card import Format

SERVE, TRAIN, SERVE_ENCODED = "serve", "train", "serve_encoded"
IMAGE_SIZE = 224


def to_archive(backbone: keras.Model, image_size: int = IMAGE_SIZE) -> keras.export.ExportArchive:
    """Return a backbone with the endpoints of its SavedModel.

    The endpoint `serve` runs the backbone in inference mode; `train` normalizes by the statistics
    of the batch and updates the moving statistics. Both take images, float32 `[N, H, W, C]` with
    any size and the backbone's channels and value range, such as [0, 255], and return features,
    float32 `[N, D]`. If the backbone takes RGB images with 8 bits per channel, `serve_encoded`
    takes the bytes of JPEG and PNG files, strings `[N]`, and returns what `serve` returns for their
    central views.

    Args:
        backbone: A model from such images to features, such as a result of `moco_tf.load_backbone`.
            A model of `moco_tf.encoders.build` gets its normalization.
        image_size: Side of the central view in pixels.

    Returns:
        A `keras.export.ExportArchive`.

    Example:
        >>> from moco_tf.export.saved_model import to_archive
        >>> backbone = moco_tf.encoders.random_backbone("resnet8", stem="small")
        >>> archive = to_archive(backbone, image_size=32)
    """
    import keras
    import tensorflow as tf

    from moco_tf.encoders import preprocessing

    backbone = preprocessing.for_images(backbone)
    images = tf.TensorSpec(backbone.input_shape, tf.float32, name="images")
    archive = keras.export.ExportArchive()
    archive.track(backbone)
    archive.add_endpoint(SERVE, lambda images: backbone(images, training=False), [images])
    archive.add_endpoint(TRAIN, lambda images: backbone(images, training=True), [images])
    if _takes_files(backbone):
        # Each string is a whole file. TensorFlow Serving takes them as {"b64": "..."}.
        encoded = tf.TensorSpec([None], tf.string, name="image_bytes")
        archive.add_endpoint(
            SERVE_ENCODED,
            lambda image_bytes: backbone(central_views(image_bytes, image_size), training=False),
            [encoded],
        )
    return archive


def export_saved_model(
    backbone: keras.Model,
    path: str | os.PathLike[str],
    origin: Origin | None = None,
    image_size: int = IMAGE_SIZE,
) -> None:
    """Write a backbone as a SavedModel, with a model card in it.

    Args:
        backbone: A model of `moco_tf.encoders.build` without a head, or of
            `moco_tf.encoders.with_normalization`, such as a result of `moco_tf.load_backbone`.
        path: Path of the directory, which must not exist.
        origin: Where the backbone comes from, for the model card; None if that is unknown.
        image_size: As for `to_archive`.

    Raises:
        UserError: If the path exists or cannot be written, or the backbone holds NaN or infinity.
    """
    from moco_tf import encoders
    from moco_tf.backbones import descriptions, network_file, saving
    from moco_tf.backbones.finite import require_finite
    from moco_tf.backbones.model_card import model_card
    from moco_tf.files import require_no_pattern

    path = expand_argument(path, "path")
    saving.require_free(path)
    require_no_pattern(path)
    backbone = encoders.with_normalization(backbone)
    require_finite(backbone.weights)
    network, pixels = encoders.network_of(backbone), encoders.pixels_of(backbone)
    encoders.foreign.require_image_size(backbone, image_size, network.encoder, "image_size")
    archive = to_archive(backbone, image_size)
    foreign_network = encoders.foreign_part(backbone)
    description = encoders.foreign.description_of(foreign_network) if foreign_network else None

    def fill(directory: str) -> None:
        archive.write_out(directory, verbose=False)
        # TensorFlow ignores this file; `load_network` builds the network from it.
        network_file.write(directory, network, pixels, image_size)
        descriptions.write(directory, description)

    card = model_card(backbone, _format(_takes_files(backbone), image_size), origin)
    saving.write_directory(path, fill, card)


def central_views(image_bytes: tf.Tensor, image_size: int) -> tf.Tensor:
    """Decode JPEG and PNG files to the views that `evaluate.py` uses, with TensorFlow alone.

    Args:
        image_bytes: Strings `[N]`, the contents of the files.
        image_size: Side of the views in pixels.

    Returns:
        float32 `[N, image_size, image_size, 3]`, in [0, 255].

    Raises:
        tf.errors.OpError: When the operation runs, if a file is neither JPEG nor PNG, is damaged,
            or declares more pixels than its bytes can hold.
    """
    import tensorflow as tf

    from moco_tf.data import decoding
    from moco_tf.data.views import central_view

    def view(contents: tf.Tensor) -> tf.Tensor:
        # Unlike `decoding.decode`, which calls Python for other formats.
        contents = tf.cond(
            tf.io.is_jpeg(contents),
            lambda: decoding.possible_jpeg(contents),
            lambda: decoding.possible_png(contents),
        )
        image = tf.io.decode_image(contents, channels=3, expand_animations=False)
        return central_view(tf.ensure_shape(image, [None, None, 3]), image_size)

    spec = tf.TensorSpec([image_size, image_size, 3], tf.uint8)
    return tf.cast(tf.map_fn(view, image_bytes, fn_output_signature=spec), tf.float32)


def _takes_files(backbone: keras.Model) -> bool:
    """Return whether a backbone takes what JPEG and PNG files are decoded to."""
    from moco_tf import encoders

    return backbone.input_shape[-1] == 3 and encoders.pixels_of(backbone).are_bytes


def _format(takes_files: bool, image_size: int) -> Format:
    from moco_tf.backbones.model_card import Format
    from moco_tf.data.views import resized_side

    inputs = (
        "`images`, float32 `[N, H, W, {channels}]` in {values}, any size; normalization is inside"
    )
    encoded = (
        f"{inputs}. `{SERVE_ENCODED}` takes the bytes of JPEG and PNG files, and uses their "
        f"central {image_size}x{image_size} pixels after resizing the shorter side to "
        f"{resized_side(image_size)}, without the EXIF orientation"
    )
    return Format(
        name="TensorFlow SavedModel",
        inputs=encoded if takes_files else inputs,
        outputs="features, float32 `[N, {features}]`",
        loading="""\
```python
backbone = keras.layers.TFSMLayer(
    PATH, call_endpoint="serve", call_training_endpoint="train", trainable=True
)
```

To freeze it, leave out `call_training_endpoint` and pass `trainable=False`.""",
    )


def _define_flags(values: flags.FlagValues, arguments: list[str]) -> None:
    define_export_flags(values, "Directory to write, which must not exist; required.")
    flags.DEFINE_integer(
        "image_size",
        None,
        "Side in pixels of the views of encoded images. By default that of the run's evaluations "
        f"or of the SavedModel, or {IMAGE_SIZE}.",
        lower_bound=1,
        flag_values=values,
    )


def _export(values: flags.FlagValues) -> None:
    from moco_tf import run_directory
    from moco_tf.backbones import network_file
    from moco_tf.cli import backbone_flags
    from moco_tf.config import evaluation_size

    backbone, origin = backbone_flags.load_for_export(values)
    image_size, is_oriented = values.image_size, False
    if origin.source == "workdir":
        config = run_directory.read_config(origin.path)
        image_size = image_size or evaluation_size(config)
        is_oriented = config.data.orientation
    elif origin.source == "saved_model" and (content := network_file.read(origin.path)):
        image_size = image_size or content.image_size
    image_size = image_size or backbone.input_shape[1] or IMAGE_SIZE
    export_saved_model(backbone, values.out, origin, image_size)
    if is_oriented and _takes_files(backbone):
        print(
            f"note: {SERVE_ENCODED} does not turn images as their EXIF orientation says, but the "
            f"run does (config.data.orientation=True): turn the images before, or use {SERVE}"
        )
    print(f"wrote {values.out}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    from moco_tf.cli import app

    return app.run(
        export_command.command("saved_model", __doc__ or "", _define_flags, _export), argv
    )


if __name__ == "__main__":
    sys.exit(main())
