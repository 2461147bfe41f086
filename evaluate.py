"""Evaluates frozen features on labelled images.

    python evaluate.py --protocol=knn --workdir=runs/photos
    python evaluate.py --protocol=linear --saved_model=PATH --data=folder:PATH --image_size=224
    python evaluate.py --protocol=few-shot --random_init --config=configs/photos.py

    knn                  weighted nearest neighbours, of the backbone's features or of the head's
    linear               the paper's: one layer, trained by SGD on random crops
    linear --cached      the same layer as a logistic regression, in a fraction of the time
    few-shot             such a regression with a few labels a class

The result goes to DIR/eval/PROTOCOL.json, DIR being the run, the SavedModel or --output_dir;
that of --cached to linear_cached.json, and that of --features=head to knn_head.json.
"""

import os
import time

from absl import flags
from ml_collections import config_flags

from moco_tf import command_line

PROTOCOL = flags.DEFINE_enum(
    "protocol", None, ["knn", "linear", "few-shot"], "What to evaluate by."
)
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
SEED = flags.DEFINE_integer("seed", 0, "linear, few-shot: of all that is drawn.", lower_bound=0)

FEATURES = flags.DEFINE_enum(
    "features", "backbone", ["backbone", "head"], "knn: the output of which; head with --workdir."
)
flags.DEFINE_integer("k", 200, "knn: neighbours, at most the bank.", lower_bound=1)
flags.DEFINE_float("temperature", 0.07, "knn: of the votes.", lower_bound=1e-3)

CACHED = flags.DEFINE_bool("cached", False, "linear: features once, then logistic regression.")
flags.DEFINE_float("l2", 1e-3, "--cached, few-shot: penalty on squared weights.", lower_bound=1e-9)
flags.DEFINE_integer("iterations", 200, "--cached, few-shot: of L-BFGS.", lower_bound=1)

flags.DEFINE_float("learning_rate", 30.0, "linear: the first epoch's.", lower_bound=1e-9)
flags.DEFINE_integer("batch_size", 256, "linear: over all devices.", lower_bound=1)
flags.DEFINE_integer("epochs", 100, "linear: how many.", lower_bound=1)
flags.DEFINE_list("milestones", ["60", "80"], "linear: epochs at which the rate falls by ten.")
flags.DEFINE_float("sgd_momentum", 0.9, "linear: of SGD.", lower_bound=0, upper_bound=1)
flags.DEFINE_float("weight_decay", 0.0, "linear: of weights and bias.", lower_bound=0)
flags.DEFINE_list("crop_scale", ["0.08", "1"], "linear: smallest and largest share in a crop.")

flags.DEFINE_list("shots", ["1", "5", "10"], "few-shot: labelled images of each class.")
flags.DEFINE_integer("draws", 10, "few-shot: random choices of these images.", lower_bound=2)

# What each protocol reads, by the name that its result goes by.
SETTINGS = {
    "knn": ("k", "temperature"),
    "knn_head": ("k", "temperature"),
    "linear": (
        "learning_rate",
        "batch_size",
        "epochs",
        "milestones",
        "sgd_momentum",
        "weight_decay",
        "crop_scale",
        "seed",
    ),
    "linear_cached": ("l2", "iterations"),
    "few-shot": ("shots", "draws", "seed", "l2", "iterations"),
}
LISTS = {
    "milestones": (int, "epochs, separated by commas, or none by --milestones="),
    "crop_scale": (float, "two shares of an image, the smallest and the largest"),
    "shots": (int, "whole numbers of 1 or more, separated by commas"),
}

command_line.define_strategy_flags()


def main(_):
    from moco_tf import distribution

    command_line.require("protocol")
    with distribution.scope(command_line.make_strategy()):
        _evaluate()


