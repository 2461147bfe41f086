"""Evaluates a backbone on labelled images: its frozen features, or what fine-tuning makes of it.

    python evaluate.py --protocol=knn --workdir=runs/photos
    python evaluate.py --protocol=linear --saved_model=PATH --data=folder:PATH --image_size=224
    python evaluate.py --protocol=few-shot --random_init --config=configs/photos.py
    python evaluate.py --protocol=finetune --checkpoint=moco_v2_200ep_pretrain.pth.tar \\
        --encoder=resnet50 --data=folder:PATH --image_size=224
    python evaluate.py --protocol=detection --compare --workdir=runs/mine --data=coco:PATH

    knn                  weighted nearest neighbours, of the backbone's features or of the head's
    linear               the paper's: one layer, trained by SGD on random crops
    linear --cached      the same layer as a logistic regression, in a fraction of the time
    few-shot             such a regression with a few labels a class
    finetune             a new layer and a copy of the backbone, trained by SGD on random crops
    finetune --compare   that, with the new layer alone and with all, from this backbone, from a
                         random one and, with --workdir and --checkpoint, from an imported one
    detection            KerasHub's RetinaNet on the backbone, all layers trained; COCO's AP
    segmentation         KerasHub's DeepLabV3+ on it, all layers trained; mean IoU
    ... --compare        one of the two from the initialisations that finetune --compare has
    report               a page on a run: curves, comparisons, a map of the features, warnings

The result goes to DIR/eval/PROTOCOL.json, DIR being the run, the SavedModel or --output_dir; that
of --cached to linear_cached.json, that of --features=head to knn_head.json, and that of --compare
to PROTOCOL_comparison.json. The report itself is DIR/report.html.
"""

import os
import time

from absl import flags

from moco_tf import backbone_flags, command_line

UserError = command_line.UserError

TRANSFER = ("detection", "segmentation")
PROTOCOL = flags.DEFINE_enum(
    "protocol",
    None,
    ["knn", "linear", "few-shot", "finetune", *TRANSFER, "report"],
    "What to evaluate by.",
)
WORKDIR, SAVED_MODEL, CHECKPOINT, ENCODER, STEM = backbone_flags.define()
RANDOM_INIT = flags.DEFINE_bool("random_init", False, "The encoder of --config, untrained.")
CONFIG = command_line.define_config_flag("The config of --random_init.")
DATA = flags.DEFINE_string("data", None, "A labelled data source; by default the run's own.")
IMAGE_FEATURE = flags.DEFINE_string("image_feature", None, "tfrecord: what holds an image's bytes.")
LABEL_FEATURE = flags.DEFINE_string("label_feature", None, "tfrecord: what holds its label.")
TFDS_DIR = flags.DEFINE_string("tfds_dir", None, "tfds: where its data sets lie.")
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size",
    None,
    "Side of the views in pixels, by default the run's own; of detection and segmentation, 512.",
    lower_bound=1,
)
OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Where eval/PROTOCOL.json goes.")
flags.DEFINE_integer("seed", 0, "All but knn and --cached: of what is drawn.", lower_bound=0)

FEATURES = flags.DEFINE_enum(
    "features", "backbone", ["backbone", "head"], "knn: the output of which; head with --workdir."
)
flags.DEFINE_integer("k", 200, "knn: neighbours, at most the bank.", lower_bound=1)
flags.DEFINE_float("temperature", 0.07, "knn: of the votes.", lower_bound=1e-3)

CACHED = flags.DEFINE_bool("cached", False, "linear: features once, then logistic regression.")
flags.DEFINE_float("l2", 1e-3, "--cached, few-shot: penalty on squared weights.", lower_bound=1e-9)
flags.DEFINE_integer("iterations", 200, "--cached, few-shot: of L-BFGS.", lower_bound=1)

