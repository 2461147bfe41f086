"""A protocol applied to a backbone and a source, and the file that its result goes to."""

import inspect
import json
import os
import time

import tensorflow as tf

from moco_tf.errors import UserError
from moco_tf.evaluation import few_shot, knn, linear, logistic
from moco_tf.evaluation.features import extract

# Those that work on features computed once; `linear` alone does not.
CACHED = {
    "knn": knn.classify,
    "knn_head": knn.classify,  # on what the projection head returns
    "linear_cached": logistic.probe,
    "few-shot": few_shot.classify,
}


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
        with tf.io.gfile.GFile(path, "w") as file:
            file.write(json.dumps(result, indent=2) + "\n")
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"{path} cannot be written: {error}") from error
    return path


def _defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}