def _evaluate():
    from moco_tf import distribution
    from moco_tf.data import sources
    from moco_tf.evaluation import few_shot, protocols

    if SAVED_MODEL.value and not (DATA.value and IMAGE_SIZE.value):
        raise command_line.UserError("--saved_model needs --data and --image_size as well")
    protocol = _protocol()
    settings = _settings(protocol)
    config = _config()
    data = DATA.value or config.data.source
    image_size = IMAGE_SIZE.value or config.image_size

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
    protocols.require_two_labelled_parts(source)
    if protocol == "few-shot":
        labels = source.labels[source.train]
        few_shot.require_enough(labels, source.class_names, settings["shots"])

    if protocol == "linear":
        result = protocols.evaluate_linear(backbone, source, image_size, **settings)
    else:
        start = time.perf_counter()
        features = protocols.extract_both(backbone, source, image_size)
        seconds = round(time.perf_counter() - start, 3)
    if not distribution.is_chief():
        return
    if protocol != "linear":
        result = protocols.evaluate(protocol, *features, len(source.class_names), **settings)
        result["feature_seconds"] = seconds
    result |= {"backbone": name, "data": data, "image_size": image_size}
    directory = OUTPUT_DIR.value or directory
    wrote = protocols.write_result(directory, result)
    if PROTOCOL.value == "knn":
        wrote += f" and {_draw(directory, source, image_size, *features)}"
    print(
        f"{protocol} of {name} on {data}: {_accuracy(result)} ({result['num_train']} training and "
        f"{result['num_test']} test images); wrote {wrote}"
    )


def _protocol():
    """The name that the result goes by."""
    if CACHED.value and PROTOCOL.value != "linear":
        raise command_line.UserError(
            f"--cached is for --protocol=linear, and it is --protocol={PROTOCOL.value}"
        )
    if flags.FLAGS["features"].present and PROTOCOL.value != "knn":
        raise command_line.UserError(
            f"--features is for --protocol=knn, and it is --protocol={PROTOCOL.value}"
        )
    if FEATURES.value == "head":
        if not WORKDIR.value:
            raise command_line.UserError("--features=head needs --workdir: only a run has its head")
        return "knn_head"
    return "linear_cached" if CACHED.value else PROTOCOL.value


def _settings(protocol):
    """The flags that the protocol reads; none of another's may be given."""
    values = flags.FLAGS
    read = SETTINGS[protocol]
    for name in sorted({name for names in SETTINGS.values() for name in names} - set(read)):
        if values[name].present:
            cached = " --cached" if CACHED.value else ""
            raise command_line.UserError(
                f"--{name} means nothing to --protocol={PROTOCOL.value}{cached}: leave it out; "
                f"what that reads is {', '.join(f'--{setting}' for setting in read)}"
            )
    settings = {name: values[name].value for name in read}
    for name, (kind, words) in LISTS.items():
        if name in settings:
            settings[name] = _numbers(name, kind, words)
    return settings


def _numbers(name, kind, words):
    given = flags.FLAGS[name].value
    try:
        numbers = tuple(kind(number) for number in given)
        if name == "shots" and (not numbers or min(numbers) < 1):
            raise ValueError
        if name == "crop_scale" and len(numbers) != 2:
            raise ValueError
    except ValueError:
        raise command_line.UserError(f"--{name}={','.join(given)}: give {words}") from None
    return numbers


def _accuracy(result):
    if result["protocol"] != "few-shot":
        return f"top-1 {result['top1']:.4f}, top-5 {result['top5']:.4f}"
    return "top-1 " + ", ".join(
        f"{row['top1']:.4f} ± {row['top1_std']:.4f} with {row['shots']} of each class"
        for row in result["few_shot"]
    )


def _draw(directory, source, image_size, train, test):
    from moco_tf.pictures import draw_neighbours

    head = "_head" if FEATURES.value == "head" else ""
    picture = os.path.join(directory, f"neighbours{head}.png")
    return draw_neighbours(picture, source, image_size, train, test)


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

    from moco_tf import encoders, loading

    if SAVED_MODEL.value:
        backbone, channels = _load_saved_model(SAVED_MODEL.value)
        return backbone, SAVED_MODEL.value, SAVED_MODEL.value, channels
    if WORKDIR.value:
        load = loading.load_encoder if FEATURES.value == "head" else loading.load_backbone
        backbone, name, directory = load(WORKDIR.value), WORKDIR.value, WORKDIR.value
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