# Of those that train, each with a default of its own.
flags.DEFINE_float(
    "learning_rate",
    None,
    "The highest: linear 30, finetune's of the backbone 0.01, detection 0.01, segmentation 0.003.",
    lower_bound=1e-9,
)
flags.DEFINE_integer(
    "batch_size", None, "Over all devices; 256, detection and segmentation 16.", lower_bound=1
)
flags.DEFINE_integer("epochs", None, "How many: linear 100, finetune 20.", lower_bound=1)
flags.DEFINE_float("sgd_momentum", None, "Of SGD; 0.9.", lower_bound=0, upper_bound=1)
flags.DEFINE_float(
    "weight_decay",
    None,
    "Of all that is trained; 0, detection and segmentation 1e-4.",
    lower_bound=0,
)
flags.DEFINE_list("crop_scale", None, "Smallest and largest share in a crop; 0.08,1.")
flags.DEFINE_list(
    "milestones",
    None,
    "When the rate falls by ten: of linear, epochs 60,80; of detection, steps, after 3/4 and 11/12 "
    "of all; of segmentation, after 7/10 and 9/10.",
)

COMPARE = flags.DEFINE_bool(
    "compare", False, "finetune, detection, segmentation: beside a random initialisation."
)
LAYERS = flags.DEFINE_enum("layers", "all", ["head", "all"], "finetune: what is trained.")
flags.DEFINE_float(
    "label_fraction", 1.0, "finetune: share of each class.", lower_bound=1e-9, upper_bound=1
)
flags.DEFINE_enum(
    "batch_norm", "tuned", ["tuned", "frozen"], "finetune: trained, or in inference mode."
)
flags.DEFINE_float(
    "head_learning_rate", 0.2, "finetune: the new layer's, in the first epoch.", lower_bound=1e-9
)

flags.DEFINE_integer(
    "steps", None, "detection 24000, segmentation 30000: batches to train on.", lower_bound=1
)
flags.DEFINE_integer(
    "warmup_steps",
    None,
    "detection, segmentation: over which the rate rises; 100.",
    lower_bound=0,
)
TRIALS = flags.DEFINE_integer(
    "trials", 1, "detection, segmentation: how often, with seeds from --seed on.", lower_bound=1
)

flags.DEFINE_list("shots", ["1", "5", "10"], "few-shot: labelled images of each class.")
flags.DEFINE_integer("draws", 10, "few-shot: random choices of these images.", lower_bound=2)

# What each protocol reads, by the name that its result goes by.
SGD = ("batch_size", "epochs", "sgd_momentum", "weight_decay", "crop_scale", "seed")
HEAD = ("label_fraction", "head_learning_rate", *SGD)
STEPS = ("steps", "milestones", "warmup_steps", "learning_rate", "batch_size", "sgd_momentum")
STEPS += ("weight_decay", "seed", "trials")
SETTINGS = {
    "report": (),
    **dict.fromkeys(TRANSFER, STEPS),
    **dict.fromkeys([f"{protocol}_comparison" for protocol in TRANSFER], STEPS),
    "knn": ("k", "temperature"),
    "knn_head": ("k", "temperature"),
    "linear": ("learning_rate", "milestones", *SGD),
    "finetune": ("layers", "batch_norm", "learning_rate", *HEAD),
    "finetune_comparison": ("batch_norm", "learning_rate", *HEAD),
    "linear_cached": ("l2", "iterations"),
    "few-shot": ("shots", "draws", "seed", "l2", "iterations"),
}
LISTS = {
    "milestones": (int, "epochs, or steps, separated by commas, or none by --milestones="),
    "crop_scale": (float, "two shares of an image, the smallest and the largest"),
    "shots": (int, "whole numbers of 1 or more, separated by commas"),
}

command_line.define_strategy_flags()


def main(_):
    from moco_tf import distribution

    command_line.require("protocol")
    with distribution.scope(command_line.make_strategy()):
        if PROTOCOL.value in TRANSFER:
            _transfer()
        else:
            _evaluate()


