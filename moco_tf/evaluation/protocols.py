"""A protocol applied to a backbone and a source, and the file that its result goes to."""

import inspect
import json
import os
import time

import tensorflow as tf

from moco_tf.errors import UserError
from moco_tf.evaluation import few_shot, finetune, knn, linear, logistic
from moco_tf.evaluation.features import extract
from moco_tf.files import write_atomically

# Those that work on features computed once; `linear` and `finetune` do not.
CACHED = {
    "knn": knn.classify,
    "knn_head": knn.classify,  # on what the projection head returns
    "linear_cached": logistic.probe,
    "few-shot": few_shot.classify,
}
LAYERS = {"head": "only the new layer", "all": "all layers"}


def require_two_labelled_parts(source):
    """Looks whether a source can be evaluated on.

    Raises:
        UserError: it has no labels, or nothing on one of the two sides.
    """
    if source.labels is None:
        raise UserError(
            f"data source '{source.name}' has no labels to evaluate with: put the images of each "
            "class into a subfolder of its own, or name the feature of records that holds them"
        )
    if not (len(source.train) and len(source.test)):
        raise UserError(f"data source '{source.name}' is too small to hold out a test set")


def extract_both(backbone, source, image_size):
    """Features of the two parts of a labelled source, with progress bars.

    Args:
        backbone: callable, images `[N, size, size, channels]` in 0 to 255 to features `[N, D]`.
        source: a `moco_tf.data.source.Source`.
        image_size: int, side of the central view in pixels.

    Returns:
        `moco_tf.evaluation.features.Features` of the training and of the test images.

    Raises:
        UserError: the source has no labels, or nothing on one of the two sides.
    """
    require_two_labelled_parts(source)
    return (
        extract(backbone, source, source.train, image_size, "training features"),
        extract(backbone, source, source.test, image_size, "test features"),
    )


def evaluate(protocol, train, test, num_classes, **settings):
    """Applies a protocol to features.

    Args:
        protocol: "knn", "linear_cached", "few-shot", or "knn_head" where they are the head's.
        train, test: `moco_tf.evaluation.features.Features`.
        num_classes: int.
        **settings: keyword arguments of `knn.classify`, `logistic.probe` or `few_shot.classify`;
            the others take their defaults.

    Returns:
        A dict with `protocol`, `top1` and `top5` (shares in 0 to 1; under "few-shot", what
        `few_shot.classify` returns), `num_train`, `num_test`, `seconds` that the protocol took on
        the features, and all settings.
    """
    function = CACHED[protocol]
    settings = {**_defaults(function), **settings}
    start = time.perf_counter()
    result = function(
        train.features, train.labels, test.features, test.labels, num_classes, **settings
    )
    return {
        "protocol": protocol,
        **result,
        "num_train": len(train.labels),
        "num_test": len(test.labels),
        "seconds": round(time.perf_counter() - start, 3),
        **settings,
    }


def evaluate_linear(backbone, source, image_size, **settings):
    """Applies the paper's linear protocol, in every process of the current strategy.

    Args:
        backbone, source, image_size: of `extract_both`.
        **settings: keyword arguments of `linear.fit`; the others take their defaults.

    Returns:
        As `evaluate`; `seconds` are of everything.

    Raises:
        UserError: as `extract_both`, or what `linear.classify` raises.
    """
    require_two_labelled_parts(source)
    settings = {**_defaults(linear.fit), **settings}
    start = time.perf_counter()
    result = linear.classify(backbone, source, image_size, len(source.class_names), **settings)
    seconds = round(time.perf_counter() - start, 3)
    return {"protocol": "linear", **result, "seconds": seconds, **settings}


def evaluate_finetune(backbone, source, image_size, progress="fine-tuning", **settings):
    """Fine-tunes a copy of a backbone, in every process of the current strategy.

    Args:
        backbone, source, image_size: of `extract_both`.
        progress: str, words for the progress bar.
        **settings: keyword arguments of `finetune.fit`; the others take their defaults.

    Returns:
        As `evaluate`, and the `curve` of `finetune.fit`; `seconds` are of everything, and the
        settings are `finetune_settings`.

    Raises:
        UserError: as `extract_both`, or what `finetune.fit` raises.
    """
    require_two_labelled_parts(source)
    settings = finetune_settings(**settings)
    start = time.perf_counter()
    *_, result = finetune.fit(
        backbone, source, image_size, len(source.class_names), progress=progress, **settings
    )
    seconds = round(time.perf_counter() - start, 3)
    return {"protocol": "finetune", **result, "seconds": seconds, **settings}


def finetune_settings(**settings):
    """Settings of `finetune.fit`, filled up with its defaults, without those that it does not read
    where `layers` is "head"."""
    settings = {**_defaults(finetune.fit), **settings}
    unread = finetune.OF_BACKBONE if settings["layers"] == "head" else ()
    return {name: settings[name] for name in settings if name not in ("progress", *unread)}


# Those that train, in every process of the current strategy.
TRAINED = {"linear": evaluate_linear, "finetune": evaluate_finetune}


def in_words(result):
    """The accuracy that a result gives, and the images that it is of, in one line."""
    if "curves" in result:
        parts = [
            f"{curve['initialisation']}, {LAYERS[curve['layers']]} {curve['top1']:.4f}"
            for curve in result["curves"]
        ]
        accuracy, result = f"top-1 {'; '.join(parts)}", result["curves"][0]
    elif "few_shot" in result:
        parts = [
            f"{row['top1']:.4f} ± {row['top1_std']:.4f} with {row['shots']} of each class"
            for row in result["few_shot"]
        ]
        accuracy = f"top-1 {', '.join(parts)}"
    else:
        accuracy = f"top-1 {result['top1']:.4f}, top-5 {result['top5']:.4f}"
    return f"{accuracy} ({result['num_train']} training and {result['num_test']} test images)"


def write_result(directory, result):
    """Writes `directory/eval/<protocol>.json`.

    Returns:
        Its path.

    Raises:
        UserError: it cannot be written.
    """
    path = os.path.join(directory, "eval", f"{result['protocol']}.json")
    try:
        tf.io.gfile.makedirs(os.path.dirname(path))
        write_atomically(path, json.dumps(result, indent=2) + "\n")
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"{path} cannot be written: {error}") from error
    return path


def _defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}
