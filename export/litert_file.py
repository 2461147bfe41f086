"""Export a backbone as a LiteRT (TensorFlow Lite) file, for phones and other small devices.

    python export/litert_file.py --workdir=runs/mine --out=backbone.tflite
    python export/litert_file.py --workdir=runs/mine --out=backbone.tflite --precision=int8

    interpreter = ai_edge_litert.interpreter.Interpreter("backbone.tflite")

The model takes one image, float32 `[1, size, size, channels]` in [0, 255], with normalization
inside, and returns its features, float32 `[1, D]`. With --precision=float16 the weights are stored
in half of the bytes. With --precision=int8 weights and activations are 8-bit integers, whose ranges
are measured on images of --data; the image and the features stay float32.

The features of the file are compared with those of the backbone on up to 200 images of --data.

It needs one more package, the extra `litert`: pip install '.[litert]' in a checkout of moco-tf.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from moco_tf.cli import export as export_command
from moco_tf.cli.flag_groups import define_export_flags
from moco_tf.errors import UserError
from moco_tf.paths import expand_argument

if TYPE_CHECKING:
    import keras
    import numpy as np

    from moco_tf.backbones.history import Origin
    from moco_tf.data.sources.indices import Indices
    from moco_tf.data.sources.source import Source
    from moco_tf.evaluation.agreement import Agreement

PRECISIONS = ("float32", "float16", "int8")
# Maximum number of images that the file is compared on.
MAX_CHECKED = 200
BATCH_SIZE = 8
# If fewer images keep their nearest neighbor, one search in ten has another first result.
LEAST_SAME_NEIGHBORS = 0.9


def export_litert(
    backbone: keras.Model,
    path: str | os.PathLike[str],
    source: Source,
    image_size: int,
    precision: str = "float32",
    calibration_images: int = 200,
    origin: Origin | None = None,
) -> Agreement:
    """Write a backbone as a LiteRT file, and its model card to `<path>.md`.

    Args:
        backbone: A model of `moco_tf.encoders.build` without a head, or of
            `moco_tf.encoders.with_normalization`, such as a result of `moco_tf.load_backbone`.
        path: Path of the file, where nothing exists yet.
        source: Images to compare the file on, the test images if there are any. With int8, a
            sample of its images for pre-training determines the ranges of the activations.
        image_size: Side of the image in pixels.
        precision: `"float32"`, `"float16"` or `"int8"`.
        calibration_images: Number of images that determine these ranges.
        origin: Where the backbone comes from, for the model card; None if that is unknown.

    Returns:
        How its features agree with those of the backbone.

    Raises:
        UserError: If ai-edge-litert is not installed, the path exists or cannot be written, the
            images do not fit the backbone, fewer than two can be read, the backbone holds NaN or
            infinity, or an operation of it cannot be converted.
    """
    from moco_tf import encoders
    from moco_tf.backbones import saving
    from moco_tf.backbones.finite import require_finite
    from moco_tf.backbones.model_card import model_card
    from moco_tf.cli.start import held_back_output
    from moco_tf.data.pixels import range_text

    path = expand_argument(path, "path")
    interpreter_class = _import_interpreter()
    saving.require_free(path)
    require_finite(backbone.weights)
    if source.channels != backbone.input_shape[-1]:
        raise UserError(
            f"the images of '{source.name}' have {source.channels} channels, but the backbone "
            f"takes {backbone.input_shape[-1]}: choose images with {backbone.input_shape[-1]} "
            "channels by --data"
        )
    encoders.foreign.require_image_size(backbone, image_size, "the backbone", "image_size")
    if source.value_range != encoders.pixels_of(backbone).value_range:
        raise UserError(
            f"the pixel values of '{source.name}' are in {range_text(source)}, but the backbone "
            f"takes {range_text(encoders.pixels_of(backbone))}: choose other images by --data"
        )
    test = source.test if len(source.test) else source.pretrain
    checked, indices = _views(source, test, MAX_CHECKED, image_size)
    labels = None if source.labels is None else source.labels[indices]
    if labels is not None and (labels < 0).any():  # The images of pre-training may lack some.
        labels = None
    calibration = None
    if precision == "int8":
        calibration, _ = _views(source, source.pretrain, calibration_images, image_size)
    with held_back_output():
        content = _convert(backbone, image_size, precision, calibration)
        interpreter = interpreter_class(model_content=content)
        agreement = _compare(encoders.with_normalization(backbone), interpreter, checked, labels)

    def fill(unfinished: str) -> None:
        with open(unfinished, "wb") as file:
            file.write(content)

    form = _format(precision, image_size, source, agreement)
    saving.write_file(path, fill, model_card(backbone, form, origin))
    return agreement


def _views(
    source: Source, indices: Indices, count: int, image_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return central views of a sample of up to `count` images, and the images' indices.

    The views are float32 `[n, S, S, C]`.
    """
    import numpy as np

    from moco_tf.data.evaluation_views import central_views
    from moco_tf.data.sources.source import sample

    parts, found_parts = [], []
    chosen = sample(indices, count)
    for found, images in central_views(source, chosen, image_size, BATCH_SIZE):
        is_found = found.numpy() >= 0
        parts.append(images.numpy()[is_found])
        found_parts.append(found.numpy()[is_found])
    views = np.concatenate(parts) if parts else np.zeros([0])
    if len(views) < 2:
        raise UserError(
            f"data source '{source.name}': fewer than two images can be read, on which the file is "
            "compared with the backbone: name other images by --data"
        )
    return views.astype(np.float32), np.concatenate(found_parts)


