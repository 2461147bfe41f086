"""Apply a protocol to a backbone and a source, and write its result."""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from moco_tf.data.sources.source import Source
from moco_tf.errors import UserError
from moco_tf.evaluation import (
    anomaly,
    clustering,
    few_shot,
    finetune,
    knn,
    linear,
    logistic,
    retrieval,
    unreadable,
)
from moco_tf.evaluation.features import (
    Extractor,
    Features,
    feature_step,
    labeled,
    require_comparable,
    with_classes_of,
)
from moco_tf.evaluation.metrics import classification
from moco_tf.evaluation.settings import (
    SETTINGS,
    FinetuneSettings,
    KNNSettings,
    LinearSettings,
    ProbeSettings,
    Settings,
)
from moco_tf.files import error_reason, write_atomically, write_remedy


def _knn(train: Features, test: Features, settings: KNNSettings) -> dict[str, Any]:
    choice: dict[str, Any] = {}
    if settings.ks:
        k, choices = knn.choose_k(train, settings)
        settings = KNNSettings(k, settings.temperature)
        choice = {"k": k, "training_images": choices}
    return {**classification(knn.scores(train, test, settings), test), **choice}


def _probe(train: Features, test: Features, settings: ProbeSettings) -> dict[str, Any]:
    return classification(logistic.scores(train, test, settings), test)


# The protocols that take features which are computed once.
CACHED: dict[str, Callable[..., dict[str, Any]]] = {
    "knn": _knn,
    "knn_head": _knn,  # On the outputs of the projection head.
    "linear_cached": _probe,
    "few-shot": few_shot.classify,
    "retrieval": retrieval.retrieve,
    "anomaly": anomaly.detect,
    "cluster": clustering.cluster,
}
# Those of them that learn from the labels of the training images.
CLASSIFIERS = ("knn", "knn_head", "linear_cached", "few-shot")
# How the images of a data source get labels.
LABEL_REMEDIES = {
    "folder": "put the images of each class into a subfolder, with the same name in all parts, or ",
    "video": "put the videos of each class into a subfolder, with the same name in all parts, or ",
    **dict.fromkeys(
        ("tfrecord", "arrayrecord"),
        "set label_feature to the feature of the records that holds the label, or ",
    ),
    "webdataset": "set label_feature to the extension of the files with the labels, or ",
    "parquet": "set label_feature to the column of the labels, or ",
}
# How a data source gets training and test images, if not simply by more images.
PART_REMEDIES = {
    "idx": "add the files of both, such as t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte",
    "video": "add videos, because the frames of one are all for training or all for testing",
    "tfds": "choose a larger split, or a data set with a split for testing",
}
LAYERS = {"head": "only the new layer", "all": "all layers"}


def require_two_labeled_parts(source: Source) -> None:
    """Check that a source has labeled training and test images.

    Raises:
        UserError: If it has no labels, or one of the two parts is empty.
    """
    require_labels(source)
    if not (len(source.train) and len(source.test)):
        remedy = PART_REMEDIES.get(source.name.partition(":")[0], "add images")
        raise UserError(
            f"data source '{source.name}' has {len(source.train)} training and {len(source.test)} "
            f"test images with labels, but an evaluation needs both: {remedy}"
        )


def require_labels(source: Source) -> None:
    """Raise a `UserError` if a source has no labels."""
    if not source.has_labels:
        remedy = LABEL_REMEDIES.get(source.name.partition(":")[0], "")
        reason = f", because {source.no_labels}" if source.no_labels else ""
        raise UserError(
            f"data source '{source.name}' has no labels, which an evaluation needs{reason}: "
            f"{remedy}evaluate with other images, such as folder:PATH with a subfolder for "
            "each class"
        )


