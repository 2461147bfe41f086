"""What is checked of the batches of a mechanism, and what is wrong where a step fails."""

from typing import Any

import tensorflow as tf

from moco_tf.data.pixels import BYTES
from moco_tf.errors import UserError

NOT_FINITE = "views hold NaN or infinity"
# What is wrong with the values of views that should be bytes, and what to do about it.
NOT_BYTES = {
    "views have no value above 1": "multiply views in [0, 1] by 255, or cast them to uint8 before",
    "views have negative values and none above 16": "do not normalize them, which augment does",
    "views have values above 510": (
        "pass the value range of your images to Augment, as pixels=moco_tf.data.pixels.Pixels(...)"
    ),
}


def elements(data: Any, count: int, mechanism: str, augment: Any) -> tuple[tf.Tensor, ...]:
    """Return the elements of a batch, of which the first two are views.

    Args:
        data: The batch.
        count: Number of elements that the mechanism trains on.
        mechanism: Name of the class of the mechanism, for messages.
        augment: Its augmentation on the device, or None.

    Returns:
        The elements. Their views cause an error in the step if they hold NaN or infinity, or are in
        another range than [0, 255] and `augment` takes them so. XLA leaves out these errors.

    Raises:
        UserError: If there are not `count` elements, because a class or a weight of each image
            would have no effect, or if the first two are not views that a step can train on.
    """
    if isinstance(data, (tuple, list)) and data[-1] is None:
        data = data[:-1]  # `train_on_batch` adds the weights of the images, if there are any.
    number = len(data) if isinstance(data, (tuple, list)) else 1
    if number != count:
        what = "element" if number == 1 else "elements"
        raise UserError(
            f"a batch has {number} {what}, but {mechanism} trains on {count}: see the "
            "documentation of the class"
        )
    x_q, x_k, *others = data
    if not x_q.shape == x_k.shape or len(x_q.shape) != 4:
        raise UserError(
            f"the first two elements of a batch have the shapes {x_q.shape} and {x_k.shape}: both "
            "have to be views of the same images, [N, H, W, channels]"
        )
    for views in (x_q, x_k):
        if views.dtype == tf.bool:
            raise UserError("the views are bool: use pixel values, such as uint8 in [0, 255]")
        if augment is None and not views.dtype.is_floating:
            raise UserError(
                f"the views are {views.dtype.name}, but without augment they are not normalized: "
                "normalize them to floats, or pass a moco_tf.data.augment.Augment as augment"
            )
    return (_checked(x_q, augment), _checked(x_k, augment), *others)


def _checked(views: tf.Tensor, augment: Any) -> tf.Tensor:
    """Return views, with errors in the step if they hold NaN or are in the wrong range.

    Views of uint8 cannot be wrong in this way. Resizing may overshoot the range a little, which is
    no mistake, since the augmentation clips the values.
    """
    if views.dtype == tf.uint8:
        return views
    if getattr(augment, "value_range", None) == BYTES:
        smallest, largest = (
            tf.cast(reduce(views), tf.float32) for reduce in (tf.reduce_min, tf.reduce_max)
        )
        # Of other types, values outside of the range may be outliers, which are clipped.
        is_declared = getattr(augment, "dtype", "uint8") == "uint8"
        is_declared &= tf.math.is_finite(smallest) & tf.math.is_finite(largest)
        # Views that are all 0 are black, and NaN is reported below.
        wrong = (
            (largest > 0) & (largest <= 1),
            is_declared & (smallest < 0) & (largest <= 16),
            is_declared & (largest > 2 * BYTES[1]),
        )
        for is_wrong, problem in zip(wrong, NOT_BYTES, strict=True):
            tf.debugging.Assert(~is_wrong, [problem])
    if not views.dtype.is_floating:
        return views
    # The loss can stay finite while NaN gets into the weights, because ReLU makes it 0.
    return tf.debugging.check_numerics(views, NOT_FINITE)


def problem_of(error: tf.errors.InvalidArgumentError, num_replicas: int) -> str:
    """Return what is wrong with a batch by the error of a step; "" if it is something else.

    Args:
        error: The error.
        num_replicas: Number of replicas that share a batch.
    """
    message = str(error)
    if NOT_FINITE in message:
        return f"the training has stopped, because {NOT_FINITE}: leave these images out"
    for problem, remedy in NOT_BYTES.items():
        if problem in message:
            return f"the {problem}, but augment takes them in [0, 255]: {remedy}"
    if num_replicas > 1 and ("CollectiveGatherV2" in message or "EnsureShape" in message):
        return (
            f"the {num_replicas} replicas have different numbers of images: use batches whose size "
            f"is a multiple of {num_replicas}, and drop_remainder=True"
        )
    return ""
