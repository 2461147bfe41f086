"""A check for NaN and infinity in the weights of a backbone, which would be in its features."""

from collections.abc import Iterable

import keras
import numpy as np

from moco_tf.encoders.state_dict import are_finite
from moco_tf.errors import UserError

REMEDY = "use another backbone"


def require_finite(
    weights: Iterable[keras.Variable], name: str = "the backbone", remedy: str = REMEDY
) -> None:
    """Raise a `UserError` if a weight or a moving statistic is NaN or infinite.

    Args:
        weights: The variables of a model.
        name: What holds them, such as the path of a checkpoint, for the message.
        remedy: What to do about it, for the message.

    Raises:
        UserError: If one of the values is NaN or infinite.
    """
    for weight in weights:
        if not are_finite(np.asarray(weight)):
            raise UserError(f"{name} holds NaN or infinity in the weight {weight.path}: {remedy}")
