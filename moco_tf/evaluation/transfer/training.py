"""Transfer to detection and segmentation: training and evaluation of a task (section 4.2).

This module follows the paper's rules. All layers are trained, including the first.
BatchNormalization is trained too, with the statistics of the global batch, and new layers are
normalized as well, because features that were learned without labels have another scale
("Normalization"). Every initialization gets the same schedule ("Schedules"): SGD with momentum 0.9
and weight decay 1e-4, batches of 16, and a learning rate that rises over the first 100 steps and is
divided by ten twice towards the end. Results are means over trials.

Three things differ from the paper. The detector is RetinaNet and the segmenter DeepLabV3+, which
KerasHub provides, instead of Faster R-CNN, Mask R-CNN and a dilated FCN. Images keep their
proportions and are resized to one size in training and testing, whereas the paper draws the size at
random. The evaluation uses the moving statistics of BatchNormalization, which are not measured
again after the training.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from moco_tf import seeds
from moco_tf.data.boxes.annotations import AnnotatedImages
from moco_tf.data.boxes.letterbox import TrainingBatches, batches_to_evaluate, require_readable
from moco_tf.data.normalization import mean_and_std
from moco_tf.distribution import all_gather, num_replicas
from moco_tf.errors import UserError
from moco_tf.evaluation.settings import TransferSettings
from moco_tf.evaluation.supervised import on_all_replicas, require_shareable, training_step
from moco_tf.evaluation.training_state import TrainingState
from moco_tf.keras_internals import all_layers
from moco_tf.optimizers import SGD
from moco_tf.progress_bar import progress_bar

STRIDE = 32  # Stride of the last stage, of which the image size must be a multiple.
EVALUATION_BATCH = 8  # Number of images in the batch of a replica, for any number of replicas.
MAX_CURVE_POINTS = 100
WARMUP_START = 1e-3  # Share of the learning rate in the first step, as in Detectron2.
# Momentum of BatchNormalization as in our encoders. KerasHub's new layers have 0.99, and its
# feature pyramid passes the epsilon, 0.001, as the momentum by mistake.
BATCH_NORM_MOMENTUM = 0.9

# An image's index, height and width, and the arrays that the task predicts for it.
Prediction = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Task:
    """A transfer task: its model, its loss and its metrics.

    Attributes:
        name: `"detection"` or `"segmentation"`.
        metrics: Label of each metric, by its key. Metrics are in [0, 1].
        settings: The task's settings class, with its defaults.
        build: Function of a KerasHub `ResNetBackbone`, the number of classes and the image size.
            Returns a `keras.Model` that takes normalized square images.
        targets: Function of the annotated images and the image size. Returns `targets` and `specs`
            for `TrainingBatches`.
        loss: Function of the model, the images and the targets, called in a replica. Returns the
            sum of the losses and the number to divide it by, both of this replica.
        predict: Function of the model and the images. Returns a tuple of tensors `[n, ...]`.
        measure: Function of the annotated images, the image size and an iterator over the
            predictions for the test images. Returns the metrics.
    """

    name: str
    metrics: dict[str, str]
    settings: type[TransferSettings]
    build: Callable[[Any, int, int], keras.Model]
    targets: Callable[[AnnotatedImages, int], tuple[Callable[..., Any], tuple[tf.TensorSpec, ...]]]
    loss: Callable[..., tuple[tf.Tensor, tf.Tensor]]
    predict: Callable[[keras.Model, tf.Tensor], tuple[tf.Tensor, ...]]
    measure: Callable[[AnnotatedImages, int, Iterator[Prediction]], dict[str, float]]


def learning_rate_at(step: int, settings: TransferSettings) -> float:
    """Return the learning rate of a step, counted from 0."""
    num_milestones = sum(step >= milestone for milestone in settings.milestones or ())
    rate = settings.learning_rate * 0.1**num_milestones
    if step >= settings.warmup_steps:
        return rate
    return rate * (WARMUP_START + (1 - WARMUP_START) * step / settings.warmup_steps)


def require_valid_size(task: Task, image_size: int) -> None:
    """Check that the image size is a multiple of `STRIDE`.

    Raises:
        UserError: If it is not.
    """
    if image_size % STRIDE:
        raise UserError(
            f"image_size={image_size}: {task.name} needs a multiple of {STRIDE}, such as "
            f"{-(-image_size // STRIDE) * STRIDE}"
        )


def build(
    task: Task, image_encoder: Any, num_classes: int, image_size: int, seed: int
) -> keras.Model:
    """Build a model with BatchNormalization over the global batch.

    Args:
        task: The task.
        image_encoder: A `keras_hub.models.ResNetBackbone`, which becomes a part of the model.
        num_classes: Number of classes.
        image_size: Side of the images in pixels, a multiple of `STRIDE`.
        seed: Random seed of the new layers. Keras' global generators start from it as well.

    Returns:
        The untrained model.

    Raises:
        UserError: If the image size is not a multiple of `STRIDE`.
    """
    require_valid_size(task, image_size)
    with seeds.restored_generators():
        keras.utils.set_random_seed(seed)
        model = task.build(image_encoder, num_classes, image_size)
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized, layer.momentum = True, BATCH_NORM_MOMENTUM
    return model


def fit(
    task: Task,
    model: keras.Model,
    images: AnnotatedImages,
    image_size: int,
    settings: TransferSettings,
    progress: str = "fine-tuning",
    state: TrainingState | None = None,
) -> list[dict[str, float]]:
    """Train all layers of a model in place, on the replicas of the current strategy.

    Args:
        task: The task.
        model: The result of `build`.
        images: The annotated images.
        image_size: Side of the images in pixels.
        settings: Settings of the training.
        progress: Label of the progress bar.
        state: The state to continue from if it is of this training, which is saved after the
            points of the curve. By default, the training cannot be continued.

    Returns:
        The curve: dicts with `step`, counted from 1, and `loss`, the mean since the previous dict.

    Raises:
        UserError: If the replicas cannot share the batch, an image cannot be read, or the loss is
            no longer finite.
    """
    require_shareable(settings.batch_size)
    variables = model.trainable_variables
    optimizer = SGD(settings.learning_rate, settings.sgd_momentum, settings.weight_decay)
    optimizer.build(variables)

    def loss(squares: tf.Tensor, *targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return task.loss(model, normalize(squares), *targets)

    step = training_step(loss, [(optimizer, variables)])
    batches = TrainingBatches(
        images,
        image_size,
        settings.batch_size,
        settings.seed,
        *task.targets(images, image_size),
    )
    state = state or TrainingState()
    changing = [*model.variables, *optimizer.variables]
    curve: list[dict[str, float]] = []
    losses: list[float] = []
    if (saved := unfinished(state, settings.seed)) is not None:
        curve = saved
        state.restore(changing, f"step {curve[-1]['step']} of {settings.steps}")
    first = int(curve[-1]["step"]) if curve else 0
    iterator = iter(
        tf.distribute.get_strategy().distribute_datasets_from_function(
            lambda context: batches.until(settings.steps, context, first)
        )
    )
    steps_per_point = -(-settings.steps // MAX_CURVE_POINTS)
    with progress_bar(settings.steps, progress, "step", start=first) as bar:
        for number in range(first, settings.steps):
            optimizer.learning_rate = learning_rate_at(number, settings)
            try:
                batch = next(iterator)
            except tf.errors.OpError as error:
                require_readable(images, batches.rows(number)[1], error)
                raise
            losses.append(float(step(batch)[0]))
            if not np.isfinite(losses[-1]):
                if not state.facts.get("trials"):
                    state.remove()  # It would diverge again.
                raise UserError(
                    f"learning_rate={settings.learning_rate:g}: {task.name} diverged in step "
                    f"{number + 1}; use a smaller learning rate"
                )
            if (number + 1) % steps_per_point == 0 or number + 1 == settings.steps:
                curve.append({"step": number + 1, "loss": float(np.mean(losses))})
                losses = []
                bar.set_postfix(loss=f"{curve[-1]['loss']:.3f}", refresh=False)
                if number + 1 < settings.steps:
                    current = {"seed": settings.seed, "curve": curve}
                    state.save_if_due(changing, {"current": current})
            bar.update()
    return curve


def unfinished(state: TrainingState, seed: int) -> list[dict[str, float]] | None:
    """Return the curve of the training with a seed that was interrupted; None if there is none."""
    current = state.facts.get("current") or {}
    return current["curve"] if current.get("seed") == seed else None


def normalize(squares: tf.Tensor) -> tf.Tensor:
    """Normalize uint8 images `[n, size, size, 3]` for the encoder, in Keras' `floatx`."""
    dtype = keras.config.floatx()
    mean, std = (tf.constant(255 * np.array(values), dtype) for values in mean_and_std(3))
    return (tf.cast(squares, dtype) - mean) / std