def _evaluate():
    from moco_tf import distribution, pictures, report
    from moco_tf.evaluation import comparison, few_shot, protocols

    protocol = _protocol()
    settings = _settings(protocol)
    config = _config()
    source, data, image_size = _source(config)
    backbone, name, directory, channels = _backbone(config, source)
    if channels != source.channels:
        raise UserError(
            f"the images of '{data}' have {source.channels} channels, and {name} takes {channels}: "
            f"give --data, images of {channels}"
        )
    if protocol == "report":
        directory = OUTPUT_DIR.value or directory
        if result := report.write_report(WORKDIR.value, source, image_size, directory):
            warned = ", ".join(result["warnings"]) or "none"
            print(f"report of {name} on {data}: warnings: {warned}; wrote {directory}/report.html")
        return
    protocols.require_two_labelled_parts(source)
    if protocol == "few-shot":
        labels = source.labels[source.train]
        few_shot.require_enough(labels, source.class_names, settings["shots"])
    directory = OUTPUT_DIR.value or directory
    about = {"backbone": name, "data": data, "image_size": image_size}

    features = None
    if protocol == "finetune_comparison":
        backbones = _compared(config, source, backbone, settings["seed"])
        result = comparison.compare(backbones, source, image_size, directory, about, **settings)
    elif protocol in protocols.TRAINED:
        result = protocols.TRAINED[protocol](backbone, source, image_size, **settings)
    else:
        start = time.perf_counter()
        features = protocols.extract_both(backbone, source, image_size)
        seconds = round(time.perf_counter() - start, 3)
    if not distribution.is_chief():
        return
    if features:
        result = protocols.evaluate(protocol, *features, len(source.class_names), **settings)
        result["feature_seconds"] = seconds
    result |= about
    wrote = protocols.write_result(directory, result)
    if PROTOCOL.value == "knn":
        picture = os.path.join(directory, f"{protocol.replace('knn', 'neighbours')}.png")
        wrote += f" and {pictures.draw_neighbours(picture, source, image_size, *features)}"
    if protocol == "finetune_comparison":
        picture = os.path.join(directory, "eval", f"{protocol}.png")
        wrote += f" and {pictures.draw_comparison(picture, result)}"
    print(f"{protocol} of {name} on {data}: {protocols.in_words(result)}; wrote {wrote}")


def _protocol():
    """The name that the result goes by."""
    of_protocols = {"cached": ["linear"], "features": ["knn"], "compare": ["finetune", *TRANSFER]}
    for flag, wanted in of_protocols.items():
        if flags.FLAGS[flag].present and PROTOCOL.value not in wanted:
            raise UserError(
                f"--{flag} is for --protocol={' or '.join(wanted)}, and it is "
                f"--protocol={PROTOCOL.value}"
            )
    if PROTOCOL.value == "report" and not WORKDIR.value:
        raise UserError("--protocol=report needs --workdir: it is about a run")
    if FEATURES.value == "head":
        if not WORKDIR.value:
            raise UserError("--features=head needs --workdir: only a run has its head")
        return "knn_head"
    if CACHED.value:
        return "linear_cached"
    return f"{PROTOCOL.value}_comparison" if COMPARE.value else PROTOCOL.value


def _settings(protocol):
    """The flags that the protocol reads; none of another's may be given."""
    values = flags.FLAGS
    words, read = f"--protocol={PROTOCOL.value}", SETTINGS[protocol]
    if protocol == "finetune" and LAYERS.value == "head":
        words, read = f"{words} --layers=head", ("layers", *HEAD)
    words += " --cached" * CACHED.value + " --compare" * COMPARE.value
    for name in sorted({name for names in SETTINGS.values() for name in names} - set(read)):
        if values[name].present:
            others = ", ".join(f"--{setting}" for setting in read) or "none of these flags"
            raise UserError(
                f"--{name} means nothing to {words}: leave it out; what that reads is {others}"
            )
    settings = {name: values[name].value for name in read if values[name].value is not None}
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
        raise UserError(f"--{name}={','.join(given)}: give {words}") from None
    return numbers


