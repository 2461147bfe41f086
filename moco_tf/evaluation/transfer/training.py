"""Transfer to detection and segmentation: what the two have in common (section 4.2).

The paper's rules are kept. All layers are trained, from the first on. BatchNormalization is trained
too, by the statistics of the global batch, and new layers are normalised as well, since features
that were learned without labels are scaled otherwise ("Normalization"). Every initialisation gets
the same schedule ("Schedules"): SGD with momentum 0.9 and weight decay 1e-4, in batches of 16, with
a learning rate that rises over the first 100 steps and falls by ten towards the end, twice. Results
are means over trials.

What differs from the paper: the detector is RetinaNet and the segmenter DeepLabV3+, those that
KerasHub has, instead of Faster R-CNN, Mask R-CNN and a dilated FCN. An image keeps its proportions
and is brought to one size, in training as in testing, where the paper draws its size at random. The
statistics of BatchNormalization are those that followed training, and are not measured again before
the evaluation.
"""

import collections.abc
import dataclasses

import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from moco_tf.data.boxes.letterbox import TrainingBatches, batches_to_evaluate, require_readable
from moco_tf.data.normalization import mean_and_std
from moco_tf.distribution import all_gather, is_chief, num_replicas
from moco_tf.errors import UserError
from moco_tf.keras_internals import all_layers
from moco_tf.optimizers import SGD