def evaluate(
    task: Task,
    model: keras.Model,
    images: AnnotatedImages,
    image_size: int,
    keep: Collection[int] = (),
    progress: str | None = None,
) -> tuple[dict[str, float], dict[int, Prediction]]:
    """Measure a model on the test images.

    Args:
        task: The task.
        model: The trained model.
        images: The annotated images.
        image_size: Side of the images in pixels.
        keep: Indices of test images whose predictions to return.
        progress: Label of the progress bar, or None for no bar.

    Returns:
        The metrics of the task, and the predictions for the images in `keep`: height, width and
        the predicted arrays, by the index of the image.

    Raises:
        UserError: If an image cannot be read.
    """
    kept = {}

    def predictions() -> Iterator[Prediction]:
        for index, *prediction in _predict(task, model, images, image_size, progress):
            if index in keep:
                kept[index] = tuple(prediction)
            yield index, *prediction

    return task.measure(images, image_size, predictions()), kept


def _predict(
    task: Task,
    model: keras.Model,
    images: AnnotatedImages,
    image_size: int,
    progress: str | None,
) -> Iterator[Prediction]:
    strategy = tf.distribute.get_strategy()
    iterator = iter(
        strategy.distribute_datasets_from_function(
            lambda context: batches_to_evaluate(
                images, images.test, image_size, EVALUATION_BATCH, context
            )
        )
    )

    def replica_step(indices: tf.Tensor, shapes: tf.Tensor, squares: tf.Tensor) -> list[tf.Tensor]:
        arrays = task.predict(model, normalize(squares))
        return [all_gather(value) for value in (indices, shapes, *arrays)]

    step = on_all_replicas(replica_step, strategy)
    global_batch = EVALUATION_BATCH * num_replicas()
    with progress_bar(len(images.test), progress, "image") as bar:
        for first in range(0, len(images.test), global_batch):
            try:
                batch = next(iterator)
            except tf.errors.OpError as error:
                # The pipeline reads ahead, so the image may belong to one of the next batches.
                require_readable(images, images.test[first : first + 3 * global_batch], error)
                raise
            indices, shapes, *arrays = (value.numpy() for value in step(batch))
            for row in np.flatnonzero(indices >= 0):
                height, width = shapes[row].tolist()
                yield int(indices[row]), height, width, *(array[row] for array in arrays)
                bar.update()
