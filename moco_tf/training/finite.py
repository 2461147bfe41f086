"""A check for NaN and infinity, so that a run that has diverged stops before it is saved."""

import math

import numpy as np
import tensorflow as tf

from moco_tf import run_directory
from moco_tf.errors import UserError
from moco_tf.mechanisms.base import Mechanism
from moco_tf.workers import gather_from_workers


class FiniteCheck:
    """Looks for NaN and infinity in the weights of a model and of its optimizer, on the device.

    Args:
        model: The compiled model of the run.
        workdir: Run directory.
    """

    def __init__(self, model: Mechanism, workdir: str) -> None:
        self.model = model
        self.workdir = workdir
        self._weights = [
            weight
            for weight in (*model.weights, *model.optimizer.variables)
            if tf.as_dtype(weight.dtype).is_floating
        ]
        self._are_finite = tf.function(self._each_is_finite, autograph=False)
        self._checked_step = -1

    def require(self, step: int, loss: float | None = None) -> None:
        """Raise a `UserError` if the loss or a weight is not finite.

        Every worker has to call this method at the same steps. All workers raise if one of them
        does.

        Args:
            step: Global step. The weights of a step are checked once.
            loss: Mean loss of the steps since the previous check, or None. With float16 it is not
                looked at, because a step that overflows is skipped.

        Raises:
            UserError: If the training has diverged.
        """
        is_float16 = self.model.compute_dtype == "float16"
        loss_is_finite = loss is None or is_float16 or math.isfinite(loss)
        if step == self._checked_step and loss_is_finite:
            return
        weight = self.first_not_finite()
        if weight is None and loss_is_finite:
            self._checked_step = step
            return
        saved = run_directory.latest_checkpoint(self.workdir)
        if saved:
            kept = f"The checkpoint {saved} is from before that and is kept"
        else:
            kept = "No checkpoint was saved before that"
        precision = " or config.precision='float32'" if is_float16 else ""
        raise UserError(
            f"the training has diverged: at step {step}, "
            f"{weight if loss_is_finite else f'the loss is {loss}'}. {kept}. Start a run in "
            f"another directory with a smaller config.learning_rate{precision}; the learning rate "
            f"of this step is {float(self.model.optimizer.learning_rate):g}"
        )

    def first_not_finite(self) -> str | None:
        """Return a statement about the first weight that is not finite; None if all are."""
        are_finite = self._are_finite().numpy()
        first = len(are_finite) if are_finite.all() else int(np.argmin(are_finite))
        # A worker checks its own replicas, whose moving statistics differ from those of others.
        first = min(gather_from_workers(first))
        if first == len(are_finite):
            return None
        return f"the weight {self._weights[first].path} holds NaN or infinity"

    def _each_is_finite(self) -> tf.Tensor:
        """Return whether each of the weights is finite on all replicas here, bool `[weights]`."""
        strategy = tf.distribute.get_strategy()

        def on_replica() -> tf.Tensor:
            weights = [weight.value for weight in self._weights]
            return tf.stack([tf.reduce_all(tf.math.is_finite(weight)) for weight in weights])

        replicas = strategy.experimental_local_results(strategy.run(on_replica))
        return tf.reduce_all(tf.stack(replicas), axis=0)