def _convert(
    backbone: keras.Model, image_size: int, precision: str, calibration: np.ndarray | None
) -> bytes:
    """Return the content of the file."""
    import tempfile

    import keras
    import tensorflow as tf

    from moco_tf import encoders
    from moco_tf.encoders import preprocessing

    channels = backbone.input_shape[-1]
    images = keras.Input([image_size, image_size, channels], name="images")
    normalized = preprocessing.rescaled(images, encoders.pixels_of(backbone))
    model = keras.Model(images, encoders.without_normalization(backbone)(normalized))
    spec = tf.TensorSpec([1, image_size, image_size, channels], tf.float32, name="images")
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False, input_signature=[spec])
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if calibration is not None:
            converter.representative_dataset = lambda: ([image[None]] for image in calibration)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        try:
            return converter.convert()
        except Exception as error:  # The converter has exceptions of its own, which are not public.
            raise UserError(
                f"the backbone cannot be converted to LiteRT in {precision}: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error


def _compare(
    backbone: Any, interpreter: Any, images: np.ndarray, labels: np.ndarray | None
) -> Agreement:
    """Compare the features of a file with those of its backbone."""
    import numpy as np

    from moco_tf.evaluation.agreement import compare

    interpreter.allocate_tensors()
    [taken], [returned] = interpreter.get_input_details(), interpreter.get_output_details()
    actual = []
    for image in images:
        interpreter.set_tensor(taken["index"], image[np.newaxis])
        interpreter.invoke()
        actual.append(interpreter.get_tensor(returned["index"])[0])
    parts = np.array_split(images, -(-len(images) // BATCH_SIZE))
    expected = np.concatenate([np.asarray(backbone(part, training=False)) for part in parts])
    return compare(expected, np.stack(actual), labels)


def _format(precision: str, image_size: int, source: Source, agreement: Agreement) -> Any:
    from moco_tf.backbones.model_card import Format
    from moco_tf.markdown import code

    name = code(source.name).replace("{", "{{").replace("}", "}}")  # Not a number of the card.
    inputs = f"`images`, float32 `[1, {image_size}, {image_size}, {{channels}}]` in {{values}}; "
    return Format(
        name=f"LiteRT, {precision}",
        inputs=f"{inputs}normalization is inside",
        outputs=f"features, float32 `[1, {{features}}]`. On {name}: {agreement}",
        loading="""\
```python
interpreter = ai_edge_litert.interpreter.Interpreter(PATH)
interpreter.allocate_tensors()
[images], [features] = interpreter.get_input_details(), interpreter.get_output_details()
interpreter.set_tensor(images["index"], image)
interpreter.invoke()
interpreter.get_tensor(features["index"])
```""",
    )


def _import_interpreter() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise UserError(
            "ai-edge-litert is not installed: install the extra 'litert': pip install '.[litert]' "
            "in a checkout of moco-tf"
        ) from error
    return Interpreter


def _define_flags(values: flags.FlagValues, arguments: list[str]) -> None:
    define_export_flags(values, "File to write, which must not exist; required.")
    flags.DEFINE_enum(
        "precision",
        "float32",
        PRECISIONS,
        "Precision of the stored weights, and with int8 also of the computation.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "data",
        None,
        "Images to compare the file on, and to measure ranges on with int8, such as folder:PATH. "
        "By default those of the run.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "image_size",
        None,
        "Side of the image in pixels. By default that of the run's evaluations.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "calibration_images",
        200,
        "Number of images that ranges are measured on (int8 only).",
        lower_bound=1,
        flag_values=values,
    )


def _export(values: flags.FlagValues) -> None:
    from moco_tf import encoders, run_directory
    from moco_tf.cli import backbone_flags
    from moco_tf.config import evaluation_size
    from moco_tf.data import sources

    if values["calibration_images"].present and values.precision != "int8":
        raise UserError(f"--calibration_images has no effect with --precision={values.precision}")
    kind = backbone_flags.require_one(values)
    if kind != "workdir" and not (values.data and values.image_size):
        raise UserError(f"--{kind} requires --data and --image_size as well")
    backbone, origin = backbone_flags.load_for_export(values)
    if kind == "workdir":
        config = run_directory.read_config(origin.path)
        name = values.data or config.data.source
        source = sources.load(name, **sources.options(config, name))
        image_size = values.image_size or evaluation_size(config)
    else:
        options = backbone_flags.pixel_options(
            values.data, encoders.pixels_of(backbone), backbone.input_shape[-1]
        )
        source, image_size = sources.load(values.data, **options), values.image_size
    agreement = export_litert(
        backbone,
        values.out,
        source,
        image_size,
        values.precision,
        values.calibration_images,
        origin,
    )
    if agreement.same_neighbors < LEAST_SAME_NEIGHBORS:
        share = 100 * (1 - agreement.same_neighbors)
        print(
            f"warning: with the backbone, {share:.1f} % of the images have another nearest neighbor"
        )
    print(f"{agreement}; wrote {values.out}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    from moco_tf.cli import app

    return app.run(export_command.command("litert", __doc__ or "", _define_flags, _export), argv)


if __name__ == "__main__":
    sys.exit(main())