def extract_both(
    backbone: Callable[[tf.Tensor], tf.Tensor], source: Source, image_size: int
) -> tuple[Features, Features]:
    """Extract the features of the training and the test images, with progress bars.

    Args:
        backbone: Callable from images `[N, size, size, channels]` in [0, 255] to features `[N, D]`.
        source: A source with labels.
        image_size: Side of the central view in pixels.

    Returns:
        The features of the training images and those of the test images.

    Raises:
        UserError: If the source has no labels, or one of the two parts is empty.
    """
    require_two_labeled_parts(source)
    step = feature_step(backbone)
    return (
        Extractor(source, source.train, image_size)(step, "training features"),
        Extractor(source, source.test, image_size)(step, "test features"),
    )


def evaluate(
    protocol: str, train: Features, test: Features, settings: Settings | None = None
) -> dict[str, Any]:
    """Apply a protocol to features.

    Args:
        protocol: A key of `CACHED`: `"knn"`, `"linear_cached"`, `"few-shot"`, `"retrieval"` or
            `"cluster"`, or `"knn_head"` where the features are outputs of the projection head.
        train: Labeled features of the training images. A protocol that learns from the labels
            leaves out the images without one.
        test: Labeled features of the test images. Images without a label are left out, except by
            `"cluster"`, which needs no labels.
        settings: Settings of the protocol; by default its defaults.

    Returns:
        A dict with `protocol`, the result of the protocol's function, which for most protocols is
        that of `moco_tf.evaluation.metrics.classification`; `num_train` and `num_test`, the numbers
        of images that were used; the entries of
        `moco_tf.evaluation.unreadable.entries`, `seconds` that the protocol took on the features,
        and the settings.

    Raises:
        UserError: If the protocol cannot be applied to these features, they are not of the same
            number of dimensions, or test images are of a
            class that the training images do not have.
    """
    require_comparable(train, test)
    settings = settings or SETTINGS[protocol]()
    if protocol in CLASSIFIERS:
        train = labeled(train)
    if protocol != "cluster":
        test = with_classes_of(train, labeled(test))
    start = time.perf_counter()
    result = CACHED[protocol](train, test, settings)
    return {
        "protocol": protocol,
        "num_train": len(train.indices),
        "num_test": len(test.indices),
        **result,
        **unreadable.entries(
            # Without labels, the same images are clustered and tested.
            {} if train is test else train.unreadable,
            test.unreadable,
            test.unreadable_classes,
        ),
        "seconds": round(time.perf_counter() - start, 3),
        # A result names what was used where a setting leaves it open.
        **{k: v for k, v in dataclasses.asdict(settings).items() if k not in result},
    }


def evaluate_linear(
    backbone: Callable[[tf.Tensor], tf.Tensor],
    source: Source,
    image_size: int,
    settings: LinearSettings = LinearSettings(),
) -> dict[str, Any]:
    """Apply the paper's linear protocol; call this in every process of the current strategy.

    Args:
        backbone: As for `extract_both`.
        source: A source with labels.
        image_size: Side of the views in pixels.
        settings: Settings of the training.

    Returns:
        As `evaluate`, with the `seconds` of the whole evaluation.

    Raises:
        UserError: As `extract_both` and `linear.classify`.
    """
    require_two_labeled_parts(source)
    start = time.perf_counter()
    result = linear.classify(backbone, source, image_size, settings)
    seconds = round(time.perf_counter() - start, 3)
    # The learning rate is the one that was chosen, if there were several.
    used = dataclasses.asdict(settings) | {"learning_rate": result["learning_rate"]}
    return {"protocol": "linear", **result, "seconds": seconds, **used}


def evaluate_finetune(
    backbone: Any,
    source: Source,
    image_size: int,
    settings: FinetuneSettings = FinetuneSettings(),
    progress: str = "fine-tuning",
) -> dict[str, Any]:
    """Fine-tune a copy of a backbone; call this in every process of the current strategy.

    Args:
        backbone: As for `finetune.fit`.
        source: A source with labels.
        image_size: Side of the views in pixels.
        settings: Settings of the training.
        progress: Label of the progress bar.

    Returns:
        As `evaluate`, with the `curve` of `finetune.fit`, the `seconds` of the whole evaluation,
        and the settings that have an effect.

    Raises:
        UserError: As `extract_both` and `finetune.fit`.
    """
    require_two_labeled_parts(source)
    start = time.perf_counter()
    _, _, result = finetune.fit(backbone, source, image_size, settings, progress)
    seconds = round(time.perf_counter() - start, 3)
    return {"protocol": "finetune", **result, "seconds": seconds, **settings.used()}


