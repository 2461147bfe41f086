"""Export a backbone as an ONNX file, for inference with ONNX Runtime and others.

    python export/onnx_file.py --workdir=runs/mine --out=backbone.onnx

    session = onnxruntime.InferenceSession("backbone.onnx")
    [features] = session.run(["features"], {"images": images})

The model takes images, float32 `[batch, height, width, channels]` in [0, 255]. Batch, height and
width are dynamic, and normalization is inside.

It needs two more packages, the extra `onnx`: pip install '.[onnx]' in a checkout of moco-tf.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from moco_tf.cli import export as export_command
from moco_tf.errors import UserError
from moco_tf.paths import expand_argument

if TYPE_CHECKING:
    import keras

    from moco_tf.backbones.history import Origin


def export_onnx(
    backbone: keras.Model, path: str | os.PathLike[str], origin: Origin | None = None
) -> None:
    """Write a backbone as an ONNX file, and its model card to `<path>.md`.

    Its input is `images`, float32 `[batch, height, width, C]` in [0, 255], and its output
    `features`, float32 `[batch, D]`, in inference mode.

    Args:
        backbone: A model of `moco_tf.encoders.build` without a head, or of
            `moco_tf.encoders.with_normalization`, such as a result of `moco_tf.load_backbone`.
        path: Path of the file, where nothing exists yet.
        origin: Where the backbone comes from, for the model card; None if that is unknown.

    Raises:
        UserError: If tf2onnx or onnx is not installed, the path exists or cannot be written, or the
            backbone holds NaN or infinity.
    """
    from moco_tf.backbones import saving
    from moco_tf.backbones.finite import require_finite
    from moco_tf.backbones.model_card import Format, model_card

    path = expand_argument(path, "path")
    onnx = _import_onnx()
    saving.require_free(path)
    require_finite(backbone.weights)

    def fill(unfinished: str) -> None:
        _export_with_keras(backbone, unfinished)
        model = onnx.load(unfinished)
        _name_outputs_and_dimensions(model.graph)
        onnx.checker.check_model(model)
        onnx.save(model, unfinished)

    form = Format(
        name="ONNX",
        inputs="`images`, float32 `[batch, height, width, {channels}]` in {values}, any size; "
        "normalization is inside",
        outputs="`features`, float32 `[batch, {features}]`",
        loading="""\
```python
session = onnxruntime.InferenceSession(PATH)
[features] = session.run(["features"], {"images": images})
```""",
    )
    saving.write_file(path, fill, model_card(backbone, form, origin))


def _export_with_keras(backbone: keras.Model, path: str) -> None:
    import logging
    import warnings

    import keras
    import tensorflow as tf

    from moco_tf import encoders
    from moco_tf.encoders import preprocessing

    # `with_normalization` holds its mean in a tensor, which tf2onnx would turn into an input.
    images = keras.Input(backbone.input_shape[1:], name="images")
    normalized = preprocessing.rescaled(images, encoders.pixels_of(backbone))
    model = keras.Model(images, encoders.without_normalization(backbone)(normalized))
    spec = tf.TensorSpec(model.input_shape, tf.float32, name="images")
    # tf2onnx logs its optimizations, and Keras looks up names that NumPy no longer has.
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        model.export(path, format="onnx", verbose=False, input_signature=[spec])


def _name_outputs_and_dimensions(graph: Any) -> None:
    """Rename the output of an ONNX graph and name its dynamic dimensions."""
    [images], [features] = graph.input, graph.output
    for node in graph.node:
        node.output[:] = ["features" if name == features.name else name for name in node.output]
    features.name = "features"
    for value, names in ((images, ("batch", "height", "width")), (features, ("batch",))):
        for size, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            if not size.HasField("dim_value"):  # An encoder can take images of one size only.
                size.dim_param = name


def _import_onnx() -> Any:
    try:
        import onnx
        import tf2onnx  # noqa: F401, because Keras imports it for the export
    except ImportError as error:
        raise UserError(
            "tf2onnx and onnx are not installed: install the extra 'onnx': pip install '.[onnx]' "
            "in a checkout of moco-tf"
        ) from error
    return onnx


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    out_help = "File to write, which must not exist; required."
    return export_command.run("onnx", __doc__ or "", out_help, export_onnx, argv)


if __name__ == "__main__":
    sys.exit(main())
