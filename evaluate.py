"""Evaluates frozen features on labelled images.

    python evaluate.py --protocol=knn --workdir=runs/photos
    python evaluate.py --protocol=linear --saved_model=PATH --data=folder:PATH --image_size=224
    python evaluate.py --protocol=knn --random_init --config=configs/photos.py

The result goes to DIR/eval/PROTOCOL.json, DIR being the run, the SavedModel or --output_dir.
"""

import os

from absl import flags
from ml_collections import config_flags

from moco_tf import command_line

PROTOCOL = flags.DEFINE_enum("protocol", None, ["knn", "linear"], "What to evaluate by.")
WORKDIR = flags.DEFINE_string("workdir", None, "A run, whose newest checkpoint is evaluated.")
SAVED_MODEL = flags.DEFINE_string("saved_model", None, "A SavedModel of export/saved_model.py.")
RANDOM_INIT = flags.DEFINE_bool("random_init", False, "The encoder of --config, untrained.")
CONFIG = config_flags.DEFINE_config_file("config", help_string="The config of --random_init.")
DATA = flags.DEFINE_string("data", None, "A labelled data source; by default the run's own.")
IMAGE_FEATURE = flags.DEFINE_string("image_feature", None, "tfrecord: what holds an image's bytes.")
LABEL_FEATURE = flags.DEFINE_string("label_feature", None, "tfrecord: what holds its label.")
TFDS_DIR = flags.DEFINE_string("tfds_dir", None, "tfds: where its data sets lie.")
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Side of the views in pixels; by default the run's own.", lower_bound=1
)
OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Where eval/PROTOCOL.json goes.")
K = flags.DEFINE_integer("k", 200, "knn: neighbours, at most the bank.", lower_bound=1)
TEMPERATURE = flags.DEFINE_float("temperature", 0.07, "knn: of the votes.", lower_bound=1e-3)
L2 = flags.DEFINE_float("l2", 1e-3, "linear: penalty on the squared weights.", lower_bound=1e-9)
ITERATIONS = flags.DEFINE_integer("iterations", 200, "linear: of L-BFGS.", lower_bound=1)

command_line.define_strategy_flags()


def main(_):
    from moco_tf import distribution

    command_line.require("protocol")
    with distribution.scope(command_line.make_strategy()):
        _evaluate()


def _evaluate():
    from moco_tf import distribution
    from moco_tf.data import sources
    from moco_tf.evaluation import protocols
    from moco_tf.pictures import draw_neighbours

    if SAVED_MODEL.value and not (DATA.value and IMAGE_SIZE.value):
        raise command_line.UserError("--saved_model needs --data and --image_size as well")
    config = _config()
    data = DATA.value or config.data.source
    image_size = IMAGE_SIZE.value or config.image_size
    if PROTOCOL.value == "knn":
        settings = {"k": K.value, "temperature": TEMPERATURE.value}
    else:
        settings = {"l2": L2.value, "iterations": ITERATIONS.value}

    options = sources.options(config.data) if config else {}
    given = (IMAGE_FEATURE, LABEL_FEATURE, TFDS_DIR)
    options |= {flag.name: flag.value for flag in given if flag.value is not None}
    source = sources.load(data, **options)
    backbone, name, directory, channels = _backbone(config, source)
    if channels != source.channels:
        raise command_line.UserError(
            f"the images of '{data}' have {source.channels} channels, and {name} takes {channels}: "
            f"give --data, images of {channels}"
        )
    train, test = protocols.extract_both(backbone, source, image_size)
    if not distribution.is_chief():
        return
    result = protocols.evaluate(
        PROTOCOL.value, train, test, len(source.class_names), **settings
    ) | {"backbone": name, "data": data, "image_size": image_size}
    directory = OUTPUT_DIR.value or directory
    wrote = protocols.write_result(directory, result)
    if PROTOCOL.value == "knn":
        picture = os.path.join(directory, "neighbours.png")
        wrote += f" and {draw_neighbours(picture, source, image_size, train, test)}"
    print(
        f"{PROTOCOL.value} of {name} on {data}: top-1 {result['top1']:.4f}, "
        f"top-5 {result['top5']:.4f} ({result['num_train']} training and {result['num_test']} "
        f"test images); wrote {wrote}"
    )


def _config():
    """The config of the backbone to evaluate; None where it is a SavedModel, which has none."""
    from moco_tf import run_directory
    from moco_tf.config import check

    given = [bool(WORKDIR.value), bool(SAVED_MODEL.value), RANDOM_INIT.value]
    if sum(given) != 1:
        raise command_line.UserError("give one of --workdir, --saved_model and --random_init")
    if WORKDIR.value:
        return run_directory.read_config(WORKDIR.value)
    if SAVED_MODEL.value:
        return None
    command_line.require("config")
    check(CONFIG.value)
    return CONFIG.value


def _backbone(config, source):
    """The backbone to evaluate, its name, the directory of its results, the channels it takes."""
    import keras

    from moco_tf import encoders, load_backbone

    if SAVED_MODEL.value:
        backbone, channels = _load_saved_model(SAVED_MODEL.value)
        return backbone, SAVED_MODEL.value, SAVED_MODEL.value, channels
    if WORKDIR.value:
        backbone, name, directory = load_backbone(WORKDIR.value), WORKDIR.value, WORKDIR.value
    else:
        keras.utils.set_random_seed(config.seed)
        backbone = encoders.build(config.encoder, stem=config.stem, channels=source.channels)
        backbone = encoders.with_normalization(backbone)
        name, directory = f"random {config.encoder}", "."
    return backbone, name, directory, backbone.input_shape[-1]


def _load_saved_model(path):
    """A SavedModel as a layer, and the channels it takes."""
    import keras

    try:
        layer = keras.layers.TFSMLayer(path, call_endpoint="serve", trainable=False)
        [images] = layer.call_endpoint_fn.input_signature
        return layer, images.shape[-1]
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise command_line.UserError(
            f"--saved_model={path} is not a SavedModel of export/saved_model.py: {error}"
        ) from error


if __name__ == "__main__":
    command_line.run(main)
