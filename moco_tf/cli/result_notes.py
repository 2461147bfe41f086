"""What moco-evaluate prints about a result beside its numbers."""

from typing import Any

import tensorflow as tf

from moco_tf.errors import UserError
from moco_tf.evaluation import unreadable
from moco_tf.evaluation.results import LAYERS, result_path
from moco_tf.files import read_json
from moco_tf.names import printable


def print_unreadable(directory: str, result: dict[str, Any]) -> None:
    """Print how many images an evaluation could not read, and write their names to a file.

    Args:
        directory: As for `moco_tf.evaluation.unreadable.report`.
        result: As there.

    Raises:
        UserError: If the file cannot be written.
    """
    for line in unreadable.report(directory, result):
        print(line)


def print_warnings(result: dict[str, Any]) -> None:
    """Print the `warnings` in the result of a protocol, or in those of a comparison."""
    for warning in result.get("warnings", []):
        print(f"warning: {warning}")
    for curve in result.get("curves", []):
        for warning in curve.get("warnings", []):
            print(f"warning: {curve['initialisation']}, {LAYERS[curve['layers']]}, {warning}")


def print_replaced(directory: str, result: dict[str, Any]) -> None:
    """Print which earlier result a result replaces, if that is of something else.

    Args:
        directory: Directory of the result, such as the run directory.
        result: The result, which is not written yet.
    """
    path = result_path(directory, result["protocol"])
    keys = ("backbone", "checkpoint", "random_init", "data", "image_size")
    try:
        earlier = read_json(path, "") if tf.io.gfile.exists(path) else result
        same = all(earlier.get(key) == result.get(key) for key in keys)
        of_what = f"{earlier['backbone']} on {earlier['data']}"
    except (AttributeError, KeyError, TypeError, UserError):
        return  # It is no result.
    if not same:
        print(f"note: the result replaces that of {printable(of_what)} in {path}")
