"""Exports a backbone as a file of Detectron2's, for detection and segmentation as in the paper.

    python export/detectron2.py --workdir=runs/mine --out=backbone.pkl

Detectron2 reads it by `MODEL.WEIGHTS backbone.pkl`, where NumPy is 1.26 or newer. What else its
config has to say is printed; docs/detectron2.md has the paper's experiments.
"""

import pickle
import re

from absl import flags

from moco_tf.cli import app, backbone_flags
from moco_tf.data.normalization import MEAN, STD
from moco_tf.encoders import state_dict

UserError = app.UserError
# Residual blocks of each stage, in the networks that Detectron2 builds.
DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def to_detectron2(backbone):
    """A backbone as Detectron2's checkpointer reads it.

    Args:
        backbone: a `keras.Model` of `moco_tf.encoders.build`, without a head.

    Returns:
        A dict: `model`, of arrays under Detectron2's names; `__author__`; and
        `matching_heuristics`, True: the names are matched by their ends, wherever in a detector
        the backbone stands.

    Raises:
        UserError: a network that Detectron2 does not have.
    """
    settings(backbone)
    arrays = state_dict.read(backbone)
    return {
        "model": {_detectron2_name(key): array for key, array in arrays.items()},
        "__author__": "MoCo",
        "matching_heuristics": True,
    }


def settings(backbone):
    """What Detectron2's config has to say, so that it builds the same network.

    Args:
        backbone: as for `to_detectron2`.

    Returns:
        A dict from keys such as "MODEL.RESNETS.DEPTH" to values.

    Raises:
        UserError: a network that Detectron2 does not have.
    """
    shapes = {entry.key: entry.shape for entry in state_dict.entries(backbone)}
    stem, first = shapes["conv1.weight"], shapes["layer1.0.conv1.weight"]
    blocks = {key.split(".")[0] + key.split(".")[1] for key in shapes if key.startswith("layer")}
    stages = sorted({block[:6] for block in blocks})
    blocks = tuple(sum(block.startswith(stage) for block in blocks) for stage in stages)
    bottleneck = "layer1.0.conv3.weight" in shapes
    depth = [
        depth
        for depth, wanted in DEPTHS.items()
        if wanted == blocks and (depth >= 50) == bottleneck
    ]
    if not depth:
        raise UserError(
            f"Detectron2 has no {backbone.name}: export a ResNet of depth "
            f"{', '.join(map(str, DEPTHS))}, wider ones and ResNeXt included"
        )
    if stem[2:] != (7, 7):
        raise UserError(
            f"Detectron2's networks begin with a convolution of 7x7, and {backbone.name} here with "
            f"one of {stem[2]}x{stem[3]}: only stem=imagenet can be exported"
        )
    if stem[1] != 3:
        raise UserError(
            f"Detectron2 takes images of 3 channels, and {backbone.name} takes {stem[1]}"
        )
    if not bottleneck and first[0] != 64:
        raise UserError(
            f"Detectron2 has no wider {backbone.name}: of depths 18 and 34 it builds those alone "
            "that begin with 64 channels"
        )
    found = {
        "MODEL.RESNETS.DEPTH": depth[0],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": stem[0],
    }
    if bottleneck:
        second = shapes["layer1.0.conv2.weight"]
        groups = second[0] // second[1]
        found |= {
            "MODEL.RESNETS.RES2_OUT_CHANNELS": shapes["layer1.0.conv3.weight"][0],
            "MODEL.RESNETS.NUM_GROUPS": groups,
            "MODEL.RESNETS.WIDTH_PER_GROUP": first[0] // groups,
        }
    else:
        found["MODEL.RESNETS.RES2_OUT_CHANNELS"] = first[0]
    return found | {
        "MODEL.PIXEL_MEAN": [round(255 * value, 3) for value in MEAN],
        "MODEL.PIXEL_STD": [round(255 * value, 3) for value in STD],
        "INPUT.FORMAT": "RGB",
    }


def _detectron2_name(key):
    """The name of layer1.0.bn2.weight is res2.0.conv2.norm.weight, and of bn1.bias
    stem.conv1.norm.bias."""
    if not key.startswith("layer"):
        key = f"stem.{key}"
    key = re.sub(r"^layer(\d)", lambda stage: f"res{int(stage[1]) + 1}", key)
    key = re.sub(r"\bbn(\d)", r"conv\1.norm", key)
    return key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def export_detectron2(backbone, path, origin=None):
    """Writes a backbone as a pickle of Detectron2's, and its model card to `<path>.md`.

    Args:
        backbone: as for `to_detectron2`.
        path: str, where nothing is yet.
        origin: a `moco_tf.model_card.Origin`, or None.

    Raises:
        UserError: a network that Detectron2 does not have; or a path that is taken, or cannot be
            written.
    """
    from moco_tf.backbones import saving
    from moco_tf.backbones.model_card import model_card

    content = to_detectron2(backbone)

    def fill(unfinished):
        with open(unfinished, "wb") as file:
            pickle.dump(content, file, protocol=4)

    saving.write_file(path, fill, model_card(backbone, _format(settings(backbone)), origin))


def _format(settings):
    from moco_tf.backbones.model_card import Format

    lines = "\n".join(f"{key} {value}" for key, value in settings.items())
    return Format(
        name="pickle of Detectron2",
        takes="images in RGB of 0 to 255, which Detectron2 normalises by its PIXEL_MEAN and "
        "PIXEL_STD",
        gives="Detectron2's feature maps `stem`, `res2`, `res3`, ...; the last of {features} "
        "channels",
        loading=f"`MODEL.WEIGHTS PATH`, and in Detectron2's config:\n\n```\n{lines}\n```",
    )


def main(_):
    backbone, origin = backbone_flags.chosen()
    out = flags.FLAGS.out
    export_detectron2(backbone, out, origin)
    print(f"wrote {out}; in Detectron2's config:")
    for key, value in settings(backbone).items():
        print(f"  {key} {value}")


if __name__ == "__main__":
    # Here, so that who imports the conversion does not get its flags.
    backbone_flags.define()
    flags.DEFINE_string("out", None, "The file to write, which must not exist.")
    app.run(main)
