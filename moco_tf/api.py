"""Evaluation in a notebook; `moco_tf.evaluation` has all protocols and settings."""

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from numpy.typing import ArrayLike

from moco_tf import paths
from moco_tf.backbones import classifier
from moco_tf.data import unreadable
from moco_tf.data.sources.source import Source, require_source
from moco_tf.encoders import preprocessing
from moco_tf.evaluation import few_shot as few_shot_protocol
from moco_tf.evaluation import knn as knn_protocol
from moco_tf.evaluation import logistic, protocols
from moco_tf.evaluation.extraction import extract
from moco_tf.evaluation.features import Features
from moco_tf.evaluation.identity import identify_training
from moco_tf.evaluation.pairs import comparable
from moco_tf.evaluation.settings import (
    FewShotSettings,
    FinetuneSettings,
    KNNSettings,
    ProbeSettings,
)
from moco_tf.evaluation.training_state import TrainingState
from moco_tf.ranges import COUNT, checked


def extract_features(
    backbone: Callable[[tf.Tensor], tf.Tensor],
    source: Source,
    part: str | ArrayLike,
    image_size: int,
) -> Features:
    """Extract the features of a part of a data source.

    Args:
        backbone: Callable from images, float32 `[N, size, size, channels]` in the value range of
            the source, which is [0, 255] for 8 bits per channel, to features `[N, D]`, such as the
            result of `moco_tf.load_backbone`. A model of `moco_tf.encoders.build` gets its
            normalization.
        source: The result of `moco_tf.load_source`.
        part: `"train"` or `"test"`, the two disjoint parts of an evaluation; `"pretrain"`, the
            images of pre-training; `"all"`; or the indices of the images, int64 `[M]`.
        image_size: Side of the central view in pixels. Use that of the evaluations of the
            backbone's training, which is `moco_tf.Run.evaluation_size` for a run.

    Returns:
        An object with `features`, float32 `[M, D]`; `indices`, int64 `[M]`, of the images in the
        source; `labels`, int32 `[M]`, -1 for an image without a label, or None; and `num_classes`.
        Images that cannot be read are left out, with a warning. Their names are in `unreadable`, by
        their indices.

    Raises:
        UserError: If the source is not the result of `moco_tf.load_source`, it has no such part or
            index, the backbone cannot be called, takes other pixel values or does not return
            features, the size is not an integer of 1 or greater, or none of the images can be read.

    Example:
        >>> import moco_tf
        >>> source = moco_tf.load_source("photos")
        >>> backbone = moco_tf.encoders.random_backbone("resnet8", stem="small")
        >>> test = moco_tf.extract_features(backbone, source, "test", image_size=32)
        >>> test.features.shape, test.labels.shape
        ((1818, 64), (1818,))
    """
    require_source(source)
    image_size = checked("image_size", image_size, COUNT)
    preprocessing.require_images(backbone, source, image_size)
    if isinstance(part, str):
        features = extract(backbone, source, source.part(part), image_size, f"{part} features")
    else:
        features = extract(backbone, source, source.chosen(part), image_size, "features")
    if names := features.unreadable.values():
        warnings.warn(
            unreadable.line(names, len(names) + len(features.indices)),
            stacklevel=2,
        )
    return features