STRIDE = 32  # of the last stage: the sides of squares are its multiples
EVALUATED_AT_ONCE = 8  # images of a replica, the same whatever the number of replicas
POINTS = 100  # of a curve, at the most
WARM_UP_FROM = 1e-3  # share of the learning rate that the first step has, as in Detectron2
# As our encoders have it. KerasHub's new layers have 0.99, and its feature pyramid has 0.001, the
# epsilon, by a slip.
MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained and how it is measured.

    Attributes:
        name: "detection" or "segmentation".
        metrics: `{key: words}` of what is measured, shares of 0 to 1.
        learning_rate: float, the default.
        steps: int, the default.
        falls: after which shares of the steps the rate falls by ten, by default.
        build: `(image_encoder, num_classes, image_size)`, the first a KerasHub `ResNetBackbone`, to
            a `keras.Model` that takes normalised squares.
        targets: `(images, image_size)` to `targets` and `specs` of `TrainingBatches`.
        loss: `(model, squares, *targets)`, in a replica, to a sum and the count that, both summed
            over the replicas, are to be divided for the loss.
        predict: `(model, squares)` to a tuple of tensors `[n, ...]`.
        measure: `(images, image_size, predictions)`, the last an iterator over the test images of
            `(index, height, width, *arrays)`, with the arrays of `predict`; to the metrics.
    """

    name: str
    metrics: dict
    learning_rate: float
    steps: int
    falls: tuple
    build: collections.abc.Callable
    targets: collections.abc.Callable
    loss: collections.abc.Callable
    predict: collections.abc.Callable
    measure: collections.abc.Callable


def settings_of(
    task,
    learning_rate=None,
    steps=None,
    milestones=None,
    warmup_steps=100,
    batch_size=16,
    sgd_momentum=0.9,
    weight_decay=1e-4,
    seed=0,
):
    """Settings of `fit`, filled up with the defaults.

    Args:
        task: a `Task`.
        learning_rate: float > 0, the highest; the task's by default.
        steps: int, of the whole training; the task's by default.
        milestones: steps, counted from 0, at whose start the rate falls by ten; by default the
            task's shares of all of them.
        warmup_steps: int, over which the rate rises in a line from a thousandth; 0 for none.
        batch_size: int, of the global batch.
        sgd_momentum: float in [0, 1).
        weight_decay: float >= 0, coupled, of all that is trained.
        seed: int, of the new layers, the order and what is mirrored.

    Returns:
        A dict.

    Raises:
        UserError: milestones that are not among the steps, or a batch that the replicas of the
            current strategy cannot share equally.
    """
    steps = task.steps if steps is None else steps
    if milestones is None:
        milestones = [step for share in task.falls if 0 < (step := int(share * steps)) < steps]
    late = [milestone for milestone in milestones if not 0 < milestone < steps]
    if late:
        raise UserError(
            f"--milestones: step {late[0]} does not come after the first and before the end at "
            f"--steps={steps}: give others, or none by --milestones="
        )
    if batch_size % num_replicas():
        raise UserError(
            f"--batch_size={batch_size} cannot be shared equally by {num_replicas()} replicas: "
            f"give a multiple of {num_replicas()}"
        )
    return {
        "learning_rate": task.learning_rate if learning_rate is None else learning_rate,
        "steps": steps,
        "milestones": tuple(milestones),
        "warmup_steps": warmup_steps,
        "batch_size": batch_size,
        "sgd_momentum": sgd_momentum,
        "weight_decay": weight_decay,
        "seed": seed,
    }


def rate_at(step, learning_rate, milestones, warmup_steps):
    """The learning rate of a step, counted from 0, float."""
    fallen = learning_rate * 0.1 ** sum(step >= milestone for milestone in milestones)
    if step >= warmup_steps:
        return fallen
    return fallen * (WARM_UP_FROM + (1 - WARM_UP_FROM) * step / warmup_steps)


def require_side(task, image_size):
    """Raises a `UserError` unless the side of squares is a multiple of `STRIDE`."""
    if image_size % STRIDE:
        raise UserError(
            f"--image_size={image_size}: --protocol={task.name} needs a multiple of {STRIDE}, such "
            f"as {-(-image_size // STRIDE) * STRIDE}"
        )


def build(task, image_encoder, num_classes, image_size, seed):
    """A model before its training, with BatchNormalization by the statistics of the global batch.

    Args:
        task: a `Task`.
        image_encoder: a `keras_hub.models.ResNetBackbone`, which becomes a part of the model.
        num_classes: int.
        image_size: int, a multiple of `STRIDE`.
        seed: int, of the new layers; Keras' own generators start from it as well.

    Returns:
        A `keras.Model`.

    Raises:
        UserError: the side is no such multiple.
    """
    require_side(task, image_size)
    keras.utils.set_random_seed(seed)
    model = task.build(image_encoder, num_classes, image_size)
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized, layer.momentum = True, MOMENTUM
    return model


def fit(
    task,
    model,
    images,
    image_size,
    learning_rate,
    steps,
    milestones,
    warmup_steps,
    batch_size,
    sgd_momentum,
    weight_decay,
    seed,
    progress="fine-tuning",
):
    """Trains all layers of a model, in place, on the replicas of the current strategy.

    Args:
        task: a `Task`.
        model: of `build`.
        images: `moco_tf.data.annotated.AnnotatedImages`.
        image_size: int, side of the squares in pixels.
        learning_rate, ..., seed: of `settings_of`.
        progress: str, words for the progress bar.

    Returns:
        A list of dicts, `step`, counted from 1, and `loss`, the mean since the one before.

    Raises:
        UserError: an image that cannot be read, or a loss that is no longer finite.
    """
    variables = model.trainable_variables
    optimizer = SGD(learning_rate, sgd_momentum, weight_decay)
    optimizer.build(variables)
    step = _training_step(task, model, optimizer, variables)
    batches = TrainingBatches(
        images, image_size, batch_size, seed, *task.targets(images, image_size)
    )
    strategy = tf.distribute.get_strategy()
    iterator = iter(
        strategy.distribute_datasets_from_function(lambda context: batches.until(steps, context))
    )
    curve, losses, every = [], [], -(-steps // POINTS)
    # tqdm's None: no bar where there is no terminal.
    disable = None if is_chief() else True
    for number in (bar := tqdm(range(steps), progress, unit="step", disable=disable)):
        optimizer.learning_rate = rate_at(number, learning_rate, milestones, warmup_steps)
        try:
            batch = next(iterator)
        except tf.errors.OpError as error:
            require_readable(images, batches.indices(number), error)
            raise
        losses.append(float(step(batch)))
        if not np.isfinite(losses[-1]):
            raise UserError(
                f"{task.name} diverged at step {number + 1} at --learning_rate={learning_rate:g}: "
                "give less"
            )
        if (number + 1) % every == 0 or number + 1 == steps:
            curve.append({"step": number + 1, "loss": float(np.mean(losses))})
            losses = []
            bar.set_postfix(loss=f"{curve[-1]['loss']:.3f}", refresh=False)
    return curve


def _training_step(task, model, optimizer, variables):
    """A function of a distributed batch that trains, and returns the loss."""
    strategy = tf.distribute.get_strategy()

    def replica_step(squares, *targets):
        replicas = tf.distribute.get_replica_context()
        values = [variable.value for variable in variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            total, count = task.loss(model, normalized(squares), *targets)
            # Gradients are summed over the replicas: the mean is over the global batch.
            loss = total / tf.maximum(replicas.all_reduce("SUM", count), 1)
        gradients = tape.gradient(loss, values)
        # KerasHub's feature pyramid has some normalisation that it does not use.
        pairs = [pair for pair in zip(gradients, variables, strict=True) if pair[0] is not None]
        optimizer.apply(*zip(*pairs, strict=True))
        return replicas.all_reduce("SUM", loss)

    @tf.function
    def step(batch):
        losses = strategy.run(replica_step, args=batch)
        return strategy.experimental_local_results(losses)[0]

    return step


def normalized(squares):
    """Squares, uint8 `[n, size, size, 3]`, as the encoder knows images, in Keras' `floatx`."""
    dtype = keras.config.floatx()
    mean, std = (tf.constant(255 * np.array(values), dtype) for values in mean_and_std(3))
    return (tf.cast(squares, dtype) - mean) / std


