"""Apply a protocol to a backbone and a source."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
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
from moco_tf.evaluation.extraction import Extractor, feature_step
from moco_tf.evaluation.features import Features, labeled, require_comparable, with_classes_of
from moco_tf.evaluation.metrics import class_names, classification
from moco_tf.evaluation.settings import (
    SETTINGS,
    FinetuneSettings,
    KNNSettings,
    LinearSettings,
    ProbeSettings,
    Settings,
)
from moco_tf.evaluation.training_state import TrainingState
from moco_tf.names import printable


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
        and the settings. If test images are of a class without training images, which a protocol
        that learns from labels cannot know, also `warnings`, a list with a text that says so.

    Raises:
        UserError: If the protocol cannot be applied to these features, they are not of the same
            number of dimensions, or test images are of a class whose name the training images do
            not have.
    """
    require_comparable(train, test)
    settings = settings or SETTINGS[protocol]()
    if protocol in CLASSIFIERS:
        train = labeled(train)
    if protocol != "cluster":
        test = with_classes_of(train, labeled(test))
    start = time.perf_counter()
    warnings = []
    if protocol in CLASSIFIERS and train.labels is not None and test.labels is not None:
        warnings = _missing_classes(train.labels, test.labels, class_names(test))
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
        **({"warnings": warnings} if warnings else {}),
    }


def _missing_classes(train: np.ndarray, test: np.ndarray, names: Sequence[str]) -> list[str]:
    """Return a warning of test images whose class no training image has; nothing without any.

    Args:
        train: int `[M]`, labels of the training images, negative without a label.
        test: int `[N]`, labels of the test images, likewise.
        names: Names of the classes.
    """
    test = test[test >= 0]
    missing = np.setdiff1d(test, train)
    if not len(missing):
        return []
    count = int(np.isin(test, missing).sum())
    shown = ", ".join(printable(names[label]) for label in missing[:10])
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    return [
        f"{count} of {len(test)} test images count as wrong, because there are no training images "
        f"of their classes, {shown}{more}: add some, or remove these classes"
    ]


def _with_warnings(result: dict[str, Any], source: Source) -> dict[str, Any]:
    """Return a result with a warning of classes without training images."""
    labels = np.asarray(source.labels)
    names = source.class_names or []
    warnings = _missing_classes(labels[source.train], labels[source.test], names)
    warnings += result.get("warnings", [])
    return {**result, "warnings": warnings} if warnings else result


class Trained(NamedTuple):
    """A classifier that a protocol has trained.

    Attributes:
        backbone: The backbone, from images `[N, size, size, channels]` to features `[N, D]`.
        weights: float `[D, classes]`, the weights of the linear layer.
        bias: float `[classes]`.
    """

    backbone: Any
    weights: np.ndarray
    bias: np.ndarray


def evaluate_linear(
    backbone: Callable[[tf.Tensor], tf.Tensor],
    source: Source,
    image_size: int,
    settings: LinearSettings = LinearSettings(),
    state: TrainingState | None = None,
) -> tuple[Trained, dict[str, Any]]:
    """Apply the paper's linear protocol; call this in every process of the current strategy.

    Args:
        backbone: As for `extract_both`.
        source: A source with labels.
        image_size: Side of the views in pixels.
        settings: Settings of the training.
        state: As for `linear.classify`.

    Returns:
        The classifier, and results like those of `evaluate`, with the `curve` of
        `linear.classify` and the `seconds` of the whole evaluation.

    Raises:
        UserError: As `extract_both` and `linear.classify`.
    """
    require_two_labeled_parts(source)
    state = state or TrainingState()
    layer, result = linear.classify(backbone, source, image_size, settings, state)
    # The learning rate is the one that was chosen, if there were several.
    used = dataclasses.asdict(settings) | {"learning_rate": result["learning_rate"]}
    result = {"protocol": "linear", **result, "seconds": state.elapsed(), **used}
    return Trained(backbone, *layer), _with_warnings(result, source)


def evaluate_finetune(
    backbone: Any,
    source: Source,
    image_size: int,
    settings: FinetuneSettings = FinetuneSettings(),
    progress: str = "fine-tuning",
    state: TrainingState | None = None,
) -> tuple[Trained, dict[str, Any]]:
    """Fine-tune a copy of a backbone; call this in every process of the current strategy.

    Args:
        backbone: As for `finetune.fit`.
        source: A source with labels.
        image_size: Side of the views in pixels.
        settings: Settings of the training.
        progress: Label of the progress bar.
        state: As for `finetune.fit`.

    Returns:
        The classifier, and results like those of `evaluate`, with the `curve` of `finetune.fit`,
        the `seconds` of the whole evaluation, and the settings that have an effect.

    Raises:
        UserError: As `extract_both` and `finetune.fit`.
    """
    require_two_labeled_parts(source)
    state = state or TrainingState()
    tuned, layer, result = finetune.fit(backbone, source, image_size, settings, progress, state)
    result = {"protocol": "finetune", **result, "seconds": state.elapsed(), **settings.used()}
    result = _with_warnings(result, source)
    return Trained(tuned, layer.kernel.numpy(), layer.bias.numpy()), result