def knn(
    train: Features | Sequence[ArrayLike],
    test: Features | Sequence[ArrayLike],
    k: int = KNNSettings.k,
    temperature: float = KNNSettings.temperature,
) -> dict[str, float]:
    """Classify test images by their nearest training images (weighted kNN, cosine similarity).

    This is the classifier of Wu et al. (2018), with their k = 200 and temperature 0.07. The paper
    of MoCo has no kNN accuracies. A test image of a class that no training image has counts as
    wrong, and the function warns of it.

    Args:
        train: The labeled features to compare with: a result of `extract_features`, or a pair of
            arrays, features `[M, D]` and labels `[M]`, which are integers or texts. Images without
            a label, which is -1, an empty text, None or NaN, are left out.
        test: The labeled features to classify, in the same form.
        k: Number of neighbors, 1 or greater; clipped to the number of training images.
        temperature: Temperature of the votes, greater than 0: a neighbor counts
            exp(similarity / temperature).

    Returns:
        `{"top1": float, "top5": float}`, accuracies in [0, 1]. With 5 classes or fewer, top-5
        counts every class that one of the neighbors has.

    Raises:
        UserError: If `train` and `test` are not finite features with labels and the same number of
            dimensions, `test` has names of classes that `train` does not have, or `k` or
            `temperature` is out of range.

    Example:
        >>> import moco_tf
        >>> source = moco_tf.load_source("photos")
        >>> backbone = moco_tf.encoders.random_backbone("resnet8", stem="small")
        >>> train = moco_tf.extract_features(backbone, source, "train", image_size=32)
        >>> test = moco_tf.extract_features(backbone, source, "test", image_size=32)
        >>> sorted(moco_tf.knn(train, test, k=20))
        ['top1', 'top5']
        >>> moco_tf.knn(([[0, 1], [1, 0]], ["cat", "dog"]), ([[0.1, 1]], ["cat"]), k=1)["top1"]
        1.0
    """
    train, test = comparable(train, test)
    return knn_protocol.classify(train, test, KNNSettings(k, temperature))


def linear_probe(
    train: Features | Sequence[ArrayLike],
    test: Features | Sequence[ArrayLike],
    l2: float = ProbeSettings.l2,
    iterations: int = ProbeSettings.iterations,
) -> dict[str, float]:
    """Fit a logistic regression on features, and return its accuracy.

    Each dimension is scaled to zero mean and unit variance on the training images. The sum of the
    mean log loss and l2 / 2 times the squared norm of the weights is minimized. This is not the
    linear protocol of the paper (section 4.1), which trains the layer by SGD on random crops:
    `moco-evaluate --protocol=linear` does. A test image of a class that no training image has
    counts as wrong, and the function warns of it.

    Args:
        train: The labeled features to fit: a result of `extract_features`, or a pair of arrays,
            features `[M, D]` and labels `[M]`, which are integers or texts. Images without a label,
            which is -1, an empty text, None or NaN, are left out.
        test: The labeled features to classify, in the same form.
        l2: Weight of the L2 penalty, greater than 0.
        iterations: Maximum number of L-BFGS iterations, 1 or greater. The accuracy usually settles
            long before the weights do, so a fit that ends there gives no warning.

    Returns:
        `{"top1": float, "top5": float}`, accuracies in [0, 1].

    Raises:
        UserError: If `train` and `test` are not finite features with labels and the same number of
            dimensions, `test` has names of classes that `train` does not have, a setting is out of
            range, or all training images are of one class.

    Example:
        >>> import moco_tf
        >>> source = moco_tf.load_source("photos")
        >>> backbone = moco_tf.encoders.random_backbone("resnet8", stem="small")
        >>> train = moco_tf.extract_features(backbone, source, "train", image_size=32)
        >>> test = moco_tf.extract_features(backbone, source, "test", image_size=32)
        >>> sorted(moco_tf.linear_probe(train, test, iterations=20))
        ['top1', 'top5']
    """
    train, test = comparable(train, test)
    return logistic.probe(train, test, ProbeSettings(l2, iterations))


