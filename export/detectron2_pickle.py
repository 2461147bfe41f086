"""Export a backbone as a Detectron2 checkpoint, for detection and segmentation as in the paper.

    python export/detectron2_pickle.py --workdir=runs/mine --out=backbone.pkl

Detectron2 loads it with `MODEL.WEIGHTS backbone.pkl`, if NumPy is 1.26 or newer. The command prints
the other settings of Detectron2's config that the network needs. docs/detectron2.md has the paper's
experiments.
"""

from __future__ import annotations

import os
import pickle
import re
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

    from moco_tf.backbones.history import Origin
    from moco_tf.backbones.model_card import Format

# Number of residual blocks in each stage of the networks that Detectron2 builds.
DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def to_detectron2(backbone: keras.Model) -> dict[str, Any]:
    """Convert a backbone to the dict that Detectron2's checkpointer reads.

    Args:
        backbone: A model of `moco_tf.encoders.build` without a head, or of
            `moco_tf.encoders.with_normalization`, such as a result of `moco_tf.load_backbone`.

    Returns:
        A dict with `model`, arrays under Detectron2's names; `__author__`; and
        `matching_heuristics`, which is True: Detectron2 matches names by their ends, so that it
        finds the backbone anywhere in a detector.

    Raises:
        UserError: If Detectron2 has no such network.

    Example:
        >>> from moco_tf.export.detectron2_pickle import to_detectron2
        >>> content = to_detectron2(moco_tf.encoders.build("resnet18"))
        >>> content["model"]["stem.conv1.weight"].shape
        (64, 3, 7, 7)
    """
    from moco_tf import encoders
    from moco_tf.encoders import state_dict

    detectron2_settings(backbone)  # Raises an error if there is no such network.
    arrays = state_dict.read(encoders.without_normalization(backbone))
    return {
        "model": {_detectron2_name(key): array for key, array in arrays.items()},
        "__author__": "MoCo",
        "matching_heuristics": True,
    }


def detectron2_settings(backbone: keras.Model) -> dict[str, Any]:
    """Return the settings that make Detectron2 build the same network.

    Args:
        backbone: As for `to_detectron2`.

    Returns:
        Values by keys such as "MODEL.RESNETS.DEPTH".

    Raises:
        UserError: If Detectron2 has no such network.

    Example:
        >>> from moco_tf.export.detectron2_pickle import detectron2_settings
        >>> detectron2_settings(moco_tf.encoders.build("resnet18"))["MODEL.RESNETS.DEPTH"]
        18
    """
    from moco_tf import encoders
    from moco_tf.data.pixels import range_text
    from moco_tf.encoders import state_dict

    pixels = encoders.pixels_of(backbone)
    backbone = encoders.without_normalization(backbone)
    shapes = {entry.key: entry.shape for entry in state_dict.entries(backbone)}
    stem, first = shapes["conv1.weight"], shapes["layer1.0.conv1.weight"]
    blocks = {key.split(".")[0] + key.split(".")[1] for key in shapes if key.startswith("layer")}
    stages = sorted({block[:6] for block in blocks})
    blocks_per_stage = tuple(sum(block.startswith(stage) for block in blocks) for stage in stages)
    is_bottleneck = "layer1.0.conv3.weight" in shapes
    matching_depths = [
        depth
        for depth, expected in DEPTHS.items()
        if expected == blocks_per_stage and (depth >= 50) == is_bottleneck
    ]
    if not matching_depths:
        raise UserError(
            f"Detectron2 has no {backbone.name}: export a ResNet of depth "
            f"{', '.join(map(str, DEPTHS))}; wider networks and ResNeXt are supported"
        )
    if stem[2:] != (7, 7):
        raise UserError(
            f"Detectron2's networks start with a 7x7 convolution, but {backbone.name} starts with "
            f"a {stem[2]}x{stem[3]} convolution: export an encoder with stem=imagenet"
        )
    if stem[1] != 3:
        raise UserError(
            f"Detectron2 takes images with 3 channels, but {backbone.name} takes {stem[1]}: export "
            "an encoder for RGB images"
        )
    if not is_bottleneck and first[0] != 64:
        raise UserError(
            f"Detectron2 has no wider {backbone.name}: its networks of depth 18 and 34 start with "
            "64 channels; export one of these, or a wider network of another depth"
        )
    if not pixels.are_bytes:
        raise UserError(
            f"Detectron2 reads images with 8 bits per channel, but {backbone.name} takes "
            f"{pixels.dtype} values in {range_text(pixels)}: use another format, such as onnx"
        )
    settings = {
        "MODEL.RESNETS.DEPTH": matching_depths[0],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": stem[0],
    }
    if is_bottleneck:
        second = shapes["layer1.0.conv2.weight"]
        groups = second[0] // second[1]
        settings |= {
            "MODEL.RESNETS.RES2_OUT_CHANNELS": shapes["layer1.0.conv3.weight"][0],
            "MODEL.RESNETS.NUM_GROUPS": groups,
            "MODEL.RESNETS.WIDTH_PER_GROUP": first[0] // groups,
        }
    else:
        settings["MODEL.RESNETS.RES2_OUT_CHANNELS"] = first[0]
    return settings | {
        "MODEL.PIXEL_MEAN": [round(255 * value, 3) for value in pixels.mean],
        "MODEL.PIXEL_STD": [round(255 * value, 3) for value in pixels.std],
        "INPUT.FORMAT": "RGB",
    }