def summarize(result: dict[str, Any]) -> str:
    """Return the accuracy in a result and the numbers of images behind it, in one line."""
    if "curves" in result:
        parts = [
            f"{curve['initialisation']}, {LAYERS[curve['layers']]} {curve['top1']:.4f}"
            for curve in result["curves"]
        ]
        accuracy, result = f"top-1 {'; '.join(parts)}", result["curves"][0]
    elif "few_shot" in result:
        parts = [
            f"{row['top1']:.4f} ± {row['top1_std']:.4f} with {row['shots']} per class"
            for row in result["few_shot"]
        ]
        accuracy = f"top-1 {', '.join(parts)}"
    elif "map" in result:
        low, high = result["map_interval"]
        recall = [f"recall at {row['rank']} {row['recall']:.4f}" for row in result["recall"]]
        accuracy = f"mAP {result['map']:.4f} ({low:.4f} to {high:.4f}), {', '.join(recall)}"
    elif "auroc" in result:
        low, high = result["auroc_interval"]
        accuracy = (
            f"AUROC {result['auroc']:.4f} ({low:.4f} to {high:.4f}), average precision "
            f"{result['average_precision']:.4f} with {result['num_normal']} normal images"
        )
    elif "cluster_sizes" in result:
        sizes = result["cluster_sizes"]
        accuracy = f"{len(sizes)} clusters of {min(sizes)} to {max(sizes)} images"
        if "nmi" in result:
            ends = result.get("ari_interval")  # None for few images; earlier versions had none.
            interval = f" ({ends[0]:.4f} to {ends[1]:.4f})" if ends else ""
            agreement = f"NMI {result['nmi']:.4f}, ARI {result['ari']:.4f}{interval}"
            accuracy = f"{agreement}, {accuracy}"
        else:
            return accuracy
    else:
        low, high = result.get("top1_interval", (None, None))  # Earlier versions had none.
        interval = "" if low is None else f" ({low:.4f} to {high:.4f})"
        accuracy = f"top-1 {result['top1']:.4f}{interval}, top-5 {result['top5']:.4f}"
        if "training_images" in result:
            accuracy += f", k = {result['k']} chosen on training images"
    roles = ("gallery", "query") if "gallery_data" in result else ("training", "test")
    numbers = f"{result['num_train']} {roles[0]} and {result['num_test']} {roles[1]} images"
    return f"{accuracy} ({numbers})"


def require_writable(directory: str) -> None:
    """Check that results can be written to `directory/eval`, before they are computed.

    Nothing is created. A directory on a file system of TensorFlow, such as `gs://`, is not checked.

    Raises:
        UserError: If they cannot be written.
    """
    results = os.path.join(directory, "eval")
    if "://" in results:
        return
    path = os.path.abspath(results)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    if not os.path.isdir(path):
        problem = f"{path} is not a directory"
    elif not os.access(path, os.W_OK | os.X_OK):
        problem = f"{path} is not writable"
    else:
        return
    raise UserError(
        f"results cannot be written to {results}, because {problem}: correct that, or choose "
        "another output_dir"
    )


def write_result(directory: str, result: dict[str, Any]) -> str:
    """Write `directory/eval/<protocol>.json` and return its path.

    Raises:
        UserError: If it cannot be written.
    """
    path = os.path.join(directory, "eval", f"{result['protocol']}.json")
    try:
        tf.io.gfile.makedirs(os.path.dirname(path))
        write_atomically(path, json.dumps(result, indent=2) + "\n")
    except (tf.errors.OpError, OSError) as error:
        remedy = write_remedy(error, directory)
        raise UserError(
            f"{path} cannot be written ({error_reason(error)}): {remedy}, or choose another "
            "output_dir"
        ) from error
    return path
