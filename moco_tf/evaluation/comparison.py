"""Fine-tuning from several initialisations, the head alone and all layers, by one schedule.

The comparison of the single-GPU report: whether pre-training helps, and whether it gave good
features or a good place to start from.
"""

import hashlib
import json
import os

import tensorflow as tf

from moco_tf.distribution import is_chief
from moco_tf.errors import UserError
from moco_tf.evaluation import finetune, protocols

PROTOCOL = "finetune_comparison"


def compare(backbones, source, image_size, directory, about, **settings):
    """Fine-tunes each of several backbones, its head alone and all of its layers.

    Each curve is written as soon as it is finished, to `directory/eval/finetune_comparison.json`.
    One that is there already, from the same weights, images and settings, is not made again.

    Args:
        backbones: `{name: backbone}`, each as for `finetune.fit`.
        source, image_size: of `finetune.fit`.
        directory: str, such as the run.
        about: a dict, what else the file says.
        **settings: keyword arguments of `finetune.fit` but `layers` and `progress`.

    Returns:
        What the file holds: `protocol`; `about`; and `curves`, what `protocols.evaluate_finetune`
        returns for each, with `initialisation`, the backbone's name, and `weights`, a checksum of
        what it began with.

    Raises:
        UserError: what `protocols.evaluate_finetune` raises, or the file cannot be written.
    """
    known = read(directory, PROTOCOL, "curves")
    result = {"protocol": PROTOCOL, **about, "curves": []}
    for name, backbone in backbones.items():
        what = {
            "initialisation": name,
            "weights": checksum(backbone),
            "data": source.name,
            "data_images": source.size,
            "image_size": image_size,
        }
        for layers in finetune.LAYERS:
            own = protocols.finetune_settings(layers=layers, **settings)
            wanted = json.loads(json.dumps({**what, **own}))  # tuples as the lists of a file
            curve = next((curve for curve in known if wanted.items() <= curve.items()), None)
            if curve is None:
                words = f"{name}, {protocols.LAYERS[layers]}"
                curve = protocols.evaluate_finetune(backbone, source, image_size, words, **own)
                curve = {**what, **curve}
            result["curves"].append(curve)
            if is_chief():
                protocols.write_result(directory, result)
    return result


def read(directory, protocol, key):
    """What a comparison that was stopped has finished.

    Args:
        directory: str, such as the run.
        protocol: str, the name that the comparison goes by.
        key: str, under which its file has a list.

    Returns:
        The list; an empty one where there is no file.

    Raises:
        UserError: the file is another's.
    """
    path = os.path.join(directory, "eval", f"{protocol}.json")
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path) as file:
        text = file.read()
    try:
        return json.loads(text)[key]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not what --compare wrote: delete it to begin again") from error


def checksum(backbone):
    """Of all weights in any order: a run and its SavedModel have the same."""
    digests = [hashlib.sha256(weight.tobytes()).digest() for weight in backbone.get_weights()]
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()