def evaluate(task, model, images, image_size, keep=(), progress=None):
    """Measures a model on the test images.

    Args:
        task, model, images, image_size: of `fit`.
        keep: indices of test images.
        progress: str, words for a progress bar, or None for no bar.

    Returns:
        The metrics of the task, a dict; and of the images to keep what was predicted,
        `{index: (height, width, *arrays)}`.

    Raises:
        UserError: an image that cannot be read.
    """
    kept = {}

    def watched():
        for index, *found in _predictions(task, model, images, image_size, progress):
            if index in keep:
                kept[index] = tuple(found)
            yield index, *found

    return task.measure(images, image_size, watched()), kept


def _predictions(task, model, images, image_size, progress):
    strategy = tf.distribute.get_strategy()
    iterator = iter(
        strategy.distribute_datasets_from_function(
            lambda context: batches_to_evaluate(
                images, images.test, image_size, EVALUATED_AT_ONCE, context
            )
        )
    )

    def replica_step(indices, shapes, squares):
        found = task.predict(model, normalized(squares))
        return [all_gather(value) for value in (indices, shapes, *found)]

    @tf.function
    def step(batch):
        gathered = strategy.run(replica_step, args=batch)
        return [strategy.experimental_local_results(value)[0] for value in gathered]

    at_once = EVALUATED_AT_ONCE * num_replicas()
    disable = None if progress and is_chief() else True
    with tqdm(total=len(images.test), desc=progress, unit="img", disable=disable) as bar:
        for first in range(0, len(images.test), at_once):
            try:
                batch = next(iterator)
            except tf.errors.OpError as error:
                # The next ones are being read already.
                require_readable(images, images.test[first : first + 3 * at_once], error)
                raise
            indices, shapes, *found = (value.numpy() for value in step(batch))
            for row in np.flatnonzero(indices >= 0):
                height, width = shapes[row].tolist()
                yield int(indices[row]), height, width, *(array[row] for array in found)
                bar.update()