def export_detectron2(
    backbone: keras.Model, path: str | os.PathLike[str], origin: Origin | None = None
) -> None:
    """Write a backbone as a pickle for Detectron2, and its model card to `<path>.md`.

    Args:
        backbone: As for `to_detectron2`.
        path: Path of the file, where nothing exists yet.
        origin: Where the backbone comes from, for the model card; None if that is unknown.

    Raises:
        UserError: If Detectron2 has no such network, the path exists or cannot be written, or the
            backbone holds NaN or infinity.
    """
    from moco_tf.backbones import saving
    from moco_tf.backbones.finite import require_finite
    from moco_tf.backbones.model_card import model_card

    path = expand_argument(path, "path")
    require_finite(backbone.weights)
    content = to_detectron2(backbone)

    def fill(unfinished: str) -> None:
        with open(unfinished, "wb") as file:
            pickle.dump(content, file, protocol=4)

    card = model_card(backbone, _format(detectron2_settings(backbone)), origin)
    saving.write_file(path, fill, card)


def _detectron2_name(key: str) -> str:
    """Return Detectron2's name of an entry of the state dict.

    For example, the name of layer1.0.bn2.weight is res2.0.conv2.norm.weight, and that of bn1.bias
    is stem.conv1.norm.bias.
    """
    if not key.startswith("layer"):
        key = f"stem.{key}"
    key = re.sub(r"^layer(\d)", lambda stage: f"res{int(stage[1]) + 1}", key)
    key = re.sub(r"\bbn(\d)", r"conv\1.norm", key)
    return key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def _format(settings: dict[str, Any]) -> Format:
    from moco_tf.backbones.model_card import Format

    lines = "\n".join(f"{key} {value}" for key, value in settings.items())
    return Format(
        name="Detectron2 pickle",
        inputs="RGB images in [0, 255], which Detectron2 normalizes by its PIXEL_MEAN and "
        "PIXEL_STD",
        outputs="Detectron2's feature maps `stem`, `res2`, `res3`, ...; the last has {features} "
        "channels",
        loading=f"`MODEL.WEIGHTS PATH`, and in Detectron2's config:\n\n```\n{lines}\n```",
    )


def _define_flags(values: flags.FlagValues, arguments: list[str]) -> None:
    define_export_flags(values, "File to write, which must not exist; required.")


def _export(values: flags.FlagValues) -> None:
    from moco_tf.cli import backbone_flags

    backbone, origin = backbone_flags.load_for_export(values)
    export_detectron2(backbone, values.out, origin)
    print(f"wrote {values.out}; set in Detectron2's config:")
    for key, value in detectron2_settings(backbone).items():
        print(f"  {key} {value}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    from moco_tf.cli import app

    command = export_command.command("detectron2", __doc__ or "", _define_flags, _export)
    return app.run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
