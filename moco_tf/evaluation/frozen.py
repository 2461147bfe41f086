"""Checks that a frozen backbone does not change."""

import hashlib
from typing import Any

import tensorflow as tf

from moco_tf.errors import UserError


def checksums(backbone: Any) -> dict[str, list[bytes]]:
    """Return a digest of every variable of a backbone.

    Args:
        backbone: A callable, whose `variables` are read if it has any.

    Returns:
        The digests of the values on each replica of this process, by the variable's path.
    """
    replicas = tf.distribute.get_strategy().experimental_local_results
    return {
        variable.path: [
            hashlib.sha256(value.numpy()).digest() for value in replicas(variable.value)
        ]
        for variable in getattr(backbone, "variables", [])
    }


def require_unchanged(backbone: Any, before: dict[str, list[bytes]]) -> None:
    """Check that a backbone still has the checksums that it had before.

    Args:
        backbone: The callable that was passed to `checksums`.
        before: The result of `checksums`.

    Raises:
        UserError: If a variable has changed.
    """
    for path, digests in checksums(backbone).items():
        if digests != before[path]:
            raise UserError(
                f"the backbone is not frozen: its variable '{path}' changed while the linear "
                "layer was trained; call it in inference mode, with training=False"
            )