def _config():
    """The config of the backbone to evaluate; None where it is of no run and no config."""
    from moco_tf import run_directory
    from moco_tf.config import check

    kinds = {flag.name: flag.value for flag in (WORKDIR, SAVED_MODEL, CHECKPOINT, RANDOM_INIT)}
    kinds = [name for name, value in kinds.items() if value]
    if len(kinds) != 1 and not (COMPARE.value and kinds == ["workdir", "checkpoint"]):
        raise UserError(
            "give one of --workdir, --saved_model, --checkpoint and --random_init; with --compare "
            "--workdir and --checkpoint go together"
        )
    if COMPARE.value and RANDOM_INIT.value:
        raise UserError(
            "--compare compares with a random initialisation: give --workdir, --saved_model or "
            "--checkpoint instead of --random_init"
        )
    if PROTOCOL.value in TRANSFER:
        command_line.require("data")
    elif not WORKDIR.value and not RANDOM_INIT.value and not (DATA.value and IMAGE_SIZE.value):
        raise UserError(f"--{kinds[0]} needs --data and --image_size as well")
    backbone_flags.require_encoder(of_saved_model=COMPARE.value or PROTOCOL.value in TRANSFER)
    if WORKDIR.value:
        return run_directory.read_config(WORKDIR.value)
    if not RANDOM_INIT.value:
        return None
    command_line.require("config")
    if PROTOCOL.value not in TRANSFER:  # these read of it the network alone
        check(CONFIG.value)
    return CONFIG.value


def _source(config):
    """The data source, its name, and the side of the views in pixels."""
    from moco_tf.data import sources

    data = DATA.value or config.data.source
    options = sources.options(config.data) if config else {}
    given = (IMAGE_FEATURE, LABEL_FEATURE, TFDS_DIR)
    options |= {flag.name: flag.value for flag in given if flag.value is not None}
    return sources.load(data, **options), data, IMAGE_SIZE.value or config.image_size


def _backbone(config, source):
    """The backbone to evaluate, its name, the directory of its results, the channels it takes."""
    from moco_tf import loading

    if SAVED_MODEL.value:
        backbone, channels = loading.load_saved_model(SAVED_MODEL.value)
        return backbone, SAVED_MODEL.value, SAVED_MODEL.value, channels
    if WORKDIR.value:
        load = loading.load_encoder if FEATURES.value == "head" else loading.load_backbone
        backbone, name, directory = load(WORKDIR.value), WORKDIR.value, WORKDIR.value
    elif CHECKPOINT.value:
        backbone, name, directory = _load_checkpoint(), CHECKPOINT.value, "."
    else:
        network = (config.encoder, config.stem, source.channels)
        backbone = loading.random_backbone(*network, config.seed)
        name, directory = f"random {config.encoder}", "."
    return backbone, name, directory, backbone.input_shape[-1]


def _load_checkpoint():
    from moco_tf import encoders

    return encoders.with_normalization(backbone_flags.load("checkpoint"))


def _network(config):
    """The name of the encoder that is evaluated, and its stem."""
    from moco_tf import loading

    if config:
        return config.encoder, config.stem
    if ENCODER.value:
        return ENCODER.value, STEM.value
    return loading.read_network(SAVED_MODEL.value)[:2]


def _compared(config, source, backbone, seed):
    """The backbones of --compare, by what its legend says of them."""
    from moco_tf import loading

    network = _network(config)
    random = loading.random_backbone(*network, source.channels, seed)
    shapes = [sorted(tuple(w.shape) for w in network.weights) for network in (backbone, random)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"--encoder={network[0]} --stem={network[1]} is not the network of "
            f"--saved_model={SAVED_MODEL.value}: give the one that it is of"
        )
    own = os.path.basename((WORKDIR.value or SAVED_MODEL.value or "").rstrip("/"))
    backbones = {f"random initialisation, {network[0]}": random}
    if own:
        backbones[f"pre-trained, {own}"] = backbone
    if CHECKPOINT.value:
        imported = _load_checkpoint() if WORKDIR.value else backbone
        backbones[f"imported, {os.path.basename(CHECKPOINT.value)}"] = imported
    return backbones