def few_shot(
    train: Features | Sequence[ArrayLike],
    test: Features | Sequence[ArrayLike],
    shots: tuple[int, ...] = FewShotSettings.shots,
    draws: int = FewShotSettings.draws,
    seed: int = FewShotSettings.seed,
    l2: float = FewShotSettings.l2,
    iterations: int = FewShotSettings.iterations,
) -> dict[int, dict[str, float]]:
    """Fit a logistic regression on a few labeled images of each class, and return its accuracy.

    The labeled images are drawn at random several times, because the accuracy depends much on
    which they are.

    Args:
        train: The labeled features to draw from, as for `linear_probe`.
        test: The labeled features to classify, as for `linear_probe`.
        shots: Numbers of labeled images per class, 1 or greater.
        draws: Number of draws to average over, 2 or greater.
        seed: Random seed of the draws, 0 or greater.
        l2: As for `linear_probe`.
        iterations: As for `linear_probe`.

    Returns:
        For each number of shots `{"top1": float, "top1_std": float, "top5": float}`: the mean and
        the sample standard deviation of the top-1 accuracy over the draws, and the mean of the
        top-5 accuracy. Accuracies are in [0, 1].

    Raises:
        UserError: As `linear_probe`, or if a class has fewer training images than shots.

    Example:
        >>> import moco_tf
        >>> source = moco_tf.load_source("photos")
        >>> backbone = moco_tf.encoders.random_backbone("resnet8", stem="small")
        >>> train = moco_tf.extract_features(backbone, source, "train", image_size=32)
        >>> test = moco_tf.extract_features(backbone, source, "test", image_size=32)
        >>> accuracy = moco_tf.few_shot(train, test, shots=(1, 5), draws=2)
        >>> list(accuracy), sorted(accuracy[5])
        ([1, 5], ['top1', 'top1_std', 'top5'])
    """
    train, test = comparable(train, test)
    settings = FewShotSettings(l2, iterations, shots, draws, seed)
    rows = few_shot_protocol.classify(train, test, settings)["few_shot"]
    return {row["shots"]: {key: row[key] for key in ("top1", "top1_std", "top5")} for row in rows}


def finetune(
    backbone: keras.Model,
    source: Source,
    image_size: int,
    *,
    layers: str = FinetuneSettings.layers,
    label_fraction: float = FinetuneSettings.label_fraction,
    epochs: int = FinetuneSettings.epochs,
    batch_size: int = FinetuneSettings.batch_size,
    learning_rate: float = FinetuneSettings.learning_rate,
    head_learning_rate: float = FinetuneSettings.head_learning_rate,
    sgd_momentum: float = FinetuneSettings.sgd_momentum,
    weight_decay: float = FinetuneSettings.weight_decay,
    batch_norm: str = FinetuneSettings.batch_norm,
    crop_scale: tuple[float, float] = FinetuneSettings.crop_scale,
    evaluate_every: int = FinetuneSettings.evaluate_every,
    seed: int = FinetuneSettings.seed,
    state_file: str | os.PathLike[str] | None = None,
) -> tuple[keras.Model, dict[str, Any]]:
    """Train a classifier that starts from a backbone, and evaluate it on the test images.

    The classifier consists of a copy of the backbone, a new linear layer and a softmax. `backbone`
    itself does not change. The defaults suit a ResNet-50 and 10 % of ImageNet's labels. Small
    images need larger learning rates, such as 0.1 and 1, and crops of whole images; few labels need
    smaller batches and more epochs. The replicas of the current `tf.distribute` strategy
    share the work. An epoch depends only on the seed and on the epoch's number.

    Args:
        backbone: A functional `keras.Model` from images `[N, size, size, channels]` in the value
            range of the source, which is [0, 255] for 8 bits per channel, to features `[N, D]`,
            such as the result of `moco_tf.load_backbone`. A model of `moco_tf.encoders.build` gets
            its normalization.
        source: A source with labels, the result of `moco_tf.load_source`. The classifier is trained
            on its training images and evaluated on its test images.
        image_size: Side of the views in pixels, 1 or greater.
        layers: `"all"` trains all layers of the backbone, also those that are frozen in it, and the
            new layer; `"head"` trains the new layer alone.
        label_fraction: Fraction of the training images of each class to use, in (0, 1]; at least
            one image of each class.
        epochs: Number of epochs, 1 or greater.
        batch_size: Number of images in a batch, over all replicas.
        learning_rate: Initial learning rate of the backbone, greater than 0. Both learning rates
            follow half a cosine over the epochs.
        head_learning_rate: Initial learning rate of the new layer, greater than 0.
        sgd_momentum: Momentum of SGD, in [0, 1].
        weight_decay: Weight decay of all trained parameters, 0 or greater.
        batch_norm: `"tuned"` trains BatchNormalization with the statistics of the global batch, as
            the paper argues for (section 4.2); `"frozen"` keeps it in inference mode.
        crop_scale: Smallest and largest share of the area of an image in a random crop; `(1, 1)`
            for the central view of evaluations. Half of the views are flipped.
        evaluate_every: Number of epochs between evaluations on the test images. The last epoch is
            always evaluated.
        seed: Random seed of the new layer, of the choice of images, of their order and of their
            views.
        state_file: File that holds the state of the training while it runs, from which the same
            call continues if it was interrupted. It is written at the end of an epoch, at most
            every five minutes, and removed at the end. A file of something else is refused. Changed
            code of your own layers, or of the `read` of a source, is not noticed.

    Returns:
        The classifier after the last epoch, and the result. The classifier is a `keras.Model` from
        central views `[N, image_size, image_size, channels]`, in the value range of the backbone,
        to the probabilities of the classes, float32 `[N, classes]`. It consists of Keras' own
        layers, so what its method `save` writes loads in plain Keras, except for layers that the
        backbone brings along, such as those of KerasHub. Its attribute `class_names`
        has the names of the classes, which `save` does not write. The result is a dict with `top1`,
        `top5` and `mean_per_class`, accuracies on the test images in [0, 1]; `top1_interval`, a
        95 % interval; `per_class`; `curve`, with the accuracies after each evaluated epoch; numbers
        of images; and the settings.

    Raises:
        UserError: If the backbone is not a functional `keras.Model` that can be copied, is itself a
            classifier, or takes other images, the source has no labeled training and test images of
            two or more classes, a setting is out of range, `state_file` cannot be read or is of
            another training, or the training diverges.

    Example:
        >>> import moco_tf
        >>> source = moco_tf.load_source("photos")
        >>> backbone = moco_tf.encoders.random_backbone("resnet8", stem="small")
        >>> settings = {"learning_rate": 0.1, "head_learning_rate": 1, "crop_scale": (1, 1)}
        >>> classifier, result = moco_tf.finetune(
        ...     backbone, source, 32, label_fraction=0.05, epochs=2, evaluate_every=2, **settings
        ... )
        >>> classifier.output_shape, result["num_train"]
        ((None, 19), 405)
        >>> classifier.save("classifier.keras")
    """
    require_source(source)
    image_size = checked("image_size", image_size, COUNT)
    preprocessing.require_images(backbone, source, image_size)
    settings = FinetuneSettings(
        layers=layers,
        label_fraction=label_fraction,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        head_learning_rate=head_learning_rate,
        sgd_momentum=sgd_momentum,
        weight_decay=weight_decay,
        batch_norm=batch_norm,
        crop_scale=crop_scale,
        evaluate_every=evaluate_every,
        seed=seed,
    )
    classifier.require_classifiable(backbone)
    state = TrainingState()
    if state_file is not None:
        identity = {
            "protocol": "finetune",
            **identify_training(backbone, source, image_size, settings),
        }
        state = TrainingState(paths.expand_argument(state_file, "state_file"), identity)
    trained, result = protocols.evaluate_finetune(
        backbone, source, image_size, settings, state=state
    )
    model = classifier.assemble(*trained)
    state.remove()
    if names := result["unreadable"]:
        numbers = ("num_train", "num_test", "num_unreadable_train", "num_unreadable_test")
        warnings.warn(unreadable.line(names, sum(result[key] for key in numbers)), stacklevel=2)
    for warning in result.get("warnings", []):
        warnings.warn(warning, stacklevel=2)
    model.class_names = list(source.class_names or [])
    return model, result