def _transfer():
    """Detection or segmentation."""
    from moco_tf import distribution, object_pictures
    from moco_tf.data import annotated
    from moco_tf.evaluation import detection, protocols, segmentation, transfer, trials

    _require_extra()
    task = detection.DETECTION
    if PROTOCOL.value == "segmentation":
        task = segmentation.SEGMENTATION
    protocol = _protocol()
    settings = _settings(protocol)
    count = settings.pop("trials")
    settings = transfer.settings_of(task, **settings)
    config = _config()
    image_size = IMAGE_SIZE.value or 512
    transfer.require_side(task, image_size)
    initialisations, name, directory = _initialisations(config)
    tfds_dir = TFDS_DIR.value or (config.data.tfds_dir if config else "")
    images = annotated.load(DATA.value, task is segmentation.SEGMENTATION, tfds_dir)
    directory = OUTPUT_DIR.value or directory
    about = {"backbone": name, "data": images.name, "image_size": image_size}
    if COMPARE.value:
        result = trials.compare(
            task, initialisations, images, image_size, directory, about, count, **settings
        )
        if distribution.is_chief():
            wrote = protocols.write_result(directory, result)
            print(trials.table(task, result["rows"]))
            print(f"{protocol} of {name} on {images.name}; wrote {wrote}")
        return
    [initialise] = initialisations.values()
    result, shown = trials.run(task, initialise, images, image_size, count, **settings)
    if not distribution.is_chief():
        return
    wrote = protocols.write_result(directory, {"protocol": protocol, **about, **result})
    picture = os.path.join(directory, "eval", f"{protocol}.png")
    if task is detection.DETECTION:
        wrote += f" and {object_pictures.draw_detections(picture, images, image_size, shown)}"
    else:
        wrote += f" and {object_pictures.draw_segmentations(picture, images, shown)}"
    counts = f"{result['num_train']} training and {result['num_test']} test images"
    print(
        f"{protocol} of {name} on {images.name}: {trials.in_words(task, result)} ({counts}); "
        f"wrote {wrote}"
    )


def _require_extra():
    try:
        import keras_hub  # noqa: F401
        import pycocotools  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--protocol={PROTOCOL.value} needs KerasHub and pycocotools: "
            "pip install '.[detection]'"
        ) from error


def _initialisations(config):
    """What detection and segmentation begin with: functions of a seed by what a table says of them;
    the name of the backbone to evaluate; and the directory of its results."""
    from export.keras_hub import to_keras_hub
    from moco_tf import encoders, loading

    given = [kind for kind in backbone_flags.NAMES if flags.FLAGS[kind].value]
    backbones = {kind: backbone_flags.load(kind) for kind in given}
    network = encoders.Network(config.encoder, config.stem, 3) if RANDOM_INIT.value else None
    for kind, backbone in backbones.items():
        own = encoders.network_of(backbone)
        if own.channels != 3:
            raise UserError(
                f"--{kind}={flags.FLAGS[kind].value} takes images of {own.channels} channels, and "
                f"--protocol={PROTOCOL.value} has images of 3"
            )
        network = network or own

    def random(seed):
        return to_keras_hub(loading.random_network(*network, seed))

    def same(backbone):
        to_keras_hub(backbone)  # so that what it cannot hold is said before anything is read
        return lambda _: to_keras_hub(backbone)

    found = {}
    if COMPARE.value or RANDOM_INIT.value:
        found[f"random initialisation, {network.encoder}"] = random
    for kind, backbone in backbones.items():
        words = "imported" if kind == "checkpoint" else "pre-trained"
        base = os.path.basename(flags.FLAGS[kind].value.rstrip("/"))
        found[f"{words}, {base}"] = same(backbone)
    if not given:
        return found, f"random {network.encoder}", "."
    name = flags.FLAGS[given[0]].value
    return found, name, "." if given[0] == "checkpoint" else name


if __name__ == "__main__":
    command_line.run(main)
